"""Pictures of a hit-rate curve: on the terminal in plain characters, and as a PNG."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from models.errors import ConfigError
from paging.simulation import CurvePoint

DEFAULT, LRU, OPTIMAL = "#", "L", "|"
_WIDTH = 56


def percent(fraction: float) -> str:
    """Return a fraction as a person writes it: `10 %`, `0.5 %`."""
    return f"{100 * fraction:g} %"


def plot_lines(points: Sequence[CurvePoint]) -> list[str]:
    """Return lines to print: one per cache size, marks along an axis of hit rates."""
    rates = [rate for point in points for rate in (point.hit_rate, point.lru, point.optimal)]
    low, high = min(rates), max(rates)
    span = high - low or 1.0
    sizes = [percent(point.fraction) for point in points]
    margin = max(map(len, sizes))
    lines = []
    for size, point in zip(sizes, points, strict=True):
        cells = [" "] * _WIDTH
        # The default policy's mark is drawn last and seen where marks fall together.
        for mark, rate in ((OPTIMAL, point.optimal), (LRU, point.lru), (DEFAULT, point.hit_rate)):
            cells[round((rate - low) / span * (_WIDTH - 1))] = mark
        lines.append(f"{size:>{margin}}  {''.join(cells).rstrip()}")
    axis = f"{low:.3f}" + " " * (_WIDTH - 10) + f"{high:.3f}"
    legend = f"{DEFAULT} default policy   {LRU} LRU   {OPTIMAL} optimum"
    return [*lines, f"{'':>{margin}}  {axis}", f"{'':>{margin}}  {legend}"]


def require_matplotlib() -> None:
    """Raise `ConfigError` where PNGs cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("--png needs matplotlib; install it with `pip install 'tolbooth[analysis]'`")


def save_png(points: Sequence[CurvePoint], path: Path, *, title: str) -> None:
    """Draw the curve; raises `ConfigError` where the file cannot be written."""
    from matplotlib.figure import Figure  # noqa: PLC0415 an extra, and slow to load

    points = sorted(points, key=lambda point: point.fraction)
    sizes = [100 * point.fraction for point in points]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(sizes, [point.optimal for point in points], "k--", marker=".", label="optimum, starting empty")
    axes.plot(sizes, [point.hit_rate for point in points], marker="o", label="default policy")
    axes.plot(sizes, [point.lru for point in points], marker="s", label="LRU, starting empty")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [percent(point.fraction) for point in points])
    axes.minorticks_off()
    axes.set(xlabel="rows on the device, of the vocabulary", ylabel="hit rate", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path, format="png", dpi=150)
    except OSError as error:
        raise ConfigError(f"cannot write the picture {path}: {error.strerror or error}") from error
