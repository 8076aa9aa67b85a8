"""What the page answers to a query: results with verdicts, scores, and one result in detail.

`Judge` gives the verdicts and scores, by the gallery's annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.queries import UserQuery
from patchify_core.evaluation.metrics import QueryScore, grid_ceiling, score_positives
from patchify_core.evaluation.run import find_in_matches
from patchify_core.gallery import Gallery, Query
from patchify_core.imaging.boxes import iou
from patchify_core.index.store import PatchStore
from patchify_core.retrieval.ranking import Explanation, Match, Ranking

if TYPE_CHECKING:
    from patchify_core.regions import Stage
    from patchify_core.retrieval.localize import SimilarityMap
    from patchify_core.retrieval.presence import Presence

RIGHT, OFF, WRONG, IGNORED, ITSELF, UNKNOWN = "right", "off", "wrong", "ignored", "itself", "unknown"
UNMARKED, MATCH = "unmarked", "match"
"""Verdicts on a result. `unmarked` is a visitor's picture without a drawn box of the object, `match` a picture that is
annotated with the object but not with its box; `ignored` pictures do not count."""

MATCHES = (RIGHT, OFF, MATCH)
"""Verdicts of pictures that contain the object."""


@dataclass(frozen=True, eq=False)
class Result:
    """One match as the page shows it.

    Attributes:
        rank: From 1.
        match: With the box that is judged.
        cell: (4,) float64 xyxy in pixels, the winning patch.
        verdict: RIGHT, OFF and so on.
        iou: Of the box with the best annotated one; None if there is none.
        annotated: (M, 4) boxes of the object.
    """

    rank: int
    match: Match
    cell: NDArray[np.float64]
    verdict: str
    iou: float | None
    annotated: NDArray[np.float64]

    @property
    def moved(self) -> bool:
        """Whether the box is not that of the winning patch."""
        return not np.array_equal(self.match.box, self.cell)

    @property
    def by_points(self) -> bool:
        """Whether the box comes from matched points."""
        return self.match.verification is not None and self.match.verification.box is not None


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything the page shows for one query.

    Attributes:
        results: The first matches.
        stages: The index's nested sets of patches.
        level: Number of the stage that was searched with, from 1.
        reranker: Name of the re-ranker, or None.
        box_method: How boxes were found (`box_methods`).
        score: Of the whole ranking; None if the object is unknown.
        winning: Of the same ranking with the boxes of the winning patches; None if they were not refined.
        plain: Of the ranking before re-ranking; None if it was not re-ranked.
        baseline: Of the ranking by whole pictures; None also if the index has none.
        ceiling: Upper bound of LocScore for boxes of patches.
        pictures: Size of the gallery.
        found: Positives among the results.
        ranked: How many pictures are ranked, if not all; else 0.
        paper: Whether the index is built as in the paper (`indexes.is_paper_method`).
        unmoved: Whether re-ranking left every picture at its rank.
        presence: How likely the results contain the object, the query's own picture excluded; None where this was not
            learned for these options.
        calibrated: Whether this was learned for the index at all.
    """

    results: tuple[Result, ...]
    stages: tuple[Stage, ...]
    level: int
    reranker: str | None
    box_method: str
    score: QueryScore | None
    winning: QueryScore | None
    plain: QueryScore | None
    baseline: QueryScore | None
    ceiling: float | None
    pictures: int
    found: int
    ranked: int = 0
    paper: bool = False
    unmoved: bool = False
    presence: Presence | None = None
    calibrated: bool = False

    @property
    def last_likely(self) -> int | None:
        """Rank of the last result that is more likely right than wrong; None if the line is not among the results."""
        if self.presence is None:
            return None
        ranks = [result.rank for result in self.results if result.verdict != ITSELF]
        above = self.presence.above
        return ranks[above - 1] if 0 < above < len(ranks) else None


@dataclass(frozen=True, eq=False)
class Detail:
    """One result in detail.

    Attributes:
        result: The result.
        explanation: The similarity of every patch, by `stages`.
        stages: The nested sets of patches up to the level of the search.
        results_shown: Number of results on the page.
        box_method: How boxes were found (`box_methods`).
        places: The similarity of every place; None where the index has no feature maps.
    """

    result: Result
    explanation: Explanation
    stages: tuple[Stage, ...]
    results_shown: int
    box_method: str
    places: SimilarityMap | None


RIGHT_IOU = 0.5
"""IoU from which a box is right: the usual threshold since PASCAL VOC (Everingham et al., IJCV 2010)."""

NO_BOXES = np.zeros((0, 4))


def match_verdict(box: NDArray[np.float64], annotated: NDArray[np.float64]) -> tuple[str, float | None]:
    """Return the verdict on a box in a picture that contains the object, and its IoU; None without annotated boxes.

    Args:
        box: (4,) xyxy in pixels.
        annotated: (M, 4) boxes of the object.
    """
    if not len(annotated):
        return MATCH, None
    overlap = float(iou(box, annotated).max())
    return (RIGHT if overlap >= RIGHT_IOU else OFF), overlap


class Judge:
    """Gives verdicts and scores by the annotations of a gallery."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery

    def result(self, query: UserQuery, rank: int, match: Match, cell: NDArray[np.float64]) -> Result:
        """Judge one match; `cell` is the box of its winning patch."""
        if match.image_id == query.itself:
            return Result(rank, match, cell, ITSELF, None, NO_BOXES)
        if query.instance is None:
            return Result(rank, match, cell, UNKNOWN, None, NO_BOXES)
        if match.image_id in self.gallery.ignored(query.instance) | self.left_out(query):
            return Result(rank, match, cell, IGNORED, None, NO_BOXES)
        if match.image_id not in self.gallery.positives(query.instance):
            return Result(rank, match, cell, WRONG, None, NO_BOXES)
        annotated = self.gallery.boxes_of(match.image_id, query.instance)
        verdict, overlap = match_verdict(match.box, annotated)
        return Result(rank, match, cell, verdict, overlap, annotated)

    def score(
        self,
        query: UserQuery,
        ranking: Sequence[Match],
        refine: Callable[[list[Match]], list[Match]] | None = None,
    ) -> QueryScore | None:
        """Return AP and LocScore of a whole ranking; None if no picture contains the object.

        Args:
            query: Its object must be known.
            ranking: All pictures, best first.
            refine: Returns matches with better boxes; called for the pictures that contain the object only.
        """

        def boxes(matches: list[Match]) -> NDArray[np.float64]:
            assert refine is not None
            return np.array([match.box for match in refine(matches)], np.float64).reshape(-1, 4)

        positives = find_in_matches(ranking, self.gallery, self.as_query(query), None if refine is None else boxes)
        return None if positives is None else score_positives(positives)

    def counted(self, query: UserQuery, ranking: Ranking) -> NDArray[np.intp]:
        """Return the positions, from 0, of the ranked pictures that count for the score, best first.

        Ranks of a `QueryScore` are places among these. The query's object must be known.
        """
        assert query.instance is not None
        out = self.left_out(query) | self.gallery.ignored(query.instance)
        return np.flatnonzero(~np.isin(ranking.image_ids, list(out)))

    def ceiling(self, query: UserQuery, index: PatchStore, patches: int) -> float | None:
        """Return the best LocScore that the first `patches` patches of each picture allow; None without a LocScore."""
        annotated = self.as_query(query)
        positives = self.gallery.positives(annotated.instance, annotated.exclude)
        boxes = {image_id: some for image_id, some in positives.items() if some is not None}
        if not positives or len(boxes) < len(positives):
            return None
        return grid_ceiling({i: index.boxes_of(index.row_of[i])[:patches] for i in boxes}, boxes)

    def left_out(self, query: UserQuery) -> frozenset[int]:
        """Return the ids of the gallery pictures that are left out of a query's score."""
        exclude: frozenset[int] = frozenset() if query.itself is None else frozenset({query.itself})
        if query.example is not None:
            exclude |= next(q.exclude for q in self.gallery.queries if q.id == query.example)
        return exclude

    def as_query(self, query: UserQuery) -> Query:
        """Convert to the dataset's `Query`; a gallery picture is left out of its own score."""
        assert query.instance is not None
        return Query(
            id=query.example or 0,
            file_name=query.name,
            path=query.path or Path(),
            width=query.width,
            height=query.height,
            box=query.box,
            instance=query.instance,
            exclude=self.left_out(query),
        )
