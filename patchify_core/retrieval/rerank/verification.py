"""Geometric verification: compare the query with the shortlist's pictures themselves, point by point.

The query is cut out of its picture and the winning patch, with some of its surroundings, out of the gallery picture,
both at full resolution; their local features are paired, and one homography says which pairs belong together.

    local = clip(c - floor, 0, cap) / cap                                 c: see `VerificationSettings.count`
    fused = lambda * global + (1 - lambda) * sigmoid(t * local)           global: the match's score before

With no evidence the second term is the same for every picture, (1 - lambda) / 2, so that such pictures keep their
order among themselves.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.imaging.filenames import picture_path
from patchify_core.imaging.pictures import read_picture
from patchify_core.retrieval.ranking import Verification
from patchify_core.retrieval.rerank.geometry import GeometrySettings, find_homography, outline_box
from patchify_core.retrieval.rerank.local_features import LocalFeatures, LocalFeatureSettings, LocalMethod, cut, grown
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.index.picture_table import IndexedImage
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher


@dataclass(frozen=True)
class VerificationSettings:
    """What a person may tune about geometric verification; the defaults were measured (NUMBERS.md).

    Attributes:
        shortlist: best matches that are compared; the others stay where they are, behind them.
        surroundings: how much of its own width and height the winning patch is grown by.
        count: what the evidence counts: `inliers` of the homography, or all `matches`.
        floor: as many agree by chance and say nothing (MAGSAC++ finds 4 to 6 inliers between strangers).
        cap: more of them than this, beyond the floor, say no more.
        weight: lambda, the share of the retrieval score in the fused one, 0..1.
        steepness: t.
        use_box: a match's box becomes the projected outline of the query wherever that can be trusted.
        cached: gallery crops whose local features are kept, about half a megabyte each.
        features: see `LocalFeatureSettings`.
        geometry: see `GeometrySettings`.
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
    """The evidence of so many points, 0..1."""
    return min(max(count - settings.floor, 0), settings.cap) / settings.cap


def fused_score(global_score: float, local: float, settings: VerificationSettings) -> float:
    """See the module's formula; between (1 - lambda) / 2 and 1 for scores between 0 and 1."""
    sigmoid = 1.0 / (1.0 + math.exp(-settings.steepness * local))
    return settings.weight * global_score + (1.0 - settings.weight) * sigmoid


class GeometricVerification:
    """Orders the shortlist by retrieval score and geometric evidence together.

    Args:
        method: finds and pairs local features.
        settings: see `VerificationSettings`.
    """

    needs_picture = True

    def __init__(self, method: LocalMethod, settings: VerificationSettings | None = None) -> None:
        """Starts with an empty cache."""
        self._method, self.settings = method, settings or VerificationSettings()
        self._cache: OrderedDict[tuple[str, tuple[float, ...]], LocalFeatures] = OrderedDict()
        self._lock = Lock()

    @property
    def name(self) -> str:
        """The local features' name."""
        return self._method.name

    @property
    def shortlist(self) -> int:
        """See `VerificationSettings`."""
        return self.settings.shortlist

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`. Matches of the shortlist get a `verification` and a fused score."""
        if query.picture is None:
            raise PatchifyError(
                f"Re-ranking with {self.name} compares pictures: search with a picture, or re-rank words with patch-qe."
            )
        chosen = [match for match in matches if match.image_id not in query.exclude][: self.shortlist]
        rows = [engine.index.row_of[match.image_id] for match in chosen]
        root = engine.index.root or Path()
        engine.index.check_pictures(root, content=True, rows=rows)
        whole = np.array([0.0, 0.0, query.picture.width, query.picture.height])
        query_box = whole if query.box is None else query.box
        asked = self._method.extract(cut(query.picture, query_box, self.settings.features))
        verified = [
            self._verified(match, asked, self._features(engine, row, match.box, root), engine.index.images[row])
            for match, row in zip(chosen, rows, strict=True)
        ]
        verified.sort(key=lambda match: (-match.score, match.image_id))
        done = {match.image_id for match in verified}
        return verified + [match for match in matches if match.image_id not in done]

    def verify(self, query: LocalFeatures, gallery: LocalFeatures, size: tuple[int, int], score: float) -> Verification:
        """Compares two crops.

        Args:
            query: local features of the query's crop.
            gallery: local features of the gallery picture's crop.
            size: width and height of the whole gallery picture.
            score: the match's score.
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
        found = self.verify(query, gallery, (image.width, image.height), match.score)
        box = found.box if self.settings.use_box and found.box is not None else match.box
        score = fused_score(match.score, found.local_score, self.settings)
        return replace(match, score=score, box=box, verification=found)

    def _features(self, engine: Searcher, row: int, box: NDArray[np.float64], root: Path) -> LocalFeatures:
        """Local features of the patch with its surroundings, remembered while there is room."""
        image = engine.index.images[row]
        region = grown(box, self.settings.surroundings, image.width, image.height)
        key = (image.sha256, tuple(region.tolist()))
        with self._lock:  # several visitors of the page may ask at once
            found = self._cache.pop(key, None)
            if found is None:
                crop = cut(read_picture(picture_path(root, image.file_name)), region, self.settings.features)
                found = replace(self._method.extract(crop), crop=crop.without_pixels())
            self._cache[key] = found
            while len(self._cache) > self.settings.cached:
                self._cache.popitem(last=False)
            return found
