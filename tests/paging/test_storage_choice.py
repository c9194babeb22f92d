"""Which storage serves a table, and what it says about that."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paging import Table, TableFormatError
from paging.errors import StorageError
from paging.storage import open_storage
from paging.storage.direct import find_alignment
from tests.paging.sample_tables import shard_paths, write_table


@pytest.fixture
def directory(tmp_path):
    write_table(tmp_path / "table", rows_per_shard=4)
    return tmp_path / "table"


@pytest.fixture
def no_direct_reads(monkeypatch):
    """Stand in for a file system that knows no O_DIRECT."""
    fcntl_call = fcntl.fcntl

    def refusing(handle, command, argument=0):
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fcntl_call(handle, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refusing)


@pytest.fixture
def reads_need(monkeypatch):
    """Stand in for a file system whose direct reads need an alignment."""

    def start(alignment):
        preadv = os.preadv

        def strict(handle, buffers, offset):
            if offset % alignment or len(buffers[0]) % alignment:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return preadv(handle, buffers, offset)

        monkeypatch.setattr(os, "preadv", strict)

    return start


def opened(*arguments, **options):
    storage = open_storage(*arguments, **options)
    storage.close()
    return storage.name, storage.description


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_mapped_is_had_where_it_is_asked_for(directory):
    assert ("mapped", "mapped (asked for)") == opened(directory, "mapped")


def test_direct_reads_are_refused_loudly_where_they_do_not_work(directory, no_direct_reads):
    expected = (
        f"the file system of {directory} allows no direct reads: Invalid argument; "
        "choose mapped storage, or move the table to a local disk"
    )
    with pytest.raises(StorageError) as caught:
        open_storage(directory, "direct")
    assert expected == str(caught.value)


def test_default_falls_back_and_says_so(directory, no_direct_reads):
    expected = f"mapped (default; {directory} allows no direct reads: Invalid argument)"
    assert ("mapped", expected) == opened(directory)


@pytest.mark.parametrize(("kind", "reason"), [(None, "default"), ("direct", "asked for")])
def test_direct_reads_are_the_default_where_they_work(directory, monkeypatch, kind, reason):
    monkeypatch.setattr(fcntl, "fcntl", lambda *_arguments: 0)
    assert ("direct", f"direct ({reason})") == opened(directory, kind)


def test_refusal_leaves_no_file_open(directory, no_direct_reads):
    before = num_open_files()
    with pytest.raises(StorageError):
        open_storage(directory, "direct")
    assert before == num_open_files()


def test_refusal_by_the_first_read_is_a_refusal(directory, monkeypatch):
    def no_alignment(_handle):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "fcntl", lambda *_arguments: 0)
    monkeypatch.setattr("paging.storage.direct.find_alignment", no_alignment)
    with pytest.raises(StorageError):
        open_storage(directory, "direct")


def test_open_table_may_be_given(directory):
    with Table.open(directory) as table:
        assert ("mapped", "mapped (asked for)") == opened(table, "mapped")


def test_storage_outlives_the_table_it_was_opened_from(directory):
    with Table.open(directory) as table:
        storage = open_storage(table, "mapped")
    storage.close()


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(TableFormatError):
        open_storage(tmp_path)


def test_table_replaced_meanwhile_is_refused(directory):
    with Table.open(directory) as table:
        write_table(directory, rows_per_shard=4, overwrite=True)
        with pytest.raises(TableFormatError, match="not the shard that the manifest means"):
            open_storage(table)


@pytest.mark.parametrize("alignment", [512, 4096])
def test_alignment_is_found_by_trying(directory, reads_need, alignment):
    reads_need(alignment)
    with shard_paths(directory)[0].open("rb") as file:
        assert alignment == find_alignment(file.fileno())


def test_alignment_that_cannot_be_found_is_a_refusal(directory, reads_need):
    reads_need(1 << 20)
    with shard_paths(directory)[0].open("rb") as file, pytest.raises(OSError, match="Invalid argument"):
        find_alignment(file.fileno())


def test_storages_import_without_torch():
    script = "import sys, paging.storage; sys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", script], check=False).returncode
