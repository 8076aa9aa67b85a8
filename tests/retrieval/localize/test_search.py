"""retrieval.localize.search: coarse to fine finds what looking at every box finds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.features.maps import SMALL_THUMBNAIL, PictureMap
from patchify_core.features.pooled import describe_boxes
from patchify_core.index.patch_index import PatchIndex
from patchify_core.patchify import Patchify
from patchify_core.regions.salient import contrast, lattice, saliency
from patchify_core.retrieval.localize import BoxSearch, BoxSearchSettings
from patchify_core.retrieval.localize.search import CELLS, COARSE_STEP, FLAT, _neighbours, overlap
from tests.tiny import DIM, TinyEncoder

SEEDS = st.integers(0, 2**32 - 1)
FINE, COARSE = lattice(CELLS), lattice(CELLS, COARSE_STEP)
EVERY = np.unique(np.concatenate([FINE, COARSE]), axis=0)


def unchanged(descriptors):
    return descriptors


def smooth_map(seed, height=15, width=20, kind="sparse"):
    """A random map that changes slowly from cell to cell, and a thumbnail with a few coloured things."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(size=(height, width, DIM))
    cells = cv2.GaussianBlur(cells, (0, 0), rng.uniform(0.8, 2.5))
    cells = cells / cells.std() + (0 if kind == "sparse" else 1)
    shown = np.full((SMALL_THUMBNAIL, SMALL_THUMBNAIL, 3), rng.integers(60, 180, 3), np.uint8)
    for _ in range(4):
        x, y = rng.integers(0, 70, 2)
        shown[y : y + rng.integers(12, 50), x : x + rng.integers(12, 50)] = rng.integers(0, 256, 3)
    return PictureMap(np.maximum(cells, 1e-6).astype(np.float32), shown)


def query_of(kept, seed):
    """The descriptor of a random box of the map, with a little noise: as an object seen from elsewhere."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.15, 0.6, 2)
    corner = rng.random(2) * (1 - size)
    query = describe_boxes(kept.cells, [*corner, *(corner + size)], TinyEncoder())[0] + rng.normal(0, 0.03, DIM)
    return (query / np.linalg.norm(query)).astype(np.float32)


def exhaustive(search, query):
    """v of `EVERY` box, as the module's formula says, by the slow ways to each part of it."""
    stands_out = saliency(Image.fromarray(search.picture_map.thumbnail))
    step = len(stands_out) // CELLS
    sigma = max((search.describe(COARSE / CELLS) @ query).std(), FLAT)
    cosines = search.describe(EVERY / CELLS) @ query
    return cosines / sigma + search.settings.contrast * contrast(stands_out, EVERY * step), sigma


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_coarse_to_fine_scores_as_looking_at_every_box(seed, kind):
    kept = smooth_map(seed, kind=kind)
    query, search = query_of(kept, seed), BoxSearch(kept, TinyEncoder(), unchanged)
    found = search.search(query)
    values, sigma = exhaustive(search, query)
    assert found.sigma == pytest.approx(sigma, rel=1e-3)
    assert 0.98 * values.max() <= found.score <= values.max() + 1e-3 * abs(values.max())


@settings(max_examples=15, deadline=None)
@example(seed=187, height=2, width=1)  # alike everywhere, but for rounding
@given(SEEDS, st.integers(2, 30), st.integers(1, 30))
def test_the_score_is_that_of_the_best_box_and_the_box_lies_around_it(seed, height, width):
    kept = smooth_map(seed, height, width)
    query, search = query_of(kept, seed), BoxSearch(kept, TinyEncoder(), unchanged)
    found = search.search(query)
    steps = (found.best * CELLS).round().astype(np.intp)
    np.testing.assert_allclose(steps / CELLS, found.best)
    everything, _ = exhaustive(search, query)
    [row] = np.flatnonzero((steps == EVERY).all(axis=1))
    assert found.score == pytest.approx(everything[row], rel=1e-3, abs=1e-3)
    assert (found.box >= 0).all() and (found.box <= 1).all() and (found.box[2:] > found.box[:2]).all()
    assert overlap(found.best[None], found.box)[0] > 0.25


def test_the_fast_descriptors_on_the_lattice_are_the_slow_ones():
    kept = smooth_map(5, 12, 21)
    search = BoxSearch(kept, TinyEncoder(), unchanged)
    slow = search.describe(FINE / CELLS)
    np.testing.assert_allclose(search._describe_steps(FINE, search._grid()), slow, atol=1e-5)
    np.testing.assert_allclose(slow, describe_boxes(kept.cells, FINE / CELLS, TinyEncoder()), atol=1e-6)


def test_descriptors_go_through_the_projection_of_the_index():
    kept = smooth_map(5)

    def halved(descriptors):
        assert descriptors.shape[1] == DIM
        kept = descriptors[:, : DIM // 2]
        return kept / np.linalg.norm(kept, axis=1, keepdims=True)

    search, plain = BoxSearch(kept, TinyEncoder(), halved), BoxSearch(kept, TinyEncoder(), unchanged)
    box = np.array([0.2, 0.3, 0.7, 0.9])
    [expected] = halved(plain.describe(box[None]))
    np.testing.assert_allclose(search.describe(box[None])[0], expected, atol=1e-6)
    query = expected.astype(np.float32)
    assert search.match(query, box) == pytest.approx(1)
    assert search.search(query).score > 0 and search.similarity(query).shape == (15, 20)


def test_a_map_without_any_difference_gives_a_box_all_the_same():
    """Nothing to tell apart: every cosine is the same, and the thumbnail is one colour."""
    kept = PictureMap(np.ones((4, 5, DIM), np.float32), np.full((SMALL_THUMBNAIL, SMALL_THUMBNAIL, 3), 90, np.uint8))
    search = BoxSearch(kept, TinyEncoder(), unchanged)
    query = np.full(DIM, DIM**-0.5, np.float32)
    found = search.search(query)
    assert np.isfinite(found.box).all() and (found.box[2:] > found.box[:2]).all() and np.isfinite(found.score)
    np.testing.assert_allclose(search.similarity(query), 1, atol=1e-6)


def test_the_same_twice():
    kept = smooth_map(8)
    query = query_of(kept, 8)
    first, second = (BoxSearch(kept, TinyEncoder(), unchanged) for _ in range(2))
    for found in (second.search(query), first.search(query)):
        np.testing.assert_array_equal(found.box, first.search(query).box)
        assert found.score == first.search(query).score


# Away from what was found ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0, 0.5))
def test_what_is_found_elsewhere_is_elsewhere(seed, apart):
    kept = smooth_map(seed)
    query, search = query_of(kept, seed), BoxSearch(kept, TinyEncoder(), unchanged)
    taken = [search.search(query).box]
    for _ in range(3):
        found = search.search(query, away_from=taken, apart=apart)
        if found is None:
            break
        for box in taken:
            assert overlap(found.best[None], box)[0] <= apart
            assert overlap(found.box[None], box)[0] <= apart
        taken.append(found.box)


def test_no_place_left():
    kept = smooth_map(1)
    search = BoxSearch(kept, TinyEncoder(), unchanged)
    assert search.search(query_of(kept, 1), away_from=[np.array([0.0, 0, 1, 1])], apart=0.2) is None
    assert search.search(query_of(kept, 1), away_from=[np.array([0.0, 0, 1, 1])], apart=1.0) is not None


def test_of_two_equal_objects_one_is_found_and_not_the_middle():
    cells = np.full((16, 32, DIM), 1e-6, np.float32)
    cells[..., -1] = 1
    for x in (3, 23):
        cells[5:11, x : x + 6] = np.eye(DIM, dtype=np.float32)[:3].sum(axis=0)
    shown = np.full((SMALL_THUMBNAIL, SMALL_THUMBNAIL, 3), 90, np.uint8)
    for x in (9, 69):
        shown[30:66, x : x + 18] = 220, 40, 30
    search = BoxSearch(PictureMap(cells, shown), TinyEncoder(), unchanged)
    query = describe_boxes(cells, [3 / 32, 5 / 16, 9 / 32, 11 / 16], TinyEncoder())[0]
    objects = np.array([[3 / 32, 5 / 16, 9 / 32, 11 / 16], [23 / 32, 5 / 16, 29 / 32, 11 / 16]])
    first = search.search(query)
    second = search.search(query, away_from=[first.box], apart=0.2)
    for found in (first, second):
        assert overlap(objects, found.box).max() > 0.8 and overlap(objects, found.box).min() == 0
    assert {int(overlap(objects, found.box).argmax()) for found in (first, second)} == {0, 1}


# Parts ----------------------------------------------------------------------------------------------------


def slow_similarity(search, query):
    height, width = search.picture_map.cells.shape[:2]
    values = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            block = search.picture_map.cells[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].astype(np.float64)
            mean = (block**3).mean(axis=(0, 1)) ** (1 / 3)
            values[y, x] = mean @ query / np.linalg.norm(mean)
    return values


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 9), st.integers(1, 9))
def test_a_similarity_map_is_that_of_the_cells_around_each(seed, height, width):
    kept = smooth_map(seed, height, width)
    query, search = query_of(kept, seed), BoxSearch(kept, TinyEncoder(), unchanged)
    found = search.similarity(query)
    assert found.shape == (height, width) and found.dtype == np.float32
    np.testing.assert_allclose(found, slow_similarity(search, query), atol=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_neighbours_are_those_of_the_slow_iou(share):
    near = _neighbours(share)
    assert near.shape == (len(COARSE), len(FINE))
    rng = np.random.default_rng(0)
    for c, f in zip(rng.integers(0, len(COARSE), 400), rng.integers(0, len(FINE), 400), strict=True):
        a, b = COARSE[c].tolist(), FINE[f].tolist()
        common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
        assert near[c, f] == (common >= share * both - 1e-6)
    with pytest.raises(ValueError):
        near[0, 0] = True


def test_overlap_is_a_share_of_the_smaller_box():
    boxes = np.array([[0, 0, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2], [0.6, 0.6, 0.9, 0.9], [0.25, 0, 0.75, 0.5]])
    np.testing.assert_allclose(overlap(boxes, boxes[0]), [1, 1, 0, 0.5])
    np.testing.assert_allclose(overlap(boxes, np.array([0.3, 0.3, 0.3, 0.9])), 0)  # without an area


# The bundled gallery --------------------------------------------------------------------------------------


def test_coarse_to_fine_scores_as_looking_at_every_box_on_photographs(sample_db, sample_gallery, lite0):
    folder = sample_db / "indexes" / "pooled"
    if not folder.exists():
        pytest.skip("no pooled index is bundled")
    engine = Patchify(PatchIndex.load(folder), lite0)
    shares = []
    for query in sample_gallery.queries[::12]:
        descriptor = engine.describe_query(query.path, query.box)
        for row in engine.index.search(descriptor, 2).rows.tolist():
            search = BoxSearch(engine.index.maps[row], lite0, engine.index.project, BoxSearchSettings())
            shares.append(search.search(descriptor).score / exhaustive(search, descriptor)[0].max())
    assert len(shares) == 6
    assert min(shares) >= 0.98
