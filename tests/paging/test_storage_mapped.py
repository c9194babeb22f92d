"""How `mapped` uses the page cache."""

import ctypes
import mmap
import os

import numpy as np
import pytest

from paging.storage import Completions, Read, open_storage
from tests.paging.sample_tables import shard_paths, small_geometry, write_table

NUM_ROWS = 12
ROW_BYTES = 20_480


@pytest.fixture
def directory(tmp_path):
    write_table(tmp_path / "table", small_geometry(vocab_size=NUM_ROWS, hidden_size=1024, num_layers=10))
    path = shard_paths(tmp_path / "table")[0]
    with path.open("rb") as file:
        os.fdatasync(file.fileno())  # unwritten pages cannot be dropped
    return tmp_path / "table"


def read_rows(storage, numbers):
    completions = Completions()
    storage.submit([Read(row, memoryview(bytearray(ROW_BYTES))) for row in numbers], completions)
    num_finished = 0
    while num_finished < len(numbers):
        assert completions.wait(30.0)
        finished = completions.drain()
        assert not any(read.error for read in finished)
        num_finished += len(finished)
    storage.close()


def test_whole_batch_is_asked_for_before_any_of_it_is_read(directory, monkeypatch):
    events = []
    fadvise, preadv = os.posix_fadvise, os.preadv

    def noted_advice(handle, offset, length, advice):
        if advice == os.POSIX_FADV_WILLNEED:
            events.append("advice")
        fadvise(handle, offset, length, advice)

    def noted_read(handle, buffers, offset):
        events.append("read")
        return preadv(handle, buffers, offset)

    storage = open_storage(directory, "mapped")
    monkeypatch.setattr(os, "posix_fadvise", noted_advice)
    monkeypatch.setattr(os, "preadv", noted_read)
    read_rows(storage, range(NUM_ROWS))
    assert ["advice"] * NUM_ROWS + ["read"] * NUM_ROWS == events


def cached_rows(directory):
    """Rows of which the page cache has the first page."""
    with shard_paths(directory)[0].open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        file_bytes = np.frombuffer(mapped, dtype=np.uint8)
        pages = np.zeros(-(-len(file_bytes) // 4096), dtype=np.uint8)
        address, length = ctypes.c_void_p(file_bytes.ctypes.data), ctypes.c_size_t(len(file_bytes))
        assert 0 == ctypes.CDLL(None).mincore(address, length, ctypes.c_void_p(pages.ctypes.data))
        del file_bytes
    return [row for row in range(NUM_ROWS) if pages[1 + row * ROW_BYTES // 4096] & 1]


def read_uncached(directory, numbers, **options):
    storage = open_storage(directory, "mapped", **options)
    with shard_paths(directory)[0].open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_rows(directory):
        storage.close()
        pytest.skip("the file system keeps everything in memory")
    read_rows(storage, numbers)


def test_pages_of_rows_read_stay_cached_and_no_others(directory):
    read_uncached(directory, [2, 5])
    assert [2, 5] == cached_rows(directory)


def test_pages_are_dropped_where_asked_for(directory):
    read_uncached(directory, [2, 5], drop_pages=True)
    assert [] == cached_rows(directory)
