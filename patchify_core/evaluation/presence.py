"""Learn how likely results are to contain the query's object (`retrieval.presence`), and measure the calibration.

Every query of an annotated dataset gives two rankings: its own, and the same without the pictures that contain its
object, as from a gallery without the object. A logistic regression on the first results of both predicts whether a
result is right. It is measured on held-out objects by cross-validation with `FOLDS` folds and, if there are several
datasets, on each one after learning from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.evaluation.record import gallery_digest
from patchify_core.gallery import Gallery
from patchify_core.retrieval.presence import (
    BACKGROUND,
    EVEN,
    Calibration,
    Learned,
    Rate,
    RecipeName,
    Weights,
    features,
    logistic,
    probabilities,
)
from patchify_core.retrieval.searcher import Searcher

FIRST = 10
"""Number of results per ranking to learn from, as many as a search shows."""

FALSE_ALARMS = 0.05
"""Accepted share of false alarms: queries whose object is present but predicted absent."""

CURVE = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of false alarms at which the hit rate is reported."""

FOLDS, RIDGE, BINS = 5, 1.0, 10
"""Folds of the cross-validation; L2 penalty on standardised features; bins of the reliability table."""

FEWEST_OBJECTS = 10
"""Fewest objects for a calibration."""


def rate(hits: NDArray[np.bool_], objects: NDArray[np.int64]) -> Rate:
    """Compute the share of `hits` (Q,) with its Wilson interval.

    Queries for the same object are not independent, so that the interval counts `objects` (Q,).
    """
    share, n, z = float(hits.mean()), len(np.unique(objects)), 1.96
    middle, spread = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + np.array([-spread, spread])) / (1 + z * z / n)).clip(0, 1).tolist()
    return Rate(share=share, low=low, high=high, queries=len(hits))


@dataclass(frozen=True, eq=False)
class Examples:
    """The first results of Q rankings.

    Attributes:
        rows: (Q, FIRST, 2) float64, `presence.features` of each result.
        right: (Q, FIRST) bool, whether each result contains the object.
        present: (Q,) bool, whether the ranking is the one with the object.
        objects: (Q,) int64, a number per object and dataset.
        datasets: (Q,) int64, the dataset's number.
    """

    rows: NDArray[np.float64]
    right: NDArray[np.bool_]
    present: NDArray[np.bool_]
    objects: NDArray[np.int64]
    datasets: NDArray[np.int64]

    def chosen(self, which: NDArray[np.bool_]) -> Examples:
        """Select some rankings by a mask (Q,)."""
        return Examples(*(getattr(self, field.name)[which] for field in fields(self)))


def examples_of(
    gallery: Gallery, engine: Searcher, number: int = 0, progress: Callable[[int, int], None] | None = None
) -> Examples:
    """Search with every query of a dataset that has positives.

    Args:
        gallery: A dataset with queries.
        engine: An index of its pictures, with its encoder.
        number: The dataset's number.
        progress: Called with (queries done, queries in all).

    Raises:
        GalleryError: If no query has positives and enough other pictures.
    """
    parts: list[tuple[NDArray[np.float64], NDArray[np.bool_], bool, int]] = []
    for done, query in enumerate(gallery.queries, 1):
        positives = gallery.positives(query.instance, query.exclude)
        if positives:
            ranking = engine.ranking(engine.describe(query).descriptor)
            counted = ~np.isin(ranking.image_ids, list(query.exclude | gallery.ignored(query.instance)))
            scores, right = ranking.scores[counted], np.isin(ranking.image_ids[counted], list(positives))
            for mask, present in ((np.ones_like(right), True), (~right, False)):
                rows = features(scores[mask][:FIRST], scores[mask])
                if rows is not None and (~right).sum() >= BACKGROUND.stop:
                    parts.append((rows, right[mask][:FIRST], present, query.instance))
        if progress:
            progress(done, len(gallery.queries))
    if not parts:
        raise GalleryError(
            f"No query of {gallery.root} can be learned from: it takes a positive, and {BACKGROUND.stop} pictures "
            "that do not contain its object."
        )
    all_rows, all_right, all_present, objects = zip(*parts, strict=True)
    ids = np.array(objects, np.int64) + (number << 40)
    return Examples(np.stack(all_rows), np.stack(all_right), np.array(all_present), ids, np.full(len(parts), number))


def joined(parts: Sequence[Examples]) -> Examples:
    """Concatenate the examples of several datasets."""
    names = [field.name for field in fields(Examples)]
    return Examples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def fit(rows: NDArray[np.float64], right: NDArray[np.bool_]) -> Weights:
    """Fit a logistic regression by Newton's method, with an L2 penalty on the weights of the standardised features.

    Features with negative weights are dropped, so that a better score never makes a result less probable.

    Args:
        rows: (R, 2) `presence.features`.
        right: (R,) bool.

    Returns:
        The intercept and a weight for each feature, 0 or more.
    """
    mean, spread = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-9)
    used = np.ones(rows.shape[1], bool)
    while True:
        design = np.column_stack([np.ones(len(rows)), ((rows - mean) / spread)[:, used]])
        penalty = np.diag([1e-9, *[RIDGE] * int(used.sum())])
        solution = np.zeros(design.shape[1])
        for _ in range(100):
            chance = logistic(design[:, 1:], solution)
            slope = design.T @ (chance - right) + penalty @ solution
            step = np.linalg.solve((design * (chance * (1 - chance))[:, None]).T @ design + penalty, slope)
            solution -= step * min(1.0, 5 / max(np.abs(step).max(), 1e-12))  # full steps from afar may overshoot
            if np.abs(step).max() < 1e-10:
                break
        if (solution[1:] >= 0).all():
            break
        used[np.flatnonzero(used)[int(solution[1:].argmin())]] = False
    weights = np.zeros(rows.shape[1])
    weights[used] = solution[1:] / spread[used]
    return float(solution[0] - weights @ mean), float(weights[0]), float(weights[1])


def learn(examples: Examples, recipe: RecipeName, datasets: Sequence[Mapping[str, Any]]) -> Calibration:
    """Learn a calibration from all examples, and measure it on objects that are held out.

    Args:
        examples: The examples of all datasets, in the order of `datasets`.
        recipe: The recipe of the indexes.
        datasets: For each its `name` and more (`about`), for the record.

    Raises:
        GalleryError: If there are too few objects to learn from.
    """
    objects = np.unique(examples.objects)
    if len(objects) < FEWEST_OBJECTS:
        raise GalleryError(
            f"There are {len(objects)} objects to learn from, and it takes {FEWEST_OBJECTS}: annotate more, or name "
            "more datasets."
        )
    fold_of = np.random.default_rng(0).permutation(len(objects)) % FOLDS
    folds = fold_of[np.searchsorted(objects, examples.objects)]
    chances, absent, likely = _held_out(examples, folds)
    learned: dict[str, Any] = {"datasets": [dict(one) for one in datasets]}
    learned |= _summary("held_out", examples, chances, absent, likely)
    if len(datasets) > 1:
        _, absent, likely = _held_out(examples, examples.datasets)
        parts = ((one["name"], examples.datasets == n) for n, one in enumerate(datasets))
        learned["transfer"] = {
            name: rates(examples.chosen(which), absent[which], likely[which]) for name, which in parts
        }
    first, later, low, high = _fitted(examples)
    known = Learned.model_validate(learned)
    return Calibration(recipe=recipe, first=first, later=later, absent_below=low, likely_from=high, learned=known)


def measure(examples: Examples, calibration: Calibration) -> dict[str, Any]:
    """Measure an existing calibration on a dataset; the keys are those of `Calibration.learned`."""
    chances = probabilities(examples.rows, calibration.first, calibration.later)
    absent, likely = chances[:, 0] < calibration.absent_below, chances[:, 0] >= calibration.likely_from
    return _summary("measured", examples, chances, absent, likely)


def _fitted(examples: Examples) -> tuple[Weights, Weights, float, float]:
    """Fit the weights for first and for later results, and the thresholds of "absent" and "likely"."""
    first = fit(examples.rows[:, 0], examples.right[:, 0])
    later = fit(examples.rows[:, 1:].reshape(-1, 2), examples.right[:, 1:].ravel())
    chances = logistic(examples.rows[:, 0], first)
    low = float(np.quantile(chances[examples.present], FALSE_ALARMS))
    high = float(np.quantile(chances[~examples.present], 1 - FALSE_ALARMS))
    return first, later, min(low, EVEN), max(high, EVEN)


def _held_out(
    examples: Examples, parts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Predict each part after fitting the others: (Q, FIRST) probabilities, (Q,) absent, (Q,) likely."""
    chances = np.zeros(examples.right.shape)
    absent, likely = np.zeros(len(parts), bool), np.zeros(len(parts), bool)
    for part in np.unique(parts):
        held = parts == part
        first, later, low, high = _fitted(examples.chosen(~held))
        chances[held] = probabilities(examples.rows[held], first, later)
        absent[held], likely[held] = chances[held, 0] < low, chances[held, 0] >= high
    return chances, absent, likely


def _summary(
    how: str,
    examples: Examples,
    chances: NDArray[np.float64],
    absent: NDArray[np.bool_],
    likely: NDArray[np.bool_],
) -> dict[str, Any]:
    return {
        how: rates(examples, absent, likely),
        "curve": curve(examples, chances),
        "reliability": {
            "first": reliability(chances[:, 0], examples.right[:, 0]),
            "later": reliability(chances[:, 1:].ravel(), examples.right[:, 1:].ravel()),
        },
    }


def rates(examples: Examples, absent: NDArray[np.bool_], likely: NDArray[np.bool_]) -> dict[str, dict[str, Any]]:
    """Compute the hits and false alarms of "absent" and of "likely"."""
    present = examples.present
    cases = {
        "absent_hits": (absent, ~present),
        "absent_false_alarms": (absent, present),
        "likely_hits": (likely, present),
        "likely_false_alarms": (likely, ~present),
    }
    return {name: rate(hit[which], examples.objects[which]).model_dump() for name, (hit, which) in cases.items()}


def curve(examples: Examples, chances: NDArray[np.float64]) -> list[list[float]]:
    """Compute [false alarms, hits] of "absent" at the thresholds with these false alarms on the same queries."""
    first, present = chances[:, 0], examples.present
    cuts = [float(np.quantile(first[present], share)) for share in CURVE]
    return [[share, float((first[~present] < cut).mean())] for share, cut in zip(CURVE, cuts, strict=True)]


def reliability(chances: NDArray[np.float64], right: NDArray[np.bool_]) -> list[list[float]]:
    """Compute [mean probability, share that is right, number of results] of each tenth of the probabilities."""
    bins = np.minimum((chances * BINS).astype(int), BINS - 1)
    which = [bins == number for number in range(BINS)]
    return [[float(chances[one].mean()), float(right[one].mean()), int(one.sum())] for one in which if one.any()]


def about(gallery: Gallery) -> dict[str, Any]:
    """Describe a dataset for the record."""
    objects = len({query.instance for query in gallery.queries})
    size = {"pictures": len(gallery.images), "queries": len(gallery.queries), "objects": objects}
    return {"name": gallery.root.resolve().name, "digest": gallery_digest(gallery), **size}
