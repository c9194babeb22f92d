"""From a slab of encoded rows to the values of one layer.

Shape legend: S slots, N rows of a batch, R bytes of a row, P bytes of a layer's part, D values (`hidden_size`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from paging.encoding import decode_layer, torch_dtype
from paging.geometry import Encoding, Segment, TableGeometry

_FLOATS = (Encoding.BF16, Encoding.FP16, Encoding.FP32)
_MOST_DECODED_BYTES = 16 * 2**20
"""Whole rows are decoded together up to here; what a long prompt decodes stays one layer at a time."""


def _is_view(segment: Segment, payload_SR: Tensor) -> bool:
    """Whether a layer's values, of all slots together, are there without a copy."""
    itemsize = segment.encoding.itemsize
    aligned = segment.offset % itemsize == 0 and payload_SR.stride(0) % itemsize == 0
    return aligned and segment.encoding in _FLOATS


class LayerReader:
    """Picks a layer's part of the rows in some slots and decodes what it picked, not more."""

    def __init__(self, geometry: TableGeometry, payload_SR: Tensor) -> None:
        self._payload_SR = payload_SR
        self._hidden_size = geometry.hidden_size
        self._dtype = torch_dtype(geometry.segments[0].encoding)
        # The slab never moves, and of floats decoding is only another view of it: made once, it takes half the time.
        self._values_SD = {
            segment.layer: decode_layer(payload_SR, geometry, segment.layer)
            for segment in geometry.segments
            if _is_view(segment, payload_SR)
        }
        self._parts = {
            segment.layer: (
                slice(segment.offset, segment.offset + segment.num_bytes),
                replace(geometry, segments=(replace(segment, offset=0),)),
            )
            for segment in geometry.segments
        }
        self._rows_SLD: Tensor | None = None
        if geometry.encoding is not None and len(self._values_SD) == len(geometry.segments):
            shape = (len(payload_SR), len(geometry.segments), geometry.hidden_size)
            self._rows_SLD = payload_SR.view(self._dtype).view(shape)

    def decode(self, index_N: Tensor, dtype: torch.dtype | None) -> dict[int, Tensor]:
        """Return all layers of the rows in these slots by layer, each [N, D], not contiguous; `dtype` None: as encoded.

        Empty where that would take too much memory, or where the layers' encodings differ: gather them one by one. A
        call for all 24 layers of one row takes 15 us, where one for each takes 110 (bf16 to fp32).
        """
        rows_SLD = self._rows_SLD
        if rows_SLD is None:
            return {}
        dtype = dtype or self._dtype
        if len(index_N) * rows_SLD[0].numel() * dtype.itemsize > _MOST_DECODED_BYTES:
            return {}
        rows_NLD = rows_SLD.index_select(0, index_N).to(dtype)
        return dict(zip(self._parts, rows_NLD.unbind(1), strict=True))

    def gather(self, index_N: Tensor, layer: int) -> Tensor:
        """Return one layer's values of the rows in these slots, [N, D]; zeros where the table left the layer out."""
        if layer in self._values_SD:
            return self._values_SD[layer].index_select(0, index_N)
        if layer not in self._parts:
            return self._payload_SR.new_zeros(len(index_N), self._hidden_size, dtype=self._dtype)
        part, geometry = self._parts[layer]
        return decode_layer(self._payload_SR[:, part].index_select(0, index_N), geometry, layer)


class PickedRows:
    """The rows in some slots, as values."""

    def __init__(self, layers: LayerReader, index_N: Tensor) -> None:
        self._layers = layers
        self._index_N = index_N
        self._decoded: dict[int, Tensor] | None = None
        self._decoded_to: torch.dtype | None = None

    def __len__(self) -> int:
        return len(self._index_N)

    def gather(self, layer: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return one layer's values, [N, D] in `dtype`, else as encoded; zeros where the table left the layer out.

        The first call decodes all layers together where they are few enough bytes, so ask for all in one dtype. What is
        returned may be a view of that, not contiguous, and is not to be written.
        """
        if self._decoded is None or dtype is not self._decoded_to:
            self._decoded, self._decoded_to = self._layers.decode(self._index_N, dtype), dtype
        values_ND = self._decoded.get(layer)
        if values_ND is None:
            values_ND = self._layers.gather(self._index_N, layer)
            if dtype is not None:
                values_ND = values_ND.to(dtype)
        return values_ND
