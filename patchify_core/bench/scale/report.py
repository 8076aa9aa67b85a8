"""The tables of `bench scale`, printed line by line as results arrive, the same as CSV, and the chart."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from math import ceil, floor, log10
from typing import Any

from patchify_core.evaluation.study.chart import COLOURS, HEIGHT, LEFT, WIDTH, Axes, ChartLine, line_chart, svg

LEGEND_LINE = 16
FINER = "Patchify, finer codes"
PALETTE = (*COLOURS, "#64748b", "#92400e")
"""Colours of the lines; the lines of the left panel are the first ones of the right panel."""

OURS = (
    ("pictures", 10),
    ("build", 9),
    ("B/picture", 9),
    ("RAM build", 9),
    ("RAM search", 10),
    ("p50", 9),
    ("p95", 9),
    ("queries/s", 9),
    ("recall@1 (exact)", 16),
    ("recall@10 (exact)", 17),
    ("of exact", 8),
    ("overlap", 7),
    ("cell", 5),
    ("p50 x10", 7),
    ("quiet", 5),
)
THEIRS = (
    ("who", 52),
    ("build", 9),
    ("RAM", 8),
    ("p50", 9),
    ("p95", 9),
    ("ours as good", 12),
    ("times", 6),
    ("recall@10", 9),
    ("overlap", 7),
    ("as good", 7),
    ("quiet", 5),
)
"""Columns and their widths: of the table of our sizes, and of the table of peers at one size."""

Cells = Sequence[tuple[str, int]]


def ours(row: dict[str, Any], stage: str = "search") -> Cells:
    """Format our results at one size; for the stage `refined`, the cost of finer codes and the results with them."""
    exact, search = row["exact"], row[stage]
    refined = stage == "refined"
    build = row["finer"] if refined else row["build"]
    texts = (
        f"+ {build['rescore']}" if refined else f"{row['images']:,}",
        duration(build["finer_s"] if refined else build["build_s"]),
        f"{build['disk_bytes'] / row['images']:,.0f}",
        gigabytes(build["build_memory"]["peak"]),
        gigabytes(search["search_memory"]["peak"]),
        f"{search['p50_ms']:.1f} ms",
        f"{search['p95_ms']:.1f} ms",
        f"{search['queries_per_s']:.0f}",
        f"{search['recall@1']:.3f} ({exact['recall@1']:.3f})",
        f"{search['recall@10']:.3f} ({exact['recall@10']:.3f})",
        f"{search['of_exact']:.3f}",
        f"{search['overlap']:.3f}",
        f"{search['cells']:.3f}",
        "" if row["growth"] is None or refined == ("refined" not in row) else f"{row['growth']:.2f}",
        yes_or_no(quiet(build, search)),
    )
    return [(text, width) for text, (_, width) in zip(texts, OURS, strict=True)]


def theirs(name: str, answer: dict[str, Any], row: dict[str, Any]) -> Cells:
    """Format the results of a peer, or our own, at the size of a row."""
    equal = as_good_as(answer, row)
    texts = (
        name,
        duration(answer["build_s"]),
        gigabytes(answer["search_memory"]["peak"]),
        f"{answer['p50_ms']:.1f} ms",
        f"{answer['p95_ms']:.1f} ms",
        "" if equal is None else f"{equal:.1f} ms",
        "" if equal is None else f"{answer['p50_ms'] / equal:.1f}",
        f"{answer['recall@10']:.3f}",
        f"{answer['overlap']:.3f}",
        {True: "yes", False: "no", None: ""}[answer.get("as_good")],
        yes_or_no(quiet(answer)),
    )
    return [(text, width) for text, (_, width) in zip(texts, THEIRS, strict=True)]


def as_good_as(answer: dict[str, Any], row: dict[str, Any]) -> float | None:
    """Return the p50 in ms of our fastest way that finds as many of the exact first ten; None if none does.

    Our ways are the index at every measured number of probes, with and without finer codes, and, if measured, a graph
    at every number of candidates and exact descriptors.
    """
    stages = [row[name] for name in ("search", "refined", "graph", "flat") if name in row]
    ways = [way for stage in stages for way in (stage, *stage.get("curve", ()))]
    enough = [way["p50_ms"] for way in ways if way["overlap"] >= answer["overlap"]]
    return min(enough) if enough else None


def say_row(cells: Cells) -> None:
    """Print a line of our table."""
    print("  " + "  ".join(text.rjust(width) for text, width in cells), flush=True)


def say_peer(cells: Cells) -> None:
    """Print a line of the peers' table, whose first column is a name."""
    (name, width), *others = cells
    print("  " + name.ljust(width) + "".join(f"  {text.rjust(wide)}" for text, wide in others), flush=True)


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Format all our sizes and all peers that ran as CSV, one line each, in bytes, seconds and milliseconds."""
    stream = io.StringIO()
    lines = [line for row in rows for line in _lines(row)]
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    size = row["images"]
    mine = row["build"] | row["search"]
    ways = [("Patchify", mine)]
    finer = row["build"] | row["finer"] | row["refined"] if "refined" in row else None
    if finer is not None:
        finer["build_s"] += finer["finer_s"]
        ways.append(("Patchify, finer codes", finer))
    if "flat" in row:
        ways.append(("Patchify, exact descriptors", row["flat"]))
    ways += [(peer["name"], peer) for peer in row.get("peers", {}).values() if "skipped" not in peer]
    return [
        {
            "images": size,
            "who": name,
            "build_s": answer["build_s"],
            "bytes_per_picture": answer["disk_bytes"] / size if answer.get("disk_bytes") else "",
            "build_peak_bytes": answer["build_memory"]["peak"],
            "search_peak_bytes": answer["search_memory"]["peak"],
            **{name: answer.get(name, "") for name in ("p50_ms", "p95_ms", "cold_ms", "queries_per_s")},
            **{name: answer[name] for name in ("recall@1", "recall@10", "of_exact", "overlap", "cells")},
            "exact_recall@1": row["exact"]["recall@1"],
            "exact_recall@10": row["exact"]["recall@10"],
            "p50_growth_per_tenfold": (row["growth"] or "") if answer is (finer or mine) else "",
            "p50_ms_of_ours_as_good": as_good_as(answer, row) or "",
            "quiet": quiet(answer),
        }
        for name, answer in ways
    ]


def quiet(*answers: dict[str, Any]) -> bool | None:
    """Return whether other processes left the machine alone during the measurements; None if unknown."""
    known = [answer["timing"]["quiet"] for answer in answers if "timing" in answer]
    return None if not known or None in known else all(known)


def yes_or_no(value: bool | None) -> str:
    """Format a truth value for a table."""
    return {True: "yes", False: "no", None: "?"}[value]


def duration(seconds: float) -> str:
    """Format seconds for people."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def gigabytes(size: float) -> str:
    """Format bytes for people."""
    return f"{size / 1e9:.2f} GB"


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """Draw both panels as SVG: time on a logarithmic axis, quality from 0 to 1."""
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
    left, right = _chart_lines(speed, "ms"), _chart_lines(overlap, "")
    groups = [
        _panel("p50, ms per query", left, sizes, 0, True),
        _panel("overlap with the exact first ten", right, sizes, WIDTH, False),
    ]
    for at, line in enumerate(right):
        y = HEIGHT + 14 + LEGEND_LINE * at
        groups.append(
            f'<circle cx="{LEFT}" cy="{y - 4}" r="5" fill="{PALETTE[at % len(PALETTE)]}"/>'
            f'<text x="{LEFT + 10}" y="{y}">{escape(line.name)}</text>'
        )
    label = "Milliseconds per query and share of the exact answers found, against the number of pictures"
    return svg(groups, 2 * WIDTH, HEIGHT + 20 + LEGEND_LINE * len(right), label)


def _chart_lines(curves: dict[str, tuple[tuple[float, float], ...]], unit: str) -> list[ChartLine]:
    def text(name: str, x: float, y: float) -> str:
        return f"{name}: {y:.3g} {unit} at {x:,.0f} pictures".replace("  ", " ")

    return [ChartLine(name, tuple((x, y, text(name, x, y)) for x, y in points)) for name, points in curves.items()]


def _panel(title: str, lines: Sequence[ChartLine], sizes: Sequence[float], offset: float, logarithmic: bool) -> str:
    """Draw one panel; x is logarithmic, y is logarithmic or from 0 to 1."""
    values = [y for line in lines for _, y, _ in line.points]
    if logarithmic:
        low, high = floor(log10(max(min(values), 1e-6))), ceil(log10(max(values)) + 1e-9)
        y_ticks = {10.0**power: f"{10.0**power:g}" for power in range(low, high + 1)}
    else:
        y_ticks = {step / 5: f"{step / 5:.1f}" for step in range(6)}
    axes = Axes({size: f"{size:,.0f}" for size in sizes}, y_ticks, logarithmic, beyond=0.15)
    return line_chart(title, "pictures", lines, offset, axes=axes, colours=PALETTE)
