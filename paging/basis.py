"""Bases of low rank: the directions in which a layer's values differ most, over all rows of a table.

They come from the d x d matrix of products, added up over chunks in float64: never all rows at once, and never a matrix
of all rows. Knows nothing of files.

Shape legend: N rows of a chunk, l layers, D values (`hidden_size`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

_GRAM_BYTES = 512 * 2**20
"""Layers whose matrices would take more are done in several passes over the rows."""

Chunks = Callable[[tuple[int, ...]], Iterable[Tensor]]
"""All rows in order, chunk by chunk: float32 [N, l, D] of the layers asked for."""


class Spectrum:
    """A layer's directions and how much of the rows lies in each."""

    def __init__(self, gram_DD: Tensor) -> None:
        """Take the sum over rows of the products of their values, float64 [D, D]."""
        squares_D, directions_DD = torch.linalg.eigh(gram_DD)
        directions_DD = directions_DD.T.flip(0)
        # Which of a direction and its opposite comes out is the library's whim; the largest value is made positive.
        peak_D1 = directions_DD.gather(1, directions_DD.abs().argmax(1, keepdim=True))
        self.directions_DD = (directions_DD * peak_D1.sign()).to(torch.bfloat16)
        """Orthonormal rows, the heaviest first; in bf16, as tables store them."""
        self.singular_values_D = squares_D.flip(0).clamp_min(0).sqrt()
        """Of the matrix of all rows, falling; float64."""

    def basis(self, rank: int) -> Tensor:
        """Return the `rank` heaviest directions, bf16 [rank, D]."""
        basis_CD: Tensor = self.directions_DD[:rank]
        return basis_CD


def spectra(
    chunks: Chunks,
    layers: Sequence[int],
    *,
    hidden_size: int,
    weights_V: Tensor | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[int, Spectrum]:
    """Return the spectrum of each layer; `weights_V`: how much each row counts, 1 where None.

    `on_progress` is told the rows of each chunk done, once for each of the `num_passes`.
    """
    found: dict[int, Spectrum] = {}
    for together in _passes(layers, hidden_size):
        gram_lDD = torch.zeros(len(together), hidden_size, hidden_size, dtype=torch.float64)
        first_row = 0
        for values_NlD in chunks(together):
            end = first_row + len(values_NlD)
            for index in range(len(together)):
                values_ND = values_NlD[:, index].double()
                weighed_ND = values_ND if weights_V is None else values_ND * weights_V[first_row:end, None]
                gram_lDD[index].addmm_(weighed_ND.T, values_ND)
            first_row = end
            if on_progress:
                on_progress(len(values_NlD))
        for layer, gram_DD in zip(together, gram_lDD, strict=True):
            found[layer] = Spectrum(gram_DD)
    return found


def num_passes(num_layers: int, hidden_size: int) -> int:
    """Return how often `spectra` reads the rows of so many layers."""
    return len(_passes(range(num_layers), hidden_size))


def bases_of(found: Mapping[int, Spectrum], ranks: Mapping[int, int]) -> dict[int, Tensor]:
    """Return the basis of each layer that has a rank."""
    return {layer: found[layer].basis(rank) for layer, rank in ranks.items()}


def _passes(layers: Sequence[int], hidden_size: int) -> list[tuple[int, ...]]:
    at_once = max(1, _GRAM_BYTES // (8 * hidden_size**2))
    return [tuple(layers[start : start + at_once]) for start in range(0, len(layers), at_once)]
