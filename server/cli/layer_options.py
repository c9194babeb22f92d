"""The options that say how each layer of a table is stored, and what they come to together."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from models.errors import ConfigError
from paging import Encoding, LayerEncoding
from paging.layer_encoding import DEFAULT_GROUP_SIZE


class EncodingName(StrEnum):
    """What `--encoding` takes: the widths, and a low rank."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"
    LOW_RANK = "low-rank"  # coefficients in bf16


EncodingOption = Annotated[EncodingName | None, typer.Option(help="How values are stored.", show_default=False)]
GroupSizeOption = Annotated[
    int | None,
    typer.Option(help="Values of int4 that share a scale: 32, 64 or 128.", show_default=str(DEFAULT_GROUP_SIZE)),
]
RankOption = Annotated[
    int | None, typer.Option(help="Store so many coefficients in place of each layer's values.", show_default=False)
]
LayerEncodingOption = Annotated[
    str | None,
    typer.Option(
        metavar="LAYERS=ENCODING,...",
        help="How single layers are stored: 0-3=int8,4=int4/64,5=int8@128 (/group, @rank).",
        show_default=False,
    ),
]
KeepLayersOption = Annotated[
    str | None, typer.Option(metavar="LAYERS", help="Leave out all layers but these: 0-3,7.", show_default=False)
]
DropLayersOption = Annotated[
    str | None, typer.Option(metavar="LAYERS", help="Leave out these layers.", show_default=False)
]


@dataclass(frozen=True, kw_only=True)
class LayerOptions:
    """The options as they were given."""

    encoding: EncodingName | None = None
    group_size: int | None = None
    rank: int | None = None
    layer_encoding: str | None = None
    keep_layers: str | None = None
    drop_layers: str | None = None

    @property
    def encodes(self) -> bool:
        """Whether any of them says how values are stored, not only which layers are kept."""
        return self.encoding is not None or self.layer_encoding is not None or self.has_details

    @property
    def has_details(self) -> bool:
        """Whether a group size or a rank is given."""
        return self.group_size is not None or self.rank is not None

    def kinds(
        self, sources: Mapping[int, LayerEncoding], hidden_size: int, *, default: LayerEncoding | None = None
    ) -> dict[int, LayerEncoding]:
        """Return how each kept layer is to be stored.

        sources: how the layers are stored now; so they stay where nothing is said of them and there is no `default`.
        Raises `ConfigError` and `EncodingError` for what cannot be had.
        """
        base = self._base()
        kept = self.kept(sources)
        kinds = {layer: base or default or sources[layer] for layer in kept}
        for layer, kind in _layer_encodings(self.layer_encoding, sources).items():
            if layer not in kinds:
                raise ConfigError(f"--layer-encoding names layer {layer}, which is left out")
            kinds[layer] = kind
        for kind in set(kinds.values()):
            kind.check(hidden_size)
        return kinds

    def kept(self, sources: Mapping[int, LayerEncoding]) -> list[int]:
        """Return the layers that are kept, ascending."""
        kept = set(sources)
        if self.keep_layers is not None:
            kept &= parse_layers(self.keep_layers, sources, option="--keep-layers")
        if self.drop_layers is not None:
            kept -= parse_layers(self.drop_layers, sources, option="--drop-layers")
        if not kept:
            raise ConfigError("no layer would be left; a table needs at least one")
        return sorted(kept)

    def _base(self) -> LayerEncoding | None:
        if self.encoding is None:
            if self.has_details:
                raise ConfigError("a group size or a rank is given, but no encoding; say --encoding too")
            return None
        if self.encoding is EncodingName.LOW_RANK:
            if self.rank is None:
                raise ConfigError("--encoding low-rank needs a rank; give --rank, such as half of the hidden size")
            return LayerEncoding(Encoding.BF16, self.group_size, self.rank)
        plain = LayerEncoding.plain(Encoding(self.encoding))
        group_size = plain.group_size if self.group_size is None else self.group_size
        return LayerEncoding(plain.encoding, group_size, self.rank)


def parse_layers(text: str, known: Mapping[int, object], *, option: str) -> set[int]:
    """Return the layers of `0-3,7`; raises `ConfigError` for what is none, or is not among `known`."""
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() and len(end) < 10 for end in ends) or int(ends[0]) > int(ends[1]):
            raise ConfigError(f"{option} is {text!r:.80}; give layers such as 0-3,7")
        if unknown := next((layer for layer in map(int, ends) if layer not in known), None):
            raise ConfigError(
                f"{option} names layer {unknown}; there are the layers {', '.join(map(str, sorted(known)))}"
            )
        layers |= {layer for layer in range(int(ends[0]), int(ends[1]) + 1) if layer in known}
    return layers


def _layer_encodings(text: str | None, known: Mapping[int, object]) -> dict[int, LayerEncoding]:
    found: dict[int, LayerEncoding] = {}
    for part in [] if text is None else text.split(","):
        layers, equals, kind = part.strip().partition("=")
        if not equals:
            raise ConfigError(f"--layer-encoding has {part!r:.50}; give LAYERS=ENCODING, such as 0-3=int8,4=int4/64")
        for layer in parse_layers(layers, known, option="--layer-encoding"):
            if layer in found:
                raise ConfigError(f"--layer-encoding names layer {layer} twice")
            found[layer] = LayerEncoding.parse(kind)
    return found
