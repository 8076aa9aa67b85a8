"""patchify and retrieval.searcher: real queries against the bundled index, and what a query may be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from patchify_core.errors import IndexFolderError
from patchify_core.gallery import read_folder
from patchify_core.imaging.boxes import iou
from patchify_core.index.build import BuildSettings, build_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions import Pyramid, patches_up_to
from patchify_core.retrieval import searcher
from patchify_core.retrieval.searcher import SearchSettings
from tests.bad_pictures import BAD, encoded
from tests.tiny import INFO, TinyEncoder, picture, write_pictures

# Whole-pyramid retrieval finds these first; their right answers are known from the annotations.
FOUND_FIRST = ["C051", "CB71", "SC395"]  # teddy bear, soccer ball, toaster


@pytest.fixture(params=FOUND_FIRST)
def query(request, sample_gallery):
    return next(query for query in sample_gallery.queries if query.path.stem == request.param)


@pytest.fixture
def engine(tmp_path):
    """A tiny index of eight pictures, pyramid:3, float32."""
    folder = write_pictures(tmp_path / "photos", range(8), (60, 42))
    build_index(read_folder(folder), tmp_path / "idx", TinyEncoder(), Pyramid(3))
    return Patchify.open(tmp_path / "idx", TinyEncoder())


# The bundled gallery --------------------------------------------------------------------------------------


def test_the_first_match_holds_the_object(query, sample_engine, sample_gallery):
    matches = sample_engine.search(query.path, query.box)
    positives = sample_gallery.positives(query.instance)
    assert len(matches) == SearchSettings().top == 10
    assert matches[0].image_id in positives
    # Not by its background: the winning cell and the object overlap.
    assert iou(matches[0].box, positives[matches[0].image_id]).max() > 0.1
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)


def test_the_box_is_the_winning_cell_in_pixels(query, sample_engine, sample_gallery):
    for match in sample_engine.search(query.path, query.box, top=20):
        image = sample_gallery.image(match.image_id)
        assert match.file_name == image.file_name
        np.testing.assert_array_equal(match.box, Pyramid(4).boxes(image.width, image.height)[match.patch])


def test_an_explanation_ends_in_the_matchs_score(query, sample_engine):
    descriptor = sample_engine.describe_query(query.path, query.box)
    for match in sample_engine.search_descriptor(descriptor, top=5):
        why = sample_engine.explain(descriptor, match.image_id)
        assert why.scores.shape == (30,) and why.boxes.shape == (30, 4)
        assert why.patch == match.patch
        assert why.scores[why.patch] == why.scores.max() == match.score


def test_level_1_knows_whole_pictures_only(query, sample_engine):
    descriptor = sample_engine.describe_query(query.path, query.box)
    whole = sample_engine.search_descriptor(descriptor, top=None, level=1)
    assert len(whole) == 164
    assert {match.patch for match in whole} == {0}
    assert {tuple(match.box) for match in whole} == {(0, 0, 640, 480)}
    # More cells can only raise a picture's score.
    finest = {match.image_id: match.score for match in sample_engine.search_descriptor(descriptor, top=None)}
    assert all(finest[match.image_id] >= match.score for match in whole)
    assert any(finest[match.image_id] > match.score + 0.05 for match in whole)


@pytest.mark.parametrize("level", [1, 2, 3, 4, None])
def test_a_level_uses_its_own_cells_and_coarser_ones(sample_engine, sample_gallery, level):
    query = sample_gallery.queries[0]
    descriptor = sample_engine.describe_query(query.path, query.box)
    matches = sample_engine.search_descriptor(descriptor, top=None, level=level)
    patches = {match.patch for match in matches}
    assert max(patches) < patches_up_to(level or 4)
    if level and level > 1:
        assert max(patches) >= patches_up_to(level - 1)  # its own cells do win somewhere
    match = matches[0]
    why = sample_engine.explain(descriptor, match.image_id, level)
    assert len(why.scores) == len(why.boxes) == patches_up_to(level or 4)
    assert why.scores.max() == pytest.approx(match.score, abs=1e-5)


def test_a_gallery_pictures_own_cell_finds_itself(sample_engine, sample_gallery):
    image = sample_gallery.images[40]
    cell = Pyramid(4).boxes(image.width, image.height)[17]
    best = sample_engine.search(image.path, cell, top=1)[0]
    assert (best.image_id, best.patch) == (image.id, 17)
    assert best.score > 0.999  # not 1: the bundled index keeps one byte a number


# What a query may be --------------------------------------------------------------------------------------


def test_file_bytes_and_picture_are_the_same_query(engine, tmp_path):
    # A phone's portrait: pixels stored lying, EXIF asks to turn them by 90 degrees.
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(1, (60, 42)), "PNG", exif=exif)
    path = tmp_path / "phone.png"
    path.write_bytes(data)
    box = (3, 20, 40, 55)  # reaches below 42: inside only if the picture stands upright
    expected = engine.describe_query(picture(1, (60, 42)).transpose(Image.Transpose.ROTATE_270), box)
    with Image.open(path) as opened:
        for query in (path, str(path), data, opened):
            np.testing.assert_array_equal(engine.describe_query(query, box), expected)
    lying = engine.describe_query(picture(1, (60, 42)), box)
    assert not np.array_equal(lying, expected)


def test_a_picture_that_is_upright_already_is_not_copied(engine, monkeypatch):
    copied = []
    monkeypatch.setattr(searcher, "upright", lambda image: copied.append(image) or image)
    plain = picture(1, (60, 42)).convert("RGB")
    engine.describe_query(plain)
    assert copied == []
    turned = plain.copy()
    turned.getexif()[0x0112] = 6
    engine.describe_query(turned)
    noted = plain.copy()
    noted.info["exif"] = b"something"
    engine.describe_query(noted)
    assert copied == [turned, noted]


def test_no_box_means_the_whole_picture(engine):
    image = picture(3, (60, 42))
    np.testing.assert_array_equal(engine.describe_query(image), engine.describe_query(image, (0, 0, 60, 42)))
    assert not np.array_equal(engine.describe_query(image), engine.describe_query(image, (0, 0, 30, 42)))


def test_what_sticks_out_of_the_picture_is_cut_off(engine):
    image = picture(3, (60, 42))
    np.testing.assert_array_equal(
        engine.describe_query(image, (-20, 10, 30, 500)), engine.describe_query(image, (0, 10, 30, 42))
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_a_picture_of_any_mode(engine, mode):
    image = Image.new("I;16", (9, 7), 9000) if mode == "I;16" else picture(2, (9, 7)).convert(mode)
    assert engine.describe_query(image).shape == (INFO.dim,)


def test_the_callers_picture_is_left_as_it_was(engine):
    image = picture(2).convert("RGBA")
    before = image.tobytes(), image.mode, image.size
    engine.search(image)
    assert (image.tobytes(), image.mode, image.size) == before


@pytest.mark.parametrize("size", [(1, 1), (1, 3000)])
def test_a_thin_query(engine, size):
    assert len(engine.search(picture(5, size))) == 8


@pytest.mark.parametrize(
    "box",
    [
        (60, 0, 90, 42),  # only touches the edge
        (100, 100, 120, 120),
        (30, 10, 10, 30),  # inverted
        (5, 5, 5, 20),  # without area
        (59.5, 0, 90, 42),  # half a pixel of it is inside
        (float("nan"), 0, 5, 5),
        (0, 0, float("inf"), 5),
        (0, 0, 5),
        "0,0,5,5",
    ],
)
def test_a_box_of_nothing_is_refused(engine, box, refused):
    assert "box" in refused(engine.search, picture(1, (60, 42)), box)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_refused(engine, name, tmp_path, refused):
    make, said = BAD[name]
    assert said in refused(engine.search, make(tmp_path))


@pytest.mark.parametrize("asked", [{"top": 0}, {"top": -3}, {"level": 0}, {"level": 4}])
def test_what_cannot_be_asked(engine, asked, refused):
    refused(engine.search, picture(1), **asked)


@pytest.mark.parametrize("level", [0, 4])
def test_an_explanation_has_the_indexs_levels(engine, level, refused):
    assert "levels 1 to 3" in refused(engine.explain, engine.describe_query(picture(1)), 1, level)


def test_an_explanation_of_a_picture_that_is_not_there(engine):
    with pytest.raises(KeyError):
        engine.explain(engine.describe_query(picture(1)), 99)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (8, 8), (99, 8), (None, 8)])
def test_as_many_as_asked_for(engine, top, count):
    matches = engine.search(picture(1, (60, 42)), top=top)
    assert len(matches) == count
    assert [match.image_id for match in matches] == [m.image_id for m in engine.search(picture(1, (60, 42)), top=None)][
        :count
    ]
    assert matches[0].image_id == 2 and matches[0].score == pytest.approx(1, abs=1e-6)  # the picture itself


# Index and encoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"spec": "huge"}, {"weights_sha256": "1" * 64}, {"dim": 25}])
def test_another_encoder_is_refused(engine, tmp_path, change, refused):
    other = TinyEncoder(dataclasses.replace(INFO, **change))
    refused(Patchify.open, tmp_path / "idx", other)
    with pytest.raises(IndexFolderError):
        Patchify(engine.index, other)


def test_the_encoder_that_the_index_names_is_loaded(tmp_path, refused):
    folder = write_pictures(tmp_path / "photos", [1])
    build_index(read_folder(folder), tmp_path / "idx", TinyEncoder(), Pyramid(1), BuildSettings())
    assert "Unknown encoder 'tiny'" in refused(Patchify.open, tmp_path / "idx")


def test_an_open_index_outlives_its_folder(engine, tmp_path):
    # An update swaps the folder under a running page: what is open keeps answering from what it has read.
    before = [match.image_id for match in engine.search(picture(1))]
    for path in (tmp_path / "idx").iterdir():
        path.unlink()
    assert [match.image_id for match in engine.search(picture(1))] == before
    with pytest.raises(IndexFolderError):
        PatchIndex.load(tmp_path / "idx")
