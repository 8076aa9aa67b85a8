"""Where the object in a box ends, told by colours alone: GrabCut on the thumbnail that is kept with a picture's map.

Rother, Kolmogorov & Blake, "GrabCut: interactive foreground extraction using iterated graph cuts", SIGGRAPH 2004, in
OpenCV. What is far from the box is background, the box itself is thought to be foreground, and a margin around it may
be either, so that the outline can be larger than the box as well as smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OutlineSettings:
    """What a person may tune about outlines.

    Attributes:
        margin: how far around the box the object may reach, as a fraction of its side.
        iterations: rounds of GrabCut; more did not give better boxes.
    """

    margin: float = 0.35
    iterations: int = 2


def outline_box(
    thumbnail: NDArray[np.uint8], box: Sequence[float], settings: OutlineSettings | None = None
) -> NDArray[np.float64] | None:
    """The box of the object that a box holds or touches.

    Args:
        thumbnail: (S, S, 3) uint8 RGB, the whole picture squashed to a square.
        box: (4,) xyxy as fractions of the picture's sides.
        settings: see `OutlineSettings`.

    Returns:
        (4,) float64 xyxy as fractions: the largest connected piece of foreground. None if there is none, or nothing
        to tell it from.
    """
    import cv2

    settings = settings or OutlineSettings()
    side = len(thumbnail)
    x1, y1, x2, y2 = (float(v) for v in box)
    dx, dy = settings.margin * (x2 - x1), settings.margin * (y2 - y1)
    mask = np.full((side, side), cv2.GC_BGD, np.uint8)
    mask[_pixels((x1 - dx, y1 - dy, x2 + dx, y2 + dy), side)] = cv2.GC_PR_BGD
    mask[_pixels((x1, y1, x2, y2), side)] = cv2.GC_PR_FGD
    if (mask == cv2.GC_BGD).mean() < 0.02:  # nearly everything is in question: the picture's rim stands for background
        mask[:2] = mask[-2:] = cv2.GC_BGD
        mask[:, :2] = mask[:, -2:] = cv2.GC_BGD
    sure = mask == cv2.GC_BGD
    if not (mask == cv2.GC_PR_FGD).any() or not sure.any():
        return None
    cv2.setRNGSeed(0)  # k-means starts from random centres; this generator is the thread's own
    try:
        cv2.grabCut(
            thumbnail,
            mask,
            (0, 0, side, side),  # not looked at: the mask says it all
            np.zeros((1, 65)),
            np.zeros((1, 65)),
            settings.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
    except cv2.error:  # a colour model without any pixel
        return None
    foreground = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    count, _, pieces, _ = cv2.connectedComponentsWithStats(foreground)
    if count < 2:
        return None
    left, top, width, height, _ = pieces[1 + int(pieces[1:, cv2.CC_STAT_AREA].argmax())].tolist()
    return np.array([left, top, left + width, top + height], np.float64) / side


def _pixels(box: tuple[float, float, float, float], side: int) -> tuple[slice, slice]:
    x1, y1, x2, y2 = (min(max(round(v * side), 0), side) for v in box)
    return slice(y1, y2), slice(x1, x2)
