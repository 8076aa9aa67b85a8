"""Scores a whole dataset: every query against the index, at every stage of its regions.

A query's ranking is looked at once, the ranks of its positives are kept (`found.FoundPositives`), and every number
of a report comes from that: scores under any cut-off, and `breakdown`. So no ranking is ever held for long, and a
finished query is a line of a journal (`journal`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation.breakdown import break_down
from patchify_core.evaluation.found import FoundPositives, find_positives
from patchify_core.evaluation.metrics import QueryScore, Report, score_found, summarise
from patchify_core.evaluation.published import PublishedScore, published_scores
from patchify_core.gallery import Gallery, Query
from patchify_core.retrieval.localize import refine_matches
from patchify_core.retrieval.ranking import Match, Ranking, ids_and_scores
from patchify_core.retrieval.searcher import Searcher

if TYPE_CHECKING:
    from patchify_core.evaluation.breakdown import ScoredPart
    from patchify_core.regions import Stage
    from patchify_core.retrieval.localize import Refiner
    from patchify_core.retrieval.rerank import Reranker

AT_1K = 1000
"""The cut-off that ILIAS reports; every report has it beside the uncut numbers."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one search for one query gave.

    Attributes:
        found: the ranks of its positives; None if it has none.
        search_ms: time of the search, without describing the query, in milliseconds.
        rerank_ms: time of the re-ranking; None where nothing was re-ranked.
        best: id of the picture that came first, excluded ones apart, and its box (4,) xyxy in pixels; None if there is
            none.
    """

    found: FoundPositives | None
    search_ms: float
    rerank_ms: float | None = None
    best: tuple[int, NDArray[np.float64]] | None = None


@dataclass(frozen=True, eq=False)
class QueryRecord:
    """One finished query.

    Attributes:
        query_id: the query's id in its gallery.
        levels: level -> outcome.
    """

    query_id: int
    levels: Mapping[int, Outcome]


@dataclass(frozen=True, eq=False)
class LevelReport:
    """The scores of one stage of the index's regions.

    Attributes:
        level: the stage, from 1; in a pyramid, 1 is the global baseline and 4 the paper's L3.
        report: the averages, under the evaluation's own cut-off if it has one.
        ms_per_query: mean time of one search, without describing the query, in milliseconds.
        spec: the stage's regions, e.g. `pyramid:2`.
        patches: patches per picture at this stage.
        at_1k: the averages under the cut-off 1000.
        ms_per_rerank: mean time of re-ranking one query, in milliseconds; None without a re-ranker.
        outcomes: query id -> outcome, in the order of the queries.
        breakdown: kind ("size", "visibility", "instance") -> the same scores over parts of the positives.
        published: what the dataset's own evaluation reports, where it is a published benchmark.
    """

    level: int
    report: Report
    ms_per_query: float
    spec: str
    patches: int
    at_1k: Report
    ms_per_rerank: float | None
    outcomes: Mapping[int, Outcome]
    breakdown: Mapping[str, Sequence[ScoredPart]]
    published: Sequence[PublishedScore]


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
    found = find_in_matches(matches, gallery, query)
    return None if found is None else score_found(found, cutoff)


def find_in_matches(
    matches: Sequence[Match], gallery: Gallery, query: Query, refine: Refine | None = None
) -> FoundPositives | None:
    """The ranks of a query's positives; of a `Ranking`, boxes are made for them alone.

    Args:
        matches: the ranking, best first.
        gallery: where the annotations are.
        query: whose instance and `exclude` list count.
        refine: finds other boxes than those of the winning patches.

    Returns:
        None if the query has no positives. `metrics.score_found` of it is what `score_matches` gives.
    """

    def boxes_at(positions: NDArray[np.intp]) -> NDArray[np.float64]:
        found = [matches[at] for at in positions.tolist()]
        if refine is None:
            return np.array([match.box for match in found], np.float64).reshape(-1, 4)
        return refine(found)

    ids, scores = ids_and_scores(matches)
    positives = gallery.positives(query.instance, query.exclude)
    return find_positives(ids, boxes_at, positives, gallery.ignored(query.instance), query.exclude, scores)


def evaluate(
    gallery: Gallery,
    engine: Searcher,
    levels: Sequence[int] | None = None,
    cutoff: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    reranker: Reranker | None = None,
    refiner: Refiner | None = None,
    finished: Mapping[int, QueryRecord] | None = None,
    record: Callable[[QueryRecord], None] | None = None,
    ranked: Callable[[Query, int, Sequence[Match]], None] | None = None,
) -> list[LevelReport]:
    """Run every query of a dataset.

    Args:
        gallery: a dataset with queries; the engine's index must be of its pictures.
        engine: index and encoder.
        levels: stages of the index's regions to report; all of them by default.
        cutoff: count only the first k ranks; None counts all. With a cut-off a search fetches no more than its
            scores need, which is what makes large galleries affordable.
        progress: called with (queries done, queries in all).
        reranker: orders each search's result anew before it is scored.
        refiner: finds the boxes that are scored, of the positives (and of the picture that came first).
        finished: queries that an earlier run of the same kind finished, by id: they are not searched again.
        record: called with each query that is finished here.
        ranked: called with each query, level and ranking that is found here.

    Raises:
        GalleryError: if the dataset has no query with a positive, or the index lacks pictures of the dataset.
        PatchifyError: if the index has no such level.
    """
    _check_same_images(gallery, engine)
    if not gallery.queries:
        raise GalleryError(
            f"{gallery.root} has no queries, so there is nothing to score: evaluate needs an annotated dataset."
        )
    stages = engine.index.regions.stages
    chosen = chosen_levels(levels, engine)
    records: dict[int, QueryRecord] = {}
    for done, query in enumerate(gallery.queries, 1):
        known = (finished or {}).get(query.id)
        if known is None:
            known = _search_levels(query, gallery, engine, chosen, cutoff, reranker, refiner, ranked)
            if record:
                record(known)
        records[query.id] = known
        if progress:
            progress(done, len(gallery.queries))
    outcomes = {level: {i: known.levels[level] for i, known in records.items()} for level in chosen}
    return [_report(level, stages[level - 1], outcomes[level], gallery, cutoff) for level in chosen]


def chosen_levels(levels: Sequence[int] | None, engine: Searcher) -> list[int]:
    """The stages to evaluate, ascending and each once; all of the index's if None.

    Raises:
        PatchifyError: if none is named, or the index has no such level.
    """
    if levels is None:
        return list(range(1, len(engine.index.regions.stages) + 1))
    if not levels:
        raise PatchifyError("Name at least one level to evaluate, for example 1,4.")
    return sorted({engine.index.checked_level(level) for level in levels})


def _search_levels(
    query: Query,
    gallery: Gallery,
    engine: Searcher,
    levels: Sequence[int],
    cutoff: int | None,
    reranker: Reranker | None,
    refiner: Refiner | None,
    ranked: Callable[[Query, int, Sequence[Match]], None] | None,
) -> QueryRecord:
    """Describe the query once, then search, re-rank and look for the positives at each level."""
    top = _depth(query, gallery, cutoff, reranker)
    view = None
    if reranker is not None:
        view = engine.view(query.path, query.box) if query.text is None else engine.view(text=query.text)
        view = replace(view, exclude=query.exclude)
    descriptor = engine.describe(query) if view is None else view.descriptor
    outcomes = {}
    for level in levels:
        start = time.perf_counter()
        ranking: Sequence[Match] = _whole_ties(engine, descriptor, level, top)
        if view is not None:
            ranking = ranking[:]  # a re-ranker looks at many of them
        search_ms, rerank_ms = _ms_since(start), None
        if reranker is not None and view is not None:
            start = time.perf_counter()
            ranking = reranker.rerank(engine, view, list(ranking), level)
            rerank_ms = _ms_since(start)
        if ranked:
            ranked(query, level, ranking)
        refine = _refining(engine, descriptor, refiner, level)
        found = find_in_matches(ranking, gallery, query, refine)
        best = _best(ranking[: len(query.exclude) + 1], query, refine)
        outcomes[level] = Outcome(found, search_ms, rerank_ms, best)
    return QueryRecord(query.id, outcomes)


def _whole_ties(engine: Searcher, query: NDArray[np.float32], level: int, top: int | None) -> Ranking:
    """The first `top` pictures, and all others with the score of the last of them: a part of a tie says too little."""
    while top is not None:
        ranking = engine.ranking(query, level, top + 1)
        if len(ranking) <= top or ranking.scores[-1] != ranking.scores[-2]:
            return ranking
        top *= 2
    return engine.ranking(query, level)


Refine = Callable[[list[Match]], NDArray[np.float64]]
"""Matches -> (N, 4) float64 boxes."""


def _refining(engine: Searcher, query: NDArray[np.float32], refiner: Refiner | None, level: int) -> Refine | None:
    if refiner is None:
        return None

    def refine(matches: list[Match]) -> NDArray[np.float64]:
        refined = refine_matches(engine, query, matches, refiner, level)
        return np.array([match.box for match in refined], np.float64).reshape(-1, 4)

    return refine


def _best(matches: Sequence[Match], query: Query, refine: Refine | None) -> tuple[int, NDArray[np.float64]] | None:
    first = next((match for match in matches if match.image_id not in query.exclude), None)
    if first is None:
        return None
    return first.image_id, first.box if refine is None else refine([first])[0]


def _ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _depth(query: Query, gallery: Gallery, cutoff: int | None, reranker: Reranker | None) -> int | None:
    """How far down a ranking has to be known, so that every number of the report is exact.

    What leaves the ranking before ranks are counted makes room for others: the ignored and excluded images, and in
    `breakdown` the positives of the other parts.
    """
    if cutoff is None:
        return None
    leaving = gallery.positives(query.instance).keys() | gallery.ignored(query.instance) | query.exclude
    return max(cutoff, AT_1K, reranker.shortlist if reranker else 0) + len(leaving)


def _report(
    level: int, stage: Stage, outcomes: Mapping[int, Outcome], gallery: Gallery, cutoff: int | None
) -> LevelReport:
    found = {query: outcome.found for query, outcome in outcomes.items()}

    def averages(k: int | None) -> Report:
        return summarise({query: None if some is None else score_found(some, k) for query, some in found.items()})

    reranked = [outcome.rerank_ms for outcome in outcomes.values() if outcome.rerank_ms is not None]
    return LevelReport(
        level=level,
        report=averages(cutoff),
        ms_per_query=fmean(outcome.search_ms for outcome in outcomes.values()),
        spec=stage.spec,
        patches=stage.patches,
        at_1k=averages(AT_1K),
        ms_per_rerank=fmean(reranked) if reranked else None,
        outcomes=outcomes,
        breakdown=break_down(found, gallery, cutoff),
        published=published_scores(found, gallery, cutoff),
    )


def _check_same_images(gallery: Gallery, engine: Searcher) -> None:
    """A number over fewer or other pictures than the dataset has would be a wrong number."""
    indexed = {image.id: image.file_name for image in engine.index.images}
    wanted = {image.id: image.file_name for image in gallery.images}
    if indexed != wanted:
        odd = sorted({*indexed.items()} ^ {*wanted.items()})[0][1]
        raise GalleryError(
            f"The index does not hold exactly the pictures of {gallery.root} (first difference: {odd}): index it again."
        )
