"""Line charts and heat maps as SVG, coloured by the page's style sheet so that they follow its light and dark."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44
NUM_COLOURS = 8
_DARK, _STRONG = 0.55, ' class="strong"'
"""Above this shade a heat map's figures are in the page's own colour."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: Sequence[tuple[float, float]]
    is_reference: bool = False
    """Drawn grey and dashed, for comparison."""


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
    y_range: Sequence[float] = (),
) -> str:
    """Return a chart with a legend below it. Points that a logarithm cannot show are left out.

    y_range: values that the chart shows in any case.
    """
    drawn = [
        replace(each, points=[(x, y) for x, y in each.points if (x > 0 or not log_x) and (y > 0 or not log_y)])
        for each in series
    ]
    xs = [x for each in drawn for x, _ in each.points]
    ys = [*(y for each in drawn for _, y in each.points), *y_range]
    colours = ["reference" if each.is_reference else f"c{index % NUM_COLOURS}" for index, each in enumerate(drawn)]
    if not xs:
        return '<p class="note">Nothing to draw.</p>'
    across = _Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT, is_log=log_x)
    up = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, is_log=log_y)
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for tick in up.ticks():
        y = up.place(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in across.ticks():
        x = across.place(tick)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{_number(tick)}</text>'
        )
    for each, colour in zip(drawn, colours, strict=True):
        places = [(across.place(x), up.place(y)) for x, y in each.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        if len(places) <= 32 and not each.is_reference:
            for (x, y), (value_x, value_y) in zip(places, each.points, strict=True):
                told = html.escape(f"{each.label}: {_number(value_x)}, {value_y:.4g}")
                parts.append(
                    f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{told}</title></circle>'
                )
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="axis" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
        f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(y_label)}</text></svg>"
    )
    legend = "".join(
        f'<span><i class="{colour}"></i>{html.escape(each.label)}</span>'
        for each, colour in zip(drawn, colours, strict=True)
    )
    return "".join(parts) + f'<div class="legend">{legend}</div>'


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], *, form: str = "{:.2f}"
) -> str:
    """Return a table whose cells are the darker the higher their value is among all of them."""
    flat = [value for row in values for value in row]
    low, high = min(flat), max(flat)
    span = (high - low) or 1.0
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    body = ""
    for name, row in zip(rows, values, strict=True):
        shades = [(value - low) / span for value in row]
        cells = "".join(
            f'<td style="--v:{shade:.3f}"{_STRONG if shade > _DARK else ""}>{form.format(value)}</td>'
            for value, shade in zip(row, shades, strict=True)
        )
        body += f'<tr><th scope="row">{html.escape(name)}</th>{cells}</tr>'
    head = f"<thead><tr><td></td>{head}</tr></thead>"
    return f'<div class="scroll"><table class="heat">{head}<tbody>{body}</tbody></table></div>'


class _Axis:
    """From values to places along one axis."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, is_log: bool) -> None:
        self._is_log = is_log
        if low == high:
            low, high = (low / 2, high * 2) if is_log else (low - 1, high + 1)
        self._low, self._high = low, high
        self._start, self._stop = start, stop

    def place(self, value: float) -> float:
        """Return where a value lies."""
        low, high, value = (math.log(each) if self._is_log else each for each in (self._low, self._high, value))
        return self._start + (value - low) / (high - low) * (self._stop - self._start)

    def ticks(self) -> list[float]:
        """Return round values along the axis."""
        if self._is_log:
            first, last = math.ceil(math.log10(self._low) - 1e-9), math.floor(math.log10(self._high) + 1e-9)
            decades = [10.0**power for power in range(first, last + 1)]
            return decades if len(decades) >= 2 else [self._low, self._high]
        step = 10 ** math.floor(math.log10((self._high - self._low) / 4))
        step *= next(each for each in (1, 2, 5, 10) if (self._high - self._low) / (step * each) <= 6)
        first = math.ceil(self._low / step - 1e-9)
        return [step * index for index in range(first, math.floor(self._high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
