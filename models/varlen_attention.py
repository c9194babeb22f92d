"""Attention of chunks of several sequences over the keys and values of their whole contexts, in one call on a GPU.

Knows PyTorch's kernel for packed sequences of different lengths, what it takes, and how contexts are gathered out of a
cache for it: its own block tables want blocks of 256 positions. Elsewhere, and where the kernel is not to be had, each
sequence attends by itself (`models/attention.py`), which is the reference.

Shape legend: S sequences, N new tokens of all of them, C positions of all their contexts, H query heads, G key/value
heads, D head dimension, D' as stored, B blocks of a sequence.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from models.kv_cache import BlockTable, KVCache

MOST_GATHERED = 16_384
"""Positions whose keys and values are gathered at once, where there is more than one sequence: 128 MiB at 1B size."""
_DTYPES = (torch.bfloat16, torch.float16)
_HEAD_DIM_MULTIPLE, _MOST_HEAD_DIM = 8, 256
_LEAST_CAPABILITY = (8, 0)
_TOLERANCE = 0.05
"""Of the trial, with values of about 1 in 16 bits; a wrong mask is off by far more."""


@dataclass(frozen=True, kw_only=True)
class PackedChunks:
    """Chunks of several sequences, one after another, and where in a cache their contexts are."""

    tokens: slice
    """Those of the chunks in the batch."""
    query_starts: Tensor
    """Where each chunk's tokens begin among them, and their number; int32 [S + 1]."""
    context_starts: Tensor
    """Where each context begins among all, and the positions of all; int32 [S + 1]."""
    slots_C: Tensor
    """The slot of each position of all contexts, int64; a chunk's tokens are its context's last positions."""
    most_tokens: int
    """Of one chunk."""
    most_positions: int
    """Of one context."""


AttendPacked: TypeAlias = Callable[[Tensor, Tensor, Tensor, PackedChunks, float], Tensor]
"""The arguments and the result of `attend_packed`."""


def attend_packed(q_NHD: Tensor, k_CGD: Tensor, v_CGD: Tensor, chunks: PackedChunks, scale: float) -> Tensor:
    """Return each chunk's causal attention to its context, [N, H, D], by plain operations: the reference."""
    parts_QHD: list[Tensor] = []
    bounds = (pairwise(starts.tolist()) for starts in (chunks.query_starts, chunks.context_starts))
    for (first_query, last_query), (first, last) in zip(*bounds, strict=True):
        position_C = torch.arange(last - first, device=q_NHD.device)
        out_HQD = F.scaled_dot_product_attention(
            q_NHD[first_query:last_query].transpose(0, 1),
            k_CGD[first:last].transpose(0, 1),
            v_CGD[first:last].transpose(0, 1),
            attn_mask=position_C <= position_C[first_query - last_query :, None],
            scale=scale,
            enable_gqa=q_NHD.shape[1] != k_CGD.shape[1],
        )
        parts_QHD.append(out_HQD.transpose(0, 1))
    return torch.cat(parts_QHD)


def pack_chunks(
    query_lengths: Sequence[int],
    context_lengths: Sequence[int],
    block_tables: Sequence[BlockTable],
    *,
    device: torch.device,
    most_gathered: int = MOST_GATHERED,
) -> list[PackedChunks]:
    """Pack the chunks of a batch: all together, or so many at a time that at most `most_gathered` positions are.

    query_lengths: new tokens of each sequence, in batch order. context_lengths: its positions once they are in.
    block_tables: its blocks, for all of those.
    """
    groups: list[range] = []
    first = num_positions = 0
    for index, length in enumerate(context_lengths):
        if index > first and num_positions + length > most_gathered:
            groups.append(range(first, index))
            first, num_positions = index, 0
        num_positions += length
    groups.append(range(first, len(context_lengths)))
    packed: list[PackedChunks] = []
    token = 0
    for group in groups:
        queries, contexts = ([lengths[index] for index in group] for lengths in (query_lengths, context_lengths))
        starts = torch.tensor([[0, *accumulate(queries)], [0, *accumulate(contexts)]], dtype=torch.int32, device=device)
        packed.append(
            PackedChunks(
                tokens=slice(token, token + sum(queries)),
                query_starts=starts[0],
                context_starts=starts[1],
                slots_C=_slots(contexts, [block_tables[index] for index in group], starts[1]),
                most_tokens=max(queries),
                most_positions=max(contexts),
            )
        )
        token += sum(queries)
    return packed


def attend_chunks(
    kv_cache: KVCache, layer: int, q_NHD: Tensor, packed: Sequence[PackedChunks], kernel: AttendPacked
) -> Tensor:
    """Return the causal attention of chunks to their contexts, which are stored, [N, H, D]."""
    head_dim, stored_dim = q_NHD.shape[-1], kv_cache.keys.shape[-1]
    q_NHD = F.pad(q_NHD, (0, stored_dim - head_dim))
    parts_NHD: list[Tensor] = []
    for chunks in packed:
        k_CGD, v_CGD = (
            store[layer].flatten(1, 2).index_select(1, chunks.slots_C).transpose(0, 1)
            for store in (kv_cache.keys, kv_cache.values)
        )
        parts_NHD.append(kernel(q_NHD[chunks.tokens], k_CGD, v_CGD, chunks, head_dim**-0.5))
    return torch.cat(parts_NHD)[..., :head_dim]


def kernel_for(q_NHD: Tensor, kv_cache: KVCache) -> AttendPacked | None:
    """Return the kernel for such queries over this cache; None where chunks have to attend one by one."""
    if not q_NHD.is_cuda or q_NHD.dtype is not kv_cache.keys.dtype:
        return None
    num_groups, stored_dim = kv_cache.keys.shape[1], kv_cache.keys.shape[-1]
    return _kernel_for(q_NHD.device, q_NHD.dtype, q_NHD.shape[1], num_groups, stored_dim)


@cache
def _kernel_for(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_groups: int, head_dim: int
) -> AttendPacked | None:
    if dtype not in _DTYPES or head_dim % _HEAD_DIM_MULTIPLE or head_dim > _MOST_HEAD_DIM:
        return None
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return None
    kernel = varlen_kernel()
    if kernel is None or not is_right(kernel, device, dtype, (num_heads, num_groups, head_dim)):
        return None
    return kernel


def varlen_kernel() -> AttendPacked | None:
    """Return PyTorch's kernel; None where this PyTorch has none."""
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415 needed with a GPU only

        # 2.11 lets heads share keys and values unasked, and takes no such argument.
        has_switch = "enable_gqa" in inspect.signature(varlen_attn).parameters
        shared: dict[str, Any] = {"enable_gqa": True} if has_switch else {}

        def attend(q_NHD: Tensor, k_CGD: Tensor, v_CGD: Tensor, chunks: PackedChunks, scale: float) -> Tensor:
            out_NHD = varlen_attn(
                q_NHD,
                k_CGD,
                v_CGD,
                chunks.query_starts,
                chunks.context_starts,
                chunks.most_tokens,
                chunks.most_positions,
                scale=scale,
                window_size=(-1, 0),  # causal, the last query at the last position
                **shared,
            )
            assert isinstance(out_NHD, Tensor), "nothing beside it was asked for"
            return out_NHD

        return attend
    return None


def is_right(kernel: AttendPacked, device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> bool:
    """Whether a kernel gives what plain operations give, on a trial of heads of this `shape` [H, G, D].

    The kernel is of an interface that its makers call a prototype: what it takes and where it puts the causal mask has
    changed before.
    """
    num_heads, num_groups, head_dim = shape
    tables = [BlockTable(16, [0]), BlockTable(16, [1, 2, 3, 4, 5])]
    (chunks,) = pack_chunks([5, 3], [5, 70], tables, device=device)
    generator = torch.Generator().manual_seed(0)
    q_NHD, k_CGD, v_CGD = (
        torch.randn(length, heads, head_dim, generator=generator).to(device, dtype)
        for length, heads in ((8, num_heads), (75, num_groups), (75, num_groups))
    )
    arguments = (q_NHD, k_CGD, v_CGD, chunks, head_dim**-0.5)
    try:
        actual = kernel(*arguments)
    except (RuntimeError, TypeError, ValueError):
        return False
    return torch.allclose(actual.float(), attend_packed(*arguments).float(), rtol=0, atol=_TOLERANCE)


def _slots(lengths: Sequence[int], tables: Sequence[BlockTable], starts: Tensor) -> Tensor:
    """Return the slots of contexts of these lengths, one after another, made where `starts` are: few numbers travel."""
    device, block_size = starts.device, tables[0].block_size
    rows = [table.blocks[: -(-length // block_size)] for table, length in zip(tables, lengths, strict=True)]
    longest = max(map(len, rows))
    blocks_SB = torch.tensor([row + row[:1] * (longest - len(row)) for row in rows], device=device)
    sequence_C = torch.repeat_interleave(
        torch.arange(len(rows), device=device), starts.diff(), output_size=sum(lengths)
    )
    position_C = torch.arange(sum(lengths), device=device) - starts[sequence_C]
    return blocks_SB[sequence_C, position_C // block_size] * block_size + position_C % block_size
