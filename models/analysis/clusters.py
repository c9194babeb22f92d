"""Tokens that read the same cells: k-means over one layer's `c_t` of the whole vocabulary.

The vectors are taken at length 1, so that direction counts, which cells are read, and not how loudly. They come in
chunks and are made anew for each pass: the V x K matrix is never there.

Shape legend: V vocabulary, P clusters, C tokens of a chunk, K cells, S tokens asked about, n neighbours.
"""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.analysis.cells import CHUNK_TOKENS, CellMemory, Cells, unit
from models.analysis.highest import Highest
from models.analysis.stored_matrices import Floats, Ids
from models.errors import ConfigError

CENTRAL_TOKENS = 24
"""Tokens listed of each cluster, the nearest to its centre."""
_LEAST_SAMPLES = 1 << 15
"""A small vocabulary is gone through several times until the centres have moved by so many tokens."""


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """What k-means made of a layer; clusters are numbered by size, the largest first."""

    labels_V: npt.NDArray[np.int32]
    central: Sequence[npt.NDArray[np.int64]]
    """Of each cluster the ids nearest to its centre, nearest first."""
    explained: float
    """The share of the vectors' variance that the centres account for."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Tokens of each cluster."""
        return np.bincount(self.labels_V, minlength=len(self.central))

    def coefficient(self, ids_S: Ids, neighbours_Sn: Ids) -> float:
        """Return the clustering coefficient: the share of tokens' nearest neighbours in the token's own cluster."""
        return float((self.labels_V[neighbours_Sn] == self.labels_V[ids_S][:, None]).mean())

    @property
    def chance(self) -> float:
        """The clustering coefficient if neighbours were drawn from the vocabulary at random."""
        return float(np.square(self.sizes / len(self.labels_V)).sum())


def require_sklearn() -> None:
    """Raise `ConfigError` where there is no k-means."""
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError("clusters need scikit-learn; install it with `pip install 'tolbooth[analysis]'`")


def find_clusters(
    memory: CellMemory,
    cells: Cells,
    num_clusters: int,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Clustering:
    """Cluster one layer's `c_t`; fewer tokens than clusters raise `ConfigError`, as does a missing scikit-learn.

    `on_progress` is told (tokens done, tokens to do in all passes).
    """
    require_sklearn()
    from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]  # noqa: PLC0415 an extra

    num_tokens = memory.config.vocab_size
    most = min(num_tokens, CHUNK_TOKENS)  # the first centres are tokens of the first chunk
    if not 2 <= num_clusters <= most:
        raise ConfigError(f"clusters is {num_clusters}; this vocabulary of {num_tokens} can be put into 2 to {most}")
    passes = math.ceil(_LEAST_SAMPLES / num_tokens)
    total, done = (passes + 1) * num_tokens, 0
    generator = np.random.default_rng(seed)
    means = MiniBatchKMeans(num_clusters, batch_size=CHUNK_TOKENS, n_init=1, random_state=seed)
    for _ in range(passes):
        for ids_C in memory.chunks(generator.permutation(num_tokens)):
            means.partial_fit(unit(cells.coefficients(memory.embeddings(ids_C))))
            done += len(ids_C)
            if on_progress:
                on_progress(done, total)
    told = None if on_progress is None else lambda more: on_progress(done + more, total)
    return _assign(memory, cells, means.cluster_centers_.astype(np.float32), told)


def _assign(
    memory: CellMemory, cells: Cells, centres_PK: Floats, on_progress: Callable[[int], None] | None
) -> Clustering:
    """Put every token into the cluster of its nearest centre."""
    num_tokens, num_clusters = memory.config.vocab_size, len(centres_PK)
    labels_V = np.empty(num_tokens, dtype=np.int32)
    nearest = Highest(num_clusters, CENTRAL_TOKENS)
    sum_K = np.zeros(cells.num_cells)
    squares, inertia = 0.0, 0.0
    for ids_C in memory.chunks():
        c_CK = unit(cells.coefficients(memory.embeddings(ids_C)))
        squares_C1 = np.square(c_CK).sum(axis=1, keepdims=True)
        distance_CP = squares_C1 - 2 * c_CK @ centres_PK.T + np.square(centres_PK).sum(axis=1)
        labels_V[ids_C] = distance_CP.argmin(axis=1)
        is_member_CP = labels_V[ids_C][:, None] == np.arange(num_clusters)
        nearest.add(np.where(is_member_CP, -distance_CP, -np.inf).T, ids_C)
        sum_K += c_CK.sum(axis=0, dtype=np.float64)
        squares += float(squares_C1.sum(dtype=np.float64))
        inertia += float(distance_CP.min(axis=1).sum(dtype=np.float64))
        if on_progress:
            on_progress(int(ids_C[-1]) + 1)
    variance = squares - float(np.square(sum_K).sum()) / num_tokens
    ids_Pn, values_Pn = nearest.ranking()
    by_size = np.argsort(-np.bincount(labels_V, minlength=num_clusters), kind="stable")
    number = np.empty(num_clusters, dtype=np.int32)
    number[by_size] = np.arange(num_clusters)
    return Clustering(
        labels_V=number[labels_V],
        central=[ids_Pn[cluster][np.isfinite(values_Pn[cluster])] for cluster in by_size],
        explained=1 - inertia / variance if variance > 0 else 0.0,
    )
