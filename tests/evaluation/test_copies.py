"""evaluation.study.copies: all copies found against second boxes on one copy, by limits; and the pasted scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.evaluation.study.copies import (
    EACH,
    IOUS,
    NEVER,
    LocatedCopies,
    curve,
    cut_out,
    highest_limit,
    limit_for,
    limit_of,
    locate_copies,
    scenes,
    shares,
)
from patchify_core.gallery import read_coco
from patchify_core.imaging.boxes import iou
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid
from patchify_core.retrieval.localize import Localizer, LocalizeSettings
from tests.scenes import scene
from tests.tiny import TinyEncoder, picture

coordinate = st.integers(0, 8)
box = st.tuples(coordinate, coordinate, st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def slow_found(boxes, alike, copies, least, limit):
    """Draws the boxes of one limit and tries every way to give each copy one of them."""
    drawn = 1
    while drawn < len(boxes) and alike[drawn] >= limit:
        drawn += 1
    overlaps = iou(boxes[:drawn], copies)
    ways = permutations(range(drawn), len(copies))
    return any(all(overlaps[row, column] >= least for column, row in enumerate(way)) for way in ways)


@settings(deadline=None)  # the first call imports scipy.optimize
@given(
    st.lists(st.tuples(box, st.sampled_from([-0.5, 0.2, 0.5, 0.9])), min_size=1, max_size=4),
    st.lists(box, min_size=1, max_size=3),
)
def test_the_highest_limit_is_where_the_slow_way_stops_finding_all(found, copies):
    boxes, alike = [one for one, _ in found], [1.0, *(score for _, score in found[1:])]
    for least in (0.1, *IOUS):
        highest = highest_limit(boxes, alike, copies, least)
        for limit in (NEVER, -0.5, 0.0, 0.2, 0.5, 0.7, 0.9, 1.5):
            assert (limit <= highest and highest > NEVER) == slow_found(boxes, alike, copies, least, limit)


def test_a_box_finds_one_copy_only():
    one, twice = [[0, 0, 4, 4]], [[0, 0, 4, 4], [0, 0, 4, 4]]
    assert highest_limit(one, [1], twice, 0.5) == NEVER and highest_limit(twice, [1, 0.3], twice, 0.5) == 0.3


def test_boxes_after_a_less_alike_one_are_not_drawn():
    assert limit_of([1, 0.4, 0.8], 3) == 0.4 and limit_of([1, 0.4, 0.8], 4) == NEVER and limit_of([1], 1) == np.inf


def made_looks(seed, count=60):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (count, 3)) / 5
    values[rng.random((count, 3)) < 0.2] = NEVER
    return [
        LocatedCopies(int(copies), False, row[0], row[1:])
        for copies, row in zip(rng.integers(1, 4, count), values, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_counted_by_hand(seed):
    found = made_looks(seed)
    for limit in (NEVER, -1.0, 0.0, 0.5, 0.6, 2.0):
        told = shares(found, limit)
        once = [one.second >= limit and one.second > NEVER for one in found if one.copies == 1]
        assert told.second == pytest.approx(np.mean(once))
        for at, share in enumerate(told.all_found):
            limits = [one.all_found[at] for one in found if one.copies > 1]
            assert share == pytest.approx(np.mean([highest >= limit and highest > NEVER for highest in limits]))


@pytest.mark.parametrize("seed", range(4))
def test_the_limit_for_a_share_is_the_lowest_one(seed):
    found = made_looks(seed)
    for second in (0.0, 0.05, 0.3, 1.0):
        limit = limit_for(found, second)
        assert shares(found, limit).second <= second
        lower = [one.second for one in found if one.copies == 1 and one.second < limit]
        assert not lower or shares(found, max(lower)).second > second
    told = curve(found)
    assert [one.second for one in told] == sorted(one.second for one in told)
    assert np.isnan(shares([], 0.5).second)


# Pasted pictures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """Two objects, each once in four pictures and in a query; what they look like is `tests.scenes`."""
    folder = tmp_path_factory.mktemp("several") / "dataset"
    (folder / "gallery").mkdir(parents=True)
    images, annotations = [], []
    for number in range(10):
        shown, split = number % 2, "query" if number > 7 else "gallery"
        left, top = 20 + 7 * number, 15 + 5 * number
        made = scene([], seed=number)
        made.paste(picture(1002 + shown, (50, 40), cells=3), (left, top))
        name = f"gallery/{number}.png"
        made.save(folder / name)
        images.append({"id": number + 1, "file_name": name, "width": 160, "height": 120, "split": split})
        annotations.append({"image_id": number + 1, "category_id": shown + 1, "bbox": [left, top, 50, 40]})
    names = [{"id": 1, "name": "rug"}, {"id": 2, "name": "quilt"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": names})
    (folder / "annotations.json").write_text(text, encoding="utf-8")
    return read_coco(folder)


ALIKE = {1: [2], 2: [1]}


def test_pasted_pictures_are_the_same_for_a_seed_and_others_for_another(gallery):
    one, again, other = (list(scenes(gallery, ALIKE, seed)) for seed in (0, 0, 1))
    assert len(one) == len(again) == 2 * 2 * EACH
    for first, second in zip(one, again, strict=True):
        assert first.picture.tobytes() == second.picture.tobytes() and (first.boxes == second.boxes).all()
    assert any(first.picture.tobytes() != third.picture.tobytes() for first, third in zip(one, other, strict=False))


def test_pasted_pictures_show_what_they_say(gallery):
    found = list(scenes(gallery, ALIKE))
    assert sorted({len(one.boxes) for one in found}) == [1, 2, 3]
    for several, once in zip(found[::2], found[1::2], strict=True):
        assert len(several.boxes) > 1 and len(once.boxes) == 1 and several.query is once.query
        boxes = several.boxes
        assert (boxes >= 0).all() and (boxes[:, 2:] <= several.picture.size).all()
        np.fill_diagonal(crossed := iou(boxes, boxes), 0)
        assert crossed.max() == 0
        changed = np.abs(np.asarray(several.picture, int) - np.asarray(once.picture, int)).max(axis=2)
        x1, y1, x2, y2 = boxes[0].astype(int)
        assert changed.any() and not changed[y1:y2, x1:x2].any()


def test_what_is_cut_out_is_the_object(gallery):
    made = scene([(40, 30, 90, 70)])
    piece = cut_out(made, np.array([40.0, 30, 90, 70]))
    assert piece.size == (50, 40) and np.asarray(piece)[5:-5, 5:-5, 3].min() > 250
    assert (
        cut_out(scene([]), np.array([40.0, 30, 90, 70])) is None
        or cut_out(scene([]), np.array([0.0, 0, 160, 120])) is None
    )


@pytest.fixture(scope="module")
def engine(gallery, tmp_path_factory):
    out = tmp_path_factory.mktemp("several") / "idx"
    build_index(gallery, out, TinyEncoder(), Pyramid(3), BuildSettings(features="pooled:128", keep_maps=True))
    return Patchify(PatchIndex.load(out), TinyEncoder())


def test_looks_are_what_the_localizer_finds(gallery, engine):
    found = locate_copies(gallery, engine)
    own, made = [one for one in found if not one.pasted], [one for one in found if one.pasted]
    assert [one.copies for one in made] == [len(one.boxes) for one in scenes(gallery, ALIKE)]
    localizer = Localizer(engine, LocalizeSettings(another=NEVER))
    pairs = [(query, image) for query in gallery.queries for image in gallery.positives(query.instance)]
    assert len(pairs) == len(own) == 8
    for (query, image), one in zip(pairs, own, strict=True):
        objects = localizer.locate(engine.describe_query(query.path, query.box), engine.index.row_of[image], 2)
        assert one.copies == 1 and one.second == (objects[1].alike if len(objects) > 1 else NEVER)
        copies = gallery.boxes_of(image, query.instance)
        for least, limit in zip(IOUS, one.all_found, strict=True):
            assert limit == highest_limit([o.box for o in objects], [o.alike for o in objects], copies, least)


def test_copies_are_found_and_one_object_has_one_box(gallery, engine):
    """At the limit that is shipped; the tiny encoder cannot tell the look-alikes, which are left out."""
    told = shares(
        [one for one in locate_copies(gallery, engine) if one.copies > 1 or not one.pasted], LocalizeSettings().another
    )
    assert told.all_found[0] >= 0.8 and told.second == 0


def test_nothing_to_measure_is_one_sentence(gallery, engine, refused):
    assert "nothing can be measured" in refused(locate_copies, replace(gallery, queries=()), engine)
