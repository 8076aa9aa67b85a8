"""retrieval.localize.tap: a box from one tap, measured on the rendered pictures of sample_db."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.encoders.maps import as_map_encoder
from patchify_core.features.extract import Pooled
from patchify_core.imaging.boxes import checked_box, iou
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.patch_index import PatchIndex
from patchify_core.retrieval.localize import BoxSearch, TapSettings, box_around, box_in_pixels, tapped_box
from tests.tiny import TinyEncoder, picture

GOOD = 0.5
"""IoU from which on a proposed box is good enough to be searched with or adjusted."""


def clocks() -> np.ndarray:
    """Seconds of the day, and of work of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def share_of_good(overlaps: list[float]) -> float:
    return float((np.array(overlaps) >= GOOD).mean())


@pytest.fixture(scope="module")
def query_maps(sample_gallery, lite0):
    """Each query with its map, its box as fractions, and the seconds that the map took."""
    extractor, found = Pooled(as_map_encoder(lite0)), []
    for query in sample_gallery.queries:
        pixels, start = read_picture(query.path), clocks()
        search = BoxSearch(extractor.picture_map(pixels), extractor.encoder, lambda rows: rows)
        found.append((search, query.box / np.tile(pixels.size, 2), clocks() - start))
    return found


def test_queries_tapped_at_their_middle(query_maps) -> None:
    """One object, photographed as a visitor would: 34 of 36 get a good box (0.944, mean IoU 0.84), within a second."""
    overlaps, seconds = [], []
    for search, box, took in query_maps:
        start = clocks()
        found = tapped_box(search, (box[:2] + box[2:]) / 2)
        seconds.append(took + clocks() - start)
        overlaps.append(float(iou(found, box).max()))
    assert share_of_good(overlaps) >= 0.9 and np.mean(overlaps) >= 0.8
    assert np.percentile(np.min(seconds, axis=1), 25) < 1.0  # others may be at work on the same cores


def test_queries_tapped_beside_their_middle(query_maps) -> None:
    """Anywhere in the middle two fifths of the object: hardly worse."""
    rng = np.random.default_rng(0)
    overlaps = [
        float(iou(tapped_box(search, box[:2] + (box[2:] - box[:2]) * rng.uniform(0.3, 0.7, 2)), box).max())
        for search, box, _ in query_maps
        for _ in range(2)
    ]
    assert share_of_good(overlaps) >= 0.88


def test_all_annotated_objects_of_the_gallery(sample_db, sample_gallery, lite0) -> None:
    """317 objects of all sizes among others: two thirds of them, where no box of a fixed size has more than 0.42."""
    index, encoder, overlaps = PatchIndex.load(sample_db / "indexes" / "pooled"), as_map_encoder(lite0), []
    rows = sample_gallery.annotations
    for row, image in enumerate(index.images):
        boxes = rows.boxes[rows.image_ids == image.id] / np.tile([image.width, image.height], 2)
        if len(boxes):
            search = BoxSearch(index.maps[row], encoder, lambda rows: rows)
            overlaps += [float(iou(tapped_box(search, (box[:2] + box[2:]) / 2), box).max()) for box in boxes]
    assert len(overlaps) == 317 and share_of_good(overlaps) >= 0.6


def ready(pixels: Image.Image) -> BoxSearch:
    extractor = Pooled(TinyEncoder())
    return BoxSearch(extractor.picture_map(pixels), extractor.encoder, lambda rows: rows)


@pytest.fixture(scope="module")
def patchwork() -> BoxSearch:
    return ready(picture(3, (320, 240)))


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_box_is_inside_the_picture_and_contains_the_tap(patchwork, x, y) -> None:
    point = np.array([x, y])
    for box in (tapped_box(patchwork, point), box_around(point, 4 / 3), box_around(point, 0.1)):
        assert box.shape == (4,) and box.dtype == np.float64
        assert (box >= 0).all() and (box <= 1).all() and (box[2:] > box[:2]).all()
        assert (box[:2] <= point + 1e-9).all() and (box[2:] >= point - 1e-9).all()


@pytest.mark.parametrize("size", [(320, 240), (200, 600), (64, 64)])
def test_a_flat_picture_gives_a_square_at_the_tap(size) -> None:
    width, height = size
    box = tapped_box(ready(Image.new("RGB", size, (120, 130, 140))), np.array([0.5, 0.5])) * np.tile(size, 2)
    side = TapSettings().side * min(size)
    np.testing.assert_allclose(
        box, [width / 2 - side / 2, height / 2 - side / 2, width / 2 + side / 2, height / 2 + side / 2], atol=3
    )


def test_one_bright_thing_is_found_wherever_it_is_tapped() -> None:
    scene = Image.fromarray(np.random.default_rng(0).integers(20, 41, (240, 320, 3)).astype(np.uint8))
    box = np.array([150, 60, 230, 180])
    scene.paste((220, 60, 40), tuple(box.tolist()))
    search = ready(scene)
    for point in ((190, 120), (170, 90), (215, 165)):
        found = tapped_box(search, np.array(point) / (320, 240)) * (320, 240, 320, 240)
        assert iou(found, box).max() > 0.7, point


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 8000), st.integers(1, 8000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_box_in_pixels_can_be_searched_with_and_contains_the_tap(width, height, x, y, before, after) -> None:
    """However thin the picture or the box."""
    point, size = np.array([x, y]), (width, height)
    around = np.concatenate([point * (1 - before), point + (1 - point) * after])
    for box in (around, box_around(point, width / height)):
        found = box_in_pixels(box, point, size)
        assert (checked_box(found.tolist(), *size) == found).all()
        assert (found[:2] <= point * size + 0.051).all() and (found[2:] >= point * size - 0.051).all()


def test_a_picture_of_one_pixel_is_taken_over_its_whole_side() -> None:
    point = np.array([0.5, 0.5])
    assert box_in_pixels(box_around(point, 1 / 8000), point, (1, 8000)).tolist() == [0, 4000, 1, 4001]
    assert box_in_pixels(box_around(point, 8000), point, (8000, 1)).tolist() == [4000, 0, 4001, 1]
    assert box_in_pixels(np.array([0.25, 0, 0.75, 1]), point, (240, 180)).tolist() == [60, 0, 180, 180]
