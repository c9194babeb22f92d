"""One choice for each layer, together within a number of bytes, at the least cost: a knapsack.

Knows costs and bytes; knows nothing of encodings. Costs are taken to add up over layers, which is nearly so; who wants
to know better measures some of the `best` and compares.
"""

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

ChoiceT = TypeVar("ChoiceT")

_BUCKETS = 1024
"""Sizes that are told apart on the way; a bound on the work, which else grows with every layer."""


class Option(NamedTuple, Generic[ChoiceT]):
    """One choice for one layer."""

    choice: ChoiceT
    num_bytes: int
    cost: float


class Allocation(NamedTuple, Generic[ChoiceT]):
    """A choice for every layer."""

    choices: tuple[ChoiceT, ...]
    """In the order of the layers' options."""
    num_bytes: int
    cost: float


def best(options: Sequence[Sequence[Option[ChoiceT]]], budget: int, count: int) -> list[Allocation[ChoiceT]]:
    """Return up to `count` allocations of least cost that take at most `budget` bytes, the cheapest first.

    options: of each layer, at least one. Allocations that `count` others beat in bytes and cost alike are left out, and
    of those that differ by a thousandth of the budget in bytes the cheapest are kept. Empty where nothing fits.
    """
    least = [min(option.num_bytes for option in layer) for layer in options]
    states: list[Allocation[ChoiceT]] = [Allocation((), 0, 0.0)]
    for index, layer in enumerate(options):
        room = budget - sum(least[index + 1 :])
        grown = [
            Allocation((*state.choices, option.choice), state.num_bytes + option.num_bytes, state.cost + option.cost)
            for state in states
            for option in layer
            if state.num_bytes + option.num_bytes <= room
        ]
        states = _front(grown, count, bucket=max(1, budget // _BUCKETS))
    return sorted(states, key=lambda state: (state.cost, state.num_bytes))[:count]


def _front(states: Sequence[Allocation[ChoiceT]], depth: int, *, bucket: int) -> list[Allocation[ChoiceT]]:
    """Return the states that fewer than `depth` others beat in bytes and cost alike, at most `depth` of each bucket."""
    kept: list[Allocation[ChoiceT]] = []
    least: list[float] = []  # the `depth` least costs so far
    in_bucket: dict[int, int] = {}
    for state in sorted(states, key=lambda state: (state.num_bytes // bucket, state.cost, state.num_bytes)):
        number = state.num_bytes // bucket
        if in_bucket.get(number, 0) < depth and (len(least) < depth or state.cost < least[-1]):
            in_bucket[number] = in_bucket.get(number, 0) + 1
            kept.append(state)
            least = sorted([*least, state.cost])[:depth]
    return kept
