"""demo.results: verdicts by the annotations, also where boxes are missing or pictures do not count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import IGNORED, ITSELF, MATCH, MATCHES, OFF, RIGHT, RIGHT_IOU, UNKNOWN, WRONG, Judge
from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import read_coco
from patchify_core.imaging.boxes import iou
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from tests.page_server import write_gallery
from tests.tiny import TinyEncoder


@pytest.fixture
def half(tmp_path) -> ExampleGallery:
    """Two objects on three pictures each; one of the first object's has no box, one is left out of its query."""
    folder = write_gallery(tmp_path / "half")
    data = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    del data["annotations"][0]["bbox"]
    data["annotations"][1]["ignore"] = 1
    query = next(image for image in data["images"] if image["split"] == "query")
    query["exclude"] = [3]
    (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    build_index(read_coco(folder), folder / "index", TinyEncoder(), parse_regions("pyramid:3"))
    return ExampleGallery(folder, TinyEncoder())


def test_every_picture_gets_the_verdict_of_its_annotation(half):
    query = half.first()
    answer = half.answer(query, half.levels, 8)
    for result in answer.results:
        picture, boxes = result.match.image_id, half.gallery.boxes_of(result.match.image_id, query.instance)
        if picture in (2, 3):  # annotated as hardly visible; left out of this query
            expected, overlap = IGNORED, None
        elif picture == 1:
            expected, overlap = MATCH, None
        elif picture in half.gallery.positives(query.instance):
            overlap = float(iou(result.match.box, boxes).max())
            expected = RIGHT if overlap >= RIGHT_IOU else OFF
        else:
            expected, overlap = WRONG, None
        assert (result.verdict, result.iou) == (expected, overlap), picture
    assert answer.found == sum(result.verdict in MATCHES for result in answer.results) == answer.score.positives


def test_scores_and_their_bound_are_those_of_an_evaluation(half):
    """A query with a positive that has no box has AP, but neither LocScore nor a bound for it."""
    reports = evaluate(half.gallery, half.engine)
    for example in half.examples:
        query = half.example(example.id)
        for level, report in enumerate(reports, 1):
            answer, expected = half.answer(query, level, 8), score_positives(report.outcomes[example.id].positives)
            assert (answer.score.ap, answer.score.locscore) == (expected.ap, expected.locscore)
            assert (answer.ceiling is None) == (expected.locscore is None)
    assert half.answer(half.first(), 1, 8).score.locscore is None


def test_the_query_itself_and_an_unknown_object_are_said_to_be_so(half):
    picture = half.from_result(4, np.array([0.0, 0, 320, 240]), 2)
    assert next(r for r in half.answer(picture, 1, 8).results if r.match.image_id == 4).verdict == ITSELF
    unknown = half.with_instance(picture, None)
    assert {r.verdict for r in half.answer(unknown, 1, 8).results} == {ITSELF, UNKNOWN}


def test_an_object_in_no_picture_has_no_score(half):
    nowhere = UserQuery("x", 9, 9, None, 99, half.first().descriptor)
    assert Judge(half.gallery).ceiling(nowhere, half.index, 1) is None
    assert half.answer(half.with_instance(half.first(), 99), 1, 8).score is None
