"""Query and gallery picture side by side, with a line for every pair of points that agree."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.answers import Detail
from patchify_core.demo.questions import Question
from patchify_core.web.views.html import FileUrl, count, place, query_address

WIDTH, GAP, TALLEST = 1000.0, 16.0, 820.0
"""The drawing's width, what is left free between the pictures, and its greatest height, all in its own units."""

NARROWEST = 0.28
"""Smallest share of the width that a picture gets."""

MOST_LINES = 60
"""More lines would hide the pictures."""


def points(found: Detail, size: tuple[int, int, Path], question: Question, url: FileUrl) -> str:
    """The two pictures and the lines.

    Args:
        found: a result with a verification.
        size: width, height and file of the gallery picture.
        question: whose picture stands on the left.
        url: address of a bundled picture.
    """
    match, checked = found.result.match, found.result.match.verification
    assert checked is not None
    width, height, path = size
    left, right, total = _layout(question.width, question.height, width, height)
    drawn = np.unique(np.linspace(0, checked.inliers - 1, min(checked.inliers, MOST_LINES)).astype(int))
    starts = _into(checked.query_points[drawn], left, question.width, question.height)
    ends = _into(checked.gallery_points[drawn], right, width, height)
    lines = "".join(
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"/>'
        for a, b in zip(starts, ends, strict=True)
    )
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in (*starts, *ends))
    said = f"{count(checked.inliers, 'point')} of the query and of the result agree on one view of the object"
    note = said + ("." if len(drawn) == checked.inliers else f"; {len(drawn)} of them are drawn.")
    asked = "" if question.box is None else _outline("pf-box pf-asked", question.box, question.width, question.height)
    patch = "" if checked.box is None else _outline("pf-patch", found.explanation.boxes[match.patch], width, height)
    return (
        f'<figure class="pf-points"><div class="pf-pair" style="--ratio:{WIDTH / total:.5f};aspect-ratio:{WIDTH:.0f}/{total:.1f}">'
        f'<div class="pf-pane" style="{_spot(left, total)}"><img src="{escape(query_address(question, url))}" '
        f'alt="Query: {escape(question.name)}">{asked}</div>'
        f'<div class="pf-pane" style="{_spot(right, total)}"><img src="{escape(url(path))}" '
        f'alt="Gallery picture {match.image_id}">{patch}{_outline("pf-box", match.box, width, height)}</div>'
        f'<svg viewBox="0 0 {WIDTH:.0f} {total:.1f}" role="img" aria-label="{said}">'
        f'<g class="under">{lines}</g><g class="over">{lines}</g>{dots}</svg></div>'
        f"<figcaption>{note}</figcaption></figure>"
    )


def _outline(kind: str, box: NDArray[np.float64], width: int, height: int) -> str:
    return f'<span class="{kind}" style="{place(box, width, height)}"></span>'


_Pane = tuple[float, float, float, float]


def _layout(query_width: int, query_height: int, width: int, height: int) -> tuple[_Pane, _Pane, float]:
    """Left and right picture (x, y, width, height), equally high where their shapes allow it, and the height of all."""
    shapes = query_width / query_height, width / height
    share = min(max(shapes[0] / sum(shapes), NARROWEST), 1 - NARROWEST)
    panes = []
    for room, shape in zip(((WIDTH - GAP) * share, (WIDTH - GAP) * (1 - share)), shapes, strict=True):
        tall = min(room / shape, TALLEST)
        panes.append((room, tall * shape, tall))
    total = max(tall for _, _, tall in panes)
    (room, w1, h1), (other, w2, h2) = panes
    left = ((room - w1) / 2, (total - h1) / 2, w1, h1)
    right = (room + GAP + (other - w2) / 2, (total - h2) / 2, w2, h2)
    return left, right, total


def _into(rows: NDArray[np.float64], pane: _Pane, width: int, height: int) -> NDArray[np.float64]:
    """Points (K, 2) in pixels of a picture as points of the drawing."""
    x, y, wide, tall = pane
    return rows.reshape(-1, 2) * (wide / width, tall / height) + (x, y)


def _spot(pane: _Pane, total: float) -> str:
    x, y, wide, tall = pane
    return f"left:{x / WIDTH:.4%};top:{y / total:.4%};width:{wide / WIDTH:.4%};height:{tall / total:.4%}"
