"""Values to integers with scales, and back: int8 and int4, bytes as `docs/formats.md` says.

Rounds to nearest, ties to even, and is a pure function of each row. Knows nothing of rows and layers: what comes in are
vectors. Decoding multiplies in float32, in one order, so that every implementation gives the same bits.

Shape legend: M vectors, D values of a vector, G groups of a vector, g values of a group, H half of D. A leading `*` is
any dimensions.
"""

import torch
from torch import Tensor

from paging.layer_encoding import STEP_BYTES

LARGEST = 2.0**127
"""Magnitudes beyond this might not be finite any more once they are decoded."""

_DIVISORS = (7.0, 6.5, 7.3, 7.6, 8.0, 8.5, 9.0, 9.6, 10.4, 11.5)
"""A group's largest magnitude over its scale: what is tried. Beyond 7 something is cut off to make the rest finer."""
_BLOCK_VALUES = 1 << 16
"""Encoded at a time, so that what is tried again and again stays in a processor's cache."""
_NOMINAL_MULTIPLIER = 128
"""Of the group with the largest magnitude, where that is 7 units: a power of two, so that exact scales stay exact."""


def encode_int8(values_MD: Tensor) -> Tensor:
    """Return float32 vectors as bytes, uint8 [M, 4 + D]: the step, then each value in steps, -127 to 127."""
    step_M1 = _normal(values_MD.abs().amax(1, keepdim=True) / 127)
    steps_MD = (values_MD / _divisor(step_M1)).round_().clamp_(-127, 127)
    return torch.cat([step_M1.view(torch.uint8), steps_MD.to(torch.int8).view(torch.uint8)], dim=1)


def decode_int8(encoded: Tensor) -> Tensor:
    """Return the values, float32 [*, D], of bytes [*, 4 + D]."""
    return encoded[..., STEP_BYTES:].view(torch.int8) * _step(encoded)


def encode_int4(values_MD: Tensor, group_size: int) -> Tensor:
    """Return float32 vectors as bytes, uint8 [M, 4 + G + H]: the step, multipliers, nibbles.

    Each group's multiplier is, of those tried, the one with the least squared error.
    """
    block = max(1, _BLOCK_VALUES // values_MD.shape[1])
    blocks = [
        _encode_int4_block(values_MD[start : start + block], group_size) for start in range(0, len(values_MD), block)
    ]
    return torch.cat(blocks) if blocks else _encode_int4_block(values_MD, group_size)


def _encode_int4_block(values_MD: Tensor, group_size: int) -> Tensor:
    num_groups = values_MD.shape[1] // group_size
    values_MGg = values_MD.reshape(len(values_MD), num_groups, group_size)
    peak_MG = values_MGg.abs().amax(2)
    # In sixteenths: a nibble is decoded as the high half of a byte.
    step_M1 = _normal(peak_MG.amax(1, keepdim=True) / (7 * 16 * _NOMINAL_MULTIPLIER))
    whole_M1 = 16 * _divisor(step_M1)
    best_MG, multiplier_MG = torch.full_like(peak_MG, torch.inf), torch.zeros_like(peak_MG)
    for divisor in _DIVISORS:
        tried_MG = (peak_MG / (whole_M1 * divisor)).round_().clamp_(1, 255)
        scale_MG1 = (whole_M1 * tried_MG)[:, :, None]
        error_MGg = _in_units(values_MGg, scale_MG1).mul_(scale_MG1).sub_(values_MGg)
        error_MG = error_MGg.square_().sum(2)
        better_MG = error_MG < best_MG
        best_MG = torch.where(better_MG, error_MG, best_MG)
        multiplier_MG = torch.where(better_MG, tried_MG, multiplier_MG)
    # Without a step everything is zero, whatever the multiplier.
    units_MGg = _in_units(values_MGg, (whole_M1 * multiplier_MG.clamp_min(1))[:, :, None])
    nibbles_MD = units_MGg.flatten(1).to(torch.int8).view(torch.uint8) & 0x0F
    half = nibbles_MD.shape[1] // 2
    packed_MH = nibbles_MD[:, :half] | (nibbles_MD[:, half:] << 4)
    return torch.cat([step_M1.view(torch.uint8), multiplier_MG.to(torch.uint8), packed_MH], dim=1)


def _in_units(values_MGg: Tensor, scale_MG1: Tensor) -> Tensor:
    return (values_MGg / scale_MG1).round_().clamp_(-8, 7)


def decode_int4(encoded: Tensor, group_size: int) -> Tensor:
    """Return the values, float32 [*, D], of bytes [*, 4 + G + H]."""
    # D / g multipliers and D / 2 nibbles' bytes.
    num_groups = 2 * (encoded.shape[-1] - STEP_BYTES) // (2 + group_size)
    scales = encoded[..., STEP_BYTES : STEP_BYTES + num_groups] * _step(encoded)
    packed = encoded[..., STEP_BYTES + num_groups :]
    nibbles = packed.new_empty(*packed.shape[:-1], 2, packed.shape[-1])
    torch.mul(packed, 16, out=nibbles[..., 0, :])
    torch.bitwise_and(packed, 0xF0, out=nibbles[..., 1, :])
    signed = nibbles.view(torch.int8).view(*scales.shape, group_size)
    return (signed * scales[..., None]).flatten(-2)


def _step(encoded: Tensor) -> Tensor:
    """Return the float32 that bytes begin with, [*, 1]."""
    # A copy in any case: where the bytes lie they may not be aligned.
    return encoded[..., :STEP_BYTES].clone(memory_format=torch.contiguous_format).view(torch.float32)


def _normal(step_M1: Tensor) -> Tensor:
    """Return steps, 0 in place of those too small to be multiplied exactly: their vectors are stored as zeros."""
    return torch.where(step_M1 < torch.finfo(torch.float32).tiny, 0, step_M1)


def _divisor(step_M1: Tensor) -> Tensor:
    """Return what to divide by: infinity in place of 0, so that a vector of zeros stays one."""
    return torch.where(step_M1 == 0, torch.inf, step_M1)
