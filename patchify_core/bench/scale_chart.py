"""The chart of `bench scale`: milliseconds a query, and what is found of the exact answer, as a collection grows."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from patchify_core.evaluation.study.chart import BOTTOM, COLOURS, HEIGHT, INK, LEFT, RIGHT, TOP, WIDTH, Line, svg

LEGEND_LINE = 16
FINER = "Patchify, finer codes"


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Both panels as SVG: time on a logarithmic axis, quality from 0 to 1."""
    mine = tuple((float(row["images"]), row["search"]["p50_ms"]) for row in rows)
    speed, overlap = {"Patchify": mine}, {"Patchify": tuple((float(r["images"]), r["search"]["overlap"]) for r in rows)}
    for row in rows:
        if "refined" in row:
            for lines, value in ((speed, row["refined"]["p50_ms"]), (overlap, row["refined"]["overlap"])):
                lines[FINER] = (*lines.get(FINER, ()), (float(row["images"]), value))
        for peer in row.get("peers", {}).values():
            if "skipped" not in peer:
                at = float(row["images"])
                speed[peer["name"]] = (*speed.get(peer["name"], ()), (at, peer["p50_ms"]))
                overlap[peer["name"]] = (*overlap.get(peer["name"], ()), (at, peer["overlap"]))
    sizes = [float(row["images"]) for row in rows]
    left, right = _lines(speed, "ms"), _lines(overlap, "")
    groups = [
        _panel("p50, ms a query", left, sizes, 0, True),
        _panel("overlap with the exact first ten", right, sizes, WIDTH, False),
    ]
    for at, line in enumerate(right):
        y = HEIGHT + 14 + LEGEND_LINE * at
        groups.append(
            f'<circle cx="{LEFT}" cy="{y - 4}" r="5" fill="{_colour(at)}"/>'
            f'<text x="{LEFT + 10}" y="{y}">{escape(line.name)}</text>'
        )
    label = "Milliseconds a query and share of the exact answers found, against the number of pictures"
    return svg(groups, 2 * WIDTH, HEIGHT + 20 + LEGEND_LINE * len(right), label)


def _lines(found: dict[str, tuple[tuple[float, float], ...]], unit: str) -> list[Line]:
    return [
        Line(name, tuple((x, y, f"{name}: {y:.3g} {unit} at {x:,.0f} pictures".replace("  ", " ")) for x, y in points))
        for name, points in found.items()
    ]


def _panel(title: str, lines: Sequence[Line], sizes: Sequence[float], offset: float, logarithmic: bool) -> str:
    """One panel; x is logarithmic, y too or from 0 to 1."""
    values = [y for line in lines for _, y, _ in line.points]
    x_low, x_high = log10(min(sizes)) - 0.15, log10(max(sizes)) + 0.15
    if logarithmic:
        y_low, y_high = floor(log10(max(min(values), 1e-6))), ceil(log10(max(values)) + 1e-9)
        ticks = [(float(power), f"{10.0**power:g}") for power in range(y_low, y_high + 1)]
    else:
        y_low, y_high = 0, 1
        ticks = [(step / 5, f"{step / 5:.1f}") for step in range(6)]

    def across(x: float) -> float:
        return LEFT + (log10(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="18" font-size="13" font-weight="600">{escape(title)}</text>']
    for at, text in ticks:
        y = down(at)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="{INK}" opacity=".25"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    for x in sizes:
        parts.append(f'<text x="{across(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">pictures</text>')
    for number, line in enumerate(lines):
        placed = [
            (across(x), down(log10(max(y, 1e-6)) if logarithmic else min(1.0, y)), text) for x, y, text in line.points
        ]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{_colour(number)}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_colour(number)}"><title>{escape(text)}</title></circle>'
            for x, y, text in placed
        ]
    return f'<g transform="translate({offset:.0f} 0)">{"".join(parts)}</g>'


def _colour(at: int) -> str:
    """Of a line; those of the left panel are the first ones of the right one."""
    return (*COLOURS, "#64748b", "#92400e")[at % (len(COLOURS) + 2)]
