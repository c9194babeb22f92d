"""From a slab of encoded rows to the values of one layer: the one way in which rows are decoded, wherever they lie.

Shape legend: S slots, N rows of a batch, R bytes of a row, L layers of a run, P bytes of a layer's part, C numbers
stored for a layer, D values (`hidden_size`).
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from paging.encoding import can_view, decode_stored, torch_dtype
from paging.geometry import TableGeometry
from paging.layer_encoding import LayerEncoding

_MOST_DECODED_BYTES = 16 * 2**20
"""Whole rows are decoded together up to here; what a long prompt decodes stays one layer at a time."""

Pick: TypeAlias = Callable[[Tensor, LayerEncoding, Tensor, torch.dtype | None], Tensor]
"""Takes the stored parts of some slots out of those of all and decodes them to a dtype, or as encoded."""


def pick(stored: Tensor, kind: LayerEncoding, index_N: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the numbers [N, *, C] of the parts [S, *, P] in these slots, by plain operations: the reference."""
    values = decode_stored(stored.index_select(0, index_N), kind)
    return values if dtype is None else values.to(dtype)


class _Part(NamedTuple):
    """Where one or several layers lie in every slot."""

    stored: Tensor
    """[S, P] of a layer or [S, L, P] of a run: bytes, or the floats that they are where they lie aligned."""
    kind: LayerEncoding


class LayerReader:
    """Picks a layer's part of the rows in some slots and decodes what it picked, not more."""

    def __init__(self, geometry: TableGeometry, payload_SR: Tensor, bases: Mapping[int, Tensor] | None = None) -> None:
        """Read rows of this geometry from `payload_SR`, uint8; `bases`: [rank, D] of each layer that has a rank."""
        device = payload_SR.device
        self._bases_CD = {layer: basis.to(device, torch.float32) for layer, basis in (bases or {}).items()}
        if self._bases_CD.keys() != geometry.ranks.keys():
            raise ValueError(f"there are bases of the layers {[*self._bases_CD]}; those with a rank: {geometry.ranks}")
        self._pick = _fused_pick() if payload_SR.is_cuda else pick
        self._hidden_size = geometry.hidden_size
        self._dtype = torch_dtype(geometry.segments[0].encoding)
        self._device = device
        # The slab never moves, and of floats decoding is only another view of it: made once, it takes half the time.
        self._runs: dict[tuple[int, ...], _Part] = {}
        self._parts: dict[int, _Part] = {}
        for run in geometry.runs:
            stored_SLP = torch.unflatten(payload_SR[:, run.offset : run.end], 1, (len(run.layers), run.segment_bytes))
            if run.kind.encoding.is_float and can_view(stored_SLP, run.kind.encoding):
                stored_SLP = stored_SLP.view(torch_dtype(run.kind.encoding))
            self._runs[run.layers] = _Part(stored_SLP, run.kind)
            self._parts |= {layer: _Part(stored_SLP[:, index], run.kind) for index, layer in enumerate(run.layers)}

    def decode(self, index_N: Tensor, dtype: torch.dtype | None) -> dict[int, Tensor]:
        """Return all layers of the rows in these slots by layer, each [N, D], not contiguous; `dtype` None: as encoded.

        Empty where that would take too much memory: gather them one by one. Neighbours of one encoding are decoded by
        one call: for all 24 layers of one row it takes 15 us, where one for each takes 110 (bf16 to fp32).
        """
        num_values = len(index_N) * len(self._parts) * self._hidden_size
        if num_values * (dtype or self._dtype).itemsize > _MOST_DECODED_BYTES:
            return {}
        decoded: dict[int, Tensor] = {}
        for layers, part in self._runs.items():
            if part.kind.rank is None:
                values_NLD = self._pick(part.stored, part.kind, index_N, dtype)
                decoded.update(zip(layers, values_NLD.unbind(1), strict=True))
            else:
                numbers_NLC = self._pick(part.stored, part.kind, index_N, torch.float32)
                for layer, numbers_NC in zip(layers, numbers_NLC.unbind(1), strict=True):
                    decoded[layer] = self._expand(numbers_NC, layer, dtype)
        return decoded

    def gather(self, index_N: Tensor, layer: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return one layer's values of the rows in these slots, [N, D]; zeros where the table left the layer out.

        `dtype` None: as encoded. With a rank the last bits may be others than `decode`'s, whose matrix products are
        of other strides; else they are the same.
        """
        if layer not in self._parts:
            return torch.zeros(len(index_N), self._hidden_size, dtype=dtype or self._dtype, device=self._device)
        part = self._parts[layer]
        if part.kind.rank is None:
            return self._pick(part.stored, part.kind, index_N, dtype)
        return self._expand(self._pick(part.stored, part.kind, index_N, torch.float32), layer, dtype)

    def _expand(self, numbers_NC: Tensor, layer: int, dtype: torch.dtype | None) -> Tensor:
        values_ND = numbers_NC @ self._bases_CD[layer]
        return values_ND if dtype is None else values_ND.to(dtype)


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
        return self._layers.gather(self._index_N, layer, dtype) if values_ND is None else values_ND


def _fused_pick() -> Pick:
    """Return the kernel for GPUs; the plain operations where Triton is not installed."""
    with suppress(ImportError):
        from paging.fused import fused_pick  # noqa: PLC0415 needed with a GPU only, and slow to load

        return fused_pick
    return pick
