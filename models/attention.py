"""Causal attention over many sequences at once, with or without a paged key/value cache.

Knows sequences, positions, blocks and slots. Knows nothing of layers' weights, requests or scheduling.

Shape legend: N tokens of the batch (all sequences, one after another), S sequences, H query heads, G key/value
heads, D head dimension, P positions per block, B blocks per sequence, C positions of a sequence's context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import ModelConfig, round_up


class AttentionContext(Protocol):
    """Who attends to what in one forward pass: the only thing a layer knows of sequences."""

    def attend(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        """Return causal attention, [N, H, D]; keys and values have their rotary positions already."""
        ...


@dataclass(frozen=True)
class PackedContext:
    """Whole sequences without a cache: training and evaluation."""

    lengths: Sequence[int]
    """Tokens of each sequence, in batch order; their sum is N."""

    def attend(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:  # noqa: ARG002 no cache
        """Return each sequence's causal attention to itself, [N, H, D]."""
        if len(set(self.lengths)) == 1:
            shape = (len(self.lengths), self.lengths[0])
            out = _causal(*(x.view(*shape, *x.shape[1:]) for x in (q_NHD, k_NGD, v_NGD)))
            return out.flatten(0, 1)
        parts = zip(*(torch.split(x, list(self.lengths)) for x in (q_NHD, k_NGD, v_NGD)), strict=True)
        return torch.cat([_causal(*(x.unsqueeze(0) for x in part)).squeeze(0) for part in parts])


class KVCache:
    """Keys and values of all layers in blocks of `block_size` positions.

    `keys` and `values` are [L, num_blocks, P, G, D'], D' being the head dimension rounded up to a multiple of
    `head_dim_multiple` (fast kernels want 8 or more; head dimensions of 60 and 100 occur). The padding is zero.
    Slot `block * P + offset` holds one position. Which block belongs to whom is the caller's to decide.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_blocks: int,
        block_size: int = 16,
        head_dim_multiple: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.block_size = block_size
        self.head_dim = config.head_dim
        shape = (
            config.num_hidden_layers,
            num_blocks,
            block_size,
            config.num_key_value_heads,
            round_up(config.head_dim, head_dim_multiple),
        )
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def num_blocks(self) -> int:
        """Blocks there are."""
        return self.keys.shape[1]

    def write(self, layer: int, slot_mapping_N: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> None:
        """Put one layer's keys and values into their slots."""
        for store, new in ((self.keys, k_NGD), (self.values, v_NGD)):
            store[layer].flatten(0, 1)[slot_mapping_N, :, : self.head_dim] = new.to(store.dtype)

    def read(self, layer: int, block_table: Tensor) -> tuple[Tensor, Tensor]:
        """Return copies of the keys and values of the blocks named: block table [..., B] -> [..., B * P, G, D']."""
        return (
            self.keys[layer][block_table].flatten(-4, -3),
            self.values[layer][block_table].flatten(-4, -3),
        )


@dataclass(frozen=True, kw_only=True)
class PagedContext:
    """New tokens of sequences whose earlier keys and values are in a `KVCache`: generation and serving."""

    cache: KVCache
    """Where this batch's keys and values go, and where the earlier ones are."""
    query_lengths: Sequence[int]
    """New tokens of each sequence, in batch order; their sum is N."""
    context_lengths: Sequence[int]
    """Positions of each sequence once the new tokens are in: a sequence's queries are its last positions."""
    block_tables_SB: Tensor
    """Blocks of each sequence in order of position, int64; rows are padded with any valid block."""
    slot_mapping_N: Tensor
    """The slot that each new token's keys and values go to, int64."""

    @property
    def query_starts(self) -> list[int]:
        """Where each sequence's tokens begin in the batch, and N at the end."""
        return [0, *accumulate(self.query_lengths)]

    def attend(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        """Store the new keys and values, then attend to the whole contexts, [N, H, D]."""
        self.cache.write(layer, self.slot_mapping_N, k_NGD, v_NGD)
        if set(self.query_lengths) == {1}:
            return self._decode(layer, q_NHD)
        starts = self.query_starts
        parts = [
            self._attend_one(layer, sequence, q_NHD[start:stop])
            for sequence, (start, stop) in enumerate(pairwise(starts))
        ]
        return torch.cat(parts)

    def _decode(self, layer: int, q_SHD: Tensor) -> Tensor:
        """One new token per sequence: all of them in one call, shorter contexts masked."""
        longest = max(self.context_lengths)
        num_blocks = -(-longest // self.cache.block_size)
        k_SCGD, v_SCGD = self.cache.read(layer, self.block_tables_SB[:, :num_blocks])
        mask_S11C = None
        if min(self.context_lengths) < k_SCGD.shape[1]:
            lengths_S = torch.tensor(self.context_lengths, device=q_SHD.device)
            is_held_SC = torch.arange(k_SCGD.shape[1], device=q_SHD.device) < lengths_S[:, None]
            mask_S11C = is_held_SC[:, None, None]
            # A weight of 0 does not silence what another sequence left there, if that is not finite: 0 * NaN is NaN.
            for read_SCGD in (k_SCGD, v_SCGD):
                read_SCGD.masked_fill_(~is_held_SC[:, :, None, None], 0)
        return _masked(q_SHD.unsqueeze(1), k_SCGD, v_SCGD, mask_S11C).squeeze(1)

    def _attend_one(self, layer: int, sequence: int, q_QHD: Tensor) -> Tensor:
        context, queries = self.context_lengths[sequence], q_QHD.shape[0]
        num_blocks = -(-context // self.cache.block_size)
        k_CGD, v_CGD = self.cache.read(layer, self.block_tables_SB[sequence, :num_blocks])
        k_1CGD, v_1CGD = k_CGD[None, :context], v_CGD[None, :context]
        if queries == context:
            return _causal(q_QHD[None], k_1CGD, v_1CGD).squeeze(0)
        position_Q = torch.arange(context - queries, context, device=q_QHD.device)
        mask_11QC = (torch.arange(context, device=q_QHD.device) <= position_Q[:, None])[None, None]
        return _masked(q_QHD[None], k_1CGD, v_1CGD, mask_11QC).squeeze(0)


def _causal(q_STHD: Tensor, k_STGD: Tensor, v_STGD: Tensor) -> Tensor:
    return _sdpa(q_STHD, k_STGD, v_STGD, mask=None, is_causal=True)


def _masked(q_SQHD: Tensor, k_SCGD: Tensor, v_SCGD: Tensor, mask: Tensor | None) -> Tensor:
    return _sdpa(q_SQHD, k_SCGD, v_SCGD, mask=mask, is_causal=False)


def _sdpa(q_SQHD: Tensor, k_SCGD: Tensor, v_SCGD: Tensor, *, mask: Tensor | None, is_causal: bool) -> Tensor:
    """PyTorch's attention on [S, positions, heads, D]; queries narrower than the store are padded with zeros."""
    head_dim, stored_dim = q_SQHD.shape[-1], k_SCGD.shape[-1]
    q = F.pad(q_SQHD, (0, stored_dim - head_dim)) if stored_dim > head_dim else q_SQHD
    out_SHQD = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k_SCGD.to(q.dtype).transpose(1, 2),
        v_SCGD.to(q.dtype).transpose(1, 2),
        attn_mask=mask,
        is_causal=is_causal,
        scale=head_dim**-0.5,
        enable_gqa=q.shape[2] != k_SCGD.shape[2],
    )
    return out_SHQD.transpose(1, 2)[..., :head_dim]
