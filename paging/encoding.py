"""Values to a row's bytes, and back, with torch.

Shape legend: N rows, L kept layers, D values (`hidden_size`), C numbers stored for a layer (D, or its rank), P bytes of
a layer's part.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from paging.errors import EncodingError
from paging.geometry import TableGeometry
from paging.layer_encoding import Encoding, LayerEncoding
from paging.quantise import LARGEST, decode_int4, decode_int8, encode_int4, encode_int8

_DTYPES = {
    Encoding.BF16: torch.bfloat16,
    Encoding.FP16: torch.float16,
    Encoding.FP32: torch.float32,
    Encoding.INT8: torch.float32,
    Encoding.INT4: torch.float32,
}


def torch_dtype(encoding: Encoding) -> torch.dtype:
    """Return the dtype that values are decoded to: in a float encoding the one that holds them without change."""
    return _DTYPES[encoding]


def encode_rows(
    values_NLD: Tensor,
    geometry: TableGeometry,
    *,
    first_row: int = 0,
    bases: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Encode float32 `values_NLD`, the kept layers in `geometry.layers` order; return payloads, uint8 [N, row_bytes].

    bases: [rank, D] of each layer that has a rank, its rows orthonormal.

    Rounds to nearest, ties to even. Raises `EncodingError` naming row (`first_row` is the number of the chunk's first)
    and layer where a value is not finite, or is too large for the encoding.
    """
    expected = (len(values_NLD), len(geometry.segments), geometry.hidden_size)
    if values_NLD.dtype != torch.float32 or tuple(values_NLD.shape) != expected:
        raise ValueError(f"values are {values_NLD.dtype} {tuple(values_NLD.shape)}; they must be float32 {expected}")
    _check_bases(bases or {}, geometry)
    payload = torch.empty(len(values_NLD), geometry.row_bytes, dtype=torch.uint8, device=values_NLD.device)
    for run in geometry.runs:
        if run.kind.is_plain:
            first = geometry.layers.index(run.layers[0])
            part_NLD = values_NLD[:, first : first + len(run.layers)]
            encoded = part_NLD.to(_DTYPES[run.kind.encoding])
            _check_finite(encoded, part_NLD, run.layers, run.kind.encoding, first_row=first_row)
            payload[:, run.offset : run.end] = encoded.reshape(len(encoded), -1).view(torch.uint8)
    for index, segment in enumerate(geometry.segments):
        if not segment.kind.is_plain:
            basis_CD = None if bases is None else bases.get(segment.layer)
            payload[:, segment.offset : segment.offset + segment.num_bytes] = encode_layer(
                values_NLD[:, index], segment.kind, basis_CD, layer=segment.layer, first_row=first_row
            )
    return payload


def encode_layer(
    values_ND: Tensor, kind: LayerEncoding, basis_CD: Tensor | None = None, *, layer: int = 0, first_row: int = 0
) -> Tensor:
    """Encode float32 values of one layer, uint8 [N, P]; raises as `encode_rows` does, which names `layer`."""
    _check_finite(values_ND[:, None], values_ND[:, None], (layer,), kind.encoding, first_row=first_row)
    stored_NC = values_ND
    if basis_CD is not None:
        stored_NC = values_ND @ basis_CD.to(values_ND).T
        _check_finite(stored_NC[:, None], values_ND[:, None], (layer,), kind.encoding, first_row=first_row)
    if kind.encoding is Encoding.INT8:
        return encode_int8(stored_NC)
    if kind.encoding is Encoding.INT4:
        assert kind.group_size is not None, "a geometry knows its groups"
        return encode_int4(stored_NC, kind.group_size)
    encoded = stored_NC.to(_DTYPES[kind.encoding]).contiguous()
    _check_finite(encoded[:, None], values_ND[:, None], (layer,), kind.encoding, first_row=first_row)
    return encoded.view(torch.uint8)


def decode_stored(part: Tensor, kind: LayerEncoding) -> Tensor:
    """Return the numbers of parts of rows, [*, C], in the encoding's own dtype.

    part: bytes [*, P]; in a float encoding a view of them in its dtype is as good.
    """
    if kind.encoding is Encoding.INT8:
        return decode_int8(part)
    if kind.encoding is Encoding.INT4:
        assert kind.group_size is not None, "a geometry knows its groups"
        return decode_int4(part, kind.group_size)
    return part.view(_DTYPES[kind.encoding])


def decode_layer(
    payload: Tensor, geometry: TableGeometry, layer: int, bases: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Return one layer's values [N, D] of payloads (uint8 [N, row_bytes]) in the encoding's own dtype.

    A view where floats lie aligned, else a copy. `KeyError` where the table left `layer` out, or where the layer has a
    rank and `bases` lacks its basis.
    """
    segment = geometry.segment(layer)
    part = payload[:, segment.offset : segment.offset + segment.num_bytes]
    values_NC = decode_stored(part if can_view(part, segment.encoding) else part.contiguous(), segment.kind)
    return values_NC if segment.rank is None else values_NC.float() @ (bases or {})[layer].to(part.device).float()


def can_view(part: Tensor, encoding: Encoding) -> bool:
    """Whether bytes can be seen as numbers of a float encoding where they lie; of integers they always can."""
    if not encoding.is_float:
        return True
    strides = part.stride()
    itemsize = encoding.itemsize
    return strides[-1] == 1 and all(step % itemsize == 0 for step in (part.storage_offset(), *strides[:-1]))


def _check_bases(bases: Mapping[int, Tensor], geometry: TableGeometry) -> None:
    found = {layer: tuple(basis.shape) for layer, basis in bases.items()}
    expected = {layer: (rank, geometry.hidden_size) for layer, rank in geometry.ranks.items()}
    if found != expected:
        raise ValueError(f"bases are {found}; they must be {expected}")


def _check_finite(
    encoded_NLC: Tensor, values_NLD: Tensor, layers: tuple[int, ...], encoding: Encoding, *, first_row: int
) -> None:
    """Raise unless everything encoded is finite, and not so large that integers cannot have it; names row and layer."""
    sound = torch.isfinite(encoded_NLC) if encoding.is_float else encoded_NLC.abs() <= LARGEST
    if sound.all():
        return
    row, index, _ = (int(number) for number in torch.nonzero(~sound)[0])
    values_D = values_NLD[row, index]
    value = float(values_D[values_D.abs().argmax()])  # not a number, where there is one
    if not math.isfinite(value):
        reason = "is not finite; the model's weights are broken"
    elif encoding is Encoding.BF16:
        reason = "does not fit bf16; use fp32"
    else:
        reason = f"does not fit {encoding}; use bf16 or fp32"
    raise EncodingError(f"row {first_row + row}, layer {layers[index]}: the value {value:g} {reason}")
