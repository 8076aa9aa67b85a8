"""Excessive time, memory and metadata are refused before a picture is decoded."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, features

from patchify_core.errors import PictureError
from patchify_core.gallery import read_folder
from patchify_core.imaging import limits as picture_limits
from patchify_core.imaging.headers import decoded_heic_pixels
from patchify_core.imaging.pictures import PictureSettings, picture_size, read_header, read_picture
from patchify_core.index.build import build_index
from tests.bad_pictures import encoded, photograph, png_bytes, png_chunk
from tests.heic_files import SIZE, heic, overlaid
from tests.tiny import TinyEncoder

READERS = [read_picture, picture_size, read_header]


@pytest.fixture
def no_pixels(monkeypatch):
    """Fail if a pixel is decoded."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))


def refused(data, part, settings=None):
    for read in READERS:
        with pytest.raises(PictureError, match=part) as error:
            read(data, settings or PictureSettings(), "it.x")
        message = str(error.value)
        assert message.startswith("'it.x' ") and message.endswith(".") and ". " not in message


def png_header(size, depth=8, colour=0, interlaced=0):
    """A PNG that declares a size and has no pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b""))
        + png_chunk(b"IEND", b"")
    )


# Scans ----------------------------------------------------------------------------------------------------


def progressive(scans, size=(64, 48), before=b""):
    """A progressive JPEG with a number of scans, made by repeating the last one."""
    data = encoded(photograph(size), "JPEG", progressive=True)
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    count = data.count(b"\xff\xda")
    return data[:2] + before + data[2:end] + data[last:end] * (scans - count) + data[end:]


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("scans", [501, 3000])
def test_many_scans_are_refused_undecoded(scans):
    refused(progressive(scans), "is stored in more than 500 scans, each a pass over its 0.0 megapixels")


def test_scans_times_pixels_are_bounded():
    pixels = 64 * 48
    settings = PictureSettings(max_scanned=40 * pixels)
    assert read_picture(progressive(40), settings).size == (64, 48)
    refused(progressive(41), "more than 40 scans", settings)
    assert read_picture(progressive(41), PictureSettings()).size == (64, 48)


def test_ordinary_progressive_pictures_are_read_at_every_size():
    """10 scans of Pillow's, at 100 megapixels."""
    settings = PictureSettings()
    assert 10 * settings.max_pixels <= settings.max_scanned
    assert encoded(photograph(), "JPEG", progressive=True).count(b"\xff\xda") <= 10


def test_only_the_scans_of_the_picture_itself_count():
    settings = PictureSettings(max_scans=12)
    noise = b"\xff\xe5" + struct.pack(">H", 2 + 400) + b"\xff\xda\0\2" * 100  # data of an application
    data = progressive(12, before=noise) + b"\xff\xda" * 100 + encoded(photograph(), "JPEG") * 20
    assert read_picture(data, settings).size == (64, 48)
    refused(progressive(13, before=noise), "scans", settings)


@pytest.mark.usefixtures("no_pixels")
def test_scans_inside_a_tiff_count_too():
    for scans, read in ((30, True), (600, False)):
        data = progressive(scans)
        data += b"\0" * (len(data) % 2)
        shown = {256: 64, 257: 48, 258: 8, 259: 7, 262: 6, 273: 8, 277: 3, 278: 48, 279: len(data)}
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in shown.items()]
        entries[2] = struct.pack("<HHII", 258, 3, 3, 8 + len(data))
        directory = struct.pack("<HHHH", 8, 8, 8, len(entries)) + b"".join(entries) + bytes(4)
        tiff = b"II*\0" + struct.pack("<I", 14 + len(data)) + data + directory
        if read:
            assert picture_size(tiff) == (64, 48)
        else:
            refused(tiff, "is stored in more than 500 scans")


def test_ordinary_jpegs_are_not_scanned_twice(monkeypatch):
    monkeypatch.setattr(picture_limits, "count_jpeg_scans", lambda *_: pytest.fail("counted"))
    for mode in ("L", "RGB", "CMYK"):
        assert read_picture(encoded(photograph().convert(mode), "JPEG")).size == (40, 30)


# Sizes and memory -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize("size", [(99_000_000, 1), (1, 99_000_000), (100_001, 9), (2, 100_001)])
def test_long_pictures_are_refused_undecoded(size):
    refused(png_header(size), rf"is too long at {size[0]} × {size[1]} pixels \(at most 100,000 along a side")


def test_longest_pictures_are_read_and_described(tmp_path):
    for name, size in {"flat.png": (100_000, 1), "tall.png": (1, 100_000), "usual.png": (40, 30)}.items():
        Image.new("L", size, 9).save(tmp_path / name)
    report = build_index(read_folder(tmp_path), tmp_path / "index", TinyEncoder())
    assert (report.images, report.skipped) == (3, ())


def test_good_pictures_are_indexed_beside_refused_ones(tmp_path):
    photograph().save(tmp_path / "good.png")
    for name, data in {"long.png": png_header((99_000_000, 1)), "scans.jpg": progressive(600)}.items():
        (tmp_path / name).write_bytes(data)
    report = build_index(read_folder(tmp_path), tmp_path / "index", TinyEncoder())
    assert report.images == 1
    assert [name for name, _ in report.skipped] == ["long.png", "scans.jpg"]


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize(("depth", "colour"), [(16, 2), (16, 4), (16, 6)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_memory_is_predicted_from_the_header(depth, colour, interlaced):
    data = png_header((10_000, 10_000), depth, colour, interlaced)
    refused(data, r"would take (1\.6|2\.[0-9]) GB of memory at 10000 × 10000 pixels")
    assert picture_size(data, PictureSettings(max_bytes=3_000_000_000)) == (10_000, 10_000)


@pytest.mark.parametrize(("depth", "colour"), [(8, 0), (8, 2), (8, 6), (16, 0)])
def test_usual_pictures_of_100_megapixels_are_within_the_limit(depth, colour):
    assert picture_size(png_header((10_000, 10_000), depth, colour)) == (10_000, 10_000)


def kinds():
    picture = photograph((2500, 2000))
    gray = picture.convert("L")
    yield "gray.png", gray, {"compress_level": 1}
    yield "rgb.jpg", picture, {}
    yield "progressive.jpg", picture, {"progressive": True, "subsampling": 0}
    yield "turned.jpg", picture, {"exif": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}
    yield "rgba.png", picture.convert("RGBA"), {"compress_level": 1}
    yield "palette.gif", gray.convert("P"), {}
    yield "float.tif", gray.convert("F"), {}
    yield "long.tif", gray.convert("I"), {"compression": "tiff_lzw"}
    yield "deep.png", Image.fromarray(np.asarray(gray).astype(np.uint16) * 9), {"compress_level": 1}
    yield "rgb.webp", Image.new("RGB", (2500, 2000), "red"), {"lossless": True, "quality": 0, "method": 0}
    yield "rgba.webp", Image.new("RGBA", (2500, 2000), (1, 2, 3, 4)), {"lossless": True, "quality": 0, "method": 0}
    if features.check("avif"):
        yield "rgb.avif", Image.new("RGB", (2500, 2000), "red"), {"speed": 10}


PEAKS = """
import json, os, pathlib, resource, sys
import cv2, numpy
from patchify_core.imaging import pictures
from patchify_core.imaging import limits as picture_limits
needed = []
predict = picture_limits._bytes_per_pixel
picture_limits._bytes_per_pixel = lambda image: needed.append(predict(image)) or needed[-1]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    data = path.read_bytes()
    before = peak()
    pictures.read_picture(data)
    print(json.dumps([path.name, needed[-1] * 5, peak() - before]), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in kilobytes on Linux only")
def test_no_format_takes_more_memory_than_predicted(tmp_path):
    """5 megapixels of each, in a separate process to measure its peak."""
    for name, image, options in kinds():
        image.save(tmp_path / name, **options)
    colour = np.asarray(photograph((2500, 2000))).astype(np.uint16) * 16
    for name in ("deep-colour.png", "deep-colour.tif"):
        cv2.imwrite(str(tmp_path / name), colour, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    run = [sys.executable, "-c", PEAKS, str(tmp_path)]
    done = subprocess.run(run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == sorted(path.name for path in tmp_path.iterdir()), done.stderr
    for name, predicted, taken in lines:
        # The file itself is in memory too if a decoder needs it as a whole.
        assert 4 < taken <= predicted + 2 * (tmp_path / name).stat().st_size / 1e6 + 20, (name, predicted, taken)


# Metadata -------------------------------------------------------------------------------------------------


def tags(count, claimed, picture=True):
    """A TIFF, or an EXIF block, in which many tags refer to the same bytes."""
    shown = {256: 8, 257: 6, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: 48} if picture else {}
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in shown.items()]
    entries += [struct.pack("<HHII", 1000 + number, 1, claimed, 8) for number in range(count)]
    out = b"II*\0" + struct.pack("<I", 56) + bytes(48) + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return out.ljust(claimed + 8, b"\0")


TOO_MUCH = "has excessive metadata, or metadata that claim more bytes than the file has"


def with_segments(segments):
    data = encoded(photograph(), "JPEG")
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part for part in segments) + data[2:]


def in_segments(exif, step=60_000):
    return with_segments([b"Exif\0\0" + exif[at : at + step] for at in range(0, len(exif), step)])


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize(("count", "claimed"), [(300, 60_000), (1500, 400_000), (3000, 40_000)])
def test_tags_that_claim_the_same_bytes_are_refused(count, claimed):
    refused(tags(count, claimed), TOO_MUCH)
    refused(in_segments(tags(count, claimed)), TOO_MUCH)
    if features.check("avif"):
        refused(encoded(photograph(), "AVIF", exif=tags(count, claimed)), TOO_MUCH)


@pytest.mark.parametrize("late", [False, True])
def test_tags_that_claim_the_same_bytes_are_not_read_for_the_orientation(late, monkeypatch):
    """Pillow parses EXIF of PNG and WebP on demand: the picture is read without it."""
    monkeypatch.setattr(Image.Exif, "load", lambda *_: pytest.fail("EXIF was read"))
    exif, rows = tags(1500, 400_000), b"".join(b"\0" + bytes(40 * 3) for _ in range(30))
    chunk = png_chunk(b"eXIf", exif)
    png = png_bytes((40, 30), 8, 2, rows, **{"after" if late else "before": chunk})
    profile = f"\nexif\n{len(exif)}\n{exif.hex()}".encode()
    raw = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile))
    for data in (png, png_bytes((40, 30), 8, 2, rows, before=raw), encoded(photograph(), "WEBP", exif=exif)):
        assert picture_size(data) == read_picture(data).size == (40, 30)


def test_ordinary_metadata_is_no_reason_to_refuse():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9286] = 6, "what is shown" * 1000, b"remark" * 3000
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])):
        assert picture_size(encoded(photograph(), kind, exif=exif)) == (30, 40)
    frames = png_chunk(b"fdAT", bytes(9)) * 9000  # animations have many
    assert picture_size(png_bytes((40, 30), 8, 2, ROWS, after=frames)) == (40, 30)
    profile = bytes(range(256)) * 8000  # as many segments as a colour profile may have
    assert picture_size(encoded(photograph(), "JPEG", icc_profile=profile)) == (40, 30)
    broken = tags(1, 40)[:-12] + b"\xff" * 12  # one tag that claims more than there is
    assert picture_size(in_segments(broken)) == (40, 30)


GIF = encoded(photograph().convert("P"), "GIF")
FRAME = GIF.index(b"\x2c", 13)
ROWS = b"".join(b"\0" + bytes(40 * 3) for _ in range(30))


@pytest.mark.usefixtures("no_pixels")
@pytest.mark.parametrize(
    "data",
    [
        GIF[:FRAME] + b"\x21\xfe\1x\0" * 20_000 + GIF[FRAME:],
        GIF[:FRAME] + b"\x21\xfe" + b"\1x" * 20_000 + b"\0" + GIF[FRAME:],
        with_segments([b"x"] * 20_000),
        with_segments([b"Exif\0\0x"] * 20_000),
        encoded(photograph(), "JPEG").replace(b"\xff\xdb", b"\xff\xe5\0\2" + b"\0" * 20_000 + b"\xff\xdb", 1),
        png_bytes((40, 30), 8, 2, ROWS, before=png_chunk(b"abCd", b"") * 20_000),
        png_bytes((40, 30), 8, 2, ROWS, after=png_chunk(b"tEXt", b"a\0b") * 20_000),
        png_bytes((40, 30), 8, 2, ROWS, before=png_chunk(b"IDAT", b"") * 300_000),
    ],
    ids=["comments", "comment", "segments", "exif", "junk", "chunks", "late chunks", "empty chunks"],
)
def test_thousands_of_small_blocks_are_refused(data):
    """Pillow's time grows with their number, for a GIF's comments with its square: 30 MB take hours."""
    refused(data, TOO_MUCH)


def test_thousands_of_blocks_behind_the_first_frame_do_not_matter():
    data = GIF[:-1] + b"\x21\xfe\1x\0" * 20_000 + GIF[FRAME:]
    assert read_picture(data).size == (40, 30)
    assert read_header(data).more


def test_tables_of_tiny_tiles_are_refused():
    entries = {256: 3000, 257: 3000, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1}
    packed = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items()]
    packed += [struct.pack("<HHII", tag, 4, 500_000, 8) for tag in (324, 325)]
    directory = struct.pack("<H", len(packed)) + b"".join(packed) + bytes(4)
    refused(b"II*\0" + struct.pack("<I", 8 + 2_000_000) + struct.pack("<I", 8) * 500_000 + directory, TOO_MUCH)


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_text_of_extreme_expansion_is_not_unpacked(kind, monkeypatch):
    packed = zlib.compress(bytes(50_000_000))
    head = b"a\0\0" if kind != b"iTXt" else b"a\0\1\0\0\0"
    with pytest.raises(PictureError):
        read_picture(png_bytes((40, 30), 8, 2, ROWS, before=png_chunk(kind, head + packed)))


def test_frame_larger_than_the_screen_of_its_gif_counts():
    data = bytearray(GIF)
    data[6:10] = struct.pack("<HH", 2, 2)
    assert picture_size(bytes(data)) == read_picture(bytes(data)).size == (40, 30)
    data[FRAME + 5 : FRAME + 9] = struct.pack("<HH", 12_000, 11_000)
    for read in READERS:
        with pytest.raises(PictureError, match="too large at 12000 × 11000"):
            read(bytes(data))


# HEIC -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pixels")
def test_heic_of_many_layers_is_refused_undecoded():
    pixels = SIZE[0] * SIZE[1]
    assert decoded_heic_pixels(heic()) == decoded_heic_pixels(heic(copies=3, primary=2)) == pixels
    assert decoded_heic_pixels(overlaid(5)) == 6 * pixels
    assert picture_size(overlaid(5)) == SIZE
    refused(overlaid(9, says=(4000, 2000), canvas=(64, 64)), "is composed of many times its own pixels")
    refused(overlaid(60_000), "HEIC photo that is cut short|put together")


def test_heic_layers_are_read():
    assert np.abs(np.asarray(read_picture(overlaid(2))).astype(int) - np.asarray(read_picture(heic()))).max() <= 2


def test_heic_item_that_contains_itself_is_refused():
    data = overlaid(1)
    at = data.index(b"dimg") + 4
    refused(data[: at + 4] + struct.pack(">H", 2) + data[at + 6 :], "is a HEIC photo that is cut short")
