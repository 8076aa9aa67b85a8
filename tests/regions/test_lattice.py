"""regions.salient.lattice: which boxes there are, and how much each stands out, against slow references."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.regions.salient import RING, SHAPES, SHARES, STEP, areas, contrast, lattice, rings

PROPERTY = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
GRIDS = [(32, STEP), (32, 1.0), (64, STEP), (16, 0.5), (7, STEP)]


def slow_contrast(values, box):
    """Cell by cell: the mean inside, the mean of what is around, and the root of the box's share of the picture."""
    cells = len(values)
    x1, y1, x2, y2 = box
    dx, dy = max(1, round(RING * (x2 - x1))), max(1, round(RING * (y2 - y1)))
    inside, around = [], []
    for y in range(max(y1 - dy, 0), min(y2 + dy, cells)):
        for x in range(max(x1 - dx, 0), min(x2 + dx, cells)):
            (inside if x1 <= x < x2 and y1 <= y < y2 else around).append(values[y, x])
    if not around:
        return 0.0
    return (np.mean(inside) - np.mean(around)) * sqrt(len(inside) / cells**2)


@st.composite
def boxes_on(draw, cells):
    """Any boxes in cells, the whole picture and single cells among them."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        x1, x2 = sorted(draw(st.lists(st.integers(0, cells), min_size=2, max_size=2, unique=True)))
        y1, y2 = sorted(draw(st.lists(st.integers(0, cells), min_size=2, max_size=2, unique=True)))
        found.append((x1, y1, x2, y2))
    return np.array([*found, (0, 0, cells, cells), (0, 0, 1, 1)], np.intp)


@PROPERTY
@given(SEEDS, boxes_on(16), st.sampled_from([1e-3, 1.0, 100.0]))
def test_any_boxes_contrast_is_the_slow_one(seed, boxes, scale):
    values = np.random.default_rng(seed).random((16, 16)) * scale
    found = contrast(values, boxes)
    assert found.shape == (len(boxes),)
    for box, score in zip(boxes.tolist(), found, strict=True):
        assert score == pytest.approx(slow_contrast(values, box), abs=2e-9)


@PROPERTY
@given(SEEDS)
def test_the_lattices_own_boxes_need_not_be_named(seed):
    values = np.random.default_rng(seed).random((32, 32))
    np.testing.assert_array_equal(contrast(values), contrast(values, lattice(32)))


def test_the_whole_picture_has_no_ring_and_scores_nothing():
    values = np.random.default_rng(1).random((16, 16))
    assert contrast(values, np.array([[0, 0, 16, 16]]))[0] == 0


def test_a_constant_map_scores_nothing_to_the_last_bit():
    assert not contrast(np.full((32, 32), 0.1)).any()


@PROPERTY
@given(SEEDS, st.floats(0.1, 10), st.floats(-5, 5))
def test_contrast_is_linear_and_blind_to_an_even_light(seed, factor, light):
    values = np.random.default_rng(seed).random((16, 16))
    np.testing.assert_allclose(contrast(values * factor + light), contrast(values) * factor, atol=1e-7)


@pytest.mark.parametrize("turn", ["left and right", "up and down", "axes"])
def test_contrast_turns_with_the_picture(turn):
    values = np.random.default_rng(2).random((32, 32))
    boxes = lattice(32)
    x1, y1, x2, y2 = boxes.T
    turned, boxes_there = {
        "left and right": (values[:, ::-1], np.stack([32 - x2, y1, 32 - x1, y2], 1)),
        "up and down": (values[::-1], np.stack([x1, 32 - y2, x2, 32 - y1], 1)),
        "axes": (values.T, np.stack([y1, x1, y2, x2], 1)),
    }[turn]
    np.testing.assert_allclose(contrast(np.ascontiguousarray(turned), boxes_there), contrast(values, boxes), atol=2e-9)


def test_the_best_box_is_the_bright_one():
    values = np.zeros((32, 32))
    x1, y1, x2, y2 = wanted = lattice(32)[len(lattice(32)) // 2].tolist()
    values[y1:y2, x1:x2] = 1
    assert lattice(32)[int(contrast(values).argmax())].tolist() == wanted


# The boxes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "step"), GRIDS)
def test_boxes_lie_inside_have_an_area_and_are_listed_once(cells, step):
    boxes = lattice(cells, step)
    assert boxes.dtype == np.intp and (boxes >= 0).all() and (boxes <= cells).all()
    assert (areas(boxes) > 0).all() and len(np.unique(boxes, axis=0)) == len(boxes)
    assert (np.diff(areas(boxes)) <= 0).all()  # large ones first
    with pytest.raises(ValueError):
        boxes[0, 0] = 1  # it is kept for everybody
    assert lattice(cells, step) is boxes


@pytest.mark.parametrize(("cells", "step"), GRIDS[:3])
def test_every_size_and_shape_is_there_and_covers_the_picture(cells, step):
    boxes = lattice(cells, step)
    for share in SHARES:
        for shape in SHAPES:
            width, height = (min(round(cells * sqrt(side)), cells) for side in (share * shape, share / shape))
            mine = boxes[((boxes[:, 2:] - boxes[:, :2]) == (width, height)).all(axis=1)]
            assert mine[:, :2].min(axis=0).tolist() == [0, 0]
            assert mine[:, 2:].max(axis=0).tolist() == [cells, cells]  # the last ones are flush
            covered = np.zeros((cells, cells), bool)
            for x1, y1, x2, y2 in mine.tolist():
                covered[y1:y2, x1:x2] = True
            assert covered.all()


@pytest.mark.parametrize("cells", [32, 64])
def test_the_coarse_boxes_are_few_and_of_the_same_sizes(cells):
    coarse, fine = lattice(cells, 1.0), lattice(cells)
    assert 5 * len(coarse) < len(fine) < 6000
    sizes = [{tuple(size) for size in (boxes[:, 2:] - boxes[:, :2]).tolist()} for boxes in (coarse, fine)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("cells", [32, 64])
def test_every_object_of_a_fair_size_has_a_box_that_nearly_fits(cells):
    """The set is as good as its best box: any object from 3 % to 80 % of the picture, 1:2 to 2:1, wherever it is."""
    generator, boxes = np.random.default_rng(0), lattice(cells) / cells
    for _ in range(150):
        share, shape = np.exp(generator.uniform(np.log([0.03, 0.5]), np.log([0.8, 2.0])))
        size = np.minimum(np.sqrt([share * shape, share / shape]), 1)
        corner = generator.random(2) * (1 - size)
        common = np.clip(np.minimum(boxes[:, 2:], corner + size) - np.maximum(boxes[:, :2], corner), 0, None).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        assert (common / (area + size.prod() - common)).max() > 0.6


@PROPERTY
@given(boxes_on(20))
def test_rings_surround_their_boxes_and_end_at_the_border(boxes):
    around = rings(boxes, 20)
    assert (around >= 0).all() and (around <= 20).all()
    assert (around[:, :2] <= boxes[:, :2]).all() and (around[:, 2:] >= boxes[:, 2:]).all()
    grown = (around[:, :2] < boxes[:, :2]) | (boxes[:, :2] == 0)
    assert grown.all()  # by at least one cell, where there is one


@PROPERTY
@given(boxes_on(20))
def test_areas(boxes):
    assert areas(boxes).tolist() == [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes.tolist()]
