"""The layout of a row: which layers it holds, in which encoding, at which byte.

Knows arithmetic only; knows nothing of files or tensors, and imports without torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Self

from paging.errors import TableFormatError
from paging.layer_encoding import Encoding, LayerEncoding

PAGE_BYTES = 4096
"""What direct reads are best aligned to."""
SECTOR_BYTES = 512
"""What direct reads must be aligned to."""


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


def aligned_stride(row_bytes: int) -> int:
    """Return the bytes from one row to the next: whole pages where that costs at most 1/16 of a row, else sectors."""
    paged = round_up(row_bytes, PAGE_BYTES)
    return paged if 16 * (paged - row_bytes) <= row_bytes else round_up(row_bytes, SECTOR_BYTES)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One layer's part of a row."""

    layer: int
    """The model's layer, from 0."""
    offset: int
    """First byte within the row."""
    num_bytes: int
    """Length in bytes, scales included where an encoding has them."""
    encoding: Encoding
    """The width of the stored values."""
    group_size: int | None = None
    """Values that share a multiplier, in int4."""
    rank: int | None = None
    """Coefficients stored in place of `hidden_size` values; None: the values."""

    @property
    def kind(self) -> LayerEncoding:
        """How the bytes become values."""
        return LayerEncoding(self.encoding, self.group_size, self.rank)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Neighbouring segments of one kind, which are decoded together."""

    kind: LayerEncoding
    layers: tuple[int, ...]
    offset: int
    """First byte within the row."""
    segment_bytes: int
    """Bytes of each of them."""

    @property
    def end(self) -> int:
        """The byte behind the last one."""
        return self.offset + len(self.layers) * self.segment_bytes


@dataclass(frozen=True, kw_only=True)
class TableGeometry:
    """The sizes of a table's model and the layout of its rows; validated once, never changed."""

    hidden_size: int
    """d: values of one layer's FFN output."""
    num_layers: int
    """Layers of the model, kept in the table or not."""
    vocab_size: int
    """V: ids that a row may belong to."""
    segments: tuple[Segment, ...]
    """The kept layers, in ascending order; each starts where the one before ends."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "vocab_size"):
            if getattr(self, name) < 1:
                raise TableFormatError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.segments:
            raise TableFormatError("a row needs at least one segment")
        end, last_layer = 0, -1
        for segment in self.segments:
            where = f"the segment of layer {segment.layer}"
            if not last_layer < segment.layer < self.num_layers:
                raise TableFormatError(f"{where} is out of order or beyond the model's {self.num_layers} layers")
            if segment.offset != end:
                raise TableFormatError(f"{where} starts at byte {segment.offset}; it must start at {end}")
            if flaw := segment.kind.flaw(self.hidden_size):
                raise TableFormatError(f"{where} cannot be {segment.kind}: {flaw}")
            if segment.num_bytes != (num_bytes := segment.kind.num_bytes(self.hidden_size)):
                raise TableFormatError(
                    f"{where} has {segment.num_bytes} bytes; {self.hidden_size} values as {segment.kind} "
                    f"take {num_bytes}"
                )
            end, last_layer = end + segment.num_bytes, segment.layer

    @classmethod
    def uniform(
        cls,
        *,
        hidden_size: int,
        num_layers: int,
        vocab_size: int,
        encoding: Encoding | LayerEncoding,
        layers: tuple[int, ...] | None = None,
    ) -> Self:
        """Lay out rows that hold `layers` (all where None), each in the same encoding."""
        kind = encoding if isinstance(encoding, LayerEncoding) else LayerEncoding.plain(encoding)
        kept = tuple(range(num_layers)) if layers is None else layers
        return cls.mixed(
            hidden_size=hidden_size, num_layers=num_layers, vocab_size=vocab_size, kinds=dict.fromkeys(kept, kind)
        )

    @classmethod
    def mixed(cls, *, hidden_size: int, num_layers: int, vocab_size: int, kinds: Mapping[int, LayerEncoding]) -> Self:
        """Lay out rows that hold the layers of `kinds`, each as it says; `EncodingError` for what cannot be had."""
        segments, offset = [], 0
        for layer in sorted(kinds):
            kind = kinds[layer]
            kind.check(hidden_size)
            num_bytes = kind.num_bytes(hidden_size)
            segments.append(
                Segment(
                    layer=layer,
                    offset=offset,
                    num_bytes=num_bytes,
                    encoding=kind.encoding,
                    group_size=kind.group_size,
                    rank=kind.rank,
                )
            )
            offset += num_bytes
        return cls(hidden_size=hidden_size, num_layers=num_layers, vocab_size=vocab_size, segments=tuple(segments))

    @property
    def layers(self) -> tuple[int, ...]:
        """The model's layers that a row holds, ascending."""
        return tuple(segment.layer for segment in self.segments)

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's payload."""
        return self.segments[-1].offset + self.segments[-1].num_bytes

    @property
    def row_stride(self) -> int:
        """Bytes from one row to the next on disk."""
        return aligned_stride(self.row_bytes)

    @property
    def kinds(self) -> dict[int, LayerEncoding]:
        """How each kept layer is stored, by layer."""
        return {segment.layer: segment.kind for segment in self.segments}

    @property
    def ranks(self) -> dict[int, int]:
        """The rank of each layer that has a basis, by layer."""
        return {segment.layer: segment.rank for segment in self.segments if segment.rank is not None}

    @property
    def runs(self) -> tuple[Run, ...]:
        """The segments in the longest stretches of one kind."""
        stretches = [(kind, list(stretch)) for kind, stretch in groupby(self.segments, lambda segment: segment.kind)]
        return tuple(
            Run(
                kind=kind,
                layers=tuple(segment.layer for segment in stretch),
                offset=stretch[0].offset,
                segment_bytes=stretch[0].num_bytes,
            )
            for kind, stretch in stretches
        )

    @property
    def encoding(self) -> Encoding | None:
        """The encoding that all segments share, or None where they differ."""
        encodings = {segment.encoding for segment in self.segments}
        return encodings.pop() if len(encodings) == 1 else None

    @property
    def label(self) -> str:
        """How layers are stored, in a word or a few: `int8`, or `int8 x 2, int4/32 x 4` where they differ."""
        kinds = list(self.kinds.values())
        different = dict.fromkeys(kinds)
        if len(different) == 1:
            return str(kinds[0])
        return ", ".join(f"{kind} x {kinds.count(kind)}" for kind in different)

    @property
    def format_version(self) -> int:
        """The version of the format that tables of this geometry are written in."""
        return 1 if all(segment.kind.is_plain for segment in self.segments) else 2

    def segment(self, layer: int) -> Segment:
        """Return the segment of one layer of the model; `KeyError` where the table left that layer out."""
        for segment in self.segments:
            if segment.layer == layer:
                return segment
        raise KeyError(f"layer {layer} is not in the table")
