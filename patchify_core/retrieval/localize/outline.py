"""Object outlines from colours: the foreground of a box, by GrabCut (Rother et al., SIGGRAPH 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OutlineSettings:
    """Settings of outlines.

    Attributes:
        margin: How far the object may extend beyond the box, as a fraction of its side.
        iterations: GrabCut iterations; more did not improve boxes (NUMBERS.md).
    """

    margin: float = 0.35
    iterations: int = 2


def outline_box(
    thumbnail: NDArray[np.uint8], box: Sequence[float], settings: OutlineSettings | None = None
) -> NDArray[np.float64] | None:
    """Return the bounding box of the object in a box.

    Args:
        thumbnail: (S, S, 3) uint8 RGB, the whole picture squashed to a square.
        box: (4,) xyxy as fractions of the picture's sides.
        settings: See `OutlineSettings`.

    Returns:
        (4,) float64 xyxy as fractions: the bounding box of `outline`; None if there is no outline.
    """
    mask = outline(thumbnail, box, settings)
    if mask is None:
        return None
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    ends = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    return ends / np.tile(mask.shape[::-1], 2)


def outline(
    pixels: NDArray[np.uint8], box: Sequence[float], settings: OutlineSettings | None = None
) -> NDArray[np.bool_] | None:
    """Segment the object in a box.

    Args:
        pixels: (H, W, 3) uint8 RGB, a whole picture.
        box: (4,) xyxy as fractions of the picture's sides.
        settings: See `OutlineSettings`.

    Returns:
        (H, W) bool: the largest connected component of the foreground; None if foreground or background is empty.
    """
    import cv2

    settings = settings or OutlineSettings()
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = settings.margin * (x2 - x1), settings.margin * (y2 - y1)
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    mask[_pixels((x1 - dx, y1 - dy, x2 + dx, y2 + dy), height, width)] = cv2.GC_PR_BGD
    mask[_pixels((x1, y1, x2, y2), height, width)] = cv2.GC_PR_FGD
    if (mask == cv2.GC_BGD).mean() < 0.02:  # the box covers nearly everything: take the picture's border as background
        mask[:2] = mask[-2:] = cv2.GC_BGD
        mask[:, :2] = mask[:, -2:] = cv2.GC_BGD
    sure = mask == cv2.GC_BGD
    if not (mask == cv2.GC_PR_FGD).any() or not sure.any():
        return None
    cv2.setRNGSeed(0)  # k-means starts from random centres; the generator is thread-local
    try:
        cv2.grabCut(
            pixels,
            mask,
            (0, 0, width, height),  # ignored with GC_INIT_WITH_MASK
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            settings.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error:  # a colour model without pixels
        return None
    foreground = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, labels, pieces, _ = cv2.connectedComponentsWithStats(foreground)
    if count < 2:
        return None
    largest: NDArray[np.bool_] = labels == 1 + int(pieces[1:, cv2.CC_STAT_AREA].argmax())
    return largest


def _pixels(box: tuple[float, float, float, float], height: int, width: int) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (min(max(round(v * n), 0), n) for v, n in zip(box, (width, height) * 2, strict=True))
    return slice(y1, y2), slice(x1, x2)
