"""What the page answers: matches with verdicts, scores, and a look into one match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.evaluation.metrics import QueryScore
from patchify_core.retrieval.ranking import Explanation, Match

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
        way: how boxes were found (`locating`).
        score: of the whole ranking that is shown; None when the object is unknown.
        winning: of the same ranking with the boxes as they were before they were refined; None if they were not.
        plain: of the ranking before it was re-ranked; None if it was not.
        baseline: of the ranking by whole pictures alone; None also if the index has no whole pictures.
        ceiling: the best LocScore that the patches allow for this object.
        pictures: size of the gallery.
        found: positives among the shown results.
        ranked: how many of the pictures are ranked, where it is not all of them; else 0.
        paper: whether the index is made as in the paper (`shelf.is_papers`).
        unmoved: whether re-ranking left every picture at its rank.
        presence: how likely the results contain the object, the query's own picture apart; None where that was not
            learned for this way to search.
        calibrated: whether that was learned for the index, and for some way to search it.
    """

    results: tuple[Result, ...]
    stages: tuple[Stage, ...]
    level: int
    reranker: str | None
    way: str
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
        way: how boxes were found (`locating`).
        places: the similarity of every place; None where the index has no feature maps.
    """

    result: Result
    explanation: Explanation
    stages: tuple[Stage, ...]
    results_shown: int
    way: str
    places: SimilarityMap | None
