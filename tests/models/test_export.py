"""Exported tables: their rows are the FFNs' outputs, and an interrupted export leaves nothing that opens."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open

import models.export
from models.checkpoint import read_fingerprints, save_checkpoint
from models.computed_rows import ComputedRows
from models.errors import CheckpointError
from models.export import export_table, synthetic_rows, table_geometry, write_synthetic_table
from paging import Encoding, EncodingError, Table, TableFormatError, TableWriteError, decode_layer, verify_table
from tests.models import reference
from tests.models.tiny_models import DENSE, FLEX, MEMORY, float64_weights, random_model

DTYPES = {Encoding.BF16: torch.bfloat16, Encoding.FP16: torch.float16, Encoding.FP32: torch.float32}


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(random_model(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "table"


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks for a tiny vocabulary, the last of them not full."""
    monkeypatch.setattr(models.export, "CHUNK_ROWS", 16)


def plain_rows(directory):
    """Read all rows as the plain library does, uint8 [V, stride]."""
    parts = []
    for path in sorted(directory.glob("rows-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            assert list(file.keys()) == ["rows"]
            parts.append(file.get_tensor("rows"))
    return torch.cat(parts)


@torch.no_grad()
def computed_rows(model):
    """Every id's row, [V, L, d]."""
    rows = ComputedRows(model).fetch(torch.arange(model.config.vocab_size))
    return torch.stack([rows.gather(layer) for layer in range(model.config.num_hidden_layers)], dim=1)


# Rows


@pytest.mark.parametrize("config", [MEMORY, FLEX], ids=["memoryllm", "flex"])
@pytest.mark.parametrize("encoding", DTYPES)
def test_the_plain_library_reads_rows_that_equal_the_ffns_output(tmp_path, small_chunks, config, encoding):
    model = random_model(config)
    save_checkpoint(model, tmp_path / "model")
    geometry = export_table(tmp_path / "model", tmp_path / "table", encoding=encoding)
    rows = plain_rows(tmp_path / "table")
    if rows.dtype == torch.uint8:
        rows = rows[:, : geometry.row_bytes].contiguous().view(DTYPES[encoding])
    values = rows[:, : 2 * config.hidden_size].unflatten(1, (2, config.hidden_size))
    tolerance = {Encoding.BF16: 2**-8, Encoding.FP16: 2**-11, Encoding.FP32: 1e-5}[encoding]
    torch.testing.assert_close(values.float(), computed_rows(model), rtol=tolerance, atol=1e-6)


def test_an_fp32_row_is_within_1e_6_of_the_float64_reference(checkpoint, out):
    export_table(checkpoint, out, encoding=Encoding.FP32)
    weights = float64_weights(random_model())
    with Table.open(out) as table:
        for token in (0, 17, MEMORY.vocab_size - 1):
            payload = table.read_rows([token])
            for layer in range(2):
                expected = reference.row(MEMORY, weights, layer, token)
                actual = decode_layer(payload, table.geometry, layer)[0].numpy()
                np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("encoding", [Encoding.BF16, Encoding.FP16])
def test_16_bit_rows_are_the_fp32_ones_rounded(checkpoint, tmp_path, encoding):
    tables = {}
    for each in (encoding, Encoding.FP32):
        geometry = export_table(checkpoint, tmp_path / each, encoding=each)
        with Table.open(tmp_path / each) as table:
            payload = table.read_all()
        tables[each] = torch.stack([decode_layer(payload, geometry, layer) for layer in range(2)])
    assert torch.equal(tables[encoding], tables[Encoding.FP32].to(DTYPES[encoding]))


def test_a_rows_bits_do_not_depend_on_the_vocabularys_size(tmp_path, small_chunks):
    model = random_model()
    payloads = []
    for vocab_size in (50, 21, 3):
        smaller = random_model(dataclasses.replace(MEMORY, vocab_size=vocab_size))
        tensors = dict(model.named_parameters())
        with torch.no_grad():
            for name, parameter in smaller.named_parameters():
                parameter.copy_(tensors[name][:vocab_size] if "embed" in name else tensors[name])
        save_checkpoint(smaller, tmp_path / f"model-{vocab_size}")
        export_table(tmp_path / f"model-{vocab_size}", tmp_path / f"table-{vocab_size}", encoding=Encoding.FP32)
        with Table.open(tmp_path / f"table-{vocab_size}") as table:
            payloads.append(table.read_all())
    whole, *parts = payloads
    assert all(torch.equal(part, whole[: len(part)]) for part in parts)


def test_16_bit_weights_are_widened_before_rows_are_computed(tmp_path):
    model = random_model()
    save_checkpoint(model, tmp_path / "model", dtype=torch.bfloat16)
    geometry = export_table(tmp_path / "model", tmp_path / "table", encoding=Encoding.FP32)
    widened = random_model()
    with torch.no_grad():
        for parameter in widened.parameters():
            parameter.copy_(parameter.bfloat16().float())
    with Table.open(tmp_path / "table") as table:
        payload = table.read_all()
    values = torch.stack([decode_layer(payload, geometry, layer) for layer in range(2)], dim=1)
    torch.testing.assert_close(values, computed_rows(widened), rtol=1e-5, atol=1e-6)


def test_an_exported_table_is_sound_and_bears_the_checkpoints_fingerprint(checkpoint, out, small_chunks):
    export_table(checkpoint, out)
    verify_table(out)
    with Table.open(out) as table:
        assert table.fingerprint == read_fingerprints(checkpoint).table


def test_progress_counts_rows(checkpoint, out, small_chunks):
    calls = []
    export_table(checkpoint, out, on_progress=lambda *call: calls.append(call))
    assert calls == [(16, 50), (32, 50), (48, 50), (50, 50)]


# What goes wrong


def assert_nothing_opens(directory):
    assert not directory.exists()
    with pytest.raises(TableFormatError):
        Table.open(directory)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("rows_done", [16, 50])
def test_an_interrupted_export_leaves_nothing(checkpoint, out, small_chunks, error, rows_done):
    def interrupt(done, _total):
        if done == rows_done:
            raise error

    with pytest.raises(error):
        export_table(checkpoint, out, on_progress=interrupt)
    assert_nothing_opens(out)
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_an_interrupted_overwrite_leaves_the_table_that_was_there(checkpoint, out, small_chunks):
    export_table(checkpoint, out)
    before = plain_rows(out)

    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_table(checkpoint, out, encoding=Encoding.FP32, overwrite=True, on_progress=interrupt)
    assert torch.equal(plain_rows(out), before)


def test_a_table_is_overwritten_only_where_that_is_asked_for(checkpoint, out):
    export_table(checkpoint, out)
    with pytest.raises(TableWriteError, match="is a table already"):
        export_table(checkpoint, out, encoding=Encoding.FP32)
    export_table(checkpoint, out, encoding=Encoding.FP32, overwrite=True)
    with Table.open(out) as table:
        assert table.geometry.encoding is Encoding.FP32


def test_a_dense_model_has_nothing_to_export(tmp_path, out):
    save_checkpoint(random_model(DENSE), tmp_path / "model")
    with pytest.raises(CheckpointError, match="is a dense model"):
        export_table(tmp_path / "model", out)
    assert_nothing_opens(out)


def test_a_slim_checkpoint_has_nothing_to_export(tmp_path, out):
    save_checkpoint(random_model(), tmp_path / "model", slim=True)
    with pytest.raises(CheckpointError, match="is a slim checkpoint"):
        export_table(tmp_path / "model", out)
    assert_nothing_opens(out)


def test_broken_weights_are_named_by_row_and_layer(tmp_path, out, small_chunks):
    model = random_model()
    with torch.no_grad():
        model.model.embed_tokens.weight[20, 3] = float("nan")
    save_checkpoint(model, tmp_path / "model")
    with pytest.raises(EncodingError, match=r"row 20, layer 0: the value nan is not finite"):
        export_table(tmp_path / "model", out)
    assert_nothing_opens(out)


# Made-up rows

GEOMETRY = table_geometry(MEMORY, Encoding.FP32)


@pytest.mark.parametrize("cuts", [[10], [1] * 10, [3, 7]], ids=str)
def test_a_made_up_row_depends_on_seed_and_number_alone(cuts):
    starts = np.cumsum([5, *cuts[:-1]]).tolist()
    parts = [synthetic_rows(GEOMETRY, start, count, seed=4) for start, count in zip(starts, cuts, strict=True)]
    assert torch.equal(torch.cat(parts), synthetic_rows(GEOMETRY, 5, 10, seed=4))


def test_made_up_rows_differ_by_seed_and_number():
    first, second = synthetic_rows(GEOMETRY, 0, 2, seed=0)
    other = synthetic_rows(GEOMETRY, 0, 1, seed=1)[0]
    assert len({bytes(row.numpy()) for row in (first, second, other)}) == 3


def test_made_up_values_are_normal_with_a_deviation_of_0_02():
    values = synthetic_rows(GEOMETRY, 0, 400, seed=0).view(torch.float32)
    assert float(values.std()) == pytest.approx(0.02, rel=0.02)
    assert float(values.mean()) == pytest.approx(0, abs=1e-3)


def test_a_made_up_table_has_a_row_for_every_id(out, small_chunks):
    write_synthetic_table(GEOMETRY, out, fingerprint="0" * 32, seed=9)
    with Table.open(out) as table:
        assert table.num_rows == MEMORY.vocab_size
        assert torch.equal(table.read_rows([37])[0], synthetic_rows(GEOMETRY, 37, 1, seed=9)[0])


def test_an_interrupted_made_up_table_leaves_nothing(out, small_chunks):
    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic_table(GEOMETRY, out, fingerprint="0" * 32, on_progress=interrupt)
    assert_nothing_opens(out)
