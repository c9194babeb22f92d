import dataclasses
import importlib.util
import tracemalloc

import numpy as np
import pytest

from models.analysis import cells as cells_module
from models.analysis import clusters as clusters_module
from models.analysis.cells import Cells, unit
from models.analysis.clusters import Clustering, find_clusters
from models.analysis.neighbours import nearest_tokens
from models.analysis.survey import survey
from models.analysis.token_map import map_tokens
from models.errors import ConfigError
from tests.models.analysis.analysis_samples import CONFIG, memory_of

pytest.importorskip("sklearn")


class Planted:
    """A memory whose tokens belong to groups: token t reads cell t % groups and next to nothing else."""

    def __init__(self, num_tokens, groups, *, num_cells=12):
        self.config = dataclasses.replace(CONFIG, vocab_size=num_tokens)
        noise = np.random.default_rng(0).normal(0, 0.01, (num_tokens, num_cells))
        self.vectors = (np.eye(num_cells)[np.arange(num_tokens) % groups] + noise).astype(np.float32)

    def embeddings(self, ids):
        return self.vectors[ids]

    def chunks(self, order=None):
        ids = np.arange(len(self.vectors)) if order is None else order
        return (ids[start : start + 16] for start in range(0, len(ids), 16))


class Reading:
    """Cells whose coefficients are the embedding itself."""

    num_cells = 12

    def coefficients(self, x0):
        return x0


@pytest.fixture(autouse=True)
def _few_passes(monkeypatch):
    monkeypatch.setattr(clusters_module, "_LEAST_SAMPLES", 2000)


def test_planted_groups_are_found():
    found = find_clusters(Planted(100, 4), Reading(), 4)
    groups = [set(found.labels_V[np.arange(100) % 4 == group].tolist()) for group in range(4)]
    assert [1] * 4 == [len(group) for group in groups]
    assert 4 == len(set.union(*groups))
    assert found.explained > 0.99


def test_clusters_are_numbered_by_size():
    found = find_clusters(Planted(64, 3), Reading(), 3)
    assert sorted(found.sizes.tolist(), reverse=True) == found.sizes.tolist()


def test_central_tokens_are_members_the_nearest_first(tmp_path):
    memory, _ = memory_of(tmp_path / "model")
    cells = memory.cells(0)
    found = find_clusters(memory, cells, 3)
    c_VK = unit(cells.coefficients(memory.embeddings(slice(None))))
    for cluster, central in enumerate(found.central):
        members = np.flatnonzero(found.labels_V == cluster)
        assert set(central.tolist()) <= set(members.tolist())
        # Mini-batch centres are near their members' mean, not it: the order need only agree by and large.
        distances = np.linalg.norm(c_VK[members] - c_VK[members].mean(axis=0), axis=1)
        assert np.linalg.norm(c_VK[central[0]] - c_VK[members].mean(axis=0)) <= np.median(distances)


def test_equal_seeds_give_equal_clusters():
    first, second = (find_clusters(Planted(60, 5), Reading(), 5) for _ in range(2))
    assert first.labels_V.tolist() == second.labels_V.tolist()


def test_the_coefficient_is_the_share_of_neighbours_in_the_own_cluster():
    found = Clustering(
        labels_V=np.array([0, 0, 0, 1], dtype=np.int32), central=[np.array([0]), np.array([3])], explained=0
    )
    assert 0.5 == found.coefficient(np.array([0, 3]), np.array([[1, 2], [0, 1]]))
    assert 10 / 16 == found.chance


@pytest.mark.parametrize("num_clusters", [1, 61, 5000])
def test_clusters_that_the_vocabulary_cannot_have_are_a_mistake(tmp_path, num_clusters):
    memory, _ = memory_of(tmp_path / "model")
    with pytest.raises(ConfigError, match=f"clusters is {num_clusters}; this vocabulary of 60 can be put into 2 to 60"):
        find_clusters(memory, memory.cells(0), num_clusters)


def test_a_missing_library_is_named_with_what_to_do(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'tolbooth\[analysis\]'"):
        find_clusters(Planted(20, 2), Reading(), 2)


def test_a_map_keeps_groups_together():
    places = map_tokens(Planted(90, 3), Reading(), np.arange(90))
    assert ((places >= 0) & (places <= 1)).all()
    group = np.arange(90) % 3
    centres = np.array([places[group == each].mean(axis=0) for each in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == group).mean() > 0.95


class Wide:
    """A memory of many tokens and wide layers, made up chunk by chunk."""

    def __init__(self, num_tokens, num_cells, d=8):
        self.config = dataclasses.replace(
            CONFIG, vocab_size=num_tokens, hidden_size=d, num_attention_heads=2, num_key_value_heads=2
        )
        draw = np.random.default_rng(0).standard_normal
        self.embedding = draw((num_tokens, d), dtype=np.float32)
        self.wide = Cells(
            layer=0,
            norm_eps=1e-5,
            keys_Kd=draw((num_cells, d), dtype=np.float32),
            gates_Kd=draw((num_cells, d), dtype=np.float32),
            values_dK=draw((d, num_cells), dtype=np.float32),
        )

    def embeddings(self, ids):
        return self.embedding[ids]

    chunks = cells_module.CellMemory.chunks


def test_the_whole_matrix_is_never_in_memory(monkeypatch):
    monkeypatch.setattr(clusters_module, "_LEAST_SAMPLES", 1)
    chunk, num_tokens, num_cells = 128, 8192, 1024
    for module in (cells_module, clusters_module):
        monkeypatch.setattr(module, "CHUNK_TOKENS", chunk)
    memory = Wide(num_tokens, num_cells)
    chunk_bytes = 4 * chunk * num_cells
    find_clusters(Wide(256, 64), Wide(256, 64).wide, 4)  # libraries load, once and for all
    tracemalloc.start()
    try:
        survey(memory, memory.wide)
        find_clusters(memory, memory.wide, 8)
        nearest_tokens(memory, memory.wide, 3, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    kept = 8 * num_tokens * (6 + 6) + 8 * num_cells * 10 * 4
    assert peak < 10 * chunk_bytes + 2 * kept
    assert peak < 4 * num_tokens * num_cells / 5
