"""The handout without a browser: one query with its numbers, and an exercise."""

from __future__ import annotations

import re

import pytest

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.walk import WalkChoice, made_up_score, walk
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from patchify_core.web.views.handout import EXERCISE, handout
from tests.tiny import TinyEncoder, write_dataset


@pytest.fixture(scope="module")
def bundled(sample_db, lite0) -> ExampleGallery:
    return ExampleGallery(sample_db, lite0)


def test_handout_has_the_searchs_numbers_and_carries_its_pictures(bundled) -> None:
    text = handout(bundled)
    shown = walk(bundled, bundled.first(), WalkChoice())
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "<script" not in text
    for line in shown.standing.lines:
        assert f"<td>{line.row.running:.3f}</td>" in text
    assert f"<td>{shown.standing.score.locscore:.3f}</td>" in text
    winner = shown.look.winners[-1]
    assert f"<b>{shown.look.explanation.scores[winner]:.3f}</b>" in text
    answer = made_up_score(*EXERCISE)
    assert answer.locscore == pytest.approx((1 * 0.8 + 2 / 3 * 0.5 + 3 / 6 * 0.9) / 4)
    # In the answer, and nowhere before it.
    assert text.count(f"= {answer.locscore:.3f}") == 1
    assert text.index(f"= {answer.locscore:.3f}") > text.index('class="answer"')


def test_handout_is_of_the_query_at_hand(bundled) -> None:
    other = bundled.example(bundled.examples[5].id, "index")
    shown = walk(bundled, other, WalkChoice("index", level=3))
    text = handout(bundled, shown)
    assert f"One real query: {shown.name}" in text
    assert f"{shown.standing.score.locscore:.3f}</td>" in text and "4×4" not in text.split("One real query")[1]
    # One's own picture, of which nobody said what it is, has no arithmetic; the exercise stays.
    unknown = walk(bundled, bundled.with_instance(other, None), WalkChoice("index"))
    text = handout(bundled, unknown)
    assert "nothing to add up" in text and "Your turn" in text and "match, good box" not in text


@pytest.mark.parametrize("regions", ["pyramid:3", "sliding:0.5,0.5"])
def test_handout_of_an_index_without_grids_and_of_a_small_gallery(tmp_path, regions) -> None:
    gallery = read_coco(write_dataset(tmp_path / "set"))
    build_index(gallery, gallery.root / "index", TinyEncoder(), parse_regions(regions))
    assert "One real query" in handout(ExampleGallery(gallery.root, TinyEncoder()))
