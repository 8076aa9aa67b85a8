"""retrieval.localize.soft: the mean of the boxes, weighted by how well they match."""

from __future__ import annotations

from math import exp

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchify_core.regions import Pyramid
from patchify_core.retrieval.localize import expected_box
from patchify_core.retrieval.localize.search import TEMPERATURE

PROPERTY = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 40)


def boxes_and_scores(seed, count):
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4) * 640
    return boxes, rng.normal(0.3, 0.2, count).astype(np.float32)


def slow_expected(boxes, scores, temperature):
    """The formula in plain Python."""
    scores = [float(score) for score in scores]
    mean = sum(scores) / len(scores)
    spread = temperature * (sum((score - mean) ** 2 for score in scores) / len(scores)) ** 0.5
    weights = [exp((score - max(scores)) / spread) for score in scores]
    return [sum(w * box[side] for w, box in zip(weights, boxes, strict=True)) / sum(weights) for side in range(4)]


@PROPERTY
@given(SEEDS, st.integers(2, 40), st.floats(0.05, 3))
def test_it_is_the_formula(seed, count, temperature):
    boxes, scores = boxes_and_scores(seed, count)
    found = expected_box(boxes, scores, temperature)
    assert found.shape == (4,) and found.dtype == np.float64
    np.testing.assert_allclose(found, slow_expected(boxes.tolist(), scores, temperature), rtol=1e-9)


@PROPERTY
@given(SEEDS, COUNTS, st.floats(0, 100))
def test_it_lies_inside_what_encloses_the_boxes(seed, count, temperature):
    boxes, scores = boxes_and_scores(seed, count)
    found = expected_box(boxes, scores, temperature)
    assert (found >= boxes.min(axis=0) - 1e-9).all() and (found <= boxes.max(axis=0) + 1e-9).all()
    assert (found[2:] > found[:2]).all()  # a mean of boxes is a box


@PROPERTY
@given(SEEDS, COUNTS)
def test_towards_no_temperature_the_best_box_alone_counts(seed, count):
    boxes, scores = boxes_and_scores(seed, count)
    best = boxes[int(scores.argmax())]
    np.testing.assert_array_equal(expected_box(boxes, scores, 0), best)
    np.testing.assert_allclose(expected_box(boxes, scores, 1e-7), best, atol=1e-6)


@PROPERTY
@given(SEEDS, st.integers(2, 40))
def test_towards_a_high_temperature_all_boxes_count_the_same(seed, count):
    boxes, scores = boxes_and_scores(seed, count)
    np.testing.assert_allclose(expected_box(boxes, scores, 1e9), boxes.mean(axis=0), rtol=1e-6)


@PROPERTY
@given(SEEDS, COUNTS, st.floats(-10, 10), st.floats(1e-3, 1e3))
def test_only_differences_of_scores_count_in_units_of_their_spread(seed, count, shift, scale):
    boxes, scores = boxes_and_scores(seed, count)
    scores = scores.astype(np.float64)
    np.testing.assert_allclose(
        expected_box(boxes, scores * scale + shift), expected_box(boxes, scores), rtol=1e-6, atol=1e-6
    )


@PROPERTY
@given(SEEDS, COUNTS, st.floats(0.1, 10), st.floats(-100, 100))
def test_boxes_may_be_in_any_unit(seed, count, scale, shift):
    boxes, scores = boxes_and_scores(seed, count)
    np.testing.assert_allclose(
        expected_box(boxes * scale + shift, scores), expected_box(boxes, scores) * scale + shift, rtol=1e-6, atol=1e-6
    )


@PROPERTY
@given(SEEDS, st.integers(2, 20))
def test_the_order_does_not_matter(seed, count):
    boxes, scores = boxes_and_scores(seed, count)
    order = np.random.default_rng(seed).permutation(count)
    np.testing.assert_allclose(expected_box(boxes[order], scores[order]), expected_box(boxes, scores), atol=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, -0.7, 1.0])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_equal_scores_give_the_first_box(value, kind):
    boxes = Pyramid(4).boxes(640, 480)
    found = expected_box(boxes, np.full(30, value, kind))
    np.testing.assert_array_equal(found, boxes[0])
    found[0] = 5
    assert boxes[0, 0] == 0  # a copy, not a piece of the boxes


def test_one_box_is_itself():
    np.testing.assert_array_equal(expected_box([[1, 2, 3, 4]], [0.3]), [1, 2, 3, 4])


def test_by_hand():
    boxes, scores = [[0, 0, 10, 10], [0, 0, 20, 20]], [1.0, 0.0]  # spread 1/2, so T = 0.2 and the weights are 1, e^-5
    share = exp(-5) / (1 + exp(-5))
    np.testing.assert_allclose(expected_box(boxes, scores), [0, 0, 10 + 10 * share, 10 + 10 * share])
    assert TEMPERATURE == 0.4


def test_an_object_between_two_cells_is_found_between_them():
    """What it is for: two neighbouring cells match equally well, the others do not."""
    boxes = Pyramid(2).boxes(100, 100)
    found = expected_box(boxes, [0.3, 0.9, 0.9, 0.1, 0.1])
    np.testing.assert_allclose(found, [25, 0, 75, 50], atol=3)
