import dataclasses
import json

import pytest

from models import presets
from models.checkpoint import compute_fingerprints, read_fingerprints
from models.config import Kind, ModelConfig
from paging import Encoding, Table

SIZES = ModelConfig(
    model_type=Kind.MEMORYLLM,
    vocab_size=64,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=24,
)


@pytest.fixture(autouse=True)
def _small_presets(monkeypatch):
    small = {"tiny-memoryllm": SIZES, "tiny-dense": dataclasses.replace(SIZES, model_type=Kind.DENSE)}
    monkeypatch.setattr(presets, "PRESETS", small)


def test_init_writes_a_sound_checkpoint_without_a_table(tolbooth, tmp_path):
    assert 0 == tolbooth("init", "tiny-memoryllm", "--out", tmp_path / "m").code
    assert SIZES == ModelConfig.load(tmp_path / "m")
    assert compute_fingerprints(tmp_path / "m") == read_fingerprints(tmp_path / "m")
    assert not (tmp_path / "m" / "table").exists()


def test_init_takes_another_vocabulary(tolbooth, tmp_path):
    tolbooth("init", "tiny-memoryllm", "--vocab-size", 70, "--out", tmp_path / "m")
    assert 70 == ModelConfig.load(tmp_path / "m").vocab_size


def test_init_is_a_function_of_the_seed(tolbooth, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        tolbooth("init", "tiny-dense", "--seed", seed, "--out", tmp_path / name)
    first, again, other = (read_fingerprints(tmp_path / name).backbone for name in "abc")
    assert first == again
    assert first != other


@pytest.mark.parametrize("content", ["computed", "synthetic"])
def test_init_writes_the_models_table(tolbooth, tmp_path, content):
    tolbooth("init", "tiny-memoryllm", "--table", content, "--encoding", "fp32", "--out", tmp_path / "m")
    with Table.open(tmp_path / "m" / "table", expect_fingerprint=read_fingerprints(tmp_path / "m").table) as table:
        assert (64, Encoding.FP32) == (table.num_rows, table.geometry.encoding)


def test_init_of_a_dense_model_has_no_table(fails, tmp_path):
    assert "dense" in fails("init", "tiny-dense", "--table", "computed", "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_init_leaves_a_checkpoint_alone(fails, memory_model):
    assert "holds a checkpoint already" in fails("init", "tiny-dense", "--out", memory_model)


def test_import_copies_a_checkpoint(tolbooth, dense_model, tmp_path):
    assert 0 == tolbooth("import", dense_model, "--out", tmp_path / "copy").code
    assert read_fingerprints(dense_model) == read_fingerprints(tmp_path / "copy")


def test_import_refuses_what_it_does_not_know(fails, dense_model, tmp_path):
    config = dense_model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "mystery"}))
    assert "mystery" in fails("import", dense_model, "--out", tmp_path / "copy")


def test_a_slim_copy_runs_from_the_table_of_its_source_and_from_nothing_else(tolbooth, fails, memory_model, tmp_path):
    table = tmp_path / "table"
    assert 0 == tolbooth("export-tol", memory_model, "--out", table).code
    assert 0 == tolbooth("import", memory_model, "--slim", "--dtype", "bf16", "--out", tmp_path / "slim").code
    output = tolbooth("generate", tmp_path / "slim", "--table", table, "--prompt", "Once", "--max-tokens", 3)
    assert 0 == output.code
    assert "slim" in fails("generate", tmp_path / "slim", "--memory", "computed", "--prompt", "Once")
