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

_ADDED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Of hidden states that the kernel adds to."""

Pick: TypeAlias = Callable[[Tensor, LayerEncoding, Tensor, torch.dtype | None], Tensor]
"""Takes the stored parts of some slots out of those of all and decodes them to a dtype, or as encoded."""


def pick(stored: Tensor, kind: LayerEncoding, index_N: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return the numbers [N, *, C] of the parts [S, *, P] in these slots, by plain operations: the reference."""
    values = decode_stored(stored.index_select(0, index_N), kind)
    return values if dtype is None else values.to(dtype)


def add_values(hidden_ND: Tensor, values_ND: Tensor, alpha_N: Tensor | None) -> Tensor:
    """Return hidden states with values added, each token's scaled by its alpha where that is given: the reference."""
    return hidden_ND + (values_ND if alpha_N is None else alpha_N[:, None] * values_ND)


class _Kernels(NamedTuple):
    """What there is beside plain operations."""

    pick: Pick
    add: Callable[[Tensor, LayerEncoding, Tensor, Tensor, Tensor | None], Tensor] | None
    """Adds the values of the parts [S, P] in some slots to hidden states in place; the arguments of `fused_add`."""


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
        self._pick, self._add = _fused() if payload_SR.is_cuda else _Kernels(pick, None)
        self._hidden_size = geometry.hidden_size
        self._dtype = torch_dtype(geometry.segments[0].encoding)
        self.device = device
        """Where the rows are."""
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
            return torch.zeros(len(index_N), self._hidden_size, dtype=dtype or self._dtype, device=self.device)
        part = self._parts[layer]
        if part.kind.rank is None:
            return self._pick(part.stored, part.kind, index_N, dtype)
        return self._expand(self._pick(part.stored, part.kind, index_N, torch.float32), layer, dtype)

    def add(self, index_N: Tensor, layer: int, hidden_ND: Tensor, alpha_N: Tensor | None) -> bool:
        """Add one layer's values to hidden states in place; False where no kernel can, and nothing was done."""
        part = self._parts.get(layer)
        if self._add is None or part is None or part.kind.rank is not None:
            return False
        if hidden_ND.dtype not in _ADDED_DTYPES or hidden_ND.stride(-1) != 1:
            return False
        if alpha_N is not None and alpha_N.dtype is not hidden_ND.dtype:
            return False
        if torch.is_grad_enabled() and hidden_ND.requires_grad:
            return False
        self._add(part.stored, part.kind, index_N, hidden_ND, alpha_N)
        return True

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

    def add_to(self, hidden_ND: Tensor, layer: int, alpha_N: Tensor | None = None) -> Tensor:
        """Return hidden states with one layer's values added, in their dtype and to the bit as `add_values` does.

        alpha_N: what each row is scaled by, in the same dtype. The hidden states given may be overwritten.
        """
        if self._layers.add(self._index_N, layer, hidden_ND, alpha_N):
            return hidden_ND
        return add_values(hidden_ND, self.gather(layer, hidden_ND.dtype), alpha_N)


def _fused() -> _Kernels:
    """Return the kernels for GPUs; the plain operations where Triton is not installed."""
    with suppress(ImportError):
        from paging.fused import fused_add, fused_pick  # noqa: PLC0415 needed with a GPU only, and slow to load

        return _Kernels(fused_pick, fused_add)
    return _Kernels(pick, None)
