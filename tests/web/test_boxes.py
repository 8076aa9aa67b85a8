"""The page's boxes without a browser: which an index allows, what is kept with a question, scores, maps, notices."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from patchify_core.demo import box_methods
from patchify_core.demo.box_methods import MAP, OBJECTS, SOFT, WINNING
from patchify_core.demo.example_gallery import PIECE, ExampleGallery
from patchify_core.demo.indexes import DEFAULT, PREFERRED, GalleryIndexes
from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.run import score_matches
from patchify_core.gallery import read_coco
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.regions import parse_regions
from patchify_core.retrieval.localize import SimilarityMap
from patchify_core.retrieval.ranking import Verification
from patchify_core.web import events, views, visits
from patchify_core.web.events import SearchRequest
from patchify_core.web.tabs.sharing import Sharing
from patchify_core.web.views.detail import heat
from patchify_core.web.visits import Visits, file_url
from tests.page_server import write_gallery
from tests.tiny import DIM, TinyEncoder

POOLED = BuildSettings(features="pooled:128", keep_maps=True)
LEVEL = 3


class Speaking(TinyEncoder):
    """A tiny encoder that knows words, in its way: it looks at the first letter."""

    def encode_text(self, words: str) -> np.ndarray:
        row = np.full(DIM, 0.1, np.float32)
        row[ord(words[0]) % DIM] = 1
        return row / np.linalg.norm(row)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two textured objects on eight pictures, indexed in both ways."""
    gallery = read_coco(write_gallery(tmp_path_factory.mktemp("set")))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"))
    build_index(gallery, gallery.root / "indexes" / "pooled", TinyEncoder(), parse_regions("pyramid:3"), POOLED)
    return gallery.root


@pytest.fixture
def ours(made) -> ExampleGallery:
    return ExampleGallery(made, Speaking())


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The notices that a visitor saw."""
    notices: list[str] = []
    monkeypatch.setattr(visits, "warn", notices.append)
    monkeypatch.setattr(events, "warn", notices.append)
    return notices


def located(showcase: ExampleGallery, monkeypatch, engine: str = PREFERRED) -> list[tuple[int, int | None]]:
    """Whatever is searched for on a map from now on: (row, objects)."""
    localizer, calls = box_methods.localizer_of(showcase.indexes.engine(engine)), []
    real = localizer.locate

    def counted(query, row, objects=None):
        calls.append((row, objects))
        return real(query, row, objects)

    monkeypatch.setattr(localizer, "locate", counted)
    return calls


# Which index, and which way -------------------------------------------------------------------------------


def test_a_visit_begins_with_the_index_of_maps_where_there_is_one(made, tmp_path) -> None:
    offers = GalleryIndexes(made).choices
    assert list(offers) == [PREFERRED, DEFAULT] and GalleryIndexes(made).first == PREFERRED
    assert offers[PREFERRED].label == "Fast: one pass per picture (24-D)"
    assert offers[DEFAULT].label == "Paper: every patch encoded separately (24-D)"
    alone = read_coco(write_gallery(tmp_path / "alone"))
    build_index(alone, alone.root / "index", TinyEncoder(), parse_regions("pyramid:2"))
    (alone.root / "indexes" / "pooled").mkdir(parents=True)  # and one that cannot be read is none
    assert GalleryIndexes(alone.root).first == DEFAULT
    page = Visits(ExampleGallery(alone.root, TinyEncoder()))
    assert page.first_view()[1].box_method == SOFT


def test_ways_that_an_index_does_not_have_are_refused(ours, refused) -> None:
    maps, crops = ours.indexes.choice(PREFERRED).index, ours.indexes.choice(DEFAULT).index
    assert (box_methods.best_method(maps), box_methods.best_method(crops)) == (MAP, SOFT)
    assert "does not have that kind" in refused(box_methods.checked_method, "salient", maps)
    assert "Fast: one pass per picture" in refused(
        ours.answer, ours.example(ours.examples[0].id, DEFAULT), LEVEL, 5, None, MAP
    )


@pytest.mark.parametrize(
    ("box_method", "to_crops", "to_maps"), [(WINNING, WINNING, WINNING), (SOFT, SOFT, MAP), (MAP, SOFT, MAP)]
)
def test_another_index_keeps_what_is_possible_and_the_best_stays_the_best(ours, box_method, to_crops, to_maps) -> None:
    maps, crops = ours.indexes.choice(PREFERRED).index, ours.indexes.choice(DEFAULT).index
    assert box_methods.fitting_method(box_method, maps, crops) == to_crops
    assert box_methods.fitting_method(to_crops, crops, maps) == to_maps


# Boxes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box_method", [SOFT, MAP])
def test_boxes_and_scores_are_the_librarys_over_the_whole_ranking(ours, box_method) -> None:
    query = ours.first()
    answer, plain = ours.answer(query, LEVEL, 5, None, box_method), ours.answer(query, LEVEL, 5)
    whole = ours.engine.refine(query.view, list(ours.ranking(query, LEVEL)), box_method, LEVEL)  # every picture
    for result, match, cell in zip(answer.results, whole, plain.results, strict=False):
        np.testing.assert_allclose(result.match.box, match.box)
        np.testing.assert_array_equal(result.cell, cell.match.box)
        assert result.moved and not cell.moved
    annotated = next(q for q in ours.gallery.queries if q.id == query.example)
    expected = score_matches(whole, ours.gallery, annotated)
    assert answer.score.locscore == pytest.approx(expected.locscore) and answer.score.ap == expected.ap
    assert answer.winning.locscore == plain.score.locscore and plain.winning is None
    assert answer.baseline.locscore == plain.baseline.locscore and answer.box_method == box_method


def test_what_was_found_is_kept_with_its_query_alone(ours, monkeypatch) -> None:
    calls = located(ours, monkeypatch)
    query = ours.first()
    ours.answer(query, LEVEL, 5, None, MAP)
    assert calls and {objects for _, objects in calls} <= {1, OBJECTS}
    calls.clear()
    ours.answer(query, LEVEL, 5, None, MAP)
    ours.detail(query, ours.ranking(query, LEVEL)[2].image_id, LEVEL, 5, None, MAP)
    assert calls == []
    # What it is called changes nothing but which pictures are scored.
    ours.answer(ours.with_instance(query, 2), LEVEL, 5, None, MAP)
    assert {objects for _, objects in calls} <= {1}
    calls.clear()
    other = ours.with_box(query, (0, 0, 50, 50))
    assert other.located == {}
    ours.answer(other, LEVEL, 5, None, MAP)
    assert len(calls) >= 5
    assert ours.with_index(other, DEFAULT).located == {}


def test_further_objects_are_looked_for_only_where_the_picture_matches_well(ours, monkeypatch) -> None:
    calls, query = located(ours, monkeypatch), ours.first()
    scores = (1.0, box_methods.TWICE_FROM, 0.99 * box_methods.TWICE_FROM, 0.1)
    ranking = [replace(m, score=score) for m, score in zip(ours.ranking(query, LEVEL), scores, strict=False)]
    box_methods.with_boxes(query, ours.engine, ranking, MAP, LEVEL, OBJECTS)
    assert sorted(objects for _, objects in calls) == [1, 1, OBJECTS, OBJECTS]
    assert [ours.engine.index.images[row].id for row, objects in calls if objects > 1] == [
        match.image_id for match in ranking[:2]
    ]


def test_box_found_point_by_point_wins(ours, monkeypatch) -> None:
    query = ours.first()
    box = np.array([3.0, 4, 50, 60])
    checked = Verification("sift", 9, 7, np.zeros((9, 2)), np.zeros((9, 2)), 0.5, 0.4, box)

    def rerank(name, engine, query, matches, level, exclude=()):
        return matches.with_first([replace(matches[0], verification=checked, box=box)])

    monkeypatch.setattr(ours.rerankers, "rerank", rerank)
    answer = ours.answer(query, LEVEL, 5, "sift", MAP)
    first, second = answer.results[:2]
    np.testing.assert_array_equal(first.match.box, box)
    assert first.by_points and not second.by_points and second.moved
    strip = views.strip(answer, "rug")
    assert "refined box or box by points" in strip and "not refined" in strip


def test_a_reranker_that_changes_nothing_says_so(ours, monkeypatch) -> None:
    query = ours.first()
    monkeypatch.setattr(ours.rerankers, "rerank", lambda name, engine, query, ranking, level, exclude=(): ranking)
    answer = ours.answer(query, LEVEL, 5, "sift", MAP)
    assert answer.unmoved and "left every picture at its rank" in views.strip(answer, "rug")
    query.rankings.clear()
    monkeypatch.setattr(
        ours.rerankers,
        "rerank",
        lambda name, engine, query, ranking, level, exclude=(): ranking.with_first([ranking[1], ranking[0]]),
    )
    answer = ours.answer(query, LEVEL, 5, "sift", MAP)
    assert not answer.unmoved and "left every picture" not in views.strip(answer, "rug")


def test_only_the_papers_own_form_is_called_so(ours) -> None:
    for engine, form in ((PREFERRED, False), (DEFAULT, True)):
        query = ours.example(ours.examples[0].id, engine)
        assert ("as in the paper" in views.strip(ours.answer(query, LEVEL, 5, None, SOFT), "rug")) is form


@pytest.mark.parametrize(("level", "box_method"), [(1, WINNING), (LEVEL, WINNING), (LEVEL, MAP)])
def test_ap_can_be_computed_again_from_what_is_exported(ours, level: int, box_method: str) -> None:
    page = Visits(ours)
    for example in ours.examples:
        asked = SearchRequest(ours.example(example.id), level, 1, None, box_method)  # a single result is shown
        data = json.loads(Sharing(page, frozenset()).file(asked, "json"))
        score, positives = data["scores"]["shown"], data["positives"]
        assert len(positives) == score["positives"] > len(data["results"])
        ranks = sorted(one["rank"] for one in positives if one["rank"] is not None)
        precisions = [found / rank for found, rank in enumerate(ranks, 1)]
        assert sum(precisions) / len(positives) == pytest.approx(score["ap"])
        weighted = [p * one["iou"] for p, one in zip(precisions, positives, strict=True)]
        assert sum(weighted) / len(positives) == pytest.approx(score["locscore"])


def test_words_are_boxed_too(ours) -> None:
    answer = ours.answer(ours.in_words("rug"), LEVEL, 5, None, MAP)
    assert answer.score is None and all(result.moved for result in answer.results)
    assert "winning patch" in views.strip(answer, None, True)


def test_examples_are_prepared_for_whoever_comes(ours, monkeypatch) -> None:
    ours.prepare()
    calls = located(ours, monkeypatch)
    for query in ours.examples:
        ours.answer(ours.example(query.id), ours.levels, 10, None, MAP)
    assert calls == []
    ours.forget_examples()
    ours.prepare(stop=lambda: True)
    assert calls == []
    asked = []
    ours.prepare(examples=1, stop=lambda: bool(asked.append(len(calls))))
    assert max(b - a for a, b in zip(asked[1:], [*asked[2:], len(calls)], strict=True)) <= PIECE  # others may cut in


# What a visitor does --------------------------------------------------------------------------------------


def test_a_choice_that_the_index_lacks_is_a_notice_and_the_next_best(ours, said) -> None:
    page = Visits(ours)
    query = ours.example(ours.examples[0].id, DEFAULT)
    changed = page.change_box(SearchRequest(query, LEVEL, 5, None, MAP))
    assert changed["box"] == SOFT and len(said) == 1 and "one pass per picture" in said[0]
    assert changed["cards"].count("pf-patch") and "soft box" in changed["strip"]
    assert "box" not in page.change_box(SearchRequest(ours.first(), LEVEL, 5, None, MAP)) and len(said) == 1
    # Left over from another index, it is no mistake of the visitor's.
    assert page.answer(SearchRequest(query, LEVEL, 5, None, MAP)).box_method == SOFT and len(said) == 1
    assert page.answer(SearchRequest(query, LEVEL, 5, None, "nonsense")).box_method == SOFT


def test_another_index_changes_the_choice_of_boxes_with_it(ours) -> None:
    page, query = Visits(ours), ours.first()
    ours.indexes.engine(DEFAULT)
    values = page.use_engine(SearchRequest(query, LEVEL, 5, None, MAP), DEFAULT)
    assert values["question"].index_name == DEFAULT and values["box"] == SOFT
    back = page.use_engine(SearchRequest(values["question"], LEVEL, 5, None, SOFT), PREFERRED)
    assert back["box"] == MAP
    assert set(page.keep_engine(query)) == {"engine", "status"} < set(values)


def test_damaged_maps_are_one_notice_and_soft_boxes(made, tmp_path, said) -> None:
    import shutil

    shutil.copytree(made, tmp_path / "set")
    showcase = ExampleGallery(tmp_path / "set", TinyEncoder())
    maps = showcase.index.maps
    assert maps is not None
    maps.path.write_bytes(maps.path.read_bytes()[:200])
    page, query = Visits(showcase), showcase.first()
    values = page.shown(query, SearchRequest(query, LEVEL, 5, None, MAP))
    assert len(said) == 1 and "damaged" in said[0] and said[0].count(".") >= 1
    assert values["box"] == SOFT and "soft box" in values["strip"]
    said.clear()
    image = showcase.ranking(query, LEVEL)[0].image_id
    html = page.look_into(SearchRequest(query, LEVEL, 5, None, SOFT), event(image))
    assert len(said) == 1 and "pf-heat" not in html and "soft box" in html
    with pytest.raises(PatchifyError):
        showcase.prepare()


def event(image: int):
    import gradio as gr

    return gr.EventData(None, {"id": image})


# What is seen ---------------------------------------------------------------------------------------------


def test_cards_show_both_boxes_and_every_object(ours) -> None:
    answer = ours.answer(ours.first(), LEVEL, 5, None, MAP)
    result = answer.results[0]
    twice = replace(result, match=replace(result.match, others=np.array([[1.0, 2, 30, 40], [50, 60, 90, 80]])))
    once = [replace(r, match=replace(r.match, others=np.empty((0, 4)))) for r in answer.results[1:]]
    cards = views.cards(replace(answer, results=(twice, *once)), size(ours), file_url)
    assert cards.count("pf-other") == 2 and cards.count('"pf-patch"') == 5
    assert cards.count('class="pf-box"') == 5
    strip = views.strip(replace(answer, results=(twice,)), "rug")
    assert "further object" in strip and "Refined boxes" in strip and "Winning patches" in strip
    plain = ours.answer(ours.first(), LEVEL, 5)
    assert "pf-patch" not in views.cards(plain, size(ours), file_url)
    assert "pf-legend" not in views.strip(plain, "rug") and "Patchify" in views.strip(plain, "rug")


def size(showcase: ExampleGallery):
    return lambda image: (320, 240, showcase.gallery.image(image).path)


def detail(showcase: ExampleGallery, query: UserQuery, box_method: str) -> str:
    image = showcase.ranking(query, LEVEL)[0].image_id
    found = showcase.detail(query, image, LEVEL, 5, None, box_method)
    return views.detail(found, size(showcase)(image), query, file_url)


def test_map_lies_over_the_picture_and_says_its_range(ours) -> None:
    query = ours.first()
    html = detail(ours, query, MAP)
    assert html.count('class="pf-heat"') == 1 and 'data-show="map"' in html
    image = ours.ranking(query, LEVEL)[0].image_id
    values = box_methods.similarity(query, ours.engine, image).values
    scale = html[html.index("pf-range") :]
    assert re.findall(r"<b>(-?\d\.\d\d)</b>", scale)[:2] == [f"{values.min():.2f}", f"{values.max():.2f}"]
    assert f"with {values.max():.2f}; where it matches least the similarity is {values.min():.2f}." in html
    assert "refined box</b> is" in html and "Search with this box" in html
    assert 'data-show="map"' not in detail(ours, query, WINNING)
    crops = detail(ours, ours.example(ours.examples[0].id, DEFAULT), SOFT)
    assert "pf-heat" not in crops and "similarity map" not in crops and "soft box</b> is" in crops


@pytest.mark.parametrize(
    ("row", "column", "where"),
    [(0, 0, "at the upper left"), (4, 7, "in the middle"), (8, 7, "at the bottom"), (4, 0, "on the left")],
)
def test_map_is_brightest_where_it_matches_best(row, column, where) -> None:
    import cv2

    values = np.random.default_rng(0).uniform(-0.2, 0.1, (9, 15)).astype(np.float32)
    values[row, column] = 0.9
    made = heat(SimilarityMap(values), "a picture")
    assert f"matches best {where}, with 0.90" in made.in_words
    png = base64.b64decode(made.address.partition("base64,")[2])
    drawn = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    assert drawn.shape == (144, 240, 3)
    y, x = np.unravel_index(int((drawn[..., 1] - drawn[..., 2]).argmax()), drawn.shape[:2])  # viridis ends in yellow
    assert (int(y / 16), int(x / 16)) == (row, column)
    assert len(png) < 40_000


def test_map_of_one_value_is_drawn() -> None:
    assert "base64," in heat(SimilarityMap(np.full((3, 4), 0.3, np.float32)), "a picture").address
