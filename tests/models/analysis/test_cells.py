import dataclasses

import numpy as np
import pytest
import torch

from models.analysis import cells as cells_module
from models.analysis.cells import CellMemory, unit
from models.analysis.lens import promoted_tokens
from models.checkpoint import load_model
from models.errors import CheckpointError, ConfigError
from tests.models.analysis.analysis_samples import CONFIG, coefficients, memory_of, norm, store
from tests.models.tiny_models import DENSE, FLEX

EVERY_ID = np.arange(CONFIG.vocab_size)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(cells_module, "CHUNK_TOKENS", 16)


@pytest.mark.parametrize("layer", [0, 1])
def test_coefficients_are_the_papers(tmp_path, layer):
    memory, weights = memory_of(tmp_path / "model")
    found = memory.cells(layer).coefficients(memory.embeddings(EVERY_ID))
    assert np.allclose(coefficients(weights, layer), found, rtol=1e-4, atol=1e-5)


def test_some_cells_are_those_of_all(tmp_path):
    memory, _ = memory_of(tmp_path / "model")
    cells, some = memory.cells(0), np.array([7, 3])
    x0 = memory.embeddings(EVERY_ID)
    assert np.allclose(cells.coefficients(x0)[:, some], cells.coefficients(x0, some), rtol=1e-5, atol=1e-6)


def test_parts_are_what_the_model_adds(tmp_path):
    memory, _ = memory_of(tmp_path / "model")
    cells = memory.cells(1)
    model = load_model(tmp_path / "model")
    with torch.no_grad():
        expected = model.memories[1](model.model.embed_tokens.weight).numpy()
    assert np.allclose(expected, cells.parts(cells.coefficients(memory.embeddings(EVERY_ID))), rtol=1e-4, atol=1e-5)


def test_gates_far_from_zero_do_no_harm(tmp_path):
    memory, _ = memory_of(tmp_path / "model")
    cells = memory.cells(0)
    steep = dataclasses.replace(cells, gates_Kd=cells.gates_Kd * np.float32(1e4))
    assert np.isfinite(steep.coefficients(memory.embeddings(EVERY_ID))).all()


def test_the_memory_of_a_flex_model_is_read_too(tmp_path):
    memory, weights = memory_of(tmp_path / "model", FLEX)
    found = memory.cells(0).coefficients(memory.embeddings(slice(None)))
    assert np.allclose(coefficients(weights, 0, FLEX), found, rtol=1e-4, atol=1e-5)


def test_the_lens_goes_through_norm_and_head(tmp_path):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=False)
    memory, weights = memory_of(tmp_path / "model", config)
    cells = memory.cells(1)
    value = weights["model.layers.1.memory.down_proj.weight"][:, 9]
    scores = weights["lm_head.weight"] @ norm(value, weights["model.norm.weight"])
    promoted = promoted_tokens(memory, cells, np.array([9, 2]), 5)
    assert np.argsort(-scores)[:5].tolist() == promoted.up.ids_Rn[0].tolist()
    assert np.argsort(scores)[:5].tolist() == promoted.down.ids_Rn[0].tolist()
    assert np.allclose(np.sort(-scores)[:5] * -1, promoted.up.values_Rn[0], rtol=1e-4)


def test_chunks_cover_the_vocabulary_once(tmp_path):
    memory, _ = memory_of(tmp_path / "model")
    chunks = list(memory.chunks())
    assert [16, 16, 16, 12] == [len(chunk) for chunk in chunks]
    assert EVERY_ID.tolist() == np.concatenate(chunks).tolist()


def test_vectors_of_no_length_stay():
    assert np.allclose([[0, 0], [0.6, 0.8]], unit(np.array([[0, 0], [3, 4]], dtype=np.float32)))


def test_a_dense_model_has_no_cells(tmp_path):
    store(tmp_path / "model", DENSE)
    with pytest.raises(CheckpointError, match="dense model"):
        CellMemory(tmp_path / "model")


def test_a_slim_checkpoint_has_no_cells(tmp_path):
    store(tmp_path / "model", slim=True)
    with pytest.raises(CheckpointError, match="slim checkpoint"):
        CellMemory(tmp_path / "model")


@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_not_there_is_named(tmp_path, layer):
    memory, _ = memory_of(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"no layer {layer}; the model has layers 0 to 1"):
        memory.cells(layer)
