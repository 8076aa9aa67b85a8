"""Where a query's positives stand in its ranking: all that any score needs of it.

Equal scores are shown in the order of image ids, which says nothing about what was found: in ILIAS, for one, positives
have the lower ids. So every score is the mean over all orders of the images with equal scores, by an exact formula. Let
a group of n images with one score contain p positives, and let s images rank before it, h of them positives. Any of
its positives is at rank s + j, for j in 1..n, in one order of n, and there (p - 1) / (n - 1) of the j - 1 images of the
group before it are positives on average. So its mean precision is

    1/n * sum over j in 1..n of  (h + 1 + (j - 1) * (p - 1) / (n - 1)) / (s + j)

of which a cut-off k leaves the terms with s + j <= k. Without ties this is (h + 1) / (s + 1), the precision itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.imaging.boxes import as_boxes, paired_iou


@dataclass(frozen=True, eq=False)
class FoundPositives:
    """Where a query's positives stand in its ranking, after ignored and excluded images have left it.

    This little is enough for AP and LocScore under any cut-off, and for a subset of the positives (`only`), so a
    ranking of 100,000 images need not be kept.

    Attributes:
        image_ids: (H,) int64 ids of the positives in the ranking, best first.
        ranks: (H,) their ranks, from 1, ascending, equal scores in the order that is shown.
        before: (H,) how many images have a higher score, ascending.
        tied: (H,) how many images have the same score, this one included.
        ious: (H,) best IoU of each one's winning box with its annotated boxes, in 0..1; NaN where it has none.
        positives: |P|, found or not; at least 1.
        located: Whether every positive, found or not, has an annotated box.
    """

    image_ids: NDArray[np.int64]
    ranks: NDArray[np.intp]
    before: NDArray[np.intp]
    tied: NDArray[np.intp]
    ious: NDArray[np.float64]
    positives: int
    located: bool

    def only(self, images: Collection[int], located: bool) -> FoundPositives | None:
        """Ignore the other positives, as if they were neither right nor wrong: they leave the ranking.

        Args:
            images: Ids of the positives that still count, found or not.
            located: Whether each of them has an annotated box.

        Returns:
            What is left, or None when nothing is.
        """
        if not images:
            return None
        stays = _among(self.image_ids, images)
        # Each of the others that ranked before takes one rank with it, and each with the same score a place of the tie.
        gone, before = self.before[~stays], self.before[stays]
        higher, not_lower = (np.searchsorted(gone, before, side) for side in ("left", "right"))
        return FoundPositives(
            image_ids=self.image_ids[stays],
            ranks=(self.ranks - np.cumsum(~stays))[stays],
            before=before - higher,
            tied=self.tied[stays] - (not_lower - higher),
            ious=self.ious[stays],
            positives=len(images),
            located=located,
        )

    def within(self, cutoff: int | None) -> int:
        """How many of the hits are among the first `cutoff` ranks in some order of equal scores; all if None."""
        return len(self.before) if cutoff is None else int(np.searchsorted(self.before, cutoff))

    def shares(self, cutoff: int) -> NDArray[np.float64]:
        """In which share (H,) of the orders of equal scores each hit is among the first `cutoff` ranks, in 0..1."""
        return np.clip((cutoff - self.before) / self.tied, 0, 1)

    def precisions(self, cutoff: int | None = None, trapezoid: bool = False) -> NDArray[np.float64]:
        """The precision at each hit that `within` counts, averaged over the orders of equal scores.

        Args:
            cutoff: Precision counts as 0 at the ranks after these; None for all.
            trapezoid: The mean of precision at the rank and just before it (1 before the first), whose sum is the area
                under a precision-recall curve of trapezoids.

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
) -> FoundPositives | None:
    """Find a query's positives in its ranking: all of the ranking that any score needs.

    Args:
        image_ids: (N,) distinct ids of the ranked images, best first.
        boxes_at: (H,) positions in the ranking -> (H, 4) their winning boxes, xyxy in pixels. It is asked for the
            positives with an annotated box only, because boxes of a whole ranking are far too many to make.
        positives: See `metrics.score_query`.
        ignored: See `metrics.score_query`.
        excluded: See `metrics.score_query`.
        scores: See `metrics.score_query`.

    Returns:
        What was found, or None when no positive is left.

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
    found = image_ids[hits]
    annotated = [wanted[image] for image in found.tolist()]
    boxed = np.array([rows is not None and len(rows) > 0 for rows in annotated], bool)
    winners = np.zeros((len(hits), 4))
    if boxed.any():
        winners[boxed] = boxes_at(hits[boxed])
    places = np.arange(len(considered)) if scores is None else scores[considered]
    starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
    tie = np.searchsorted(starts, ranked, side="right") - 1
    return FoundPositives(
        image_ids=found,
        ranks=ranked + 1,
        before=starts[tie],
        tied=np.append(starts[1:], len(places))[tie] - starts[tie],
        ious=_best_ious(winners, annotated),
        positives=len(wanted),
        located=all(rows is not None and len(rows) for rows in wanted.values()),
    )


def _among(ids: NDArray[np.int64], wanted: Collection[int]) -> NDArray[np.bool_]:
    return np.isin(ids, np.fromiter(wanted, dtype=np.int64, count=len(wanted)))


def _best_ious(winners: NDArray[np.float64], annotated: list[NDArray[np.float64] | None]) -> NDArray[np.float64]:
    """Best IoU (H,) of each winning box (H, 4) with its own image's annotated boxes, NaN without any."""
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
    """Precision at ranks that hold a positive, `earlier` others of which stand before it."""
    precision = (earlier + 1) / ranks
    if trapezoid:
        above = np.divide(earlier, ranks - 1, out=np.ones(len(ranks)), where=ranks > 1)
        precision = (precision + above) / 2
    return precision
