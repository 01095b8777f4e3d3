"""Line charts as inline SVG: colours come from the page's style sheet, so light and dark fit.

A chart is drawn 360 units wide, about its size on a phone; on a wide screen charts stand side by
side. Names are escaped here, by `Markup`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 34
_MAX_POINTS = 240  # of a line; more would not be seen
NUM_COLOURS = 6

Place = Callable[[float, float], tuple[float, float]]  # of a point, on the page


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: For the legend.
        x: Ascending, finite.
        y: As many, finite.
        marks: Draw its points too.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marks: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart, and what stands around it.

    Args:
        title: Its heading.
        svg: The picture.
        legend: Names of its lines, in the order of the colours.
        summary: The same in words, for who does not see the picture.
    """

    title: str
    svg: Markup
    legend: list[str]
    summary: str


@dataclass(frozen=True)
class Axes:
    """What the axes of a chart say.

    Args:
        x_label: Below the chart.
        from_zero: The vertical axis begins at 0.
        marker: A vertical line at this x.
    """

    x_label: str
    from_zero: bool = False
    marker: float | None = None


def line_chart(title: str, lines: Sequence[Line], axes: Axes) -> Chart:
    """Draws lines over one pair of axes.

    Args:
        title: The heading.
        lines: At least one, each with a point.
        axes: What the axes say.
    """
    lines = [_thinned(line) for line in lines]
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y]
    x_ticks = _whole(xs) or ticks(min(xs), max(xs), 4)
    y_ticks = ticks(0 if axes.from_zero else min(ys), max(ys), 4)
    x_range = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 1, max(xs) + 1)
    y_range = (y_ticks[0], y_ticks[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM
        return right, down - (y - y_range[0]) / (y_range[1] - y_range[0]) * (down - _TOP)

    parts = [
        _y_axis(place, x_range[0], y_ticks),
        _x_axis(place, x_range, x_ticks, axes.x_label),
    ]
    if axes.marker is not None:
        x, _ = place(axes.marker, y_range[0])
        parts.append(
            Markup('<line class="marker" x1="{0:.1f}" x2="{0:.1f}" y1="{1}" y2="{2}"/>').format(
                x, _TOP, HEIGHT - _BOTTOM
            )
        )
    for number, line in enumerate(lines):
        points = [place(x, y) for x, y in zip(line.x, line.y, strict=True)]
        parts.append(_polyline(points, number % NUM_COLOURS, line.marks or len(points) == 1))
    summary = "; ".join(_in_words(line) for line in lines)
    svg = Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(WIDTH, HEIGHT, f"{title}: {summary}", Markup("").join(parts))
    return Chart(title, svg, [line.name for line in lines], summary)


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Returns round numbers from at most `low` to at least `high`, about `wanted` + 1 of them."""
    if high <= low:
        pad = abs(high) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if raw <= m * power * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _whole(xs: Sequence[float]) -> list[float]:
    """The values themselves where they are few: 1, 2, 3."""
    values = sorted(set(xs))
    return values if len(values) <= 8 else []


def short_number(value: float) -> str:
    """Writes a number in a few letters: 12k, 0.05, 3."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _y_axis(place: Place, left: float, y_ticks: list[float]) -> Markup:
    parts = []
    for value in y_ticks:
        _, y = place(left, value)
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2:.1f}" y2="{2:.1f}"/>'
                '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(_LEFT, WIDTH - _RIGHT, y, _LEFT - 6, y + 4, short_number(value))
        )
    return Markup("").join(parts)


def _x_axis(place: Place, x_range: tuple[float, float], x_ticks: list[float], label: str) -> Markup:
    parts = []
    for value in x_ticks:
        if not x_range[0] <= value <= x_range[1]:
            continue
        x, _ = place(value, 0)
        anchor = "end" if x > WIDTH - 30 else "middle"
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                x, HEIGHT - _BOTTOM + 15, anchor, short_number(value)
            )
        )
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    text = Markup('<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>')
    parts.append(text.format(middle, HEIGHT - 3, label))
    return Markup("").join(parts)


def _polyline(points: list[tuple[float, float]], colour: int, marks: bool) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    drawn = Markup('<path class="line c{}" d="{}"/>').format(colour, path)
    if marks:
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        drawn += Markup('<path class="dots c{}" d="{}"/>').format(colour, dots)
    return drawn


def _thinned(line: Line) -> Line:
    """Replaces runs of neighbouring points by their means where there are many."""
    if len(line.x) <= _MAX_POINTS:
        return line
    size = -(-len(line.x) // _MAX_POINTS)  # equal parts: a mean of more points is smoother
    parts = np.split(np.arange(len(line.x)), range(size, len(line.x), size))
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    means = ([float(x[part].mean()) for part in parts], [float(y[part].mean()) for part in parts])
    return Line(line.name, *means, line.marks)


def _in_words(line: Line) -> str:
    low, high = min(line.y), max(line.y)
    first, last = short_number(line.y[0]), short_number(line.y[-1])
    span = f"between {short_number(low)} and {short_number(high)}"
    return f"{line.name} goes from {first} to {last}, {span}"
