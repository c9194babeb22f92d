"""What the commands that measure share: options, lists of numbers, and intervals as a person reads them."""

from typing import Annotated

import typer

from models.errors import ConfigError
from server.measuring.intervals import Interval

RepetitionsOption = Annotated[
    int, typer.Option(min=1, max=1000, help="Measured runs of each test; one more goes before.")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**31, help="Of all that is random.")]

_NONE = "none"
_MOST_NUMBERS = 32


def parse_counts(text: str, *, option: str, most: int) -> list[int]:
    """Return the whole numbers of a comma-separated list, each from 1 to `most`; `none` is no number at all.

    Raises `ConfigError`, also where one is named twice.
    """
    if text == _NONE:
        return []
    parts = text.split(",")
    counts = [int(part) for part in parts if part.strip().isdecimal() and len(part) < 12]
    is_sound = len(counts) == len(parts) == len(set(counts)) <= _MOST_NUMBERS
    if not is_sound or not all(1 <= count <= most for count in counts):
        raise ConfigError(
            f"{option} is {text!r:.80}; give different whole numbers from 1 to {most:,}, such as 1,8, or `{_NONE}`"
        )
    return counts


def interval_text(interval: Interval, digits: int = 1) -> str:
    """Return where a median lies: `98.1 to 102.4`."""
    return f"{interval.low:,.{digits}f} to {interval.high:,.{digits}f}"


def confidence_text(interval: Interval, repetitions: int) -> str:
    """Say what the intervals are."""
    if repetitions == 1:
        return "one run each, which says nothing of how far runs differ"
    return f"medians of {repetitions}; the intervals hold the true ones with {interval.confidence:.1%}"
