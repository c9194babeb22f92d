"""Curves of what a step costs: drawn, tabulated, and what bends them said in words, from figures.

Two bounds explain most of a step: the bytes that it must read, over the bandwidth measured, and its products, over the
rate measured. What is above both is the engine's, attention's and paging's own.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from arm_process import ArmSummary

from server.measuring.intervals import Interval


@dataclass(frozen=True)
class Machine:
    """What the bounds are made of."""

    bytes_per_second: float
    operations_per_second: float

    @property
    def text(self) -> str:
        """Say so."""
        return (
            f"The machine reads {self.bytes_per_second / 1e9:.1f} GB/s in a product with a vector and does "
            f"{self.operations_per_second / 1e9:.0f} GFLOP/s in a large product of float32 matrices."
        )


@dataclass(frozen=True)
class Measure:
    """One arm at one point."""

    milliseconds: Interval
    """Of a step."""
    summary: ArmSummary

    def reading(self, machine: Machine) -> dict[str, float]:
        """Return the milliseconds that reading takes at least, by what is read."""
        return {part: 1e3 * size / machine.bytes_per_second for part, size in self.summary.floor.items()}

    def arithmetic(self, machine: Machine) -> float:
        """Return the milliseconds that the step's products take at least."""
        return 1e3 * self.summary.operations / machine.operations_per_second

    def bound(self, machine: Machine) -> float:
        """Return the larger of the two."""
        return max(sum(self.reading(machine).values()), self.arithmetic(machine))


@dataclass
class Curve:
    """Measures of several arms along one axis."""

    title: str
    axis: str
    points: list[tuple[float, dict[str, Measure]]] = field(default_factory=list)

    def add(self, x: float, measures: dict[str, Measure]) -> None:
        """Add a point; they stay in order."""
        self.points.append((x, measures))
        self.points.sort(key=lambda point: point[0])

    @property
    def arms(self) -> list[str]:
        """The arms in the order in which they appear."""
        return list(dict.fromkeys(name for _, measures in self.points for name in measures))

    def of(self, arm: str) -> list[tuple[float, Measure]]:
        """Return the points at which an arm was measured."""
        return [(x, measures[arm]) for x, measures in self.points if arm in measures]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "title": self.title,
            "axis": self.axis,
            "points": [
                {
                    "x": x,
                    "arms": {
                        name: {"milliseconds": vars(measure.milliseconds), **vars(measure.summary)}
                        for name, measure in measures.items()
                    },
                }
                for x, measures in self.points
            ],
        }


def to_markdown(curve: Curve, machine: Machine, *, picture: str) -> str:
    """Return a section: picture, words, and a table of every measure."""
    lines = [f"## {curve.title}", "", f"![{curve.title}]({picture})", ""]
    lines += [f"- {sentence}" for sentence in explain(curve, machine)]
    lines += [
        "",
        f"| {curve.axis} | arm | ms a step | interval | of the bound | miss rate | anonymous | of files | set aside |",
        "|---:|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for x, measures in curve.points:
        for name, measure in measures.items():
            took, summary = measure.milliseconds, measure.summary
            sizes = (summary.anonymous, summary.of_files, summary.device_bytes)
            lines.append(
                f"| {x:,.0f} | {name} | {took.median:.2f} | {took.low:.2f} to {took.high:.2f} "
                f"| {measure.bound(machine) / took.median:.0%} | {rate_text(summary.miss_rate)} | "
                + " | ".join(f"{size / 1e9:.2f} GB" for size in sizes)
                + " |"
            )
    return "\n".join(lines)


def explain(curve: Curve, machine: Machine) -> list[str]:
    """Say of each arm how its steps grow along the curve, and what of it which bound explains."""
    return [_explain_arm(arm, curve, machine) for arm in curve.arms if len(curve.of(arm)) > 1]


def _explain_arm(arm: str, curve: Curve, machine: Machine) -> str:
    points = curve.of(arm)
    (first_x, first), (last_x, last) = points[0], points[-1]
    growth = last.milliseconds.median - first.milliseconds.median
    text = (
        f"**{arm}**: {first.milliseconds.median:.2f} ms a step at {first_x:,.0f}, {last.milliseconds.median:.2f} ms at "
        f"{last_x:,.0f}, {growth:+.2f} ms. "
    )
    before, after = first.reading(machine), last.reading(machine)
    grown = {part: after[part] - before[part] for part in after}
    largest = max(grown, key=lambda part: abs(grown[part]))
    text += f"By the bandwidth, what must be read takes {sum(grown.values()):+.2f} ms more"
    text += f", {grown[largest]:+.2f} ms of it for {largest}" if sum(map(abs, grown.values())) > 0 else ""
    text += f"; products take {last.arithmetic(machine) - first.arithmetic(machine):+.2f} ms more by their rate. "
    bound_by = [x for x, measure in points if measure.arithmetic(machine) > sum(measure.reading(machine).values())]
    if bound_by:
        text += f"Products are the larger bound from {bound_by[0]:,.0f} on. "
    rests = [measure.milliseconds.median - measure.bound(machine) for measure in (first, last)]
    text += f"What neither bound explains goes from {rests[0]:.2f} to {rests[1]:.2f} ms"
    if last.summary.miss_rate is not None:
        text += f", the miss rate from {rate_text(first.summary.miss_rate)} to {rate_text(last.summary.miss_rate)}"
    return text + "." + _bend(points)


def _bend(points: list[tuple[float, Measure]]) -> str:
    """Say where the curve bends most: where the power with which steps grow changes most."""
    slopes = [
        math.log(after[1].milliseconds.median / before[1].milliseconds.median) / math.log(after[0] / before[0])
        for before, after in pairwise(points)
    ]
    if len(slopes) < 2:
        return ""
    changes = [abs(after - before) for before, after in pairwise(slopes)]
    place = changes.index(max(changes))
    return (
        f" It bends most at {points[place + 1][0]:,.0f}: steps grow with the power {slopes[place]:.2f} of the axis "
        f"before, {slopes[place + 1]:.2f} behind."
    )


def save_png(curve: Curve, path: Path) -> None:
    """Draw the curve: milliseconds of a step, and resident memory."""
    from matplotlib.figure import Figure  # noqa: PLC0415 an extra, and slow to load

    figure = Figure(figsize=(10, 4), layout="constrained")
    steps, memory = figure.subplots(1, 2)
    for arm in curve.arms:
        points = curve.of(arm)
        places = [x for x, _ in points]
        steps.plot(places, [measure.milliseconds.median for _, measure in points], marker="o", label=arm)
        memory.plot(places, [measure.summary.anonymous / 1e9 for _, measure in points], marker="o", label=arm)
    steps.set(title=curve.title, xlabel=curve.axis, ylabel="ms a step", xscale="log", yscale="log")
    memory.set(title="Memory of the process", xlabel=curve.axis, ylabel="anonymous GB", xscale="log")
    for axes in (steps, memory):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, format="png", dpi=120)


def rate_text(rate: float | None) -> str:
    """Return a miss rate; a dash where nothing is paged."""
    return "-" if rate is None else f"{rate:.1%}"
