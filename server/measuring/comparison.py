"""Arms measured in turns, and ratios within a round.

A machine's speed drifts by more than most effects worth measuring. So arms are run in turns, in an order that reverses
from round to round (ABBA), each arm is compared with the baseline of its own round, and the median of those ratios is
reported with an exact interval from order statistics. Nothing is assumed about the distribution.

Knows nothing of what is measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.measuring.intervals import Interval, median_interval

ROUNDS = 9
"""Rounds of a comparison where its caller does not say otherwise."""

OnArm = Callable[[int, int, str], None]
"""Is told how many runs are done, of how many, and which arm is next."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing to measure."""

    name: str
    run: Callable[[], float]
    """Does the work and returns its measure, in `Comparison.unit`; timing is the arm's own affair."""
    prepare: Callable[[], None] = lambda: None
    """Called before each run, outside of the measure: drop caches, reset counters."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What arms measured, round by round."""

    title: str
    unit: str
    baseline: str
    """The arm that ratios divide by."""
    samples: Mapping[str, Sequence[float]]
    """Measures per arm; index i is round i."""
    conditions: Mapping[str, Any] = field(default_factory=dict)
    """What a reader must know beside a ratio: miss rate, vocabulary, context length, host tier, ..."""

    def value(self, arm: str) -> Interval:
        """Return an arm's median measure."""
        return median_interval(self.samples[arm])

    def ratio(self, arm: str) -> Interval:
        """Return the median of an arm's measure over the baseline's of the same round."""
        pairs = zip(self.samples[arm], self.samples[self.baseline], strict=True)
        return median_interval([measure / base for measure, base in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values, raw samples included."""
        return {
            "title": self.title,
            "unit": self.unit,
            "baseline": self.baseline,
            "conditions": dict(self.conditions),
            "arms": {
                name: {
                    "samples": list(samples),
                    "value": vars(self.value(name)),
                    "ratio": vars(self.ratio(name)),
                }
                for name, samples in self.samples.items()
            },
        }

    def to_markdown(self) -> str:
        """Return a section with a table of medians and ratios."""
        lines = [f"## {self.title}", ""]
        if self.conditions:
            lines += ["; ".join(f"{key}: {value}" for key, value in self.conditions.items()) + ".", ""]
        lines += [
            f"| arm | {self.unit}, median | interval | ratio to {self.baseline} | interval |",
            "|---|---:|---|---:|---|",
        ]
        for name in self.samples:
            value, ratio = self.value(name), self.ratio(name)
            lines.append(
                f"| {name} | {number_text(value.median)} | {number_text(value.low)} to {number_text(value.high)} "
                f"| {ratio.median:.3f} | {ratio.low:.3f} to {ratio.high:.3f} |"
            )
        rounds = len(self.samples[self.baseline])
        lines += ["", f"{rounds} rounds; intervals hold the median with {self.ratio(self.baseline).confidence:.1%}."]
        return "\n".join(lines) + "\n"


def compare(
    title: str,
    arms: Sequence[Arm],
    *,
    unit: str,
    rounds: int = ROUNDS,
    warm_up: bool = True,
    conditions: Mapping[str, Any] | None = None,
    on_arm: OnArm | None = None,
) -> Comparison:
    """Measure arms in turns, the first being the baseline; each round's order is the reverse of the one before.

    With `warm_up` every arm runs once before, unmeasured.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    samples: dict[str, list[float]] = {name: [] for name in names}
    done, total = 0, len(arms) * (rounds + warm_up)
    for index in range(-1 if warm_up else 0, rounds):
        for arm in arms if index % 2 == 0 else reversed(arms):
            if on_arm is not None:
                on_arm(done, total, arm.name)
            arm.prepare()
            measure = arm.run()
            done += 1
            if index >= 0:
                samples[arm.name].append(measure)
    return Comparison(title=title, unit=unit, baseline=names[0], samples=samples, conditions=conditions or {})


def number_text(value: float) -> str:
    """Return a measure with four digits, large ones whole."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
