"""TIFF files of every layout give the correct picture or a clear error, never a wrong picture."""

from __future__ import annotations

import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from patchify_core.errors import PictureError
from patchify_core.imaging.pictures import PictureSettings, picture_size, read_header, read_picture
from tests.imaging.test_limits import PEAKS
from tests.tiff_files import tiff

Y, X = np.mgrid[0:45, 0:77]
CONTENT = np.stack([X / 76, Y / 44, (X + Y) / 120, (X * Y % 97) / 96, ((X - Y) % 50) / 49], -1)
"""Five different channels, each from 0 to 1."""
KINDS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]


def stored(content, kind):
    """The content scaled to the range of a type, or of fewer bits: "u2:12"."""
    kind, _, bits = kind.partition(":")
    if kind[0] == "f":
        return (content * 2000 - 1000).astype(kind)
    full = 2.0 ** min(int(bits or 8 * int(kind[1])), 52) - 1
    return np.rint(content * full - (full + 1) / 2 * (kind[0] == "i")).astype(kind)


def pixels(data):
    picture = read_picture(data)
    assert picture.size == picture_size(data)
    return np.asarray(picture).astype(int)


def close(found, content, most=1):
    content = content[..., :3] if content.shape[-1] >= 3 else content[..., :1]
    return np.abs(found - content * 255).max() <= most + 0.51


# Layouts --------------------------------------------------------------------------------------------------


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from([*KINDS, "u2:4", "u2:10", "u2:12", "u2:14"]),
    channels=st.integers(1, 5),
    order=st.sampled_from("<>"),
    planar=st.booleans(),
    tile=st.sampled_from([None, (16, 32), (48, 80), (64, 16)]),
    rows=st.sampled_from([None, 1, 16]),
    packed=st.booleans(),
    predicted=st.booleans(),
    big=st.booleans(),
)
def test_every_layout_of_the_same_content_is_the_same_picture(
    kind, channels, order, planar, tile, rows, packed, predicted, big
):
    bits = int(kind.partition(":")[2] or 0) or None
    predictor = {True: 1, False: 3 if kind[0] == "f" else 2}[not (packed and predicted and not bits)]
    content = CONTENT[..., :channels]
    data = tiff(stored(content, kind), order, planar and channels > 1, tile, rows, packed, predictor, bits, big)
    if big and order == ">":
        with pytest.raises(PictureError, match="BigTIFF in big-endian byte order"):
            read_picture(data)
        return
    assert close(pixels(data), content, 9 if bits == 4 else 1)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"])
def test_every_compression_of_deep_values_is_read(compression):
    values = stored(CONTENT[..., 0], "u2")
    try:
        file = BytesIO()
        Image.fromarray(values).save(file, "TIFF", compression=compression)
    except OSError:
        pytest.skip(f"this libtiff has no {compression}")
    assert close(pixels(file.getvalue()), CONTENT[..., :1])


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_layout_is_turned_once(kind, orientation):
    plain = pixels(tiff(stored(CONTENT[..., :3], kind), planar=True))
    data = tiff(stored(CONTENT[..., :3], kind), planar=True, tags={274: ("H", [orientation])})
    wanted = {
        1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1), 7: np.rot90(plain, 2).swapaxes(0, 1), 8: np.rot90(plain),
    }[orientation]  # fmt: skip
    np.testing.assert_array_equal(pixels(data), wanted)
    assert read_header(data).stored == (77, 45)


def test_second_page_is_read_by_its_own_layout():
    """A reduced copy comes first: 8-bit gray before float colour."""
    first = tiff(stored(CONTENT[::3, ::3, 0], "u1"), tags={254: ("I", [1])})
    whole = tiff(stored(CONTENT[..., :3], "f8"), planar=True)
    assert close(pixels(joined(first, whole)), CONTENT[..., :3])


def joined(first, second):
    """Two pages in one file: every offset in the second changes."""
    at = len(first) + len(first) % 2
    moved = bytearray(second)
    directory = int.from_bytes(second[4:8], "little")
    count = int.from_bytes(second[directory : directory + 2], "little")
    sizes = {1: 1, 2: 1, 3: 2, 4: 4}

    def move(place):
        value = int.from_bytes(moved[place : place + 4], "little")
        moved[place : place + 4] = (value + at).to_bytes(4, "little")
        return value

    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = (int.from_bytes(second[entry + k : entry + k + 2], "little") for k in (0, 2))
        many = int.from_bytes(second[entry + 4 : entry + 8], "little")
        late = many * sizes[kind] > 4
        if late:
            place = move(entry + 8)
        if tag == 273:
            for number in range(many):
                move(place + 4 * number if late else entry + 8)
    out = bytearray(first.ljust(at, b"\0") + moved)
    start = int.from_bytes(first[4:8], "little")
    link = start + 2 + 12 * int.from_bytes(first[start : start + 2], "little")
    out[link : link + 4] = (at + directory).to_bytes(4, "little")
    return bytes(out)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    packed=st.booleans(),
    where=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1),
)
def test_damaged_layouts_raise_only_picture_errors(kind, packed, where, new):
    data = bytearray(tiff(stored(CONTENT[..., :3], kind), planar=True, tile=(16, 16), packed=packed))
    at = int(where * len(data))
    data[at : at + len(new)] = new
    for function in (read_picture, picture_size):
        try:
            function(bytes(data), PictureSettings(max_pixels=1_000_000, max_bytes=100_000_000))
        except PictureError:
            pass


# Channels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["u1", "u2:12", "u2", "f4"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("said", [None, 0])
def test_further_channels_are_not_transparency(kind, planar, said):
    """For example near infrared beside red, green and blue, from drones and satellites."""
    values = stored(CONTENT[..., :4], kind)
    data = tiff(values, planar=planar, tags={338: None if said is None else ("H", [said])})
    assert close(pixels(data), CONTENT[..., :3])


@pytest.mark.parametrize("kind", ["u1", "u2:12", "u2", "f4"])
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("associated", [False, True])
def test_declared_transparency_lies_over_white(kind, colours, associated):
    content = CONTENT[..., : colours + 1].copy()
    content[..., -1] = 0.2 + 0.8 * content[..., -1]
    alpha = content[..., -1:]
    wanted = content[..., :-1] * alpha + 1 - alpha
    if associated:
        content[..., :-1] *= alpha
    values = stored(content, kind) if kind != "f4" else content.astype("f4")
    data = tiff(values, tags={338: ("H", [1 if associated else 2])})
    assert close(pixels(data), wanted, 4)


def test_fourth_channel_that_is_a_mask_is_transparency():
    """OpenCV writes such files without declaring the fourth channel."""
    content = CONTENT[..., :4].copy()
    content[..., 3] = Y > 20
    for kind in ("u1", "u2:10", "u2", "f4"):
        values = stored(content, kind) if kind != "f4" else content.astype("f4")
        found = pixels(tiff(values, tags={338: None}))
        assert (found[:21] == 255).all() and close(found[21:], content[21:, :, :3])


def test_bands_without_a_colour_space_are_colours():
    for kind in ("u1", "u2", "f4"):
        for channels in (3, 4, 5):
            values = stored(CONTENT[..., :channels], kind)
            data = tiff(values, tags={262: ("H", [1]), 338: ("H", [0] * (channels - 1))})
            assert close(pixels(data), CONTENT[..., :3])


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("planar", [False, True])
def test_inks(kind, planar):
    values = stored(CONTENT[..., :4], kind)
    data = tiff(values, planar=planar, tags={262: ("H", [5]), 338: None})
    ink = Image.fromarray(np.rint(CONTENT[..., :4] * 255).astype(np.uint8), "CMYK").convert("RGB")
    assert np.abs(pixels(data) - np.asarray(ink)).max() <= 2


def test_uncompressed_luma_and_chroma():
    ycc = np.asarray(Image.fromarray(np.rint(CONTENT[..., :3] * 255).astype(np.uint8)).convert("YCbCr"))
    data = tiff(ycc, tags={262: ("H", [6]), 530: ("H", [1, 1])})
    assert close(pixels(data), CONTENT[..., :3], 4)


# Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "tags", "part"),
    [
        (CONTENT[..., 0].astype("c8"), {}, "64-bit complex numbers"),
        (stored(CONTENT[..., 0], "u2"), {262: ("H", [3])}, "in the colour space number 3"),
        (stored(CONTENT[..., :3], "u2"), {262: ("H", [8])}, "in the colour space number 8"),
        (stored(CONTENT[..., :3], "u2"), {258: ("H", [16, 16, 8])}, "channels are of different types"),
        (stored(CONTENT[..., 0], "u2"), {259: ("H", [7])}, "with the compression 'jpeg'"),
        (stored(CONTENT[..., 0], "f4"), {259: ("H", [8]), 317: ("H", [9])}, "with a predictor that is not supported"),
        (stored(CONTENT[..., :3], "u1"), {273: ("I", [0])}, "without some of its parts"),
        (stored(CONTENT[..., 0], "u2"), {273: ("I", [0])}, "without some of its parts"),
    ],
)
def test_unsupported_layouts_are_named(values, tags, part):
    for read in (read_picture, picture_size):
        with pytest.raises(PictureError, match=part) as error:
            read(tiff(values, tags=tags), name="it.tif")
        message = str(error.value)
        assert message.startswith("'it.tif' is a TIFF ") and message.endswith(".") and ". " not in message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_missing_pixels_are_refused(kind, packed, planar):
    """The last piece is behind the file's end, as after an incomplete copy."""
    values = stored(CONTENT[..., :3], kind)
    data = tiff(values, planar=planar, packed=packed)
    places = [len(data) - 9] * (3 if planar else 1)
    with pytest.raises(PictureError, match="cut short"):
        read_picture(tiff(values, planar=planar, packed=packed, tags={273: ("I", places)}))


def test_memory_of_a_layout_is_predicted_undecoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    kinds = {256: ("I", [10_000]), 257: ("I", [10_000]), 278: ("I", [10_000])}
    huge = tiff(stored(CONTENT[..., :3], "f8"), tags=kinds)
    wide = tiff(stored(CONTENT[..., 0], "f8"), tile=(16, 16), packed=True, tags={322: ("I", [2**28])})
    for data in (huge, wide):
        with pytest.raises(PictureError, match="GB of memory at"):
            read_picture(data)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux only")
def test_no_layout_takes_more_memory_than_predicted(tmp_path):
    content = np.tile(CONTENT, (45, 33, 1))[:2000, :2500]
    for name, values, options in (
        ("u2.tif", stored(content[..., :3], "u2"), {"planar": True}),
        ("f4.tif", stored(content[..., :3], "f4"), {"packed": True, "rows": 16}),
        ("f8.tif", stored(content[..., 0], "f8"), {"packed": True, "tile": (256, 256), "predictor": 3}),
        ("u12.tif", stored(content[..., 0], "u2:12"), {"bits": 12}),
        ("i4.tif", stored(content[..., :4], "i4"), {}),
    ):
        (tmp_path / name).write_bytes(tiff(values, **options))
    run = [sys.executable, "-c", PEAKS, str(tmp_path)]
    done = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5, done.stderr
    for name, predicted, taken in lines:
        assert 4 < taken <= predicted + 2 * (tmp_path / name).stat().st_size / 1e6 + 20, (name, predicted, taken)
