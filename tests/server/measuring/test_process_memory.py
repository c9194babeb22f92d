import mmap

from server.measuring.process_memory import process_memory


def test_what_a_process_makes_is_anonymous():
    before = process_memory()
    made = mmap.mmap(-1, 40 * 2**20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.write(b"x" * len(made))
    after = process_memory()
    made.close()
    assert after.anonymous - before.anonymous >= 40 * 2**20


def test_a_mapped_file_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 8 * 2**20)
    before = process_memory()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert 0 == sum(mapped[0 :: mmap.PAGESIZE]) % ord("x")
        after = process_memory()
    assert after.of_files - before.of_files >= 7 * 2**20
