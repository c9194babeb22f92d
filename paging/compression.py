"""From rows as values, whatever they come from, to a table in other encodings: streamed, whole or not at all.

Knows tables and encodings; knows nothing of models. What a lossy table holds is never encoded anew: errors would add up
that nobody measured.

Shape legend: N rows of a chunk, L kept layers, l layers asked for, D values (`hidden_size`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paging.basis import Spectrum, bases_of, num_passes, spectra
from paging.encoding import decode_layer, encode_rows
from paging.errors import EncodingError
from paging.geometry import Segment, TableGeometry
from paging.layer_encoding import LayerEncoding
from paging.table import Table
from paging.target import check_replaceable
from paging.writer import TableWriter

_CHUNK_BYTES = 64 * 2**20
"""Values of a chunk, in float32."""

OnProgress = Callable[[int, int], None]
"""Told (rows done, rows in all), every pass over the rows counted."""


class RowValues(Protocol):
    """All rows of a table, as values."""

    @property
    def geometry(self) -> TableGeometry:
        """The sizes, and how the layers are stored where they come from."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of the weights that determine the rows."""
        ...

    @property
    def ids(self) -> npt.NDArray[np.int64] | None:
        """The id of each row of a sparse table."""
        ...

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        ...

    def chunks(self, layers: tuple[int, ...]) -> Iterator[Tensor]:
        """Give all rows in order, float32 [N, l, D]; in memory that does not grow with their number."""
        ...

    def rows(self, numbers_N: npt.NDArray[np.int64]) -> Tensor:
        """Return some rows by number, float32 [N, L, D]."""
        ...


class TableValues:
    """The rows of an open table whose values are stored as they are."""

    def __init__(self, table: Table) -> None:
        """Take a table in float encodings; raises `EncodingError` for another."""
        for layer, kind in table.geometry.kinds.items():
            if not kind.is_plain:
                raise EncodingError(
                    f"{table.directory} is compressed already (layer {layer} is {kind}); "
                    "compress the table that it was made from, or only leave layers out"
                )
        self.geometry = table.geometry
        self.fingerprint = table.fingerprint
        self.ids = table.ids
        self.num_rows = table.num_rows
        self._table = table

    def chunks(self, layers: tuple[int, ...]) -> Iterator[Tensor]:
        """Give all rows in order, float32 [N, l, D]."""
        num_rows = max(1, _CHUNK_BYTES // (4 * len(self.geometry.segments) * self.geometry.hidden_size))
        for start in range(0, self.num_rows, num_rows):
            payload = self._table.read_rows(range(start, min(start + num_rows, self.num_rows)))
            yield self._decoded(payload, layers)

    def rows(self, numbers_N: npt.NDArray[np.int64]) -> Tensor:
        """Return some rows by number, float32 [N, L, D]."""
        return self._decoded(self._table.read_rows(numbers_N), self.geometry.layers)

    def _decoded(self, payload: Tensor, layers: Sequence[int]) -> Tensor:
        return torch.stack([decode_layer(payload, self.geometry, layer).float() for layer in layers], dim=1)


def encode_table(
    values: RowValues,
    out: Path,
    kinds: Mapping[int, LayerEncoding],
    *,
    known: Mapping[int, Spectrum] | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> TableGeometry:
    """Write the layers of `kinds`, each encoded as it says, as the table `out`; return its geometry.

    known: spectra of all layers that get a rank; None: they are computed, in a pass over the rows or several.
    Raises `EncodingError` for layers or encodings that cannot be had, and what `TableWriter` raises.
    """
    source = values.geometry
    check_layers(kinds, source)
    geometry = TableGeometry.mixed(
        hidden_size=source.hidden_size, num_layers=source.num_layers, vocab_size=source.vocab_size, kinds=kinds
    )
    check_replaceable(out, overwrite=overwrite)  # before anything that takes long
    ranked = [] if known is not None else list(geometry.ranks)
    total = values.num_rows * (1 + num_passes(len(ranked), source.hidden_size))
    done = 0

    def advance(num_rows: int) -> None:
        nonlocal done
        done += num_rows
        if on_progress:
            on_progress(done, total)

    if known is None:
        known = spectra(values.chunks, ranked, hidden_size=source.hidden_size, on_progress=advance)
    bases = bases_of(known, geometry.ranks)
    with TableWriter(
        out,
        geometry=geometry,
        fingerprint=values.fingerprint,
        num_rows=values.num_rows,
        ids=values.ids,
        bases={layer: basis.view(torch.int16).numpy().view(np.uint16) for layer, basis in bases.items()},
        overwrite=overwrite,
    ) as writer:
        for values_NLD in values.chunks(geometry.layers):
            writer.write(encode_rows(values_NLD, geometry, first_row=writer.num_written, bases=bases))
            advance(len(values_NLD))
    return geometry


def copy_layers(
    table: Table,
    out: Path,
    layers: Sequence[int],
    *,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> TableGeometry:
    """Write some layers of a table as the table `out`, to the byte as they are; return its geometry."""
    source = table.geometry
    check_layers(layers, source)
    geometry = TableGeometry.mixed(
        hidden_size=source.hidden_size,
        num_layers=source.num_layers,
        vocab_size=source.vocab_size,
        kinds={layer: source.kinds[layer] for layer in layers},
    )
    columns = np.concatenate([_columns(source.segment(layer)) for layer in geometry.layers])
    bases = {layer: table.bases[layer].view(torch.int16).numpy().view(np.uint16) for layer in geometry.ranks}
    with TableWriter(
        out,
        geometry=geometry,
        fingerprint=table.fingerprint,
        num_rows=table.num_rows,
        ids=table.ids,
        bases=bases,
        overwrite=overwrite,
    ) as writer:
        step = max(1, _CHUNK_BYTES // source.row_stride)
        for start in range(0, table.num_rows, step):
            end = min(start + step, table.num_rows)
            writer.write(table.read_rows(range(start, end)).numpy()[:, columns])
            if on_progress:
                on_progress(end, table.num_rows)
    return geometry


def check_layers(layers: Sequence[int] | Mapping[int, LayerEncoding], source: TableGeometry) -> None:
    """Raise `EncodingError` unless these are layers that are there, at least one."""
    if not layers:
        raise EncodingError("no layer would be left; a table needs at least one")
    if unknown := sorted(set(layers) - set(source.layers)):
        raise EncodingError(f"layer {unknown[0]} is not there; the layers are {layer_ranges(source.layers)}")


def layer_ranges(layers: Sequence[int]) -> str:
    """Return layers as a person writes them: `0-3, 7`."""
    stretches: list[list[int]] = []
    for layer in sorted(layers):
        if stretches and layer == stretches[-1][-1] + 1:
            stretches[-1].append(layer)
        else:
            stretches.append([layer])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in stretches)


def _columns(segment: Segment) -> npt.NDArray[np.intp]:
    return np.arange(segment.offset, segment.offset + segment.num_bytes)
