"""retrieval.localize.dense: the agreement of boxes, against sums over cells one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.features.pooled import centrality
from patchify_core.imaging.boxes import iou
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions.salient import lattice
from patchify_core.retrieval.localize import BoxSearchSettings, Localizer, LocalizeSettings
from patchify_core.retrieval.localize.dense import BACKGROUND, NEAREST, Agreement
from patchify_core.retrieval.localize.search import CELLS
from tests.scenes import SCENES, asked, engine_of, row_named, write_scenes

FINE = lattice(CELLS)
THRESHOLD = 0.17
SEEDS = st.integers(0, 2**32 - 1)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def drawn(seed, height, width, count, dim=8):
    """Random cells and parts; parts are shorter towards the sides of a query's box."""
    rng = np.random.default_rng(seed)
    cells, parts = unit(rng.normal(size=(height, width, dim))), unit(rng.normal(size=(count, dim)))
    return cells, parts * rng.uniform(0.7, 1, (count, 1)).astype(np.float32)


def slow_values(cells, parts):
    """Each cell's similarity above the level, one cell at a time."""
    height, width = cells.shape[:2]
    values = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            values[y, x] = np.mean(sorted((float(part @ cells[y, x]) for part in parts), reverse=True)[:NEAREST])
    mean, high = values.mean(), values.max()
    level = min(mean + THRESHOLD * (high - mean), (np.quantile(values, BACKGROUND) + high) / 2)
    return values - level


def slow_sum(values, box):
    """Sum over a box in fractions of the picture: each cell counts by its share inside."""
    height, width = values.shape
    x1, y1, x2, y2 = box
    total = 0.0
    for y in range(height):
        for x in range(width):
            across = max(0.0, min(x2 * width, x + 1) - max(x1 * width, x))
            down = max(0.0, min(y2 * height, y + 1) - max(y1 * height, y))
            total += across * down * values[y, x]
    return total


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(1, 6), st.floats(0.1, 2))
def test_the_agreement_is_the_slow_sum_over_cells(seed, height, width, count, weight):
    cells, parts = drawn(seed, height, width, count)
    agreement = Agreement(cells, parts, THRESHOLD, FINE, CELLS, weight)
    values, fast = slow_values(cells, parts), agreement.of_steps(FINE)
    picked = np.random.default_rng(seed).integers(0, len(FINE), 12)
    highest = max(slow_sum(values, FINE[fast.argmax()] / CELLS), 1e-12)
    for at in picked:
        expected = weight * slow_sum(values, FINE[at] / CELLS) / highest
        assert fast[at] == pytest.approx(expected, abs=1e-4 * max(1, abs(expected)))
        assert agreement.of(FINE[at] / CELLS) == pytest.approx(fast[at], abs=1e-6 * max(1, abs(expected)))


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 12), st.integers(1, 12), st.integers(1, 60))
def test_no_box_agrees_more_than_the_best_one(seed, height, width, count):
    cells, parts = drawn(seed, height, width, count)
    values = Agreement(cells, parts, THRESHOLD, FINE, CELLS).of_steps(FINE)
    assert values.max() == pytest.approx(1) or not values.any()


def test_a_uniform_picture_has_no_agreement():
    cells = np.tile(unit(np.ones(8)), (4, 5, 1))
    agreement = Agreement(cells, unit(np.ones((3, 8))), THRESHOLD, FINE, CELLS)
    assert not agreement.of_steps(FINE).any() and agreement.of(np.array([0.1, 0.2, 0.7, 0.9])) == 0


def test_the_best_box_covers_the_cells_that_match():
    """A block of one direction in a picture of another; the query has both, the second at its rim."""
    thing, background = np.eye(8, dtype=np.float32)[:2]
    cells = np.tile(background, (16, 16, 1))
    cells[4:10, 6:14] = thing
    parts = np.stack([thing] * 9 + [0.7 * background])
    values = Agreement(cells, parts, THRESHOLD, FINE, CELLS).of_steps(FINE)
    assert iou(FINE[values.argmax()] / CELLS * 16, [6, 4, 14, 10])[0, 0] > 0.7  # the lattice has no closer one


def test_an_object_that_fills_the_picture_agrees_as_a_whole():
    """Its cells are the mean, so that a level above the mean would cut off those that match less."""
    rng = np.random.default_rng(0)
    thing, background = np.eye(8, dtype=np.float32)[:2]
    cells = np.tile(background, (20, 20, 1))
    cells[1:19, 1:19] = unit(thing + 0.15 * rng.normal(size=(18, 18, 8)))
    values = Agreement(cells, np.stack([thing] * 3), THRESHOLD, FINE, CELLS).of_steps(FINE)
    assert iou(FINE[values.argmax()] / CELLS * 20, [1, 1, 19, 19])[0, 0] > 0.8


def test_a_query_with_and_without_parts(tmp_path):
    """Without parts (words, a bare descriptor) and without weight the search is the same, and has no agreement."""
    engine = engine_of(write_scenes(tmp_path / "photos"), tmp_path / "idx")
    query = asked(engine)
    bare, off = replace(query, parts=None), LocalizeSettings(search=BoxSearchSettings(agreement=0.0))
    for name in SCENES:
        row = row_named(engine, name)
        search = Localizer(engine).search_of(row)
        assert search.search(query.descriptor).agreement is None
        assert search.search(query.descriptor, query.parts).agreement is not None
        plain, without = Localizer(engine).locate(bare, row)[0], Localizer(engine, off).locate(query, row)[0]
        np.testing.assert_array_equal(plain.box, without.box)


@pytest.mark.parametrize(("large", "weight"), [(0.001, 1.0), (2.0, 0.5)])
def test_small_objects_have_too_few_cells_for_it(tmp_path, large, weight):
    engine = engine_of(write_scenes(tmp_path / "photos"), tmp_path / "idx")
    query, settings = asked(engine), BoxSearchSettings(large=large)
    search = Localizer(engine, LocalizeSettings(search=settings)).search_of(row_named(engine, "large.png"))
    result = search.search(query.descriptor, query.parts)
    assert 0 < result.agreement.of_steps(FINE).max() <= weight


def test_parts_make_boxes_better_on_the_bundled_gallery(sample_db, sample_gallery, lite0):
    """Mean IoU of refined boxes with and without them (all queries: `study boxes`)."""
    engine = Patchify(PatchIndex.load(sample_db / "indexes" / "pooled"), lite0)
    localizer, overlaps = Localizer(engine), []
    for query in sample_gallery.queries[::9]:
        view = engine.describe(query)
        parts = engine.extractor.query_features(read_picture(query.path), query.box.tolist()).parts
        height, width, dim = parts.shape
        expected = engine.index.project(parts.reshape(-1, dim)) * centrality(height, width)[:, None]
        np.testing.assert_allclose(view.parts, expected, atol=1e-6)
        assert view.parts.shape[1] == engine.index.dim and np.linalg.norm(view.parts, axis=1).max() <= 1 + 1e-5
        for image, boxes in list(sample_gallery.positives(query.instance, query.exclude).items())[:5]:
            found = [
                localizer.locate(each, engine.index.row_of[image])[0].box for each in (view, replace(view, parts=None))
            ]
            overlaps.append([iou(box, boxes).max() for box in found])
    assert len(overlaps) == 20
    with_parts, without = np.mean(overlaps, axis=0)
    assert with_parts > without
