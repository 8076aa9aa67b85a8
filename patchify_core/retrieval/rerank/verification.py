"""Geometric verification: re-rank by point correspondences between the query and each picture of the shortlist.

The query's box and the winning patch, with some surroundings, are cropped at full resolution. Their local features are
matched, and a homography is fitted to the correspondences.

    local = clip(c - floor, 0, cap) / cap                                 c: see `VerificationSettings.count`
    fused = lambda * global + (1 - lambda) * sigmoid(t * local)           global: the match's score before

Without evidence the second term is the same for every picture, (1 - lambda) / 2, so that such pictures keep their
relative order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from patchify_core.imaging.filenames import picture_path
from patchify_core.imaging.pictures import read_picture
from patchify_core.retrieval.ranking import Verification
from patchify_core.retrieval.rerank.base import Cache, in_front, shortlisted
from patchify_core.retrieval.rerank.local_features import LocalFeatures, LocalFeatureSettings, LocalMethod, cut, grown
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.index.pictures import IndexedImage
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher

LEAST_POINTS = 4
"""A homography has 8 unknowns, and a pair of points gives two equations."""


@dataclass(frozen=True)
class GeometrySettings:
    """Settings of the homography and the box it projects.

    Attributes:
        tolerance: Maximum reprojection error of an inlier, in pixels of the gallery crop.
        iterations: Maximum number of MAGSAC++ samples.
        confidence: Confidence at which MAGSAC++ stops early.
        box_inliers: Minimum number of inliers for a box.
        box_share: Minimum share of inliers among the correspondences for a box.
        box_areas: Minimum and maximum area of the projected outline, as shares of the gallery picture; the outline may
            extend slightly beyond the picture.
        box_inside: Minimum share of the outline's bounding box inside the gallery picture.
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
    """Fit a homography by MAGSAC++ (Barath et al., CVPR 2020) in OpenCV's USAC.

    Args:
        query: (K, 2) points.
        gallery: (K, 2) corresponding points.
        settings: See `GeometrySettings`; `tolerance` is in the unit of `gallery`.

    Returns:
        The 3x3 homography from query to gallery, or None, and the inliers (K,) bool. Deterministic: random samples are
        drawn from a fixed state.
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
    """Project the query's box into the gallery picture and return its bounding box, clipped to the picture.

    Args:
        homography: 3x3, from pixels of the query picture to pixels of the gallery picture.
        query_box: (4,) xyxy of the object in the query picture.
        size: Width and height of the gallery picture.
        inliers: Number of inliers.
        matches: Number of correspondences.
        settings: See `GeometrySettings`.

    Returns:
        (4,) float64 xyxy inside the gallery picture; None if the outline has too few inliers, is folded or mirrored,
        crosses the horizon, is implausibly small or large, or is mostly outside the picture.
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


@dataclass(frozen=True)
class VerificationSettings:
    """Settings of geometric verification; the defaults were measured (NUMBERS.md).

    Attributes:
        shortlist: Number of best matches to compare; the others follow in their order.
        surroundings: Share of its width and height that is added to the winning patch.
        count: c: number of `inliers`, or of all correspondences (`matches`).
        floor: c that occurs by chance (MAGSAC++ finds 4 to 6 inliers between unrelated pictures).
        cap: Evidence saturates at this much above the floor.
        weight: lambda, the share of the retrieval score in the fused one, 0..1.
        steepness: t.
        use_box: Replace a match's box by the projected outline of the query if that is plausible (`outline_box`).
        cached: Gallery crops whose local features are cached, about half a megabyte each.
        features: See `LocalFeatureSettings`.
        geometry: See `GeometrySettings`.
    """

    shortlist: int = 20
    surroundings: float = 0.3
    count: Literal["inliers", "matches"] = "inliers"
    floor: int = 4
    cap: int = 30
    weight: float = 0.9
    steepness: float = 4.0
    use_box: bool = True
    cached: int = 200
    features: LocalFeatureSettings = field(default_factory=LocalFeatureSettings)
    geometry: GeometrySettings = field(default_factory=GeometrySettings)


def local_score(count: int, settings: VerificationSettings) -> float:
    """Return the evidence of `count` points, 0..1."""
    return min(max(count - settings.floor, 0), settings.cap) / settings.cap


def fused_score(global_score: float, local: float, settings: VerificationSettings) -> float:
    """Fuse scores by the module's formula; between (1 - lambda) / 2 and 1 for scores between 0 and 1."""
    sigmoid = 1.0 / (1.0 + math.exp(-settings.steepness * local))
    return settings.weight * global_score + (1.0 - settings.weight) * sigmoid


class GeometricVerification:
    """Orders the shortlist by a fusion of retrieval score and geometric evidence.

    Args:
        method: Extracts and matches local features.
        settings: See `VerificationSettings`.
    """

    needs_picture = True

    def __init__(self, method: LocalMethod, settings: VerificationSettings | None = None) -> None:
        self._method, self.settings = method, settings or VerificationSettings()
        self._cache: Cache[LocalFeatures] = Cache(self.settings.cached)

    @property
    def name(self) -> str:
        """Name of the local features."""
        return self._method.name

    @property
    def shortlist(self) -> int:
        """See `VerificationSettings`."""
        return self.settings.shortlist

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`. Matches of the shortlist get a `verification` and a fused score."""
        chosen, rows, root = shortlisted(self, engine, query, matches)
        assert query.picture is not None
        whole = np.array([0.0, 0.0, query.picture.width, query.picture.height])
        query_box = whole if query.box is None else query.box
        features = self._method.extract(cut(query.picture, query_box, self.settings.features))
        verified = [
            self._verified(match, features, self._features(engine, row, match.box, root), engine.index.images[row])
            for match, row in zip(chosen, rows, strict=True)
        ]
        return in_front(verified, matches)

    def verify(self, query: LocalFeatures, gallery: LocalFeatures, size: tuple[int, int], score: float) -> Verification:
        """Compare two crops.

        Args:
            query: Local features of the query's crop.
            gallery: Local features of the gallery picture's crop.
            size: Width and height of the whole gallery picture.
            score: The match's retrieval score.
        """
        pairs = self._method.match(query, gallery)
        here, there = query.points[pairs[:, 0]], gallery.points[pairs[:, 1]]
        homography, inliers = find_homography(here, there, self.settings.geometry)
        count, box = int(inliers.sum()), None
        if homography is not None:
            matrix = gallery.crop.matrix @ homography @ np.linalg.inv(query.crop.matrix)
            box = outline_box(matrix, query.crop.region, size, count, len(pairs), self.settings.geometry)
        first = np.argsort(~inliers, kind="stable")
        return Verification(
            method=self.name,
            matches=len(pairs),
            inliers=count,
            query_points=query.crop.to_original(here[first]),
            gallery_points=gallery.crop.to_original(there[first]),
            local_score=local_score(count if self.settings.count == "inliers" else len(pairs), self.settings),
            global_score=score,
            box=box,
        )

    def _verified(self, match: Match, query: LocalFeatures, gallery: LocalFeatures, image: IndexedImage) -> Match:
        verification = self.verify(query, gallery, (image.width, image.height), match.score)
        box = verification.box if self.settings.use_box and verification.box is not None else match.box
        score = fused_score(match.score, verification.local_score, self.settings)
        return replace(match, score=score, box=box, verification=verification)

    def _features(self, engine: Searcher, row: int, box: NDArray[np.float64], root: Path) -> LocalFeatures:
        """Return the local features of the patch with its surroundings; cached."""
        image = engine.index.images[row]
        region = grown(box, self.settings.surroundings, image.width, image.height)

        def extracted() -> LocalFeatures:
            crop = cut(read_picture(picture_path(root, image.file_name)), region, self.settings.features)
            return replace(self._method.extract(crop), crop=crop.without_pixels())

        return self._cache.get((image.sha256, tuple(region.tolist())), extracted)
