"""One homography from pairs of points, and where it puts the query's outline in the gallery picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_POINTS = 4
"""A homography has 8 unknowns, and a pair of points gives two equations."""


@dataclass(frozen=True)
class GeometrySettings:
    """What a person may tune about the geometric check.

    Attributes:
        tolerance: largest distance of an inlier from where the homography puts it, in pixels of the gallery's crop.
        iterations: most samples that MAGSAC++ draws.
        confidence: it stops earlier once it is this sure that no better homography is left.
        box_inliers: fewest inliers for a box.
        box_share: least share of the pairs that are inliers for a box.
        box_areas: least and largest area of the projected outline, as a share of the whole gallery picture's; it may
            stick out of the picture a little.
        box_inside: least share of the outline's bounding box that lies inside the gallery picture.
    """

    tolerance: float = 6.0
    iterations: int = 2000
    confidence: float = 0.999
    box_inliers: int = 10
    box_share: float = 0.15
    box_areas: tuple[float, float] = (0.002, 1.5)
    box_inside: float = 0.5


def find_homography(
    query: NDArray[np.float64], gallery: NDArray[np.float64], settings: GeometrySettings
) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_]]:
    """The homography that explains most pairs, by MAGSAC++ (Barath et al., CVPR 2020) in OpenCV's USAC.

    Args:
        query: (K, 2) points.
        gallery: (K, 2) their partners.
        settings: see `GeometrySettings`; `tolerance` is in the unit of `gallery`.

    Returns:
        The 3x3 homography from query to gallery, None if there is none, and which pairs it explains (K,).
        The same points give the same answer: the random samples are drawn from a fixed state.
    """
    import cv2

    nothing = np.zeros(len(query), bool)
    if len(query) < LEAST_POINTS:
        return None, nothing
    with_seed = cv2.UsacParams()
    with_seed.randomGeneratorState = 0
    with_seed.score = cv2.SCORE_METHOD_MAGSAC
    with_seed.loMethod = cv2.LOCAL_OPTIM_SIGMA
    with_seed.maxIterations = settings.iterations
    with_seed.confidence = settings.confidence
    with_seed.threshold = settings.tolerance
    with_seed.sampler = cv2.SAMPLING_UNIFORM
    try:
        matrix, mask = cv2.findHomography(query, gallery, with_seed)
    except cv2.error:  # all points on a line, or on one another
        return None, nothing
    if matrix is None or mask is None or not np.isfinite(matrix).all():
        return None, nothing
    inliers = mask.ravel().astype(bool)
    if inliers.sum() < LEAST_POINTS:
        return None, nothing
    return np.asarray(matrix, np.float64), inliers


def outline_box(
    homography: NDArray[np.float64],
    query_box: NDArray[np.float64],
    size: tuple[int, int],
    inliers: int,
    matches: int,
    settings: GeometrySettings,
) -> NDArray[np.float64] | None:
    """Where the query's object is in the gallery picture: the bounding box of its projected outline, clipped.

    Args:
        homography: 3x3, from pixels of the query picture to pixels of the gallery picture.
        query_box: (4,) xyxy of the object in the query picture.
        size: width and height of the gallery picture.
        inliers: how many pairs support the homography.
        matches: of how many.
        settings: see `GeometrySettings`.

    Returns:
        (4,) float64 xyxy inside the gallery picture; None if the outline is supported by too few pairs, is folded,
        mirrored, crosses the horizon, is absurdly small or large, or lies mostly outside.
    """
    if inliers < settings.box_inliers or inliers < settings.box_share * matches:
        return None
    x1, y1, x2, y2 = query_box
    corners = np.array([[x1, y1, 1], [x2, y1, 1], [x2, y2, 1], [x1, y2, 1]])
    projected = corners @ homography.T
    if not (projected[:, 2] > 0).all() and not (projected[:, 2] < 0).all():
        return None
    outline = projected[:, :2] / projected[:, 2:]
    if not np.isfinite(outline).all():
        return None
    sides = np.roll(outline, -1, axis=0) - outline
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    if not (turns > 0).all():  # y runs down: the corners of an upright, convex outline turn to the right
        return None
    x, y = outline.T
    area = 0.5 * float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())
    width, height = size
    least, most = settings.box_areas
    if not least * width * height <= area <= most * width * height:
        return None
    box = np.concatenate([outline.min(axis=0), outline.max(axis=0)])
    inside = np.clip(box, 0, np.array([width, height, width, height]))
    if (inside[2:] - inside[:2]).prod() < settings.box_inside * (box[2:] - box[:2]).prod():
        return None
    return inside
