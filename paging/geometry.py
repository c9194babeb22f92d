"""The layout of a row: which layers it holds, in which encoding, at which byte.

Knows arithmetic only; knows nothing of files or tensors, and imports without torch.
"""

from dataclasses import dataclass
from enum import StrEnum

from paging.errors import TableFormatError

PAGE_BYTES = 4096
"""What direct reads are best aligned to."""
SECTOR_BYTES = 512
"""What direct reads must be aligned to."""


class Encoding(StrEnum):
    """How a segment's bytes become values."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return 4 if self is Encoding.FP32 else 2


RESERVED_ENCODINGS = ("int8", "int4", "low-rank")
"""Names that version 1 of the format sets aside; this release neither writes nor reads them."""


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
    """How the bytes become `hidden_size` values."""
    group_size: int | None = None
    """Values that share a scale; none in the float encodings."""
    rank: int | None = None
    """Values stored instead of `hidden_size`, for low-rank encodings; none in the float encodings."""


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
            if segment.num_bytes != self.hidden_size * segment.encoding.itemsize:
                raise TableFormatError(
                    f"{where} has {segment.num_bytes} bytes; {self.hidden_size} values of {segment.encoding} "
                    f"take {self.hidden_size * segment.encoding.itemsize}"
                )
            if segment.group_size is not None or segment.rank is not None:
                raise TableFormatError(f"{where} has a group size or rank; {segment.encoding} takes neither")
            end, last_layer = end + segment.num_bytes, segment.layer

    @classmethod
    def uniform(
        cls,
        *,
        hidden_size: int,
        num_layers: int,
        vocab_size: int,
        encoding: Encoding,
        layers: tuple[int, ...] | None = None,
    ) -> "TableGeometry":
        """Lay out rows that hold `layers` (all where None), each in the same float encoding."""
        num_bytes = hidden_size * encoding.itemsize
        kept = tuple(range(num_layers)) if layers is None else layers
        segments = tuple(
            Segment(layer=layer, offset=index * num_bytes, num_bytes=num_bytes, encoding=encoding)
            for index, layer in enumerate(kept)
        )
        return cls(hidden_size=hidden_size, num_layers=num_layers, vocab_size=vocab_size, segments=segments)

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
    def encoding(self) -> Encoding | None:
        """The encoding that all segments share, or None where they differ."""
        encodings = {segment.encoding for segment in self.segments}
        return encodings.pop() if len(encodings) == 1 else None

    def segment(self, layer: int) -> Segment:
        """Return the segment of one layer of the model; `KeyError` where the table left that layer out."""
        for segment in self.segments:
            if segment.layer == layer:
                return segment
        raise KeyError(f"layer {layer} is not in the table")
