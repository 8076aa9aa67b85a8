"""demo.overview: the start of the Evaluation tab agrees with the records and the library."""

from __future__ import annotations

import itertools

import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import stored_answers
from patchify_core.demo.overview import answers_index, bands, curves, failed_queries
from patchify_core.demo.studies import read_studies
from patchify_core.demo.trials import EXACT, first_choice, plain_codec, plain_regions, trials
from patchify_core.evaluation.breakdown import break_down
from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.run import evaluate, find_in_matches
from patchify_core.patchify import Patchify
from patchify_core.web.views.story import APART, BOTTOM, chart, size_text


@pytest.fixture(scope="module")
def document(sample_db):
    return stored_answers(sample_db)


@pytest.fixture(scope="module")
def gallery(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


@pytest.fixture(scope="module")
def reports(gallery, sample_db, lite0):
    return evaluate(gallery.gallery, Patchify.open(sample_db / "index", lite0))


def test_curves_are_the_evaluation_of_the_bundled_index_and_the_studies_of_the_others(document, reports) -> None:
    studies = read_studies()
    every = trials(studies)
    found = curves(every, studies.datasets, "sample_db", document, "SQ8")
    assert [curve.dataset for curve in found] == ["sample_db", "davis20", "dreambooth30"]
    own = found[0]
    assert own.ap == pytest.approx([one.report.map for one in reports], abs=2e-3)
    assert own.locscore == pytest.approx([one.report.locscore for one in reports], abs=2e-3)
    assert (own.pictures, own.queries, own.grids, own.codec) == (164, 36, (1, 2, 3, 4), "SQ8")
    for curve in found[1:]:
        rows = [row for row in studies.found["encoders"].rows if row["dataset"] == curve.dataset]
        rows = [row for row in rows if row["encoder"] == "effnet-lite0"]
        assert curve.ap == tuple(row["map"] for row in rows)
        located = tuple(row["locscore"] for row in rows)
        assert curve.locscore == (None if None in located else located)
    # Without answers beside the gallery its own row is that of the study files.
    bare = curves(every, studies.datasets, "sample_db", None, EXACT)
    assert {curve.dataset for curve in bare} == {"sample_db", "davis20", "dreambooth30"}
    assert curves((), {}, "sample_db", None, EXACT) == []


def test_bands_are_the_breakdown_of_an_evaluation(document, gallery) -> None:
    found = bands(document)
    assert [size_text(band)[:8] for band in found] == ["Under 2 ", "2 to 10 ", "10 to 33", "33 % of "]
    for level in (1, 4):
        positions = {}
        for query in gallery.gallery.queries:
            ranking = gallery.ranking(gallery.example(query.id, "index"), level)
            positions[query.id] = find_in_matches(ranking, gallery.gallery, query)
        parts = break_down(positions, gallery.gallery)["size"]
        assert [(part.positives, part.report.queries) for part in parts] == [(b.positives, b.queries) for b in found]
        assert [b.ap[level - 1] for b in found] == pytest.approx([part.report.map for part in parts], abs=2e-3)
        assert [b.locscore[level - 1] for b in found] == pytest.approx(
            [part.report.locscore for part in parts], abs=2e-3
        )


def test_failures_are_the_worst_queries_answered_as_the_search_answers_them(document, gallery) -> None:
    found = failed_queries(gallery, document)
    scores = {}
    for query in gallery.gallery.queries:
        ranking = gallery.ranking(gallery.example(query.id, "index"), 4)
        scores[query.id] = score_positives(find_in_matches(ranking, gallery.gallery, query))
    worst = sorted(scores, key=lambda query: scores[query].ap)[:6]
    assert [one.query.example for one in found] == worst
    for one in found:
        score = scores[one.query.example]
        assert (one.answer.score.ap, one.answer.score.locscore) == (score.ap, score.locscore)
        assert one.first_hit == score.ranks[0]
        assert one.query.index_name == answers_index(document) == "index"
        assert one.link.query() == f"q=example-{one.query.example}&index=index&level=4&boxes=patch&top=10"


def test_what_is_looked_into_first_has_the_numbers_of_the_cards(document) -> None:
    every = trials(read_studies())
    first = first_choice(every, "sample_db", "SQ8")
    assert (first["factory"], first["regions"]) == ("SQ8", "pyramid:4")
    assert first.mean.of("map") == pytest.approx(document["overall"][-1]["map"], abs=5e-5)
    assert first_choice(every, "sample_db", "never tried")["factory"] == EXACT


def test_labels_of_a_chart_never_lie_on_each_other(document) -> None:
    studies = read_studies()
    for curve in curves(trials(studies), studies.datasets, "sample_db", document, "SQ8"):
        drawn = chart(curve)
        ys = [label.y for label in drawn.labels]
        assert all(below - above >= APART - 1e-9 for above, below in itertools.pairwise(ys))
        assert max(ys) <= BOTTOM


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pyramid:1", "Whole image"),
        ("pyramid:4", "Grids up to 4×4"),
        ("pyramid:3+salient:16", "Grids up to 3×3 + 16 salient regions"),
        ("pyramid:1+sliding:0.6,0", "Whole image + windows of 60 %, overlap 0 %"),
        ("random:30", "30 random boxes"),
        ("mine:7", "mine:7"),
    ],
)
def test_regions_have_plain_names(spec, words) -> None:
    assert plain_regions(spec) == words


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("Flat", "exact"),
        ("SQ8", "8 bits per number"),
        ("PCAH256,Flat", "256 numbers"),
        ("PCAH256,SQ8", "256 numbers, 8 bits each"),
        ("PCAH128,PQ64", "128 numbers, coded in 64 bytes"),
        ("PCAH128,PQ16x4", "128 numbers, coded in 8 bytes"),
        ("OPQ8,IVF4,PQ8", "OPQ8,IVF4,PQ8"),
    ],
)
def test_codecs_have_plain_names(factory, words) -> None:
    assert plain_codec(factory) == words
