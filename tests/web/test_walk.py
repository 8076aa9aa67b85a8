"""The walk, its look-alikes and its handout without Gradio: every number is the library's."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchify_core.demo import lookalikes
from patchify_core.demo.box_methods import MAP, SOFT, WINNING
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.results import RIGHT_IOU
from patchify_core.demo.walk import SHOWN, WORKED, WalkChoice, described_for, fitting, walk, worked_example
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.web import views
from patchify_core.web.views.html import TEXTS, overlap, patch_position, signed
from patchify_core.web.views.walk import walk as render_walk
from patchify_core.web.visits import file_url
from tests.tiny import TinyEncoder, write_dataset

KINDS = ("pyramid:3", "pyramid:1+random:5,0", "sliding:0.5,0.5", "pyramid:1+salient:6")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset with an index of every kind of stage, and one with feature maps."""
    gallery = read_coco(write_dataset(tmp_path_factory.mktemp("walk") / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions(KINDS[0]))
    for number, kind in enumerate(KINDS[1:], 1):
        build_index(gallery, gallery.root / "indexes" / f"k{number}", TinyEncoder(), parse_regions(kind))
    return gallery.root


@pytest.fixture(scope="module")
def showcase(folder) -> ExampleGallery:
    return ExampleGallery(folder, TinyEncoder())


@pytest.fixture(scope="module")
def bundled(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


def html(shown, **options) -> str:
    return render_walk(shown, file_url, "patchify.ipynb", **options)


def step(name: str, *values) -> str:
    """One step of the walk alone."""
    return getattr(TEXTS.get_template("walk_scores.html").module, name)(*values)


# Numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["index", "k1", "k2", "k3"])
def test_cells_and_winners_are_those_of_explain_at_every_level(showcase, engine) -> None:
    query = showcase.example(showcase.examples[0].id, engine)
    patchify = showcase.indexes.engine(engine)
    for level in range(1, showcase.levels_of(engine) + 1):
        shown = walk(showcase, query, WalkChoice(engine, level))
        look = shown.look
        every = patchify.explain(query.descriptor, look.image.id)
        np.testing.assert_array_equal(look.explanation.scores, every.scores)
        np.testing.assert_array_equal(look.explanation.boxes, every.boxes)
        for n, winner in enumerate(look.winners, 1):
            assert winner == patchify.explain(query.descriptor, look.image.id, n).patch
        assert look.result.match.patch == look.winners[level - 1]
        assert look.result.match.score == every.scores[look.winners[level - 1]]
        text = html(shown)
        assert text.count('class="wk-cell"') == len(every.scores)
        assert text.count('class="wk-bar"') == len(every.scores)
        assert text.count('class="wk-layer') == len(shown.stages)
        for cell, score in enumerate(every.scores):
            assert f'data-cell="{cell}" tabindex="-1" data-score="{signed(float(score))}"' in text


def test_where_a_patch_lies_is_said_for_every_kind_of_stage(showcase) -> None:
    stages = {name: showcase.indexes.choice(name).index.regions.stages for name in ("index", "k1", "k2")}
    assert patch_position(stages["index"], 0) == "whole picture"
    assert patch_position(stages["index"], 4) == "row 2, column 2 of the 2×2 grid"
    assert patch_position(stages["index"], 10) == "row 2, column 3 of the 3×3 grid"
    assert patch_position(stages["k1"], 3) == "patch 3 of random:5,0"
    assert patch_position(stages["k2"], 0).startswith("patch 1 of sliding")


@pytest.mark.parametrize("box_method", [WINNING, SOFT, MAP])
@pytest.mark.parametrize("level", [1, 3, 4])
def test_rows_add_up_to_the_score_of_the_search(bundled, box_method, level) -> None:
    for example in bundled.examples[:2]:
        query = bundled.example(example.id)
        shown = walk(bundled, query, WalkChoice(level=level, box_method=box_method))
        answer = bundled.answer(query, level, SHOWN, None, box_method)
        assert shown.standing is not None and answer.score is not None
        lines = shown.standing.lines
        assert lines[-1].row.running == answer.score.locscore == shown.standing.score.locscore
        assert sum(line.row.contribution for line in lines) == pytest.approx(answer.score.locscore, abs=1e-12)
        assert sum(line.row.precision for line in lines) / answer.score.divisor == pytest.approx(answer.score.ap)
        for line in lines:  # each line's picture, box and IoU belong together
            assert line.found / line.row.rank == pytest.approx(line.row.precision)
            assert line.result.iou == pytest.approx(line.row.iou)
            assert line.result.match.image_id in bundled.gallery.positives(query.instance)
        text = html(shown)
        assert f'<b class="wk-total">{answer.score.locscore:.3f}</b>' in text
        assert f'<b class="wk-total-ap">{answer.score.ap:.3f}</b>' in text
        # The Search tab's strip says the same.
        assert f'<span class="pf-num">{answer.score.locscore:.3f}</span>' in views.strip(answer, shown.name)


def test_ranking_first_wrong_and_whole_pictures_are_the_searchs(bundled) -> None:
    query = bundled.first()
    shown = walk(bundled, query, WalkChoice())
    ranking = bundled.ranking(query, bundled.levels)
    assert [r.match.image_id for r in shown.answer.results] == [m.image_id for m in ranking[:SHOWN]]
    positives = bundled.gallery.positives(query.instance)
    at = next(n for n, match in enumerate(ranking, 1) if match.image_id not in positives)
    assert shown.standing.first_wrong.rank == at
    assert shown.standing.first_wrong.match.score == ranking[at - 1].score
    assert shown.whole is not None and shown.answer.baseline is not None
    assert shown.whole.score.ap == shown.answer.baseline.ap
    assert shown.whole.score.locscore == shown.answer.baseline.locscore
    # A picture that stands further down is looked into with its true rank.
    far = ranking[40].image_id
    looked = walk(bundled, query, WalkChoice(image=far)).look
    assert (looked.image.id, looked.result.rank) == (far, 41)


def test_a_gallery_picture_is_left_out_of_its_own_arithmetic(bundled) -> None:
    query = bundled.first()
    image = walk(bundled, query, WalkChoice()).standing.lines[0].result.match
    itself = bundled.from_result(image.image_id, image.box, query.instance)
    standing = walk(bundled, itself, WalkChoice()).standing
    assert standing.left_out == 1 and standing.counted == len(bundled.gallery.images) - 1
    assert image.image_id not in [line.result.match.image_id for line in standing.lines]
    assert standing.lines[-1].row.running == standing.score.locscore
    for line in standing.lines:
        assert line.result.iou == pytest.approx(line.row.iou)


@given(st.floats(0, 1), st.integers(2, 3))
def test_no_printed_iou_contradicts_its_verdict(value: float, digits: int) -> None:
    said = float(overlap(value, digits))
    assert (said >= RIGHT_IOU) == (value >= RIGHT_IOU) and abs(said - value) <= 10**-digits


def test_look_alikes_have_a_heading_of_their_own(showcase) -> None:
    assert "wk-other" not in html(walk(showcase, showcase.first(), WalkChoice()))


# What is missing ------------------------------------------------------------------------------------------


def test_unknown_object_says_so_and_shows_the_worked_example(showcase) -> None:
    query = showcase.with_instance(showcase.first(), None)
    shown = walk(showcase, query, WalkChoice())
    assert shown.standing is None and shown.name is None
    text = html(shown)
    assert "The object is not known" in text
    assert '<div data-sum-of="worked">' in text
    assert '<div data-sum-of="own" hidden>' in text
    assert "0.140" in text


def test_object_without_pictures_says_that(showcase) -> None:
    shown = walk(showcase, showcase.first(), WalkChoice())
    text = step("locscore", replace(shown, standing=None), file_url, WORKED, worked_example())
    assert "No picture of the gallery is annotated with" in text


def test_worked_example_is_computed() -> None:
    score = worked_example()
    assert (score.ap, score.locscore) == (pytest.approx(0.3), pytest.approx(0.14))
    assert [(row.rank, row.precision) for row in score.rows()] == [(2, 0.5), (5, 0.4)]
    assert [row.iou for row in score.rows()] == pytest.approx([0.6, 0.3])
    assert score.positives == score.divisor == 3
    text = step("worked", WORKED, worked_example())
    assert '<b class="wk-total">0.140</b>' in text and '<b class="wk-total-ap">0.300</b>' in text
    assert "1 never found" in text


def test_texts_that_are_not_ours_are_escaped(showcase) -> None:
    evil = '<b>"x"</b>'
    query = showcase.first()
    shown = walk(showcase, query, WalkChoice())
    text = html(replace(shown, name=evil, query=replace(query, name=evil), indexes=(("index", evil), ("b", evil))))
    assert evil not in text and "&lt;b&gt;&#34;x&#34;&lt;/b&gt;" in text
    in_words = replace(query, words=evil, path=None, box=None)
    assert evil not in html(replace(shown, query=in_words))


# Choices --------------------------------------------------------------------------------------------------


def test_choices_that_are_not_offered_are_refused_or_fitted(showcase, refused) -> None:
    query = showcase.first()
    assert walk(showcase, query, WalkChoice(level=99)).level == 3
    assert walk(showcase, query, WalkChoice(level=-5)).level == 1
    assert "not in this gallery" in refused(walk, showcase, query, WalkChoice(image=10**9))
    assert "kind of box" in refused(walk, showcase, query, WalkChoice(box_method="<b>"))
    assert "feature map" in refused(walk, showcase, query, WalkChoice(box_method=MAP))
    assert "look-alikes" in refused(walk, showcase, query, WalkChoice(pair=(0, None)))
    for name in ("nothing", 5, ["index"]):
        assert "does not have that method" in refused(described_for, showcase, query, name)


def test_another_index_does_not_change_the_visitors_question(showcase) -> None:
    query = showcase.first()
    before = query.index_name
    other = described_for(showcase, query, "k1")
    assert (other.index_name, query.index_name) == ("k1", before)
    assert described_for(showcase, query, None) is query
    assert fitting(showcase, WalkChoice(box_method=MAP, level=3, image=4), "k1") == WalkChoice("k1", None, WINNING, 4)


# Look-alikes ----------------------------------------------------------------------------------------------


def test_galleries_without_look_alikes_have_no_buttons(showcase) -> None:
    assert lookalikes.look_alikes(showcase.gallery) == ()
    assert "data-set" not in html(walk(showcase, showcase.first(), WalkChoice()))


def test_pair_is_the_best_right_picture_and_the_best_of_a_look_alike(bundled) -> None:
    sets = lookalikes.look_alikes(bundled.gallery)
    assert [one.title for one in sets] == ["The tea set", "The two blue pots"]
    assert [len(one.members) for one in sets] == [4, 2]
    for number, among in enumerate(sets):
        for instance, _, query in among.members:
            pair = lookalikes.hard_pair(bundled, number, instance, "pooled", 4)
            ranking = bundled.ranking(bundled.example(query, "pooled"), 4)
            right = bundled.gallery.positives(instance)
            others = {i for one, _, _ in among.members if one != instance for i in bundled.gallery.positives(one)}
            best = next(match for match in ranking if match.image_id in right)
            wrong = next(match for match in ranking if match.image_id in others and match.image_id not in right)
            assert (pair.right.image.id, pair.right.match.score) == (best.image_id, best.score)
            assert (pair.other.image.id, pair.other.match.score) == (wrong.image_id, wrong.score)
            whole = bundled.ranking(bundled.example(query, "pooled"), 1)
            assert pair.right.whole == next(m.score for m in whole if m.image_id == best.image_id)
            text = step("pair_of", pair, 4, bundled.index.regions.stages, file_url)
            assert f"{best.score:.3f}" in text and f"{wrong.score:.3f}" in text


@pytest.mark.parametrize(("number", "asked"), [(7, None), (-1, None), ("0", None), (True, None), (0, 999), (1, 28)])
def test_pairs_that_there_are_not_are_refused(bundled, refused, number, asked) -> None:
    assert "look-alike" in refused(lookalikes.hard_pair, bundled, number, asked, "pooled", 4)


@pytest.mark.parametrize(("value", "text"), [(-0.0581, "−0.058"), (0.5, "0.500"), (-0.0001, "0.000"), (1, "1.000")])
def test_minus_is_a_minus_and_zero_has_none(value, text) -> None:
    assert signed(value) == text


# The tab's answers ----------------------------------------------------------------------------------------


@pytest.fixture
def walking(showcase, monkeypatch):
    """The tab over the small gallery, and the notices that it gave."""
    from patchify_core.web.tabs import walk as tab
    from patchify_core.web.visits import Visits

    said: list[str] = []
    monkeypatch.setattr(tab, "warn", said.append)
    return tab.WalkActions(Visits(showcase)), said


def sent(**what):
    import gradio as gr

    return gr.EventData(None, what)


def test_tab_is_made_when_opened_and_kept_until_the_question_changes(walking, showcase) -> None:
    tab, said = walking
    held, text = tab.open(None, None)
    assert "pf-walk" in text and held.query is showcase.first()
    skipped = tab.open(None, held)
    assert isinstance(skipped[0], dict) and isinstance(skipped[1], dict)
    other = showcase.example(showcase.examples[1].id)
    again, text = tab.open(other, held)
    assert again.query is other and "quilt" in text
    # Another level keeps the picture, and does not describe the question anew.
    later, _ = tab.change(other, again, sent(what="level", value=1))
    assert later.choice.image == again.choice.image and later.query is other
    salient, _ = tab.change(other, later, sent(what="engine", value="k3"))
    assert (salient.query.index_name, other.index_name, salient.choice.level) == ("k3", "index", None)
    kept, _ = tab.change(other, salient, sent(what="level", value=1))
    assert kept.query is salient.query
    assert said == []


def test_parts_and_tasks_are_shown_and_the_question_stays(walking, showcase) -> None:
    tab, said = walking
    held, _ = tab.open(None, None)
    exercise, text = tab.change(None, held, sent(what="part", value="exercise"))
    assert 'data-part="exercise"' in text and 'class="wk-tasks"' in text and "wk-tab" not in text
    assert exercise.query is held.query
    number = text.count('class="wk-task"') - 1
    last, text = tab.change(None, exercise, sent(what="task", value=number))
    assert f'data-task="{number}"' in text and last.choice.task == number
    plan, text = tab.change(None, last, sent(what="part", value="plan"))
    assert "A 45-minute lesson" in text and "wk-stage" not in text
    steps, text = tab.change(None, plan, sent(what="part", value="steps"))
    assert text.count('class="wk-tab"') == 6
    assert steps.choice.image == held.choice.image and said == []


def test_pages_to_print_are_those_of_what_is_shown(walking, showcase, monkeypatch) -> None:
    tab, said = walking
    held, _ = tab.open(None, None)
    first = json.loads(tab.print_page(None, held, sent(what="handout")))
    again = json.loads(tab.print_page(None, held, sent(what="handout")))
    assert f"One real query: {showcase.gallery.name(showcase.first().instance)}" in first["html"]
    assert first["html"] == again["html"] and first["turn"] != again["turn"]
    exercise, _ = tab.change(None, held, sent(what="task", value=1))
    assert f"One real query: {tab._tasks[1].name}" in json.loads(tab.print_page(None, exercise, sent(what="x")))["html"]
    assert "Minutes" in json.loads(tab.print_page(None, held, sent(what="plan")))["html"]
    asked, _ = tab.open(showcase.example(showcase.examples[1].id), None)
    assert "html" not in json.loads(tab.print_page(None, asked, sent(what="handout")))
    assert "no longer has your query" in said[0]


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"what": "part", "value": "other"},
        {"what": "part", "value": ["plan"]},
        {"what": "task", "value": 99},
        {"what": "task", "value": "1"},
        {"what": "level"},
        {"what": "level", "value": "2"},
        {"what": "level", "value": True},
        {"what": "image", "value": 10**12},
        {"what": "image", "value": [1]},
        {"what": "engine", "value": "<b>"},
        {"what": "engine", "value": None},
        {"what": "way", "value": "map"},
        {"what": "way", "value": {"a": 1}},
        {"what": "pair", "value": 0},
        {"what": "pair", "value": 0, "asked": "x"},
    ],
)
def test_what_a_browser_may_not_ask_is_one_notice_and_changes_nothing(walking, what) -> None:
    tab, said = walking
    held, before = tab.open(None, None)
    after, text = tab.change(None, held, sent(**what))
    assert len(said) == 1
    assert after.choice == held.choice
    unturned = re.compile(r'data-turn="\d+"')
    assert unturned.sub("", text) == unturned.sub("", before)


def test_forgotten_question_is_not_walked_as_another(walking, showcase) -> None:
    tab, said = walking
    held, _ = tab.open(showcase.example(showcase.examples[1].id), None)
    answer = tab.change(None, held, sent(what="level", value=1))
    assert "no longer has your query" in said[0] and isinstance(answer[0], dict)
