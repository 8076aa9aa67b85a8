"""evaluation.run with refined boxes: the ranking stays, the boxes are those that a search would give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.record import as_json
from patchify_core.evaluation.run import evaluate, find_in_matches, score_matches
from patchify_core.gallery import read_coco
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.localize import REFINERS, LocalizeSettings, load_refiner
from patchify_core.retrieval.rerank import load_reranker
from tests.tiny import TinyEncoder, write_dataset


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    return read_coco(write_dataset(tmp_path_factory.mktemp("refined") / "dataset"))


@pytest.fixture(scope="module")
def engine(gallery):
    out = gallery.root.with_name("idx")
    build_index(gallery, out, TinyEncoder(), Pyramid(3), BuildSettings(features="pooled:96", keep_maps=True))
    return Patchify(PatchIndex.load(out), TinyEncoder())


def assert_scores(report, scores):
    """A level's averages are those of these scores."""
    assert report.report.map == pytest.approx(np.mean([score.ap for score in scores]), abs=1e-12)
    assert report.report.locscore == pytest.approx(np.mean([score.locscore for score in scores]), abs=1e-12)


@pytest.mark.parametrize("name", REFINERS)
@pytest.mark.parametrize("cutoff", [None, 3])
def test_numbers_are_those_of_the_refined_matches(gallery, engine, name, cutoff):
    """Fast: only positives are refined. Slow: the whole ranking is, and scored as a person's results would be."""
    refiner = load_refiner(name, engine)
    reports = evaluate(gallery, engine, cutoff=cutoff, refiner=refiner)
    for report in reports:
        slow = []
        for query in gallery.queries:
            matches = engine.search(query.path, query.box, None, report.level, refine=refiner)
            slow.append(score_matches(matches, gallery, query, cutoff))
        assert_scores(report, slow)


@pytest.mark.parametrize("name", REFINERS)
def test_refining_leaves_the_ranking_alone(gallery, engine, name):
    plain, refined = evaluate(gallery, engine), evaluate(gallery, engine, refiner=load_refiner(name, engine))
    for one, other in zip(plain, refined, strict=True):
        assert one.report.map == other.report.map and one.report.recall == other.report.recall
        assert 0 <= other.report.locscore <= other.report.map
    assert [one.report.locscore for one in plain] != [other.report.locscore for other in refined]


def test_one_map_serves_all_levels(gallery, engine):
    """The level decides about the ranking, not about the box: where two levels rank alike, they score alike."""
    refiner = load_refiner("map", engine)
    for query in gallery.queries:
        boxes = [
            {m.image_id: m.box.tolist() for m in engine.search(query.path, query.box, None, level, refine=refiner)}
            for level in (1, 3)
        ]
        assert boxes[0] == boxes[1]


def test_soft_at_the_first_level_is_the_whole_picture(gallery, engine):
    plain, refined = (evaluate(gallery, engine, [1], refiner=r)[0].report for r in (None, load_refiner("soft", engine)))
    assert plain.locscore == refined.locscore and plain.mean_iou == refined.mean_iou


@pytest.mark.parametrize("name", REFINERS)
def test_re_ranked_and_refined(gallery, engine, name):
    refiner, reranker = load_refiner(name, engine), load_reranker("patch-qe")
    [report] = evaluate(gallery, engine, [3], reranker=reranker, refiner=refiner)
    slow = []
    for query in gallery.queries:
        view = replace(engine.view(query.path, query.box), exclude=query.exclude)
        matches = engine.search_view(view, None, 3, rerank=reranker)
        slow.append(score_matches(engine.refine(view.descriptor, matches, refiner, 3), gallery, query))
    assert_scores(report, slow)
    assert report.ms_per_rerank is not None


def test_verified_boxes_are_scored_as_they_are(gallery, engine):
    """A box that was found point by point is not refined, here as in a search."""
    refiner, reranker = load_refiner("map", engine), load_reranker("sift")
    [report] = evaluate(gallery, engine, [3], reranker=reranker, refiner=refiner)
    slow = []
    for query in gallery.queries:
        view = engine.view(query.path, query.box)
        matches = engine.search_view(view, None, 3, rerank=reranker)
        slow.append(score_matches(engine.refine(view.descriptor, matches, refiner, 3), gallery, query))
    assert_scores(report, slow)


class Counting:
    """A refiner whose boxes are easy to see, and which counts what it is asked for."""

    name = "counting"

    def __init__(self):
        self.asked = []

    def boxes(self, query, rows, level=None):
        self.asked.append((sorted(rows), level))
        return [np.array([[0.0, 0.0, 7.0, 5.0], [50, 40, 60, 48]]) for _ in rows]


def test_only_positives_and_the_first_picture_are_refined(gallery, engine):
    refiner = Counting()
    [report] = evaluate(gallery, engine, [2], refiner=refiner)
    for (rows, level), query in zip(refiner.asked[::2], gallery.queries, strict=True):
        ids = {engine.index.images[row].id for row in rows}
        assert ids == gallery.positives(query.instance, query.exclude).keys() and level == 2
    for (rows, _), query in zip(refiner.asked[1::2], gallery.queries, strict=True):
        assert engine.index.images[rows[0]].id == report.outcomes[query.id].best[0] and len(rows) == 1
        assert report.outcomes[query.id].best[1].tolist() == [0, 0, 7, 5]  # the best one of several boxes


def test_pictures_that_are_excluded_are_neither_scored_nor_first(gallery, engine):
    query = gallery.queries[0]
    first = engine.search(query.path, query.box, 1)[0].image_id
    without = replace(gallery, queries=(replace(query, exclude=frozenset({first})),))
    refiner = Counting()
    [report] = evaluate(without, engine, [3], refiner=refiner)
    assert report.outcomes[query.id].best[0] != first
    assert all(engine.index.row_of[first] not in rows for rows, _ in refiner.asked)


def test_a_lazy_ranking_and_its_matches_are_refined_alike(gallery, engine):
    query = gallery.queries[1]
    descriptor = engine.describe_query(query.path, query.box)

    def refine(matches):
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
        return np.array([match.box / 2 for match in matches]).reshape(-1, 4)

    lazy, matches = engine.ranking(descriptor, 3), engine.search_descriptor(descriptor, None, 3)
    fast, slow = (find_in_matches(ranking, gallery, query, refine) for ranking in (lazy, matches))
    one, other = score_positives(fast, None), score_positives(slow, None)
    assert (one.ap, one.locscore) == (other.ap, other.locscore) and one.locscore > 0


def test_numbers_can_be_written_as_json(gallery, engine):
    reports = evaluate(gallery, engine, refiner=load_refiner("map", engine, LocalizeSettings(objects=2)))
    assert as_json(reports, 40, None)["locscore"] == reports[-1].report.locscore
