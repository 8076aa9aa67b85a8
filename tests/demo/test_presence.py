"""The page says how likely results are where that was learned for this way to search, and nothing anywhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.retrieval.presence import EVEN
from patchify_core.web import views


@pytest.fixture(scope="module")
def gallery(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


def test_an_answer_says_how_likely_its_results_are_and_where_the_line_is(gallery):
    query = gallery.first()
    answer = gallery.answer(query, gallery.levels, 10)
    assert len(answer.presence.probabilities) == 10 and answer.presence.verdict == "likely"
    below = [result.rank for result in answer.results[answer.last_likely :]]
    assert below and all(answer.presence.probabilities[rank - 1] < EVEN for rank in below)
    shown = views.cards(answer, lambda image: (4, 3, gallery.gallery.image(image).path), str)
    assert shown.count("pf-rest") == 1 and "Likely here</b> The best result contains the object" in shown
    assert shown.index("pf-rest") > shown.index(f'<span class="pf-rank">{answer.last_likely}<')


def test_nothing_is_said_of_other_ways_to_search(gallery):
    query, last = gallery.first(), gallery.levels
    assert gallery.answer(query, 1, 10).presence is None
    assert gallery.answer(query, last, 10, "patch-qe").presence is None
    assert gallery.answer(replace(query, words="a cake"), last, 10).presence is None
    assert gallery.answer(gallery.example(query.example, "salient"), 2, 10).presence is None
    reranked = gallery.answer(query, last, 10, "patch-qe")
    shown = views.cards(reranked, lambda image: (4, 3, gallery.gallery.image(image).path), str)
    assert "No verdict" in shown and "pf-rest" not in shown
    paper = gallery.answer(gallery.example(query.example, "index"), 4, 10)
    assert paper.presence is not None
    salient = gallery.answer(gallery.example(query.example, "salient"), 2, 10)
    shown = views.cards(salient, lambda image: (4, 3, gallery.gallery.image(image).path), str)
    assert "pf-presence" not in shown and "pf-rest" not in shown


def test_the_querys_own_picture_does_not_count(gallery):
    query = gallery.first()
    found = gallery.answer(query, gallery.levels, 10).results[0].match
    again = gallery.from_result(found.image_id, found.box, query.instance)
    answer = gallery.answer(again, gallery.levels, 10)
    assert answer.results[0].match.image_id == found.image_id and len(answer.presence.probabilities) == 9
    one = gallery.indexes.calibration(again.index_name)
    ranking = gallery.ranking(again, gallery.levels)
    others = ranking.scores[1:]
    assert answer.presence == one.presence(others[:9], others)


def test_a_handful_of_pictures_says_nothing(gallery):
    ranking = gallery.engine.ranking(gallery.first().descriptor, top=20)
    assert gallery.presence(gallery.first(), ranking, 10) is None
