"""demo.lesson: plan and exercise of a class come from the gallery, number for number."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import stored_answers
from patchify_core.demo.lesson import CLEAR, LABELS, TASKS, exercise, lesson, task_walk, teaching_index
from patchify_core.demo.results import OFF, RIGHT
from patchify_core.demo.walk import WalkChoice, walk
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.web.views.walk import plan_page
from tests.tiny import TinyEncoder, write_dataset


@pytest.fixture(scope="module")
def bundled(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


@pytest.fixture(scope="module")
def tasks(bundled):
    return exercise(bundled, "index")


def test_tasks_are_of_different_queries_and_ever_harder(bundled, tasks) -> None:
    assert len(tasks) == TASKS >= 5
    assert len({task.query for task in tasks}) == len({task.image for task in tasks}) == len(tasks)
    assert all(above.lead > below.lead for above, below in pairwise(tasks))
    assert [task.label for task in tasks] == sorted((task.label for task in tasks), key=LABELS.index)
    assert set(task.label for task in tasks) == set(LABELS)
    assert tasks[0].lead > 10 * tasks[-1].lead > 10 * CLEAR - 1e-9
    assert exercise(bundled, "index") == tasks


def test_each_lead_is_the_librarys_and_each_picture_contains_the_object(bundled, tasks) -> None:
    engine = bundled.indexes.engine("index")
    for number, task in enumerate(tasks):
        query = bundled.example(task.query, "index")
        scores = engine.explain(query.descriptor, task.image).scores
        first, second = np.sort(scores)[::-1][:2]
        assert task.lead == pytest.approx(float(first) - float(second), abs=1e-7)
        assert scores.argmax() > 0  # the whole picture is nothing to guess
        assert task.image in bundled.gallery.positives(query.instance)
        shown = task_walk(bundled, tasks, number, "index")
        assert (shown.look.image.id, shown.task, shown.level) == (task.image, number, 4)
        assert shown.look.winners[-1] == scores.argmax()
        assert shown.look.result.verdict in (RIGHT, OFF)
        assert shown.query.example == task.query


def test_task_that_there_is_not_is_refused(bundled, tasks, refused) -> None:
    for number in (-1, len(tasks)):
        assert "exercise" in refused(task_walk, bundled, tasks, number, "index")


def test_small_gallery_has_a_small_exercise_and_a_plan(tmp_path) -> None:
    gallery = read_coco(write_dataset(tmp_path / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions("pyramid:3"))
    showcase = ExampleGallery(gallery.root, TinyEncoder())
    assert len(exercise(showcase, "index")) <= len(showcase.examples)
    page = plan_page(lesson(showcase, None))
    assert "A 45-minute lesson" in page and "Objects under" not in page


def test_plan_says_what_the_library_says(bundled, tasks, sample_db) -> None:
    document = stored_answers(sample_db)
    plan = lesson(bundled, document, tasks)
    assert teaching_index(bundled) == plan.shown.query.index_name == "index"
    assert plan.shown.query.example == document["first"]
    shown = walk(bundled, bundled.example(document["first"], "index"), WalkChoice("index"))
    page = plan_page(plan)
    entry = next(one for one in document["examples"] if one["id"] == document["first"])
    whole, patches = entry["levels"][0], entry["levels"][-1]
    assert f"Whole images: {whole['found']} of the top 10, AP {whole['ap']:.3f}." in page
    assert f"Patches: {patches['found']} of the top 10, AP {patches['ap']:.3f}." in page
    assert f"{shown.standing.score.positives} pictures contain it." in page
    assert f"with similarity {shown.look.explanation.scores.max():.3f}" in page
    assert f"has only {shown.look.explanation.scores[0]:.3f}" in page
    assert f"Whole pictures: {', '.join(map(str, shown.whole.score.ranks.tolist()))}." in page
    assert f"LocScore {shown.standing.score.locscore:.3f}, and {shown.answer.ceiling:.3f} is the most" in page
    assert "AP 0.300, LocScore 0.140" in page
    assert f"leads by {tasks[0].lead:.3f}." in page and f"leads by {tasks[-1].lead:.3f} only" in page
    assert f"mean AP {document['sizes'][0]['levels'][0]['map']:.3f} without" in page
    assert "154 kB instead of 5 kB" in page  # 30 and 1 descriptors of 1,280 numbers of 4 bytes
    minutes = [part.split("<")[0] for part in page.split('<th scope="row">')[1:]]
    ends = [tuple(map(int, part.split("–"))) for part in minutes]
    assert ends[0][0] == 0 and ends[-1][1] == 45 and all(a[1] == b[0] for a, b in pairwise(ends))
    assert "<script" not in page and "src=" not in page
