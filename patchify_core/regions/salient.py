"""Boxes where a picture stands out from its surroundings: objectness without training and without an encoder.

A map of 64 x 64 cells says how much each place stands out (`saliency`). A box of a fixed set scores

    (mean of the map inside - mean of the map in a ring around it) * sqrt(area of the box)

and the best are taken greedily, leaving out what overlaps one already taken (non-maximum suppression).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, Stage, check_cell
from patchify_core.regions.saliency import CELLS, saliency

if TYPE_CHECKING:
    from PIL.Image import Image

SHARES = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.85)
"""Areas of the boxes to choose from, as shares of the picture's."""

SHAPES = (0.4, 0.63, 1.0, 1.6, 2.5)
"""Shapes of the boxes to choose from, (width/W) / (height/H)."""

STEP = 0.25
"""Distance of neighbouring boxes of one size, as a fraction of their side."""

RING = 0.25
"""How far the ring around a box reaches beyond it, as a fraction of its side; it ends at the picture's border."""

OVERLAPS = (0.5, 0.7, 0.9, 1.0)
"""A box is left out if its IoU with one already taken is above the first; the next where too few boxes remain."""


@dataclass(frozen=True)
class Salient:
    """The `count` boxes that stand out most, best first; `salient:10` is the beginning of `salient:30`.

    Attributes:
        count: number of boxes, 1..`MAX_PATCHES`.

    Raises:
        PatchifyError: if `count` is not an integer in its range.

    Example:
        >>> from PIL import Image
        >>> picture = Image.new("RGB", (640, 480), "white")
        >>> picture.paste((200, 30, 30), (160, 120, 320, 240))
        >>> Salient(1).boxes_in(picture).tolist()
        [[120.0, 90.0, 370.0, 277.5]]
    """

    count: int

    def __post_init__(self) -> None:
        """Refuses a number of boxes that cannot be had."""
        if type(self.count) is not int or not 1 <= self.count <= MAX_PATCHES:
            raise PatchifyError(
                f"The number of salient boxes is {self.count!r}: give it a whole number from 1 to {MAX_PATCHES}, "
                "as in salient:10."
            )

    @property
    def spec(self) -> str:
        """The selector as the command line writes it, e.g. `salient:10`."""
        return f"salient:{self.count}"

    @property
    def patches_per_image(self) -> int:
        """`count`, in every picture: in one without any contrast they are the first of the fixed set."""
        return self.count

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage: the whole selection."""
        return (Stage(self.spec, self.count),)

    @property
    def needs_picture(self) -> bool:
        """True: an index has to store the boxes."""
        return True

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """Refuses: a size alone does not say what stands out.

        Raises:
            PatchifyError: always.
        """
        raise PatchifyError(f"The boxes of {self.spec} depend on the pixels: ask boxes_in(picture) for them.")

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """Refuses, as `boxes` does.

        Raises:
            PatchifyError: if there is such a patch.
            IndexError: if there is not.
        """
        check_cell(cell, self.count)
        return self.boxes(width, height)

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """(count, 4) float64 xyxy in pixels, best first; some 10 ms for a photograph."""
        scores = box_scores(saliency(picture))
        cells = candidates()[pick(candidates(), scores, self.count)]
        return cells / CELLS * (picture.width, picture.height, picture.width, picture.height)


@cache
def candidates() -> NDArray[np.intp]:
    """The fixed set of boxes to choose from, large ones first, (C, 4) xyxy in cells; C is some 5600."""
    found: set[tuple[int, int, int, int]] = set()
    for share in SHARES:
        for shape in SHAPES:
            w, h = (min(round(CELLS * sqrt(side)), CELLS) for side in (share * shape, share / shape))
            for x in _places(w):
                found.update((x, y, x + w, y + h) for y in _places(h))
    boxes = np.array(sorted(found, key=lambda b: ((b[0] - b[2]) * (b[3] - b[1]), b[1], b[0], b[2])), np.intp)
    boxes.flags.writeable = False
    return boxes


def _places(side: int) -> list[int]:
    last = CELLS - side
    return sorted({*range(0, last + 1, max(1, round(side * STEP))), last})


@cache
def _rings() -> NDArray[np.intp]:
    """Where each candidate's ring ends, (C, 4) xyxy in cells."""
    boxes = candidates()
    reach = np.maximum(1, np.rint(RING * (boxes[:, 2:] - boxes[:, :2]))).astype(np.intp)
    return np.clip(np.hstack([boxes[:, :2] - reach, boxes[:, 2:] + reach]), 0, CELLS)


def box_scores(saliency_map: NDArray[np.float64]) -> NDArray[np.float64]:
    """The module's formula for every candidate, from one integral image.

    Args:
        saliency_map: (CELLS, CELLS) float64.

    Returns:
        (C,) float64; the area counts in pictures, so that a box of a quarter has a factor of 1/2.
    """
    integral = np.pad(saliency_map.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    boxes, rings = candidates(), _rings()
    area, ring_area = _areas(boxes), _areas(rings) - _areas(boxes)
    inside = _sums(integral, boxes)
    ring = (_sums(integral, rings) - inside) / ring_area  # never empty: no candidate is the whole picture
    # Rounded, so that noise of the last bits does not decide between boxes that are equally good.
    return np.round((inside / area - ring) * np.sqrt(area / CELLS**2), 9)


def _sums(integral: NDArray[np.float64], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    return integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]


def _areas(boxes: NDArray[np.intp]) -> NDArray[np.intp]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def pick(boxes: NDArray[np.intp], scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Greedy non-maximum suppression that always finds enough.

    Args:
        boxes: (C, 4) xyxy, all different, C at least `count`.
        scores: (C,) higher is better; of equal ones the earlier box wins.
        count: how many to pick.

    Returns:
        (count,) rows of `boxes`, in the order picked: by score among those whose IoU with every one picked
        before is at most `OVERLAPS[0]`, then, when none is left, among those within the next limit.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)  # a column at a time: rows of four are slow to go through
    area = (x2 - x1) * (y2 - y1)
    worst = np.zeros(len(order))  # largest IoU with any picked so far; infinite for the picked themselves
    picked: list[int] = []
    for limit in OVERLAPS:
        free = worst <= limit
        while len(picked) < count and free.any():
            best = int(free.argmax())  # the first True
            picked.append(best)
            width = np.minimum(x2, x2[best]) - np.maximum(x1, x1[best])
            height = np.minimum(y2, y2[best]) - np.maximum(y1, y1[best])
            common = np.maximum(width, 0) * np.maximum(height, 0)
            np.maximum(worst, common / (area + area[best] - common), out=worst)
            worst[best] = np.inf
            free &= worst <= limit
    return order[picked]
