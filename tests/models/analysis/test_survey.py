import numpy as np
import pytest

from models.analysis import cells as cells_module
from models.analysis.neighbours import all_neighbours, nearest_tokens
from models.analysis.survey import OUTLIER_DEVIATIONS, count_outliers, rank_for_energy, survey, top_tokens
from tests.models.analysis.analysis_samples import CONFIG, coefficients, cosines, memory_of, parts

LAYER = 1


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(cells_module, "CHUNK_TOKENS", 16)


@pytest.fixture
def model(tmp_path):
    return memory_of(tmp_path / "model")


@pytest.fixture
def surveyed(model):
    memory, weights = model
    return survey(memory, memory.cells(LAYER)), coefficients(weights, LAYER)


def test_the_strongest_cells_of_every_token(surveyed):
    found, expected = surveyed
    order = np.argsort(-np.abs(expected), axis=1)[:, :6]
    assert order.tolist() == found.cells_of_token.ids_Rn.tolist()
    assert np.allclose(np.take_along_axis(expected, order, 1), found.cells_of_token.values_Rn, rtol=1e-3)


def test_the_strongest_tokens_of_every_cell(surveyed):
    found, expected = surveyed
    assert np.argsort(-np.abs(expected.T), axis=1)[:, :10].tolist() == found.tokens_of_cell.ids_Rn.tolist()


def test_how_much_every_cell_is_read(surveyed):
    found, expected = surveyed
    assert np.allclose(np.abs(expected).mean(axis=0), found.magnitude_K, rtol=1e-3)


def test_singular_values_are_those_of_the_tables_slice(model, surveyed):
    expected = np.linalg.svd(parts(model[1], LAYER), compute_uv=False)
    assert np.allclose(expected, surveyed[0].singular_values, rtol=1e-3, atol=1e-3 * expected[0])


def test_outliers_are_counted_by_each_tokens_own_deviation():
    c_CK = np.zeros((2, 100), dtype=np.float32)
    c_CK[0, 3] = 50
    c_CK[1] = np.resize([1, -1], 100)
    assert [1, 0] == count_outliers(c_CK).tolist()
    assert OUTLIER_DEVIATIONS < 50 / c_CK[0].std()


@pytest.mark.parametrize(("share", "rank"), [(0.5, 1), (0.8, 1), (0.81, 2), (0.99, 3), (1.0, 3)])
def test_ranks_for_a_share_of_the_squares(share, rank):
    assert rank == rank_for_energy(np.array([8.0, 3.0, np.sqrt(7), 0.0]), share)


def test_the_top_tokens_of_one_cell(model):
    memory, weights = model
    expected = coefficients(weights, LAYER)[:, 7]
    found = top_tokens(memory, memory.cells(LAYER), 7, 5)
    assert np.argsort(-np.abs(expected))[:5].tolist() == found.ids_Rn.tolist()


def test_all_neighbours_are_those_of_all_pairs(model):
    memory, weights = model
    expected = cosines(coefficients(weights, LAYER))
    np.fill_diagonal(expected, -2)
    ids = np.array([4, 59, 17])
    found = all_neighbours(memory, memory.cells(LAYER), ids, 6)
    assert np.argsort(-expected[ids], axis=1)[:, :6].tolist() == found.ids_Rn.tolist()


def test_the_neighbours_of_one_token_are_exact_where_cells_are_few(model):
    memory, weights = model
    by_cells, by_parts = cosines(coefficients(weights, LAYER)), cosines(parts(weights, LAYER))
    by_cells[4, 4] = -2
    expected = np.argsort(-by_cells[4])[:6]
    found = nearest_tokens(memory, memory.cells(LAYER), 4, 6)
    assert expected.tolist() == found.ids_n.tolist()
    assert np.allclose(by_cells[4, expected], found.cell_cosine_n, atol=1e-4)
    assert np.allclose(by_parts[4, expected], found.part_cosine_n, atol=1e-4)


def test_progress_ends_at_the_vocabulary(model):
    memory, _ = model
    told = []
    nearest_tokens(memory, memory.cells(0), 0, 3, on_progress=lambda *each: told.append(each))
    assert [(16, 60), (32, 60), (48, 60), (60, 60)] == told
    assert CONFIG.vocab_size == told[-1][1]
