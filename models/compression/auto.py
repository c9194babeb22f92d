"""`--auto`: how each layer is best stored so that the table takes no more than some bytes.

1. Every way of storing one layer is measured by itself: how far it moves the model's predictions of the sample.
2. A knapsack (`models/compression/allocation.py`) finds combinations that fit and whose costs add up to little.
3. The best of them are measured as they are, then their neighbours that differ in one or two layers.

Knows costs, bytes and layers. What is chosen is as good as the sample is like the text that the model will meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from models.compression.allocation import Option, best
from models.compression.candidates import candidates
from models.compression.sample import Choice, Measured, Sample
from models.errors import ConfigError
from models.evaluation import EvaluationText
from paging import LayerEncoding, TableGeometry
from paging.geometry import PAGE_BYTES, SECTOR_BYTES, aligned_stride
from paging.shard_plan import DEFAULT_SHARD_BYTES, table_bytes

_FIRST_MEASURED = 8
"""Combinations that are measured because their costs add up to the least."""
_NEIGHBOURS_MEASURED = 8
"""Neighbours of the best combination that are measured in each round."""
_ROUNDS = 3
_MOST_CUTS = 32
"""Sectors taken off a row in search of combinations that fit once rows are aligned."""

Choices = dict[int, Choice]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was chosen, and what is known of it."""

    kinds: dict[int, LayerEncoding]
    """The kept layers."""
    num_bytes: int
    """Of the table, bar its manifest."""
    before: Measured
    """The sample with the rows as they are."""
    after: Measured
    """The sample with the rows as chosen."""
    costs: dict[int, dict[str, float]]
    """The divergence that each way of storing a layer brings alone, nats per token; `dropped` is to leave it out."""


def row_weights(text: EvaluationText, vocab_size: int) -> Tensor:
    """Return how much each row counts for a basis, float64 [V]: half by its use in the text, half as any other row."""
    counts_V = torch.bincount(torch.tensor(text.ids), minlength=vocab_size).double()
    return counts_V / counts_V.sum() + 1 / vocab_size


def choose_kinds(
    sample: Sample,
    *,
    target_bytes: int,
    layers: Sequence[int],
    num_rows: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Return how to store `layers` (others are left out) in a table of at most `target_bytes`.

    `on_progress` is told (measurements done, at most so many). Raises `ConfigError` with the least that is possible.
    """
    search = _Search(sample, target_bytes=target_bytes, layers=layers, num_rows=num_rows, on_progress=on_progress)
    search.check_possible()
    search.measure_layers()
    choices = search.refine(search.combine())
    kinds = {layer: choice for layer, choice in choices.items() if choice is not None}
    return Plan(
        kinds=kinds,
        num_bytes=search.num_bytes(choices),
        before=sample.measure({}),
        after=sample.measure(choices),
        costs={
            layer: {"dropped" if choice is None else str(choice): cost for choice, cost in costs.items()}
            for layer, costs in search.costs.items()
        },
    )


class _Search:
    def __init__(
        self,
        sample: Sample,
        *,
        target_bytes: int,
        layers: Sequence[int],
        num_rows: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.costs: dict[int, dict[Choice, float]] = {}
        self._sample, self._target, self._num_rows = sample, target_bytes, num_rows
        self._geometry = sample.rows.geometry
        self._layers = tuple(sorted(layers))
        self._left_out: Choices = {layer: None for layer in self._geometry.layers if layer not in self._layers}
        self._ways: dict[int, list[Choice]] = {
            layer: [*candidates(self._geometry.hidden_size, self._geometry.kinds[layer]), None]
            for layer in self._layers
        }
        self._on_progress = on_progress
        self._done = 0
        self._total = sum(map(len, self._ways.values())) + _FIRST_MEASURED + _ROUNDS * _NEIGHBOURS_MEASURED

    def check_possible(self) -> None:
        """Raise `ConfigError` where not even one layer alone fits, in the fewest bytes."""
        smallest = [
            (self.num_bytes({layer: choice}), self._layer_bytes(choice), layer, choice)
            for layer, ways in self._ways.items()
            for choice in ways
            if choice is not None
        ]
        least, _, layer, choice = min(smallest, key=lambda found: found[:2])
        if least > self._target:
            raise ConfigError(
                f"the target is {self._target} bytes; the smallest table of {self._num_rows} rows, with nothing but "
                f"layer {layer} as {choice}, takes {least}"
            )

    def measure_layers(self) -> None:
        """Find what each way of storing one layer costs by itself."""
        base = self._cost(self._left_out)
        for layer, ways in self._ways.items():
            as_is = self._geometry.kinds[layer]
            self.costs[layer] = {
                # Beside layers that are left out a change may even bring predictions back; that counts as none.
                choice: 0.0 if choice == as_is else max(0.0, self._cost({**self._left_out, layer: choice}) - base)
                for choice in ways
            }

    def combine(self) -> list[Choices]:
        """Return combinations that fit, by the sum of their costs."""
        options = [
            [Option(choice, self._layer_bytes(choice), cost) for choice, cost in self.costs[layer].items()]
            for layer in self._layers
        ]
        found: list[Choices] = []
        for cut in range(_MOST_CUTS):
            budget = self._num_rows * (self._most_row_bytes() - cut * SECTOR_BYTES)
            for allocation in best(options, budget, _FIRST_MEASURED):
                choices = dict(zip(self._layers, allocation.choices, strict=True))
                if self._fits(choices) and choices not in found:
                    found.append(choices)
            if len(found) >= _FIRST_MEASURED:
                break
        if not found:  # alignment and bases leave room for very few; the least is known to be one
            alone = [{layer: choice} for layer in self._layers for choice in self._ways[layer]]
            found = [{**dict.fromkeys(self._layers), **choices} for choices in alone if self._fits(choices)]
        return sorted(found, key=self._predicted)[:_FIRST_MEASURED]

    def refine(self, found: Sequence[Choices]) -> Choices:
        """Return the best of some combinations and of the neighbours of the best, each of them measured."""
        current = min(found, key=self._cost)
        seen = list(found)
        for _ in range(_ROUNDS):
            near = sorted((n for n in self._neighbours(current) if n not in seen), key=self._predicted)
            near = near[:_NEIGHBOURS_MEASURED]
            seen += near
            better = min([current, *near], key=self._cost)
            if better == current:
                break
            current = better
        return current

    def num_bytes(self, choices: Mapping[int, Choice]) -> int:
        """Return the bytes of a table."""
        kinds = {layer: choice for layer, choice in choices.items() if choice is not None}
        geometry = TableGeometry.mixed(
            hidden_size=self._geometry.hidden_size,
            num_layers=self._geometry.num_layers,
            vocab_size=self._geometry.vocab_size,
            kinds=kinds,
        )
        return table_bytes(geometry, num_rows=self._num_rows)

    def _neighbours(self, choices: Choices) -> list[Choices]:
        """Return all that fit and differ in one or two layers."""
        changes = [(layer, way) for layer in self._layers for way in self._ways[layer] if way != choices[layer]]
        single = [{**choices, layer: way} for layer, way in changes]
        double = [{**choices, a[0]: a[1], b[0]: b[1]} for a, b in combinations(changes, 2) if a[0] != b[0]]
        # Only what promises something: the number of pairs grows with the square of the layers.
        limit = self._predicted(choices) * 1.5 + 1e-4
        return [near for near in single + double if self._predicted(near) < limit and self._fits(near)]

    def _fits(self, choices: Choices) -> bool:
        return any(choice is not None for choice in choices.values()) and self.num_bytes(choices) <= self._target

    def _predicted(self, choices: Choices) -> float:
        return sum(self.costs[layer][choice] for layer, choice in choices.items())

    def _cost(self, choices: Choices) -> float:
        """Return the measured divergence, nats per token."""
        self._done += 1
        cost = self._sample.measure({**self._left_out, **choices}).divergence
        if self._on_progress:
            self._on_progress(min(self._done, self._total), self._total)
        return cost

    def _layer_bytes(self, choice: Choice) -> int:
        if choice is None:
            return 0
        hidden_size = self._geometry.hidden_size
        return self._num_rows * choice.num_bytes(hidden_size) + 2 * hidden_size * (choice.rank or 0)

    def _most_row_bytes(self) -> int:
        """Return the longest row, a multiple of a sector, that fits once it is aligned, bases left out."""
        files = 2 + self._target // DEFAULT_SHARD_BYTES
        most = (self._target - files * PAGE_BYTES) // self._num_rows - 8  # a header each; a checksum for each row
        row_bytes = max(SECTOR_BYTES, most // SECTOR_BYTES * SECTOR_BYTES)
        while row_bytes > SECTOR_BYTES and aligned_stride(row_bytes) > most:
            row_bytes -= SECTOR_BYTES
        return row_bytes
