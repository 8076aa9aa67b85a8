"""imaging.pictures: every supported format is read as upright RGB, anything else raises a clear error."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
import time
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, features

from patchify_core.errors import PatchifyError, PictureError
from patchify_core.imaging import pictures
from patchify_core.imaging.pictures import PictureSettings, picture_size, read_picture, read_reduced, upright
from tests.bad_pictures import BAD, ODD, bomb, encoded, locked, oriented, oriented_late, photograph, png_bytes
from tests.heic_files import heic

PROPERTY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALL = PictureSettings(max_pixels=1_000_000)  # a damaged header may declare a huge size
KINDS = ["jpeg", "png", "webp", "tiff", *(["avif"] if features.check("avif") else [])]


def pixels(image):
    return np.asarray(image).astype(int)


def slow_upright(stored, orientation):
    """The EXIF standard, pixel by pixel: at which sides of the scene the stored row and column 0 are."""
    height, width = stored.shape[:2]
    upright_shape = (width, height) if orientation >= 5 else (height, width)
    out = np.zeros((*upright_shape, 3), int)
    for row in range(height):
        for column in range(width):
            up, down, left, right = row, height - 1 - row, column, width - 1 - column
            place = {
                1: (up, left),  # row 0 is the top, column 0 the left
                2: (up, right),  # top, right
                3: (down, right),  # bottom, right
                4: (down, left),  # bottom, left
                5: (left, up),  # row 0 is the left side, column 0 the top
                6: (left, down),  # right side, top
                7: (right, down),  # right side, bottom
                8: (right, up),  # left side, bottom
            }[orientation]
            out[place] = stored[row, column]
    return out


def one_sentence(error):
    message = str(error.value)
    assert isinstance(error.value, PatchifyError)
    assert "\n" not in message and "Traceback" not in message
    assert message.endswith(".") and ". " not in message
    return message


# Refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_refused_with_a_message(kind, tmp_path):
    make, part = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(PictureError) as error:
        read_picture(path)
    message = one_sentence(error)
    assert part in message
    assert path.name in message
    with pytest.raises(PictureError) as same:
        read_picture(str(path))
    assert str(same.value) == message


@pytest.mark.parametrize("kind", [k for k in BAD if k not in ("missing", "below_a_file", "a_folder", "a_pipe")])
def test_bad_bytes_are_refused_without_a_name(kind, tmp_path):
    with pytest.raises(PictureError) as error:
        read_picture(BAD[kind][0](tmp_path).read_bytes())
    message = one_sentence(error)
    assert message.startswith("The picture ")
    assert str(tmp_path) not in message


@pytest.mark.parametrize("kind", [k for k in BAD if k not in ("truncated_jpeg", "truncated_png", "damaged_png")])
def test_size_of_a_bad_file_is_refused_too(kind, tmp_path):
    make, part = BAD[kind]
    with pytest.raises(PictureError) as error:
        picture_size(make(tmp_path))
    assert part in one_sentence(error)


def test_locked_file(tmp_path):
    path = locked(tmp_path)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file (root)")
    with pytest.raises(PictureError, match="may not be read"):
        read_picture(path)


def test_permission_error_for_root_too(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    path = locked(tmp_path)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PictureError, match=r"'locked\.jpg' may not be read"):
        read_picture(path)


@pytest.mark.parametrize("name", ["x" * 5000 + ".jpg", "nul\0.jpg", "", ".", "/", "new\nline.jpg"])
def test_strange_names(name):
    with pytest.raises(PictureError) as error:
        read_picture(name)
    one_sentence(error)


def test_bomb_is_refused_fast_and_undecoded(tmp_path, monkeypatch):
    path = bomb(tmp_path)
    assert path.stat().st_size < 100_000

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", decode)
    start = time.thread_time()
    for function in (read_picture, picture_size):
        with pytest.raises(PictureError, match="scale it down"):
            function(path)
    with Image.new("1", (1, 1)) as lazy:
        lazy._size = (20_000, 10_000)  # stands for a picture that someone opened but did not load
        with pytest.raises(PictureError, match=r"The picture is too large at 20000 × 10000"):
            upright(lazy)
    assert time.thread_time() - start < 0.5


def test_limit_is_inclusive():
    data = encoded(photograph((10, 10)), "PNG")
    assert read_picture(data, PictureSettings(max_pixels=100)).size == (10, 10)
    with pytest.raises(PictureError, match="too large at 10 × 10"):
        read_picture(data, PictureSettings(max_pixels=99))


@pytest.mark.parametrize("limit", [60, 40])  # Pillow warns above its limit, and raises above twice its limit
def test_pillows_own_limit_has_no_effect(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(encoded(photograph((10, 10)), "PNG")).size == (10, 10)
        assert read_picture(encoded(photograph((10, 10)), "JPEG")).size == (10, 10)


def test_process_wide_switches_stay_as_they_are(tmp_path):
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)
    for make, _ in [*BAD.values(), *ODD.values()]:
        try:
            read_picture(make(tmp_path))
        except PictureError:
            pass
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), SystemError("x"), Warning("w"), OSError(5, "x")])
def test_any_exception_of_a_decoder(error, monkeypatch):
    def fail(self):
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(PictureError) as refused:
        read_picture(encoded(photograph(), "PNG"))
    one_sentence(refused)
    assert refused.value.__cause__ is error


PREFIXES = [
    b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + b"\0" * 12 + b"\x28\0\0\0",
    b"II*\0", b"MM\0*", b"RIFF\x40\0\0\0WEBPVP8 ", b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic", b"<svg",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\5\0\0\0\3\x08\2\0\0\0",
]  # fmt: skip


@PROPERTY
@given(prefix=st.sampled_from(PREFIXES), rest=st.binary(max_size=300))
def test_random_bytes_raise_only_picture_errors(prefix, rest):
    for function in (read_picture, picture_size):
        try:
            function(prefix + rest, SMALL)
        except PictureError:
            pass


WHOLE = {
    "jpeg": encoded(photograph(), "JPEG"),
    "progressive": encoded(photograph(), "JPEG", progressive=True),
    **{kind: encoded(photograph(), kind) for kind in ["png", "webp", "gif", "bmp", "tiff"]},
    "lzw": encoded(photograph(), "tiff", compression="tiff_lzw"),
    "heic": heic(),
    **({"avif": encoded(photograph(), "AVIF")} if features.check("avif") else {}),
}


@PROPERTY
@given(kind=st.sampled_from(sorted(WHOLE)), data=st.data())
def test_truncated_is_refused_or_complete(kind, data):
    whole = WHOLE[kind]
    cut = data.draw(st.integers(0, len(whole) - 1))
    try:
        picture = read_picture(whole[:cut])
    except PictureError:
        return
    # Not only the full size: what is given is the picture, with no part of it filled with gray.
    np.testing.assert_array_equal(pixels(picture), pixels(read_picture(whole)))


@PROPERTY
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    where=st.floats(0, 1, exclude_max=True),
    new=st.binary(min_size=1, max_size=9),
)
def test_damaged_raises_only_picture_errors(kind, where, new):
    data = bytearray(WHOLE[kind])
    at = int(where * len(data))
    data[at : at + len(new)] = new
    for function in (read_picture, picture_size):
        try:
            function(bytes(data), SMALL)
        except PictureError:
            pass


# Read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ODD)
def test_odd_picture_has_the_right_colour(kind, tmp_path):
    make, colour = ODD[kind]
    path = make(tmp_path)
    picture = read_picture(path)
    assert (picture.mode, picture.size, picture.info) == ("RGB", (6, 4), {})
    assert picture_size(path) == picture_size(path.read_bytes()) == (6, 4)
    assert np.abs(pixels(picture) - colour).max() <= (3 if path.suffix in (".jpg", ".avif") else 1)
    np.testing.assert_array_equal(pixels(read_picture(path.read_bytes())), pixels(picture))
    path.unlink()  # nothing is left to be read later
    picture.load()


@pytest.mark.parametrize("kind", ODD)
def test_odd_picture_opened_by_someone_else(kind, tmp_path):
    path = ODD[kind][0](tmp_path)
    with Image.open(path) as image:
        unloaded = upright(image)
    np.testing.assert_array_equal(pixels(unloaded), pixels(read_picture(path)))


def test_sixteen_bits_keep_their_steps(tmp_path):
    """Clipping at 255 would make all but the first column white."""
    ramp = np.linspace(0, 65535, 256).astype(">u2")
    picture = read_picture(png_bytes((256, 1), 16, 0, b"\0" + ramp.tobytes()))
    assert np.abs(pixels(picture)[0, :, 0] - np.arange(256)).max() <= 1


def test_float_without_a_scale():
    """NaN is black; values above every usual scale are scaled to their maximum."""
    tiff = encoded(Image.fromarray(np.array([[np.nan, 0, 1e6, 4e5, -3]], np.float32)), "TIFF")
    assert pixels(read_picture(tiff))[0, :, 0].tolist() == [0, 0, 255, 102, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "bmp", "tiff"])
def test_smallest_and_thinnest(kind, size):
    data = encoded(Image.new("RGB", size, (9, 9, 9)), kind)
    assert read_picture(data).size == picture_size(data) == size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_on_pixels(kind, orientation, tmp_path):
    path = oriented(tmp_path, orientation, kind, size=(24, 16))
    plain = tmp_path / "plain"
    plain.mkdir()
    stored = pixels(read_picture(oriented(plain, 1, kind, size=(24, 16))))
    picture = read_picture(path)
    np.testing.assert_array_equal(pixels(picture), slow_upright(stored, orientation))
    assert picture_size(path) == picture.size == ((16, 24) if orientation >= 5 else (24, 16))
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels(upright(image)), pixels(picture))
    # Nobody turns it twice: nothing is left that says to.
    assert picture.getexif().get(ExifTags.Base.Orientation) is None
    np.testing.assert_array_equal(pixels(upright(picture)), pixels(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_behind_a_pngs_pixels(orientation, tmp_path):
    path = oriented_late(tmp_path, orientation)
    picture = read_picture(path)
    np.testing.assert_array_equal(pixels(picture), slow_upright(pixels(photograph((5, 3))), orientation))
    assert picture_size(path) == picture.size


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_picture_with_broken_exif_is_read(exif):
    data = encoded(photograph(), "JPEG", exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_picture(data).size == picture_size(data) == (40, 30)


def test_orientation_out_of_range_is_none(tmp_path):
    assert picture_size(oriented(tmp_path, 9)) == read_picture(oriented(tmp_path, 0)).size == (5, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_size_decodes_nothing(kind, monkeypatch):
    data = encoded(photograph(), kind)

    def decode(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert picture_size(data) == (40, 30)


# upright() ------------------------------------------------------------------------------------------------


MODES = "1 L P LA La PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I F I;16 I;16B I;16L".split()


@pytest.mark.parametrize("mode", MODES)
def test_upright_takes_every_mode(mode):
    picture = upright(Image.new(mode, (3, 2)))
    assert (picture.mode, picture.size) == ("RGB", (3, 2))


def test_upright_does_not_change_its_argument(tmp_path):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 200, 30, 10])
    image.info["transparency"] = 1
    before = image.copy()
    assert upright(image).getpixel((0, 0)) == (255, 255, 255)
    assert image == before and image.info == before.info
    given = photograph()
    upright(given).putpixel((0, 0), (1, 2, 3))
    assert given == photograph()


def test_upright_refuses_what_has_no_pixels():
    with pytest.raises(PictureError, match="has no pixels"):
        upright(Image.new("RGB", (0, 5)))


def test_upright_of_a_file_cut_short():
    half = WHOLE["jpeg"][:900]
    with Image.open(BytesIO(half)) as image, pytest.raises(PictureError, match=r"^The picture is cut short"):
        upright(image)


# The module -----------------------------------------------------------------------------------------------


def test_examples_in_docstrings():
    assert doctest.testmod(pictures).failed == 0


def test_import_is_light():
    code = "import sys, patchify_core.imaging.pictures; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(pictures.__file__).parents[2]).returncode == 0


# Reduced --------------------------------------------------------------------------------------------------


def smooth(size):
    """A picture without fine detail, which every method scales down nearly alike."""
    return photograph((8, 6)).resize(size, Image.Resampling.BICUBIC)


@PROPERTY
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), wanted=st.integers(1, 400))
def test_reduced_is_the_smallest_that_is_long_enough(size, wanted):
    data = encoded(smooth(size), "JPEG", quality=95)
    reduced = read_reduced(data, wanted)
    assert reduced.size == size
    assert reduced.picture.mode == "RGB" and reduced.picture.info == {}
    fits = [scale for scale in (1, 2, 4, 8) if max(size) // scale >= wanted and min(size) >= scale]
    assert reduced.scale == max(fits, default=1)
    assert reduced.picture.size == tuple(-(-side // reduced.scale) for side in size)
    assert max(reduced.picture.size) >= min(wanted, max(size))
    if reduced.scale == 1:
        np.testing.assert_array_equal(pixels(reduced.picture), pixels(read_picture(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_reduced_is_upright_and_looks_like_the_complete_picture(orientation, mode):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth((256, 160)).convert(mode), "JPEG", exif=exif, quality=95)
    whole, reduced = read_picture(data), read_reduced(data, 60)
    assert (reduced.size, reduced.scale) == (whole.size, 4)
    assert reduced.picture.size == (whole.width // 4, whole.height // 4)
    averaged = whole.resize(reduced.picture.size, Image.Resampling.BOX)
    assert np.abs(pixels(reduced.picture) - pixels(averaged)).max() <= 8


@pytest.mark.parametrize("kind", sorted(set(WHOLE) - {"jpeg", "progressive"}))
def test_other_formats_are_read_completely(kind):
    reduced = read_reduced(WHOLE[kind], 3)
    assert (reduced.scale, reduced.size) == (1, reduced.picture.size)
    np.testing.assert_array_equal(pixels(reduced.picture), pixels(read_picture(WHOLE[kind])))


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_reduced_too(kind, tmp_path):
    make, part = BAD[kind]
    with pytest.raises(PictureError) as error:
        read_reduced(make(tmp_path), 20)
    assert part in one_sentence(error)


def test_reduced_sides_and_limits():
    data = encoded(smooth((80, 60)), "JPEG")
    with pytest.raises(ValueError, match="at least 1"):
        read_reduced(data, 0)
    with pytest.raises(PictureError, match="too large at 80 × 60"):  # the whole picture counts, not what is decoded
        read_reduced(data, 10, PictureSettings(max_pixels=4000))


def test_reduced_decodes_less():
    """Time is hard to test; that the decoder itself reduces the picture can be observed."""
    data = encoded(smooth((640, 480)), "JPEG")
    decoded = []
    load = ImageFile.ImageFile.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image.size) or load(image))
        read_reduced(data, 100)
    assert decoded[0] == (160, 120)
