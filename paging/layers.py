"""From a slab of encoded rows to the values of one layer.

Shape legend: S slots, N rows of a batch, R bytes of a row, P bytes of a layer's part, D values (`hidden_size`).
"""

from dataclasses import replace

from torch import Tensor

from paging.encoding import decode_layer, torch_dtype
from paging.geometry import Encoding, Segment, TableGeometry

_FLOATS = (Encoding.BF16, Encoding.FP16, Encoding.FP32)


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

    def gather(self, index_N: Tensor, layer: int) -> Tensor:
        """Return one layer's values of the rows in these slots, [N, D]; zeros where the table left the layer out."""
        if layer in self._values_SD:
            return self._values_SD[layer].index_select(0, index_N)
        if layer not in self._parts:
            return self._payload_SR.new_zeros(len(index_N), self._hidden_size, dtype=self._dtype)
        part, geometry = self._parts[layer]
        return decode_layer(self._payload_SR[:, part].index_select(0, index_N), geometry, layer)
