"""Tokens that are near one another in the memory.

Two measures: the cosine of `c_t` (the same cells are read), which ranks, and the cosine of the layer's part of the row
(the same is got from them), which is told beside it.

Shape legend: V vocabulary, S tokens asked about, C tokens of a chunk, K cells, M of these, n neighbours.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.analysis.cells import CellMemory, Cells, unit
from models.analysis.highest import Highest, Ranking, highest
from models.analysis.stored_matrices import Floats, Ids

_SHORTLIST_CELLS = 128
_SHORTLIST_TOKENS = 256


class Neighbours(NamedTuple):
    """The nearest tokens of one token in one layer, nearest first."""

    ids_n: npt.NDArray[np.int64]
    cell_cosine_n: Floats
    """Of `c_t`; what they are ranked by."""
    part_cosine_n: Floats
    """Of the layer's part of the row."""


def nearest_tokens(
    memory: CellMemory, cells: Cells, token_id: int, n: int, *, on_progress: Callable[[int, int], None] | None = None
) -> Neighbours:
    """Return the nearest of all tokens to one, in a time that an answer can wait for.

    A shortlist of 256 tokens comes from the token's 128 strongest cells alone; the shortlist is ranked by whole `c_t`.
    Where a layer has no more cells than that, the answer is exact. `on_progress` is told (tokens done, V).
    """
    c_K = cells.coefficients(memory.embeddings(np.array([token_id])))[0]
    strong_M = highest(c_K, _SHORTLIST_CELLS, by_magnitude=True).ids_Rn
    best = Highest(1, _SHORTLIST_TOKENS)
    for ids_C in memory.chunks():
        c_CM = cells.coefficients(memory.embeddings(ids_C), strong_M)
        cosine_C = unit(c_CM) @ c_K[strong_M]
        cosine_C[ids_C == token_id] = -np.inf
        best.add(cosine_C[None], ids_C)
        if on_progress:
            on_progress(int(ids_C[-1]) + 1, memory.config.vocab_size)
    ids_T = best.ranking().ids_Rn[0]
    ids_T = ids_T[ids_T != token_id]
    c_TK = cells.coefficients(memory.embeddings(ids_T))
    cosine_T = unit(c_TK) @ unit(c_K[None])[0]
    order = highest(cosine_T, n).ids_Rn
    part_T = unit(cells.parts(c_TK[order])) @ unit(cells.parts(c_K[None]))[0]
    return Neighbours(ids_T[order], cosine_T[order], part_T)


def all_neighbours(
    memory: CellMemory, cells: Cells, ids_S: Ids, n: int, *, on_progress: Callable[[int, int], None] | None = None
) -> Ranking:
    """Return the nearest tokens of each of `ids_S` by the cosine of `c_t`, [S, n], exact: every pair is compared.

    Holds S x K numbers. `on_progress` is told (tokens done, V).
    """
    c_SK = np.concatenate([unit(cells.coefficients(memory.embeddings(ids))) for ids in _chunked(ids_S)])
    best = Highest(len(ids_S), n)
    for ids_C in memory.chunks():
        cosine_SC = c_SK @ unit(cells.coefficients(memory.embeddings(ids_C))).T
        cosine_SC[ids_S[:, None] == ids_C] = -np.inf
        best.add(cosine_SC, ids_C)
        if on_progress:
            on_progress(int(ids_C[-1]) + 1, memory.config.vocab_size)
    return best.ranking()


def _chunked(ids_S: Ids) -> list[Ids]:
    return [ids_S[start : start + 1024] for start in range(0, len(ids_S), 1024)]
