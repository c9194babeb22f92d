"""A table appears whole or not at all, and nothing else is ever destroyed for it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paging import Table, TableFormatError, TableWriteError, TableWriter, staging
from tests.paging.sample_tables import entries, flip_byte, random_rows, shard_paths, small_geometry, write_table

GEOMETRY = small_geometry()


def writer(directory, **options):
    return TableWriter(directory, geometry=GEOMETRY, fingerprint="f", num_rows=10, **options)


def stored(directory):
    with Table.open(directory) as table:
        return table.read_all().numpy()


def start_and_kill_writer(directory, *, before_kill=lambda: None):
    """Start a process that writes half a table and waits; kill it."""
    program = f"""
import sys
from paging import TableWriter
from tests.paging.sample_tables import random_rows, small_geometry
geometry = small_geometry()
with TableWriter({str(directory)!r}, geometry=geometry, fingerprint="f", num_rows=10, overwrite=True) as table:
    table.write(random_rows(5, geometry.row_bytes))
    print("half", flush=True)
    sys.stdin.read()
"""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"half\n"
        before_kill()
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_exception_leaves_nothing(tmp_path, error):
    def write_and_raise():
        with writer(tmp_path / "table") as table:
            table.write(random_rows(5, GEOMETRY.row_bytes))
            raise error

    with pytest.raises(error):
        write_and_raise()
    assert entries(tmp_path) == []


def test_killed_writer_leaves_nothing_that_opens_and_the_next_one_cleans_up(tmp_path):
    start_and_kill_writer(tmp_path / "table")
    assert not (tmp_path / "table").exists()
    (debris,) = tmp_path.iterdir()
    with pytest.raises(TableFormatError, match="no manifest"):
        Table.open(debris)
    write_table(tmp_path / "table")
    assert entries(tmp_path) == ["table"]


def test_living_writer_is_left_alone(tmp_path):
    def write_meanwhile():
        write_table(tmp_path / "table")
        assert len(entries(tmp_path)) == 2

    start_and_kill_writer(tmp_path / "table", before_kill=write_meanwhile)


def test_killed_replacement_leaves_the_old_table(tmp_path):
    rows = write_table(tmp_path / "table")
    start_and_kill_writer(tmp_path / "table")
    assert np.array_equal(rows, stored(tmp_path / "table"))


def test_hidden_directories_of_others_are_left_alone(tmp_path):
    for name in (".table.partial-notes", ".other.partial-01234567", ".table.partial-0123456g"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    write_table(tmp_path / "table")
    assert len(entries(tmp_path)) == 4


def test_missing_rows_are_an_error_and_leave_nothing(tmp_path):
    with (
        pytest.raises(TableWriteError, match="only 9 of 10 rows"),
        writer(tmp_path / "table") as table,
    ):
        table.write(random_rows(9, GEOMETRY.row_bytes))
    assert entries(tmp_path) == []


def test_too_many_rows_are_an_error(tmp_path):
    with (
        pytest.raises(TableWriteError, match="11 rows were written; the table has 10"),
        writer(tmp_path / "t") as table,
    ):
        table.write(random_rows(11, GEOMETRY.row_bytes))


@pytest.mark.parametrize("rows", [np.zeros((1, 383), np.uint8), np.zeros((1, 384), np.int8), np.zeros(384, np.uint8)])
def test_rows_of_another_shape_or_dtype_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match=r"they must be uint8 \[n, 384\]"), writer(tmp_path / "t") as table:
        table.write(rows)


def test_existing_table_is_refused(tmp_path):
    rows = write_table(tmp_path / "table")
    with pytest.raises(TableWriteError, match="is a table already"):
        write_table(tmp_path / "table", rows=rows[::-1])
    assert np.array_equal(rows, stored(tmp_path / "table"))


def test_existing_table_is_replaced_where_asked(tmp_path):
    rows = write_table(tmp_path / "table", rows_per_shard=3)
    write_table(tmp_path / "table", rows=rows[::-1], overwrite=True)
    assert np.array_equal(rows[::-1], stored(tmp_path / "table"))
    assert len(shard_paths(tmp_path / "table")) == 1
    assert entries(tmp_path) == ["table"]


def test_existing_table_stays_until_the_new_one_is_complete(tmp_path):
    rows = write_table(tmp_path / "table")
    with writer(tmp_path / "table", overwrite=True) as table:
        table.write(rows[::-1])
        assert np.array_equal(rows, stored(tmp_path / "table"))


def test_existing_table_stays_where_its_replacement_fails(tmp_path):
    rows = write_table(tmp_path / "table")
    with pytest.raises(RuntimeError), writer(tmp_path / "table", overwrite=True):
        raise RuntimeError
    assert np.array_equal(rows, stored(tmp_path / "table"))
    assert entries(tmp_path) == ["table"]


def test_open_table_is_read_to_its_end_though_replaced(tmp_path):
    rows = write_table(tmp_path / "table")
    with Table.open(tmp_path / "table") as table:
        write_table(tmp_path / "table", rows=rows[::-1], overwrite=True)
        assert np.array_equal(rows, table.read_all())


def test_damaged_table_may_be_replaced(tmp_path):
    rows = write_table(tmp_path / "table")
    flip_byte(tmp_path / "table" / "manifest.json", 200)
    write_table(tmp_path / "table", rows=rows, overwrite=True)
    assert np.array_equal(rows, stored(tmp_path / "table"))


def test_table_is_replaced_on_file_systems_that_cannot_exchange(tmp_path, monkeypatch):
    rows = write_table(tmp_path / "table")
    monkeypatch.setattr(staging, "_exchange", lambda _first, _second: False)
    write_table(tmp_path / "table", rows=rows[::-1], overwrite=True)
    assert np.array_equal(rows[::-1], stored(tmp_path / "table"))
    assert entries(tmp_path) == ["table"]


def test_old_table_comes_back_where_its_replacement_was_killed_between_renames(tmp_path):
    rows = write_table(tmp_path / "table")
    (tmp_path / "table").rename(tmp_path / ".table.replaced-01234567")
    with pytest.raises(TableWriteError, match="is a table already"):
        write_table(tmp_path / "table")
    assert np.array_equal(rows, stored(tmp_path / "table"))
    assert entries(tmp_path) == ["table"]


def test_new_table_stays_where_its_replacement_was_killed_before_the_clean_up(tmp_path):
    write_table(tmp_path / ".table.replaced-01234567")
    (tmp_path / ".table.replaced-01234567").rename(tmp_path / "aside")
    rows = write_table(tmp_path / "table")
    (tmp_path / "aside").rename(tmp_path / ".table.replaced-01234567")
    with pytest.raises(TableWriteError, match="is a table already"):
        write_table(tmp_path / "table")
    assert entries(tmp_path) == ["table"]
    assert np.array_equal(rows, stored(tmp_path / "table"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "manifest.json", "rows-00000-of-00001.safetensors"])
def test_directory_of_other_data_is_never_touched(tmp_path, name, overwrite):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text('{"name": "web app"}')
    with pytest.raises(TableWriteError, match="is not a table alone"):
        write_table(tmp_path / "data", overwrite=overwrite)
    assert entries(tmp_path / "data") == [name]


def test_table_with_other_data_beside_is_not_replaced(tmp_path):
    rows = write_table(tmp_path / "table")
    (tmp_path / "table" / "notes.txt").touch()
    with pytest.raises(TableWriteError, match=r"it holds 'notes.txt'"):
        write_table(tmp_path / "table", overwrite=True)
    assert np.array_equal(rows, stored(tmp_path / "table"))


def test_data_that_appears_while_a_table_is_written_is_not_touched(tmp_path):
    def write_while_data_appears():
        with writer(tmp_path / "table") as table:
            table.write(random_rows(10, GEOMETRY.row_bytes))
            (tmp_path / "table").mkdir()
            (tmp_path / "table" / "thesis.txt").touch()

    with pytest.raises(TableWriteError, match="is not a table alone"):
        write_while_data_appears()
    assert entries(tmp_path) == ["table"]
    assert entries(tmp_path / "table") == ["thesis.txt"]


def test_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "table").touch()
    with pytest.raises(TableWriteError, match="is a file or a mount point"):
        write_table(tmp_path / "table")


def test_parent_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TableWriteError, match="cannot write the table"):
        write_table(tmp_path / "file" / "table")


def test_empty_directory_and_missing_parents_are_used(tmp_path):
    (tmp_path / "empty").mkdir()
    for directory in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert np.array_equal(write_table(directory), stored(directory))


def test_table_behind_a_symbolic_link_is_replaced_where_it_lies(tmp_path):
    rows = write_table(tmp_path / "table")
    (tmp_path / "link").symlink_to("table")
    write_table(tmp_path / "link", rows=rows[::-1], overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert np.array_equal(rows[::-1], stored(tmp_path / "table"))


def test_disk_that_is_too_small_is_found_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=12345))
    expected = r"is full: the table needs \d+ bytes, 12345 are free; nothing was kept, make room"
    with pytest.raises(TableWriteError, match=expected):
        writer(tmp_path / "table").__enter__()
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"table is full: the table needs \d+ bytes, \d+ are free"),
        (errno.EDQUOT, r"quota of .*table is used up: the table needs \d+ bytes"),
        (errno.EIO, "cannot write the table .*Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["posix_fallocate", "write", "fsync"])
def test_disk_that_fails_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, call, code, message):
    def fail(*_arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(TableWriteError, match=message):
        write_table(tmp_path / "table")
    assert entries(tmp_path) == []


def test_disk_that_fills_up_leaves_the_old_table(tmp_path, monkeypatch):
    rows = write_table(tmp_path / "table")

    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(TableWriteError, match="is full"):
        write_table(tmp_path / "table", overwrite=True)
    assert np.array_equal(rows, stored(tmp_path / "table"))


def test_file_system_that_cannot_allocate_is_written_all_the_same(tmp_path, monkeypatch):
    def unsupported(*_arguments):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    assert np.array_equal(write_table(tmp_path / "table"), stored(tmp_path / "table"))


def test_writes_that_take_a_few_bytes_at_a_time_are_put_together(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:1000]))
    assert np.array_equal(write_table(tmp_path / "table"), stored(tmp_path / "table"))


def test_fingerprint_that_is_no_word_is_refused(tmp_path):
    with pytest.raises(TableFormatError, match="fingerprint"):
        write_table(tmp_path / "table", fingerprint="two\nlines")


def test_table_has_the_permissions_that_new_directories_get(tmp_path):
    write_table(tmp_path / "table")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "table").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_empty_staging_directory_is_removed_once_it_is_old(tmp_path):
    old, young = tmp_path / ".table.partial-00000001", tmp_path / ".table.partial-00000002"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    staging.remove_debris(tmp_path / "table")
    assert entries(tmp_path) == [young.name]
