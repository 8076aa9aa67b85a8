"""Line charts as self-contained SVG: accuracy against bytes per picture.

The page and NUMBERS.md show the same drawing. Text and lines are a grey that is readable on white and on black, which
the page's style sheet may override.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.experiments import means

WIDTH, HEIGHT = 420, 280
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 44
COLOURS = ("#3b82f6", "#d97706", "#0d9488", "#c026d3", "#dc2626", "#65a30d")
INK = "#808890"


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart.

    Attributes:
        name: Its name in the legend.
        points: (x, y, tooltip) of each point; x positive.
    """

    name: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Axes:
    """Ticks of a chart.

    Attributes:
        x: Value -> label.
        y: Value -> label; the axis ends with them.
        logarithmic: Whether y is logarithmic; x always is.
        beyond: Margin of x beyond the first and the last point, in powers of ten.
    """

    x: Mapping[float, str]
    y: Mapping[float, str]
    logarithmic: bool = False
    beyond: float = 0.08


def line_chart(
    title: str,
    x_title: str,
    lines: Sequence[ChartLine],
    offset: float = 0.0,
    mark: float | None = None,
    axes: Axes | None = None,
    colours: Sequence[str] = COLOURS,
) -> str:
    """Draw one chart with a logarithmic x axis as an SVG group.

    Args:
        title: Title above the chart.
        x_title: Title of the x axis.
        lines: Lines with at least one point in all.
        offset: Shift to the right in pixels.
        mark: x value to mark with a vertical line and rings around its points, or None.
        axes: Ticks; by default y is a share and x is bytes.
        colours: Colours of the lines, repeated as necessary.

    Raises:
        PatchifyError: If there is no point to draw.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        raise PatchifyError(f"There is nothing to draw in the chart '{title}'.")
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if axes is None:
        margin = max((max(ys) - min(ys)) * 0.12, 0.01)
        y_low, y_high = max(0.0, min(ys) - margin), min(1.0, max(ys) + margin)
        axes = Axes(_bytes_ticks(xs), {value: f"{value:.2f}" for value in _ticks(y_low, y_high)})
    else:
        y_low, y_high = (_scaled(end(axes.y), axes.logarithmic) for end in (min, max))
    x_low, x_high = log10(min(xs)) - axes.beyond, log10(max(xs)) + axes.beyond
    logarithmic = axes.logarithmic

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = TOP + (y_high - min(_scaled(y, logarithmic), y_high)) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return across, down

    parts = [f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(title)}</text>']
    for value, text in axes.y.items():
        y = at(min(xs), value)[1]
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{INK}" opacity=".25"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for value, text in axes.x.items():
        x = at(value, min(ys))[0]
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_title)}</text>'
    )
    if mark is not None and min(xs) <= mark <= max(xs):
        x = at(mark, min(ys))[0]
        parts.append(
            f'<line class="pf-mark" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="{INK}" '
            'stroke-width="1.5" stroke-dasharray="2 3"/>'
        )
    for line, colour in zip(lines, _cycle(colours, len(lines)), strict=True):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(px, py) for px, py, _ in line.points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for px, py, text in line.points:
            x, y = at(px, py)
            if px == mark:
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{colour}" stroke-width="2"/>'
                )
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(text)}</title></circle>'
            )
    return f'<g transform="translate({offset:.0f} 0)">{"".join(parts)}</g>'


def legend(lines: Sequence[ChartLine], top: float) -> str:
    """Draw the names and colours of the lines in one row."""
    parts, x = [], float(LEFT)
    for line, colour in zip(lines, _cycle(COLOURS, len(lines)), strict=True):
        parts.append(f'<circle cx="{x:.0f}" cy="{top - 4:.0f}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{x + 10:.0f}" y="{top:.0f}">{escape(line.name)}</text>')
        x += 26 + 6.6 * len(line.name)
    return "".join(parts)


def svg(groups: Sequence[str], width: float, height: float, label: str) -> str:
    """Combine groups into an SVG document with a text alternative."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(label)}" font-family="system-ui, sans-serif" font-size="11" fill="{INK}">'
        + "".join(groups)
        + "</svg>\n"
    )


def draw_chart(numbers: dict[str, Any]) -> str:
    """Draw accuracy against bytes per picture of a compression study: mAP left, LocScore right.

    Raises:
        PatchifyError: If the study is another one.
    """
    if numbers["study"] != "compression":
        raise PatchifyError(f"--chart draws the compression study, not {numbers['study']}: leave it out.")
    groups = []
    lines: list[ChartLine] = []
    for at, (name, title) in enumerate((("map", "mAP"), ("locscore", "LocScore"))):
        lines = by_dataset(numbers, name)
        if lines:
            groups.append(line_chart(title, "bytes per picture (30 patches)", lines, at * WIDTH))
    all_lines = by_dataset(numbers, "map")
    groups.append(legend(all_lines, HEIGHT + 14))
    return svg(groups, 2 * WIDTH, HEIGHT + 26, "mAP and LocScore against bytes per picture, one line per dataset")


def by_dataset(numbers: Mapping[str, Any], name: str) -> list[ChartLine]:
    """Return the accuracy of codecs trained on uniform patches, one line per dataset.

    Args:
        numbers: `datasets` and `rows` of a compression study.
        name: `map` or `locscore`.
    """
    chosen = [
        row
        for row in numbers["rows"]
        if row["codebook"] == "uniform" and row["rescore"] is None and "x4" not in row["factory"]
    ]
    grouped = means(chosen, ("factory",))
    lines = []
    for dataset in numbers["datasets"]:
        points = []
        for (factory,), by_dataset in grouped.items():
            mean = by_dataset.get(dataset)
            value = mean.of(name) if mean else None
            if mean and value is not None:
                size = float(mean["bytes_per_image"])
                points.append((size, value, f"{dataset}, {factory}: {value:.3f} at {size:,.0f} bytes"))
        lines.append(ChartLine(dataset, tuple(sorted(points))))
    return lines


def by_codebook(numbers: Mapping[str, Any], name: str, dataset: str) -> list[ChartLine]:
    """Return the accuracy of codecs of equal size on one dataset, one line per training set (codebook).

    Args:
        numbers: `rows` of a compression study.
        name: `map` or `locscore`.
        dataset: Name of the dataset.
    """
    chosen = [row for row in numbers["rows"] if "x4" in row["factory"] and row["dataset"] == dataset]
    lines: dict[str, list[tuple[float, float, str]]] = {}
    for (codebook, factory), by_dataset in means(chosen, ("codebook", "factory")).items():
        mean = by_dataset[dataset]
        value = mean.of(name)
        if value is not None:
            size = float(mean["bytes_per_image"])
            text = f"{codebook}, {factory}: {value:.3f} ± {mean.spread(name) / 2:.3f} at {size:,.0f} bytes"
            lines.setdefault(codebook, []).append((size, value, text))
    return [ChartLine(codebook, tuple(sorted(points))) for codebook, points in lines.items()]


def _cycle(colours: Sequence[str], count: int) -> list[str]:
    return [colours[i % len(colours)] for i in range(count)]


def _scaled(value: float, logarithmic: bool) -> float:
    return log10(max(value, 1e-6)) if logarithmic else value


def _ticks(low: float, high: float) -> list[float]:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s <= 7)
    first = floor(low / step) + 1
    return [step * i for i in range(first, int(high / step) + 1)]


def _bytes_ticks(xs: Sequence[float]) -> dict[float, str]:
    """Return powers of ten as ticks, or the values themselves if they are few and within one power of ten."""
    low, high = min(xs), max(xs)
    powers = [10.0**p for p in range(floor(log10(low)), floor(log10(high)) + 1) if low <= 10.0**p <= high * 1.2]
    values = sorted(set(xs))
    return {value: _short(value) for value in (values if len(powers) < 2 and len(values) <= 5 else powers)}


def _short(value: float) -> str:
    for unit, size in (("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B"
