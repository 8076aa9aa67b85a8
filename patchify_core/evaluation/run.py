"""Evaluate an index on a dataset: run every query at every stage of the regions, and score the rankings.

Of each ranking only the ranks of the positives are stored (`positives.RankedPositives`). All numbers of a report are
computed from them, so that rankings need not be kept and a finished query is one line of a journal (`record`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation.breakdown import break_down
from patchify_core.evaluation.metrics import QueryScore, Report, score_positives, summarise
from patchify_core.evaluation.positives import RankedPositives, find_positives
from patchify_core.evaluation.published import PublishedScore, published_scores
from patchify_core.gallery import Gallery, Query
from patchify_core.retrieval.localize import refine_matches
from patchify_core.retrieval.ranking import Match, Ranking, ids_and_scores
from patchify_core.retrieval.searcher import QueryView, Searcher

if TYPE_CHECKING:
    from patchify_core.evaluation.breakdown import ScoredPart
    from patchify_core.regions import Stage
    from patchify_core.retrieval.localize import Refiner
    from patchify_core.retrieval.rerank import Reranker

AT_1K = 1000
"""The cut-off that ILIAS reports; every report has it in addition."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one search for one query.

    Attributes:
        positives: The ranks of its positives; None if it has none.
        search_ms: Time of the search, without describing the query, in milliseconds.
        rerank_ms: Time of the re-ranking in milliseconds; None without a re-ranker.
        best: Id of the first picture that is not excluded, and its box (4,) xyxy in pixels; None if there is none.
    """

    positives: RankedPositives | None
    search_ms: float
    rerank_ms: float | None = None
    best: tuple[int, NDArray[np.float64]] | None = None


@dataclass(frozen=True, eq=False)
class LevelReport:
    """The scores of one stage of the index's regions.

    Attributes:
        level: The stage, from 1; in a pyramid, 1 is the global baseline and 4 the paper's L3.
        report: Averages over the queries, under the evaluation's cut-off if it has one.
        ms_per_query: Mean time of one search, without describing the query, in milliseconds.
        spec: The stage's regions, e.g. `pyramid:2`.
        patches: Patches per picture at this stage.
        at_1k: Averages under the cut-off 1000.
        ms_per_rerank: Mean time of re-ranking one query, in milliseconds; None without a re-ranker.
        outcomes: Query id -> outcome, in the order of the queries.
        breakdown: Kind ("size", "visibility", "instance") -> scores over parts of the positives.
        published: Scores of the dataset's own evaluation, if it is a published benchmark.
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
    """Score one query's whole ranking against the gallery's annotations.

    Args:
        matches: The whole ranking, best first.
        gallery: The annotated gallery.
        query: The query, with its instance and `exclude` list.
        cutoff: See `metrics.score_query`.

    Returns:
        AP, LocScore and more, or None if the query has no positives.
    """
    positives = find_in_matches(matches, gallery, query)
    return None if positives is None else score_positives(positives, cutoff)


def find_in_matches(
    matches: Sequence[Match], gallery: Gallery, query: Query, refine: Refine | None = None
) -> RankedPositives | None:
    """Find a query's positives in its ranking; only their boxes are computed.

    Args:
        matches: The ranking, best first.
        gallery: The annotated gallery.
        query: The query, with its instance and `exclude` list.
        refine: Replaces the boxes of the winning patches.

    Returns:
        The positives, for `metrics.score_positives`; None if the query has none.
    """

    def boxes_at(positions: NDArray[np.intp]) -> NDArray[np.float64]:
        hits = [matches[at] for at in positions.tolist()]
        return _boxes(hits) if refine is None else refine(hits)

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
    finished: Mapping[int, Mapping[int, Outcome]] | None = None,
    record: Callable[[int, Mapping[int, Outcome]], None] | None = None,
    ranked: Callable[[Query, int, Sequence[Match]], None] | None = None,
) -> list[LevelReport]:
    """Run every query of a dataset and score the rankings.

    Args:
        gallery: A dataset with queries; the engine's index must be of its pictures.
        engine: Index and encoder.
        levels: Stages of the index's regions to report; all of them by default.
        cutoff: Count only the first k ranks; None counts all. With a cut-off a search fetches no more pictures than
            the scores need, which large galleries require.
        progress: Called with (queries done, queries in all).
        reranker: Re-ranks each result before it is scored.
        refiner: Refines the boxes that are scored, and that of the first picture.
        finished: Query id -> level -> outcome of queries from an interrupted run, which are not searched again.
        record: Called with the id and the outcomes (by level) of each query that is finished here.
        ranked: Called with query, level and ranking of each search.

    Raises:
        GalleryError: If the dataset has no query with a positive, or the index lacks pictures of the dataset.
        PatchifyError: If the index has no such level.
    """
    _check_same_images(gallery, engine)
    if not gallery.queries:
        raise GalleryError(
            f"{gallery.root} has no queries, so there is nothing to score: evaluate needs an annotated dataset."
        )
    stages = engine.index.regions.stages
    chosen = chosen_levels(levels, engine)
    outcomes = dict(finished or {})
    for done, query in enumerate(gallery.queries, 1):
        if query.id not in outcomes:
            outcomes[query.id] = _search_levels(query, gallery, engine, chosen, cutoff, reranker, refiner, ranked)
            if record:
                record(query.id, outcomes[query.id])
        if progress:
            progress(done, len(gallery.queries))
    by_level = {level: {query.id: outcomes[query.id][level] for query in gallery.queries} for level in chosen}
    return [_report(level, stages[level - 1], by_level[level], gallery, cutoff) for level in chosen]


def chosen_levels(levels: Sequence[int] | None, engine: Searcher) -> list[int]:
    """Return the levels to evaluate, ascending and each once; all of the index if `levels` is None.

    Raises:
        PatchifyError: If `levels` is empty, or the index has no such level.
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
) -> dict[int, Outcome]:
    """Describe the query once, then search, re-rank and find the positives at each level."""
    top = _depth(query, gallery, cutoff, reranker)
    view = engine.describe(query)
    outcomes = {}
    for level in levels:
        start = time.perf_counter()
        ranking: Sequence[Match] = _rank_with_ties(engine, view.descriptor, level, top)
        if reranker is not None:
            ranking = ranking[:]  # compute all matches: a re-ranker needs many of them
        search_ms, rerank_ms = _ms_since(start), None
        if reranker is not None:
            start = time.perf_counter()
            ranking = reranker.rerank(engine, view, list(ranking), level)
            rerank_ms = _ms_since(start)
        if ranked:
            ranked(query, level, ranking)
        refine = _refining(engine, view, refiner, level)
        positives = find_in_matches(ranking, gallery, query, refine)
        best = _best(ranking[: len(query.exclude) + 1], query, refine)
        outcomes[level] = Outcome(positives, search_ms, rerank_ms, best)
    return outcomes


def _rank_with_ties(engine: Searcher, query: NDArray[np.float32], level: int, top: int | None) -> Ranking:
    """Rank the first `top` pictures and all others tied with the last of them, which exact scores need."""
    while top is not None:
        ranking = engine.ranking(query, level, top + 1)
        if len(ranking) <= top or ranking.scores[-1] != ranking.scores[-2]:
            return ranking
        top *= 2
    return engine.ranking(query, level)


Refine = Callable[[list[Match]], NDArray[np.float64]]
"""Matches -> (N, 4) float64 boxes."""


def _refining(engine: Searcher, query: QueryView, refiner: Refiner | None, level: int) -> Refine | None:
    if refiner is None:
        return None

    return lambda matches: _boxes(refine_matches(engine, query, matches, refiner, level))


def _boxes(matches: Sequence[Match]) -> NDArray[np.float64]:
    return np.array([match.box for match in matches], np.float64).reshape(-1, 4)


def _best(matches: Sequence[Match], query: Query, refine: Refine | None) -> tuple[int, NDArray[np.float64]] | None:
    first = next((match for match in matches if match.image_id not in query.exclude), None)
    if first is None:
        return None
    return first.image_id, first.box if refine is None else refine([first])[0]


def _ms_since(start: float) -> float:
    return 1000 * (time.perf_counter() - start)


def _depth(query: Query, gallery: Gallery, cutoff: int | None, reranker: Reranker | None) -> int | None:
    """Return the depth of the ranking that makes every number of the report exact; None for the whole ranking.

    Images that leave the ranking before ranks are counted make room for others: the ignored and excluded images, and
    in `breakdown` the positives outside the part.
    """
    if cutoff is None:
        return None
    leaving = gallery.positives(query.instance).keys() | gallery.ignored(query.instance) | query.exclude
    return max(cutoff, AT_1K, reranker.shortlist if reranker else 0) + len(leaving)


def _report(
    level: int, stage: Stage, outcomes: Mapping[int, Outcome], gallery: Gallery, cutoff: int | None
) -> LevelReport:
    positives = {query: outcome.positives for query, outcome in outcomes.items()}

    def averages(k: int | None) -> Report:
        return summarise({query: None if p is None else score_positives(p, k) for query, p in positives.items()})

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
        breakdown=break_down(positives, gallery, cutoff),
        published=published_scores(positives, gallery, cutoff),
    )


def _check_same_images(gallery: Gallery, engine: Searcher) -> None:
    """Refuse an index of other pictures than the dataset's, whose scores would be wrong."""
    indexed = {image.id: image.file_name for image in engine.index.images}
    wanted = {image.id: image.file_name for image in gallery.images}
    if indexed != wanted:
        odd = sorted({*indexed.items()} ^ {*wanted.items()})[0][1]
        raise GalleryError(
            f"The index does not hold exactly the pictures of {gallery.root} (first difference: {odd}): index it again."
        )
