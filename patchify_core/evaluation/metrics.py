"""How good is a ranking: average precision, LocScore, recall@k, and the report of a whole evaluation.

For a query q with positives P(q) (the gallery images that contain its instance), over the images ranked best
first:

    precision@r = (positives among the first r) / r
    AP(q)       = 1/|P(q)| * sum over ranks r of a positive of  precision@r
    LocScore(q) = 1/|P(q)| * sum over ranks r of a positive of  precision@r * IoU(winning box, annotated box)

Source: "Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching", WACV 2026, arXiv
2512.12610. AP is the rectangular form, without interpolation. Of several annotated boxes the best IoU counts
(our reading). Under a cut-off k only the first k ranks count and the divisor is min(k, |P(q)|), as ILIAS has
it. Where images have equal scores, every number is the mean over their orders (`found`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import comb
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import GalleryError
from patchify_core.evaluation.found import FoundPositives, find_positives
from patchify_core.imaging.boxes import iou

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class HitRow:
    """One positive found, as a line of LocScore's arithmetic.

    Attributes:
        rank: Its rank, from 1.
        precision: precision@rank, in 0..1; see `QueryScore.precisions`.
        iou: IoU of its winning box, in 0..1; NaN where it has no annotated box.
        contribution: What it adds to LocScore: precision * iou / divisor; NaN where `iou` is.
        running: The sum of the contributions down to this row; the last row's is LocScore itself.
    """

    rank: int
    precision: float
    iou: float
    contribution: float
    running: float


class FirstTie(NamedTuple):
    """The images with the same score as the best positive; without ties, that positive alone.

    Attributes:
        before: How many images have a higher score.
        images: How many have this one, at least 1.
        positives: How many of those are positives, at least 1.
        counted: How many of their ranks count under the cut-off, at least 1.
    """

    before: int
    images: int
    positives: int
    counted: int


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays gives arrays, not a truth value
class QueryScore:
    """The score of one query: numbers, and parallel arrays with one entry per hit (positive found).

    Attributes:
        ap: Average precision, in 0..1.
        locscore: LocScore, in 0..ap; None when some positive, found or not, has no annotated box.
        mean_iou: Mean IoU of the winning boxes over the positives that appear in the considered ranking,
            whatever their rank, in some order of equal scores; None when `locscore` is, and when none appears.
        positives: |P|, without ignored and excluded images; at least 1.
        divisor: What the sums are divided by: |P|, or min(k, |P|) under a cut-off k.
        first_hit: Rank of the first positive, from 1; None when none appears.
        ranks: (H,) ranks of the hits, from 1, ascending, equal scores in the order that is shown.
        precisions: (H,) precision at those ranks, in 0..1; of a hit with the same score as other images the mean over
            their orders.
        ious: (H,) best IoU of each hit's winning box with its annotated boxes, in 0..1; NaN where it has
            none.
        first: The best hit's tie; None when there is no hit.
    """

    ap: float
    locscore: float | None
    mean_iou: float | None
    positives: int
    divisor: int
    first_hit: int | None
    ranks: NDArray[np.intp]
    precisions: NDArray[np.float64]
    ious: NDArray[np.float64]
    first: FirstTie | None = None

    def hit_at(self, k: int) -> float:
        """1 if a positive is among the first k ranks (of those that a cut-off left), else 0.

        Where only some orders of equal scores have one there, their share, in 0..1.
        """
        if self.first is None or k <= self.first.before:
            return 0.0
        tie, drawn = self.first, min(k - self.first.before, self.first.counted)
        return 1 - comb(tie.images - tie.positives, drawn) / comb(tie.images, drawn)

    def rows(self) -> list[HitRow]:
        """Lay out LocScore as arithmetic, one row per hit.

        Returns:
            The rows by ascending rank; the last one's `running` equals `locscore` exactly. A hit without a
            box has NaN for its IoU and contribution, and so has the running sum from there on.
        """
        products = self.precisions * self.ious
        columns = (
            self.ranks,
            self.precisions,
            self.ious,
            products / self.divisor,
            np.minimum(products.cumsum() / self.divisor, 1),
        )
        return [HitRow(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


@dataclass(frozen=True)
class Report:
    """The scores of a whole evaluation, each averaged over queries.

    Attributes:
        map: Mean AP over the scored queries, in 0..1.
        locscore: Mean LocScore over the queries that have one; None if none has.
        mean_iou: Mean over queries of their `mean_iou`, where they have one; None if none has.
        recall: k -> recall@k for k in 1, 5, 10: the share of scored queries with at least one positive among
            the first k (`QueryScore.hit_at`). This is the retrieval field's usual definition, not the share of
            positives found.
        queries: How many queries were scored.
        left_out: Ids of the queries that have no positive and so no score.
        without_boxes: How many scored queries have no LocScore, because some positive has no annotated box.
    """

    map: float
    locscore: float | None
    mean_iou: float | None
    recall: dict[int, float]
    queries: int
    left_out: tuple[int, ...]
    without_boxes: int

    def as_dict(self) -> dict[str, float | int | list[int] | None]:
        """Flatten for JSON: map, locscore, mean_iou, recall@1, recall@5, recall@10, queries, left_out."""
        return {
            "map": self.map,
            "locscore": self.locscore,
            "mean_iou": self.mean_iou,
            **{f"recall@{k}": share for k, share in self.recall.items()},
            "queries": self.queries,
            "left_out": list(self.left_out),
        }


def score_query(
    image_ids: ArrayLike,
    boxes: ArrayLike,
    positives: Mapping[int, NDArray[np.float64] | None],
    ignored: Collection[int] = (),
    excluded: Collection[int] = (),
    cutoff: int | None = None,
    scores: ArrayLike | None = None,
) -> QueryScore | None:
    """Score one query's ranking by this module's formulas.

    Args:
        image_ids: (N,) distinct integer ids of the ranked images, best first, equal scores in the order of ids.
        boxes: (N, 4) their winning boxes in the same order, xyxy in pixels.
        positives: Image id -> its annotated boxes (M, 4), or None (or no rows) where only the image is
            labelled. A positive that the ranking lacks contributes 0.
        ignored: Images that count neither for nor against, such as doubtful ones.
        excluded: The query's own list, such as the picture that it was cut from. Like the ignored images they
            leave both the ranking, before ranks are counted, and the positives.
        cutoff: k, to count the first k of the remaining ranks only, with divisor min(k, |P|).
        scores: (N,) what the images were ranked by, best first; None where no two are equal.

    Returns:
        The score, or None when no positive is left: such a query is left out of the averages and reported.

    Raises:
        ValueError: An image is ranked twice, `boxes` or `scores` does not match `image_ids`, or `cutoff` is below 1.
        BoxError: A hit's winning or annotated box is not four finite numbers.

    Example:
        Three positives, of which two are found, at ranks 2 and 5, with IoU 0.6 and 0.3:

        >>> whole = np.array([[0, 0, 10, 10]])
        >>> boxes = [[0, 0, 1, 1], [0, 0, 10, 6], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 10, 3]]
        >>> score = score_query([10, 11, 12, 13, 14], boxes, {11: whole, 14: whole, 99: whole})
        >>> round(score.ap, 9), round(score.locscore, 9)
        (0.3, 0.14)
    """
    ids, boxes = np.asarray(image_ids, dtype=np.int64), np.asarray(boxes, dtype=np.float64)
    if ids.ndim != 1 or boxes.shape != (len(ids), 4):
        raise ValueError(f"image_ids must be (N,) and boxes (N, 4), got {ids.shape} and {boxes.shape}")
    values = None if scores is None else np.asarray(scores, dtype=np.float64)
    if values is not None and values.shape != ids.shape:
        raise ValueError(f"scores must be one per image, got {values.shape} for {ids.shape}")
    found = find_positives(ids, lambda at: boxes[at], positives, ignored, excluded, values)
    if cutoff is not None:
        check_cutoff(cutoff)
    return None if found is None else score_found(found, cutoff)


def score_found(found: FoundPositives, cutoff: int | None = None) -> QueryScore:
    """Score a query by what is known of its positives, by this module's formulas.

    Args:
        found: The positives in the ranking.
        cutoff: See `score_query`.

    Raises:
        ValueError: `cutoff` is below 1.
    """
    if cutoff is not None:
        check_cutoff(cutoff)
    divisor = found.positives if cutoff is None else min(cutoff, found.positives)
    precisions = found.precisions(cutoff)
    counted = len(precisions)
    ranks, ious = found.ranks[:counted], found.ious[:counted]
    first = None
    if counted:
        before, images = int(found.before[0]), int(found.tied[0])
        left = images if cutoff is None else min(images, cutoff - before)
        first = FirstTie(before, images, int(np.searchsorted(found.before, before, "right")), left)
    return QueryScore(
        ap=_mean(precisions, divisor),
        locscore=_mean(precisions * ious, divisor) if found.located else None,
        mean_iou=float(ious.mean()) if found.located and counted else None,
        positives=found.positives,
        divisor=divisor,
        first_hit=int(ranks[0]) if counted else None,
        ranks=ranks,
        precisions=precisions,
        ious=ious,
        first=first,
    )


def check_cutoff(cutoff: int) -> None:
    """Refuse a cut-off that leaves no rank to count.

    Raises:
        ValueError: `cutoff` is below 1.
    """
    if cutoff < 1:
        raise ValueError(f"the cut-off must be at least 1, got {cutoff}")


def summarise(scores: Mapping[int, QueryScore | None]) -> Report:
    """Average the queries' scores into the report of an evaluation.

    Args:
        scores: Query id -> its score, None for a query without positives.

    Returns:
        The report. Every average is exact before its last rounding, so the order of the queries cannot change
        it.

    Raises:
        GalleryError: No query has a score, so that there is nothing to average.

    Example:
        >>> hit = score_query([5, 6], [[0, 0, 4, 4], [0, 0, 4, 4]], {6: np.array([[0, 0, 4, 2]])})
        >>> report = summarise({0: hit, 1: None})
        >>> report.map, report.locscore, report.recall, report.left_out
        (0.5, 0.25, {1: 0.0, 5: 1.0, 10: 1.0}, (1,))
    """
    scored = [score for score in scores.values() if score is not None]
    if not scored:
        raise GalleryError(
            f"None of the {len(scores)} queries has a positive image, so there is nothing to score: "
            "check the instances that the dataset's annotations name."
        )
    locscores = [score.locscore for score in scored if score.locscore is not None]
    mean_ious = [score.mean_iou for score in scored if score.mean_iou is not None]
    return Report(
        map=fmean(score.ap for score in scored),
        locscore=fmean(locscores) if locscores else None,
        mean_iou=fmean(mean_ious) if mean_ious else None,
        recall={k: fmean(score.hit_at(k) for score in scored) for k in RECALL_AT},
        queries=len(scored),
        left_out=tuple(int(query) for query, score in scores.items() if score is None),
        without_boxes=len(scored) - len(locscores),
    )


def grid_ceiling(cells: Mapping[int, NDArray[np.float64]], positives: Mapping[int, NDArray[np.float64]]) -> float:
    """Find the best LocScore that a choice of regions allows for one query, whatever the encoder.

    With every positive ranked first, precision is 1 at each, so that only the boxes limit LocScore: the
    ceiling is the mean over positives of max over cells and annotated boxes of IoU(cell, box). A whole
    evaluation's ceiling is the mean of its queries' ceilings.

    Args:
        cells: Image id -> the boxes (P, 4) that a match in it could have, xyxy in pixels; for every positive
            at least.
        positives: Image id -> its annotated boxes (M, 4), M at least 1.

    Returns:
        The ceiling, in 0..1; it holds for rankings without a cut-off.

    Raises:
        ValueError: There are no positives, or one has no annotated box.
        KeyError: A positive has no entry in `cells`.
        BoxError: A box is not four finite numbers.

    Example:
        A pyramid of 1x1 and 2x2, and an object that fills three quarters of one quadrant (its IoU with the
        whole image is 0.19):

        >>> grid = np.array([[0, 0, 8, 8], [0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]])
        >>> grid_ceiling({3: grid}, {3: np.array([[0, 0, 4, 3]])})
        0.75
    """
    if not positives or any(len(rows) == 0 for rows in positives.values()):
        raise ValueError("a ceiling needs at least one positive, and an annotated box for each")
    return fmean(iou(cells[image], rows).max(initial=0.0) for image, rows in positives.items())


def _mean(terms: NDArray[np.float64], divisor: int) -> float:
    # Added in order of rank, as `QueryScore.rows` does, so that its last running sum is this very number; and
    # divided after adding, so that rounding can push neither a perfect AP off 1 nor LocScore above AP. Thirds of a
    # precision, which ties across a cut-off give, can add up to more than 1 in the last bit.
    return min(float(terms.cumsum()[-1]) / divisor, 1.0) if len(terms) else 0.0
