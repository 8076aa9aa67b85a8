"""What a search found: matches, and a whole ranking of them of which only those that are looked at are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.store import Hits, PatchStore

PIECE = 256
"""Matches that are made at a time when all are gone through."""


@dataclass(frozen=True, eq=False)
class Verification:
    """How a gallery picture compares with the query point by point. Points are pixels of the upright originals.

    Attributes:
        method: Name of the re-ranker: sift, xfeat, aliked.
        matches: K, local features that found a partner.
        inliers: How many of them one homography explains.
        query_points: (K, 2) float64 x, y in the query picture, inliers first.
        gallery_points: (K, 2) float64 x, y in the gallery picture, in the same order.
        local_score: The geometric evidence, 0..1 (`rerank.verification`).
        global_score: The score that the match had before, its cosine similarity.
        box: (4,) float64 xyxy, where the homography puts the query's outline in the gallery picture; None if it
            is not to be trusted.
    """

    method: str
    matches: int
    inliers: int
    query_points: NDArray[np.float64]
    gallery_points: NDArray[np.float64]
    local_score: float
    global_score: float
    box: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Match:
    """One gallery picture that a search found.

    Attributes:
        image_id: Gallery image id.
        score: Cosine similarity of the query with the winning patch, -1..1; after re-ranking, what it ordered by.
        box: (4,) float64 xyxy of the winning patch, in pixels of the upright gallery picture; where boxes were refined
            (`localize`), the object's; after a geometric verification that can be trusted, the query's outline there.
        patch: The winning patch's number within its picture (see `regions.Pyramid`).
        file_name: POSIX path of the picture below the gallery's root.
        verification: How the picture compares with the query point by point; None unless that was asked for.
        others: (M, 4) float64 boxes of further objects like the query's; empty unless boxes were refined on maps.
    """

    image_id: int
    score: float
    box: NDArray[np.float64]
    patch: int
    file_name: str
    verification: Verification | None = None
    others: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a gallery picture got its score: the similarity of every patch.

    Attributes:
        image_id: Gallery image id.
        boxes: (P, 4) float64 xyxy pixel boxes of the patches.
        scores: (P,) float32 cosine similarities.
        patch: The winning patch, the argmax of `scores`.
    """

    image_id: int
    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    patch: int


class Ranking(Sequence[Match]):
    """The pictures that a search found, best first.

    Args:
        index: That was searched.
        hits: What the search found.
        first: Matches that stand in the place of the first ones: the same pictures, ordered anew.
    """

    def __init__(self, index: PatchStore, hits: Hits, first: Sequence[Match] = ()) -> None:
        self.searched, self.hits, self.first = index, hits, tuple(first)

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids, best first."""
        front = np.array([match.image_id for match in self.first], np.int64)
        return np.concatenate([front, self.searched.image_ids[self.hits.rows[len(front) :]]])

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """(N,) what the pictures are ordered by, best first; the first matches and the others by their own measure."""
        front = np.array([match.score for match in self.first], np.float64)
        return np.concatenate([front, self.hits.scores[len(front) :]])

    def with_first(self, first: Sequence[Match]) -> Ranking:
        """The same ranking with its first pictures ordered anew."""
        return Ranking(self.searched, self.hits, first)

    def __len__(self) -> int:
        """How many pictures it holds."""
        return len(self.hits.rows)

    @overload
    def __getitem__(self, at: int) -> Match: ...

    @overload
    def __getitem__(self, at: slice) -> list[Match]: ...

    def __getitem__(self, at: int | slice) -> Match | list[Match]:
        """One match, or a list of them."""
        places = range(len(self))[at]
        if isinstance(places, int):
            return self._made([places])[0]
        return self._made(places)

    def __iter__(self) -> Iterator[Match]:
        """All matches, made in pieces."""
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def _made(self, places: Sequence[int]) -> list[Match]:
        front = len(self.first)
        made = iter(as_matches(self.searched, self.hits[np.array([at for at in places if at >= front], np.intp)]))
        return [self.first[at] if at < front else next(made) for at in places]


def ids_and_scores(ranking: Sequence[Match]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N,) gallery image ids and (N,) scores of a ranking, without making its matches if they are not there yet."""
    if isinstance(ranking, Ranking):
        return ranking.image_ids, ranking.scores
    ids = np.array([match.image_id for match in ranking], np.int64)
    return ids, np.array([match.score for match in ranking], np.float64)


def as_matches(index: PatchStore, hits: Hits) -> list[Match]:
    """What a search of `index` found, with names and boxes, in the same order."""
    matches = []
    for row, score, cell in zip(hits.rows.tolist(), hits.scores.tolist(), hits.cells.tolist(), strict=True):
        image = index.images[row]
        matches.append(Match(image.id, score, index.box_of(row, cell), cell, image.file_name))
    return matches
