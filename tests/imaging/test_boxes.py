"""imaging.boxes: conversions, IoU against a plain slow implementation, and a message for every refused box."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchify_core.errors import BoxError
from patchify_core.imaging import boxes

# No deadline: the first call may import torch, and the machine may be busy.
PROPERTY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Quarter pixels are exact in float64, so that round trips can be compared without a tolerance.
COORDINATE = st.integers(-80, 160).map(lambda quarter: quarter / 4)
ANY_BOX = st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE)  # inverted and empty ones too
MANY = st.lists(ANY_BOX, max_size=6)


def slow_iou(a, b):
    """Area of the intersection over area of the union of two boxes."""

    def slow_area(x1, y1, x2, y2):
        return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0

    if slow_area(*a) == 0 or slow_area(*b) == 0:
        return 0.0
    overlap = slow_area(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return overlap / (slow_area(*a) + slow_area(*b) - overlap)


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        ([1, 2, 3, 4], 1),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], 2),
        (np.array([[1, 2, 3, 4]], dtype=np.uint8), 1),
        (np.array([1, 2, 3, 4], dtype=np.float32), 1),
        ([], 0),
        (np.zeros((0, 4)), 0),
        ([3, 4, 1, 2], 1),  # inverted, which only checked_box refuses
    ],
)
def test_as_boxes_takes_one_or_many(values, rows):
    result = boxes.as_boxes(values)
    assert result.shape == (rows, 4)
    assert result.dtype == np.float64
    assert result.tolist() == np.asarray(values, dtype=float).reshape(-1, 4).tolist()


def test_as_boxes_copies():
    # Changing the result must not change a gallery's annotations.
    source = np.array([[1.0, 2.0, 3.0, 4.0]])
    boxes.as_boxes(source)[0, 0] = 99
    assert source[0, 0] == 1


MALFORMED = [
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    5,
    None,
    [1, 2, None, 4],
    ["1", "2", "3", "4"],  # numpy could convert these to numbers
    [True, False, True, True],  # a mask, not a box
    [[1, 2, 3, 4], [1, 2, 3]],  # ragged
    [[[1, 2, 3, 4]]],
    [[]],
    [1, 2, 3, 4j],
    [1, float("nan"), 3, 4],
    [1, 2, float("inf"), 4],
    [[1, 2, 3, 4], [1, 2, 3, -float("inf")]],
]


@pytest.mark.parametrize("values", MALFORMED, ids=repr)
@pytest.mark.parametrize(
    "function",
    [
        boxes.as_boxes,
        boxes.to_xywh,
        boxes.area,
        lambda values: boxes.clip(values, 10, 10),
        lambda values: boxes.iou(values, [0, 0, 1, 1]),
        lambda values: boxes.iou([0, 0, 1, 1], values),
        lambda values: boxes.checked_box(values, 10, 10),
    ],
    ids=["as_boxes", "to_xywh", "area", "clip", "iou-left", "iou-right", "checked_box"],
)
def test_malformed_boxes_are_refused_everywhere(function, values):
    with pytest.raises(BoxError, match=r"^A box is four finite numbers, but this one is .*for example"):
        function(values)


def test_refusal_of_a_large_array_stays_one_short_line():
    with pytest.raises(BoxError) as refusal:
        boxes.as_boxes(np.full((1000, 3), np.nan))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


@PROPERTY
@given(MANY)
def test_xywh_round_trip(rows):
    corners = boxes.as_boxes(rows)
    corner, size = np.split(boxes.to_xywh(corners), 2, axis=1)
    np.testing.assert_array_equal(np.hstack([corner, corner + size]), corners)


def test_xywh_of_a_known_box():
    # The round trip would also succeed if both directions had the same error.
    assert boxes.to_xywh([40, 30, 200, 180]).tolist() == [[40, 30, 160, 150]]
    assert boxes.to_xywh([40, 30, 200, 180]).tolist() == [[40, 30, 160, 150]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 4, 3], 12),
        ([0.5, 0, 1, 3], 1.5),
        ([2, 2, 2, 9], 0),
        ([4, 0, 0, 3], 0),  # inverted one way: -12 by the plain product
        ([4, 3, 0, 0], 0),  # inverted both ways: +12 by the plain product
    ],
)
def test_area(box, expected):
    assert boxes.area(box).tolist() == [expected]


@PROPERTY
@given(MANY, st.integers(1, 40), st.integers(1, 40))
def test_clip_keeps_each_coordinate_inside(rows, width, height):
    clipped = boxes.clip(rows, width, height)
    expected = [
        [min(max(value, 0), limit) for value, limit in zip(row, (width, height) * 2, strict=True)] for row in rows
    ]
    assert clipped.tolist() == expected
    assert clipped.shape == (len(rows), 4)


@PROPERTY
@given(MANY, MANY)
def test_iou_equals_the_slow_implementation(a, b):
    expected = np.array([[slow_iou(p, q) for q in b] for p in a]).reshape(len(a), len(b))
    result = boxes.iou(a, b)
    assert result.dtype == np.float64
    assert result.shape == (len(a), len(b))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)
    assert ((result >= 0) & (result <= 1)).all()


@PROPERTY
@given(st.lists(st.tuples(ANY_BOX, ANY_BOX), max_size=6))
def test_paired_iou_is_the_diagonal(pairs):
    a, b = [p for p, _ in pairs], [q for _, q in pairs]
    np.testing.assert_allclose(boxes.paired_iou(a, b), boxes.iou(a, b).diagonal(), rtol=0, atol=1e-12)


def test_iou_agrees_with_torchvision():
    import torch
    from torchvision.ops import box_iou

    # Arbitrary valid boxes, not on the quarter-pixel grid; torchvision does not handle invalid ones.
    corners = np.random.default_rng(0).uniform(0, 640, (2, 50, 2, 2))
    a, b = np.sort(corners, axis=2).reshape(2, 50, 4)
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert expected.max() > 0.3  # the boxes do overlap
    np.testing.assert_array_equal(boxes.iou(a, b), expected)


def test_iou_of_a_box_with_itself_is_exactly_one():
    # LocScore == AP for perfect boxes depends on it, so there is no tolerance.
    corners = np.random.default_rng(1).uniform(-50, 700, (200, 2, 2))
    proper = np.sort(corners, axis=1).reshape(200, 4)
    assert (boxes.paired_iou(proper, proper) == 1).all()
    assert (boxes.iou(proper, proper).diagonal() == 1).all()


def test_empty_boxes_have_iou_zero_even_with_themselves():
    dot, line = [3, 3, 3, 3], [0, 3, 9, 3]
    assert boxes.iou([dot, line], [dot, line]).tolist() == [[0, 0], [0, 0]]
    assert boxes.paired_iou([dot, line], [dot, line]).tolist() == [0, 0]


def test_paired_iou_refuses_unequal_lengths():
    # One row against two would broadcast silently.
    with pytest.raises(ValueError, match="as many boxes on both sides, got 1 and 2"):
        boxes.paired_iou([[0, 0, 1, 1]], [[0, 0, 1, 1], [0, 0, 2, 2]])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10, 20, 30, 40], [10, 20, 30, 40]),
        ([0, 0, 100, 50], [0, 0, 100, 50]),  # the whole picture
        ([-5, -5, 30, 40], [0, 0, 30, 40]),
        ([90, 20, 500, 900], [90, 20, 100, 50]),
        ([-1e9, -1e9, 1e9, 1e9], [0, 0, 100, 50]),
        ([10.5, 20.25, 11.5, 21.25], [10.5, 20.25, 11.5, 21.25]),  # exactly 1 px is enough
        ([[10, 20, 30, 40]], [10, 20, 30, 40]),  # a row of an (N, 4) array
    ],
)
def test_checked_box_clips_to_the_picture(box, expected):
    result = boxes.checked_box(box, width=100, height=50)
    assert result.shape == (4,)
    assert result.dtype == np.float64
    assert result.tolist() == expected


@pytest.mark.parametrize(
    ("box", "wrong", "remedy"),
    [
        ([30, 20, 10, 40], "The box 30,20,10,40 is inverted", "top-left corner first"),
        ([10, 40, 30, 20], "is inverted", "top-left corner first"),
        (
            [130, 20, 110, 40],
            "is inverted",
            "top-left corner first",
        ),  # outside too, but the first problem is named
        ([10, 20, 10, 40], "The box 10,20,10,40 has no area", "at least 1 pixel wide and high"),
        ([10, 20, 30, 20], "has no area", "at least 1 pixel wide and high"),
        ([120, 10, 150, 40], "entirely outside the picture, which is 100 × 50 pixels", "overlaps it"),
        ([10, -40, 30, -20], "entirely outside the picture", "overlaps it"),
        ([100, 10, 130, 40], "entirely outside the picture", "overlaps it"),  # starts where the picture ends
        ([-30, 10, 0, 40], "entirely outside the picture", "overlaps it"),
        ([10, 20, 10.5, 40], "The box 10,20,10.5,40 is less than 1 pixel wide or high", "a larger one"),
        ([10, 49.5, 30, 80], "less than 1 pixel wide or high inside the picture", "a larger one"),  # after clipping
        ([1, 2, 3], "A box is four finite numbers, but this one is [1, 2, 3]", "for example 40,30,200,180"),
        ([], "A box is four finite numbers, but this one is []", "for example"),
        ([[0, 0, 9, 9], [0, 0, 9, 9]], "A box is four finite numbers", "for example"),  # two boxes
        ([1, 2, float("nan"), 4], "this one is [1, 2, nan, 4]", "for example"),
        ([1, 2, float("inf"), 4], "this one is [1, 2, inf, 4]", "for example"),
    ],
)
def test_every_refused_box_has_a_message(box, wrong, remedy):
    with pytest.raises(BoxError) as refusal:
        boxes.checked_box(box, width=100, height=50)
    message = str(refusal.value)
    assert wrong in message
    assert remedy in message
    assert message.endswith(".")
    assert ". " not in message  # one sentence


@PROPERTY
@given(ANY_BOX, st.integers(1, 40), st.integers(1, 40))
def test_checked_box_is_inside_and_large_enough_or_refused(box, width, height):
    x1, y1, x2, y2 = box
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if right - left >= 1 and bottom - top >= 1:
        assert boxes.checked_box(box, width, height).tolist() == [left, top, right, bottom]
    else:
        with pytest.raises(BoxError):
            boxes.checked_box(box, width, height)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("40,30,200,180", [40, 30, 200, 180]),
        (" 40, 30 ,200.5,1.8e2 ", [40, 30, 200.5, 180]),
        ("-10,30,9,5", [-10, 30, 9, 5]),  # inverted, which parse_box does not check
    ],
)
def test_parse_box(text, expected):
    result = boxes.parse_box(text)
    assert result.shape == (4,)
    assert result.dtype == np.float64
    assert result.tolist() == expected


@pytest.mark.parametrize(
    "text", ["", "40", "40,30,200", "1,2,3,4,5", "1,2,3,", "a,b,c,d", "1 2 3 4", "1,2,nan,4", "1,2,3,inf"]
)
def test_parse_box_refuses_with_the_text_and_an_example(text):
    with pytest.raises(BoxError) as refusal:
        boxes.parse_box(text)
    assert f"this one is {text!r}" in str(refusal.value)
    assert "x1,y1,x2,y2 in pixels, for example 40,30,200,180" in str(refusal.value)


def test_importing_loads_no_torch():
    # `--help` must answer in a second; a fresh interpreter, because this one has torch already.
    code = "import sys, patchify_core.imaging.boxes, patchify_core.evaluation.metrics; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_docstring_examples():
    results = doctest.testmod(boxes)
    assert results.attempted > 0
    assert results.failed == 0
