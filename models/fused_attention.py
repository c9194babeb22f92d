# mypy: disable-error-code="import-not-found, import-untyped"
"""Attention of one new token each over blocks of keys and values, in kernels for GPUs.

Knows Triton, which comes with PyTorch's builds for CUDA; imported where there is a GPU only. `attend_blocks` in
`models/decode_attention.py` is the reference. Nothing is copied out of the cache: a program reads a part of one
sequence's positions for one query head and keeps a running softmax; the parts are put together in the end. Programs of
heads that share keys and values run side by side and find them in the GPU's cache.

Annotations of kernels' arguments are quoted because the compiler reads them, and knows none but its own.

Shape legend: S sequences, H query heads, G key/value heads, D head dimension, N blocks of the cache, P positions per
block, B blocks of a sequence, Z parts of a sequence, T positions that a program reads at a time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_VALUES = 4096
"""Of keys in registers: T times the head dimension."""
_ENOUGH_PROGRAMS = 1024
"""About eight for each multiprocessor of a large GPU; with fewer, contexts are cut into parts."""
_MOST_PARTS = 32


def fused_attend_blocks(
    q_SHD: Tensor, keys_GNPD: Tensor, values_GNPD: Tensor, blocks_SB: Tensor, lengths_S: Tensor
) -> Tensor:
    """Return attention over the blocks' first `lengths_S` positions, [S, H, D], computed in float32."""
    num_sequences, num_heads, head_dim = q_SHD.shape
    num_groups, _, block_size, _ = keys_GNPD.shape
    q_SHD = q_SHD.contiguous()
    out_SHD = torch.empty_like(q_SHD)
    if not num_sequences:
        return out_SHD
    width = triton.next_power_of_2(head_dim)
    tile = max(16, _TILE_VALUES // width)
    num_parts = parts_of(num_sequences * num_heads, blocks_SB.shape[1] * block_size, tile)
    parts_SHZD, tops_SHZ, totals_SHZ = out_SHD, out_SHD, out_SHD  # what is not read or written, where there is one part
    if num_parts > 1:
        shape = (num_sequences, num_heads, num_parts)
        parts_SHZD = q_SHD.new_empty((*shape, head_dim), dtype=torch.float32)
        tops_SHZ, totals_SHZ = (q_SHD.new_empty(shape, dtype=torch.float32) for _ in range(2))
    _attend_kernel[num_heads, num_sequences, num_parts](
        q_SHD,
        keys_GNPD,
        values_GNPD,
        blocks_SB,
        lengths_S,
        parts_SHZD,
        tops_SHZ,
        totals_SHZ,
        head_dim**-0.5,
        keys_GNPD.stride(0),
        keys_GNPD.stride(2),
        blocks_SB.stride(0),
        SHARE=num_heads // num_groups,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        WIDTH=width,
        TILE=tile,
        PARTS=num_parts,
    )
    if num_parts > 1:
        _merge_kernel[num_heads, num_sequences](
            parts_SHZD, tops_SHZ, totals_SHZ, out_SHD, HEAD_DIM=head_dim, WIDTH=width, PARTS=num_parts
        )
    return out_SHD


def parts_of(num_programs: int, most_positions: int, tile: int) -> int:
    """Return into how many parts contexts are cut, a power of two: of shapes alone, so that a batch's bits are too."""
    wanted = min(_ENOUGH_PROGRAMS // num_programs, -(-most_positions // tile), _MOST_PARTS)
    return 1 << max(0, wanted.bit_length() - 1)


def _attend(  # noqa: PLR0917 Triton passes arguments by position
    q: "Any",
    keys: "Any",
    values: "Any",
    blocks: "Any",
    lengths: "Any",
    out: "Any",
    tops: "Any",
    totals: "Any",
    scale: "Any",
    group_stride: "Any",
    slot_stride: "Any",
    table_stride: "Any",
    SHARE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    head = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    part = tl.program_id(2)
    group = (head // SHARE).to(tl.int64)
    column_D = tl.arange(0, WIDTH)
    is_value_D = column_D < HEAD_DIM
    row = sequence * tl.num_programs(0) + head
    q_D = tl.load(q + row * HEAD_DIM + column_D, mask=is_value_D, other=0).to(tl.float32) * scale
    length = tl.load(lengths + sequence).to(tl.int32)
    num_tiles = tl.cdiv(length, TILE)
    tiles_each = tl.cdiv(num_tiles, PARTS)
    first = part * tiles_each
    last = tl.minimum(first + tiles_each, num_tiles)
    top = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    sum_D = tl.zeros((WIDTH,), tl.float32)
    for tile in range(first, last):
        position_T = tile * TILE + tl.arange(0, TILE)
        is_held_T = position_T < length
        block_T = tl.load(blocks + sequence * table_stride + position_T // BLOCK_SIZE, mask=is_held_T, other=0)
        slot_T = block_T.to(tl.int64) * BLOCK_SIZE + position_T % BLOCK_SIZE
        at_TD = group * group_stride + slot_T[:, None] * slot_stride + column_D[None, :]
        is_held_TD = is_held_T[:, None] & is_value_D[None, :]
        k_TD = tl.load(keys + at_TD, mask=is_held_TD, other=0).to(tl.float32)
        v_TD = tl.load(values + at_TD, mask=is_held_TD, other=0).to(tl.float32)
        score_T = tl.where(is_held_T, tl.sum(q_D[None, :] * k_TD, axis=1), float("-inf"))
        new_top = tl.maximum(top, tl.max(score_T, axis=0))  # finite: each tile holds a position
        weight_T = tl.exp(score_T - new_top)
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(weight_T, axis=0)
        sum_D = sum_D * shrink + tl.sum(weight_T[:, None] * v_TD, axis=0)
        top = new_top
    if PARTS == 1:
        tl.store(out + row * HEAD_DIM + column_D, sum_D / total, mask=is_value_D)
    else:
        place = row * PARTS + part
        tl.store(out + place * HEAD_DIM + column_D, sum_D, mask=is_value_D)
        one = tl.arange(0, 1)
        tl.store(tops + place + one, top)
        tl.store(totals + place + one, total)


def _merge(  # noqa: PLR0917 Triton passes arguments by position
    parts: "Any",
    tops: "Any",
    totals: "Any",
    out: "Any",
    HEAD_DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    row = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    place_Z = row * PARTS + tl.arange(0, PARTS)
    column_D = tl.arange(0, WIDTH)
    top_Z = tl.load(tops + place_Z)
    # A part without positions has a top of -inf, and so a weight of 0; the first part has some.
    weight_Z = tl.exp(top_Z - tl.max(top_Z, axis=0))
    total = tl.sum(weight_Z * tl.load(totals + place_Z), axis=0)
    is_value_D = column_D < HEAD_DIM
    part_ZD = tl.load(parts + place_Z[:, None] * HEAD_DIM + column_D[None, :], mask=is_value_D[None, :], other=0)
    sum_D = tl.sum(weight_Z[:, None] * part_ZD, axis=0)
    tl.store(out + row * HEAD_DIM + column_D, sum_D / total, mask=is_value_D)


_attend_kernel = triton.jit(_attend)
_merge_kernel = triton.jit(_merge)
