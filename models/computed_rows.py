"""Rows computed by the model itself: for training, and the reference for every other source.

Shape legend: N tokens of the batch, U different keys among them, d hidden size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.rows import Rows
from models.transformer import Transformer


class ComputedRows:
    """Rows computed by the model's own memory FFNs, once for each different key of the batch; differentiable."""

    max_rows = None

    def __init__(self, model: Transformer) -> None:
        self.embed_tokens = model.model.embed_tokens
        self.memories = model.memories

    def fetch(self, row_keys_N: Tensor) -> "ComputedBatch":
        """Embed the different keys; layers are computed when they are asked for."""
        keys_U, inverse_N = torch.unique(row_keys_N, return_inverse=True)
        return ComputedBatch(self, self.embed_tokens(keys_U), inverse_N)


class ComputedBatch(Rows):
    """The rows of one batch, computed layer by layer."""

    def __init__(self, source: ComputedRows, x0_Ud: Tensor, inverse_N: Tensor) -> None:
        self.source = source
        self.x0_Ud = x0_Ud
        self.inverse_N = inverse_N

    def gather(self, layer: int) -> Tensor:
        """Return `FFN_l(norm_l(x_0))` of every token, [N, d]."""
        row_Ud = self.source.memories[layer](self.x0_Ud)
        # An embedding look-up rather than indexing: its backward sums rows without sorting the indices.
        return F.embedding(self.inverse_N, row_Ud)
