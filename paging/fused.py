# mypy: disable-error-code="import-not-found, import-untyped"
"""Picking rows out of slots and decoding them in one kernel, on a GPU.

Knows Triton, which comes with PyTorch's builds for CUDA; imported where there is a GPU only. `pick` in
`paging/layers.py` is the reference, and the bits are the same.

Shape legend: S slots, N rows of a batch, L layers of a run, P bytes of a layer's part, C numbers stored for a layer.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from paging.encoding import torch_dtype
from paging.layer_encoding import STEP_BYTES, Encoding, LayerEncoding

_BLOCK = 1024
"""Bytes of a part that one program decodes; of floats, values."""


def fused_pick(stored: Tensor, kind: LayerEncoding, index_N: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the numbers [N, *, C] of the parts [S, *, P] in these slots, by one kernel."""
    if kind.encoding.is_float and stored.dtype == torch.uint8:
        stored = stored.contiguous().view(torch_dtype(kind.encoding))  # never so in a slab, whose slots are aligned
    num_layers = stored.shape[1] if stored.dim() == 3 else 1
    size = stored.shape[-1]
    if kind.encoding is Encoding.INT8:
        size -= STEP_BYTES
    elif kind.group_size is not None:
        size = 2 * (size - STEP_BYTES) * kind.group_size // (2 + kind.group_size)
    out = torch.empty(
        len(index_N), *stored.shape[1:-1], size, dtype=dtype or torch_dtype(kind.encoding), device=stored.device
    )
    if not out.numel():
        return out
    strides = (stored.stride(0), stored.stride(1) if stored.dim() == 3 else 0)
    arguments = (stored, index_N, out, *strides, num_layers, size)
    programs = len(index_N) * num_layers
    if kind.encoding.is_float:
        _float_kernel[programs, triton.cdiv(size, _BLOCK)](*arguments, BLOCK=_BLOCK)
    elif kind.group_size is None:
        _int8_kernel[programs, triton.cdiv(size, _BLOCK)](*arguments, BLOCK=_BLOCK)
    else:
        _int4_kernel[programs, triton.cdiv(size // 2, _BLOCK)](*arguments, GROUP=kind.group_size, BLOCK=_BLOCK)
    return out


def _locate(stored: Any, index: Any, slot_stride: Any, layer_stride: Any, num_layers: Any) -> Any:
    """Return where this program's part begins."""
    program = tl.program_id(0)
    slot = tl.load(index + program // num_layers).to(tl.int64)
    return stored + slot * slot_stride + (program % num_layers) * layer_stride


def _load_step(part: Any) -> Any:
    """Return the float32 that a part begins with; it need not be aligned."""
    bits = tl.load(part).to(tl.uint32)
    bits |= tl.load(part + 1).to(tl.uint32) << 8
    bits |= tl.load(part + 2).to(tl.uint32) << 16
    bits |= tl.load(part + 3).to(tl.uint32) << 24
    return bits.to(tl.float32, bitcast=True)


def _float(  # noqa: PLR0917 Triton passes arguments by position
    stored: Any,
    index: Any,
    out: Any,
    slot_stride: Any,
    layer_stride: Any,
    num_layers: Any,
    size: Any,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(part + offsets, mask=offsets < size)
    to = out + tl.program_id(0).to(tl.int64) * size + offsets
    tl.store(to, values.to(tl.float32), mask=offsets < size)


def _int8(  # noqa: PLR0917 Triton passes arguments by position
    stored: Any,
    index: Any,
    out: Any,
    slot_stride: Any,
    layer_stride: Any,
    num_layers: Any,
    size: Any,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    steps = tl.load(part + 4 + offsets, mask=offsets < size, other=0).to(tl.int8, bitcast=True)
    to = out + tl.program_id(0).to(tl.int64) * size + offsets
    tl.store(to, steps.to(tl.float32) * _load_step_jit(part), mask=offsets < size)


def _int4(  # noqa: PLR0917 Triton passes arguments by position
    stored: Any,
    index: Any,
    out: Any,
    slot_stride: Any,
    layer_stride: Any,
    num_layers: Any,
    size: Any,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    step = _load_step_jit(part)
    half = size // 2
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < half
    packed = tl.load(part + 4 + size // GROUP + offsets, mask=inside, other=0).to(tl.int32)
    to = out + tl.program_id(0).to(tl.int64) * size + offsets
    # A nibble counts as the high half of a signed byte.
    first = (((packed & 15) ^ 8) - 8) * 16
    scale = tl.load(part + 4 + offsets // GROUP, mask=inside, other=0).to(tl.float32) * step
    tl.store(to, first.to(tl.float32) * scale, mask=inside)
    second = (((packed >> 4) ^ 8) - 8) * 16
    scale = tl.load(part + 4 + (half + offsets) // GROUP, mask=inside, other=0).to(tl.float32) * step
    tl.store(to + half, second.to(tl.float32) * scale, mask=inside)


_locate_jit = triton.jit(_locate)
_load_step_jit = triton.jit(_load_step)
_float_kernel = triton.jit(_float)
_int8_kernel = triton.jit(_int8)
_int4_kernel = triton.jit(_int4)
