"""A box from one tap: that of the object at a point of a picture.

Among the boxes of the lattice that contain the point, the best is like the point on the feature map, stands out from
its surroundings, and has the point near its middle (`BoxSearch.around`). The outline around it (GrabCut) is taken
where that contains the point too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.localize.outline import outline_box
from patchify_core.retrieval.localize.search import BoxSearch


@dataclass(frozen=True)
class TapSettings:
    """What a person may tune about boxes from a tap; the defaults were measured (tests/retrieval/localize/test_tap.py).

    Attributes:
        contrast: Weight of the contrast; the point alone says little of how far the object reaches.
        centred: See `BoxSearch.around`; people tap the middle of a thing.
        side: Side of the square where nothing is to be seen, as a share of the picture's shorter side.
        flat: A thumbnail whose colours lie within so many levels of 255 shows nothing.
    """

    contrast: float = 2.0
    centred: float = 3.0
    side: float = 0.4
    flat: int = 8


def tapped_box(
    search: BoxSearch, point: NDArray[np.float64], settings: TapSettings | None = None
) -> NDArray[np.float64]:
    """The box of the object at a point.

    Args:
        search: The picture's map, made ready.
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        settings: See `TapSettings`.

    Returns:
        (4,) float64 xyxy as fractions of the picture's sides, inside it; it contains the point.
    """
    settings = settings or TapSettings()
    thumbnail = search.kept.thumbnail
    if int(np.ptp(thumbnail, axis=(0, 1)).max()) <= settings.flat:
        height, width = search.kept.cells.shape[:2]
        return box_around(point, width / height, settings)
    box = search.around(point, settings.contrast, settings.centred)
    outline = outline_box(thumbnail, box.tolist())
    if outline is not None and (outline[:2] <= point).all() and (outline[2:] >= point).all():
        return outline
    return box


def box_around(point: NDArray[np.float64], ratio: float, settings: TapSettings | None = None) -> NDArray[np.float64]:
    """The square that stands for an object of which nothing is known, moved inside the picture.

    Args:
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        ratio: The picture's width by its height.
        settings: See `TapSettings`.

    Returns:
        (4,) float64 xyxy as fractions; it contains the point.
    """
    half = (settings or TapSettings()).side / 2 * np.array([min(1.0, 1 / ratio), min(1.0, ratio)])
    middle = np.clip(point, half, 1 - half)
    return np.concatenate([middle - half, middle + half])


def box_in_pixels(box: NDArray[np.float64], point: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The box of an object at a point, in pixels, as it can be searched with.

    Args:
        box: (4,) xyxy as fractions of the picture's sides (`tapped_box`, `box_around`).
        point: (2,) x, y as fractions of the picture's sides, 0..1.
        size: Width and height of the picture in pixels.

    Returns:
        (4,) float64 xyxy in tenths of a pixel. Along a side where the box is less than one pixel, it is the pixel that
        the point lies in: the whole side of a picture of one pixel.
    """
    sides = np.array(size, np.float64)
    pixels = np.round(box * np.tile(sides, 2), 1)
    pixel = np.minimum(np.floor(point * sides), sides - 1)
    thin = pixels[2:] - pixels[:2] < 1
    pixels[:2], pixels[2:] = np.where(thin, pixel, pixels[:2]), np.where(thin, pixel + 1, pixels[2:])
    return pixels
