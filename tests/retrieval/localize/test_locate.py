"""retrieval.localize.locate: the objects of a picture, each once, ended at its outline."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from patchify_core.imaging.boxes import iou
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.retrieval.localize import BoxSearchSettings, Localizer, LocalizeSettings, locate
from patchify_core.retrieval.localize.search import overlap
from tests.scenes import ONE, SCENES, SIZE, TWO, asked, engine_of, row_named, scene, thing, write_scenes
from tests.tiny import TinyEncoder, picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("locate") / "photos")


@pytest.fixture(scope="module")
def engine(folder):
    return engine_of(folder, folder.with_name("kept"))


@pytest.fixture(scope="module")
def query(engine):
    return asked(engine)


def matched(found, objects):
    """Best IoU of each found box with the objects, and which object that is."""
    overlaps = [iou(one.box, objects)[0] for one in found]
    return [float(row.max()) for row in overlaps], [int(row.argmax()) for row in overlaps]


def searched(search, query):
    """What the box search finds before any outline."""
    return search.search(query.descriptor, query.parts)


# Objects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, boxes in SCENES.items() if len(boxes) == 1])
@pytest.mark.parametrize("objects", [1, 3])
def test_one_object_is_found_once(engine, query, name, objects):
    found = Localizer(engine).locate(query, row_named(engine, name), objects)
    assert len(found) == 1
    assert iou(found[0].box, SCENES[name])[0, 0] > 0.75
    assert found[0].score > 0.95


@pytest.mark.parametrize("objects", [2, 3])
def test_two_objects_are_found_each_once(engine, query, objects):
    found = Localizer(engine).locate(query, row_named(engine, "two.png"), objects)
    overlaps, which = matched(found, TWO)
    assert len(found) == 2 and sorted(which) == [0, 1] and min(overlaps) > 0.75


def test_of_two_objects_the_box_is_one_and_not_the_middle(engine, query):
    """A mean over all boxes that match would lie between the two, on neither."""
    [found] = Localizer(engine).locate(query, row_named(engine, "two.png"), 1)
    assert iou(found.box, TWO).max() > 0.75


def test_more_may_be_asked_for_by_the_settings(engine, query):
    row = row_named(engine, "two.png")
    assert len(Localizer(engine).locate(query, row)) == 1
    localizer = Localizer(engine, LocalizeSettings(objects=2))
    assert len(localizer.locate(query, row)) == 2 and len(localizer.locate(query, row, 1)) == 1


def test_the_first_object_is_the_same_however_many_are_asked_for(engine, query):
    localizer = Localizer(engine)
    for row in range(len(engine.index.images)):
        first, *_ = localizer.locate(query, row, 3)
        np.testing.assert_array_equal(localizer.locate(query, row, 1)[0].box, first.box)


def test_how_alike_another_object_must_be(engine, query):
    """At 1 none is as good as the first, at 0 anything apart from it will do."""
    row = row_named(engine, "one.png")
    assert len(Localizer(engine, LocalizeSettings(another=1.01)).locate(query, row_named(engine, "two.png"), 5)) == 1
    found = Localizer(engine, LocalizeSettings(another=0.0, apart=0.2)).locate(query, row, 4)
    assert len(found) > 1


def test_a_copy_in_another_light_is_found_too(tmp_path):
    """It has less evidence than the first one, but an outline that matches; the background has neither."""
    folder = tmp_path / "photos"
    folder.mkdir()
    copy = Image.blend(picture(1005, (50, 40), cells=3), thing(), 0.8)
    made = scene(TWO[:1], seed=2)
    made.paste(copy, TWO[1][:2])
    made.save(folder / "two.png")
    scene(TWO[:1], seed=20).save(folder / "one.png")
    engine = engine_of(folder, tmp_path / "idx")
    localizer, query = Localizer(engine), asked(engine)
    found = localizer.locate(query, row_named(engine, "two.png"), 3)
    overlaps, which = matched(found, TWO)
    assert sorted(which) == [0, 1] and min(overlaps) > 0.75
    assert found[1].evidence < 0.9 * found[0].evidence
    assert len(localizer.locate(query, row_named(engine, "one.png"), 3)) == 1


def test_how_alike_a_further_object_is(engine, query):
    """The share of the first one's evidence times how much the outline counts; no limit changes it."""
    everything, usual = Localizer(engine, LocalizeSettings(another=-np.inf)), Localizer(engine)
    for row in range(len(engine.index.images)):
        first, *further = everything.locate(query, row, 4)
        assert first.alike == 1
        for one in further:
            assert one.alike == pytest.approx(one.evidence / max(first.evidence, 1e-6) * one.outlined)
        told = [one.alike for one in further]
        drawn = next((at for at, alike in enumerate(told) if alike < usual.settings.another), len(told))
        assert [one.alike for one in usual.locate(query, row, 4)] == [1, *told[:drawn]]


@pytest.mark.parametrize("apart", [0.0, 0.2, 0.5])
def test_objects_keep_apart_and_lie_inside(engine, query, apart):
    localizer = Localizer(engine, LocalizeSettings(another=-9.0, apart=apart))
    for row, image in enumerate(engine.index.images):
        found = localizer.locate(query, row, 6)
        boxes = np.array([one.box for one in found])
        assert (boxes >= 0).all() and (boxes[:, 2:] <= (image.width, image.height)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for at, box in enumerate(boxes):
            assert (overlap(boxes[:at], box) <= apart + 1e-9).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (5, 4)])
def test_pictures_of_any_shape(tmp_path, size):
    (tmp_path / "photos").mkdir()
    scene([(0, 0, *size)], size=size).save(tmp_path / "photos" / "thin.png")
    engine = engine_of(tmp_path / "photos", tmp_path / "idx")
    localizer, query = Localizer(engine), asked(engine)
    for one in localizer.locate(query, 0, 3):
        assert (one.box >= 0).all() and (one.box[2:] <= size).all() and (one.box[2:] > one.box[:2]).all()
        assert np.isfinite(one.score)
    assert np.isfinite(localizer.similarity(query, 0).values).all()


def test_a_score_is_the_boxs_own(engine, query):
    """Whatever way the box was found, its score is the cosine of its descriptor."""
    localizer = Localizer(engine)
    for row in range(len(engine.index.images)):
        search = localizer.search_of(row)
        for one in localizer.locate(query, row, 2):
            assert one.score == pytest.approx(search.match(query.descriptor, one.box / (*SIZE, *SIZE)), abs=1e-6)


def test_an_outline_is_taken_only_if_it_matches(engine, query):
    row = row_named(engine, "one.png")
    taken = Localizer(engine).locate(query, row)[0]
    left = Localizer(engine, LocalizeSettings(tolerance=0.0)).locate(query, row)[0]
    assert taken.outlined > 0.5 and not left.outlined
    np.testing.assert_allclose(taken.box, ONE[0], atol=2)
    sigma = searched(Localizer(engine).search_of(row), query).sigma
    assert taken.score >= left.score - sigma
    np.testing.assert_allclose(
        left.box,
        searched(Localizer(engine).search_of(row), query).box * (*SIZE, *SIZE),
    )


@pytest.mark.parametrize("worse", [-1.0, 0.0, 0.2, 0.5, 1.0, 3.0])
def test_the_worse_an_outline_matches_the_less_it_counts(engine, query, monkeypatch, worse):
    localizer = Localizer(engine)
    search = localizer.search_of(row_named(engine, "one.png"))
    found, outline = search.search(query.descriptor), np.array([0.1, 0.2, 0.4, 0.6])
    monkeypatch.setattr(locate, "outline_box", lambda *_: outline)
    matches = {tuple(found.box): 0.7, tuple(outline): 0.7 - worse * found.sigma}
    monkeypatch.setattr(search, "match", lambda _, box: matches.get(tuple(box), 0.0))
    weight = min(max(1 - worse, 0.0), 1.0)
    drawn = localizer._outlined(search, query.descriptor, found, [])
    assert drawn.outlined == pytest.approx(weight)
    np.testing.assert_allclose(drawn.box, weight * outline + (1 - weight) * found.box)
    taken = localizer._outlined(search, query.descriptor, found, [outline])  # another object's place
    assert taken.outlined == 0 and (taken.box == found.box).all()


def test_the_evidence_is_the_best_boxs_value_as_a_cosine(engine, query):
    row = row_named(engine, "one.png")
    found = searched(Localizer(engine).search_of(row), query)
    assert Localizer(engine).locate(query, row)[0].evidence == pytest.approx(found.score * found.sigma)


def test_a_similarity_map_is_bright_where_the_object_is(engine, query):
    values = Localizer(engine).similarity(query, row_named(engine, "low.png")).values
    height, width = values.shape
    y, x = np.unravel_index(values.argmax(), values.shape)
    x1, y1, x2, y2 = SCENES["low.png"][0]
    assert x1 <= (x + 0.5) / width * SIZE[0] <= x2 and y1 <= (y + 0.5) / height * SIZE[1] <= y2
    assert values.max() <= 1 + 1e-5 and values.min() >= -1 - 1e-5


# Where maps come from -------------------------------------------------------------------------------------


def test_crops_cannot_be_searched(folder, tmp_path, refused):
    engine = engine_of(folder, tmp_path / "crops", "crop", keep_maps=False)
    assert "--features pooled" in refused(Localizer, engine)


def test_without_kept_maps_the_pictures_are_looked_at_again(folder, engine, query, tmp_path):
    plain = engine_of(folder, tmp_path / "plain", keep_maps=False)
    assert plain.index.maps is None
    encoder = TinyEncoder()
    looking, kept = Localizer(Patchify(plain.index, encoder)), Localizer(engine)
    for row, name in enumerate(image.file_name for image in engine.index.images):
        fresh, known = looking.locate(query, row, 2), kept.locate(query, row, 2)
        assert len(fresh) == len(known) or name == "none.png"
        boxes = [searched(one.search_of(row), query).box for one in (looking, kept)]
        assert iou(*boxes)[0, 0] > 0.95
        if SCENES[name]:  # the outline may differ, for the kept thumbnail is a JPEG
            for one, other in zip(fresh, known, strict=True):
                assert iou(one.box, other.box)[0, 0] > 0.6 and one.score == pytest.approx(other.score, abs=0.03)
        np.testing.assert_allclose(looking.similarity(query, row).values, kept.similarity(query, row).values, atol=0.02)
    assert len(encoder.maps) == len(SCENES)  # once each, not once a question
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TinyEncoder, "feature_map", lambda *_: pytest.fail("kept maps need no second pass"))
        Localizer(engine).locate(query, 0)


def test_a_large_photograph_is_read_as_the_index_read_it(tmp_path):
    """At a fraction of its size; boxes are in pixels of all of it."""
    (tmp_path / "photos").mkdir()
    scene([(700, 700, 1400, 1250)], size=(2001, 1501)).save(tmp_path / "photos" / "large.jpg", quality=95)
    plain = engine_of(tmp_path / "photos", tmp_path / "plain", keep_maps=False)
    kept = engine_of(tmp_path / "photos", tmp_path / "kept")
    for engine in (plain, kept):
        [found] = Localizer(engine).locate(asked(engine), 0)
        assert iou(found.box, [700, 700, 1400, 1250])[0, 0] > 0.75


@pytest.mark.parametrize("what", ["vanished", "changed", "changed to the same length", "gallery moved", "no root"])
def test_a_picture_that_is_not_there_any_more(folder, tmp_path, query, refused, what):
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos)
    engine = engine_of(photos, tmp_path / "idx", keep_maps=False)
    if what == "vanished":
        (photos / "one.png").unlink()
    elif what == "changed":
        Image.new("RGB", SIZE).save(photos / "one.png")
    elif what == "changed to the same length":
        (photos / "one.png").write_bytes(b"x" * (photos / "one.png").stat().st_size)
    elif what == "gallery moved":
        photos.rename(tmp_path / "elsewhere")
    else:
        engine.index.root = None
    localizer, row = Localizer(engine), row_named(engine, "one.png")
    said = refused(localizer.locate, query, row)
    assert "one.png" in said or what == "no root"
    assert refused(localizer.similarity, query, row) == said


@pytest.mark.parametrize("what", ["cut", "overwritten"])
def test_kept_maps_that_are_damaged_later(folder, tmp_path, query, refused, what):
    """What is there when an index is opened is checked then; this is about the time after."""
    engine = engine_of(folder, tmp_path / "idx")
    path = tmp_path / "idx" / "maps.bin"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:200])
    else:
        path.write_bytes(b"\0" * path.stat().st_size)
    assert "build the index again" in refused(Localizer(engine).locate, query, 0)


def test_a_damaged_file_of_maps_is_refused_when_the_index_is_opened(folder, tmp_path, refused):
    engine_of(folder, tmp_path / "idx")
    path = tmp_path / "idx" / "maps.bin"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert "maps.bin" in refused(PatchIndex.load, tmp_path / "idx")
    path.unlink()
    assert "maps.bin" in refused(PatchIndex.load, tmp_path / "idx")


# Kept ready -----------------------------------------------------------------------------------------------


def test_a_few_maps_stay_ready(engine, query, monkeypatch):
    localizer = Localizer(engine, LocalizeSettings(cached=2))
    read = []
    real = type(engine.index.maps).packed
    monkeypatch.setattr(type(engine.index.maps), "packed", lambda self, row: read.append(row) or real(self, row))
    for row in (0, 1, 0, 2, 0, 1, 1):
        localizer.locate(query, row)
        assert len(localizer._ready) <= 2
    assert read == [0, 1, 2, 1]  # the one that was not asked for longest goes first


def test_the_order_of_questions_changes_nothing(engine, query):
    rows = range(len(engine.index.images))
    localizer, small = Localizer(engine), Localizer(engine, LocalizeSettings(cached=1))
    there = [localizer.locate(query, row, 2) for row in rows]
    back = [small.locate(query, row, 2) for row in reversed(rows)][::-1]
    assert_same(there, back)


def assert_same(one, other):
    for found, again in zip(one, other, strict=True):
        assert len(found) == len(again)
        for a, b in zip(found, again, strict=True):
            np.testing.assert_array_equal(a.box, b.box)
            assert (a.score, a.outlined, a.evidence) == (b.score, b.outlined, b.evidence)


@pytest.mark.parametrize("cached", [1, 24])
def test_from_several_threads(engine, query, cached):
    rows = [*range(len(engine.index.images))] * 4
    alone = [Localizer(engine).locate(query, row, 2) for row in rows[: len(engine.index.images)]] * 4
    localizer = Localizer(engine, LocalizeSettings(cached=cached))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda row: localizer.locate(query, row, 2), rows))
    assert_same(found, alone)
    assert len(localizer._ready) <= cached


def test_settings_reach_the_search(engine, query):
    settings = LocalizeSettings(search=replace(BoxSearchSettings(), contrast=0.0))
    row = row_named(engine, "one.png")
    found = searched(Localizer(engine, settings).search_of(row), query)
    assert found.score * found.sigma <= 1 + 1e-6  # a cosine and nothing else
