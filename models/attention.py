"""Causal attention over many sequences at once, with or without a paged key/value cache.

Knows sequences, positions, blocks and slots. Knows nothing of layers' weights, requests or scheduling.

Shape legend: N tokens of the batch (all sequences, one after another), S sequences, H query heads, G key/value
heads, D head dimension, B blocks per sequence, Q new positions of a sequence, C positions of its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from models.decode_attention import DecodeContext
from models.kv_cache import BlockTable, KVCache
from models.varlen_attention import PackedChunks, attend_chunks, kernel_for, pack_chunks


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

    On a GPU all sequences that take one token each attend in one call, and so do the others where a kernel was found
    right. On the CPU each sequence reads its keys and values where they lie, in one piece or several.
    """

    cache: KVCache
    """Where this batch's keys and values go, and where the earlier ones are."""
    query_lengths: Sequence[int]
    """New tokens of each sequence, in batch order; their sum is N."""
    context_lengths: Sequence[int]
    """Positions of each sequence once the new tokens are in: a sequence's queries are its last positions."""
    block_tables: Sequence[BlockTable]
    """Each sequence's blocks, for all of those positions."""
    slots: Tensor | None = None
    """The slot that each new token's keys and values go to, int64; None: those that the blocks say."""

    def attend(self, layer: int, q_NHD: Tensor, k_NGD: Tensor, v_NGD: Tensor) -> Tensor:
        """Store the new keys and values, then attend to the whole contexts, [N, H, D]."""
        self.cache.write(layer, self.slot_mapping, k_NGD, v_NGD)
        if q_NHD.is_cuda and self._single:
            return self._attend_together(layer, q_NHD)
        return self._attend_apart(layer, q_NHD)

    def _attend_apart(self, layer: int, q_NHD: Tensor) -> Tensor:
        """Attend to what is stored, one sequence after another; in one call where a GPU has a kernel for that."""
        if q_NHD.is_cuda and (kernel := kernel_for(q_NHD, self.cache)) is not None:
            return attend_chunks(self.cache, layer, q_NHD, self._packed, kernel)
        head_dim = q_NHD.shape[-1]
        stored = self.cache.keys
        q_1HND = _padded_to(q_NHD, stored.shape[-1]).to(torch.promote_types(q_NHD.dtype, stored.dtype))
        q_1HND = q_1HND.transpose(0, 1)[None]
        parts_1HQD = torch.split(q_1HND, list(self.query_lengths), dim=2)
        out_1HND = torch.cat(
            [
                _attend_pieces(q_1HQD, self.cache.read(layer, spans), mask=mask, scale=head_dim**-0.5)
                for q_1HQD, spans, mask in zip(parts_1HQD, self._spans, self._masks, strict=True)
            ],
            dim=2,
        )
        return out_1HND[0].transpose(0, 1)[..., :head_dim].to(q_NHD.dtype)

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
        if self.slots is not None:
            return self.slots
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
    def _packed(self) -> list[PackedChunks]:
        device = self.cache.keys.device
        return pack_chunks(self.query_lengths, self.context_lengths, self.block_tables, device=device)

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
    def _single(self) -> list[int]:
        """The sequences that have one new token, by their number in the batch."""
        return [index for index, queries in enumerate(self.query_lengths) if queries == 1]

    @cached_property
    def _together(self) -> tuple[Tensor, DecodeContext]:
        """Where in the batch the tokens of sequences that have one are, and all of those sequences as one context."""
        device, single = self.cache.keys.device, self._single
        tokens_S = torch.tensor([self.query_starts[index] for index in single], device=device)
        lengths = [self.context_lengths[index] for index in single]
        longest = max(-(-length // self.cache.block_size) for length in lengths)
        rows = [self.block_tables[index].blocks[:longest] for index in single]
        return tokens_S, DecodeContext(
            kv_cache=self.cache,
            slot_mapping_S=self.slot_mapping[tokens_S],
            blocks_SB=torch.tensor([row + row[:1] * (longest - len(row)) for row in rows], device=device),
            lengths_S=torch.tensor(lengths, device=device),
        )

    @cached_property
    def _others(self) -> tuple[Tensor, "PagedContext"]:
        """The same of sequences that have several."""
        tokens: list[int] = []
        for start, queries in zip(self.query_starts, self.query_lengths, strict=False):
            tokens += range(start, start + queries) if queries > 1 else ()
        others = [index for index, queries in enumerate(self.query_lengths) if queries > 1]
        lengths = (self.query_lengths, self.context_lengths)
        query_lengths, context_lengths = ([each[index] for index in others] for each in lengths)
        return torch.tensor(tokens, device=self.cache.keys.device), PagedContext(
            cache=self.cache,
            query_lengths=query_lengths,
            context_lengths=context_lengths,
            block_tables=[self.block_tables[index] for index in others],
        )

    def _attend_together(self, layer: int, q_NHD: Tensor) -> Tensor:
        """Attend to what is stored, all sequences that have one new token in one call."""
        tokens_S, together = self._together
        if self.is_decode:
            return together.read(layer, q_NHD)
        out_NHD = torch.empty_like(q_NHD)
        out_NHD[tokens_S] = together.read(layer, q_NHD[tokens_S])
        tokens_M, others = self._others
        out_NHD[tokens_M] = others._attend_apart(layer, q_NHD[tokens_M])  # noqa: SLF001 another of this class
        return out_NHD


def _causal(q_STHD: Tensor, k_STGD: Tensor, v_STGD: Tensor) -> Tensor:
    """Attention of whole sequences to themselves, [S, T, H, D]."""
    q_SHTD, k_SGTD, v_SGTD = (x.transpose(1, 2) for x in (q_STHD, k_STGD, v_STGD))
    return _sdpa(q_SHTD, k_SGTD, v_SGTD, mask=None, scale=q_STHD.shape[-1] ** -0.5).transpose(1, 2)


def _attend_pieces(q_1HQD: Tensor, pieces: list[tuple[Tensor, Tensor]], *, mask: Tensor | None, scale: float) -> Tensor:
    """Attention of one sequence to keys and values in one piece or several, each [1, G, C, D]; returns [1, H, Q, D]."""
    if len(pieces) == 1:
        return _sdpa(q_1HQD, *pieces[0], mask=mask, scale=scale)
    if q_1HQD.shape[2] > 1:
        k_1GCD, v_1GCD = (torch.cat(parts, dim=2) for parts in zip(*pieces, strict=True))
        return _sdpa(q_1HQD, k_1GCD, v_1GCD, mask=mask, scale=scale)
    # For one query a copy of all that it reads would be most of the work; the scores are little.
    q_GRD = q_1HQD.view(pieces[0][0].shape[1], -1, q_1HQD.shape[-1])
    scores = [torch.bmm(q_GRD, k_1GCD[0].to(q_GRD.dtype).transpose(1, 2)) for k_1GCD, _ in pieces]
    weights_GRC = (torch.cat(scores, dim=-1) * scale).softmax(dim=-1)
    out_GRD = torch.zeros_like(q_GRD)
    shares = torch.split(weights_GRC, [k_1GCD.shape[2] for k_1GCD, _ in pieces], dim=-1)
    for share_GRC, (_, v_1GCD) in zip(shares, pieces, strict=True):
        out_GRD.baddbmm_(share_GRC, v_1GCD[0].to(q_GRD.dtype))
    return out_GRD.view(q_1HQD.shape)


def _sdpa(q_SHQD: Tensor, k_SGCD: Tensor, v_SGCD: Tensor, *, mask: Tensor | None, scale: float) -> Tensor:
    """PyTorch's attention, [S, H, Q, D]; causal where there are as many positions as queries, and more than one."""
    if k_SGCD.dtype is not q_SHQD.dtype:
        k_SGCD, v_SGCD = k_SGCD.to(q_SHQD.dtype), v_SGCD.to(q_SHQD.dtype)
    return F.scaled_dot_product_attention(
        q_SHQD,
        k_SGCD,
        v_SGCD,
        attn_mask=mask,
        is_causal=mask is None and 1 < q_SHQD.shape[2] == k_SGCD.shape[2],
        scale=scale,
        enable_gqa=q_SHQD.shape[1] != k_SGCD.shape[1],
    )


def _padded_to(q: Tensor, stored_dim: int) -> Tensor:
    """Return queries with zeros up to the width of what is stored."""
    return F.pad(q, (0, stored_dim - q.shape[-1])) if stored_dim > q.shape[-1] else q
