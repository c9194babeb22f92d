import json
import struct

import numpy as np
import pytest
import torch

from models.analysis.stored_matrices import StoredMatrices
from models.checkpoint import load_model
from models.errors import CheckpointError
from tests.models.analysis.analysis_samples import CONFIG, store

NAME = "model.layers.1.memory.up_proj.weight"
SHAPE = (CONFIG.intermediate_size, CONFIG.hidden_size)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_values_are_those_that_torch_reads(tmp_path, dtype):
    store(tmp_path / "model", dtype=dtype)
    expected = load_model(tmp_path / "model", dtype=torch.float32).model.layers[1].memory.up_proj.weight
    assert np.array_equal(expected.detach().numpy(), StoredMatrices(tmp_path / "model").get(NAME, SHAPE).whole())


def test_shards_are_read_as_one(tmp_path):
    weights = store(tmp_path / "model", shard_bytes=8192)
    matrices = StoredMatrices(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors.index.json").exists()
    assert all(np.allclose(values, matrices.get(name, values.shape).whole()) for name, values in weights.items())


def test_some_rows_are_a_copy(tmp_path):
    weights = store(tmp_path / "model")
    rows = StoredMatrices(tmp_path / "model").get(NAME, SHAPE).rows(np.array([5, 0, 5]))
    rows[:] += 0  # writable
    assert np.allclose(weights[NAME][[5, 0, 5]], rows)


@pytest.mark.parametrize(
    ("name", "shape", "message"), [("lm_head.weight", (3, 4), "no tensor"), (NAME, (3, 4), "shape")]
)
def test_what_is_not_there_is_named(tmp_path, name, shape, message):
    store(tmp_path / "model")
    with pytest.raises(CheckpointError, match=message):
        StoredMatrices(tmp_path / "model").get(name, shape)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        StoredMatrices(tmp_path)


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        struct.pack("<Q", 1 << 40) + HEADER,
        struct.pack("<Q", len(HEADER)) + HEADER,
        struct.pack("<Q", len(HEADER)) + HEADER.replace(b"F32", b"I32") + bytes(8),
        struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[2]", b"[3]") + bytes(8),
        struct.pack("<Q", 4) + b"nope" + bytes(8),
        struct.pack("<Q", 2) + b"[]" + bytes(8),
    ],
)
def test_a_file_that_is_not_whole_is_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        StoredMatrices(tmp_path)


@pytest.mark.parametrize(
    "text", ["{}", "[]", "no", '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 3}}']
)
def test_a_broken_index_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        StoredMatrices(tmp_path)
