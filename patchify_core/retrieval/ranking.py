"""Results of a search: matches, and a lazy ranking that makes only the matches that are accessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.store import Hits, PatchStore

PIECE = 256
"""Matches made at a time during iteration."""


@dataclass(frozen=True, eq=False)
class Verification:
    """Point correspondences between query and gallery picture, in pixels of the upright originals.

    Attributes:
        method: Name of the re-ranker: sift, xfeat, aliked.
        matches: K, number of matched local features.
        inliers: Number of inliers of the homography.
        query_points: (K, 2) float64 x, y in the query picture, inliers first.
        gallery_points: (K, 2) float64 x, y in the gallery picture, in the same order.
        local_score: The geometric evidence, 0..1 (`rerank.verification`).
        global_score: The match's retrieval score before re-ranking.
        box: (4,) float64 xyxy, the query's box projected into the gallery picture; None if it is not plausible.
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
    """One gallery picture in the result of a search.

    Attributes:
        image_id: Gallery image id.
        score: Cosine similarity of the query with the winning patch, -1..1; after re-ranking, what it ordered by.
        box: (4,) float64 xyxy of the winning patch, in pixels of the upright gallery picture; after refinement
            (`localize`), the object's box; after a plausible geometric verification, the query's projected box.
        patch: The winning patch's number within its picture (see `regions.Pyramid`).
        file_name: POSIX path of the picture below the gallery's root.
        verification: Result of geometric verification; None if there was none.
        others: (M, 4) float64 boxes of further instances of the query's object; empty unless refined on maps.
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
    """The similarity of every patch of a gallery picture, which explains its score.

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
    """The result of a search as a lazy sequence, best first.

    Args:
        index: The searched index.
        hits: The result of the search.
        first: Re-ranked matches that replace the first ones: the same pictures in a new order.
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
        """(N,) scores, best first; those of re-ranked matches are not comparable with the others."""
        front = np.array([match.score for match in self.first], np.float64)
        return np.concatenate([front, self.hits.scores[len(front) :]])

    def with_first(self, first: Sequence[Match]) -> Ranking:
        """Return the same ranking with its first matches replaced by re-ranked ones."""
        return Ranking(self.searched, self.hits, first)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.hits.rows)

    @overload
    def __getitem__(self, at: int) -> Match: ...

    @overload
    def __getitem__(self, at: slice) -> list[Match]: ...

    def __getitem__(self, at: int | slice) -> Match | list[Match]:
        """Return one match, or a list of them."""
        places = range(len(self))[at]
        if isinstance(places, int):
            return self._matches([places])[0]
        return self._matches(places)

    def __iter__(self) -> Iterator[Match]:
        """Iterate over all matches, making `PIECE` at a time."""
        for start in range(0, len(self), PIECE):
            yield from self[start : start + PIECE]

    def _matches(self, places: Sequence[int]) -> list[Match]:
        front = len(self.first)
        others = iter(as_matches(self.searched, self.hits[np.array([at for at in places if at >= front], np.intp)]))
        return [self.first[at] if at < front else next(others) for at in places]


def ids_and_scores(ranking: Sequence[Match]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return (N,) gallery image ids and (N,) scores of a ranking, without making its matches."""
    if isinstance(ranking, Ranking):
        return ranking.image_ids, ranking.scores
    ids = np.array([match.image_id for match in ranking], np.int64)
    return ids, np.array([match.score for match in ranking], np.float64)


def as_matches(index: PatchStore, hits: Hits) -> list[Match]:
    """Convert hits of a search of `index` to matches, in the same order."""
    matches = []
    for row, score, cell in zip(hits.rows.tolist(), hits.scores.tolist(), hits.cells.tolist(), strict=True):
        image = index.images[row]
        matches.append(Match(image.id, score, index.box_of(row, cell), cell, image.file_name))
    return matches
