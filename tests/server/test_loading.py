import shutil
import threading
import time

import numpy as np
import pytest
import torch

from models.checkpoint import read_fingerprints
from models.computed_rows import ComputedRows
from models.errors import CheckpointError, ConfigError
from models.export import export_table
from models.paged_rows import PagedRows
from models.table_rows import MappedRows, ResidentRows
from paging import BudgetError, Encoding, Table, TableFormatError, TableMismatchError, TableWriteError
from paging.errors import FrequencyError
from paging.frequencies import COUNTS_FILE, save_counts
from server.engine import model_tables
from server.engine.choices import Device, Dtype, Memory
from server.engine.loading import load
from server.engine.model_tables import cached_table, is_bundled


@pytest.fixture
def with_table(memory_model):
    export_table(memory_model, memory_model / "table")
    return memory_model


@pytest.fixture
def cached(demo):
    return cached_table(read_fingerprints(demo).table)


@pytest.mark.parametrize(
    ("memory", "rows"),
    [
        (None, MappedRows),
        (Memory.MAPPED, MappedRows),
        (Memory.RESIDENT, ResidentRows),
        (Memory.COMPUTED, ComputedRows),
        (Memory.PAGED, PagedRows),
    ],
)
def test_rows_come_from_where_they_were_asked_from(with_table, memory, rows):
    with load(with_table, memory=memory) as loaded:
        assert (rows, memory or Memory.MAPPED) == (type(loaded.rows), loaded.memory)


def test_with_a_table_the_memorys_weights_are_not_loaded(with_table):
    with load(with_table) as loaded:
        assert not any(".memory." in name for name, _ in loaded.model.named_parameters())


def test_a_dense_model_has_neither_memory_nor_rows(dense_model):
    with load(dense_model) as loaded:
        assert (None, None, None) == (loaded.memory, loaded.rows, loaded.table)


@pytest.mark.parametrize("choice", [{"memory": Memory.COMPUTED}, {"table": "t"}])
def test_a_memory_of_a_dense_model_is_an_error(dense_model, choice):
    with pytest.raises(ConfigError, match="dense"):
        load(dense_model, **choice)


def test_a_computed_memory_takes_no_table(with_table):
    with pytest.raises(ConfigError, match="reads no table"):
        load(with_table, memory=Memory.COMPUTED, table=with_table / "table")


@pytest.mark.parametrize(
    ("dtype", "expected"), [(None, torch.float32), (Dtype.BF16, torch.bfloat16), (Dtype.FP16, torch.float16)]
)
def test_weights_and_rows_come_in_the_dtype_asked_for(with_table, dtype, expected):
    with load(with_table, dtype=dtype, device=Device.CPU) as loaded:
        row = loaded.rows.fetch(torch.tensor([3])).gather(0)
        assert (expected, expected) == (loaded.model.head_weight.dtype, row.dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none_is_an_error(dense_model):
    with pytest.raises(ConfigError, match="no CUDA device"):
        load(dense_model, device=Device.CUDA)


def test_closing_closes_the_table(with_table):
    with load(with_table) as loaded:
        pass
    with pytest.raises(ValueError, match="closed"):
        loaded.table.read_rows([0])


# A paged memory


def slots_of(loaded):
    return loaded.rows.pager.num_slots


def test_a_paged_memory_has_the_device_rows_asked_for(with_table):
    with load(with_table, memory=Memory.PAGED, device_rows=7) as loaded:
        assert 7 == slots_of(loaded)


@pytest.mark.parametrize(("least", "expected"), [(2, 30), (40, 40), (1000, 300)])
def test_a_paged_memory_has_a_tenth_of_the_rows_or_what_is_needed(with_table, least, expected):
    with load(with_table, memory=Memory.PAGED, least_device_rows=least) as loaded:
        assert (300, expected) == (loaded.table.num_rows, slots_of(loaded))


def test_too_few_device_rows_are_refused_with_the_number_needed(with_table):
    with pytest.raises(BudgetError, match="need 2"):
        load(with_table, memory=Memory.PAGED, device_rows=1)


@pytest.mark.parametrize("memory", [None, Memory.MAPPED, Memory.RESIDENT, Memory.COMPUTED])
def test_device_rows_of_another_memory_are_an_error(with_table, memory):
    with pytest.raises(ConfigError, match="not paged"):
        load(with_table, memory=memory, device_rows=7)


def test_a_paged_memory_begins_with_the_most_frequent_rows(with_table):
    counts_V = np.zeros(300, dtype=np.int64)
    counts_V[[5, 70, 299, 8]] = [10, 30, 20, 1]
    save_counts(with_table / COUNTS_FILE, counts_V)
    with load(with_table, memory=Memory.PAGED, device_rows=3) as loaded:
        pager = loaded.rows.pager
        assert pager.wait(pager.pin(np.array([70])), 30.0)
        deadline = time.monotonic() + 30
        while pager.stats().device_rows < 3 and time.monotonic() < deadline:
            pager.poll()
        assert pager.lease(np.array([5, 70, 299])).is_ready


def test_a_frequency_list_of_another_vocabulary_is_an_error(with_table):
    save_counts(with_table / COUNTS_FILE, np.ones(299, dtype=np.int64))
    with pytest.raises(FrequencyError, match="299"):
        load(with_table, memory=Memory.PAGED)


def test_a_frequency_list_of_no_tokens_is_none(with_table):
    save_counts(with_table / COUNTS_FILE, np.zeros(300, dtype=np.int64))
    with load(with_table, memory=Memory.PAGED) as loaded:
        assert 1 == len(loaded.rows.fetch(torch.tensor([3])).gather(0))


def test_closing_ends_the_threads_of_a_paged_memory(with_table):
    before = set(threading.enumerate())
    with load(with_table, memory=Memory.PAGED) as loaded:
        loaded.rows.fetch(torch.tensor([3]))
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


# What may be missing or broken


def test_a_checkpoint_may_lack_a_tokenizer(dense_model):
    (dense_model / "tokenizer.json").unlink()
    with load(dense_model) as loaded:
        assert loaded.tokenizer is None


def test_a_table_of_other_weights_is_refused(with_table, tmp_path, stored_models):
    other = shutil.copytree(stored_models["memory"], tmp_path / "other")
    table = tmp_path / "t"
    export_table(with_table, table)
    weights = other / "model.safetensors"
    content = weights.read_bytes()
    fingerprint = read_fingerprints(other).table.encode()
    weights.write_bytes(content.replace(fingerprint, b"0" * 32))
    with pytest.raises(TableMismatchError):
        load(other, table=table)


def test_a_broken_table_of_a_users_model_is_left_as_it_is(with_table):
    (with_table / "table" / "manifest.json").write_text("{}")
    with pytest.raises(TableFormatError):
        load(with_table)
    assert "{}" == (with_table / "table" / "manifest.json").read_text()


def test_a_users_model_is_not_exported_unasked(memory_model):
    with pytest.raises(CheckpointError, match="export-tol"):
        load(memory_model)
    assert not (memory_model / "table").exists()


def test_the_demos_table_is_built_once(demo, cached):
    calls = []
    with load(demo, on_progress=lambda *call: calls.append(call)) as first:
        pass
    with load(demo) as second:
        assert first.table.table_id == second.table.table_id
    assert {"building the table"} == {what for what, _, _ in calls}
    assert cached == second.table.directory


def test_a_table_beside_the_demo_goes_first(demo, cached):
    export_table(demo, demo / "table", encoding=Encoding.FP32)
    with load(demo) as loaded:
        assert demo / "table" == loaded.table.directory
    assert not cached.exists()


@pytest.mark.parametrize("file", ["manifest.json", "auxiliary.safetensors", "rows-00000-of-00001.safetensors"])
def test_the_demos_table_is_rebuilt_where_a_file_went(demo, cached, file):
    with load(demo):
        pass
    (cached / file).unlink()
    with load(demo) as loaded:
        assert loaded.table.num_rows == loaded.model.config.vocab_size


def test_the_demos_table_is_rebuilt_where_it_is_damaged(demo, cached):
    with load(demo):
        pass
    shard = cached / "rows-00000-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with load(demo) as loaded:
        assert loaded.table.num_rows == loaded.model.config.vocab_size


def test_a_process_that_was_faster_is_welcome(demo, cached, monkeypatch):
    ids = []

    def export_while_another_finishes(checkpoint, out, **options):
        export_table(checkpoint, out)
        with Table.open(out) as table:
            ids.append(table.table_id)
        export_table(checkpoint, out)

    monkeypatch.setattr(model_tables, "export_table", export_while_another_finishes)
    with load(demo) as loaded:
        assert ids == [loaded.table.table_id]


def test_a_cache_that_cannot_be_written_says_so(demo, cached, monkeypatch):
    cached.parent.parent.mkdir(parents=True)
    cached.parent.write_text("a file where the folder should be")
    with pytest.raises(TableWriteError):
        load(demo)


def test_reading_a_resident_table_is_told(with_table):
    calls = []
    with load(with_table, memory=Memory.RESIDENT, on_progress=lambda *call: calls.append(call)) as loaded:
        rows = loaded.table.num_rows
    assert ("reading the table", rows, rows) == calls[-1]


def test_only_bundled_models_are_bundled(demo, memory_model):
    assert (True, False) == (is_bundled(demo), is_bundled(memory_model))
