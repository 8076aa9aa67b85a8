"""The detail view of one result: every stage of patches, the similarity map, and the matching points."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.box_methods import BOXES, MAP, SOFT, WINNING
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.reranking import NAMES
from patchify_core.demo.results import Detail
from patchify_core.imaging.boxes import iou
from patchify_core.retrieval.localize import SimilarityMap
from patchify_core.retrieval.ranking import Verification
from patchify_core.web.views.html import FileUrl, count, css_gradient, patch_position, render, signed, viridis

NUMBERED = 12
"""A stage with more patches than this that is no grid does not write similarities on the picture."""


@dataclass(frozen=True, eq=False)
class _Cell:
    """A patch: its box (xyxy pixels), its similarity, and that as a share of the range over this picture's patches."""

    box: NDArray
    score: float
    share: float
    winner: bool


@dataclass(frozen=True, eq=False)
class _Stage:
    """The patches of one stage: whether they are a grid, and whether each shows its similarity."""

    title: str
    gridded: bool
    numbered: bool
    cells: list[_Cell]

    @property
    def best(self) -> float:
        return max(cell.score for cell in self.cells)


def detail(shown: Detail, size: tuple[int, int, Path], query: UserQuery, url: FileUrl) -> str:
    """Render the detail view; `size` is width, height and file of the gallery picture."""
    result, (width, height, path) = shown.result, size
    match, checked, scores = result.match, result.match.verification, shown.explanation.scores
    winning = stages.stage_of(shown.stages, match.patch)
    annotated = len(result.annotated) > 0
    tabs = [(str(n), stages.title(shown.stages, n)) for n in range(1, len(shown.stages) + 1)]
    layers = [("cells", "similarities"), *([("true", "annotated")] if annotated else [])]
    if shown.places is not None:
        tabs.append(("map", "similarity map"))
        layers.append(("patch", "winning patch"))
    if checked is not None:
        tabs.append(("points", "matching points"))
        layers.append(("lines", "lines"))
    if checked is not None and checked.inliers:
        first_tab = "points"
    else:
        first_tab = "map" if shown.places is not None and shown.box_method == MAP else str(winning)
    kinds = [("win", _box_in_words(shown))]
    kinds += [("oth", "further object")] * bool(len(match.others)) + [("pat", "winning patch")] * result.moved
    kinds += [("tru", "annotated box")] * annotated
    position = patch_position(shown.stages, match.patch)
    return render(
        "detail",
        result=result,
        match=match,
        checked=checked,
        query=query,
        width=width,
        height=height,
        path=path,
        url=url,
        box_method=shown.box_method,
        WINNING=WINNING,
        SOFT=SOFT,
        opacity=OPACITY,
        results_shown=shown.results_shown,
        shown=first_tab,
        tabs=tabs,
        layers=layers,
        kinds=kinds,
        stages=_stages(shown),
        heat=None if shown.places is None else heat(shown.places, f"gallery picture {match.image_id}"),
        points=None if checked is None else pair(checked, query, width, height),
        winning_box=shown.explanation.boxes[match.patch],
        where="the whole picture" if position == "whole picture" else position,
        cosine=float(scores[match.patch]),
        whole=float(scores[0]) if position != "whole picture" and shown.stages[0].patches == 1 else None,
        box_name=_box_in_words(shown),
        winning_iou=float(iou(result.cell, result.annotated).max()) if annotated else None,
        method="" if checked is None else NAMES.get(checked.method, checked.method).partition(",")[0],
    )


def _box_in_words(shown: Detail) -> str:
    """Return the name of the box that is scored."""
    if shown.result.by_points:
        return "box by the points"
    if not shown.result.moved:
        return "winning patch"
    return BOXES[shown.box_method]


def _stages(shown: Detail) -> list[_Stage]:
    """Return the patches of every stage; the script shows one stage at a time."""
    scores, boxes = shown.explanation.scores, shown.explanation.boxes
    low, high = float(scores.min()), float(scores.max())
    listed = []
    for number, stage in enumerate(shown.stages, 1):
        patches = range(stages.patches_before(shown.stages, number), stage.patches)
        gridded = stages.grid_of(stage) is not None
        cells = [
            _Cell(
                boxes[patch],
                float(scores[patch]),
                (float(scores[patch]) - low) / (high - low) if high > low else 1.0,
                patch == shown.result.match.patch,
            )
            for patch in patches
        ]
        listed.append(_Stage(stages.title(shown.stages, number), gridded, gridded or len(cells) <= NUMBERED, cells))
    return listed


SHOWN_SIDE = 240
"""Longer side of the map in pixels; the browser enlarges it further."""

OPACITY = 65
"""Initial opacity of the map in percent."""


@dataclass(frozen=True)
class Heat:
    """A similarity map as an image.

    Attributes:
        address: data: URL of the map in colours; it lies over the picture, and the page's script sets its opacity.
        in_words: Description for people who cannot see it.
        low: Its lowest similarity.
        high: Its highest similarity.
        colours: Of the legend, for CSS.
    """

    address: str
    in_words: str
    low: float
    high: float
    colours: str


def heat(places: SimilarityMap, picture: str) -> Heat:
    """Draw a map; `picture` names what it is a map of."""
    values = places.values
    low, high = float(values.min()), float(values.max())
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    spot = _in_words((column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0])
    words = (
        f"Similarity map of {picture}: the query matches best {spot}, with {signed(high, 2)}; "
        f"where it matches least the similarity is {signed(low, 2)}."
    )
    return Heat(_png(values), words, low, high, css_gradient())


def _png(values: NDArray[np.float32]) -> str:
    """Return the values in colours, smoothly enlarged, as a PNG in a data: URL; the darkest is the lowest value."""
    import cv2

    height, width = values.shape
    scale = SHOWN_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    large = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)
    low, high = float(values.min()), float(values.max())
    coloured = viridis(np.clip((large - low) / max(high - low, 1e-6), 0, 1))
    _, png = cv2.imencode(".png", coloured[:, :, ::-1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def _in_words(across: float, down: float) -> str:
    """Say where a point is, e.g. `at the upper left`, for fractions of the picture's sides."""
    sides = ("left", "", "right")[min(int(3 * across), 2)]
    heights = ("upper", "", "lower")[min(int(3 * down), 2)]
    if not sides and not heights:
        return "in the middle"
    if not sides:
        return "at the top" if heights == "upper" else "at the bottom"
    return f"at the {heights} {sides}" if heights else f"on the {sides}"


WIDTH, GAP, TALLEST = 1000.0, 16.0, 820.0
"""Width of the drawing, gap between the pictures, and greatest height, in the drawing's own units."""

NARROWEST = 0.28
"""Smallest share of the width for a picture."""

MOST_LINES = 60
"""Lines drawn at most; more would hide the pictures."""

Spot = tuple[str, str]
"""x and y in the drawing's units."""


@dataclass(frozen=True)
class PointPair:
    """Two pictures side by side, and lines between them.

    Attributes:
        ratio: Width / height of the drawing.
        shape: The same for CSS.
        view: The SVG view box.
        query_spot: CSS of the query picture.
        gallery_spot: CSS of the gallery picture.
        lines: (start, end) of each line.
        in_words: Description for people who cannot see it.
    """

    ratio: float
    shape: str
    view: str
    query_spot: str
    gallery_spot: str
    lines: list[tuple[Spot, Spot]]
    in_words: str


def pair(checked: Verification, query: UserQuery, width: int, height: int) -> PointPair:
    """Lay out the query and a gallery picture of width x height pixels, with lines between their inliers."""
    left, right, total = _layout(query.width, query.height, width, height)
    drawn = np.unique(np.linspace(0, checked.inliers - 1, min(checked.inliers, MOST_LINES)).astype(int))
    starts = _into(checked.query_points[drawn], left, query.width, query.height)
    ends = _into(checked.gallery_points[drawn], right, width, height)
    return PointPair(
        WIDTH / total,
        f"{WIDTH:.0f}/{total:.1f}",
        f"0 0 {WIDTH:.0f} {total:.1f}",
        _spot(left, total),
        _spot(right, total),
        [((f"{a:.1f}", f"{b:.1f}"), (f"{c:.1f}", f"{d:.1f}")) for (a, b), (c, d) in zip(starts, ends, strict=True)],
        f"{count(checked.inliers, 'point')} of the query and of the result agree on one view of the object",
    )


_Pane = tuple[float, float, float, float]
"""x, y, width and height of a picture in the drawing."""


def _layout(query_width: int, query_height: int, width: int, height: int) -> tuple[_Pane, _Pane, float]:
    """Return the left and right picture, equally high if their shapes allow it, and the height of the drawing."""
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
    """Convert points (K, 2) from pixels of a picture to units of the drawing."""
    x, y, wide, tall = pane
    return rows.reshape(-1, 2) * (wide / width, tall / height) + (x, y)


def _spot(pane: _Pane, total: float) -> str:
    x, y, wide, tall = pane
    return f"left:{x / WIDTH:.4%};top:{y / total:.4%};width:{wide / WIDTH:.4%};height:{tall / total:.4%}"
