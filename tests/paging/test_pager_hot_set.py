"""The hot set: saved, checked, restored while serving."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from paging.errors import HotSetError
from paging.hot_set import HotSet, load_hot_set, save_hot_set
from tests.paging.pager_fakes import StepStorage, keys, make_pager, random_rows


def hot(rows, heat=None):
    heat = np.arange(len(rows), 0, -1) if heat is None else heat
    return HotSet(rows=np.array(rows, dtype=np.int64), heat=np.array(heat, dtype=np.float64))


def settle(pager, storage):
    while storage.under_way:
        storage.end_all()
        pager.poll()


def test_a_hot_set_comes_back_as_it_was_saved(tmp_path):
    save_hot_set(tmp_path / "hot", hot([5, 2, 9]), fingerprint="weights-1")
    loaded = load_hot_set(tmp_path / "hot", fingerprint="weights-1", num_rows=10)
    assert ([5, 2, 9], [3.0, 2.0, 1.0]) == (loaded.rows.tolist(), loaded.heat.tolist())


def test_an_empty_hot_set_can_be_saved(tmp_path):
    save_hot_set(tmp_path / "hot", hot([]), fingerprint="weights-1")
    assert 0 == len(load_hot_set(tmp_path / "hot", fingerprint="weights-1", num_rows=10).rows)


def test_a_hot_set_of_another_table_is_refused(tmp_path):
    save_hot_set(tmp_path / "hot", hot([5]), fingerprint="weights-1")
    with pytest.raises(HotSetError, match="another table"):
        load_hot_set(tmp_path / "hot", fingerprint="weights-2", num_rows=10)


@pytest.mark.parametrize(
    "tensors",
    [
        {"rows": np.array([1]), "heat": np.array([1.0, 2.0])},
        {"rows": np.array([1, 1]), "heat": np.array([1.0, 2.0])},
        {"rows": np.array([10]), "heat": np.array([1.0])},
        {"rows": np.array([-1]), "heat": np.array([1.0])},
        {"rows": np.array([1]), "heat": np.array([-1.0])},
        {"rows": np.array([1]), "heat": np.array([np.nan])},
        {"rows": np.array([1.0]), "heat": np.array([1.0])},
        {"rows": np.array([1])},
    ],
)
def test_what_is_no_hot_set_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "hot", metadata={"table_fingerprint": "weights-1"})
    with pytest.raises(HotSetError, match="delete it"):
        load_hot_set(tmp_path / "hot", fingerprint="weights-1", num_rows=10)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\xff" * 100])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "hot").write_bytes(content)
    with pytest.raises(HotSetError):
        load_hot_set(tmp_path / "hot", fingerprint="weights-1", num_rows=10)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(HotSetError, match="cannot read"):
        load_hot_set(tmp_path / "hot", fingerprint="weights-1", num_rows=10)


def test_a_hot_set_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "hot").mkdir()
    with pytest.raises(HotSetError, match="cannot write"):
        save_hot_set(tmp_path / "hot", hot([5]), fingerprint="weights-1")
    assert ["hot"] == [path.name for path in tmp_path.iterdir()]


def test_the_hot_set_is_what_one_storage_has_in_the_tiers():
    pager = make_pager(2, host_slots=3)
    base, overlay = StepStorage(random_rows(8)), StepStorage(random_rows(4))
    base_keys, overlay_keys = pager.attach(base), pager.attach(overlay)
    for key in (1, 2, 3, 9):
        lease = pager.lease(keys(key))
        settle(pager, overlay if key == 9 else base)
        pager.release(lease)
    assert ([3, 2], [1]) == (pager.hot_set(base_keys).rows.tolist(), pager.hot_set(overlay_keys).rows.tolist())


def test_a_restored_hot_set_is_there_before_it_is_asked_for():
    rows = random_rows(32)
    before, first = make_pager(4), StepStorage(rows)
    key_range = before.attach(first)
    lease = before.lease(keys(3, 1, 4))
    settle(before, first)
    before.release(lease)
    saved = before.hot_set(key_range)

    after, second = make_pager(4), StepStorage(rows)
    after.attach(second)
    after.seed(saved.rows, saved.heat)
    settle(after, second)
    assert after.lease(keys(1, 3, 4)).is_ready


def test_leases_are_served_while_the_hot_set_comes_back():
    pager, storage = make_pager(16, queue_depth=4), StepStorage(random_rows(64))
    pager.attach(storage)
    pager.seed(np.arange(16), np.ones(16))
    lease = pager.lease(keys(40, 41))
    assert {40, 41} <= set(storage.rows_under_way())
    for row in (40, 41):
        storage.end(storage.rows_under_way().index(row))
    pager.poll()
    assert lease.is_ready
