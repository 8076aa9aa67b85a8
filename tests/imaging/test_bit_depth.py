"""Pictures of more than 8 bits per channel: the content decides the scale, alike in every file format."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from patchify_core.encoders import load_encoder
from patchify_core.features.crop import describe
from patchify_core.imaging.bit_depth import find_scale, to_bytes
from patchify_core.imaging.pictures import read_picture, upright
from tests.bad_pictures import encoded, png_bytes, png_chunk
from tests.tiff_files import tiff as layout

PROPERTY = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
RAMP = np.linspace(0, 255, 48 * 64).reshape(48, 64)
"""Content that fills 8 bits; one value after the other."""


def pixels(data):
    return np.asarray(read_picture(data)).astype(int)


def gray(data):
    found = pixels(data)
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()
    return found[..., 0]


def tiff(values, **tags):
    return encoded(Image.fromarray(values), "TIFF", **tags)


def coloured(values, kind):
    """A PNG or TIFF of (h, w, 3 or 4) uint16 values."""
    order = [2, 1, 0, 3][: values.shape[2]]
    return cv2.imencode(kind, np.ascontiguousarray(values[..., order]))[1].tobytes()


def every_file(content, values):
    """The same values as gray PNG and TIFF, and as colour PNG and TIFF."""
    values = np.rint(values).astype(np.uint16)
    yield encoded(Image.fromarray(values), "PNG"), content
    yield tiff(values), content
    yield tiff(values, compression="tiff_lzw"), content
    yield tiff(values.astype(np.int32)), content
    three = np.stack([values, values[::-1], values[:, ::-1]], -1)
    content = np.stack([content, content[::-1], content[:, ::-1]], -1)
    yield coloured(three, ".png"), content
    yield coloured(three, ".tif"), content


# Scales ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("brightest", [1.0, 0.9, 0.7])
def test_bits_stored_in_16_keep_their_brightness(bits, brightest):
    for data, content in every_file(RAMP * brightest, RAMP * brightest / 255 * (2**bits - 1)):
        found = pixels(data)
        assert np.abs(found - (content[..., None] if content.ndim == 2 else content)).max() <= 1


@pytest.mark.parametrize("low, high", [(51_241, 52_181), (30_000, 30_900), (1000, 5000), (300, 301 + 600), (0, 20_000)])
def test_counts_are_stretched(low, high):
    for data, content in every_file(RAMP, low + RAMP / 255 * (high - low)):
        found = pixels(data)
        assert np.abs(found - (content[..., None] if content.ndim == 2 else content)).max() <= 1


@pytest.mark.parametrize("full", [1, 255, 1023, 4095, 65_535])
def test_floats_on_a_usual_scale_keep_their_brightness(full):
    assert np.abs(gray(tiff((RAMP * 0.8 / 255 * full).astype(np.float32))) - RAMP * 0.8).max() <= 1


@pytest.mark.parametrize("low, high", [(-296, 603), (0, 1e-9), (-1e-30, 2e-30), (1e6, 3e6), (-1e30, 1e38), (0.2, 0.3)])
def test_floats_of_any_range_are_stretched(low, high):
    assert np.abs(gray(tiff((low + RAMP / 255 * (high - low)).astype(np.float32))) - RAMP).max() <= 1


CONTENT = arrays.arrays(np.int64, (6, 7), elements=st.integers(0, 1000)).filter(lambda values: np.ptp(values) > 0)


@PROPERTY
@given(content=CONTENT, scale=st.floats(1e-12, 1e12), shift=st.floats(1.5, 2000))
def test_affine_scale_of_floats_changes_nothing(content, scale, shift):
    """The values are moved below zero, where there is no usual scale."""
    first = gray(tiff((content - 1500).astype(np.float32)))
    other = gray(tiff(((content - 1000 - shift) * scale).astype(np.float32)))
    assert np.abs(first - other).max() <= 1


@PROPERTY
@given(
    content=CONTENT,
    factor=st.integers(1, 15),
    shift=st.integers(-15_000, 0),
    kind=st.sampled_from([np.int16, np.int32]),
)
def test_affine_scale_of_integers_changes_nothing(content, factor, shift, kind):
    # Below zero, where there is no usual scale.
    data = cv2.imencode(".tif", ((content - 1001) * factor + shift).astype(kind))[1].tobytes()
    assert np.abs(gray(data) - gray(tiff((content - 1500).astype(np.float32)))).max() <= 1


@PROPERTY
@given(content=arrays.arrays(np.uint16, (5, 4, 3)), offset=st.sampled_from([0, 40_000]), bits=st.integers(3, 16))
def test_png_and_tiff_give_the_same_pixels(content, offset, bits):
    values = ((content >> (16 - bits)).astype(int) + offset).clip(0, 65_535).astype(np.uint16)
    np.testing.assert_array_equal(pixels(coloured(values, ".png")), pixels(coloured(values, ".tif")))
    one = np.ascontiguousarray(values[..., 0])
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(one), "PNG")), pixels(tiff(one)))


@pytest.mark.parametrize("hot", [65_535, 0])
def test_few_hot_or_dead_pixels_change_no_other(hot):
    values = 1000 + RAMP / 255 * 3000
    spoilt = values.copy()
    spoilt[20, 30] = spoilt[40, 7] = hot
    for (clean, _), (other, _) in zip(every_file(RAMP, values), every_file(RAMP, spoilt), strict=True):
        assert (np.abs(pixels(other) - pixels(clean)).max(-1) > 1).sum() <= 6  # two in each of the channels


def test_nan_and_infinities_are_harmless():
    values = (RAMP - 100).astype(np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, 7
    found = gray(tiff(values))
    assert found[0, :3].tolist() == [0, 255, 0]
    assert np.abs(found[1:] - RAMP[1:]).max() <= 2
    for nothing in (np.nan, np.inf, -np.inf):
        assert np.ptp(gray(tiff(np.full((3, 4), nothing, np.float32)))) == 0


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (np.uint16, 0, 0), (np.uint16, 65_535, 255), (np.uint16, 32_896, 128), (np.int32, 128, 128), (np.int32, -7, 0),
        (np.int32, 10**9, 255), (np.float32, 0.5, 128), (np.float32, 1e-9, 0), (np.float32, 1e9, 255),
    ],
)  # fmt: skip
def test_one_value_stays_one_value(kind, value, wanted):
    assert (gray(tiff(np.full((3, 4), value, kind))) == wanted).all()


@PROPERTY
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_every_float_has_a_scale(values):
    """Including NaN, infinities, the smallest and the largest floats."""
    array = np.array(values, np.float64)
    low, high = find_scale(iter([array]), array.size, floating=True)
    assert np.isfinite([low, high]).all() and low < high
    found = to_bytes(array, (low, high))
    order = np.argsort(array[np.isfinite(array)])
    assert (np.diff(found[np.isfinite(array)][order].astype(int)) >= 0).all()


# No data, and single pixels -------------------------------------------------------------------------------

GREEN = np.random.default_rng(3).permutation(RAMP.ravel()).reshape(RAMP.shape)
"""The same values, with no neighbours alike."""


def spoilt(content, low, high, value, rows):
    values = low + content / 255 * (high - low)
    values[:rows] = value
    return values


@pytest.mark.parametrize("rows", [1, 8, 30])
@pytest.mark.parametrize(
    ("low", "high", "value", "kind"),
    [
        (0, 1, -9999, "f4"), (0, 1, -1, "f4"), (0, 3000, -9999, "f4"), (0, 2500, -32768, "i2"),
        (-50, 900, -32768, "i2"),
        (0, 1, -3.4028234663852886e38, "f4"), (-20, 60, 1e20, "f4"), (0, 1, 1e30, "f4"), (0, 255, 9999, "f4"),
        (20_000, 21_000, 0, "u2"), (20_000, 21_000, 65_535, "u2"), (0, 1023, 65_535, "u2"), (250, 310, 0, "u2"),
        (0, 900, 2**31 - 1, "i4"), (0, 1, -1.7e308, "f8"),
    ],
)  # fmt: skip
def test_repeated_value_far_from_all_others_is_no_data(low, high, value, kind, rows):
    """The data look as they would without the rows of no data."""
    values = spoilt(RAMP, low, high, value, rows).astype(kind)
    np.testing.assert_array_equal(gray(layout(values))[rows:], gray(layout(values[rows:])))


def test_no_data_at_both_ends_and_single_pixels_beside_it():
    values = spoilt(GREEN, 20_000, 21_000, 0, 9).astype("u2")
    values[-5:] = 65_535
    values[20::4, 1::40] = 65_535
    values[22::4, 5::40] = 0
    found, content = gray(layout(values))[9:-5], np.where((values > 0) & (values < 65_535), GREEN, np.nan)[9:-5]
    assert np.nanmax(np.abs(found - content)) <= 2


@pytest.mark.parametrize("value", [-9999, 0, 500, 4000])
@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "f8"])
def test_declared_no_data_is_black_and_does_not_count(value, kind):
    values = spoilt(RAMP, 1000, 2000, value, 8).astype(kind)
    for written in (f"{value}\0", f" {value}.0\0", f"{value:e}\0"):
        found = gray(layout(values, tags={42113: ("s", written.encode())}))
        assert (found[:8] == 0).all()
        np.testing.assert_array_equal(found[8:], gray(layout(values[8:])))


@pytest.mark.parametrize("written", [b"\0", b"nan\0", b"none\0", b"1e999\0", b"-99999\0", b"\xff\0", b"0.5\0"])
def test_declared_no_data_that_does_not_occur_changes_nothing(written):
    values = (RAMP * 3 + 300).astype("u2")
    np.testing.assert_array_equal(gray(layout(values, tags={42113: ("s", written)})), gray(layout(values)))


@pytest.mark.parametrize("share", [1 / 700, 1 / 300, 1 / 120])
@pytest.mark.parametrize("channels", [1, 3])
def test_single_pixels_up_to_a_hundredth_change_no_other(share, channels):
    rng = np.random.default_rng(5)
    content = np.stack([GREEN, GREEN[::-1], GREEN[:, ::-1]][:channels], -1)
    hit = rng.random(content.shape) < share
    for low, high, kind in ((20_000, 21_000, "u2"), (0, 4095, "u2"), (-1, 1, "f4")):
        values = low + content / 255 * (high - low)
        for extreme in (65_535, 0 if low > 0 else 65_535, rng.choice([0, 65_535], hit.sum())):
            other = values.copy()
            other[hit] = extreme
            found, clean = pixels(layout(other.astype(kind))), pixels(layout(values.astype(kind)))
            assert np.abs(found - clean)[~hit if channels == 3 else ~hit[..., 0]].max() <= 4


def test_hot_pixels_are_replaced_and_areas_are_not():
    values = 1000 + RAMP / 255 * 3000
    values[3, 0] = values[9, 9] = values[9, 63] = values[20, 20] = 65_535
    values[30, 40:42] = 65_535
    found, clean = gray(layout(values.astype("u2"))), gray(layout((1000 + RAMP / 255 * 3000).astype("u2")))
    assert (found[30, 40:42] == 255).all()
    found[30, 40:42] = clean[30, 40:42]
    assert np.abs(found - clean).max() <= 2


def ordinary():
    """Pictures in which black, white, lamps and lines are part of the scene."""
    y, x = np.mgrid[0:90, 0:120]
    scene = 0.5 + 0.3 * np.sin(x / 9) * np.cos(y / 7) + 0.2 * (x / 119 - 0.5)
    yield "black bars", np.where((y < 14) | (y > 76), 0, scene)
    yield "white bars", np.where(y < 14, 1, scene)
    yield "black and white", np.where(y < 14, 0, np.where(y > 76, 1, scene))
    yield "dark room with lamps", 0.1 * scene + 0.9 * ((y // 3 == 9) & (x // 3 % 13 == 4)) * (x / 119)
    yield "night with one lamp", 0.05 * scene + 0.95 * ((y // 2 == 9) & (x // 2 == 4))
    yield "drawing", np.where((x % 30 == 7) | (y % 40 == 9), 0, 0.72 + 0.28 * scene)
    yield "letters", ((x // 7 + y // 5) % 2).astype(float)
    yield "three grays", np.where(y < 30, 0, np.where(x < 60, 0.99, 1))
    yield "dim, with a black edge", np.where(x < 9, 0, 0.45 + 0.4 * scene)
    yield "noise", np.random.default_rng(0).random((90, 120))


@pytest.mark.parametrize("name, scene", ordinary())
def test_ordinary_pictures_keep_their_black_and_white(name, scene):
    content = np.rint(scene * 255)
    for values in (
        content.astype("u2"), (content * 257).astype("u2"), np.rint(content / 255 * 4095).astype("u2"),
        (content / 255).astype("f4"),
    ):  # fmt: skip
        assert np.abs(gray(layout(values)) - content).max() <= 1, name


@PROPERTY
@given(
    content=CONTENT,
    factor=st.integers(1, 15),
    shift=st.integers(-15_000, -1001),
    value=st.sampled_from([-32768, -32768.0]),
)
def test_no_data_does_not_depend_on_the_content(content, factor, shift, value):
    """A hole in a picture of many levels, whatever the levels mean."""
    values = content * factor + shift
    hole = np.concatenate([np.full((2, 7), 10**9), values]).astype("i4")
    found = gray(layout(hole))[2:]
    if len(np.unique(content)) >= 8:
        np.testing.assert_array_equal(found, gray(layout(values.astype("i4"))))


def test_counts_of_many_bits_are_stretched():
    for most in (23_700_000, 100_000, 5_000_000, 2_000_000_000):
        assert np.abs(gray(layout(np.rint(RAMP / 255 * most).astype("i4"))) - RAMP).max() <= 1


def test_signed_bytes_are_in_order():
    assert np.abs(gray(layout(np.rint(RAMP - 128).astype("i1"))) - RAMP).max() <= 1


# Tags -----------------------------------------------------------------------------------------------------


def test_declared_range_is_used_where_the_content_covers_it():
    values = (RAMP / 255 * 600 + 200).astype(np.int32)
    for tags in ({340: 0, 341: 1000}, {280: 0, 281: 1000}):
        assert np.abs(gray(tiff(values, tiffinfo=tags)) - values * 0.255).max() <= 1
    for tags in ({340: 0, 341: 10}, {340: 0, 341: 60_000}, {340: 5, 341: 5}, {280: 9, 281: 1}):
        assert np.abs(gray(tiff(values, tiffinfo=tags)) - RAMP).max() <= 1


def test_unsigned_32_bits_do_not_turn_negative():
    values = (RAMP / 255 * (2**32 - 1)).astype(np.uint32)
    data = bytearray(tiff(values.view(np.int32)))
    at = data.index(struct.pack("<HHI", 339, 3, 1)) + 8
    data[at] = 1
    assert np.abs(gray(bytes(data)) - RAMP).max() <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_white_is_zero(kind):
    assert np.abs(gray(tiff((RAMP / 255 * 4095).astype(kind), tiffinfo={262: 0})) - (255 - RAMP)).max() <= 1


def test_transparent_value_is_white_and_does_not_count():
    values = np.rint(RAMP / 255 * 900 + 2000).astype(np.uint16)
    values[0] = 60_000
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = png_bytes((64, 48), 16, 0, rows, before=png_chunk(b"tRNS", struct.pack(">H", 60_000)))
    found = gray(data)
    assert (found[0] == 255).all() and np.abs(found[1:] - RAMP[1:]).max() <= 6


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_alpha_of_few_bits_lies_over_white(kind, bits):
    full = 2**bits - 1
    values = np.full((6, 8, 4), full, np.uint16)
    values[..., 0] = np.linspace(0, full, 8)
    values[..., 1] = 0
    values[3:, :, 3] = 0
    found = pixels(coloured(values, kind))
    assert (found[3:] == 255).all()
    assert np.abs(found[:3, :, 0] - np.linspace(0, 255, 8)).max() <= 1 and (found[:3, :, 1] == 0).all()


def test_gray_with_alpha_of_12_bits():
    values = np.full((6, 8, 2), 4095, np.uint16)
    values[..., 0] = np.linspace(0, 4095, 8)
    values[3:, :, 1] = 0
    found = gray(png_bytes((8, 6), 16, 4, b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)))
    assert (found[3:] == 255).all() and np.abs(found[:3] - np.linspace(0, 255, 8)).max() <= 1


def test_rotated_deep_colour_is_turned_once():
    values = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], -1)
    data = bytearray(coloured((values * 4).astype(np.uint16), ".tif"))
    at = data.index(struct.pack("<HHI", 284, 3, 1))
    data[at : at + 10] = struct.pack("<HHIH", 274, 3, 1, 6)  # replace the tag of the planes by one of the orientation
    assert np.abs(pixels(bytes(data)) - np.rot90(values, -1)).max() <= 2


def test_deep_picture_opened_by_someone_else():
    assert np.abs(np.asarray(upright(Image.fromarray((RAMP / 255 * 1023).astype(np.int32))))[..., 0] - RAMP).max() <= 1


# The encoder ----------------------------------------------------------------------------------------------


def test_encoder_sees_the_8_bit_equivalent(sample_gallery):
    encoder = load_encoder()

    def described(data):
        picture = read_picture(data)
        return describe(picture, (0, 0, *picture.size), encoder).mean(0)

    rng = np.random.default_rng(7)
    for image in sample_gallery.images[::40]:
        content = np.asarray(read_picture(image.path).convert("L"))[::2, ::2].astype(np.float64)
        content = (content - content.min()) / np.ptp(content)
        twin = described(encoded(Image.fromarray(np.rint(content * 255).astype(np.uint8)), "PNG"))
        hot = content * 4095
        hot.flat[rng.integers(0, hot.size, 5)] = 65_535
        files = {
            "10 bits": tiff(np.rint(content * 1023).astype(np.uint16)),
            "13 bits": encoded(Image.fromarray(np.rint(content * 8191).astype(np.uint16)), "PNG"),
            "thermal": tiff(np.rint(51_241 + content * 940).astype(np.uint16)),
            "hot pixels": tiff(np.rint(hot).astype(np.uint16)),
            "float": tiff((content * 899 - 296).astype(np.float32)),
            "tiny": tiff((content * 1e-9).astype(np.float32)),
            "holes": tiff(np.where(content > 0.999, np.nan, content).astype(np.float32)),
            "no data": layout(
                np.vstack([np.full((len(content) // 7, content.shape[1]), -9999.0), content]).astype("f4")
            ),
            "many hot pixels": layout(
                np.where(rng.random(content.shape) < 1 / 700, 65_535, 20_000 + content * 1000).astype("u2")
            ),
            "many counts": layout(np.rint(content * 23_700_000).astype("i4")),
            "doubles": layout(content * 7 - 3, planar=False),
            "signed bytes": layout(np.rint(content * 255 - 128).astype("i1")),
            "planes": layout(np.rint(np.stack([content] * 3, -1) * 4095).astype("u2"), planar=True),
            "signed": cv2.imencode(".tif", np.rint(content * 3000 - 1500).astype(np.int16))[1].tobytes(),
        }
        for kind, data in files.items():
            picture = read_picture(data)
            shown = picture.crop((0, picture.height - len(content), *picture.size))
            found = described(encoded(shown, "PNG"))
            cosine = float(found @ twin / np.linalg.norm(found) / np.linalg.norm(twin))
            assert cosine > 0.99, (kind, image.file_name)
