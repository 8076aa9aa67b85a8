"""The numbers that a published benchmark's own evaluation reports, beside those that every dataset has.

| benchmark | what is reported | as in |
|---|---|---|
| ILIAS | mAP@1000, oracle@1000; mAP@1000 by scale, clutter and category (mean over objects) | `evaluation/` |
| INSTRE | mAP of rectangles over the first 100 ranks; mAP of trapezoids over all ranks | ELViS; Iscen et al. |
| ROxford5k, RParis6k | mAP of trapezoids and mean precision at 1, 5 and 10: easy, medium and hard | `revisitop` |

Whatever is not in a part of the benchmark leaves the ranking first (`FoundPositives.only`). Equal scores are averaged
over (`found`), which the published scripts do otherwise, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import comb
from statistics import fmean

import numpy as np

from patchify_core.evaluation.breakdown import FoundByQuery, in_bands
from patchify_core.evaluation.found import FoundPositives
from patchify_core.evaluation.metrics import score_found
from patchify_core.gallery import Gallery

ILIAS_RANKS, INSTRE_RANKS, PRECISION_AT = 1000, 100, (1, 5, 10)
ILIAS_LIMITS = {
    "scale": (0.06880213760855043, 0.13526567164179104, 0.2729876723163842),
    "clutter": (18.0, 33.0, 53.0),
}
"""Where ILIAS' own groups of positives end: share of the picture that the object covers, and objects around it."""


@dataclass(frozen=True)
class PublishedScore:
    """One number of a benchmark's own evaluation.

    Attributes:
        measure: What it is, e.g. `mAP@1000`.
        part: What it is of: `all`, or some of the positives or queries, e.g. `scale < 0.0688`.
        value: The mean over the queries, in 0..1.
        queries: How many they are.
    """

    measure: str
    part: str
    value: float
    queries: int


def published_scores(found: FoundByQuery, gallery: Gallery, cutoff: int | None = None) -> tuple[PublishedScore, ...]:
    """Score a benchmark as its publishers do.

    Args:
        found: Query id -> where its positives stand, of queries of the gallery.
        gallery: What knows which benchmark it is.
        cutoff: How far the rankings are known, 1000 at least; None for all ranks, without which there is no mAP of
            trapezoids.

    Returns:
        The numbers; none for a dataset that is no published benchmark.
    """
    if gallery.benchmark is None:
        return ()
    scored = {query: one for query, one in found.items() if one is not None}
    score = {"ilias": _ilias, "instre": _instre}.get(gallery.benchmark.name, _revisited)
    return tuple(score(scored, gallery, cutoff))


_Found = Mapping[int, FoundPositives]


def _mean(measure: str, part: str, found: _Found, score: Callable[[FoundPositives], float]) -> Iterator[PublishedScore]:
    """The mean over the queries, if there are any."""
    if found:
        yield PublishedScore(measure, part, fmean(map(score, found.values())), len(found))


def _instre(found: _Found, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    measure = f"mAP, rectangles, first {INSTRE_RANKS} ranks (as ELViS)"
    yield from _mean(measure, "all", found, lambda one: score_found(one, INSTRE_RANKS).ap)
    if cutoff is None:
        yield from _mean("mAP, trapezoids, all ranks (as Iscen et al.)", "all", found, _trapezoids)


def _trapezoids(found: FoundPositives) -> float:
    return float(found.precisions(trapezoid=True).sum()) / found.positives


# ILIAS -----------------------------------------------------------------------------------------------------------


def _ilias(found: _Found, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    assert gallery.benchmark is not None
    measure = f"mAP@{ILIAS_RANKS}"
    yield from _mean(measure, "all", found, _ilias_ap)
    # What re-ranking that many could reach: ILIAS' code has the same for galleries of at least as many pictures.
    yield from _mean(f"oracle@{ILIAS_RANKS}", "all", found, _oracle)
    for kind, limits in ILIAS_LIMITS.items():
        values = gallery.benchmark.values.get(kind)
        if values is not None:
            names = [f"{kind} < {limits[0]:.3g}", *(f"{kind} {low:.3g}-{high:.3g}" for low, high in pairwise(limits))]
            names.append(f"{kind} >= {limits[-1]:.3g}")
            for name, part in zip(names, _parts(found, gallery, values, limits), strict=True):
                yield from _mean(measure, name, part, _ilias_ap)
    yield from _categories(found, gallery, measure)


def _ilias_ap(found: FoundPositives) -> float:
    return score_found(found, ILIAS_RANKS).ap


def _oracle(found: FoundPositives) -> float:
    return float(found.shares(ILIAS_RANKS).sum()) / found.positives


def _categories(found: _Found, gallery: Gallery, measure: str) -> Iterator[PublishedScore]:
    """Mean over objects of the mean over their queries, so that an object with many queries counts once."""
    assert gallery.benchmark is not None
    instances = {query.id: query.instance for query in gallery.queries}
    by_object: dict[int, list[float]] = {}
    for query, one in found.items():
        by_object.setdefault(instances[query], []).append(_ilias_ap(one))
    groups: dict[str, list[list[float]]] = {}
    for instance, names in sorted(gallery.benchmark.categories.items()):
        if instance in by_object:
            for name in (f"category {names[0]}", f"subcategory {'-'.join(names)}"):
                groups.setdefault(name, []).append(by_object[instance])
    for name, objects in sorted(groups.items()):
        yield PublishedScore(f"{measure}, mean over objects", name, fmean(map(fmean, objects)), sum(map(len, objects)))


# Revisited Oxford and Paris --------------------------------------------------------------------------------------


def _revisited(found: _Found, gallery: Gallery, cutoff: int | None) -> Iterator[PublishedScore]:
    assert gallery.benchmark is not None
    easy, hard = _parts(found, gallery, gallery.benchmark.values["hard"], (0.5,))
    for name, part in {"easy": easy, "medium": found, "hard": hard}.items():
        if cutoff is None:
            yield from _mean("mAP, trapezoids", name, part, _trapezoids)
        for k in PRECISION_AT:
            yield from _mean(f"mP@{k}", name, part, partial(precision_at, k=k))


def precision_at(found: FoundPositives, k: int) -> float:
    """Precision at k, or at the rank of the last positive where that comes first, as revisitop has it.

    Averaged over the orders of equal scores: with all positives among the first k ranks, the last one may be at any of
    the ranks of its tie.

    Returns:
        The precision, in 0..1.
    """
    precision = float(found.shares(k).sum()) / k
    if len(found.ranks) < found.positives or found.before[-1] >= k:
        return precision
    before, images = int(found.before[-1]), int(found.tied[-1])
    last = found.positives - int(np.searchsorted(found.before, before))  # positives in the tie
    for place in range(last, min(images, k - before - 1) + 1):
        share = comb(place - 1, last - 1) / comb(images, last)  # of the orders in which it is the last one's place
        precision += share * found.positives * (1 / (before + place) - 1 / k)
    return precision


def _parts(
    found: _Found, gallery: Gallery, values: Mapping[tuple[int, int], float], limits: tuple[float, ...]
) -> list[dict[int, FoundPositives]]:
    """The queries with positives in each band, the other positives ignored; those of no known value are in none."""
    queries = {query.id: query for query in gallery.queries}
    parts: list[dict[int, FoundPositives]] = [{} for _ in range(len(limits) + 1)]
    for query_id, whole in found.items():
        query = queries[query_id]
        images = in_bands(gallery.positives(query.instance, query.exclude), query.instance, values, limits)
        for part, chosen in zip(parts, images, strict=False):
            if (one := whole.only(chosen, False)) is not None:
                part[query_id] = one
    return parts
