"""Scores a whole dataset: every query against the index, at every pyramid level."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery import Gallery, Query
from patchify_core.metrics import QueryScore, Report, score_query, summarise
from patchify_core.regions import patches_up_to
from patchify_core.retrieval import Match, Patchify


@dataclass(frozen=True)
class LevelReport:
    """The scores of one pyramid level.

    Attributes:
        level: finest grid used; 1 is the global baseline, 4 the paper's L3.
        report: the averages.
        ms_per_query: time of one search, without describing the query, in milliseconds.
    """

    level: int
    report: Report
    ms_per_query: float


def score_matches(
    matches: Sequence[Match], gallery: Gallery, query: Query, cutoff: int | None = None
) -> QueryScore | None:
    """AP and LocScore of one query's whole ranking, against the gallery's annotations.

    Args:
        matches: the whole ranking, best first.
        gallery: where the annotations are.
        query: whose instance and `exclude` list count.
        cutoff: see `metrics.score_query`.

    Returns:
        The score, or None if the query has no positives.
    """
    ids = np.array([match.image_id for match in matches], np.int64)
    boxes = np.array([match.box for match in matches], np.float64).reshape(-1, 4)
    positives = gallery.positives(query.instance, query.exclude)
    return score_query(ids, boxes, positives, gallery.ignored(query.instance), query.exclude, cutoff)


def evaluate(
    gallery: Gallery,
    engine: Patchify,
    levels: Sequence[int] | None = None,
    cutoff: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LevelReport]:
    """Runs every query of a dataset.

    Args:
        gallery: a dataset with queries; the engine's index must be of its pictures.
        engine: index and encoder.
        levels: pyramid levels to report; all of the index's by default.
        cutoff: count only the first k ranks; None counts all.
        progress: told (queries done, queries in all).

    Raises:
        GalleryError: if the dataset has no query with a positive, or the index lacks pictures of the dataset.
    """
    _check_same_images(gallery, engine)
    if not gallery.queries:
        raise GalleryError(
            f"{gallery.root} has no queries, so there is nothing to score: evaluate needs an annotated dataset."
        )
    levels = list(levels or range(1, engine.index.regions.levels + 1))
    scores: dict[int, dict[int, QueryScore | None]] = {level: {} for level in levels}
    seconds = dict.fromkeys(levels, 0.0)
    for done, query in enumerate(gallery.queries, 1):
        descriptor = engine.describe_query(query.path, query.box)
        for level in levels:
            start = time.perf_counter()
            matches = engine.search_descriptor(descriptor, top=None, level=level)
            seconds[level] += time.perf_counter() - start
            scores[level][query.id] = score_matches(matches, gallery, query, cutoff)
        if progress:
            progress(done, len(gallery.queries))
    count = len(gallery.queries)
    return [LevelReport(level, summarise(scores[level]), 1000 * seconds[level] / count) for level in levels]


def _check_same_images(gallery: Gallery, engine: Patchify) -> None:
    """A number over fewer or other pictures than the dataset has would be a wrong number."""
    indexed = {image.id: image.file_name for image in engine.index.images}
    wanted = {image.id: image.file_name for image in gallery.images}
    if indexed != wanted:
        odd = sorted({*indexed.items()} ^ {*wanted.items()})[0][1]
        raise GalleryError(
            f"The index does not hold exactly the pictures of {gallery.root} (first difference: {odd}): index it again."
        )


def as_json(reports: Sequence[LevelReport], bytes_per_image: float, images_per_s: float | None) -> dict[str, Any]:
    """The finest level's numbers under the stable keys, and every level's beneath `levels`."""
    finest = max(reports, key=lambda report: report.level)
    return {
        **finest.report.as_dict(),
        "images_per_s": images_per_s,
        "ms_per_query": finest.ms_per_query,
        "bytes_per_image": bytes_per_image,
        "levels": [
            {"regions": f"pyramid:{r.level}", **r.report.as_dict(), "ms_per_query": r.ms_per_query} for r in reports
        ],
    }


def cell_boxes(engine: Patchify, image_ids: Sequence[int], level: int) -> dict[int, NDArray[np.float64]]:
    """The boxes that a match at `level` could have in each picture, for `metrics.grid_ceiling`."""
    return {i: engine.index.boxes_of(engine.index.row_of[i])[: patches_up_to(level)] for i in image_ids}
