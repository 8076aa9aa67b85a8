"""Scores that a published benchmark's own evaluation reports, in addition to those of every dataset.

| benchmark | scores | source |
|---|---|---|
| ILIAS | mAP@1000, oracle@1000; mAP@1000 by scale, clutter and category (mean over objects) | `evaluation/` |
| INSTRE | mAP of rectangles over the first 100 ranks; mAP of trapezoids over all ranks | ELViS; Iscen et al. |
| ROxford5k, RParis6k | mAP of trapezoids and mean precision at 1, 5 and 10: easy, medium and hard | `revisitop` |

Positives outside a part of the benchmark leave the ranking before it is scored (`RankedPositives.only`). Ties are
averaged over (`positives`); the published scripts break them, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import comb
from statistics import fmean

import numpy as np

from patchify_core.evaluation.breakdown import split_by_band
from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.positives import RankedPositives
from patchify_core.gallery import Gallery, Query
from patchify_core.gallery.ilias import ilias_id
from patchify_core.retrieval.ranking import Match, ids_and_scores

ILIAS_RANKS, INSTRE_RANKS, PRECISION_AT = 1000, 100, (1, 5, 10)
ILIAS_LIMITS = {
    "scale": (0.06880213760855043, 0.13526567164179104, 0.2729876723163842),
    "clutter": (18.0, 33.0, 53.0),
}
"""Limits of ILIAS' groups of positives: share of the picture that the object covers, number of objects around it."""


@dataclass(frozen=True)
class PublishedScore:
    """One number of a benchmark's own evaluation.

    Attributes:
        measure: Name of the measure, e.g. `mAP@1000`.
        part: Which positives or queries it covers: `all`, or e.g. `scale < 0.0688`.
        value: The mean over the queries, in 0..1.
        queries: Number of queries.
    """

    measure: str
    part: str
    value: float
    queries: int


def published_scores(
    ranked: Mapping[int, RankedPositives | None], gallery: Gallery, cutoff: int | None = None
) -> tuple[PublishedScore, ...]:
    """Score a benchmark as its publishers do.

    Args:
        ranked: Query id -> the ranks of its positives.
        gallery: The dataset; `gallery.benchmark` names the benchmark.
        cutoff: Depth to which the rankings are known, at least 1000; None for all ranks, which the mAP of trapezoids
            needs.

    Returns:
        The scores; none if the dataset is not a published benchmark.
    """
    if gallery.benchmark is None:
        return ()
    positives = {query: one for query, one in ranked.items() if one is not None}
    score = {"ilias": _ilias, "instre": _instre}.get(gallery.benchmark.name, _revisited)
    return tuple(score(positives, gallery, cutoff))


_Positives = Mapping[int, RankedPositives]


def _mean(
    measure: str, part: str, positives: _Positives, score: Callable[[RankedPositives], float]
) -> Iterator[PublishedScore]:
    """Yield the mean over the queries, if there are any."""
    if positives:
        yield PublishedScore(measure, part, fmean(map(score, positives.values())), len(positives))


def _instre(positives: _Positives, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    measure = f"mAP, rectangles, first {INSTRE_RANKS} ranks (as ELViS)"
    yield from _mean(measure, "all", positives, lambda one: score_positives(one, INSTRE_RANKS).ap)
    if cutoff is None:
        yield from _mean("mAP, trapezoids, all ranks (as Iscen et al.)", "all", positives, _trapezoids)


def _trapezoids(positives: RankedPositives) -> float:
    return float(positives.precisions(trapezoid=True).sum()) / positives.total


# ILIAS -----------------------------------------------------------------------------------------------------------


def _ilias(positives: _Positives, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    assert gallery.benchmark is not None
    measure = f"mAP@{ILIAS_RANKS}"
    yield from _mean(measure, "all", positives, _ilias_ap)
    yield from _mean(f"oracle@{ILIAS_RANKS}", "all", positives, _oracle)
    for kind, limits in ILIAS_LIMITS.items():
        values = gallery.benchmark.values.get(kind)
        if values is not None:
            names = [f"{kind} < {limits[0]:.3g}", *(f"{kind} {low:.3g}-{high:.3g}" for low, high in pairwise(limits))]
            names.append(f"{kind} >= {limits[-1]:.3g}")
            for name, part in zip(names, split_by_band(positives, gallery, values, limits), strict=False):
                yield from _mean(measure, name, part, _ilias_ap)
    yield from _categories(positives, gallery, measure)


def _ilias_ap(positives: RankedPositives) -> float:
    return score_positives(positives, ILIAS_RANKS).ap


def _oracle(positives: RankedPositives) -> float:
    """Return the best score that re-ranking 1000 pictures could reach, as ILIAS' code gives it."""
    return float(positives.shares(ILIAS_RANKS).sum()) / positives.total


def _categories(positives: _Positives, gallery: Gallery, measure: str) -> Iterator[PublishedScore]:
    """Average over objects, not queries, so that an object with many queries counts once."""
    assert gallery.benchmark is not None
    instances = {query.id: query.instance for query in gallery.queries}
    by_object: dict[int, list[float]] = {}
    for query, one in positives.items():
        by_object.setdefault(instances[query], []).append(_ilias_ap(one))
    groups: dict[str, list[list[float]]] = {}
    for instance, names in sorted(gallery.benchmark.categories.items()):
        if instance in by_object:
            for name in (f"category {names[0]}", f"subcategory {'-'.join(names)}"):
                groups.setdefault(name, []).append(by_object[instance])
    for name, objects in sorted(groups.items()):
        yield PublishedScore(f"{measure}, mean over objects", name, fmean(map(fmean, objects)), sum(map(len, objects)))


# Revisited Oxford and Paris --------------------------------------------------------------------------------------


def _revisited(positives: _Positives, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    assert gallery.benchmark is not None
    easy, hard, _ = split_by_band(positives, gallery, gallery.benchmark.values["hard"], (0.5,))
    for name, part in {"easy": easy, "medium": positives, "hard": hard}.items():
        if cutoff is None:
            yield from _mean("mAP, trapezoids", name, part, _trapezoids)
        for k in PRECISION_AT:
            yield from _mean(f"mP@{k}", name, part, partial(precision_at, k=k))


def precision_at(positives: RankedPositives, k: int) -> float:
    """Compute the precision at k, or at the rank of the last positive if that comes first, as revisitop does.

    It is averaged over the orders of ties: if all positives are among the first k ranks, the last one may be at any
    rank of its tie.

    Returns:
        The precision, in 0..1.
    """
    precision = float(positives.shares(k).sum()) / k
    if len(positives.ranks) < positives.total or positives.before[-1] >= k:
        return precision
    before, images = int(positives.before[-1]), int(positives.tied[-1])
    last = positives.total - int(np.searchsorted(positives.before, before))  # positives in the tie
    for place in range(last, min(images, k - before - 1) + 1):
        share = comb(place - 1, last - 1) / comb(images, last)  # of the orders in which it is the last one's place
        precision += share * positives.total * (1 / (before + place) - 1 / k)
    return precision


# Export for ILIAS' own evaluate.py --------------------------------------------------------------------------------


class IliasExport:
    """The rankings of an evaluation of ILIAS at one level, in the format that ILIAS' own `evaluate.py` scores.

    Attributes:
        level: The level whose rankings are collected.
        similarities: Id of each query -> {id of each ranked picture: similarity}, best first, as deep as ILIAS' scores
            need: 1000 ranks after the positives of other groups have left the ranking.
    """

    def __init__(self, gallery: Gallery, level: int) -> None:
        self.level, self.similarities = level, dict[str, dict[str, float]]()
        self._gallery = gallery
        self._ids = {image.id: ilias_id(image.file_name) for image in gallery.images}

    def add(self, query: Query, level: int, ranking: Sequence[Match]) -> None:
        """Add one query's ranking; rankings of other levels are ignored."""
        if level != self.level:
            return
        ids, scores = ids_and_scores(ranking)
        depth = ILIAS_RANKS + len(self._gallery.positives(query.instance))
        if (np.diff(scores) > 0).any():
            # ILIAS' code sorts by score, and re-ranked pictures have scores of their own: give it the ranks instead.
            scores = 1 / np.arange(1, len(scores) + 1)
        end = int(np.searchsorted(-scores, -scores[min(depth, len(scores)) - 1], side="right")) if len(scores) else 0
        pairs = zip(ids[:end].tolist(), scores[:end].tolist(), strict=True)
        self.similarities[ilias_id(query.file_name)] = {self._ids[image]: score for image, score in pairs}
