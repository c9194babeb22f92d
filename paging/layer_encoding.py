"""How one layer's values become bytes: a width, a group of values that share a scale, a rank.

Knows arithmetic only and imports without torch. `paging/quantise.py` does what is said here, `docs/formats.md` is its
prose.

| written as    | stored                                                                                |
|---------------|---------------------------------------------------------------------------------------|
| `bf16`        | every value, in 16 bits                                                               |
| `int8`        | every value in 8 bits, and one scale                                                  |
| `int4/64`     | every value in 4 bits, a scale for the layer and a multiplier of it for each 64 values |
| `int8@128`    | 128 coefficients in place of the values, each as `int8` says                          |
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from paging.errors import EncodingError

GROUP_SIZES = (32, 64, 128)
"""Values that can share a multiplier in int4."""
DEFAULT_GROUP_SIZE = 32
STEP_BYTES = 4
"""The scale that int8 and int4 have for each layer, a float32."""

_TEXT = re.compile(r"([a-z0-9-]+)(?:/([0-9]{1,9}))?(?:@([0-9]{1,9}))?")


class Encoding(StrEnum):
    """The width of stored values."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"
    INT8 = "int8"
    INT4 = "int4"

    @property
    def is_float(self) -> bool:
        """Whether values are stored as they are, rounded."""
        return self not in {Encoding.INT8, Encoding.INT4}

    @property
    def itemsize(self) -> int:
        """Bytes of one value of a float encoding."""
        assert self.is_float, "integers come with scales"
        return 4 if self is Encoding.FP32 else 2


@dataclass(frozen=True)
class LayerEncoding:
    """How a layer's values are stored; hashable, and equal where the bytes mean the same."""

    encoding: Encoding
    group_size: int | None = None
    """Values that share a multiplier; of int4 alone."""
    rank: int | None = None
    """Coefficients stored in place of `hidden_size` values, to be multiplied by the layer's basis; None: the values."""

    @classmethod
    def plain(cls, encoding: Encoding) -> Self:
        """Return the encoding of whole layers, int4 with the usual group."""
        return cls(encoding, DEFAULT_GROUP_SIZE if encoding is Encoding.INT4 else None)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `int8`, `int4/64`, `bf16@128`, `int4/32@96`; `low-rank@128` is `bf16@128`. Raises `EncodingError`."""
        match = _TEXT.fullmatch(text)
        name = "" if match is None else match[1]
        if match is None or name not in {*Encoding, "low-rank"}:
            raise EncodingError(
                f"{text!r:.50} is no encoding; give one of {', '.join(Encoding)}, with /GROUP for int4 and @RANK for a "
                "low rank, such as int4/64 or int8@128"
            )
        group_size, rank = (None if part is None else int(part) for part in match.groups()[1:])
        if name == "low-rank" and rank is None:
            raise EncodingError("low-rank needs a rank; give it behind an @, such as low-rank@128")
        encoding = Encoding.BF16 if name == "low-rank" else Encoding(name)
        if encoding is Encoding.INT4 and group_size is None:
            group_size = DEFAULT_GROUP_SIZE
        return cls(encoding, group_size, rank)

    @property
    def is_plain(self) -> bool:
        """Whether values are stored as they are, rounded: all that version 1 of the format has."""
        return self.encoding.is_float and self.rank is None

    def num_values(self, hidden_size: int) -> int:
        """Return how many numbers are stored."""
        return hidden_size if self.rank is None else self.rank

    def num_bytes(self, hidden_size: int) -> int:
        """Return the bytes of a layer in a row, scales included."""
        values = self.num_values(hidden_size)
        if self.encoding.is_float:
            return values * self.encoding.itemsize
        if self.group_size is None:
            return STEP_BYTES + values
        return STEP_BYTES + values // self.group_size + values // 2

    def flaw(self, hidden_size: int) -> str | None:
        """Return why layers of `hidden_size` values cannot be stored so; None where they can."""
        values = self.num_values(hidden_size)
        if not 1 <= values <= hidden_size:
            return f"rank {values} does not fit layers of {hidden_size} values; give 1 to {hidden_size}"
        if self.encoding is not Encoding.INT4:
            if self.group_size is not None:
                return f"{self.encoding} takes no group size, and {self.group_size} was given; only int4 has groups"
            return None
        if self.group_size not in GROUP_SIZES:
            return f"the group size {self.group_size} is none of {', '.join(map(str, GROUP_SIZES))}"
        if values % self.group_size:
            what = "a rank" if self.rank is not None else "hidden_size"
            return f"the group size {self.group_size} does not divide {what} of {values}"
        return None

    def check(self, hidden_size: int) -> None:
        """Raise `EncodingError` where layers of `hidden_size` values cannot be stored so."""
        if flaw := self.flaw(hidden_size):
            raise EncodingError(f"{self} cannot be had: {flaw}")

    def __str__(self) -> str:
        group = "" if self.group_size is None else f"/{self.group_size}"
        return f"{self.encoding}{group}" + ("" if self.rank is None else f"@{self.rank}")
