"""Descriptors of boxes pooled from one feature map of the whole picture (`--features pooled`).

The generalised mean of a map f over a box B with exponent p is

    GeM(B) = (1/|B| * integral over B of f^p) ^ (1/p)

(Radenović et al., "Fine-tuning CNN image retrieval with no human annotation", TPAMI 2019). A cell is weighted
by its overlap with the box. The integral over any box takes four look-ups in a summed-area table of f^p (Crow,
SIGGRAPH 1984). The table is bilinear between its corners, so pooling over fractions of cells is exact too.

A query's descriptor is the mean of three: its box encoded separately at two sizes, and pooled from the map of its whole
picture. The former see the object as a crop does, the latter as the gallery's maps do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.encoders.maps import MapEncoder
from patchify_core.errors import PatchifyError
from patchify_core.imaging.boxes import as_boxes

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST_SIDE, LARGEST_SIDE = 64, 4096


@dataclass(frozen=True)
class PooledSettings:
    """Settings of pooled features; the defaults were measured (`study features`).

    Attributes:
        long_side: Longer side of the backbone's input, in pixels.
        query_sides: Longer sides, in pixels, at which the query's box is encoded separately.
        query_in_picture: Whether to pool the query's box from the map of its whole picture too.
    """

    long_side: int = 640
    query_sides: tuple[int, ...] = (224, 320)
    query_in_picture: bool = True

    def __post_init__(self) -> None:
        """Reject sizes that no map can be made of.

        Raises:
            PatchifyError: If the long side is not within `SMALLEST_SIDE`..`LARGEST_SIDE`.
        """
        if not SMALLEST_SIDE <= self.long_side <= LARGEST_SIDE:
            raise PatchifyError(
                f"Pooled features at {self.long_side} pixels: choose {SMALLEST_SIDE} to {LARGEST_SIDE}, "
                "for example pooled:640."
            )


def map_size(width: float, height: float, long_side: int, stride: int) -> tuple[int, int]:
    """Return the backbone's input size for a picture: same aspect ratio up to rounding.

    Args:
        width: Width of the picture, in pixels.
        height: Height of the picture, in pixels.
        long_side: Target longer side, in pixels.
        stride: Both sides are rounded to multiples of it.

    Returns:
        (width, height), each at least `stride`.

    Example:
        >>> map_size(854, 480, 640, 32)
        (640, 352)
    """
    scale = long_side / max(width, height)
    sides = (max(stride, round(side * scale / stride) * stride) for side in (width, height))
    return next(sides), next(sides)


def picture_cells(
    picture: Image, encoder: MapEncoder, long_side: int, box: Sequence[float] | None = None
) -> NDArray[np.float32]:
    """Compute the feature map of a picture, or of a box cropped from it.

    Args:
        picture: Upright RGB picture, of any size.
        encoder: The frozen encoder.
        long_side: See `PooledSettings`.
        box: (4,) xyxy in pixels, inside the picture; all of it if None.

    Returns:
        (h, w, C) float32.
    """
    return encoder.feature_map(picture_pixels(picture, encoder.stride, long_side, box))


def picture_pixels(
    picture: Image, stride: int, long_side: int, box: Sequence[float] | None = None
) -> NDArray[np.uint8]:
    """Resize a picture or box to `map_size`: (H, W, 3) uint8 RGB; args: see `picture_cells`."""
    from PIL.Image import Resampling

    x1, y1, x2, y2 = (float(v) for v in (box if box is not None else (0, 0, *picture.size)))
    size = map_size(x2 - x1, y2 - y1, long_side, stride)
    return np.asarray(picture.resize(size, Resampling.BICUBIC, box=(x1, y1, x2, y2)))


def integral_image(cells: NDArray[np.float32], power: float) -> NDArray[np.float64]:
    """Compute the summed-area table of the cells raised to `power`.

    Args:
        cells: (h, w, C) float32; at least 0 unless `power` is 1.
        power: Exponent of the generalised mean.

    Returns:
        (h + 1, w + 1, C) float64: entry [y, x] is the sum over the cells above y and left of x.
    """
    height, width, channels = cells.shape
    table = np.zeros((height + 1, width + 1, channels))
    # Powers in single precision (a cube is two products), sums in double: a small box far from the origin is a
    # difference of large sums.
    raised = cells if power == 1 else cells * cells * cells if power == 3 else cells**power
    np.cumsum(raised, axis=0, dtype=np.float64, out=table[1:, 1:])
    np.cumsum(table[1:, 1:], axis=1, out=table[1:, 1:])
    return table


def resampled(table: NDArray[np.floating], across: ArrayLike, down: ArrayLike) -> NDArray[np.floating]:
    """Interpolate a summed-area table (bilinearly) on a grid of positions.

    Args:
        table: (h + 1, w + 1, C), from `integral_image`.
        across: (X,) positions from left to right, in 0..1 of the width.
        down: (Y,) positions from top to bottom, in 0..1 of the height.

    Returns:
        (Y, X, C), of the table's type.
    """
    height, width, channels = table.shape
    # As matrix products, which are many times faster than indexing and mixing rows.
    rows = (_mixing(down, height).astype(table.dtype) @ table.reshape(height, -1)).reshape(-1, width, channels)
    return np.matmul(_mixing(across, width).astype(table.dtype), rows)


def _mixing(positions: ArrayLike, corners: int) -> NDArray[np.float64]:
    """Return (N, corners) interpolation weights of corners for positions in 0..1."""
    at = np.clip(np.asarray(positions, np.float64), 0, 1) * (corners - 1)
    low = np.minimum(at.astype(np.intp), corners - 2)
    mixing = np.zeros((len(at), corners))
    rows = np.arange(len(at))
    mixing[rows, low], mixing[rows, low + 1] = 1 - (at - low), at - low
    return mixing


def pool_boxes(table: NDArray[np.float64], boxes: ArrayLike, power: float) -> NDArray[np.float32]:
    """Pool cells over boxes by the generalised mean.

    Args:
        table: From `integral_image` with the same `power`.
        boxes: (N, 4) xyxy as fractions of the picture's sides, in 0..1, each with an area.
        power: Exponent of the generalised mean.

    Returns:
        (N, C) float32.
    """
    height, width = table.shape[0] - 1, table.shape[1] - 1
    x1, y1, x2, y2 = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, 1).T
    area = (x2 - x1) * (y2 - y1) * (width * height)
    total = _at(table, x2, y2) - _at(table, x1, y2) - _at(table, x2, y1) + _at(table, x1, y1)
    return rooted(total / area[:, None], power).astype(np.float32)


def rooted(means: NDArray[np.floating], power: float) -> NDArray[np.floating]:
    """Take the root of a generalised mean; clamps negative rounding errors to 0 unless `power` is 1."""
    if power == 1:
        return means
    return np.cbrt(np.maximum(means, 0)) if power == 3 else np.maximum(means, 0) ** (1 / power)


def _at(table: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate (N, C) values of the table at N points, given as fractions of its sides."""
    across, down = x * (table.shape[1] - 1), y * (table.shape[0] - 1)
    left = np.minimum(across.astype(np.intp), table.shape[1] - 2)
    top = np.minimum(down.astype(np.intp), table.shape[0] - 2)
    dx, dy = (across - left)[:, None], (down - top)[:, None]
    upper = table[top, left] * (1 - dx) + table[top, left + 1] * dx
    lower = table[top + 1, left] * (1 - dx) + table[top + 1, left + 1] * dx
    return upper * (1 - dy) + lower * dy


def describe_boxes(cells: NDArray[np.float32], boxes: ArrayLike, encoder: MapEncoder) -> NDArray[np.float32]:
    """Describe boxes of a picture from its feature map.

    Args:
        cells: (h, w, C) float32, from `picture_cells`.
        boxes: (N, 4) xyxy as fractions of the picture's sides.
        encoder: The encoder that made the map.

    Returns:
        (N, D) float32 with rows of length 1.
    """
    return encoder.describe_pooled(pool_boxes(integral_image(cells, encoder.power), boxes, encoder.power))


@dataclass(frozen=True, eq=False)
class QueryFeatures:
    """Descriptors of one query, not yet projected.

    Attributes:
        views: (V, D) float32 rows of length 1: the query's box at several sizes and in its picture. The query's
            descriptor is their mean in the space of the index.
        parts: (h, w, D) float32 of length 1: the single cells of the box, for dense matching; None without a map.
    """

    views: NDArray[np.float32]
    parts: NDArray[np.float32] | None = None


AT_THE_RIM = 0.7
"""Weight of a query's part at the side of its box, where a box often contains background; in the middle it is 1."""


def query_features(
    picture: Image, box: Sequence[float], encoder: MapEncoder, settings: PooledSettings
) -> QueryFeatures:
    """Describe one query: its box as a whole, and the cells of its smallest map as parts.

    Args:
        picture: Upright RGB picture.
        box: (4,) xyxy in pixels, inside the picture.
        encoder: The frozen encoder.
        settings: See `PooledSettings`.
    """
    whole = (0.0, 0.0, 1.0, 1.0)
    maps = [picture_cells(picture, encoder, side, box) for side in settings.query_sides]
    views = [describe_boxes(cells, whole, encoder) for cells in maps]
    if settings.query_in_picture or not views:
        cells = picture_cells(picture, encoder, settings.long_side)
        views.append(describe_boxes(cells, fractions(box, *picture.size), encoder))
    parts = describe_cells(maps[0], encoder) if maps else None
    return QueryFeatures(np.concatenate(views), parts)


def describe_cells(cells: NDArray[np.float32], encoder: MapEncoder) -> NDArray[np.float32]:
    """Describe the single cells of a map: (h, w, C) -> (h, w, D) float32 of length 1."""
    height, width, channels = cells.shape
    return encoder.describe_pooled(cells.reshape(-1, channels)).reshape(height, width, -1)


def centrality(height: int, width: int) -> NDArray[np.float32]:
    """Weights of a map's cells, row by row: 1 - (1 - `AT_THE_RIM`) r^2, r the distance from the middle in half sides.

    Example:
        >>> centrality(1, 4).round(2).tolist()
        [0.83, 0.98, 0.98, 0.83]
    """
    y, x = (np.abs(2 * (np.arange(n) + 0.5) / n - 1) for n in (height, width))
    return (1 - (1 - AT_THE_RIM) * np.maximum(y[:, None], x[None]) ** 2).astype(np.float32).ravel()


def mean_direction(views: NDArray[np.float32]) -> NDArray[np.float32]:
    """(V, d) rows of length 1 -> (d,) normalised mean; a single row is returned unchanged, bit by bit."""
    if len(views) == 1:
        return views[0]
    mean = views.mean(axis=0)
    return mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))


def fractions(boxes: ArrayLike, width: int, height: int) -> NDArray[np.float64]:
    """Convert pixel boxes (N, 4) to fractions of a picture's sides."""
    return as_boxes(boxes) / (width, height, width, height)
