import contextlib
import ctypes
import errno
from types import SimpleNamespace

import pytest

from paging import BudgetError
from paging.budget import Budget
from paging.slab import HostSlab
from tests.paging.pager_fakes import make_pager


@pytest.mark.parametrize(
    ("budget", "slots"),
    [
        (Budget(num_bytes=10_000), 9),
        (Budget(num_bytes=1_023), 0),
        (Budget(num_rows=7), 7),
        (Budget(num_rows=500), 100),
        (Budget(num_bytes=10**9), 100),
        (Budget(fraction=0.25), 25),
        (Budget(fraction=1.0), 100),
    ],
)
def test_a_budget_buys_slots_but_no_more_than_there_are_rows(budget, slots):
    assert slots == budget.slots(slot_bytes=1_024, num_rows=100)


def test_a_budget_in_bytes_includes_staging():
    assert 3 == Budget(num_bytes=4_096).slots(slot_bytes=1_024, num_rows=100, staging_bytes=1_024)
    assert 0 == Budget(num_bytes=512).slots(slot_bytes=1_024, num_rows=100, staging_bytes=1_024)


@pytest.mark.parametrize(
    "values",
    [{}, {"num_bytes": 1, "num_rows": 1}, {"num_bytes": -1}, {"num_rows": -1}, {"fraction": 0.0}, {"fraction": 1.5}],
)
def test_a_budget_that_is_not_well_formed_is_refused(values):
    with pytest.raises(BudgetError):
        Budget(**values)


def test_a_device_needs_a_slot_for_each_sequence_and_one_more():
    assert 5 == Budget(num_rows=5).device_slots(slot_bytes=1_024, num_rows=100, max_num_seqs=4)
    with pytest.raises(BudgetError, match=r"holds 4 rows; 4 sequences at once need 5, which is 5120 bytes"):
        Budget(num_rows=4).device_slots(slot_bytes=1_024, num_rows=100, max_num_seqs=4)


def test_a_small_table_needs_a_slot_for_each_row():
    assert 3 == Budget(fraction=1.0).device_slots(slot_bytes=1_024, num_rows=3, max_num_seqs=16)


def test_slots_that_memory_cannot_hold_are_a_budget_error():
    with pytest.raises(BudgetError, match="lower the budget"):
        HostSlab(2**50, 4_096)


@pytest.mark.parametrize("row_bytes", [1, 32, 512, 4_096, 98_304, 5_000])
def test_slots_are_aligned_for_direct_reads(row_bytes):
    slab = HostSlab(3, row_bytes)
    assert (0, 0) == (slab.rows_SB.ctypes.data % 4_096, slab.slot_bytes % 512)
    assert row_bytes <= len(slab.buffer(2)) == slab.slot_bytes
    assert (3, row_bytes) == tuple(slab.payload_SR.shape)


@pytest.mark.parametrize("num_slots", [0, 1, 300])
def test_what_is_in_the_slots_stays_when_their_memory_is_taken(num_slots):
    slab = HostSlab(num_slots, 4_096)
    slab.rows_SB[:] = 7
    slab.populate()
    assert (slab.rows_SB == 7).all()


@pytest.mark.parametrize(("code", "is_fault"), [(errno.ENOMEM, True), (errno.EINVAL, False)])
def test_memory_that_cannot_be_taken_is_a_fault_and_a_kernel_that_cannot_is_none(monkeypatch, code, is_fault):
    def refuse(*_arguments):
        ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(madvise=refuse))
    slab = HostSlab(3, 4_096)
    with pytest.raises(BudgetError, match="12288 bytes") if is_fault else contextlib.nullcontext():
        slab.populate()


@pytest.mark.parametrize("host_slots", [0, 3])
def test_a_pager_takes_the_memory_of_both_tiers(monkeypatch, host_slots):
    taken = []
    monkeypatch.setattr(HostSlab, "populate", lambda slab: taken.append(slab.num_slots))
    make_pager(2, host_slots=host_slots).populate()
    assert [2, host_slots][: 1 + bool(host_slots)] == taken
