"""A look into one result: every set of patches, how similar each place is, and the points that agree."""

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
from patchify_core.web.views.html import FileUrl, count, render, signed

NUMBERED = 12
"""Boxes that lie anywhere, and over each other, say their similarity only if there are no more of them than this."""


@dataclass(frozen=True, eq=False)
class _Cell:
    """A patch: its box (xyxy pixels), its similarity, and that as a share of what this picture's patches reach."""

    box: NDArray
    score: float
    share: float
    winner: bool


@dataclass(frozen=True, eq=False)
class _Stage:
    """Patches of one grid, or of one kind: whether they are a grid, and whether each says its similarity."""

    title: str
    gridded: bool
    numbered: bool
    cells: list[_Cell]

    @property
    def best(self) -> float:
        return max(cell.score for cell in self.cells)


def detail(found: Detail, size: tuple[int, int, Path], query: UserQuery, url: FileUrl) -> str:
    """The large view; `size` is width, height and file of the gallery picture."""
    result, (width, height, path) = found.result, size
    match, checked, scores = result.match, result.match.verification, found.explanation.scores
    winning = stages.stage_of(found.stages, match.patch)
    annotated = len(result.annotated) > 0
    tabs = [(str(n), stages.title(found.stages, n)) for n in range(1, len(found.stages) + 1)]
    layers = [("cells", "similarities"), *([("true", "annotated")] if annotated else [])]
    if found.places is not None:
        tabs.append(("map", "similarity map"))
        layers.append(("patch", "winning patch"))
    if checked is not None:
        tabs.append(("points", "matching points"))
        layers.append(("lines", "lines"))
    if checked is not None and checked.inliers:
        shown = "points"
    else:
        shown = "map" if found.places is not None and found.box_method == MAP else str(winning)
    kinds = [("win", _box_in_words(found))]
    kinds += [("oth", "further object")] * bool(len(match.others)) + [("pat", "winning patch")] * result.moved
    kinds += [("tru", "annotated box")] * annotated
    gridded = stages.grid_of(found.stages[winning - 1])
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
        box_method=found.box_method,
        WINNING=WINNING,
        SOFT=SOFT,
        opacity=OPACITY,
        results_shown=found.results_shown,
        shown=shown,
        tabs=tabs,
        layers=layers,
        kinds=kinds,
        stages=_stages(found),
        heat=None if found.places is None else heat(found.places, f"gallery picture {match.image_id}"),
        points=None if checked is None else pair(checked, query, width, height),
        winning_box=found.explanation.boxes[match.patch],
        where=_where(found, winning),
        cosine=float(scores[match.patch]),
        whole=float(scores[0]) if gridded != 1 and found.stages[0].patches == 1 else None,
        box_name=_box_in_words(found),
        winning_iou=float(iou(result.cell, result.annotated).max()) if annotated else None,
        method="" if checked is None else NAMES.get(checked.method, checked.method).partition(",")[0],
    )


def _box_in_words(found: Detail) -> str:
    """What the box that is judged is called."""
    if found.result.by_points:
        return "box by the points"
    if not found.result.moved:
        return "winning patch"
    return BOXES[found.box_method]


def _stages(found: Detail) -> list[_Stage]:
    """The boxes of every stage; the script shows those of one."""
    scores, boxes = found.explanation.scores, found.explanation.boxes
    low, high = float(scores.min()), float(scores.max())
    listed = []
    for number, stage in enumerate(found.stages, 1):
        patches = range(stages.patches_before(found.stages, number), stage.patches)
        gridded = stages.grid_of(stage) is not None
        cells = [
            _Cell(
                boxes[patch],
                float(scores[patch]),
                (float(scores[patch]) - low) / (high - low) if high > low else 1.0,
                patch == found.result.match.patch,
            )
            for patch in patches
        ]
        listed.append(_Stage(stages.title(found.stages, number), gridded, gridded or len(cells) <= NUMBERED, cells))
    return listed


def _where(found: Detail, number: int) -> str:
    """Which patch won, in words; `number` is that of its stage."""
    grid = stages.grid_of(found.stages[number - 1])
    within = found.result.match.patch - stages.patches_before(found.stages, number)
    name = stages.title(found.stages, number)
    if grid == 1:
        return "the whole picture"
    if grid is None:
        return f"patch {within + 1} of {name}"
    row, column = divmod(within, grid)
    return f"row {row + 1}, column {column + 1} of the {name}"


SHOWN_SIDE = 240
"""Longer side of the drawn map in pixels; the browser enlarges it the rest of the way."""

OPACITY = 65
"""Of the layer, in percent, until the visitor moves the slider."""

STOPS = 6
"""Colours that the legend's gradient is made of."""


@dataclass(frozen=True)
class Heat:
    """A similarity map as it is drawn.

    Attributes:
        address: the map in colours as a data address; it lies over its picture, and the page's script sets its opacity.
        in_words: what it shows, for those who cannot see it.
        low: its lowest similarity.
        high: and its highest.
        colours: what lies between them, for CSS.
    """

    address: str
    in_words: str
    low: float
    high: float
    colours: str


def heat(places: SimilarityMap, where: str) -> Heat:
    """Draws a map; `where` says what it is a map of."""
    values = places.values
    low, high = float(values.min()), float(values.max())
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    spot = _in_words((column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0])
    said = (
        f"Similarity map of {where}: the query matches best {spot}, with {signed(high, 2)}; "
        f"where it matches least the similarity is {signed(low, 2)}."
    )
    colours = ",".join(f"#{bytes(colour).hex()}" for colour in _viridis(np.linspace(0, 1, STOPS)[None])[0])
    return Heat(_drawn(values), said, low, high, colours)


def _drawn(values: NDArray[np.float32]) -> str:
    """The values in colours, smoothly enlarged, as a PNG in a data address; its darkest is the lowest value here."""
    import cv2

    height, width = values.shape
    scale = SHOWN_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    large = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)  # cells lie where they lie in the picture
    low, high = float(values.min()), float(values.max())
    coloured = _viridis(np.clip((large - low) / max(high - low, 1e-6), 0, 1))
    _, png = cv2.imencode(".png", coloured[:, :, ::-1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def _viridis(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W) in 0..1 -> (H, W, 3) uint8 RGB: equal steps look equally large, to the colour-blind too."""
    import cv2

    levels = np.rint(shares * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1])


def _in_words(across: float, down: float) -> str:
    """Where a point lies, e.g. `at the upper left`, for fractions of the picture's sides."""
    sides = ("left", "", "right")[min(int(3 * across), 2)]
    heights = ("upper", "", "lower")[min(int(3 * down), 2)]
    if not sides and not heights:
        return "in the middle"
    if not sides:
        return "at the top" if heights == "upper" else "at the bottom"
    return f"at the {heights} {sides}" if heights else f"on the {sides}"


WIDTH, GAP, TALLEST = 1000.0, 16.0, 820.0
"""The drawing's width, what is left free between the pictures, and its greatest height, all in its own units."""

NARROWEST = 0.28
"""Smallest share of the width that a picture gets."""

MOST_LINES = 60
"""More lines would hide the pictures."""


Spot = tuple[str, str]


@dataclass(frozen=True)
class PointPair:
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


def pair(checked: Verification, query: UserQuery, width: int, height: int) -> PointPair:
    """Lays the query's picture and one of width x height pixels out, with the points that agree."""
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
