"""Causal attention over many sequences at once, with or without a paged key/value cache.

Knows sequences, positions, blocks and slots. Knows nothing of layers' weights, requests or scheduling.

Shape legend: N tokens of the batch (all sequences, one after another), S sequences, H query heads, G key/value
heads, D head dimension, B blocks per sequence, Q new positions of a sequence, C positions of its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kv_cache import BlockTable, KVCache


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


@dataclass(frozen=True, kw_only=True)
class PagedContext:
    """New tokens of sequences whose earlier keys and values are in a `KVCache`: generation and serving.

    On a GPU all sequences that take one token each attend in one call, over gathered copies of their blocks. On the CPU
    a copy costs more than a call, so each sequence reads its keys and values where they lie.
    """

    cache: KVCache
    """Where this batch's keys and values go, and where the earlier ones are."""
    query_lengths: Sequence[int]
    """New tokens of each sequence, in batch order; their sum is N."""
    context_lengths: Sequence[int]
    """Positions of each sequence once the new tokens are in: a sequence's queries are its last positions."""
    block_tables: Sequence[BlockTable]
    """Each sequence's blocks, for all of those positions."""

    def attend(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        """Store the new keys and values, then attend to the whole contexts, [N, H, D]."""
        self.cache.write(layer, self.slot_mapping, k_NGD, v_NGD)
        if q_NHD.is_cuda and self.is_decode:
            return self._decode_together(layer, q_NHD)
        out_NHD = torch.empty_like(q_NHD)
        for index, (start, stop) in enumerate(pairwise(self.query_starts)):
            out_NHD[start:stop] = self._attend_one(layer, index, q_NHD[start:stop])
        return out_NHD

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one new token."""
        return len(self.query_lengths) == self.query_starts[-1]

    @cached_property
    def query_starts(self) -> list[int]:
        """Where each sequence's tokens begin in the batch, and N at the end."""
        return [0, *accumulate(self.query_lengths)]

    @cached_property
    def slot_mapping(self) -> Tensor:
        """The slot that each new token's keys and values go to, int64."""
        slots: list[int] = []
        for table, context, queries in self._sequences:
            if queries == 1:
                slots.append(table.slot(context - 1))
            else:
                slots += table.slots(context - queries, context)
        return torch.tensor(slots, device=self.cache.keys.device)

    @property
    def _sequences(self) -> "zip[tuple[BlockTable, int, int]]":
        return zip(self.block_tables, self.context_lengths, self.query_lengths, strict=True)

    @cached_property
    def _spans(self) -> list[list[range]]:
        return [table.spans(context) for table, context, _ in self._sequences]

    @cached_property
    def _masks(self) -> list[Tensor | None]:
        """Which positions each query attends to, [Q, C]; None where that is all of them, or all up to its own."""
        device = self.cache.keys.device
        masks: list[Tensor | None] = []
        for _, context, queries in self._sequences:
            mask = None
            if 1 < queries < context:
                position_Q = torch.arange(context - queries, context, device=device)
                mask = torch.arange(context, device=device) <= position_Q[:, None]
            masks.append(mask)
        return masks

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        """Every sequence's blocks, padded with blocks that others hold, [S, B]; and which positions are its own."""
        block_size, device = self.cache.block_size, self.cache.keys.device
        longest = max(-(-context // block_size) for context in self.context_lengths)
        rows = [table.blocks[:longest] for table in self.block_tables]
        blocks_SB = torch.tensor([row + row[:1] * (longest - len(row)) for row in rows], device=device)
        lengths_S = torch.tensor(self.context_lengths, device=device)
        return blocks_SB, torch.arange(longest * block_size, device=device) < lengths_S[:, None]

    def _decode_together(self, layer: int, q_SHD: Tensor) -> Tensor:
        """One new token per sequence: all of them in one call, shorter contexts masked."""
        blocks_SB, is_held_SC = self._padded
        k_SCGD, v_SCGD = self.cache.gather(layer, blocks_SB)
        # A weight of 0 does not silence what another sequence left there, if that is not finite: 0 * NaN is NaN.
        for read_SCGD in (k_SCGD, v_SCGD):
            read_SCGD.masked_fill_(~is_held_SC[:, :, None, None], 0)
        return _sdpa(q_SHD.unsqueeze(1), k_SCGD, v_SCGD, mask=is_held_SC[:, None, None], is_causal=False).squeeze(1)

    def _attend_one(self, layer: int, index: int, q_QHD: Tensor) -> Tensor:
        k_CGD, v_CGD = self.cache.read(layer, self._spans[index])
        is_whole = 1 < len(q_QHD) == len(k_CGD)
        return _sdpa(q_QHD[None], k_CGD[None], v_CGD[None], mask=self._masks[index], is_causal=is_whole)[0]


def _causal(q_STHD: Tensor, k_STGD: Tensor, v_STGD: Tensor) -> Tensor:
    return _sdpa(q_STHD, k_STGD, v_STGD, mask=None, is_causal=True)


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
