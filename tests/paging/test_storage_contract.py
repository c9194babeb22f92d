"""What every storage must do, whichever way it reads."""

import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from paging.errors import ReadErrorKind, RowReadError, StorageError
from paging.storage import Completions, FaultPlan, FaultyStorage, Read, direct, open_storage
from paging.storage.asynchronous import AsynchronousReads
from tests.paging.sample_tables import flip_byte, shard_paths, small_geometry, write_table

NUM_ROWS = 40
ROWS_PER_SHARD = 15
TIMEOUT = 30.0

GEOMETRIES = {
    "sectors": {"hidden_size": 64, "num_layers": 3},  # payload 384, stride 512
    "odd sectors": {"hidden_size": 640, "num_layers": 2},  # payload 2,560: whole sectors, no whole pages
    "pages": {"hidden_size": 1024, "num_layers": 2},  # payload 4,096
    "padded pages": {"hidden_size": 1000, "num_layers": 10},  # payload 20,000, stride 20,480
}


def open_direct(directory):
    try:
        return open_storage(directory, "direct")
    except StorageError as error:
        pytest.skip(str(error))


def open_direct_for_pages(directory):
    """Open as where the file system wants whole pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "find_alignment", lambda _handle: 4096)
        return open_direct(directory)


OPENERS = {
    "mapped": lambda directory: open_storage(directory, "mapped"),
    "mapped, dropping": lambda directory: open_storage(directory, "mapped", drop_pages=True),
    "direct": open_direct,
    "direct, whole pages": open_direct_for_pages,
    "faulty, without faults": lambda directory: FaultyStorage(open_storage(directory), FaultPlan()),
}


@pytest.fixture(params=GEOMETRIES)
def any_geometry(request):
    return small_geometry(vocab_size=NUM_ROWS, **GEOMETRIES[request.param])


@pytest.fixture(params=OPENERS)
def opener(request):
    return OPENERS[request.param]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "table"


@pytest.fixture
def rows(directory):
    geometry = small_geometry(vocab_size=NUM_ROWS, **GEOMETRIES["odd sectors"])
    return write_table(directory, geometry, rows_per_shard=ROWS_PER_SHARD)


@pytest.fixture
def storage(directory, rows, opener):
    storage = opener(directory)
    yield storage
    storage.close()


def new_reads(storage, numbers, *, room=0, shift=8):
    """Make a read for each row number, tagged with it, into buffers with `room` to spare, `shift` bytes off a page."""
    memory = [np.zeros(storage.row_bytes + room + shift + 4096, dtype=np.uint8) for _ in numbers]
    starts = [-each.ctypes.data % 4096 + shift for each in memory]
    buffers = [each[start:][: storage.row_bytes + room].data for each, start in zip(memory, starts, strict=True)]
    return [Read(row, buffer, tag=row) for row, buffer in zip(numbers, buffers, strict=True)]


def aligned_reads(storage, numbers):
    """Make reads into page-aligned buffers with room for padding."""
    length = -(-storage.row_bytes // 4096) * 4096
    memory = np.zeros(len(numbers) * length + 4096, dtype=np.uint8)
    start = -memory.ctypes.data % 4096
    return [Read(row, memory[start + index * length :][:length].data, tag=row) for index, row in enumerate(numbers)]


def collect(completions, num_reads):
    finished = []
    while len(finished) < num_reads:
        assert completions.wait(TIMEOUT), f"{num_reads - len(finished)} reads never completed"
        finished += completions.drain()
    return finished


def read_all(storage, reads):
    completions = Completions()
    storage.submit(reads, completions)
    return collect(completions, len(reads))


def payload(read, storage):
    return bytes(read.buffer[: storage.row_bytes])


def assert_sound(reads, storage, rows):
    assert [None] * len(reads) == [read.error for read in reads]
    assert [rows[read.row].tobytes() for read in reads] == [payload(read, storage) for read in reads]


def shuffled(seed=0):
    return np.random.default_rng(seed).permutation(NUM_ROWS).tolist()


@pytest.mark.parametrize("make_reads", [new_reads, aligned_reads])
def test_rows_come_in_any_order_and_layout(directory, opener, any_geometry, make_reads):
    rows = write_table(directory, any_geometry, rows_per_shard=ROWS_PER_SHARD)
    storage = opener(directory)
    reads = make_reads(storage, shuffled())
    read_all(storage, reads)
    assert_sound(reads, storage, rows)
    storage.close()


@pytest.mark.parametrize("shift", [1, 8, 512])
def test_buffers_need_no_alignment(storage, rows, shift):
    reads = new_reads(storage, shuffled(), shift=shift)
    read_all(storage, reads)
    assert_sound(reads, storage, rows)


def test_buffers_may_be_longer_than_a_row(storage, rows):
    reads = new_reads(storage, shuffled(), room=5000)
    read_all(storage, reads)
    assert_sound(reads, storage, rows)


def test_every_read_completes_exactly_once(storage):
    reads = new_reads(storage, shuffled())
    completions = Completions()
    storage.submit(reads, completions)
    finished = collect(completions, NUM_ROWS)
    storage.close()
    assert sorted(map(id, reads)) == sorted(map(id, [*finished, *completions.drain()]))


def test_a_row_may_be_wanted_twice_in_one_batch(storage, rows):
    reads = new_reads(storage, [7, 7, 20, 7])
    read_all(storage, reads)
    assert_sound(reads, storage, rows)


def test_an_empty_batch_is_nothing(storage):
    completions = Completions()
    storage.submit([], completions)
    assert not completions.wait(0)


def test_batches_share_completions(storage, rows):
    completions = Completions()
    reads = new_reads(storage, shuffled())
    for start in range(0, NUM_ROWS, 8):
        storage.submit(reads[start : start + 8], completions)
    assert {*reads} == {*collect(completions, NUM_ROWS)}
    assert_sound(reads, storage, rows)


def test_several_threads_may_submit(storage, rows):
    def submit_and_collect(seed):
        reads = new_reads(storage, shuffled(seed))
        for _ in range(5):
            read_all(storage, reads)
        return reads

    with ThreadPoolExecutor(4) as pool:
        for reads in pool.map(submit_and_collect, range(4)):
            assert_sound(reads, storage, rows)


def test_reads_say_when_they_ran(storage):
    reads = read_all(storage, new_reads(storage, shuffled()))
    assert all(0 < read.started <= read.finished for read in reads)


def test_sizes_are_the_tables(storage, rows):
    assert (NUM_ROWS, rows.shape[1]) == (storage.num_rows, storage.row_bytes)


def test_a_damaged_row_fails_alone(directory, storage, rows):
    path = shard_paths(directory)[1]
    offset = 4096 + 5 * 2560  # row 20, the sixth of its shard
    flip_byte(path, offset + 100)
    reads = new_reads(storage, shuffled())
    read_all(storage, reads)
    assert [20] == [read.row for read in reads if read.error]
    assert_sound([read for read in reads if read.row != 20], storage, rows)
    error = next(read.error for read in reads if read.error)
    cause = "its checksum does not match its bytes"
    assert (20, path, offset, cause) == (error.row, error.path, error.offset, error.cause)
    assert ReadErrorKind.CHECKSUM == error.kind
    assert f"row 20 ({path}, byte {offset}): {cause}; copy or export the table again" == str(error)


def test_rows_beyond_a_truncation_fail_alone(directory, storage, rows):
    path = shard_paths(directory)[0]
    os.truncate(path, 4096 + 13 * 2560 + 100)
    reads = new_reads(storage, shuffled())
    read_all(storage, reads)
    causes = {read.row: read.error.cause for read in reads if read.error}
    expected = {row: f"the file ends {(row - 12) * 2560 - 100} bytes before the row does" for row in (13, 14)}
    assert expected == causes
    assert {ReadErrorKind.SHORT} == {read.error.kind for read in reads if read.error}
    assert_sound([read for read in reads if read.row not in causes], storage, rows)


@pytest.fixture
def disturb(monkeypatch):
    """Let a function have its way with the bytes of so many reads; it returns how many bytes are to be said to come."""

    def start(change, times):
        left = [change] * times
        preadv = os.preadv

        def disturbed(handle, buffers, offset):
            taken = preadv(handle, buffers, offset)
            try:
                return left.pop()(buffers[0], taken)
            except IndexError:
                return taken

        monkeypatch.setattr(os, "preadv", disturbed)
        disturb_kernel(monkeypatch, left)

    return start


def disturb_kernel(monkeypatch, left):
    """The same for reads that the kernel does by itself."""
    start, ended, placed = AsynchronousReads.start, AsynchronousReads.ended, {}

    def noted(self, transfers):
        placed.update({transfer.tag: transfer for transfer in transfers})
        return start(self, transfers)

    def disturbed(self, timeout=0.0):
        results = []
        for tag, result in ended(self, timeout):
            transfer = placed[tag]
            buffer = memoryview((ctypes.c_ubyte * transfer.length).from_address(transfer.address)).cast("B")
            try:
                results.append((tag, left.pop()(buffer, result) if left else result))
            except OSError as error:
                results.append((tag, -error.errno))
        return results

    monkeypatch.setattr(AsynchronousReads, "start", noted)
    monkeypatch.setattr(AsynchronousReads, "ended", disturbed)


def io_error(_buffer, _taken):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def wrong_byte(buffer, taken):
    buffer[len(buffer) // 2] ^= 0xFF
    return taken


def half(buffer, taken):
    buffer[taken // 2 :] = bytes(len(buffer) - taken // 2)
    return taken // 2


def nothing(_buffer, _taken):
    return 0


@pytest.mark.parametrize("make_reads", [new_reads, aligned_reads])
@pytest.mark.parametrize("fault", [io_error, wrong_byte, half, nothing])
def test_a_fault_that_passes_is_not_noticed(storage, rows, disturb, fault, make_reads):
    disturb(fault, 1)
    reads = read_all(storage, make_reads(storage, [3]))
    assert_sound(reads, storage, rows)


@pytest.mark.parametrize("make_reads", [new_reads, aligned_reads])
@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        (io_error, ReadErrorKind.IO, "it cannot be read (Input/output error)"),
        (wrong_byte, ReadErrorKind.CHECKSUM, "its checksum does not match its bytes"),
        (nothing, ReadErrorKind.SHORT, "it was read in part only"),
    ],
)
def test_a_row_is_given_up_after_two_attempts(storage, disturb, fault, kind, cause, make_reads):
    disturb(fault, 2)
    (read,) = read_all(storage, make_reads(storage, [3]))
    assert (kind, cause) == (read.error.kind, read.error.cause)


def test_an_unforeseen_failure_reaches_the_read(storage, disturb):
    def broken(_buffer, _taken):
        raise MemoryError

    disturb(broken, 1)
    (read,) = read_all(storage, new_reads(storage, [3]))
    assert "reading it failed (MemoryError())" == read.error.cause


def test_a_row_that_is_not_there_starts_nothing(storage):
    completions = Completions()
    with pytest.raises(IndexError, match="row 40 of a table of 40"):
        storage.submit(new_reads(storage, [1, NUM_ROWS]), completions)
    assert not completions.wait(0)


@pytest.mark.parametrize("make_buffer", [lambda size: bytearray(size - 1), bytes, lambda size: bytearray(2 * size)])
def test_a_buffer_that_does_not_fit_starts_nothing(storage, make_buffer):
    buffer = memoryview(make_buffer(storage.row_bytes))
    if len(buffer) > storage.row_bytes:
        buffer = buffer[::2]
    completions = Completions()
    with pytest.raises(ValueError, match="the buffer for row 2 is not 2560 writable bytes"):
        storage.submit([*new_reads(storage, [1]), Read(2, buffer)], completions)
    assert not completions.wait(0)


@pytest.fixture
def stuck(monkeypatch):
    """Let every read of a file wait for `released`; `reached` says that one does."""

    class Stuck:
        reached = threading.Event()
        released = threading.Event()

    preadv = os.preadv

    def waiting(handle, buffers, offset):
        Stuck.reached.set()
        assert Stuck.released.wait(TIMEOUT)
        return preadv(handle, buffers, offset)

    monkeypatch.setattr(os, "preadv", waiting)
    yield Stuck
    Stuck.released.set()


def test_submitting_does_not_wait_for_the_disk(storage, stuck):
    completions = Completions()
    storage.submit(new_reads(storage, shuffled()), completions)
    assert not completions.wait(0)
    stuck.released.set()
    assert NUM_ROWS == len(collect(completions, NUM_ROWS))


def test_closing_lets_reads_under_way_end_and_fails_the_others(storage, rows, stuck):
    completions = Completions()
    storage.submit(new_reads(storage, shuffled()), completions)
    assert stuck.reached.wait(TIMEOUT)
    closing = threading.Thread(target=storage.close)
    closing.start()
    while not rejects_reads(storage):
        pass
    stuck.released.set()
    closing.join(TIMEOUT)
    finished = completions.drain()
    assert NUM_ROWS == len(finished)
    assert {None, "its storage was closed meanwhile"} == {read.error and read.error.cause for read in finished}
    assert {None, ReadErrorKind.CLOSED} == {read.error and read.error.kind for read in finished}
    assert_sound([read for read in finished if read.error is None], storage, rows)


def rejects_reads(storage):
    try:
        storage.submit([], Completions())
    except ValueError:
        return True
    return False


def test_a_closed_storage_takes_no_reads(storage):
    storage.close()
    with pytest.raises(ValueError, match="the storage is closed"):
        storage.submit(new_reads(storage, [0]), Completions())


def test_closing_twice_is_closing(storage):
    storage.close()
    storage.close()


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_closing_closes_files_and_ends_threads(directory, rows, opener):
    files, threads = num_open_files(), threading.active_count()
    opener(directory).close()
    assert (files, threads) == (num_open_files(), threading.active_count())


def test_an_error_is_one_of_the_tables(storage, disturb):
    disturb(io_error, 2)
    (read,) = read_all(storage, new_reads(storage, [3]))
    assert isinstance(read.error, RowReadError)


@pytest.fixture
def unfinished(monkeypatch):
    """Let no read that the kernel does by itself end before `released`; `started` counts them."""

    class Unfinished:
        released = threading.Event()
        started = 0

    start, ended = AsynchronousReads.start, AsynchronousReads.ended

    def counted(self, transfers):
        count = start(self, transfers)
        Unfinished.started += count
        return count

    monkeypatch.setattr(AsynchronousReads, "start", counted)
    monkeypatch.setattr(
        AsynchronousReads,
        "ended",
        lambda self, timeout=0.0: ended(self, timeout) if Unfinished.released.is_set() else [],
    )
    yield Unfinished
    Unfinished.released.set()


@pytest.fixture
def direct_storage(directory, rows, monkeypatch):
    monkeypatch.setattr(direct, "most_requests", lambda _descriptor: 8)
    storage = open_direct(directory)
    if "by threads" in storage.description:
        pytest.skip(storage.description)
    yield storage
    storage.close()


def test_more_reads_than_the_kernel_takes_at_once_wait_their_turn(direct_storage, rows, unfinished):
    reads, completions = aligned_reads(direct_storage, shuffled()), Completions()
    direct_storage.submit(reads, completions)
    assert not completions.wait(0)
    assert 8 == unfinished.started
    unfinished.released.set()
    assert {*reads} == {*collect(completions, NUM_ROWS)}
    assert_sound(reads, direct_storage, rows)


def test_closing_lets_reads_of_the_kernel_end_and_fails_those_that_wait(direct_storage, rows, unfinished):
    completions = Completions()
    direct_storage.submit(aligned_reads(direct_storage, shuffled()), completions)
    closing = threading.Thread(target=direct_storage.close)
    closing.start()
    while not rejects_reads(direct_storage):
        pass
    unfinished.released.set()
    closing.join(TIMEOUT)
    finished = completions.drain()
    assert NUM_ROWS == len(finished)
    assert 8 == sum(read.error is None for read in finished)
    assert {None, ReadErrorKind.CLOSED} == {read.error and read.error.kind for read in finished}
    assert_sound([read for read in finished if read.error is None], direct_storage, rows)


def test_a_read_that_nobody_saw_end_says_when_it_was_last_seen(direct_storage, unfinished):
    (read,), completions = aligned_reads(direct_storage, [3]), Completions()
    direct_storage.submit([read], completions)
    completions.drain()
    unfinished.released.set()
    collect(completions, 1)
    assert read.started < read.unfinished < read.finished


@pytest.mark.parametrize("number", [errno.EPERM, errno.EAGAIN, errno.ENOSYS])
def test_threads_read_where_the_kernel_does_not(directory, rows, monkeypatch, number):
    def refuse(_depth):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(direct, "AsynchronousReads", refuse)
    storage = open_direct(directory)
    reads = read_all(storage, aligned_reads(storage, shuffled()))
    assert_sound(reads, storage, rows)
    assert f"by threads: the kernel has no asynchronous reads for us ({os.strerror(number)})" in storage.description
    storage.close()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINVAL])
def test_threads_read_what_the_kernel_cannot_start(direct_storage, rows, monkeypatch, number):
    def refuse(_reads, _transfers):
        if number == errno.EAGAIN:
            return 0
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(AsynchronousReads, "start", refuse)
    reads = read_all(direct_storage, aligned_reads(direct_storage, shuffled()))
    assert_sound(reads, direct_storage, rows)
