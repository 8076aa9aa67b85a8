"""Query and gallery picture side by side, with a line for every pair of points that agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.questions import Question
from patchify_core.retrieval.ranking import Verification
from patchify_core.web.views.html import count

WIDTH, GAP, TALLEST = 1000.0, 16.0, 820.0
"""The drawing's width, what is left free between the pictures, and its greatest height, all in its own units."""

NARROWEST = 0.28
"""Smallest share of the width that a picture gets."""

MOST_LINES = 60
"""More lines would hide the pictures."""


Spot = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """Two pictures side by side, and lines between them.

    Attributes:
        ratio: width of the drawing by its height.
        shape: the same for CSS.
        view: the drawing's own units, for SVG.
        query_spot: CSS of the query picture.
        gallery_spot: CSS of the gallery picture.
        lines: where each line starts and ends, (x, y) in the drawing's units.
        in_words: what agrees.
    """

    ratio: float
    shape: str
    view: str
    query_spot: str
    gallery_spot: str
    lines: list[tuple[Spot, Spot]]
    in_words: str


def pair(checked: Verification, question: Question, width: int, height: int) -> Pair:
    """Lays the query's picture and one of width x height pixels out, with the points that agree."""
    left, right, total = _layout(question.width, question.height, width, height)
    drawn = np.unique(np.linspace(0, checked.inliers - 1, min(checked.inliers, MOST_LINES)).astype(int))
    starts = _into(checked.query_points[drawn], left, question.width, question.height)
    ends = _into(checked.gallery_points[drawn], right, width, height)
    return Pair(
        WIDTH / total,
        f"{WIDTH:.0f}/{total:.1f}",
        f"0 0 {WIDTH:.0f} {total:.1f}",
        _spot(left, total),
        _spot(right, total),
        [((f"{a:.1f}", f"{b:.1f}"), (f"{c:.1f}", f"{d:.1f}")) for (a, b), (c, d) in zip(starts, ends, strict=True)],
        f"{count(checked.inliers, 'point')} of the query and of the result agree on one view of the object",
    )


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
