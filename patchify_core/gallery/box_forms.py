"""In which form the boxes of a COCO file are written: those of another form would be other boxes without a sign of it.

COCO's is [x, y, width, height] in pixels. Others are corners [x1, y1, x2, y2] and fractions of the picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from patchify_core.gallery.coco import GallerySettings

_Box = tuple[float, float, float, float]

FORM = "a bbox is [x, y, width, height] in pixels of the upright picture"

_FAR, _FAR_SHARE = 0.05, 0.05
"""How far a box sticks out that nobody drew so, as a share of the picture's side; which share of all boxes does."""


class BoxForms:
    """Count what the boxes of a file look like.

    Args:
        settings: From how many boxes on, and at which share of them, a form is told.
    """

    def __init__(self, settings: GallerySettings) -> None:
        self._settings = settings
        self._boxes = self._outside = self._corners = self._fractions = self._fitting = self._far = 0

    def add(self, box: NDArray[np.float64], size: tuple[int, int], entry: dict[str, Any]) -> None:
        """Count a box. There may be millions: plain numbers take a fifth of the time that short arrays do.

        Args:
            box: (4,) xyxy as [x, y, width, height] says, not compared with its picture.
            size: (width, height) of the picture in pixels.
            entry: The annotation, for its `area`, `segmentation` and `bbox_mode`.
        """
        x, y, right, bottom = box.tolist()
        across, down = right - x, bottom - y  # which may be a second corner
        wide, tall = size
        self._boxes += 1
        self._fractions += min(x, y, across, down) >= 0 and max(x, y, across, down) <= 1
        if across > 0 and down > 0:
            inside = max(min(right, wide) - max(x, 0), 0) * max(min(bottom, tall) - max(y, 0), 0)
            self._outside += inside < 0.5 * across * down
        self._far += right - wide > _FAR * wide or bottom - tall > _FAR * tall
        if across > x and down > y:
            self._fitting += x >= 0 and y >= 0 and across <= wide and down <= tall
            self._corners += _are_corners((x, y, right, bottom), (x, y, across, down), entry)

    def add_mask(self, segmentation: object) -> None:
        """Count the polygons of an annotation that has no box; other masks say nothing."""
        extent = _extent(segmentation)
        if extent is not None:
            self._boxes += 1
            self._fractions += min(extent) >= 0 and max(extent) <= 1

    def problem(self) -> str | None:
        """Say what is wrong with the boxes; None where nothing is."""
        count, settings = self._boxes, self._settings
        share = settings.outside if self._outside > settings.few_boxes else 0.5
        if 2 * self._fractions > count:
            return f"{self._fractions} of its {count} boxes are fractions of their pictures: {FORM}"
        if 2 * self._corners > count:
            return f"{self._corners} of its {count} boxes are corners, as their area or outline tells: {FORM}"
        if self._outside > share * count:
            return f"{self._outside} of its {count} boxes are mostly outside their pictures: {FORM}"
        if self._fitting == count >= settings.many_boxes and self._far > _FAR_SHARE * count:
            return (
                f"its {count} boxes are corners inside their pictures, by which {self._far} of them would stick out: "
                f"{FORM}"
            )
        return None


def _are_corners(box: _Box, corners: _Box, entry: dict[str, Any]) -> bool:
    """Whether four numbers are two corners by what stands beside them, and not a corner and two sides."""
    if entry.get("bbox_mode") == 0:  # Detectron2's BoxMode.XYXY_ABS
        return True
    area, extent = entry.get("area"), _extent(entry.get("segmentation"))
    if isinstance(area, (int, float)) and math.isclose(area, _area(corners), rel_tol=1e-3):
        return not math.isclose(area, _area(box), rel_tol=1e-3)
    if extent is None:
        return False
    slack = 1 + 0.01 * max(extent[2] - extent[0], extent[3] - extent[1])
    return _distance(extent, corners) <= slack < _distance(extent, box)


def _area(box: _Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _distance(box: _Box, other: _Box) -> float:
    return max(abs(one - two) for one, two in zip(box, other, strict=True))


def _extent(segmentation: object) -> _Box | None:
    """The xyxy around the points of polygons; None for any other segmentation."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    shapes: list[Any] = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        xs, ys = ([float(value) for shape in shapes for value in shape[first::2]] for first in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    except (TypeError, ValueError, KeyError):
        return None
