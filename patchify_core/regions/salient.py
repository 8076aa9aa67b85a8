"""Salient regions: objectness without training and without an encoder.

From a saliency map of 64 x 64 cells (`saliency`), boxes of a fixed set (`lattice`) are ranked by the contrast between
their interior and the ring around them (`contrast`) and picked greedily with non-maximum suppression.
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

if TYPE_CHECKING:
    from PIL.Image import Image

OVERLAPS = (0.5, 0.7, 0.9, 1.0)
"""Maximum IoU of picked boxes; the next value applies if too few boxes remain."""


@dataclass(frozen=True)
class Salient:
    """The `count` most salient boxes, best first; `salient:10` is a prefix of `salient:30`.

    Attributes:
        count: Number of boxes, 1..`MAX_PATCHES`.

    Raises:
        PatchifyError: If `count` is not an integer in its range.

    Example:
        >>> from PIL import Image
        >>> picture = Image.new("RGB", (640, 480), "white")
        >>> picture.paste((200, 30, 30), (160, 120, 320, 240))
        >>> Salient(1).boxes_in(picture).tolist()
        [[120.0, 90.0, 370.0, 277.5]]
    """

    count: int

    def __post_init__(self) -> None:
        """Validate the number of boxes."""
        if type(self.count) is not int or not 1 <= self.count <= MAX_PATCHES:
            raise PatchifyError(
                f"The number of salient boxes is {self.count!r}: give it a whole number from 1 to {MAX_PATCHES}, "
                "as in salient:10."
            )

    @property
    def spec(self) -> str:
        """E.g. `salient:10`."""
        return f"salient:{self.count}"

    @property
    def patches_per_image(self) -> int:
        """`count`; in a picture without contrast, these are the first boxes of the lattice."""
        return self.count

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage: the whole selection."""
        return (Stage(self.spec, self.count),)

    @property
    def needs_picture(self) -> bool:
        """True: an index must store the boxes."""
        return True

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """Raise, because the boxes depend on the pixels.

        Raises:
            PatchifyError: Always.
        """
        raise PatchifyError(f"The boxes of {self.spec} depend on the pixels: ask boxes_in(picture) for them.")

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """Raise, because boxes depend on the pixels.

        Raises:
            PatchifyError: If there is such a patch.
            IndexError: If there is none.
        """
        check_cell(cell, self.count)
        return self.boxes(width, height)

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """(count, 4) float64 xyxy in pixels, best first; takes about 10 ms for a photograph."""
        boxes = lattice(CELLS)
        cells = boxes[pick(boxes, contrast(saliency(picture)), self.count)]
        return cells / CELLS * (picture.width, picture.height, picture.width, picture.height)


def pick(boxes: NDArray[np.intp], scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Pick boxes by greedy non-maximum suppression, relaxing the limit until there are enough.

    Args:
        boxes: (C, 4) xyxy, all different, C at least `count`.
        scores: (C,), higher is better; ties go to the earlier box.
        count: Number of boxes to pick.

    Returns:
        (count,) rows of `boxes` in the order picked: by score among boxes whose IoU with all picked ones is at most
        `OVERLAPS[0]`; when none is left, among those within the next limit.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = np.ascontiguousarray(boxes[order].T)  # contiguous columns: strided access is slow
    area = (x2 - x1) * (y2 - y1)
    worst = np.zeros(len(order))  # largest IoU with any picked box; infinite for picked boxes
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


# A fixed lattice of boxes, and the contrast of each with its surroundings -----------------------------------------


SHARES = (0.02, 0.04, 0.08, 0.15, 0.25, 0.4, 0.6, 0.85)
"""Areas of lattice boxes, as shares of the picture's."""

SHAPES = (0.4, 0.63, 1.0, 1.6, 2.5)
"""Shapes of lattice boxes, (width/W) / (height/H)."""

STEP = 0.25
"""Distance of neighbouring boxes of one size, as a fraction of their side."""

RING = 0.25
"""Width of the ring around a box, as a fraction of its side; clipped to the picture."""


@cache
def lattice(cells: int, step: float = STEP) -> NDArray[np.intp]:
    """Return a fixed set of boxes of many sizes and shapes, large ones first.

    Args:
        cells: Steps of the grid along each side of the picture.
        step: Distance of neighbouring boxes of one size, as a fraction of their side.

    Returns:
        (C, 4) xyxy in steps, read-only; C is about 5600 for 64 steps.
    """
    boxes_of_all_sizes: set[tuple[int, int, int, int]] = set()
    for share in SHARES:
        for shape in SHAPES:
            w, h = (min(round(cells * sqrt(side)), cells) for side in (share * shape, share / shape))
            for x in _places(w, cells, step):
                boxes_of_all_sizes.update((x, y, x + w, y + h) for y in _places(h, cells, step))
    boxes = np.array(
        sorted(boxes_of_all_sizes, key=lambda b: ((b[0] - b[2]) * (b[3] - b[1]), b[1], b[0], b[2])), np.intp
    )
    boxes.flags.writeable = False
    return boxes


def _places(side: int, cells: int, step: float) -> list[int]:
    last = cells - side
    return sorted({*range(0, last + 1, max(1, round(side * step))), last})


@cache
def _rings(cells: int) -> NDArray[np.intp]:
    """Return the cached `rings` of `lattice(cells)`."""
    return rings(lattice(cells), cells)


def rings(boxes: NDArray[np.intp], cells: int) -> NDArray[np.intp]:
    """Return the outer edges of each box's ring, (N, 4) xyxy in steps of a grid of `cells` steps."""
    reach = np.maximum(1, np.rint(RING * (boxes[:, 2:] - boxes[:, :2]))).astype(np.intp)
    return np.clip(np.hstack([boxes[:, :2] - reach, boxes[:, 2:] + reach]), 0, cells)


def contrast(values: NDArray[np.float64], boxes: NDArray[np.intp] | None = None) -> NDArray[np.float64]:
    """Compute the contrast of boxes: (mean inside - mean of the ring) * sqrt(area as a share of the picture's).

    Args:
        values: (cells, cells) float64, saliency.
        boxes: (N, 4) xyxy in cells; default: all of `lattice(cells)`.

    Returns:
        (N,) float64. The whole picture has no ring and scores 0.
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
    # Rounded, so that rounding errors do not decide between equally good boxes.
    return np.round(np.where(ring_area > 0, scores, 0.0), 9)


def areas(boxes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return (N,) areas of (N, 4) xyxy boxes, in steps squared."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _sums(table: NDArray[np.float64], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    return table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]


# Saliency: the sum of two classic maps ---------------------------------------------------------------------------


CELLS = 64
"""Side of the saliency map, whatever the picture's shape; salient boxes lie on its grid."""

BORDER = 6
"""Depth of the strips along the four sides that serve as background, in cells."""

_COLOUR_NOISE = 10.0  # variance in Lab units, about 3 squared: closer colours count as equal
_BLUR = 2.5  # standard deviation of the final smoothing, in cells


def saliency(picture: Image) -> NDArray[np.float64]:
    """Compute the saliency map of a picture.

    Args:
        picture: Upright RGB picture.

    Returns:
        (CELLS, CELLS) float64, at least 0, rows from the top; its mean is 2, or less where a map is empty.
    """
    import cv2
    from PIL import Image

    small = picture.resize((CELLS, CELLS), Image.Resampling.BOX, reducing_gap=3.0)
    lab = cv2.cvtColor(np.asarray(small, np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
    maps = (spectral_residual(lab[..., 0]), border_distance(lab))
    return sum((m / m.mean() for m in maps if m.mean() > 0), np.zeros((CELLS, CELLS)))


def spectral_residual(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the spectral residual (Hou & Zhang, CVPR 2007), squared and smoothed.

    Hou & Zhang combine exp(log amplitude - its 3x3 mean) with the phase, which equals the spectrum divided by
    exp(mean). In this form a missing frequency stays zero; in theirs it gets an amplitude of 1 and a random phase.

    Args:
        grey: (n, n) lightness, 0..100.

    Returns:
        (n, n) float64, at least 0; constant for a picture of one grey.
    """
    import cv2

    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1)
    around = [np.roll(log_amplitude, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    residual = np.fft.ifft2(spectrum * np.exp(-np.mean(around, axis=0)))
    return cv2.GaussianBlur(np.abs(residual) ** 2, (0, 0), _BLUR).astype(np.float64)


def border_distance(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the Mahalanobis distance of each colour from the colours of the picture's border strips.

    The most distant of the four strips is excluded, because an object may touch it.

    Args:
        lab: (n, n, 3) CIE Lab, n at least `BORDER`.

    Returns:
        (n, n) float64, at least 0: the mean over the other three strips.
    """
    distances = []
    for strip in (lab[:BORDER], lab[-BORDER:], lab[:, :BORDER], lab[:, -BORDER:]):
        colours = strip.reshape(-1, 3)
        spread = np.linalg.inv(np.cov(colours.T) + _COLOUR_NOISE * np.eye(3))
        away = lab - colours.mean(axis=0)
        distances.append(np.sqrt((away @ spread * away).sum(axis=2)))
    near_three = np.sort(distances, axis=0)[:3]
    return near_three.mean(axis=0)
