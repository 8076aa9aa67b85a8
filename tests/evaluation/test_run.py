"""evaluation.run: a hand calculation, the refusals, and the numbers of the bundled gallery."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import faiss
import numpy as np
import pytest
from PIL import Image

from patchify_core.encoders import EncoderInfo
from patchify_core.evaluation.metrics import grid_ceiling, score_positives
from patchify_core.evaluation.record import as_json
from patchify_core.evaluation.run import evaluate, find_in_matches, score_matches
from patchify_core.gallery import Annotations, Gallery, GalleryImage, Query
from patchify_core.index.codec.codes import Codes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.searcher import QueryView
from tests.tiny import TinyEncoder, picture

CUP, HAT, FOX = 1, 2, 3
PLANE = EncoderInfo("plane", 2, 8, "0" * 64, "none", "none")

# Cosine with the query, image by image: of the whole picture, and of its best quadrant (top left).
WHOLE = {10: 0.10, 20: 0.20, 30: 0.30, 40: 0.40, 50: 0.50, 60: 0.60, 70: 0.05}
QUADRANT = {10: 0.95, 20: 0.90, 30: 0.85, 40: 0.80, 50: 0.75, 60: 0.70, 70: 0.65}
# So at level 2 the ranking is 10, 20, ..., 70 and at level 1 it is 60, 50, 40, 30, 20, 10, 70.


def at(cosine):
    return [cosine, math.sqrt(1 - cosine * cosine)]


class Stub(Patchify):
    """Every query is the first axis; the index holds cosines as written above."""

    def view(self, picture=None, box=None, text=None):
        descriptor = np.array([1, 0], np.float32) if text is None else self.describe_text(text)
        image = Image.open(picture) if picture is not None and Path(picture).is_file() else None
        return QueryView(descriptor, image, box)


@pytest.fixture
def engine():
    codes = faiss.IndexFlatIP(2)
    for image_id, whole in WHOLE.items():
        cells = [at(whole), at(QUADRANT[image_id]), at(-0.5), at(-0.5), at(-0.5)]
        codes.add(np.array(cells, np.float32))
    images = [IndexedImage(i, f"{i}.jpg", 100, 100, 1, "") for i in WHOLE]
    encoder = TinyEncoder(PLANE)
    return Stub(PatchIndex(Recipe(PLANE, Pyramid(2)), Pictures(images), Codes("Flat", codes)), encoder)


def gallery_of(rows, queries):
    """rows: (image, instance, box or None, ignore); queries: (id, instance, exclude)."""
    boxes = np.array([[math.nan] * 4 if box is None else box for _, _, box, _ in rows], float).reshape(-1, 4)
    return Gallery(
        Path("here"),
        tuple(GalleryImage(i, f"{i}.jpg", Path(f"{i}.jpg"), 100, 100) for i in WHOLE),
        tuple(Query(i, "q.jpg", Path("q.jpg"), 50, 50, None, inst, frozenset(out)) for i, inst, out in queries),
        {CUP: "cup", HAT: "hat", FOX: "fox"},
        Annotations(
            np.array([row[0] for row in rows], np.int64),
            np.array([row[1] for row in rows], np.int64),
            boxes,
            np.array([row[3] for row in rows], bool),
            np.full(len(rows), math.nan),
        ),
    )


# The worked example: three positives, the winning quadrants (0,0,50,50) of two of them overlap by 0.6 and 0.3.
WORKED = [
    (20, CUP, [0, 0, 50, 30], False),
    (50, CUP, [0, 0, 50, 15], False),
    (70, CUP, [50, 50, 100, 100], False),  # another quadrant than the winning one: IoU 0
]


def test_the_worked_example(engine):
    [report] = evaluate(gallery_of(WORKED, [(1, CUP, ())]), engine, levels=[2], cutoff=5)
    assert report.report.map == pytest.approx((1 / 2 + 2 / 5) / 3)  # 0.3; rank 7 is beyond the cut-off
    assert report.report.locscore == pytest.approx((0.5 * 0.6 + 0.4 * 0.3) / 3)  # 0.14


def test_every_level_by_hand(engine):
    first, second = evaluate(gallery_of(WORKED, [(1, CUP, ())]), engine)
    assert (first.level, second.level) == (1, 2)
    # Level 1: positives 50, 20, 70 at ranks 2, 5, 7; the box is the whole picture.
    assert first.report.map == pytest.approx((1 / 2 + 2 / 5 + 3 / 7) / 3)
    assert first.report.locscore == pytest.approx((1 / 2 * 0.075 + 2 / 5 * 0.15 + 3 / 7 * 0.25) / 3)
    # Level 2: positives 20, 50, 70 at ranks 2, 5, 7.
    assert second.report.map == pytest.approx((1 / 2 + 2 / 5 + 3 / 7) / 3)
    assert second.report.locscore == pytest.approx((1 / 2 * 0.6 + 2 / 5 * 0.3 + 0) / 3)
    assert second.report.mean_iou == pytest.approx((0.6 + 0.3 + 0) / 3)
    assert second.report.recall == {1: 0, 5: 1, 10: 1}


def test_excluded_and_ignored_images_leave_the_ranking(engine):
    rows = [*WORKED, (10, CUP, [0, 0, 9, 9], True)]
    gallery = gallery_of(rows, [(1, CUP, [30, 70])])
    [report] = evaluate(gallery, engine, levels=[2])
    # 10 is ignored, 30 and 70 excluded: what is left is 20, 40, 50, 60 with positives at ranks 1 and 3.
    assert report.report.map == pytest.approx((1 + 2 / 3) / 2)
    assert report.report.locscore == pytest.approx((1 * 0.6 + 2 / 3 * 0.3) / 2)


def test_averages_are_over_queries_that_have_positives(engine):
    rows = [*WORKED, (10, HAT, None, False)]
    told = []
    gallery = gallery_of(rows, [(1, CUP, ()), (2, HAT, ()), (3, FOX, ())])
    [report] = evaluate(gallery, engine, levels=[2], progress=lambda *args: told.append(args))
    assert (report.report.queries, report.report.left_out, report.report.without_boxes) == (2, (3,), 1)
    assert report.report.map == pytest.approx(((1 / 2 + 2 / 5 + 3 / 7) / 3 + 1) / 2)
    assert report.report.recall[1] == 0.5
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_score_matches_without_positives(engine):
    gallery = gallery_of(WORKED, [(1, FOX, ())])
    assert (
        score_matches(engine.search_descriptor(engine.describe_query("any"), None), gallery, gallery.queries[0]) is None
    )


@pytest.mark.parametrize("change", ["one less", "one more", "another name", "another id"])
def test_an_index_of_other_pictures_is_refused(engine, change, refused):
    gallery = gallery_of(WORKED, [(1, CUP, ())])
    images = list(gallery.images)
    if change == "one less":
        images.pop()
    elif change == "one more":
        images.append(GalleryImage(80, "80.jpg", Path("80.jpg"), 100, 100))
    elif change == "another name":
        images[0] = dataclasses.replace(images[0], file_name="other.jpg")
    else:
        images[0] = dataclasses.replace(images[0], id=11)
    assert "index it again" in refused(evaluate, dataclasses.replace(gallery, images=tuple(images)), engine)


def test_nothing_to_ask_is_refused(engine, refused):
    assert "no queries" in refused(evaluate, gallery_of(WORKED, []), engine)


def test_queries_without_any_positive_are_refused(engine, refused):
    assert "positive" in refused(evaluate, gallery_of(WORKED, [(1, FOX, ())]), engine)


def test_a_level_that_the_index_lacks_is_refused(engine, refused):
    assert "levels 1 to 2" in refused(evaluate, gallery_of(WORKED, [(1, CUP, ())]), engine, levels=[3])


def test_json_has_the_stable_keys(engine):
    reports = evaluate(gallery_of(WORKED, [(1, CUP, ())]), engine)
    numbers = json.loads(json.dumps(as_json(reports, bytes_per_image=40, images_per_s=2.5)))
    stable = {"map", "locscore", "mean_iou", "recall@1", "queries", "images_per_s", "ms_per_query", "bytes_per_image"}
    assert stable <= numbers.keys()
    assert numbers["map"] == reports[-1].report.map and numbers["locscore"] == reports[-1].report.locscore
    assert (numbers["bytes_per_image"], numbers["images_per_s"], numbers["queries"]) == (40, 2.5, 1)
    assert [level["regions"] for level in numbers["levels"]] == ["pyramid:1", "pyramid:2"]
    assert numbers["levels"][0]["locscore"] == reports[0].report.locscore
    # The finest level's numbers stand on top in whatever order the levels were asked for.
    assert as_json(reports[::-1], bytes_per_image=40, images_per_s=2.5)["map"] == reports[-1].report.map


def cell_boxes(engine, image_ids, level):
    """The boxes that a match at `level` could have in each picture, for `metrics.grid_ceiling`."""
    patches = engine.index.regions.stages[engine.index.checked_level(level) - 1].patches
    return {i: engine.index.boxes_of(engine.index.row_of[i])[:patches] for i in image_ids}


def test_cell_boxes_for_the_ceiling(engine):
    gallery = gallery_of(WORKED, [(1, CUP, ())])
    positives = gallery.positives(CUP)
    cells = cell_boxes(engine, list(positives), level=2)
    assert {len(boxes) for boxes in cells.values()} == {5}
    # No ranking can do better than its grid: 0.6, 0.3, and a quadrant that fits exactly.
    assert grid_ceiling(cells, positives) == pytest.approx((0.6 + 0.3 + 1) / 3)
    assert {len(boxes) for boxes in cell_boxes(engine, list(positives), level=1).values()} == {1}


# The bundled gallery --------------------------------------------------------------------------------------

REFERENCE = {1: (0.476, 0.092), 2: (0.654, 0.166), 3: (0.769, 0.239), 4: (0.829, 0.276)}


@pytest.fixture(scope="module")
def bundled(sample_gallery, sample_engine):
    return {report.level: report.report for report in evaluate(sample_gallery, sample_engine)}


@pytest.mark.parametrize("level", REFERENCE)
def test_the_bundled_gallerys_numbers(bundled, level):
    # Measured by others with the same encoder in float32; ours are kept in one byte a number.
    assert bundled[level].map == pytest.approx(REFERENCE[level][0], abs=0.01)
    assert bundled[level].locscore == pytest.approx(REFERENCE[level][1], abs=0.01)
    assert bundled[level].queries == 36 and bundled[level].left_out == ()


def test_finer_grids_are_better_on_the_bundled_gallery(bundled):
    for finer in (2, 3, 4):
        assert bundled[finer].map > bundled[finer - 1].map
        assert bundled[finer].locscore > bundled[finer - 1].locscore


# From arrays, from matches, re-ranked ---------------------------------------------------------------------


def test_a_lazy_ranking_and_its_matches_give_the_same_scores(sample_gallery, sample_engine):
    """To the last bit, although boxes are made for the positives only."""
    for query in sample_gallery.queries[:8]:
        descriptor = sample_engine.describe_query(query.path, query.box)
        for level in (1, 3, 4):
            found = find_in_matches(sample_engine.ranking(descriptor, level), sample_gallery, query)
            matches = sample_engine.search_descriptor(descriptor, top=None, level=level)
            for cutoff in (None, 3, 1000):
                fast, slow = score_positives(found, cutoff), score_matches(matches, sample_gallery, query, cutoff)
                for one, other in zip(vars(fast).values(), vars(slow).values(), strict=True):
                    assert np.array_equal(np.array(one, float), np.array(other, float), equal_nan=True)


def test_boxes_are_made_for_positives_only(engine, monkeypatch):
    gallery = gallery_of(WORKED, [(1, CUP, ())])
    made = []
    real = type(engine.index).box_of
    monkeypatch.setattr(type(engine.index), "box_of", lambda self, *at: made.append(at) or real(self, *at))
    evaluate(gallery, engine, levels=[2])
    assert sorted(made) == [(0, 1), (1, 1), (4, 1), (6, 1)]  # and for the first of all, which is shown


def test_a_cutoff_fetches_no_more_than_it_needs(engine, monkeypatch):
    monkeypatch.setattr("patchify_core.evaluation.run.AT_1K", 2)
    rows = [*WORKED, (10, CUP, None, True)]
    gallery = gallery_of(rows, [(1, CUP, [30])])
    tops = []
    real = type(engine.index).search
    monkeypatch.setattr(
        type(engine.index), "search", lambda self, q, top, level: tops.append(top) or real(self, q, top, level)
    )
    [whole] = evaluate(gallery, engine, levels=[2])
    for cutoff in range(1, 8):
        [report] = evaluate(gallery, engine, levels=[2], cutoff=cutoff)
        # Three positives, one ignored and one excluded image may leave the ranking before ranks are counted.
        # One more shows whether the last of them is in a tie that goes on.
        assert tops[-1] == max(cutoff, 2) + 5 + 1
        assert report.at_1k == whole.at_1k
        if cutoff == 7:
            assert report.report == whole.report and report.breakdown == whole.breakdown


def test_a_tie_that_a_cutoff_meets_is_fetched_whole(monkeypatch):
    """Or its other images would be taken for images with a lower score."""
    monkeypatch.setattr("patchify_core.evaluation.run.AT_1K", 1)
    codes = faiss.IndexFlatIP(2)
    codes.add(np.array([at(cosine) for cosine in (0.9, *[0.5] * 6)], np.float32))
    images = [IndexedImage(i, f"{i}.jpg", 100, 100, 1, "") for i in WHOLE]
    engine = Stub(PatchIndex(Recipe(PLANE, Pyramid(1)), Pictures(images), Codes("Flat", codes)), TinyEncoder(PLANE))
    [report] = evaluate(gallery_of([(20, CUP, None, False)], [(1, CUP, ())]), engine, cutoff=2)
    # One of six images with the same score is at rank 2, and it is the positive in one of six orders.
    assert report.report.map == pytest.approx(1 / 2 / 6)


def test_at_1k_stands_beside_the_uncut_numbers(engine, monkeypatch):
    monkeypatch.setattr("patchify_core.evaluation.run.AT_1K", 2)
    [report] = evaluate(gallery_of(WORKED, [(1, CUP, ())]), engine, levels=[2])
    assert report.at_1k.map == pytest.approx(1 / 2 / 2) and report.at_1k.locscore == pytest.approx(1 / 2 * 0.6 / 2)
    numbers = as_json([report], 40, None)
    assert numbers["map@1k"] == report.at_1k.map and numbers["locscore@1k"] == report.at_1k.locscore
    assert numbers["map"] == pytest.approx((1 / 2 + 2 / 5 + 3 / 7) / 3) and numbers["ms_per_rerank"] is None


def test_levels_are_reported_once_and_in_order(engine, refused):
    gallery = gallery_of(WORKED, [(1, CUP, ())])
    assert [report.level for report in evaluate(gallery, engine, levels=[2, 1, 2])] == [1, 2]
    assert "at least one level" in refused(evaluate, gallery, engine, levels=[])


class Backwards:
    """A re-ranker whose work is easy to see: it turns the ranking round, and moves every box."""

    name, shortlist, needs_picture = "backwards", 1, True

    def __init__(self):
        self.asked = []

    def rerank(self, engine, query, matches, level):
        self.asked.append((query, level))
        whole = np.array([0.0, 0.0, 100.0, 100.0])
        return [dataclasses.replace(match, box=whole) for match in reversed(matches)]


def test_a_query_may_be_words(engine):
    """They are described as words, for a re-ranker too, and the file they are written in is not opened."""
    told = []
    engine.describe_text = lambda words: told.append(words) or engine.describe_query(None)
    gallery = gallery_of(WORKED, [(1, CUP, [10])])
    [plain] = evaluate(gallery, engine, levels=[2])
    gallery = dataclasses.replace(gallery, queries=(dataclasses.replace(gallery.queries[0], text="a red cup"),))
    [report] = evaluate(gallery, engine, levels=[2])
    assert report.report == plain.report and told == ["a red cup"]
    reranker = Backwards()
    evaluate(gallery, engine, levels=[2], reranker=reranker)
    assert reranker.asked[0][0].picture is None and reranker.asked[0][0].exclude == {10} and len(told) == 2


def test_a_reranker_orders_before_the_scores(engine, tmp_path):
    path = tmp_path / "q.png"
    picture(1, (50, 50)).save(path)
    gallery = gallery_of(WORKED, [(1, CUP, [10])])
    box = np.array([5.0, 5, 20, 20])
    gallery = dataclasses.replace(gallery, queries=(dataclasses.replace(gallery.queries[0], path=path, box=box),))
    reranker = Backwards()
    first, second = evaluate(gallery, engine, reranker=reranker)
    # Level 2, turned round and without 10: 70, 60, 50, 40, 30, 20: positives at ranks 1, 3 and 6.
    assert second.report.map == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert second.report.locscore == pytest.approx((1 * 0.25 + 2 / 3 * 0.075 + 3 / 6 * 0.15) / 3)
    assert first.ms_per_rerank >= 0 and second.ms_per_rerank >= 0
    assert [level for _, level in reranker.asked] == [1, 2]
    for view, _ in reranker.asked:
        # The query's own pictures take no part in the re-ranking, nor does it get another object than was asked for.
        assert view.exclude == {10} and view.picture.size == (50, 50) and view.box.tolist() == box.tolist()
