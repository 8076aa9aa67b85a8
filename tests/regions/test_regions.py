"""regions: every selector keeps the contract, and each one against an obvious slow loop."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core import regions
from patchify_core.errors import PatchifyError
from patchify_core.regions import (
    MAX_LEVELS,
    MAX_PATCHES,
    Combined,
    Pyramid,
    Random,
    Salient,
    Sliding,
    Stage,
    level_of,
    parse_regions,
    patches_up_to,
)
from patchify_core.regions.grids import MAX_SEED, MOST_STRETCH, SMALLEST_AREA

PROPERTY = settings(max_examples=60, deadline=None)
LEVELS = st.integers(1, MAX_LEVELS)
SIDES = st.one_of(st.just(1), st.integers(1, 6), st.integers(1, 20_000))
SCALES = st.one_of(st.sampled_from([1.0, 0.5, 0.4, 1 / 3, 0.2, 0.1]), st.floats(0.1, 1))
OVERLAPS = st.one_of(st.sampled_from([0.0, 0.5, 0.25, 0.1, 1e-12]), st.floats(0, 0.6))
SLIDING = st.builds(Sliding, SCALES, OVERLAPS)
FIXED = st.one_of(
    st.builds(Pyramid, LEVELS),
    SLIDING,
    st.builds(Random, st.integers(1, 60), st.integers(0, MAX_SEED)),
)


def combinations(parts):
    several = st.lists(parts, min_size=2, max_size=3, unique_by=lambda part: part.spec)
    return several.filter(lambda ps: sum(p.patches_per_image for p in ps) <= MAX_PATCHES).map(Combined)


FIXED_OR_COMBINED = st.one_of(FIXED, combinations(FIXED))
SINGLE = st.one_of(FIXED, st.builds(Salient, st.integers(1, 40)))
ANY = st.one_of(SINGLE, combinations(SINGLE))


@PROPERTY
@given(FIXED_OR_COMBINED, SIDES, SIDES)
def test_boxes_lie_inside_the_picture_and_have_an_area(selector, width, height):
    boxes = selector.boxes(width, height)
    assert boxes.shape == (selector.patches_per_image, 4) and boxes.dtype == np.float64
    assert not selector.needs_picture
    assert (boxes >= 0).all() and (boxes[:, 2:] <= (width, height)).all()  # exact: Pillow refuses what sticks out
    assert (boxes[:, 2:] > boxes[:, :2]).all()


@PROPERTY
@given(FIXED_OR_COMBINED, SIDES, SIDES)
def test_one_box_is_its_row_of_all_boxes(selector, width, height):
    found = [selector.box(width, height, cell) for cell in range(selector.patches_per_image)]
    np.testing.assert_array_equal(found, selector.boxes(width, height))


@PROPERTY
@given(FIXED_OR_COMBINED, st.integers(1, 40), st.integers(1, 40))
def test_a_picture_has_the_boxes_of_its_size(selector, width, height):
    np.testing.assert_array_equal(selector.boxes_in(Image.new("RGB", (width, height))), selector.boxes(width, height))


@PROPERTY
@given(ANY)
def test_spec_round_trip(selector):
    again = parse_regions(selector.spec)
    assert again == selector and hash(again) == hash(selector) and again.spec == selector.spec


@settings(max_examples=30, deadline=None)
@given(ANY, st.integers(0, 2**32 - 1))
def test_a_stage_is_what_its_spec_selects(selector, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((60, 45))
    boxes = selector.boxes_in(picture)
    patches = [stage.patches for stage in selector.stages]
    assert patches == sorted(set(patches))
    assert selector.stages[-1] == Stage(selector.spec, selector.patches_per_image)
    for stage in selector.stages:
        np.testing.assert_array_equal(parse_regions(stage.spec).boxes_in(picture), boxes[: stage.patches])


@pytest.mark.parametrize("spec", ["pyramid:2", "sliding:0.5,0", "random:5", "salient:5", "pyramid:1+salient:4"])
@pytest.mark.parametrize("cell", [-1, 5])
def test_there_is_no_box_before_the_first_or_after_the_last(spec, cell):
    selector = parse_regions(spec)
    with pytest.raises(IndexError):
        selector.box(10, 10, selector.patches_per_image if cell > 0 else cell)


# --- pyramid


def slow_boxes(levels, width, height):
    boxes = []
    for n in range(1, levels + 1):
        for row in range(n):
            for col in range(n):
                boxes.append([col * width / n, row * height / n, (col + 1) * width / n, (row + 1) * height / n])
    return boxes


@PROPERTY
@given(LEVELS, SIDES, SIDES)
def test_a_pyramids_boxes_are_those_of_the_slow_loop(levels, width, height):
    boxes = Pyramid(levels).boxes(width, height)
    assert boxes.tolist() == slow_boxes(levels, width, height)  # to the last bit: cells are never rounded


@PROPERTY
@given(LEVELS, SIDES, SIDES)
def test_every_level_tiles_the_picture(levels, width, height):
    boxes = Pyramid(levels).boxes(width, height)
    assert len(boxes) == Pyramid(levels).patches_per_image == sum(n * n for n in range(1, levels + 1))
    for n in range(1, levels + 1):
        cells = boxes[patches_up_to(n - 1) : patches_up_to(n)]
        assert cells[:, :2].min(axis=0).tolist() == [0, 0]
        assert cells[:, 2:].max(axis=0).tolist() == [width, height]
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


@pytest.mark.parametrize("levels", [0, 7, -1, 2.0, "4", None, True])
def test_a_pyramid_has_one_to_six_levels(levels, refused):
    assert repr(levels) in refused(Pyramid, levels)


# --- sliding


def slow_windows(scale, overlap):
    """Windows along one side in exact fractions: adds windows until neighbours overlap by enough."""
    scale, overlap = Fraction(str(scale)), Fraction(str(overlap))
    if scale == 1:
        return [(0.0, 1.0)]
    n = 2
    while scale - (1 - scale) / (n - 1) < overlap * scale:
        n += 1
    return [(float((1 - scale) * i / (n - 1)), float((1 - scale) * i / (n - 1) + scale)) for i in range(n)]


@PROPERTY
@given(SCALES.map(lambda s: round(s, 4)), OVERLAPS.map(lambda o: round(o, 4)))
def test_sliding_windows_are_those_of_the_slow_loop(scale, overlap):
    side = slow_windows(scale, overlap)
    expected = [[x1, y1, x2, y2] for y1, y2 in side for x1, x2 in side]
    np.testing.assert_allclose(Sliding(scale, overlap).boxes(1, 1), expected, rtol=0, atol=1e-12)


@PROPERTY
@given(SLIDING, SIDES, SIDES)
def test_sliding_windows_reach_every_border(selector, width, height):
    boxes = selector.boxes(width, height)
    assert boxes[:, :2].min(axis=0).tolist() == [0, 0]
    assert boxes[:, 2:].max(axis=0).tolist() == [width, height]


@pytest.mark.parametrize(
    ("spec", "patches"),
    [
        ("sliding:1,0", 1),
        ("sliding:0.5,0", 4),
        ("sliding:0.1,0", 100),
        ("sliding:0.4,0.5", 16),
        ("sliding:0.4,0.6", 25),
    ],
)
def test_how_many_windows_there_are(spec, patches):
    assert parse_regions(spec).patches_per_image == patches  # 0.9 / 0.1 must not become a tenth step and a bit


@pytest.mark.parametrize("scale", [0, 0.0, -0.5, 1.01, float("nan"), float("inf"), "0.5", None, True])
def test_a_windows_scale_is_a_fraction(scale, refused):
    assert repr(scale) in refused(Sliding, scale, 0.5)


@pytest.mark.parametrize("overlap", [1, 1.0, -0.1, float("nan"), "0.5", None])
def test_an_overlap_is_a_fraction_below_one(overlap, refused):
    assert repr(overlap) in refused(Sliding, 0.5, overlap)


@pytest.mark.parametrize(("scale", "overlap"), [(0.03, 0), (0.5, 0.99), (1e-300, 0), (5e-324, 0.5)])
def test_more_windows_than_anyone_wants_are_refused(scale, overlap, refused):
    assert str(MAX_PATCHES) in refused(Sliding, scale, overlap)


def test_minus_nought_is_nought():
    assert Sliding(1.0, -0.0) == Sliding(1, 0) and Sliding(1.0, -0.0).spec == Sliding(1, 0).spec == "sliding:1,0"


# --- random


KNOWN = {
    0: [[1864, 627, 21907, 28205], [25461, 38108, 49026, 51405]],
    7: [[26355, 10661, 57915, 28858], [69, 28194, 52444, 59399]],
}


def test_random_boxes_are_the_same_everywhere_and_for_ever():
    """The very numbers: an index made with them must mean the same boxes on another machine and in years."""
    assert (Random(2, 0).relative * 65536).tolist() == KNOWN[0]
    assert (Random(2, 7).relative * 65536).tolist() == KNOWN[7]


@PROPERTY
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, MAX_SEED))
def test_fewer_random_boxes_are_the_first_of_more(few, more, seed):
    few, more = sorted((few, more))
    np.testing.assert_array_equal(Random(few, seed).relative, Random(more, seed).relative[:few])


def test_random_boxes_follow_the_distribution_that_is_promised():
    boxes = np.concatenate([Random(1000, seed).relative for seed in range(10)])
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    area, ratio = width * height, width / height
    assert SMALLEST_AREA * 0.999 < area.min() < SMALLEST_AREA * 1.01 and 0.99 < area.max() <= 1
    assert 1 / MOST_STRETCH * 0.999 < ratio.min() < 0.51 and 1.98 < ratio.max() < MOST_STRETCH * 1.001
    share = np.log(area) / np.log(SMALLEST_AREA)  # uniform in 0..1, if areas are log-uniform
    assert np.abs(np.quantile(share, [0.1, 0.25, 0.5, 0.75, 0.9]) - [0.1, 0.25, 0.5, 0.75, 0.9]).max() < 0.02
    free = area < 0.5  # where the shape is not narrowed
    spread = np.log(ratio[free]) / np.log(MOST_STRETCH)
    assert np.abs(np.quantile(spread, [0.1, 0.5, 0.9]) - [-0.8, 0, 0.8]).max() < 0.04
    assert (np.maximum(width, height) == 1).mean() < 0.001  # narrowed before it is drawn, not cut off afterwards
    for low, size in zip(boxes[:, :2].T, (width, height), strict=True):
        place = low[size < 0.9] / (1 - size[size < 0.9])
        assert np.abs(np.quantile(place, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.03


def test_another_seed_draws_other_boxes():
    assert len({Random(3, seed).relative.tobytes() for seed in range(20)}) == 20


@pytest.mark.parametrize("count", [0, -1, MAX_PATCHES + 1, 2.0, "3", None, True])
def test_how_many_random_boxes_may_be_drawn(count, refused):
    assert repr(count) in refused(Random, count)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 0.5, "0", None])
def test_a_seed_is_a_whole_number(seed, refused):
    assert repr(seed) in refused(Random, 3, seed)


def test_boxes_made_once_cannot_be_changed_by_their_user():
    for selector in (Random(3), Sliding(0.5)):
        with pytest.raises(ValueError, match="read-only"):
            selector.relative[0] = 0
        selector.boxes(10, 10)[0] = 0  # a fresh array, by contrast
        assert selector.boxes(10, 10)[0].any()


# --- combined


def test_a_combination_is_its_parts_one_after_the_other():
    combined = parse_regions("pyramid:2+random:3,5")
    np.testing.assert_array_equal(
        combined.boxes(64, 48), np.concatenate([Pyramid(2).boxes(64, 48), Random(3, 5).boxes(64, 48)])
    )
    assert combined.stages == (Stage("pyramid:1", 1), Stage("pyramid:2", 5), Stage("pyramid:2+random:3,5", 8))


def test_stages_of_a_long_combination():
    combined = parse_regions("pyramid:4+salient:10+sliding:0.5,0")
    assert [stage.patches for stage in combined.stages] == [1, 5, 14, 30, 40, 44]
    assert [stage.spec for stage in combined.stages][-3:] == ["pyramid:4", "pyramid:4+salient:10", combined.spec]


def test_a_combination_needs_the_picture_if_a_part_does(refused):
    combined = parse_regions("pyramid:1+salient:2")
    assert combined.needs_picture and not parse_regions("pyramid:1+random:2").needs_picture
    assert "salient:2" in refused(combined.boxes, 10, 10)
    assert "salient:2" in refused(combined.box, 10, 10, 1)
    assert combined.box(10, 10, 0).tolist() == [0, 0, 10, 10]  # this one is the same in every picture


@pytest.mark.parametrize("parts", [(), (Pyramid(1),), (Pyramid(1), Combined((Pyramid(2), Pyramid(3))))])
def test_what_is_no_combination(parts, refused):
    refused(Combined, parts)


def test_a_list_of_parts_is_as_good():
    assert hash(Combined([Pyramid(1), Random(2)])) == hash(Combined((Pyramid(1), Random(2))))


@pytest.mark.parametrize(
    ("spec", "part"), [("pyramid:2+pyramid:2", "pyramid:2"), ("random:3+random:3,0", "random:3,0")]
)
def test_a_part_named_twice_is_refused(spec, part, refused):
    assert part in refused(parse_regions, spec)


@pytest.mark.parametrize(
    "spec",
    [
        *(f"{name}:{'9' * 3000}" for name in ("pyramid", "sliding", "random", "salient", "x")),
        f"sliding:0.{'3' * 3000},0.5",
        f"random:5,{'9' * 3000}",
        "+".join(["pyramid:2"] * 500),
        "+".join(f"random:2,{seed}" for seed in range(600)),
        "pyramid:1+" * 500 + "x",
    ],
)
def test_a_very_long_spec_is_not_repeated_in_full(spec, refused):
    assert len(refused(parse_regions, spec)) < 400


def test_a_combination_of_too_many_patches_is_refused(refused):
    assert "1001" in refused(parse_regions, "random:1000+pyramid:1")


# --- parsing


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        (" pyramid:3 ", "pyramid:3"),
        ("pyramid : 04", "pyramid:4"),
        ("sliding: 0.40 , .5", "sliding:0.4,0.5"),
        ("sliding:1.0,0.0", "sliding:1,0"),
        ("random:30", "random:30,0"),
        ("random:30, 007", "random:30,7"),
        ("salient:010", "salient:10"),
        ("\tpyramid:2 +salient:5\n", "pyramid:2+salient:5"),
    ],
)
def test_the_canonical_form(spec, canonical):
    assert parse_regions(spec).spec == canonical


@pytest.mark.parametrize(
    "spec",
    [
        "pyramid",
        "pyramid:",
        "pyramid:0",
        "pyramid:7",
        "pyramid:-1",
        "pyramid:2.5",
        "pyramid:four",
        "pyramid:4:4",
        "pyramid:4,4",
        "pyramid:1e0",
        "pyramid:²",  # a digit to str.isdigit(), but not to int()
        "pyramid:٤",  # a digit to int() too, but not one that a script should rely on
        "Pyramid:4",
        "piramid:4",
        "pyramid:" + "9" * 5000,  # more digits than int() converts
        "salient:2+pyramid:x",
    ],
)
def test_a_malformed_pyramid_is_told_its_range(spec, refused):
    message = refused(parse_regions, spec)
    assert "pyramid:N" in message and "1" in message and "6" in message and len(message) < 400


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("sliding:4", "SCALE,OVERLAP"),
        ("sliding", "SCALE,OVERLAP"),
        ("sliding:0.4", "SCALE,OVERLAP"),
        ("sliding:0.4,0.5,0.6", "SCALE,OVERLAP"),
        ("sliding:0.4,", "SCALE,OVERLAP"),
        ("sliding:1e-1,0", "SCALE,OVERLAP"),
        ("sliding:nan,0", "SCALE,OVERLAP"),
        ("sliding:inf,0", "SCALE,OVERLAP"),
        ("sliding:-0.4,0", "SCALE,OVERLAP"),
        ("sliding:0.4;0.5", "SCALE,OVERLAP"),
        ("sliding:1_0,0", "SCALE,OVERLAP"),
        ("sliding:0,0", "scale"),
        ("sliding:" + "0" * 5000 + "1,0", "SCALE,OVERLAP"),
        ("sliding:0.4,1.0", "overlap"),
        ("random", "random:N,SEED"),
        ("random:1,2,3", "random:N,SEED"),
        ("random:1,", "random:N,SEED"),
        ("random:3,-1", "random:N,SEED"),
        ("random:0", "1000"),
        ("random:3,99999999999", str(MAX_SEED)),
        ("salient:0", "1000"),
        ("salient:1001", "1000"),
        ("salient:ten", "salient:N"),
        ("salient:1,2", "salient:N"),
    ],
)
def test_what_is_malformed_is_told_what_to_write(spec, wanted, refused):
    message = refused(parse_regions, spec)
    assert wanted in message and len(message) < 400


@pytest.mark.parametrize("spec", ["", "  ", "+", "pyramid:4+", "+pyramid:4", "pyramid:1++salient:2", "xyzzy:3", "4"])
def test_an_unknown_name_lists_what_is_known(spec, refused):
    message = refused(parse_regions, spec)
    assert all(form in message for form in ("pyramid:N", "sliding:SCALE,OVERLAP", "random:N,SEED", "salient:N", " + "))


@pytest.mark.parametrize(
    ("spec", "near"), [("piramid:4", "pyramid"), ("SALIENT:3", "salient"), ("pyramid:1+slide:0.4,0", "sliding")]
)
def test_a_slip_is_told_the_nearest_name(spec, near, refused):
    assert f"did you mean {near}?" in refused(parse_regions, spec)


@settings(max_examples=200, deadline=None)
@given(st.text("pyramidsltenro:,+.0123456789 -eE", max_size=30))
def test_any_text_is_read_or_refused_in_one_sentence(text):
    try:
        selector = parse_regions(text)
    except PatchifyError as error:
        assert "\n" not in str(error)
    else:
        assert parse_regions(selector.spec) == selector


def test_examples_in_the_docstrings():
    modules = [
        regions,
        *(importlib.import_module(f"{regions.__name__}.{m.name}") for m in pkgutil.iter_modules(regions.__path__)),
    ]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.attempted for result in results) > 5 and not any(result.failed for result in results)
