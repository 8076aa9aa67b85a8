"""A fixed set of boxes of many sizes, shapes and places, and how much each stands out from its surroundings.

The set is what `salient` picks from and what a refined box is searched for in. Its boxes lie on a grid of `cells` by
`cells` steps whatever the picture's shape, and a box scores

    (mean of a map inside - mean of the map in a ring around it) * sqrt(area of the box)
"""

from __future__ import annotations

from functools import cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

SHARES = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.85)
"""Areas of the boxes to choose from, as shares of the picture's."""

SHAPES = (0.4, 0.63, 1.0, 1.6, 2.5)
"""Shapes of the boxes to choose from, (width/W) / (height/H)."""

STEP = 0.25
"""Distance of neighbouring boxes of one size, as a fraction of their side."""

RING = 0.25
"""How far the ring around a box reaches beyond it, as a fraction of its side; it ends at the picture's border."""


@cache
def lattice(cells: int, step: float = STEP) -> NDArray[np.intp]:
    """The fixed set of boxes, large ones first.

    Args:
        cells: steps of the grid along each side of the picture.
        step: distance of neighbouring boxes of one size, as a fraction of their side.

    Returns:
        (C, 4) xyxy in steps, not writeable; C is some 5600 for 64 steps.
    """
    found: set[tuple[int, int, int, int]] = set()
    for share in SHARES:
        for shape in SHAPES:
            w, h = (min(round(cells * sqrt(side)), cells) for side in (share * shape, share / shape))
            for x in _places(w, cells, step):
                found.update((x, y, x + w, y + h) for y in _places(h, cells, step))
    boxes = np.array(sorted(found, key=lambda b: ((b[0] - b[2]) * (b[3] - b[1]), b[1], b[0], b[2])), np.intp)
    boxes.flags.writeable = False
    return boxes


def _places(side: int, cells: int, step: float) -> list[int]:
    last = cells - side
    return sorted({*range(0, last + 1, max(1, round(side * step))), last})


@cache
def _rings(cells: int) -> NDArray[np.intp]:
    """Where the ring of each box of `lattice(cells)` ends."""
    return rings(lattice(cells), cells)


def rings(boxes: NDArray[np.intp], cells: int) -> NDArray[np.intp]:
    """Where each box's ring ends, (N, 4) xyxy in steps of a grid of `cells` steps."""
    reach = np.maximum(1, np.rint(RING * (boxes[:, 2:] - boxes[:, :2]))).astype(np.intp)
    return np.clip(np.hstack([boxes[:, :2] - reach, boxes[:, 2:] + reach]), 0, cells)


def contrast(values: NDArray[np.float64], boxes: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
    """The module's formula, from one summed-area table.

    Args:
        values: (cells, cells) float64, how much each place stands out.
        boxes: (N, 4) xyxy in cells; all of `lattice(cells)` by default.

    Returns:
        (N,) float64; the area counts in pictures, so that a box of a quarter has a factor of 1/2. The whole picture has
        no ring and scores 0.
    """
    cells = len(values)
    around = _rings(cells) if boxes is None else rings(boxes, cells)
    boxes = lattice(cells) if boxes is None else boxes
    table = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    area = areas(boxes)
    ring_area = areas(around) - area
    inside = _sums(table, boxes)
    ring = (_sums(table, around) - inside) / np.maximum(ring_area, 1)
    scores = (inside / area - ring) * np.sqrt(area / cells**2)
    # Rounded, so that noise of the last bits does not decide between boxes that are equally good.
    return np.round(np.where(ring_area > 0, scores, 0.0), 9)


def areas(boxes: NDArray[np.intp]) -> NDArray[np.intp]:
    """(N,) areas of (N, 4) xyxy boxes, in steps squared."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _sums(table: NDArray[np.float64], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    return table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]
