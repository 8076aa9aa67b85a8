"""What the page answers: matches with verdicts, scores, and a look into one match."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.metrics import QueryScore
from patchify_core.retrieval import Explanation, Match

if TYPE_CHECKING:
    from patchify_core.regions import Stage

RIGHT, OFF, WRONG, IGNORED, ITSELF, UNKNOWN = "right", "off", "wrong", "ignored", "itself", "unknown"
"""Verdicts on a result."""


@dataclass(frozen=True, eq=False)
class Result:
    """One match as the page shows it: its rank, what is right or wrong about it, and where the object really is."""

    rank: int
    match: Match
    verdict: str
    iou: float | None
    annotated: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answer:
    """Everything the page shows for one question.

    Attributes:
        results: the first matches.
        stages: the nested sets of patches that the index has.
        level: number of the stage that was searched with, from 1.
        reranker: what the shortlist was re-ranked by, or None.
        score: of the whole ranking that is shown; None when the object is unknown.
        plain: of the ranking before it was re-ranked; None if it was not.
        baseline: of the ranking by whole pictures alone; None also if the index has no whole pictures.
        ceiling: the best LocScore that the patches allow for this object.
        pictures: size of the gallery.
        found: positives among the shown results.
    """

    results: tuple[Result, ...]
    stages: tuple[Stage, ...]
    level: int
    reranker: str | None
    score: QueryScore | None
    plain: QueryScore | None
    baseline: QueryScore | None
    ceiling: float | None
    pictures: int
    found: int


@dataclass(frozen=True, eq=False)
class Detail:
    """One result looked into: the similarity of every patch up to the level asked for, by `stages`."""

    result: Result
    explanation: Explanation
    stages: tuple[Stage, ...]
    results_shown: int
