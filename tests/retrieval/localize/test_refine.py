"""retrieval.localize.refine: the same ranking with better boxes, by name and through the facade."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from patchify_core.imaging.boxes import iou
from patchify_core.regions import parse_regions
from patchify_core.retrieval.localize import (
    REFINERS,
    Localizer,
    LocalizeSettings,
    MapRefiner,
    SoftRefiner,
    expected_box,
    load_refiner,
    refine_matches,
)
from patchify_core.retrieval.ranking import Verification
from tests.scenes import SCENES, TWO, asked, engine_of, row_named, scene, write_scenes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("refine") / "photos")


@pytest.fixture(scope="module")
def engine(folder):
    return engine_of(folder, folder.with_name("kept"))


@pytest.fixture(scope="module")
def crops(folder):
    return engine_of(folder, folder.with_name("crops"), "crop", keep_maps=False)


@pytest.fixture(scope="module")
def query(engine):
    return asked(engine)


def same_but_for_boxes(refined, matches):
    assert [match.image_id for match in refined] == [match.image_id for match in matches]
    for one, other in zip(refined, matches, strict=True):
        assert (one.score, one.patch, one.file_name) == (other.score, other.patch, other.file_name)
        assert one.verification is other.verification


# By name --------------------------------------------------------------------------------------------------


def test_refiners_are_had_by_name(engine):
    assert {name: load_refiner(name, engine).name for name in REFINERS} == {"soft": "soft", "map": "map"}
    assert isinstance(load_refiner("soft", engine), SoftRefiner) and isinstance(load_refiner("map", engine), MapRefiner)
    assert engine.refiner("map") is engine.refiner("map")  # its maps stay ready


@pytest.mark.parametrize("name", ["", "Map", "mapp", "grabcut", "soft,map"])
def test_unknown_names_are_refused(engine, refused, name):
    said = refused(load_refiner, name, engine)
    assert "choose soft or map" in said and (f"'{name}'" in said)
    assert "the nearest is map" in said if name in ("Map", "mapp") else True


def test_settings_reach_the_search(engine, query):
    row = row_named(engine, "two.png")
    refiner = load_refiner("map", engine, LocalizeSettings(objects=2))
    assert len(refiner.boxes(query, [row])[0]) == 2
    assert len(load_refiner("map", engine).boxes(query, [row])[0]) == 1


# Soft -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [None, 1, 2, 3])
@pytest.mark.parametrize("kind", ["crops", "engine"])
def test_soft_is_the_expected_box_of_the_cells(request, kind, level):
    engine = request.getfixturevalue(kind)
    query = asked(engine)
    rows = [3, 0, 5]
    found = load_refiner("soft", engine).boxes(query, rows, level)
    for row, boxes in zip(rows, found, strict=True):
        image = engine.index.images[row]
        shown = engine.explain(query.descriptor, image.id, level)
        assert boxes.shape == (1, 4)
        np.testing.assert_array_equal(boxes[0], expected_box(shown.boxes, shown.scores))
    if level == 1:
        np.testing.assert_array_equal(found[0][0], [0, 0, 160, 120])


def test_soft_works_where_boxes_depend_on_the_pixels(folder, tmp_path):
    engine = engine_of(folder, tmp_path / "idx", "crop", False, parse_regions("pyramid:1+salient:6"))
    query = asked(engine)
    for match in engine.search_descriptor(query.descriptor):
        [refined] = engine.refine(query, [match], "soft")
        assert (refined.box >= 0).all() and (refined.box[2:] <= (160, 120)).all()


def test_soft_lies_closer_to_an_object_between_cells(folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    between = (55, 40, 105, 80)
    scene([between]).save(photos / "between.png")
    engine = engine_of(photos, tmp_path / "idx", "crop", False, parse_regions("sliding:0.35,0.3"))
    query = asked(engine)
    [match] = engine.search_descriptor(query.descriptor)
    [refined] = engine.refine(query, [match], "soft")
    assert iou(refined.box, between)[0, 0] > iou(match.box, between)[0, 0]


# Map ------------------------------------------------------------------------------------------------------


def test_map_is_what_is_located(engine, query):
    rows = [4, 1, 0, 2]
    localizer = Localizer(engine, LocalizeSettings(objects=2))
    found = load_refiner("map", engine, LocalizeSettings(objects=2)).boxes(query, rows)
    for row, boxes in zip(rows, found, strict=True):
        np.testing.assert_array_equal(boxes, [one.box for one in localizer.locate(query, row)])
    assert load_refiner("map", engine).boxes(query, []) == []


def test_the_level_does_not_matter_to_a_map(engine, query):
    refiner = load_refiner("map", engine)
    for level in (1, 3):
        np.testing.assert_array_equal(refiner.boxes(query, [0, 1], level), refiner.boxes(query, [0, 1]))


def test_map_is_refused_on_crops_in_one_sentence(crops, refused):
    said = refused(load_refiner, "map", crops)
    assert "made of crops" in said and "--features pooled" in said and "soft" in said
    assert refused(crops.search, scene([]), refine="map") == said
    assert refused(crops.refine, asked(crops), [], "map") == said


def test_map_is_better_than_the_cells(engine, query):
    matches = engine.search_descriptor(query.descriptor, top=None)
    refined = engine.refine(query, matches, "map")
    same_but_for_boxes(refined, matches)
    shown = [(match, one) for match, one in zip(matches, refined, strict=True) if SCENES[match.file_name]]
    before, after = (
        np.mean([iou(pair[which].box, SCENES[pair[0].file_name]).max() for pair in shown]) for which in (0, 1)
    )
    assert after > 0.8 > before


# Matches --------------------------------------------------------------------------------------------------


def test_further_objects_stand_beside_the_best_one(engine, query):
    refiner = MapRefiner(engine, LocalizeSettings(objects=3))
    for match in refine_matches(engine, query, engine.search_descriptor(query.descriptor), refiner):
        if match.file_name == "two.png":
            assert match.others.shape == (1, 4)
            assert iou(match.box, TWO).max() > 0.75 and iou(match.others, TWO).max() > 0.75
            assert iou(match.box, match.others).max() < 0.1
        elif SCENES[match.file_name]:
            assert match.others.shape == (0, 4)


def test_a_verified_box_stays(engine, query):
    matches = engine.search_descriptor(query.descriptor)
    outline = np.array([1.0, 2, 33, 44])
    points = np.zeros((3, 2))
    for at, box in ((0, outline), (2, None)):  # a verification that cannot be trusted has no box
        seen = Verification("sift", 3, 3, points, points, 0.5, 0.5, box)
        matches[at] = dataclasses.replace(matches[at], box=outline, verification=seen)
    for name in REFINERS:
        refined = engine.refine(query, matches, name)
        same_but_for_boxes(refined, matches)
        assert refined[0] is matches[0]
        for at in range(1, len(matches)):
            assert not np.array_equal(refined[at].box, matches[at].box)
    assert np.array_equal(matches[2].box, outline)  # nothing that was given has changed


def test_no_match_at_all(engine, query):
    for name in REFINERS:
        assert engine.refine(query, [], name) == []


@pytest.mark.parametrize("name", REFINERS)
def test_the_facade_refines_what_it_finds(engine, name):
    asking = {"picture": scene([(40, 30, 115, 90)], seed=99), "box": (40, 30, 115, 90)}
    plain = engine.search(**asking, top=4)
    refined = engine.search(**asking, top=4, refine=name)
    same_but_for_boxes(refined, plain)
    expected = engine.refine(asked(engine), plain, name)
    for one, other in zip(refined, expected, strict=True):
        np.testing.assert_array_equal(one.box, other.box)
    loaded = engine.search(**asking, top=4, refine=load_refiner(name, engine))
    for one, other in zip(loaded, expected, strict=True):
        np.testing.assert_array_equal(one.box, other.box)


@pytest.mark.parametrize("name", REFINERS)
def test_re_ranking_comes_first_then_refining(engine, name):
    asking = {"picture": scene([(40, 30, 115, 90)], seed=99), "box": (40, 30, 115, 90), "rerank": "patch-qe"}
    plain = engine.search(**asking, top=4)
    same_but_for_boxes(engine.search(**asking, top=4, refine=name), plain)


def test_an_unknown_refiner_is_refused_before_the_search(engine, refused, monkeypatch):
    monkeypatch.setattr(type(engine.index), "search", lambda *_: pytest.fail("searched"))
    assert "choose soft or map" in refused(engine.search, scene([]), refine="hard")


def test_a_vanished_picture_is_one_sentence(tmp_path, refused):
    photos = write_scenes(tmp_path / "photos")
    engine = engine_of(photos, tmp_path / "idx", keep_maps=False)
    query = asked(engine)
    matches = engine.search_descriptor(query.descriptor)
    (photos / "two.png").unlink()
    assert "two.png" in refused(engine.refine, query, matches, "map")
    assert len(engine.refine(query, matches, "soft")) == len(matches)  # needs no picture
