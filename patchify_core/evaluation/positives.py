"""The ranks of a query's positives in its ranking, which is all that the scores depend on.

Ties are displayed in the order of image ids, which carries no information (in ILIAS positives have the lower ids).
Every score is therefore the mean over all orders of the tied images, by an exact formula. Let n images have the same
score, p of them positives, and let s images rank before them, h of them positives. A positive of the tie is at rank
s + j, for j in 1..n, in one of n orders, and on average (p - 1) / (n - 1) of the j - 1 tied images before it are
positives. Its mean precision is

    1/n * sum over j in 1..n of  (h + 1 + (j - 1) * (p - 1) / (n - 1)) / (s + j)

of which a cut-off k keeps the terms with s + j <= k. Without ties this is (h + 1) / (s + 1), the precision itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.imaging.boxes import as_boxes, paired_iou


@dataclass(frozen=True, eq=False)
class RankedPositives:
    """The positives in a query's ranking, after ignored and excluded images have left it.

    These arrays suffice for AP and LocScore under any cut-off and for any subset of the positives (`only`), so that a
    ranking of 100,000 images need not be stored.

    Attributes:
        image_ids: (H,) int64 ids of the positives in the ranking, best first.
        ranks: (H,) their ranks, from 1, ascending, ties in display order.
        before: (H,) number of images with a higher score, ascending.
        tied: (H,) number of images with the same score, including this one.
        ious: (H,) best IoU of each winning box with the annotated boxes of its image, in 0..1; NaN where it has none.
        total: |P|, positives ranked or not; at least 1.
        located: Whether every positive, ranked or not, has an annotated box.
    """

    image_ids: NDArray[np.int64]
    ranks: NDArray[np.intp]
    before: NDArray[np.intp]
    tied: NDArray[np.intp]
    ious: NDArray[np.float64]
    total: int
    located: bool

    def only(self, images: Collection[int], located: bool) -> RankedPositives | None:
        """Ignore the other positives: they leave the ranking, as neither right nor wrong.

        Args:
            images: Ids of the positives that still count, ranked or not.
            located: Whether each of them has an annotated box.

        Returns:
            The remaining positives, or None if there are none.
        """
        if not images:
            return None
        keep = _among(self.image_ids, images)
        # Each ignored positive before this one frees a rank, and each with the same score a place in the tie.
        ignored, before = self.before[~keep], self.before[keep]
        higher, not_lower = (np.searchsorted(ignored, before, side) for side in ("left", "right"))
        return RankedPositives(
            image_ids=self.image_ids[keep],
            ranks=(self.ranks - np.cumsum(~keep))[keep],
            before=before - higher,
            tied=self.tied[keep] - (not_lower - higher),
            ious=self.ious[keep],
            total=len(images),
            located=located,
        )

    def within(self, cutoff: int | None) -> int:
        """Count the hits that are among the first `cutoff` ranks in some order of ties; all if None."""
        return len(self.before) if cutoff is None else int(np.searchsorted(self.before, cutoff))

    def shares(self, cutoff: int) -> NDArray[np.float64]:
        """Return for each hit the share (H,) of the orders of ties in which it is among the first `cutoff`, in 0..1."""
        return np.clip((cutoff - self.before) / self.tied, 0, 1)

    def precisions(self, cutoff: int | None = None, trapezoid: bool = False) -> NDArray[np.float64]:
        """Compute the precision at each hit that `within` counts, averaged over the orders of ties.

        Args:
            cutoff: Ranks after it have precision 0; None for no cut-off.
            trapezoid: Average the precision at the rank and just before it (1 before the first); the sum is then the
                area under a precision-recall curve of trapezoids.

        Returns:
            (within(cutoff),) float64, in 0..1.
        """
        counted = self.within(cutoff)
        before, tied = self.before[:counted], self.tied[:counted]
        precisions = _precision(np.arange(counted), before + 1, trapezoid)
        for start in np.unique(before[tied > 1]).tolist():
            first, end = np.searchsorted(before, [start, start + 1]).tolist()
            images = int(tied[first])
            places = np.arange(images if cutoff is None else min(images, cutoff - start))
            earlier = first + places * (end - first - 1) / (images - 1)
            precisions[first:end] = _precision(earlier, start + 1 + places, trapezoid).sum() / images
        return precisions


def find_positives(
    image_ids: NDArray[np.int64],
    boxes_at: Callable[[NDArray[np.intp]], NDArray[np.float64]],
    positives: Mapping[int, NDArray[np.float64] | None],
    ignored: Collection[int] = (),
    excluded: Collection[int] = (),
    scores: NDArray[np.floating] | None = None,
) -> RankedPositives | None:
    """Find a query's positives in its ranking.

    Args:
        image_ids: (N,) distinct ids of the ranked images, best first.
        boxes_at: (H,) positions in the ranking -> (H, 4) their winning boxes, xyxy in pixels. It is called only for
            positives with an annotated box, because computing the boxes of a whole ranking would be too slow.
        positives: See `metrics.score_query`.
        ignored: See `metrics.score_query`.
        excluded: See `metrics.score_query`.
        scores: See `metrics.score_query`.

    Returns:
        The ranked positives, or None if no positive is left.

    Raises:
        ValueError: An image is ranked twice.
        BoxError: A winning or annotated box is not four finite numbers.
    """
    if len(np.unique(image_ids)) != len(image_ids):
        raise ValueError("an image is ranked twice: keep its best patch only")
    removed = {*ignored, *excluded}
    wanted = {image: rows for image, rows in positives.items() if image not in removed}
    if not wanted:
        return None
    considered = np.flatnonzero(~_among(image_ids, removed))
    ranked = np.flatnonzero(_among(image_ids[considered], wanted))
    hits = considered[ranked]
    annotated = [wanted[image] for image in image_ids[hits].tolist()]
    boxed = np.array([rows is not None and len(rows) > 0 for rows in annotated], bool)
    winners = np.zeros((len(hits), 4))
    if boxed.any():
        winners[boxed] = boxes_at(hits[boxed])
    places = np.arange(len(considered)) if scores is None else scores[considered]
    starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
    tie = np.searchsorted(starts, ranked, side="right") - 1
    return RankedPositives(
        image_ids=image_ids[hits],
        ranks=ranked + 1,
        before=starts[tie],
        tied=np.append(starts[1:], len(places))[tie] - starts[tie],
        ious=_best_ious(winners, annotated),
        total=len(wanted),
        located=all(rows is not None and len(rows) for rows in wanted.values()),
    )


def _among(ids: NDArray[np.int64], wanted: Collection[int]) -> NDArray[np.bool_]:
    return np.isin(ids, np.fromiter(wanted, dtype=np.int64, count=len(wanted)))


def _best_ious(winners: NDArray[np.float64], annotated: list[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    """Return the best IoU (H,) of each winning box (H, 4) with the annotated boxes of its image; NaN without any."""
    targets = [as_boxes([] if rows is None else rows) for rows in annotated]
    owner = np.repeat(np.arange(len(targets)), [len(rows) for rows in targets])
    best = np.full(len(targets), np.nan)
    if len(owner):
        # fmax, because NaN stands for "none yet" here.
        np.fmax.at(best, owner, paired_iou(winners[owner], np.concatenate(targets)))
    return best


def _precision(
    earlier: NDArray[np.intp] | NDArray[np.float64], ranks: NDArray[np.intp], trapezoid: bool
) -> NDArray[np.float64]:
    """Compute the precision at the ranks of positives, each with `earlier` positives before it."""
    precision = (earlier + 1) / ranks
    if trapezoid:
        above = np.divide(earlier, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
        precision = (precision + above) / 2
    return precision
