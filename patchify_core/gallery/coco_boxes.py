"""Boxes of COCO annotations: from `bbox` or `segmentation`, with a check for files that use another box format.

COCO's format is [x, y, width, height] in pixels. Corners [x1, y1, x2, y2] and fractions of the picture also occur, and
would be read as wrong boxes without any error.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.coco_json import EntryError, to_int, to_number

_Box = tuple[float, float, float, float]

FORMAT = "a bbox is [x, y, width, height] in pixels of the upright picture"

MAX_OUTSIDE, FEW_BOXES = 0.25, 4
"""Largest share of boxes mostly outside their pictures in a file in COCO's format; half if they are `FEW_BOXES`."""

MANY_BOXES = 20
"""Number of boxes from which it is no coincidence that all of them would be corners inside their pictures."""

_FAR, _FAR_SHARE = 0.05, 0.05
"""How far nobody draws a box beyond its picture, as a share of its side; largest share of boxes that do."""


class NoAreaError(EntryError):
    """A box has no area inside its picture."""


def parse_bbox(bbox: object) -> NDArray[np.float64] | None:
    """Convert `bbox` [x, y, w, h] to (4,) float64 xyxy, not clipped to its picture; None for null or [].

    Raises:
        EntryError: It is not four numbers.
    """
    if bbox is None or bbox == []:
        return None
    numbers = [to_number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if any(number is None or abs(number) >= 1e15 for number in numbers):
        raise EntryError(f"has a bbox that is not four numbers [x, y, w, h]: {reprlib.repr(bbox)}")
    x, y, width, height = map(float, numbers)  # type: ignore[arg-type]
    return np.array([x, y, x + width, y + height])


def clip_box(box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Clip a box (4,) xyxy to its picture of (width, height) pixels.

    Raises:
        NoAreaError: Nothing is left of it, or it had no area.
    """
    clipped = np.clip(box, 0, [*size, *size])
    if (clipped[2:] <= clipped[:2]).any():
        x, y, right, bottom = box.tolist()
        raise NoAreaError(
            f"has a box without area in its picture of {size[0]} × {size[1]} pixels: "
            f"{[round(value, 6) for value in (x, y, right - x, bottom - y)]}"
        )
    return clipped


def box_of_mask(segmentation: object, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return the box around a COCO segmentation.

    Args:
        segmentation: Polygons ([[x, y, x, y, ...], ...], or one of them), or a run-length encoding ({"size": [height,
            width], "counts": numbers or COCO's compressed text}).
        size: (width, height) of the picture in pixels.

    Returns:
        (4,) float64 xyxy in whole pixels; None where there is no segmentation (absent, empty).

    Raises:
        EntryError: It is not a segmentation, or one of a picture of another size.
        NoAreaError: It contains no pixel.
    """
    if not segmentation or segmentation == [[]]:
        return None
    try:
        from pycocotools import mask
    except ImportError:
        raise GalleryError(
            "Reading segmentations needs pycocotools: install it with pip install -r requirements.txt."
        ) from None
    width, height = size
    if isinstance(segmentation, dict):
        encoded: Any = {"size": [height, width], "counts": _run_lengths(segmentation, size)}
        if isinstance(encoded["counts"], list):
            encoded = mask.frPyObjects(encoded, height, width)
    else:
        encoded = mask.merge(mask.frPyObjects(_polygons(segmentation), height, width))
    try:
        mask.decode(encoded)  # refuses encodings of more or fewer pixels, which toBbox does not
    except ValueError as error:
        raise EntryError("has a segmentation whose run-length encoding is invalid") from error
    if not mask.area(encoded):
        raise NoAreaError("has a segmentation without a pixel in its picture")
    x, y, box_width, box_height = mask.toBbox(encoded).tolist()
    if x + box_width > width or y + box_height > height:
        raise EntryError("has a segmentation whose run-length encoding is invalid")
    return np.array([x, y, x + box_width, y + box_height])


def _polygons(segmentation: object) -> list[list[float]]:
    """Return the polygons of a segmentation; those of fewer than three points are dropped if there are others."""
    shapes: list[Any] = (
        segmentation if isinstance(segmentation, list) and isinstance(segmentation[0], list) else [segmentation]
    )
    if all(isinstance(shape, list) and len(shape) == 2 for shape in shapes):
        shapes = [[value for point in shapes for value in point]]  # one polygon as a list of points
    polygons = [shape for shape in shapes if not isinstance(shape, list) or len(shape) >= 6]
    return [_polygon(shape) for shape in polygons or shapes]


def _polygon(points: object) -> list[float]:
    # pycocotools would read four numbers as a box.
    numbers = [to_number(value) for value in points] if isinstance(points, list) else [None]
    if len(numbers) < 6 or len(numbers) % 2 or any(number is None or abs(number) > 1e6 for number in numbers):
        raise EntryError(f"has a segmentation that is not a polygon [x, y, x, y, x, y, ...]: {reprlib.repr(points)}")
    return [float(number) for number in numbers if number is not None]


def _run_lengths(encoding: dict[str, Any], size: tuple[int, int]) -> list[int] | bytes:
    """Validate the counts of a run-length encoding, because pycocotools' C code trusts them."""
    shape, counts = encoding.get("size"), encoding.get("counts")
    if not isinstance(shape, list) or [to_int(value) for value in shape] != [size[1], size[0]]:
        raise EntryError(
            f"has a segmentation of size {reprlib.repr(shape)} (height, width), but its picture is "
            f"[{size[1]}, {size[0]}]"
        )
    if isinstance(counts, list):
        runs = [to_int(value) for value in counts]
        if all(run is not None and run >= 0 for run in runs) and sum(filter(None, runs)) == size[0] * size[1]:
            return [run for run in runs if run is not None]
    elif isinstance(counts, str) and counts and all("0" <= char <= "o" for char in counts):
        # 6 bits per character; the sixth means that the number continues, which the last one must not.
        if not (ord(counts[-1]) - 48) & 0x20:
            return counts.encode()
    raise EntryError("has a segmentation whose run-length encoding is invalid")


class FormatCheck:
    """Counts the boxes of a file that look like another format than COCO's."""

    def __init__(self) -> None:
        self._boxes = self._outside = self._corners = self._fractions = self._fitting = self._far = 0

    def add(self, box: NDArray[np.float64], size: tuple[int, int], entry: dict[str, Any]) -> None:
        """Count a box. There may be millions: plain numbers take a fifth of the time of short arrays.

        Args:
            box: (4,) xyxy converted from [x, y, width, height], not clipped.
            size: (width, height) of the picture in pixels.
            entry: The annotation, for its `area`, `segmentation` and `bbox_mode`.
        """
        x, y, right, bottom = box.tolist()
        third, fourth = right - x, bottom - y  # width and height, or a second corner
        width, height = size
        self._boxes += 1
        self._fractions += min(x, y, third, fourth) >= 0 and max(x, y, third, fourth) <= 1
        if third > 0 and fourth > 0:
            inside = max(min(right, width) - max(x, 0), 0) * max(min(bottom, height) - max(y, 0), 0)
            self._outside += inside < 0.5 * third * fourth
        self._far += right - width > _FAR * width or bottom - height > _FAR * height
        if third > x and fourth > y:
            self._fitting += x >= 0 and y >= 0 and third <= width and fourth <= height
            self._corners += _are_corners((x, y, right, bottom), (x, y, third, fourth), entry)

    def add_mask(self, segmentation: object) -> None:
        """Count the polygons of an annotation without a box; other segmentations are not counted."""
        extent = _extent(segmentation)
        if extent is not None:
            self._boxes += 1
            self._fractions += min(extent) >= 0 and max(extent) <= 1

    def problem(self) -> str | None:
        """Say what is wrong with the boxes; None if nothing is."""
        count = self._boxes
        if 2 * self._fractions > count:
            return f"{self._fractions} of its {count} boxes are fractions of their pictures: {FORMAT}"
        if 2 * self._corners > count:
            return f"{self._corners} of its {count} boxes are corners, according to their area or outline: {FORMAT}"
        if self._outside > (MAX_OUTSIDE if self._outside > FEW_BOXES else 0.5) * count:
            return f"{self._outside} of its {count} boxes are mostly outside their pictures: {FORMAT}"
        if self._fitting == count >= MANY_BOXES and self._far > _FAR_SHARE * count:
            return (
                f"its {count} boxes would fit inside their pictures as corners, but {self._far} of them stick out as "
                f"they are written: {FORMAT}"
            )
        return None


def _are_corners(box: _Box, corners: _Box, entry: dict[str, Any]) -> bool:
    """Return whether the rest of the entry says that a bbox is two corners, not a corner and a size."""
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
    """Return the xyxy box around the points of polygons; None for any other segmentation."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    shapes: list[Any] = segmentation if isinstance(segmentation[0], list) else [segmentation]
    try:
        xs, ys = ([float(value) for shape in shapes for value in shape[first::2]] for first in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    except (TypeError, ValueError, KeyError):
        return None
