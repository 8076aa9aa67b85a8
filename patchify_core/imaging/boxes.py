"""Boxes: float64 arrays (N, 4) of x1, y1, x2, y2 in pixels of the upright (EXIF-applied) picture.

The origin is the picture's top-left corner, x increases to the right and y downwards. x2 and y2 are exclusive: the
width is x2 - x1.
"""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import BoxError

_EXAMPLE = "give x1,y1,x2,y2 in pixels, for example 40,30,200,180"


def as_boxes(values: ArrayLike) -> NDArray[np.float64]:
    """Convert one box or many to float64 (N, 4), the form used everywhere.

    Args:
        values: Four numbers, or N rows of four, as lists or any numeric array; an empty list for no boxes.

    Returns:
        A new array (N, 4) that never shares memory with `values`. Inverted and empty boxes are accepted here; see
        `checked_box`.

    Raises:
        BoxError: A row is not four numbers (text and booleans are not numbers), or contains NaN or infinity.

    Example:
        >>> as_boxes([40, 30, 200, 180])
        array([[ 40.,  30., 200., 180.]])
    """
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        raise _not_four(values) from None
    if array.shape == (0,):
        array = array.reshape(0, 4)
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iuf":
        raise _not_four(values)
    boxes = array.astype(np.float64, order="C")
    if not np.isfinite(boxes).all():
        raise _not_four(values)
    return boxes


def to_xywh(boxes: ArrayLike) -> NDArray[np.float64]:
    """Convert boxes to corner and size, as COCO writes them.

    Args:
        boxes: (N, 4) or (4,) xyxy in pixels.

    Returns:
        float64 (N, 4) of x, y, width, height in pixels.

    Raises:
        BoxError: Not four finite numbers per row.

    Example:
        >>> to_xywh([40, 30, 200, 180])
        array([[ 40.,  30., 160., 150.]])
    """
    rows = as_boxes(boxes)
    return np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1)


def area(boxes: ArrayLike) -> NDArray[np.float64]:
    """Compute the areas of boxes; inverted boxes count as empty.

    Args:
        boxes: (N, 4) or (4,) xyxy in pixels.

    Returns:
        float64 (N,) in square pixels, never negative.

    Raises:
        BoxError: Not four finite numbers per row.

    Example:
        >>> area([[40, 30, 200, 180], [5, 5, 5, 9]])
        array([24000.,     0.])
    """
    rows = as_boxes(boxes)
    return np.maximum(rows[:, 2:] - rows[:, :2], 0.0).prod(axis=1)


def clip(boxes: ArrayLike, width: float, height: float) -> NDArray[np.float64]:
    """Clip boxes to the picture; a box entirely outside becomes empty.

    Args:
        boxes: (N, 4) or (4,) xyxy in pixels.
        width: The picture's width in pixels.
        height: The picture's height in pixels.

    Returns:
        float64 (N, 4) xyxy with x in 0..width and y in 0..height.

    Raises:
        BoxError: Not four finite numbers per row.

    Example:
        >>> clip([-10, 30, 700, 180], width=640, height=480)
        array([[  0.,  30., 640., 180.]])
    """
    return np.clip(as_boxes(boxes), 0.0, np.array([width, height, width, height], float))


def iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute the intersection over union of every box in `a` with every box in `b`.

    Args:
        a: (N, 4) or (4,) xyxy in pixels.
        b: (M, 4) or (4,) xyxy in pixels.

    Returns:
        float64 (N, M) in 0..1. Empty and inverted boxes have IoU 0 with everything, themselves included.

    Raises:
        BoxError: Not four finite numbers per row.

    Example:
        >>> iou([0, 0, 10, 10], [[0, 0, 10, 10], [0, 0, 10, 5], [3, 3, 3, 3]])
        array([[1. , 0.5, 0. ]])
    """
    return _overlap_ratio(as_boxes(a)[:, None], as_boxes(b)[None])


def paired_iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Compute the intersection over union of row i of `a` with row i of `b`: the diagonal of `iou(a, b)`.

    The memory of the full matrix grows with the square of N, and an evaluation needs only the diagonal.

    Args:
        a: (N, 4) or (4,) xyxy in pixels.
        b: (N, 4) or (4,) xyxy in pixels.

    Returns:
        float64 (N,) in 0..1, 0 for empty and inverted boxes.

    Raises:
        BoxError: Not four finite numbers per row.
        ValueError: `a` and `b` differ in length.

    Example:
        >>> paired_iou([[0, 0, 10, 10], [0, 0, 4, 4]], [[0, 0, 10, 5], [4, 0, 8, 4]])
        array([0.5, 0. ])
    """
    a, b = as_boxes(a), as_boxes(b)
    if len(a) != len(b):
        raise ValueError(f"paired_iou needs as many boxes on both sides, got {len(a)} and {len(b)}")
    return _overlap_ratio(a, b)


def _overlap_ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the intersection over union of boxes (..., 4) that broadcast against each other."""
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0.0)
    inter = sides.prod(axis=-1)
    areas = [np.maximum(rows[..., 2:] - rows[..., :2], 0.0).prod(axis=-1) for rows in (a, b)]
    # `where` avoids 0/0: boxes that overlap have a union.
    ratio = np.divide(inter, areas[0] + areas[1] - inter, out=np.zeros_like(inter), where=inter > 0)
    return np.minimum(ratio, 1.0)


def checked_box(box: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Check the box of a query that a user drew or typed, and clip it to the picture.

    Args:
        box: Four numbers, xyxy in pixels.
        width: The picture's width in pixels.
        height: The picture's height in pixels.

    Returns:
        float64 (4,) xyxy inside the picture, at least 1 px wide and high.

    Raises:
        BoxError: The box is not four finite numbers, is inverted, has no area, is entirely outside the picture, or is
            less than 1 px wide or high inside it.

    Example:
        >>> checked_box([-10, 30, 200, 180], width=640, height=480)
        array([  0.,  30., 200., 180.])
    """
    rows = as_boxes(box)
    if len(rows) != 1:
        raise _not_four(box)
    x1, y1, x2, y2 = rows[0]
    name = "The box " + ",".join(f"{value:.10g}" for value in rows[0])
    picture = f"the picture, which is {width} × {height} pixels"
    if x2 < x1 or y2 < y1:
        raise BoxError(f"{name} is inverted: give its top-left corner first and its bottom-right corner second.")
    if x2 == x1 or y2 == y1:
        raise BoxError(f"{name} has no area: draw one that is at least 1 pixel wide and high.")
    # A box that only touches an edge contains nothing of the picture.
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        raise BoxError(f"{name} is entirely outside {picture}: draw one that overlaps it.")
    inside = clip(rows, width, height)[0]
    if (inside[2:] - inside[:2]).min() < 1:
        raise BoxError(f"{name} is less than 1 pixel wide or high inside {picture}: draw a larger one.")
    return inside


def parse_box(text: str) -> NDArray[np.float64]:
    """Parse a box from the command line.

    Args:
        text: `x1,y1,x2,y2` in pixels; spaces around the numbers are allowed.

    Returns:
        float64 (4,) xyxy, not compared with a picture (see `checked_box`).

    Raises:
        BoxError: Not four finite numbers.

    Example:
        >>> parse_box("40, 30, 200, 180")
        array([ 40.,  30., 200., 180.])
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise _not_four(text) from None
    if len(values) != 4 or not np.isfinite(values).all():
        raise _not_four(text)
    return np.array(values)


def _not_four(values: Any) -> BoxError:
    # Shorten long arrays, and remove their line breaks.
    text = " ".join(reprlib.repr(values).split())
    return BoxError(f"A box is four finite numbers, but this one is {text}: {_EXAMPLE}.")
