"""Tokens of a layer on a plane, near one another where they read the same cells: t-SNE of a sample."""

import numpy as np
import numpy.typing as npt

from models.analysis.cells import CellMemory, Cells, unit
from models.analysis.clusters import require_sklearn
from models.analysis.stored_matrices import Floats

_COMPONENTS = 50
"""Principal components that t-SNE gets to see, as its authors advise."""


def map_tokens(memory: CellMemory, cells: Cells, ids_S: npt.NDArray[np.int64], *, seed: int = 0) -> Floats:
    """Return places of these tokens, [S, 2], between 0 and 1; holds S x K numbers."""
    require_sklearn()
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]  # noqa: PLC0415 an extra
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]  # noqa: PLC0415

    c_SK = unit(cells.coefficients(memory.embeddings(ids_S)))
    components = min(_COMPONENTS, *c_SK.shape)
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(c_SK)
    perplexity = min(30, (len(ids_S) - 1) / 3)
    places_S2 = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(reduced)
    low, high = places_S2.min(axis=0), places_S2.max(axis=0)
    places: Floats = ((places_S2 - low) / np.maximum(high - low, 1e-12)).astype(np.float32)
    return places
