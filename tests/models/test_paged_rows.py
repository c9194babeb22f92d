"""Rows of a pager as a model's memory: the very bits of a resident table."""

import time

import pytest
import torch

from models.attention import PackedContext
from models.export import table_geometry, write_synthetic_table
from models.paged_rows import PagedRows
from models.table_rows import ResidentRows
from paging import Encoding, LeaseTimeoutError, LeaseTooLargeError, RowReadError, Table
from paging.budget import Budget
from paging.storage import Fault, FaultPlan, FaultyStorage, RowFault, open_storage
from paging.tiers import open_pager
from tests.models.tiny_models import MEMORY, random_ids, random_model

NUM_SLOTS = 9


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tables") / "table"
    write_synthetic_table(table_geometry(MEMORY, Encoding.BF16), directory, fingerprint="weights-1")
    with Table.open(directory) as table:
        yield table


@pytest.fixture
def storage(table):
    storage = open_storage(table, "mapped")
    yield storage
    storage.close()


def paged(storage, table, *, num_slots=NUM_SLOTS, dtype=torch.float32, timeout=30.0, **options):
    budget = Budget(num_rows=num_slots)
    return PagedRows(open_pager(storage, table.geometry, device_budget=budget, **options), dtype=dtype, timeout=timeout)


@torch.no_grad()
def logits_of(model, rows, ids_N):
    context = PackedContext([len(ids_N)])
    return model.logits(model(ids_N, torch.arange(len(ids_N)), context, rows.fetch(ids_N)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("host_budget", [None, Budget(num_rows=3)])
@pytest.mark.parametrize("num_slots", [8, 9, 20])
def test_logits_are_those_of_the_resident_table_bit_for_bit(table, storage, dtype, host_budget, num_slots):
    model, resident = random_model(dtype=dtype), ResidentRows(table, dtype=dtype)
    with paged(storage, table, num_slots=num_slots, dtype=dtype, host_budget=host_budget) as rows:
        for seed in range(6):
            ids_N = random_ids(8, seed=seed)
            assert torch.equal(logits_of(model, resident, ids_N), logits_of(model, rows, ids_N))
        assert rows.pager.stats().device_evictions > 0


def test_a_layer_that_the_table_left_out_is_zero(tmp_path):
    geometry = table_geometry(MEMORY, Encoding.FP16)
    partial = type(geometry).uniform(
        hidden_size=geometry.hidden_size,
        num_layers=geometry.num_layers,
        vocab_size=geometry.vocab_size,
        encoding=Encoding.FP16,
        layers=(1,),
    )
    write_synthetic_table(partial, tmp_path / "table", fingerprint="weights-1")
    with Table.open(tmp_path / "table") as table:
        storage = open_storage(table, "mapped")
        ids_N = random_ids(4)
        resident = ResidentRows(table, dtype=torch.float32).fetch(ids_N)
        with paged(storage, table) as rows:
            batch = rows.fetch(ids_N)
            for layer in range(2):
                assert torch.equal(resident.gather(layer), batch.gather(layer))
        storage.close()


def test_a_batch_gives_its_rows_back_when_the_next_is_fetched(table, storage):
    with paged(storage, table, num_slots=2) as rows:
        rows.fetch(torch.tensor([1, 2]))
        rows.fetch(torch.tensor([3, 4]))
        assert 2 == rows.pager.stats().device_leased_rows
    assert 0 == rows.pager.stats().device_leased_rows


def test_rows_brought_early_arrive_while_batches_miss_none(table, storage):
    with paged(storage, table) as rows:
        rows.fetch(torch.tensor([1]))
        rows.pager.preload(torch.arange(9).numpy())
        deadline = time.monotonic() + 30
        while rows.pager.stats().device_rows < 9 and time.monotonic() < deadline:
            rows.fetch(torch.tensor([1]))
        assert 9 == rows.pager.stats().device_rows


def test_a_batch_does_not_mind_what_becomes_of_its_ids(table, storage):
    with paged(storage, table) as rows:
        ids_N = torch.tensor([1, 2])
        rows.fetch(ids_N)
        ids_N.zero_()
        rows.pager.check_integrity()


def test_a_batch_with_more_rows_than_slots_is_refused_with_the_number_that_fits(table, storage):
    with paged(storage, table, num_slots=3) as rows, pytest.raises(LeaseTooLargeError) as caught:
        rows.fetch(torch.arange(4))
    assert 3 == caught.value.fits


def test_a_row_that_cannot_be_read_is_an_error_and_the_next_batch_works(table, storage):
    plan = FaultPlan(rows={2: RowFault(fault=Fault.IO_ERROR)})
    faulty = FaultyStorage(storage, plan)
    with paged(faulty, table) as rows:
        with pytest.raises(RowReadError, match="row 2"):
            rows.fetch(torch.tensor([1, 2]))
        assert (1, MEMORY.hidden_size) == tuple(rows.fetch(torch.tensor([1])).gather(0).shape)
    faulty.close()


def test_rows_that_do_not_come_in_time_are_an_error(table, storage):
    faulty = FaultyStorage(storage, FaultPlan(latency=(60.0, 60.0)))
    with paged(faulty, table, timeout=0.01) as rows, pytest.raises(LeaseTimeoutError, match=r"1 rows .* 0\.01 s"):
        rows.fetch(torch.tensor([1]))
    faulty.close()


def test_rows_that_others_hold_the_slots_for_are_an_error_at_once(table, storage):
    with paged(storage, table, num_slots=2) as rows:
        held = rows.pager.lease(torch.tensor([1, 2]).numpy())
        assert rows.pager.wait(held, 30.0)
        with pytest.raises(LeaseTimeoutError, match="other leases hold"):
            rows.fetch(torch.tensor([3]))
