"""A stretch of a model's rows, computed and encoded as an export does it, without a table being written.

Knows the computation's arithmetic. Knows nothing of disks: what writing takes is not in it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.config import ModelConfig
from models.export import CHUNK_ROWS, RowComputer, table_geometry
from paging import Encoding, encode_rows


@dataclass(frozen=True)
class ComputedStretch:
    """What a stretch of rows took; index i of each list is repetition i."""

    config: ModelConfig
    num_rows: int
    compute_seconds: list[float] = field(default_factory=list)
    encode_seconds: dict[Encoding, list[float]] = field(default_factory=dict)

    @property
    def operations(self) -> float:
        """Additions and multiplications of the stretch's matrix products."""
        config = self.config
        return 6.0 * self.num_rows * config.num_hidden_layers * config.hidden_size * config.intermediate_size

    def seconds(self, encoding: Encoding) -> list[float]:
        """Return what the stretch took in this encoding, by repetition."""
        return [sum(both) for both in zip(self.compute_seconds, self.encode_seconds[encoding], strict=True)]


def compute_stretch(
    checkpoint: Path,
    encodings: Sequence[Encoding],
    *,
    num_rows: int,
    repetitions: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> ComputedStretch:
    """Compute the first `num_rows` rows or some more, whole chunks of `CHUNK_ROWS`, and encode them in every encoding.

    A first repetition is not counted. The encodings' order reverses from one repetition to the next. Raises what
    `RowComputer` and `encode_rows` raise.
    """
    computer = RowComputer(checkpoint)
    starts = range(0, min(num_rows, computer.config.vocab_size), CHUNK_ROWS)
    stretch = ComputedStretch(computer.config, min(len(starts) * CHUNK_ROWS, computer.config.vocab_size))
    stretch.encode_seconds.update({encoding: [] for encoding in encodings})
    total = (repetitions + 1) * len(starts)
    for repetition in range(repetitions + 1):
        order = encodings if repetition % 2 else tuple(reversed(encodings))
        seconds = dict.fromkeys(order, 0.0)
        computing = 0.0
        for index, start in enumerate(starts):
            if on_progress is not None:
                on_progress(repetition * len(starts) + index, total)
            began = time.perf_counter()
            values_CLd = computer.chunk(start)
            computing += time.perf_counter() - began
            for encoding in order:
                geometry = table_geometry(computer.config, encoding)
                began = time.perf_counter()
                encode_rows(values_CLd, geometry, first_row=start)
                seconds[encoding] += time.perf_counter() - began
        if repetition:
            stretch.compute_seconds.append(computing)
            for encoding in encodings:
                stretch.encode_seconds[encoding].append(seconds[encoding])
    return stretch
