"""The hot set's file: restored, saved in the background, and never in the way of serving."""

import errno
import os
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from paging import HotSetError
from paging.hot_set import HotSet, load_hot_set, save_hot_set
from paging.hot_set_keeper import HotSetKeeper
from tests.paging.pager_fakes import Clock, StepStorage, keys, make_pager, random_rows

NUM_ROWS = 32


class Served:
    """A pager with a keeper, and what the keeper complained of."""

    def __init__(self, path, *, num_slots=4, fingerprint="weights-1"):
        self.clock = Clock()
        self.pager, self.storage = make_pager(num_slots), StepStorage(random_rows(NUM_ROWS))
        self.keys = self.pager.attach(self.storage)
        self.complaints = []
        self.keeper = HotSetKeeper(
            self.pager,
            self.keys,
            path,
            fingerprint=fingerprint,
            interval=300.0,
            on_error=self.complaints.append,
            clock=self.clock,
        )

    def settle(self):
        while self.storage.under_way:
            self.storage.end_all()
            self.pager.poll()

    def use(self, *values):
        lease = self.pager.lease(keys(*values))
        self.settle()
        assert lease.is_ready
        self.pager.release(lease)

    def tick_after(self, seconds):
        self.clock.now += seconds
        self.keeper.tick()

    def tick_until(self, condition):
        """Tick while time stands still, until the writing thread has done something."""
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            self.keeper.tick()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "hot_set.safetensors"


@pytest.fixture
def serve(path):
    served = []

    def start(**options):
        served.append(Served(path, **options))
        return served[-1]

    yield start
    for one in served:
        one.keeper.close()


def rows_in(path):
    return sorted(load_hot_set(path, fingerprint="weights-1", num_rows=NUM_ROWS).rows.tolist())


def write(path, rows, fingerprint="weights-1"):
    rows = np.array(rows, dtype=np.int64)
    save_hot_set(path, HotSet(rows=rows, heat=np.ones(len(rows))), fingerprint=fingerprint)


def test_where_there_is_no_file_nothing_is_restored(serve):
    assert serve().keeper.restore() is None


def test_what_was_hot_at_the_end_is_there_at_the_next_start(serve):
    before = serve()
    before.use(3, 1, 4)
    before.keeper.close()
    after = serve()
    assert 3 == len(after.keeper.restore().keys)
    after.settle()
    assert after.pager.lease(keys(1, 3, 4)).is_ready


def test_rows_are_restored_under_the_keys_that_their_storage_has_now(path):
    write(path, [2, 3])
    pager = make_pager(4)
    pager.attach(StepStorage(random_rows(8)))
    storage = StepStorage(random_rows(NUM_ROWS))
    key_range = pager.attach(storage)
    keeper = HotSetKeeper(pager, key_range, path, fingerprint="weights-1")
    assert [10, 11] == sorted(keeper.restore().keys.tolist())
    keeper.close()


def test_nothing_is_saved_before_it_is_time(serve, path):
    served = serve()
    served.use(1)
    served.tick_after(299.0)
    assert not served.keeper._is_writing
    assert not path.exists()


def test_the_hot_set_is_saved_each_time_the_interval_is_over(serve, path):
    served = serve()
    for row in (1, 2):
        served.use(row)
        served.tick_after(300.0)
        served.tick_until(lambda: not served.keeper._is_writing)
    assert [1, 2] == rows_in(path)


def test_the_loop_does_not_wait_for_a_slow_disk_nor_queue_up_saves(serve, path, monkeypatch):
    let_go, snapshots = threading.Event(), []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (let_go.wait(30), fsync(handle)))
    served = serve()
    hot_set = served.pager.hot_set
    served.pager.hot_set = lambda key_range: snapshots.append(key_range) or hot_set(key_range)
    served.use(1)
    for _ in range(3):
        served.tick_after(300.0)
    assert (1, False) == (len(snapshots), path.exists())
    let_go.set()
    served.keeper.close()
    assert [1] == rows_in(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_file_that_cannot_be_written_is_reported_once_until_it_can_be_again(serve, path, monkeypatch, code):
    served = serve()
    served.use(1)
    fsync, broken = os.fsync, True

    def failing(handle):
        if broken:
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    for _ in range(2):
        served.tick_after(300.0)
        served.tick_until(lambda: not served.keeper._is_writing)
        served.keeper.tick()
    assert [os.strerror(code) in str(error) for error in served.complaints] == [True]
    assert served.keeper.error is not None
    broken = False
    served.tick_after(300.0)
    served.tick_until(lambda: not served.keeper._is_writing)
    assert (None, [1]) == (served.keeper.error, rows_in(path))
    broken = True
    served.tick_after(300.0)
    served.tick_until(lambda: len(served.complaints) == 2)


def test_an_unforeseen_failure_to_write_is_an_error_like_any_other(serve, monkeypatch):
    def broken(_handle):
        raise MemoryError

    monkeypatch.setattr(os, "fsync", broken)
    served = serve()
    served.use(1)
    served.keeper.close()
    assert ["MemoryError" in str(error) for error in served.complaints] == [True]


def test_closing_does_not_wait_longer_than_it_may(serve, path, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda _handle: let_go.wait(30))
    served = serve()
    served.use(1)
    served.keeper.close(timeout=0.0)
    there = path.exists()
    let_go.set()
    assert ["not written within 0 s" in str(error) for error in served.complaints] == [True]
    assert not there


def test_closing_twice_saves_once(serve, path):
    served = serve()
    served.use(1)
    served.keeper.close()
    path.unlink()
    served.keeper.close()
    served.tick_after(10**6)
    assert not path.exists()


def test_a_start_that_is_over_before_all_is_restored_leaves_the_file_as_it_was(serve, path):
    write(path, [5, 6, 7, 8])
    served = serve()
    served.keeper.restore()
    served.storage.end()
    served.pager.poll()
    assert (1, True) == (served.pager.stats().device_rows, served.keeper._restored.is_bringing)
    served.keeper.close()
    assert [5, 6, 7, 8] == rows_in(path)


def test_the_file_is_saved_again_once_there_is_no_room_for_the_rest_of_it(serve, path):
    write(path, [5, 6, 7, 8])
    served = serve()
    held = served.pager.lease(keys(1, 2, 3, 4))
    served.keeper.restore()
    served.settle()
    served.pager.poll()
    assert held.is_ready
    served.keeper.close()
    assert [1, 2, 3, 4] == rows_in(path)


def test_an_empty_hot_set_replaces_nothing(serve, path):
    write(path, [5])
    served = serve()
    served.storage.bad_rows.add(5)
    served.keeper.restore()
    served.settle()
    served.keeper.close()
    assert [5] == rows_in(path)


def test_a_hot_set_of_another_table_is_refused_and_then_replaced(serve, path):
    write(path, [5], fingerprint="weights-0")
    served = serve()
    with pytest.raises(HotSetError, match="another table"):
        served.keeper.restore()
    served.use(1)
    served.keeper.close()
    assert [1] == rows_in(path)


@pytest.mark.parametrize("damage", ["bytes", "directory", "tensors"])
def test_a_file_that_is_no_hot_set_is_refused_and_not_overwritten(serve, path, damage):
    if damage == "directory":
        path.mkdir()
    elif damage == "bytes":
        path.write_bytes(b"a diary")
    else:
        save_file({"weights": np.zeros((NUM_ROWS, NUM_ROWS))}, path)
    before = None if path.is_dir() else path.read_bytes()
    served = serve()
    with pytest.raises(HotSetError):
        served.keeper.restore()
    served.use(1)
    served.tick_after(300.0)
    served.keeper.close()
    assert before == (None if path.is_dir() else path.read_bytes())
    assert [] == served.complaints
