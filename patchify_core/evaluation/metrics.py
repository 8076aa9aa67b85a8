"""Quality of a ranking: average precision, LocScore and recall@k, per query and averaged over an evaluation.

For a query q with positives P(q) (the gallery images that contain its instance), over the images ranked best
first:

    precision@r = (positives among the first r) / r
    AP(q)       = 1/|P(q)| * sum over ranks r of a positive of  precision@r
    LocScore(q) = 1/|P(q)| * sum over ranks r of a positive of  precision@r * IoU(winning box, annotated box)

Source: "Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching", WACV 2026, arXiv
2512.12610. AP is the rectangular form, without interpolation. Of several annotated boxes the best IoU counts
(our reading). Under a cut-off k only the first k ranks count and the divisor is min(k, |P(q)|), as in ILIAS.
Where images have equal scores, every number is the mean over their orders (`positives`).
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
from patchify_core.evaluation.positives import RankedPositives, find_positives
from patchify_core.imaging.boxes import iou

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class HitRow:
    """One hit (ranked positive), as a line of LocScore's arithmetic.

    Attributes:
        rank: Its rank, from 1.
        precision: precision@rank, in 0..1; see `QueryScore.precisions`.
        iou: IoU of its winning box, in 0..1; NaN where it has no annotated box.
        contribution: Its term of LocScore: precision * iou / divisor; NaN where `iou` is.
        running: Sum of the contributions down to this row; the last row's is LocScore itself.
    """

    rank: int
    precision: float
    iou: float
    contribution: float
    running: float


class FirstTie(NamedTuple):
    """The images with the same score as the best positive; without ties, only that positive.

    Attributes:
        before: Number of images with a higher score.
        images: Number of images with this score, at least 1.
        positives: Number of positives among those, at least 1.
        counted: Number of their ranks that count under the cut-off, at least 1.
    """

    before: int
    images: int
    positives: int
    counted: int


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays gives arrays, not a truth value
class QueryScore:
    """The score of one query: numbers, and parallel arrays with one entry per hit (ranked positive).

    Attributes:
        ap: Average precision, in 0..1.
        locscore: LocScore, in 0..ap; None if a positive, ranked or not, has no annotated box.
        mean_iou: Mean IoU of the winning boxes over the hits, whatever their rank; None if `locscore` is None, or
            there is no hit.
        positives: |P|, without ignored and excluded images; at least 1.
        divisor: Divisor of the sums: |P|, or min(k, |P|) under a cut-off k.
        first_hit: Rank of the first hit, from 1; None if there is none.
        ranks: (H,) ranks of the hits, from 1, ascending, ties in display order.
        precisions: (H,) precision at those ranks, in 0..1; for a tied hit, the mean over the orders of its tie.
        ious: (H,) best IoU of each hit's winning box with its annotated boxes, in 0..1; NaN where it has
            none.
        first: The best hit's tie; None if there is no hit.
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
        """Return 1 if a hit is among the first k ranks (within the cut-off), else 0.

        If only some orders of ties have one there, return their share, in 0..1.
        """
        if self.first is None or k <= self.first.before:
            return 0.0
        tie, drawn = self.first, min(k - self.first.before, self.first.counted)
        return 1 - comb(tie.images - tie.positives, drawn) / comb(tie.images, drawn)

    def rows(self) -> list[HitRow]:
        """Lay out LocScore as arithmetic, one row per hit.

        Returns:
            The rows by ascending rank; the last one's `running` equals `locscore` exactly. A hit without a
            box has NaN for its IoU, its contribution and the running sum from there on.
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
        mean_iou: Mean `mean_iou` over the queries that have one; None if none has.
        recall: k -> recall@k for k in 1, 5, 10: the share of scored queries with at least one positive among
            the first k (`QueryScore.hit_at`), as usual in retrieval, not the share of positives found.
        queries: Number of scored queries.
        left_out: Ids of the queries without a positive, which have no score.
        without_boxes: Number of scored queries without a LocScore, because a positive has no annotated box.
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
            labelled. A positive missing from the ranking contributes 0.
        ignored: Images that count neither for nor against, such as doubtful ones.
        excluded: Images that this query excludes, such as the picture that it was cut from. Ignored and excluded
            images leave both the ranking, before ranks are counted, and the positives.
        cutoff: k, to count only the first k of the remaining ranks, with divisor min(k, |P|).
        scores: (N,) similarities that the images were ranked by, best first; None where no two are equal.

    Returns:
        The score, or None if no positive is left: such a query is left out of the averages and reported.

    Raises:
        ValueError: An image is ranked twice, `boxes` or `scores` does not match `image_ids`, or `cutoff` is below 1.
        BoxError: A hit's winning or annotated box is not four finite numbers.

    Example:
        Three positives, two of them ranked, at ranks 2 and 5, with IoU 0.6 and 0.3:

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
    _check_cutoff(cutoff)
    ranked = find_positives(ids, lambda at: boxes[at], positives, ignored, excluded, values)
    return None if ranked is None else score_positives(ranked, cutoff)


def score_positives(positives: RankedPositives, cutoff: int | None = None) -> QueryScore:
    """Score a query from the ranks of its positives, by this module's formulas.

    Args:
        positives: The positives in the ranking.
        cutoff: See `score_query`.

    Raises:
        ValueError: `cutoff` is below 1.
    """
    _check_cutoff(cutoff)
    divisor = positives.total if cutoff is None else min(cutoff, positives.total)
    precisions = positives.precisions(cutoff)
    counted = len(precisions)
    ranks, ious = positives.ranks[:counted], positives.ious[:counted]
    first = None
    if counted:
        before, images = int(positives.before[0]), int(positives.tied[0])
        left = images if cutoff is None else min(images, cutoff - before)
        first = FirstTie(before, images, int(np.searchsorted(positives.before, before, "right")), left)
    return QueryScore(
        ap=_mean(precisions, divisor),
        locscore=_mean(precisions * ious, divisor) if positives.located else None,
        mean_iou=float(ious.mean()) if positives.located and counted else None,
        positives=positives.total,
        divisor=divisor,
        first_hit=int(ranks[0]) if counted else None,
        ranks=ranks,
        precisions=precisions,
        ious=ious,
        first=first,
    )


def _check_cutoff(cutoff: int | None) -> None:
    if cutoff is not None and cutoff < 1:
        raise ValueError(f"the cut-off must be at least 1, got {cutoff}")


def summarise(scores: Mapping[int, QueryScore | None]) -> Report:
    """Average the queries' scores into the report of an evaluation.

    Args:
        scores: Query id -> its score, None for a query without positives.

    Returns:
        The report. Averages are rounded only once, so they do not depend on the order of the queries.

    Raises:
        GalleryError: No query has a score.

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
    """Compute the upper bound of LocScore that a choice of regions allows for one query, whatever the encoder.

    With all positives ranked first, precision is 1 at each, so that only the boxes limit LocScore: the
    bound is the mean over positives of max over cells and annotated boxes of IoU(cell, box). The bound of a whole
    evaluation is the mean over its queries.

    Args:
        cells: Image id -> the boxes (P, 4) that a match in it can have, xyxy in pixels; at least for every
            positive.
        positives: Image id -> its annotated boxes (M, 4), M at least 1.

    Returns:
        The bound, in 0..1; it holds for rankings without a cut-off.

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
    # Added in order of rank, as in `QueryScore.rows`, so that its last running sum equals this number exactly, and
    # divided after adding, so that rounding can neither push a perfect AP off 1 nor LocScore above AP. Thirds of a
    # precision, which ties across a cut-off give, can add up to more than 1 in the last bit.
    return min(float(terms.cumsum()[-1]) / divisor, 1.0) if len(terms) else 0.0
