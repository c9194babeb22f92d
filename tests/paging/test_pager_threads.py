"""The pager over real files and I/O threads, with faults in between."""

import numpy as np
import pytest

from paging import Encoding, RowReadError, Table
from paging.budget import Budget
from paging.errors import BudgetError
from paging.policy import PolicyName
from paging.storage import Fault, FaultPlan, FaultyStorage, RowFault, open_storage
from paging.tiers import open_pager
from tests.paging.pager_fakes import keys
from tests.paging.sample_tables import small_geometry, write_table

GEOMETRY = small_geometry(vocab_size=60, hidden_size=256, num_layers=2, encoding=Encoding.FP32)
BAD_ROWS = {7: Fault.IO_ERROR, 11: Fault.CORRUPTION}


@pytest.fixture(scope="module")
def rows_and_table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tables") / "table"
    rows = write_table(directory, GEOMETRY, rows_per_shard=25)
    with Table.open(directory) as table:
        yield rows, table


@pytest.fixture
def rows(rows_and_table):
    return rows_and_table[0]


@pytest.fixture
def table(rows_and_table):
    return rows_and_table[1]


def values(pager, lease):
    layers = [pager.gather(layer, lease).numpy().view(np.uint8) for layer in GEOMETRY.layers]
    return np.concatenate(layers, axis=1)


def stress(pager, rows, num_leases, *, seed):
    """Overlapping leases, prefetches and withdrawals; every value is checked, every failure must be of a bad row."""
    random = np.random.default_rng(seed)
    live, failures = [], 0
    for _ in range(num_leases):
        wanted = random.integers(0, len(rows), random.integers(1, 6))
        prefetch = pager.prefetch(random.integers(0, len(rows), 4))
        lease = pager.lease(wanted)
        if random.random() < 0.1:
            pager.release(lease)
        elif pager.wait(lease, 30.0):
            live.append(lease)
            assert np.array_equal(rows[wanted], values(pager, lease))
        elif isinstance(lease.error, RowReadError):
            failures += 1
            assert {lease.error.row} <= set(wanted.tolist()) & set(BAD_ROWS)
        else:
            assert live, "a lease that waits for room has someone to wait for"
            pager.release(lease)
        while live and (random.random() < 0.5 or len(live) > 2):
            pager.release(live.pop(0))
        prefetch.cancel()
    for lease in live:
        pager.release(lease)
    pager.check_integrity()
    assert 0 == pager.stats().device_leased_rows
    return failures


@pytest.mark.parametrize("kind", ["mapped", None])
@pytest.mark.parametrize("host_budget", [None, Budget(num_rows=5)])
@pytest.mark.parametrize("policy", PolicyName)
def test_values_hold_under_stress(rows, table, kind, host_budget, policy):
    plan = FaultPlan(seed=1, latency=(0.0, 0.002), rows={row: RowFault(fault=fault) for row, fault in BAD_ROWS.items()})
    storage = FaultyStorage(open_storage(table, kind), plan)
    budget = Budget(num_rows=12)
    pager = open_pager(storage, GEOMETRY, device_budget=budget, host_budget=host_budget, policy=policy)
    failures = stress(pager, rows, 60, seed=0)
    stats = pager.stats()
    assert failures > 0
    assert stats.read_errors > 0
    assert stats.device_evictions > 0
    pager.close()
    storage.close()


def test_direct_reads_land_in_the_slots_themselves(rows, table):
    storage = open_storage(table)
    pager = open_pager(storage, GEOMETRY, device_budget=Budget(num_rows=4))
    lease = pager.lease(keys(3, 59, 24, 25))
    assert pager.wait(lease, 30.0)
    assert np.array_equal(rows[[3, 59, 24, 25]], values(pager, lease))
    assert (4, 0) == (pager.stats().major_faults, pager.stats().bytes_copied)
    pager.close()
    storage.close()


def test_waiting_is_counted_as_stall(table):
    storage = FaultyStorage(open_storage(table, "mapped"), FaultPlan(latency=(0.02, 0.02)))
    pager = open_pager(storage, GEOMETRY, device_budget=Budget(num_rows=4))
    assert pager.wait(pager.lease(keys(1)), 30.0)
    assert pager.stats().stall_seconds >= 0.01
    pager.close()
    storage.close()


def test_a_device_budget_too_small_for_the_sequences_is_refused(table):
    storage = open_storage(table, "mapped")
    with pytest.raises(BudgetError, match="17"):
        open_pager(storage, GEOMETRY, device_budget=Budget(num_rows=16), max_num_seqs=16)
    storage.close()
