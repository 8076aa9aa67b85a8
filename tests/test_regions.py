"""patchify_core.regions: the grids against an obvious slow loop, and that each one tiles its picture."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core import regions
from patchify_core.regions import MAX_LEVELS, Pyramid, level_of, parse_regions, patches_up_to

PROPERTY = settings(max_examples=60, deadline=None)
LEVELS = st.integers(1, MAX_LEVELS)
SIDES = st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 20_000))


def slow_boxes(levels, width, height):
    boxes = []
    for n in range(1, levels + 1):
        for row in range(n):
            for col in range(n):
                boxes.append([col * width / n, row * height / n, (col + 1) * width / n, (row + 1) * height / n])
    return boxes


@PROPERTY
@given(LEVELS, SIDES, SIDES)
def test_boxes_are_those_of_the_slow_loop(levels, width, height):
    boxes = Pyramid(levels).boxes(width, height)
    assert boxes.dtype == np.float64
    assert boxes.tolist() == slow_boxes(levels, width, height)  # to the last bit: cells are never rounded


@PROPERTY
@given(LEVELS, SIDES, SIDES)
def test_one_box_is_its_row_of_all_boxes(levels, width, height):
    pyramid = Pyramid(levels)
    found = [pyramid.box(width, height, cell) for cell in range(pyramid.patches_per_image)]
    np.testing.assert_array_equal(found, pyramid.boxes(width, height))


@PROPERTY
@given(LEVELS, SIDES, SIDES)
def test_every_level_tiles_the_picture(levels, width, height):
    boxes = Pyramid(levels).boxes(width, height)
    assert len(boxes) == Pyramid(levels).patches_per_image == sum(n * n for n in range(1, levels + 1))
    assert (boxes[:, 2:] > boxes[:, :2]).all()  # even the 36th part of a 1x1 picture has an area
    for n in range(1, levels + 1):
        cells = boxes[patches_up_to(n - 1) : patches_up_to(n)]
        assert cells[:, :2].min(axis=0).tolist() == [0, 0]
        assert cells[:, 2:].max(axis=0).tolist() == [width, height]  # exact: Pillow refuses a box that sticks out
        assert np.prod(cells[:, 2:] - cells[:, :2], axis=1).sum() == pytest.approx(width * height, rel=1e-12)
        # Pairwise intersections; exactly none, because neighbours share the very same edge.
        low = np.maximum(cells[:, None, :2], cells[None, :, :2])
        high = np.minimum(cells[:, None, 2:], cells[None, :, 2:])
        overlap = np.clip(high - low, 0, None).prod(axis=2)
        assert overlap[~np.eye(len(cells), dtype=bool)].max(initial=0) == 0


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 3000), (3000, 1)])
def test_thin_pictures_keep_all_their_cells(width, height):
    boxes = Pyramid(6).boxes(width, height)
    assert boxes.shape == (91, 4)
    assert boxes[-1].tolist() == [width * 5 / 6, height * 5 / 6, width, height]


def test_patch_counts_are_the_papers():
    assert [patches_up_to(n) for n in range(7)] == [0, 1, 5, 14, 30, 55, 91]


def test_level_of_agrees_with_the_order_of_the_cells():
    expected = [n for n in range(1, MAX_LEVELS + 1) for _ in range(n * n)]
    assert [level_of(cell) for cell in range(patches_up_to(MAX_LEVELS))] == expected


@pytest.mark.parametrize("levels", range(1, MAX_LEVELS + 1))
def test_spec_round_trip(levels):
    assert parse_regions(Pyramid(levels).spec) == Pyramid(levels)


def test_spec_may_have_spaces_around_it():
    assert parse_regions(" pyramid:3 ") == Pyramid(3)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "pyramid",
        "pyramid:",
        "pyramid:0",
        "pyramid:7",
        "pyramid:-1",
        "pyramid:2.5",
        "pyramid:four",
        "pyramid:4:4",
        "pyramid:²",  # a digit to str.isdigit(), but not to int()
        "pyramid:٤",  # a digit to int() too, but not one that a script should rely on
        "Pyramid:4",
        "sliding:4",
        "pyramid:" + "9" * 5000,  # more digits than int() converts
    ],
)
def test_what_names_no_regions_is_refused(spec, refused):
    assert "1" in refused(parse_regions, spec) and "6" in refused(parse_regions, spec)


@pytest.mark.parametrize("levels", [0, 7, -1, 2.0, "4", None])
def test_a_pyramid_has_one_to_six_levels(levels, refused):
    assert repr(levels) in refused(Pyramid, levels)


def test_examples_in_the_docstrings():
    result = doctest.testmod(regions)
    assert result.attempted and not result.failed
