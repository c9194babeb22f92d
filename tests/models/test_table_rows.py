"""Rows of a table: resident and mapped ones are the same bits, and close to what the model computes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import load_model, read_fingerprints, save_checkpoint
from models.computed_rows import ComputedRows
from models.export import export_table, table_geometry
from models.table_rows import MappedRows, ResidentRows, open_table
from paging import Encoding, Table, TableGeometry, TableMismatchError, TableWriter, encode_rows
from tests.models.tiny_models import FLEX, MEMORY, packed_logits, random_ids, random_model

FINGERPRINT = "0" * 32


@pytest.fixture(scope="module", params=[MEMORY, FLEX], ids=["memoryllm", "flex"])
def exported(request, tmp_path_factory):
    """A model and its table in fp32 and bf16."""
    directory = tmp_path_factory.mktemp("exported")
    model = random_model(request.param)
    save_checkpoint(model, directory / "model")
    for encoding in (Encoding.FP32, Encoding.BF16):
        export_table(directory / "model", directory / encoding, encoding=encoding)
    fingerprint = read_fingerprints(directory / "model").table
    return SimpleNamespace(model=model, directory=directory, config=request.param, fingerprint=fingerprint)


@pytest.fixture
def opened(exported):
    """Open one of the exported tables; closed when the test ends."""
    tables = []

    def open_one(encoding):
        tables.append(open_table(exported.directory / encoding, exported.config, exported.fingerprint))
        return tables[-1]

    yield open_one
    for table in tables:
        table.close()


def write_rows(directory, config, *, layers=None, ids=None):
    """Write a table of random fp32 rows and return its values, [rows, kept layers, d]."""
    geometry = TableGeometry.uniform(
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        encoding=Encoding.FP32,
        layers=layers,
    )
    num_rows = config.vocab_size if ids is None else len(ids)
    values = torch.randn(
        num_rows, len(geometry.segments), config.hidden_size, generator=torch.Generator().manual_seed(0)
    )
    with TableWriter(directory, geometry=geometry, fingerprint=FINGERPRINT, num_rows=num_rows, ids=ids) as writer:
        writer.write(encode_rows(values, geometry))
    return values


# Tables beside the model that they are of


def test_an_fp32_table_gives_the_computed_logits_within_1e_5(exported, opened):
    ids_N = random_ids(60)
    computed = packed_logits(exported.model, ids_N, rows=ComputedRows(exported.model))
    table = packed_logits(exported.model, ids_N, rows=ResidentRows(opened("fp32"), dtype=torch.float32))
    assert float((table - computed).abs().max() / computed.abs().max()) < 1e-5


@pytest.mark.parametrize("encoding", ["fp32", "bf16"])
def test_resident_and_mapped_rows_give_the_same_logits_to_the_bit(exported, opened, encoding):
    table = opened(encoding)
    sequences = random_ids(60).split((31, 9, 20))
    resident = packed_logits(exported.model, *sequences, rows=ResidentRows(table, dtype=torch.float32))
    assert torch.equal(resident, packed_logits(exported.model, *sequences, rows=MappedRows(table, dtype=torch.float32)))


@pytest.mark.parametrize("source", [ResidentRows, MappedRows])
def test_bf16_rows_are_the_computed_ones_rounded(exported, opened, source):
    keys = torch.arange(exported.config.vocab_size)
    batch = source(opened("bf16"), dtype=torch.bfloat16).fetch(keys)
    fp32 = source(opened("fp32"), dtype=torch.float32).fetch(keys)
    assert all(torch.equal(batch.gather(layer), fp32.gather(layer).bfloat16()) for layer in range(2))


def test_a_model_without_its_memory_runs_from_the_table(exported, opened):
    ids_N = random_ids(20)
    rows = ResidentRows(opened("fp32"), dtype=torch.float32)
    slim = load_model(exported.directory / "model", with_memory=False)
    assert torch.equal(packed_logits(slim, ids_N, rows=rows), packed_logits(exported.model, ids_N, rows=rows))


# Batches


@pytest.fixture(scope="module")
def random_table(tmp_path_factory):
    directory = tmp_path_factory.mktemp("random") / "table"
    values = write_rows(directory, MEMORY)
    with Table.open(directory) as table:
        yield table, values


@pytest.mark.parametrize("source", [ResidentRows, MappedRows])
@settings(max_examples=40, deadline=None)
@given(keys=st.lists(st.integers(0, MEMORY.vocab_size - 1), max_size=40))
def test_any_keys_give_their_rows_in_order(keys, random_table, source):
    table, values = random_table
    batch = source(table, dtype=torch.float32).fetch(torch.tensor(keys, dtype=torch.int64))
    for layer in range(2):
        assert torch.equal(batch.gather(layer), values[keys, layer])


def test_mapped_rows_read_each_different_key_once(tmp_path, monkeypatch):
    write_rows(tmp_path / "table", MEMORY)
    read = []
    original = Table.read_rows
    monkeypatch.setattr(Table, "read_rows", lambda self, rows: (read.extend(rows), original(self, rows))[1])
    with Table.open(tmp_path / "table") as table:
        MappedRows(table, dtype=torch.float32).fetch(torch.tensor([9, 4, 9, 9]))
    assert sorted(read) == [4, 9]


@pytest.mark.parametrize("source", [ResidentRows, MappedRows])
def test_a_layer_that_the_table_left_out_is_zero(tmp_path, source):
    values = write_rows(tmp_path / "table", MEMORY, layers=(1,))
    with open_table(tmp_path / "table", MEMORY, None) as table:
        batch = source(table, dtype=torch.float32).fetch(torch.tensor([5, 2]))
    assert torch.equal(batch.gather(0), torch.zeros(2, MEMORY.hidden_size))
    assert torch.equal(batch.gather(1), values[[5, 2], 0])


def test_a_left_out_layer_equals_a_scale_of_zero(tmp_path):
    model = random_model()
    ids_N = random_ids(20)
    values = write_rows(tmp_path / "part", MEMORY, layers=(1,))
    geometry = table_geometry(MEMORY, Encoding.FP32)
    whole = torch.cat((torch.randn_like(values), values), dim=1)
    with TableWriter(
        tmp_path / "whole", geometry=geometry, fingerprint=FINGERPRINT, num_rows=MEMORY.vocab_size
    ) as writer:
        writer.write(encode_rows(whole, geometry))
    alpha_NL = torch.tensor([0.0, 1.0]).expand(20, 2)
    with Table.open(tmp_path / "part") as part, Table.open(tmp_path / "whole") as full:
        left_out = packed_logits(model, ids_N, rows=MappedRows(part, dtype=torch.float32))
        scaled = packed_logits(model, ids_N, rows=MappedRows(full, dtype=torch.float32), alpha_NL=alpha_NL)
    assert torch.equal(left_out, scaled)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("source", [ResidentRows, MappedRows])
def test_rows_come_in_the_models_dtype(tmp_path, source, dtype):
    write_rows(tmp_path / "table", MEMORY, layers=(1,))
    with Table.open(tmp_path / "table") as table:
        batch = source(table, dtype=dtype).fetch(torch.tensor([1]))
    assert [batch.gather(layer).dtype for layer in range(2)] == [dtype, dtype]


def test_progress_of_loading_ends_with_all_rows(tmp_path):
    write_rows(tmp_path / "table", MEMORY)
    calls = []
    with Table.open(tmp_path / "table") as table:
        ResidentRows(table, dtype=torch.float32, on_progress=lambda *call: calls.append(call))
    assert calls[-1] == (MEMORY.vocab_size, MEMORY.vocab_size)


# Opening


def refusal(directory, config, fingerprint):
    with pytest.raises(TableMismatchError) as caught:
        open_table(directory, config, fingerprint)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    return message


def test_a_table_of_other_weights_is_refused(exported):
    assert "belongs to another model" in refusal(exported.directory / "fp32", exported.config, FINGERPRINT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 51), ("num_hidden_layers", 3), ("hidden_size", 48)],
    ids=str,
)
def test_a_table_of_another_geometry_is_refused(exported, field, value):
    config = dataclasses.replace(exported.config, **{field: value})
    assert str(value) in refusal(exported.directory / "fp32", config, exported.fingerprint)


def test_a_sparse_table_is_refused(tmp_path):
    write_rows(tmp_path / "table", MEMORY, ids=np.arange(0, 20, 2))
    assert "has 10 of 50 rows" in refusal(tmp_path / "table", MEMORY, FINGERPRINT)
