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
"""Verdicts on a result. `unmarked` is for a visitor's picture in which no box of the object was drawn, `match` for one
that is annotated with the object but not with its box; `ignored` are pictures that do not count."""

MATCHES = (RIGHT, OFF, MATCH)
"""Verdicts of pictures that contain the object."""


@dataclass(frozen=True, eq=False)
class Result:
    """One match as the page shows it: its rank, what is right or wrong about it, and where the object really is.

    `cell` is the winning patch's box, (4,) float64 xyxy in pixels; `match.box` is the one that is judged.
    """

    rank: int
    match: Match
    cell: NDArray[np.float64]
    verdict: str
    iou: float | None
    annotated: NDArray[np.float64]

    @property
    def moved(self) -> bool:
        """Whether the box is another one than the winning patch's."""
        return not np.array_equal(self.match.box, self.cell)

    @property
    def by_points(self) -> bool:
        """Whether the box was found point by point."""
        return self.match.verification is not None and self.match.verification.box is not None


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything the page shows for one query.

    Attributes:
        results: the first matches.
        stages: the nested sets of patches that the index has.
        level: number of the stage that was searched with, from 1.
        reranker: what the shortlist was re-ranked by, or None.
        box_method: how boxes were found (`box_methods`).
        score: of the whole ranking that is shown; None when the object is unknown.
        winning: of the same ranking with the boxes as they were before they were refined; None if they were not.
        plain: of the ranking before it was re-ranked; None if it was not.
        baseline: of the ranking by whole pictures alone; None also if the index has no whole pictures.
        ceiling: the best LocScore that the patches allow for this object.
        pictures: size of the gallery.
        found: positives among the shown results.
        ranked: how many of the pictures are ranked, where it is not all of them; else 0.
        paper: whether the index is made as in the paper (`shelf.is_paper_method`).
        unmoved: whether re-ranking left every picture at its rank.
        presence: how likely the results contain the object, the query's own picture apart; None where that was not
            learned for this way to search.
        calibrated: whether that was learned for the index, and for some way to search it.
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
        """Rank of the last result above the line from which on each is more likely wrong; None for no such line."""
        if self.presence is None:
            return None
        ranks = [result.rank for result in self.results if result.verdict != ITSELF]
        above = self.presence.above
        return ranks[above - 1] if 0 < above < len(ranks) else None


@dataclass(frozen=True, eq=False)
class Detail:
    """One result looked into: the similarity of every patch up to the level asked for, by `stages`.

    Attributes:
        result: the result.
        explanation: the similarity of every patch.
        stages: the nested sets of patches up to that level.
        results_shown: results on the page.
        box_method: how boxes were found (`box_methods`).
        places: the similarity of every place; None where the index has no feature maps.
    """

    result: Result
    explanation: Explanation
    stages: tuple[Stage, ...]
    results_shown: int
    box_method: str
    places: SimilarityMap | None


RIGHT_IOU = 0.5
"""A box counts as right from this IoU on: the usual threshold since PASCAL VOC (Everingham et al., IJCV 2010)."""

NO_BOXES = np.zeros((0, 4))


def match_verdict(box: NDArray[np.float64], annotated: NDArray[np.float64]) -> tuple[str, float | None]:
    """Verdict on a box in a picture that contains the object, and its IoU; None where no box is annotated there.

    Args:
        box: (4,) xyxy in pixels.
        annotated: (M, 4) boxes of the object.
    """
    if not len(annotated):
        return MATCH, None
    overlap = float(iou(box, annotated).max())
    return (RIGHT if overlap >= RIGHT_IOU else OFF), overlap


class Judge:
    """Judges answers to queries about one gallery.

    Args:
        gallery: where the annotations are.
    """

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery

    def result(self, query: UserQuery, rank: int, match: Match, cell: NDArray[np.float64]) -> Result:
        """One match with its verdict; `cell` is its winning patch's box, whatever the match's own is."""
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
        """AP and LocScore of a whole ranking; None if no picture contains the object.

        Args:
            query: what was asked; its object must be known.
            ranking: all pictures, best first.
            refine: gives matches better boxes; it is asked about the pictures that contain the object alone.
        """

        def boxes(matches: list[Match]) -> NDArray[np.float64]:
            assert refine is not None
            return np.array([match.box for match in refine(matches)], np.float64).reshape(-1, 4)

        found = find_in_matches(ranking, self.gallery, self.as_query(query), None if refine is None else boxes)
        return None if found is None else score_positives(found)

    def counted(self, query: UserQuery, ranking: Ranking) -> NDArray[np.intp]:
        """Positions, from 0, of the pictures of a ranking that count for a query's score, best first.

        Ranks of a `QueryScore` are places among these. The query's object must be known.
        """
        assert query.instance is not None
        out = self.left_out(query) | self.gallery.ignored(query.instance)
        return np.flatnonzero(~np.isin(ranking.image_ids, list(out)))

    def ceiling(self, query: UserQuery, index: PatchStore, patches: int) -> float | None:
        """The best LocScore that the first `patches` patches of each picture allow; None where there is no LocScore."""
        asked = self.as_query(query)
        positives = self.gallery.positives(asked.instance, asked.exclude)
        boxes = {image_id: found for image_id, found in positives.items() if found is not None}
        if not positives or len(boxes) < len(positives):
            return None
        return grid_ceiling({i: index.boxes_of(index.row_of[i])[:patches] for i in boxes}, boxes)

    def left_out(self, query: UserQuery) -> frozenset[int]:
        """Ids of the gallery pictures that are left out of a query's score."""
        exclude: frozenset[int] = frozenset() if query.itself is None else frozenset({query.itself})
        if query.example is not None:
            exclude |= next(q.exclude for q in self.gallery.queries if q.id == query.example)
        return exclude

    def as_query(self, query: UserQuery) -> Query:
        """The query in the dataset's own terms; a gallery picture is left out of its own score."""
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
