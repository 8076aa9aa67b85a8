"""The box of the object at a tapped point of a picture.

`BoxSearch.around` picks the lattice box that is similar to the point, stands out from its surroundings, and is centred
on the point. If the outline around it (GrabCut) contains the point too, its bounding box is used instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.localize.outline import outline_box
from patchify_core.retrieval.localize.search import BoxSearch


@dataclass(frozen=True)
class TapSettings:
    """Settings of tapped boxes; the defaults were measured (tests/retrieval/localize/test_tap.py).

    Attributes:
        contrast: Weight of the contrast; the point alone says little about the object's extent.
        centred: See `BoxSearch.around`; people tap the middle of an object.
        side: Side of the fallback square, as a share of the picture's shorter side.
        flat: A thumbnail with a colour range of at most this (of 255) counts as uniform.
    """

    contrast: float = 2.0
    centred: float = 3.0
    side: float = 0.4
    flat: int = 8


def tapped_box(
    search: BoxSearch, point: NDArray[np.float64], settings: TapSettings | None = None
) -> NDArray[np.float64]:
    """Return the box of the object at a point.

    Args:
        search: The picture's prepared map.
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        settings: See `TapSettings`.

    Returns:
        (4,) float64 xyxy as fractions of the picture's sides, inside it; it contains the point.
    """
    settings = settings or TapSettings()
    thumbnail = search.picture_map.thumbnail
    if int(np.ptp(thumbnail, axis=(0, 1)).max()) <= settings.flat:
        height, width = search.picture_map.cells.shape[:2]
        return box_around(point, width / height, settings)
    box = search.around(point, settings.contrast, settings.centred)
    outline = outline_box(thumbnail, box.tolist())
    if outline is not None and (outline[:2] <= point).all() and (outline[2:] >= point).all():
        return outline
    return box


def box_around(point: NDArray[np.float64], ratio: float, settings: TapSettings | None = None) -> NDArray[np.float64]:
    """Return the fallback box: a square around the point, moved inside the picture.

    Args:
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        ratio: The picture's width / height.
        settings: See `TapSettings`.

    Returns:
        (4,) float64 xyxy as fractions; it contains the point.
    """
    half = (settings or TapSettings()).side / 2 * np.array([min(1.0, 1 / ratio), min(1.0, ratio)])
    middle = np.clip(point, half, 1 - half)
    return np.concatenate([middle - half, middle + half])


def box_in_pixels(box: NDArray[np.float64], point: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Convert the box of an object at a point to pixels, at least one pixel wide and high.

    Args:
        box: (4,) xyxy as fractions of the picture's sides (`tapped_box`, `box_around`).
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        size: Width and height of the picture in pixels.

    Returns:
        (4,) float64 xyxy, rounded to tenths of a pixel. A side shorter than one pixel becomes the pixel of the point.
    """
    sides = np.array(size, np.float64)
    pixels = np.round(box * np.tile(sides, 2), 1)
    pixel = np.minimum(np.floor(point * sides), sides - 1)
    thin = pixels[2:] - pixels[:2] < 1
    pixels[:2], pixels[2:] = np.where(thin, pixel, pixels[:2]), np.where(thin, pixel + 1, pixels[2:])
    return pixels
