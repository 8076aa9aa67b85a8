"""The tab “How it works”: the steps, the exercise for a class, and the plan of a lesson.

The script assets/walk.js chooses which step is shown and follows the pointer; it reads the numbers from data attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.lesson import Lesson
from patchify_core.demo.walk import EXERCISE, PLAN, STEPS, WORKED, Look, Walk, worked_example
from patchify_core.regions import Stage
from patchify_core.web.views.html import (
    FileUrl,
    css_colours,
    css_gradient,
    patch_position,
    place,
    query_address,
    render_text,
)

NAMES = ("Query", "Grid", "Similarities", "Maximum", "Ranking", "LocScore")
"""Names of the steps."""

NUMBERED = 36
"""A stage with more patches than this that is no grid does not write similarities on the picture."""


@dataclass(frozen=True)
class Strip:
    """A descriptor as bars: their SVG paths, one unit per number, and statistics of the numbers."""

    count: int
    ups: str
    downs: str
    first: tuple[float, ...]
    length: float
    smallest: float
    largest: float


@dataclass(frozen=True)
class Cell:
    """A patch.

    Attributes:
        number: Index of the patch.
        score: Cosine similarity to the query.
        box: Corners in pixels, separated by commas.
        where: Its position in words.
        place: Its position as CSS.
        colour: Of its similarity.
        height: Of its bar in percent.
    """

    number: int
    score: float
    box: str
    where: str
    place: str
    colour: str
    height: float


@dataclass(frozen=True)
class Layer:
    """The patches of one stage; `grid` is the N of an N x N grid, or None."""

    number: int
    grid: int | None
    title: str
    short: str
    cells: tuple[Cell, ...]

    @property
    def numbered(self) -> bool:
        """Whether similarities are written on the picture."""
        return self.grid is not None or len(self.cells) <= NUMBERED


@dataclass(frozen=True)
class Bars:
    """The scale of the bars, and the colours of its legend."""

    smallest: float
    largest: float
    low: float
    high: float
    gradient: str


def walk(shown: Walk, url: FileUrl, notebook: str, turn: int = 0, lesson: Lesson | None = None) -> Markup:
    """Render the tab.

    Args:
        shown: The walk; a task of the exercise if it has one.
        url: Address of a picture.
        notebook: Address of the notebook.
        turn: A number that makes this text differ from the one before.
        lesson: The plan, if that is shown.
    """
    layers, bars = layers_of(shown.stages, shown.look)
    query = shown.query
    return render_text(
        "walk",
        shown=shown,
        shown_part=PLAN if lesson is not None else EXERCISE if shown.task is not None else STEPS,
        look=shown.look,
        turn=turn,
        notebook=notebook,
        ends=[stage.patches for stage in shown.stages],
        scores=[float(score) for score in shown.look.explanation.scores],
        steps=(*NAMES, *(["Look-alikes"] if shown.pair else [])),
        layers=layers,
        bars=bars,
        address="" if query.words is not None else query_address(query, url),
        strip=_strip(query.descriptor),
        url=url,
        worked=WORKED,
        worked_score=worked_example(),
        lesson=lesson,
    )


def plan_page(lesson: Lesson) -> Markup:
    """Render the plan of the lesson as a page of its own: one A4 page when printed."""
    return render_text("plan_page", lesson=lesson)


def layers_of(index_stages: Sequence[Stage], look: Look) -> tuple[tuple[Layer, ...], Bars]:
    """Return the patches of every stage, and the scale of their bars."""
    scores, boxes = look.explanation.scores, look.explanation.boxes
    smallest, largest = float(scores.min()), float(scores.max())
    low, high = float(np.floor(10 * smallest) / 10), float(np.ceil(10 * largest) / 10)
    colours, layers = css_colours(scores), []

    def cell_of(patch: int) -> Cell:
        score = float(scores[patch])
        height = max(2.0, 100 * (score - low) / max(high - low, 1e-6))
        corners = ",".join(f"{value:.1f}" for value in boxes[patch])
        spot = place(boxes[patch], look.image.width, look.image.height)
        return Cell(patch, score, corners, patch_position(index_stages, patch), spot, colours[patch], height)

    for number, stage in enumerate(index_stages, 1):
        grid, title = stages.grid_of(stage), stages.title(index_stages, number)
        cells = tuple(map(cell_of, range(stages.patches_before(index_stages, number), stage.patches)))
        layers.append(Layer(number, grid, title, f"{grid}×{grid}" if grid else title, cells))
    return tuple(layers), Bars(smallest, largest, low, high, css_gradient())


def _strip(descriptor: NDArray[np.float32]) -> Strip:
    top = float(np.abs(descriptor).max()) or 1.0
    values = descriptor.tolist()
    ups = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(values) if v > 0)
    downs = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(values) if v < 0)
    length = float(np.linalg.norm(descriptor))
    return Strip(len(values), ups, downs, tuple(values[:8]), length, min(values), max(values))
