"""features.pooled: any box pooled from a map equals the generalised mean over it, and queries are described so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from patchify_core.features.pooled import (
    AT_THE_RIM,
    LARGEST_SIDE,
    SMALLEST_SIDE,
    PooledSettings,
    _at,
    centrality,
    describe_boxes,
    fractions,
    integral_image,
    map_size,
    mean_direction,
    picture_cells,
    pool_boxes,
    query_features,
    resampled,
    rooted,
)
from tests.tiny import STRIDE, TinyEncoder, picture

PROPERTY = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 12)
POWERS = st.sampled_from([1, 1.0, 2.0, 3, 3.0, 4.5])
WHOLE = (0.0, 0.0, 1.0, 1.0)


def cells_of(seed, height, width, power, channels=3):
    """Seeded cells; with the plain mean some are negative, else some are as good as 0 and one is large."""
    rng = np.random.default_rng(seed)
    if power == 1:
        return rng.normal(size=(height, width, channels)).astype(np.float32)
    cells = np.where(rng.random((height, width, channels)) < 0.7, 1e-6, rng.exponential(2, (height, width, channels)))
    cells[rng.integers(height), rng.integers(width)] *= 10
    return cells.astype(np.float32)


@st.composite
def spans(draw):
    """Where a box begins and ends along one side: anything, down to slivers, corners of cells and the whole side."""
    kind = draw(st.sampled_from(["any", "sliver", "whole", "corners"]))
    if kind == "whole":
        return 0.0, 1.0
    if kind == "sliver":
        begin = draw(st.floats(0, 1 - 1e-3))
        return begin, begin + draw(st.floats(1e-4, 1e-3))
    if kind == "corners":
        begin, end = sorted(draw(st.lists(st.integers(0, 12), min_size=2, max_size=2, unique=True)))
        return begin / 12, end / 12
    begin, end = sorted((draw(st.floats(0, 1)), draw(st.floats(0, 1))))
    return (begin, end) if end - begin > 1e-4 else (0.0, max(end, 1e-4))


def slow_mean(cells, box, power):
    """The definition: each cell's power weighted by the part of it that lies in the box, one cell after the other."""
    height, width, channels = cells.shape
    x1, y1, x2, y2 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    total, area = np.zeros(channels), 0.0
    for y in range(height):
        for x in range(width):
            part = max(0.0, min(x2, x + 1) - max(x1, x)) * max(0.0, min(y2, y + 1) - max(y1, y))
            total += part * cells[y, x].astype(np.float64) ** power
            area += part
    mean = total / area
    return mean if power == 1 else mean ** (1 / power)


# Boxes ----------------------------------------------------------------------------------------------------


@PROPERTY
@given(SEEDS, SIDES, SIDES, POWERS, spans(), spans())
@example(1, 12, 9, 3, (0.0, 1.0), (0.0, 1.0))
@example(1, 1, 1, 3, (0.25, 0.2501), (0.9999, 1.0))
@example(1, 12, 12, 1, (0.9999, 1.0), (0.9999, 1.0))
def test_any_box_is_the_generalised_mean_over_it(seed, height, width, power, across, down):
    cells = cells_of(seed, height, width, power)
    box = (across[0], down[0], across[1], down[1])
    table = integral_image(cells, power)
    [pooled] = pool_boxes(table, [box], power)
    assert pooled.dtype == np.float32
    # A sliver is the small difference of large sums: what double precision loses there is compared before the root,
    # which makes 0.01 of a millionth.
    area = (box[2] - box[0]) * (box[3] - box[1]) * width * height
    lost = 1e-13 * np.abs(table).max() / area
    found, expected = pooled.astype(np.float64) ** power, slow_mean(cells, box, power) ** power
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=lost + 1e-6)


@PROPERTY
@given(SEEDS, SIDES, SIDES, spans(), spans())
def test_descriptors_of_boxes_are_those_of_the_slow_mean(seed, height, width, across, down):
    """What is compared in a search: directions, which forgive nothing that a channel's size would hide."""
    cells, encoder = cells_of(seed, height, width, 3, channels=24), TinyEncoder()
    cells[..., 0] = 1  # a cell without anything has no direction
    box = (across[0], down[0], across[1], down[1])
    [fast] = describe_boxes(cells, box, encoder)
    [slow] = encoder.describe_pooled(slow_mean(cells, box, 3)[None].astype(np.float32))
    assert float(fast @ slow) > 1 - 1e-4


def test_many_boxes_are_as_one_box_each():
    cells = cells_of(3, 7, 9, 3)
    boxes = np.sort(np.random.default_rng(3).random((40, 2, 2)), axis=1).reshape(40, 4)
    table = integral_image(cells, 3)
    together = pool_boxes(table, boxes, 3)
    assert together.shape == (40, 3)
    for box, row in zip(boxes, together, strict=True):
        np.testing.assert_array_equal(pool_boxes(table, box, 3)[0], row)
    assert pool_boxes(table, np.empty((0, 4)), 3).shape == (0, 3)


@pytest.mark.parametrize("power", [1, 3])
def test_one_cell_is_itself(power):
    cells = cells_of(5, 4, 6, power)
    for y in range(4):
        for x in range(6):
            [pooled] = pool_boxes(integral_image(cells, power), [x / 6, y / 4, (x + 1) / 6, (y + 1) / 4], power)
            np.testing.assert_allclose(pooled, cells[y, x], rtol=1e-5, atol=1e-4)


@PROPERTY
@given(SEEDS, st.sampled_from([1, 3]), st.floats(-1e-9, 1e-9), st.floats(-1e-9, 1e-9))
def test_rounding_beyond_the_picture_does_not_matter(seed, power, before, behind):
    """A box in pixels divided by the picture's side may end a hair outside."""
    cells = cells_of(seed, 5, 8, power)
    table = integral_image(cells, power)
    [pooled] = pool_boxes(table, [before, before, 1 + behind, 1 + behind], power)
    np.testing.assert_allclose(pooled, pool_boxes(table, WHOLE, power)[0], rtol=1e-6, atol=1e-6)


@PROPERTY
@given(SEEDS, spans(), spans())
def test_a_generalised_mean_lies_between_the_plain_mean_and_the_largest(seed, across, down):
    cells, box = cells_of(seed, 6, 6, 3), (across[0], down[0], across[1], down[1])
    [three] = pool_boxes(integral_image(cells, 3), box, 3)
    [one] = pool_boxes(integral_image(cells, 1), box, 1)
    assert (three >= one - 1e-4 * cells.max()).all() and (three <= cells.max(axis=(0, 1)) * (1 + 1e-4)).all()


def test_a_map_far_larger_than_the_box_costs_no_accuracy():
    """Sums of a whole 128 x 128 map stand behind a box of a tenth of a cell in its last corner."""
    cells = np.full((128, 128, 2), 30.0, np.float32)
    cells[-1, -1] = 1e-3, 2.0
    [pooled] = pool_boxes(integral_image(cells, 3), [1 - 1e-3, 1 - 1e-3, 1, 1], 3)
    np.testing.assert_allclose(pooled[1], 2.0, rtol=1e-4)
    assert 0 <= pooled[0] < 0.1  # a cube root forgives little near 0; it must not be negative or NaN


def test_a_root_of_what_rounding_put_below_zero_is_zero():
    below = np.array([[-1e-12, 8.0]])
    np.testing.assert_allclose(rooted(below, 3), [[0, 2]])
    np.testing.assert_allclose(rooted(below, 4), [[0, 8**0.25]])
    assert rooted(below, 1) is below  # tokens may be negative


def test_the_table_is_made_of_sums_in_double_precision():
    cells = cells_of(1, 5, 4, 3)
    table = integral_image(cells, 3)
    assert table.shape == (6, 5, 3) and table.dtype == np.float64
    assert not table[0].any() and not table[:, 0].any()
    for y in range(6):
        for x in range(5):
            expected = (cells[:y, :x].astype(np.float64) ** 3).sum(axis=(0, 1))
            np.testing.assert_allclose(table[y, x], expected, rtol=1e-6)


@PROPERTY
@given(SEEDS, SIDES, SIDES, st.integers(1, 40), st.integers(1, 40))
def test_a_resampled_table_is_the_table_at_each_point(seed, height, width, across, down):
    table = integral_image(cells_of(seed, height, width, 3), 3)
    xs, ys = (np.sort(np.random.default_rng(seed).random(n)) for n in (across, down))
    xs[-1], ys[0] = 1.0, 0.0
    found = resampled(table, xs, ys)
    assert found.shape == (down, across, 3)
    x, y = np.meshgrid(xs, ys)
    np.testing.assert_allclose(found, _at(table, x.ravel(), y.ravel()).reshape(found.shape), rtol=1e-9, atol=1e-9)


def test_a_resampled_table_keeps_its_precision():
    table = integral_image(cells_of(1, 3, 3, 3), 3)
    assert resampled(table, [0, 0.5, 1], [0, 1]).dtype == np.float64
    assert resampled(table.astype(np.float32), [0, 0.5, 1], [0, 1]).dtype == np.float32
    np.testing.assert_array_equal(resampled(table, [-1, 2], [-1, 2]), table[[0, -1]][:, [0, -1]])


# Sizes ----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 20_000), st.floats(1, 20_000), st.integers(SMALLEST_SIDE, 1500), st.sampled_from([4, 14, 16, 32]))
@example(1, 10_000, 640, 32)
@example(10_000, 1, 640, 32)
@example(1, 1, 64, 32)
@example(1e-3, 5.0, 224, 32)  # a query's box may be thinner than a pixel
def test_a_map_keeps_the_shape_and_is_made_of_whole_cells(width, height, long_side, stride):
    sides = map_size(width, height, long_side, stride)
    for side, other in zip(sides, (width, height), strict=True):
        assert side % stride == 0 and side >= stride
        exact = other * long_side / max(width, height)
        assert abs(side - exact) <= stride / 2 + 1e-6 or (side == stride and exact < stride)
    assert max(sides) <= long_side + stride / 2


def test_sizes_that_people_have():
    assert map_size(854, 480, 640, 32) == (640, 352)
    assert map_size(480, 854, 640, 32) == (352, 640)
    assert map_size(1, 10_000, 640, 32) == (32, 640)
    assert map_size(50, 50, 640, 32) == (640, 640)  # small pictures are enlarged: the map's cells must stay as fine


@pytest.mark.parametrize("side", [SMALLEST_SIDE - 1, LARGEST_SIDE + 1, 0, -640])
def test_sizes_that_no_map_can_be_made_of_are_refused(side, refused):
    assert f"at {side} pixels" in refused(PooledSettings, side)


@pytest.mark.parametrize("side", [SMALLEST_SIDE, LARGEST_SIDE])
def test_the_outermost_sizes_are_accepted(side):
    assert PooledSettings(side).long_side == side


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (24, 18)])
def test_maps_of_pictures_of_any_shape(size):
    cells = picture_cells(picture(1, size), TinyEncoder(), 64)
    width, height = map_size(*size, 64, STRIDE)
    assert cells.shape == (height // STRIDE, width // STRIDE, 24)


def test_the_map_of_a_box_is_that_of_the_cut_out_picture():
    scene = picture(4, (120, 90))
    box = (20, 15, 100, 75)  # on the patchwork's own corners, so that cutting first loses no neighbouring pixel
    inside = picture_cells(scene, TinyEncoder(), 64, box)
    cut = picture_cells(scene.crop(box), TinyEncoder(), 64)
    assert inside.shape == cut.shape
    assert np.abs(inside - cut).mean() < 0.1
    np.testing.assert_array_equal(
        picture_cells(scene, TinyEncoder(), 64, (0, 0, 120, 90)), picture_cells(scene, TinyEncoder(), 64)
    )


def test_pixels_become_fractions():
    np.testing.assert_array_equal(fractions([10, 20, 30, 40], 100, 80), [[0.1, 0.25, 0.3, 0.5]])


# Queries --------------------------------------------------------------------------------------------------


def test_a_query_is_seen_alone_at_two_sizes_and_within_its_picture():
    encoder, scene, box = TinyEncoder(), picture(7, (200, 100)), (20.0, 10.0, 120.0, 60.0)
    features = query_features(scene, box, encoder, PooledSettings(128, (64, 96)))
    views = features.views
    assert encoder.maps == [(8, 16), (12, 24), (16, 32)]
    assert views.shape == (3, 24) and views.dtype == np.float32
    alone = [picture_cells(scene, encoder, side, box) for side in (64, 96)]
    whole = picture_cells(scene, encoder, 128)
    expected = [slow_mean(cells, WHOLE, 3) for cells in alone] + [slow_mean(whole, (0.1, 0.1, 0.6, 0.6), 3)]
    for view, mean in zip(views, expected, strict=True):
        np.testing.assert_allclose(view, mean / np.linalg.norm(mean), atol=1e-4)
    # Its parts are the cells of the smaller map, row by row.
    cells = alone[0].reshape(-1, 24)
    assert features.parts.shape == (8, 16, 24)
    np.testing.assert_allclose(
        features.parts.reshape(-1, 24), cells / np.linalg.norm(cells, axis=1, keepdims=True), atol=1e-6
    )


def test_a_query_that_is_seen_within_its_picture_alone_has_no_parts():
    features = query_features(picture(7, (50, 40)), (10.0, 10.0, 30.0, 30.0), TinyEncoder(), PooledSettings(64, ()))
    assert features.views.shape == (1, 24) and features.parts is None


@given(st.integers(1, 12), st.integers(1, 12))
def test_parts_count_less_towards_the_sides(height, width):
    weights = centrality(height, width).reshape(height, width)
    for y in range(height):
        for x in range(width):
            away = max(abs((y + 0.5) / height - 0.5), abs((x + 0.5) / width - 0.5)) / 0.5
            assert weights[y, x] == pytest.approx(1 - (1 - AT_THE_RIM) * away**2, abs=1e-6)
    assert AT_THE_RIM < weights.min() and weights.max() <= 1


def test_a_query_thinner_than_a_pixel_has_a_descriptor():
    box = (10.0, 10.0, 10.001, 30.0)
    features = query_features(picture(7, (50, 40)), box, TinyEncoder(), PooledSettings(64, (64,)))
    assert np.isfinite(features.views).all() and np.isfinite(features.parts).all()


def test_the_mean_of_one_view_is_that_view_to_the_last_bit():
    view = np.float32([0.1, 0.7, 0.70000005])[None]  # its length is not 1 to the last bit, and stays so
    assert mean_direction(view).tobytes() == view[0].tobytes()


def test_the_mean_of_several_views_is_a_direction():
    views = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    mean = mean_direction(views)
    total = views.astype(np.float64).sum(axis=0)
    assert mean.shape == (24,) and mean.dtype == np.float32
    np.testing.assert_allclose(mean, total / np.linalg.norm(total), atol=1e-6)
    np.testing.assert_allclose(mean_direction(np.stack([views[0]] * 3)), views[0], atol=1e-6)


def test_views_that_cancel_each_other_out_are_no_number_that_is_not_one():
    views = np.float32([[1, 0], [-1, 0]])
    assert np.isfinite(mean_direction(views)).all()
