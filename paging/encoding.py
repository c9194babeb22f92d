"""Values to a row's bytes, and back, with torch.

Shape legend: N rows, L kept layers, D values (`hidden_size`).
"""

import math

import torch

from paging.errors import EncodingError
from paging.geometry import Encoding, TableGeometry

_DTYPES = {Encoding.BF16: torch.bfloat16, Encoding.FP16: torch.float16, Encoding.FP32: torch.float32}


def torch_dtype(encoding: Encoding) -> torch.dtype:
    """Return the dtype that holds an encoding's values without change."""
    return _DTYPES[encoding]


def encode_rows(values_NLD: torch.Tensor, geometry: TableGeometry, *, first_row: int = 0) -> torch.Tensor:
    """Encode float32 `values_NLD`, the kept layers in `geometry.layers` order; return payloads, uint8 [N, row_bytes].

    Rounds to nearest, ties to even. Raises `EncodingError` naming row (`first_row` is the number of the chunk's first)
    and layer where a value is not finite, or is so large that the encoding makes it infinite.
    """
    expected = (len(values_NLD), len(geometry.segments), geometry.hidden_size)
    if values_NLD.dtype != torch.float32 or tuple(values_NLD.shape) != expected:
        raise ValueError(f"values are {values_NLD.dtype} {tuple(values_NLD.shape)}; they must be float32 {expected}")
    if geometry.encoding is not None:
        encoded = values_NLD.to(_DTYPES[geometry.encoding])
        _check_finite(encoded, values_NLD, geometry, first_row=first_row)
        return encoded.reshape(len(encoded), -1).view(torch.uint8)
    payload = torch.empty(len(values_NLD), geometry.row_bytes, dtype=torch.uint8, device=values_NLD.device)
    for index, segment in enumerate(geometry.segments):
        part = values_NLD[:, index].to(_DTYPES[segment.encoding]).contiguous()
        _check_finite(part[:, None], values_NLD, geometry, first_row=first_row, first_segment=index)
        payload[:, segment.offset : segment.offset + segment.num_bytes] = part.view(torch.uint8)
    return payload


def decode_layer(payload: torch.Tensor, geometry: TableGeometry, layer: int) -> torch.Tensor:
    """Return one layer's values [N, D] of payloads (uint8 [N, row_bytes]) in the encoding's own dtype.

    A view where the bytes lie aligned, else a copy. `KeyError` where the table left `layer` out.
    """
    segment = geometry.segment(layer)
    part = payload[:, segment.offset : segment.offset + segment.num_bytes]
    itemsize = segment.encoding.itemsize
    aligned = part.storage_offset() % itemsize == 0 and part.stride(0) % itemsize == 0 and part.stride(1) == 1
    return (part if aligned else part.contiguous()).view(_DTYPES[segment.encoding])


def _check_finite(
    encoded: torch.Tensor, values_NLD: torch.Tensor, geometry: TableGeometry, *, first_row: int, first_segment: int = 0
) -> None:
    """Raise unless all of `encoded`, [N, segments from `first_segment` on, D], is finite."""
    finite = torch.isfinite(encoded)
    if finite.all():
        return
    row, index, column = (int(number) for number in torch.nonzero(~finite)[0])
    value = float(values_NLD[row, first_segment + index, column])
    segment = geometry.segments[first_segment + index]
    if not math.isfinite(value):
        reason = "is not finite; the model's weights are broken"
    elif segment.encoding is Encoding.BF16:
        reason = "does not fit bf16; use fp32"
    else:
        reason = f"does not fit {segment.encoding}; use bf16 or fp32"
    raise EncodingError(f"row {first_row + row}, layer {segment.layer}: the value {value:g} {reason}")
