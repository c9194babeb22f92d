"""One layer's coefficients over the whole vocabulary, in one pass and in chunks.

What is kept grows with V + K and never with V x K: the strongest cells of each token, the strongest tokens of each
cell, sums.

Shape legend: V vocabulary, K cells, C tokens of a chunk, d hidden size, n kept of each list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.analysis.cells import CellMemory, Cells
from models.analysis.highest import Highest, Ranking, highest
from models.analysis.stored_matrices import Floats

OUTLIER_DEVIATIONS = 6.0
"""A coefficient is an outlier where it is so many standard deviations of its own `c_t` away from that one's mean."""


@dataclass(frozen=True, kw_only=True)
class LayerSurvey:
    """What one pass found."""

    cells_of_token: Ranking
    """[V, n], by magnitude."""
    tokens_of_cell: Ranking
    """[K, n], by magnitude."""
    magnitude_K: Floats
    """The mean of |c_t[k]| over the vocabulary."""
    outliers_V: npt.NDArray[np.int32]
    """Outliers of each token's `c_t`."""
    singular_values: npt.NDArray[np.float64]
    """Of the layer's slice of the table, [V, d], the largest first."""


def survey(
    memory: CellMemory,
    cells: Cells,
    *,
    cells_per_token: int = 6,
    tokens_per_cell: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> LayerSurvey:
    """Walk through the vocabulary once. `on_progress` is told (tokens done, V)."""
    num_tokens, d = memory.config.vocab_size, memory.config.hidden_size
    ids_Vn: list[npt.NDArray[np.int32]] = []
    values_Vn: list[Floats] = []
    outliers_V = np.empty(num_tokens, dtype=np.int32)
    tokens = Highest(cells.num_cells, tokens_per_cell, by_magnitude=True)
    magnitude_K = np.zeros(cells.num_cells)
    gram_dd = np.zeros((d, d))
    for ids_C in memory.chunks():
        c_CK = cells.coefficients(memory.embeddings(ids_C))
        outliers_V[ids_C] = count_outliers(c_CK)
        magnitude_K += np.abs(c_CK).sum(axis=0, dtype=np.float64)
        part_Cd = cells.parts(c_CK).astype(np.float64)
        gram_dd += part_Cd.T @ part_Cd
        tokens.add(c_CK.T, ids_C)
        strongest = strongest_cells(c_CK, cells_per_token)
        ids_Vn.append(strongest.ids_Rn.astype(np.int32))
        values_Vn.append(strongest.values_Rn)
        if on_progress:
            on_progress(int(ids_C[-1]) + 1, num_tokens)
    return LayerSurvey(
        cells_of_token=Ranking(np.concatenate(ids_Vn).astype(np.int64), np.concatenate(values_Vn)),
        tokens_of_cell=tokens.ranking(),
        magnitude_K=(magnitude_K / num_tokens).astype(np.float32),
        outliers_V=outliers_V,
        singular_values=_singular_values(gram_dd),
    )


def strongest_cells(c_CK: Floats, n: int) -> Ranking:
    """Return each token's cells of largest magnitude, [C, n]."""
    best = Highest(len(c_CK), n, by_magnitude=True)
    best.add(c_CK, np.arange(c_CK.shape[1]))
    return best.ranking()


def count_outliers(c_CK: Floats) -> npt.NDArray[Any]:
    """Return how many coefficients of each token are outliers, [C]."""
    mean_C1, deviation_C1 = c_CK.mean(axis=1, keepdims=True), c_CK.std(axis=1, keepdims=True)
    counts_C: npt.NDArray[Any] = (np.abs(c_CK - mean_C1) > OUTLIER_DEVIATIONS * deviation_C1).sum(axis=1)
    return counts_C


def rank_for_energy(singular_values: npt.NDArray[np.float64], share: float) -> int:
    """Return how many of the largest singular values have at least this share of the sum of all squares."""
    energy = np.cumsum(np.square(singular_values))
    return int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12))) + 1


def top_tokens(memory: CellMemory, cells: Cells, cell: int, n: int) -> Ranking:
    """Return the tokens that read one cell most, [n], by magnitude."""
    found = [cells.coefficients(memory.embeddings(ids_C), np.array([cell]))[:, 0] for ids_C in memory.chunks()]
    return highest(np.concatenate(found), n, by_magnitude=True)


def _singular_values(gram_dd: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the singular values of a matrix R from `R^T R`, which alone fits into memory; float64 keeps 7 digits."""
    values: npt.NDArray[np.float64] = np.sqrt(np.clip(np.linalg.eigvalsh(gram_dd), 0, None))[::-1]
    return values
