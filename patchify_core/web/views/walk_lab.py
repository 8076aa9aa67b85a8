"""What steps 2 to 4 of the walk draw of one gallery picture: its patches, with their similarities as colours and bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.walk import Look
from patchify_core.regions import Stage
from patchify_core.web.views.html import place

NUMBERED = 36
"""Patches of one set write their similarity on the picture only if there are no more of them than this."""

COLOURS = 7
"""Colours that the legend's gradient is made of."""


@dataclass(frozen=True)
class Cell:
    """A patch: its number, similarity, corners in pixels, where it lies in words and in CSS, its colour and bar."""

    number: int
    score: float
    box: str
    where: str
    place: str
    colour: str
    height: float


@dataclass(frozen=True)
class Layer:
    """The patches of one stage; `grid` is its N x N grid, or None."""

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


def layers_of(found: Sequence[Stage], look: Look) -> tuple[tuple[Layer, ...], Bars]:
    """The patches of every stage, and the scale of their bars."""
    scores, boxes = look.explanation.scores, look.explanation.boxes
    smallest, largest = float(scores.min()), float(scores.max())
    low, high = float(np.floor(10 * smallest) / 10), float(np.ceil(10 * largest) / 10)
    colours, layers = _colours(scores), []

    def drawn(cell: int) -> Cell:
        score = float(scores[cell])
        height = max(2.0, 100 * (score - low) / max(high - low, 1e-6))
        corners = ",".join(f"{value:.1f}" for value in boxes[cell])
        spot = place(boxes[cell], look.image.width, look.image.height)
        return Cell(cell, score, corners, where(found, cell), spot, colours[cell], height)

    for number, stage in enumerate(found, 1):
        grid, title = stages.grid_of(stage), stages.title(found, number)
        cells = tuple(map(drawn, range(stages.patches_before(found, number), stage.patches)))
        layers.append(Layer(number, grid, title, f"{grid}×{grid}" if grid else title, cells))
    gradient = ",".join(_colours(np.linspace(0, 1, COLOURS, dtype=np.float32)))
    return tuple(layers), Bars(smallest, largest, low, high, gradient)


def where(found: Sequence[Stage], cell: int) -> str:
    """Where a patch lies, in words, e.g. `row 2, column 3 of the 4×4 grid`."""
    number = stages.stage_of(found, cell)
    grid = stages.grid_of(found[number - 1])
    within = cell - stages.patches_before(found, number)
    title = stages.title(found, number)
    if grid == 1:
        return title
    if grid is None:
        return f"patch {within + 1} of {title}"
    row, column = divmod(within, grid)
    return f"row {row + 1}, column {column + 1} of the {title}"


def _colours(values: NDArray[np.float32]) -> list[str]:
    """Viridis, from the smallest to the largest value: equal steps look equally large, to the colour-blind too."""
    import cv2

    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.ones_like(values)
    drawn = cv2.applyColorMap(np.rint(shares * 255).astype(np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in drawn.tolist()]
