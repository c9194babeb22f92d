"""The one harness of every benchmark: arms measured in turns, ratios within a round, medians with intervals, a report.

A machine's speed drifts by more than most effects worth measuring. So arms are run in turns, in an order that reverses
from round to round (ABBA), each arm is compared with the baseline of its own round, and the median of those ratios is
reported with an exact interval from order statistics. Nothing is assumed about the distribution.

Knows nothing of what is measured.
"""

import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROUNDS = 9
"""Rounds of a comparison where its caller does not say otherwise."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One thing to measure."""

    name: str
    run: Callable[[], float]
    """Does the work and returns its measure, in `Comparison.unit`; timing is the arm's own affair."""
    prepare: Callable[[], None] = lambda: None
    """Called before each run, outside of the measure: drop caches, reset counters."""


@dataclass(frozen=True)
class Interval:
    """A median and an interval that holds the true one with at least `confidence`."""

    median: float
    low: float
    high: float
    confidence: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median of samples and the narrowest symmetric order-statistic interval of at least `confidence`.

    The number of samples below the true median is binomial with one half, whatever the distribution. With too few
    samples for the confidence asked for, the whole range is returned with the confidence that it has.
    """
    if not samples:
        raise ValueError("no samples")
    ordered, count = sorted(samples), len(samples)
    best = Interval(statistics.median(ordered), ordered[0], ordered[-1], _coverage(count, 0))
    for cut in range(1, (count - 1) // 2 + 1):
        if _coverage(count, cut) < confidence:
            break
        best = Interval(best.median, ordered[cut], ordered[count - 1 - cut], _coverage(count, cut))
    return best


def _coverage(count: int, cut: int) -> float:
    """Return the chance that the median lies between the order statistics `cut` from either end."""
    return 1 - 2 * sum(math.comb(count, below) for below in range(cut + 1)) / 2**count


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
                f"| {name} | {_number(value.median)} | {_number(value.low)} to {_number(value.high)} "
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
) -> Comparison:
    """Measure arms in turns, the first being the baseline; each round's order is the reverse of the one before.

    With `warm_up` every arm runs once before, unmeasured. Progress goes to standard error.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) != len(names):
        raise ValueError(f"two arms have the same name: {', '.join(names)}")
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-1 if warm_up else 0, rounds):
        for arm in arms if index % 2 == 0 else reversed(arms):
            print(f"\r{title}: round {max(index, 0) + 1} of {rounds}, {arm.name:<40}", end="", file=sys.stderr)
            arm.prepare()
            measure = arm.run()
            if index >= 0:
                samples[arm.name].append(measure)
    print(file=sys.stderr)
    return Comparison(title=title, unit=unit, baseline=names[0], samples=samples, conditions=conditions or {})


def write_report(
    comparisons: Sequence[Comparison],
    stem: Path,
    *,
    title: str,
    remarks: str = "",
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `stem.json` and `stem.md`: hardware, date and command, then every comparison."""
    facts = {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "command": shlex.join(["python", *sys.argv]),
        **hardware(),
    }
    content = {
        "title": title,
        "facts": facts,
        "comparisons": [comparison.to_dict() for comparison in comparisons],
        **(more or {}),
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    lines = [f"# {title}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", *([remarks, ""] if remarks else [])]
    lines += [comparison.to_markdown() for comparison in comparisons]
    stem.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")


def hardware() -> dict[str, str]:
    """Return what the measures were taken on."""
    facts = {
        "processor": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.2f}",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        facts["torch"] = torch.__version__
        facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return facts


def drop_page_cache() -> None:
    """Empty the kernel's page cache, so that reads come from the disk; needs root, raises `PermissionError` without."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
