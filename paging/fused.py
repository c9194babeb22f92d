# mypy: disable-error-code="import-not-found, import-untyped"
"""Picking rows out of slots, decoding them and adding them to hidden states in one kernel, on a GPU.

Knows Triton, which comes with PyTorch's builds for CUDA; imported where there is a GPU only. `pick` and `add_values` in
`paging/layers.py` are the reference, and the bits are the same.

Annotations of kernels' arguments are quoted because the compiler reads them, and knows none but its own.

Shape legend: S slots, N rows of a batch, L layers of a run, P bytes of a layer's part, C numbers stored for a layer,
D values (`hidden_size`).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from paging.encoding import torch_dtype
from paging.layer_encoding import STEP_BYTES, LayerEncoding

_BLOCK = 1024
"""Bytes of a part that one program decodes; of floats, values."""


def fused_pick(stored: Tensor, kind: LayerEncoding, index_N: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the numbers [N, *, C] of the parts [S, *, P] in these slots, by one kernel."""
    out = torch.empty(
        len(index_N),
        *stored.shape[1:-1],
        _num_values(stored, kind),
        dtype=dtype or torch_dtype(kind.encoding),
        device=stored.device,
    )
    if out.numel():
        _launch(stored, kind, index_N, out.flatten(0, -2), None)
    return out


def fused_add(
    stored: Tensor, kind: LayerEncoding, index_N: Tensor, hidden_ND: Tensor, alpha_N: Tensor | None
) -> Tensor:
    """Add the values of the parts [S, P] in these slots to hidden states in place, and return them.

    Values are rounded to the hidden states' dtype before they are scaled, and again before they are added, as separate
    operations would. The parts may also lie in pinned host memory, which the device then reads by itself.
    """
    if hidden_ND.numel():
        _launch(stored, kind, index_N, hidden_ND, alpha_N, adds=True)
    return hidden_ND


def _num_values(stored: Tensor, kind: LayerEncoding) -> int:
    """Return how many numbers a part holds."""
    size = stored.shape[-1]
    if kind.encoding.is_float:
        return size if stored.dtype != torch.uint8 else size // kind.encoding.itemsize
    if kind.group_size is None:
        return size - STEP_BYTES
    return 2 * (size - STEP_BYTES) * kind.group_size // (2 + kind.group_size)


def _launch(
    stored: Tensor, kind: LayerEncoding, index_N: Tensor, out: Tensor, alpha_N: Tensor | None, *, adds: bool = False
) -> None:
    """Decode into `out`, one row of it for each part, or add to it."""
    if kind.encoding.is_float and stored.dtype == torch.uint8:
        stored = stored.contiguous().view(torch_dtype(kind.encoding))  # never so in a slab, whose slots are aligned
    num_layers = stored.shape[1] if stored.dim() == 3 else 1
    size = _num_values(stored, kind)
    strides = (stored.stride(0), stored.stride(1) if stored.dim() == 3 else 0, out.stride(0))
    # What is not there takes the place of a pointer that is not read.
    alpha, alpha_stride = (out, 0) if alpha_N is None else (alpha_N, alpha_N.stride(0))
    arguments = (stored, index_N, out, alpha, *strides, alpha_stride, num_layers, size)
    # A product that is fused with the sum after it is not rounded, and separate operations round it.
    options = {"ADDS": adds, "SCALES": alpha_N is not None, "BLOCK": _BLOCK, "enable_fp_fusion": False}
    programs = len(index_N) * num_layers
    if kind.encoding.is_float:
        _float_kernel[programs, triton.cdiv(size, _BLOCK)](*arguments, **options)
    elif kind.group_size is None:
        _int8_kernel[programs, triton.cdiv(size, _BLOCK)](*arguments, **options)
    else:
        _int4_kernel[programs, triton.cdiv(size // 2, _BLOCK)](*arguments, GROUP=kind.group_size, **options)


def _locate(stored: "Any", index: "Any", slot_stride: "Any", layer_stride: "Any", num_layers: "Any") -> Any:
    """Return where this program's part begins."""
    program = tl.program_id(0)
    slot = tl.load(index + program // num_layers).to(tl.int64)
    return stored + slot * slot_stride + (program % num_layers) * layer_stride


def _load_step(part: "Any") -> Any:
    """Return the float32 that a part begins with; it need not be aligned."""
    bits = tl.load(part).to(tl.uint32)
    bits |= tl.load(part + 1).to(tl.uint32) << 8
    bits |= tl.load(part + 2).to(tl.uint32) << 16
    bits |= tl.load(part + 3).to(tl.uint32) << 24
    return bits.to(tl.float32, bitcast=True)


def _put(  # noqa: PLR0917 Triton passes arguments by position
    to: "Any", values: "Any", inside: "Any", alpha: "Any", alpha_stride: "Any", ADDS: tl.constexpr, SCALES: tl.constexpr
) -> None:
    """Store float32 values, or add them to what is there."""
    if ADDS:
        kept = tl.load(to, mask=inside, other=0)
        values = values.to(kept.dtype).to(tl.float32)
        if SCALES:
            scale = tl.load(alpha + tl.program_id(0) * alpha_stride).to(tl.float32)
            values = (values * scale).to(kept.dtype).to(tl.float32)
        values = kept.to(tl.float32) + values
    tl.store(to, values, mask=inside)


def _float(  # noqa: PLR0917 Triton passes arguments by position
    stored: "Any",
    index: "Any",
    out: "Any",
    alpha: "Any",
    slot_stride: "Any",
    layer_stride: "Any",
    out_stride: "Any",
    alpha_stride: "Any",
    num_layers: "Any",
    size: "Any",
    ADDS: tl.constexpr,
    SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    values = tl.load(part + offsets, mask=inside, other=0).to(tl.float32)
    to = out + tl.program_id(0).to(tl.int64) * out_stride + offsets
    _put_jit(to, values, inside, alpha, alpha_stride, ADDS, SCALES)


def _int8(  # noqa: PLR0917 Triton passes arguments by position
    stored: "Any",
    index: "Any",
    out: "Any",
    alpha: "Any",
    slot_stride: "Any",
    layer_stride: "Any",
    out_stride: "Any",
    alpha_stride: "Any",
    num_layers: "Any",
    size: "Any",
    ADDS: tl.constexpr,
    SCALES: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < size
    steps = tl.load(part + 4 + offsets, mask=inside, other=0).to(tl.int8, bitcast=True)
    to = out + tl.program_id(0).to(tl.int64) * out_stride + offsets
    _put_jit(to, steps.to(tl.float32) * _load_step_jit(part), inside, alpha, alpha_stride, ADDS, SCALES)


def _int4(  # noqa: PLR0917 Triton passes arguments by position
    stored: "Any",
    index: "Any",
    out: "Any",
    alpha: "Any",
    slot_stride: "Any",
    layer_stride: "Any",
    out_stride: "Any",
    alpha_stride: "Any",
    num_layers: "Any",
    size: "Any",
    ADDS: tl.constexpr,
    SCALES: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = _locate_jit(stored, index, slot_stride, layer_stride, num_layers)
    step = _load_step_jit(part)
    half = size // 2
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < half
    packed = tl.load(part + 4 + size // GROUP + offsets, mask=inside, other=0).to(tl.int32)
    to = out + tl.program_id(0).to(tl.int64) * out_stride + offsets
    # A nibble counts as the high half of a signed byte.
    first = (((packed & 15) ^ 8) - 8) * 16
    scale = tl.load(part + 4 + offsets // GROUP, mask=inside, other=0).to(tl.float32) * step
    _put_jit(to, first.to(tl.float32) * scale, inside, alpha, alpha_stride, ADDS, SCALES)
    second = (((packed >> 4) ^ 8) - 8) * 16
    scale = tl.load(part + 4 + (half + offsets) // GROUP, mask=inside, other=0).to(tl.float32) * step
    _put_jit(to + half, second.to(tl.float32) * scale, inside, alpha, alpha_stride, ADDS, SCALES)


_locate_jit = triton.jit(_locate)
_load_step_jit = triton.jit(_load_step)
_put_jit = triton.jit(_put)
_float_kernel = triton.jit(_float)
_int8_kernel = triton.jit(_int8)
_int4_kernel = triton.jit(_int4)
