"""Content decides what is a picture, names decide what was meant to be one; camera raw, pages, and HEIC."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from patchify_core.errors import NotAPictureError, PictureError
from patchify_core.gallery import read_folder
from patchify_core.imaging.file_types import PICTURE_SUFFIXES
from patchify_core.imaging.pictures import (
    PictureSettings,
    picture_size,
    read_header,
    read_picture,
    read_reduced,
)
from tests.bad_pictures import encoded, oriented, photograph
from tests.heic_files import ALPHA, SIZE, TEN_BITS, heic, mirrored, rotated, scene

PROPERTY = settings(max_examples=60, deadline=None)

DOCUMENTS = {
    "empty": b"",
    "text": b"Read me first.\n" * 40,
    "zeros": bytes(9000),
    "pdf": b"%PDF-1.7\n" + b"0" * 99,
    "zip": b"PK\3\4" + bytes(range(256)),
    "rar": b"Rar!\x1a\x07\1\0" + bytes(40),
    "json": b'{"images": []}',
    "mp4": struct.pack(">I", 24) + b"ftypisom\0\0\2\0isommp42" + b"\1" * 99,
    "movie": struct.pack(">I", 20) + b"ftypqt  \0\0\2\0qt  " + b"\1" * 99,
    "numpy": b"\x93NUMPY\1\0",
    "html": b"<!DOCTYPE html><html><body><svg></svg></body></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "utf16": "Read me".encode("utf-16"),
}
UNREAD = {
    "JPEG XL": b"\xff\x0a" + b"\1" * 40,
    "JPEG XL picture": b"\0\0\0\x0cJXL \r\n\x87\n" + b"\1" * 40,
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\1" * 40,
    "JPEG 2000 picture": b"\xff\x4f\xff\x51" + b"\1" * 40,
    "Photoshop": b"8BPS\0\1" + bytes(40),
    "OpenEXR": b"v/1\1" + bytes(40),
    "Radiance": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "GIMP": b"gimp xcf v011\0",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n  <svg xmlns="http://www.w3.org/2000/svg"/>',
    "camera raw": b"II*\0\x10\0\0\0CR\2\0" + bytes(40),
    "camera raw file": struct.pack(">I", 24) + b"ftypcrx \0\0\0\1crx isom" + b"\1" * 99,
    "raw": b"FUJIFILMCCD-RAW 0201" + bytes(40),
}


def refusal(data, name=None, read=read_picture):
    with pytest.raises(PictureError) as error:
        read(data, name=name)
    message = str(error.value)
    assert message.endswith(".") and ". " not in message and "\n" not in message
    return type(error.value), message


# Content and name -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read", [read_picture, picture_size, read_header, lambda data, name: read_reduced(data, 9, name=name)]
)
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_document_is_not_a_picture_unless_its_name_says_so(kind, read):
    for name in (None, "notes.txt", "notes", ".jpg", "photo.jpg.part", "sub/clip.mp4"):
        assert refusal(DOCUMENTS[kind], name, read)[0] is NotAPictureError
    for name in ("photo.jpg", "SUB/IMG_1.HEIC", "a.b.TIFF", "x.dng", "sub\\\\photo.jfif"):
        found, message = refusal(DOCUMENTS[kind], name, read)
        assert found is PictureError
        assert message.startswith(repr(name.replace("\\\\", "/").split("/")[-1]))


def test_an_archive_instead_of_a_picture_is_named():
    assert "is a ZIP archive, not a picture: unpack it" in refusal(DOCUMENTS["zip"], "photo.jpg")[1]
    assert "is a RAR archive, not a picture: unpack it" in refusal(DOCUMENTS["rar"], "photo.jpg")[1]


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_every_picture_ending_makes_a_bad_picture_of_a_document(suffix, tmp_path):
    path = tmp_path / f"file{suffix.upper()}"
    path.write_bytes(DOCUMENTS["text"])
    found, message = refusal(path)
    assert found is PictureError and path.name in message


@pytest.mark.parametrize("suffix", ["jpe", "jif", "jfif", "pjpeg", "mpo", "heic", "txt", "raw", "dng", ""])
def test_picture_is_read_under_any_name(suffix, tmp_path):
    path = tmp_path / f"file.{suffix}"
    path.write_bytes(encoded(photograph(), "JPEG"))
    assert picture_size(path) == read_picture(path).size == (40, 30)


@pytest.mark.parametrize("kind", UNREAD)
def test_unsupported_format_is_a_bad_picture_under_any_name(kind):
    for name in (None, "file", "notes.txt", "photo.jpg"):
        found, message = refusal(UNREAD[kind], name)
        assert found is PictureError
        assert kind.removesuffix(" picture") in message


SAID = {
    "a video": [
        b"\0\0\0\x18ftypisom\0\0\2\0isommp42", b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", b"\0\0\0\x08wide\0\1\2\3mdat",
        b"RIFF\0\0\1\0AVI LIST", b"\x1aE\xdf\xa3\1\0", b"\0\0\1\xba!", (b"G" + bytes(187)) * 4, b"FLV\1\5",
    ],
    "an audio recording": [b"ID3\3\0", b"RIFF\0\0\1\0WAVEfmt ", b"OggS\0", b"\0\0\0\x20ftypM4A \0\0\0\0"],
    "a ZIP archive": [b"PK\3\4" + bytes(26) + b"photo.jpg", b"PK\5\6" + bytes(18)],
    "an Office document": [
        b"PK\3\4" + bytes(26) + b"[Content_Types].xml", b"PK\3\4" + bytes(26) + b"word/document.xml",
        b"PK\3\4" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.text",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(90), b"{\\rtf1\\ansi",
    ],
    "a gzip archive": [b"\x1f\x8b\x08\0"],
    "a 7-Zip archive": [b"7z\xbc\xaf\x27\x1c\0"],
    "a RAR archive": [b"Rar!\x1a\x07"],
    "a tar archive": [b"x" * 257 + b"ustar"],
    "a JSON file": [
        b'{"images": []}', b" [1, 2]", b"[]", b"{}", b'\n[{"id": 1}]', '\ufeff{"a": 1}'.encode(),
        '{"a": 1}'.encode("utf-16"),
    ],
    "text": [
        b"Not found\n", "Übersicht".encode(), b"a;b\n1;2",
        b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>",
    ],
    "a PDF document": [b"%PDF-1.7"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("suffix", ["jpg", "png", "dng", "tif"])
def test_other_file_types_are_named(kind, suffix):
    for data in SAID[kind]:
        found, message = refusal(data, f"holiday.{suffix}")
        assert found is PictureError
        assert message.startswith(f"'holiday.{suffix}' is ") and f"{kind}" in message.split(":")[0], message
        assert "save it as" not in message
        assert refusal(data, "holiday")[0] is NotAPictureError


def test_text_that_looks_like_something_else_is_text():
    for text in (
        b"I'm free",
        b"MZ is no word",
        b"Gone " * 99,
        b"ID3 tags",
        b"[draft] to do",
        b"{name} is here",
        b"PKW",
    ):
        assert "is text, not a picture" in refusal(text, "notes.jpg")[1]


def test_link_that_leads_nowhere(tmp_path):
    link, inner = tmp_path / "x.jpg", tmp_path / "y.jpg"
    try:
        link.symlink_to(tmp_path.parent / "gone" / "photo.jpg")
        inner.symlink_to("gone.jpg")
    except OSError:
        pytest.skip("links need a right that this user has not")
    Image.new("RGB", (5, 4)).save(tmp_path / "good.png")
    for path, target in ((link, "photo.jpg"), (inner, "'gone.jpg'")):
        found, message = refusal(path)
        assert found is PictureError
        assert message.startswith(f"{path.name!r} is a broken link (to ") and target in message
    gallery = read_folder(tmp_path)
    assert [name for name, _ in gallery.skipped] == ["x.jpg", "y.jpg"]
    assert "is a broken link" in dict(gallery.skipped)["y.jpg"]


def test_svg_inside_other_text_is_not_a_drawing():
    for text in (
        b"<html><svg/></html>",
        b"<note>an <svg> element</note>",
        b"const icon = '<svg/>'",
        b"  " * 2000 + b"<x",
    ):
        assert refusal(text, "file.txt")[0] is NotAPictureError


def test_pointer_of_git_lfs_says_how_to_fetch_the_file():
    assert "'git lfs pull'" in refusal(DOCUMENTS["pointer"], "photo.jpg")[1]


def test_name_of_bytes_is_in_every_message():
    bad = [b"", b"x", encoded(photograph(), "PNG")[:60], encoded(photograph(), "JPEG")[:300], heic()[:200]]
    for data in bad:
        assert refusal(data, "folder/photo 7.png")[1].startswith("'photo 7.png' ")
    with pytest.raises(PictureError, match=r"^'photo 7\.png' is too large"):
        read_picture(encoded(photograph(), "PNG"), PictureSettings(max_pixels=9), "photo 7.png")


def test_given_name_goes_before_the_path(tmp_path):
    path = tmp_path / "upload-0017"
    path.write_bytes(b"no picture")
    assert refusal(path)[0] is NotAPictureError
    assert refusal(path, "visitor's.jpg") == (PictureError, refusal(b"no picture", "visitor's.jpg")[1])


# Camera raw -----------------------------------------------------------------------------------------------


def tiff(*pages: dict[int, int], size=(8, 6)) -> bytes:
    """An uncompressed gray TIFF with further LONG tags for each of its pages."""
    out = bytearray(b"II*\0" + struct.pack("<I", 8))
    for number, tags in enumerate(pages):
        start = len(out)
        tags = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 277: 1, 278: size[1], 279: size[0] * size[1]} | tags
        length = 2 + 12 * (len(tags) + 1) + 4
        tags[273] = start + length
        end = start + length + size[0] * size[1]
        out += struct.pack("<H", len(tags))
        out += b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
        out += struct.pack("<I", end if number + 1 < len(pages) else 0) + bytes([10 * number]) * (size[0] * size[1])
    return bytes(out)


REDUCED, MASK = {254: 1}, {254: 4}


@pytest.mark.parametrize("suffix", ["dng", "NEF", "cr2", "arw", "orf", "rw2", "pef", "srw", "raw"])
def test_camera_raw_is_refused_by_name(suffix):
    assert "camera raw" in refusal(tiff({}), f"DSC_1.{suffix}")[1]


def test_camera_raw_is_refused_by_its_tags():
    assert refusal(tiff({50706: 0x00000401}))[0] is PictureError
    assert "camera raw" in refusal(tiff({50706: 0x00000401}), "DSC_1.tif")[1]
    assert "camera raw" in refusal(tiff({254: 1, 330: 8}, REDUCED))[1]
    assert read_picture(tiff({254: 0, 330: 8}, REDUCED)).size == (8, 6)


# Pages and frames -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pages", "read", "more"),
    [
        ([{}], 0, False),
        ([{}, {}], 0, True),
        ([{}, REDUCED, REDUCED, MASK], 0, False),
        ([{}, REDUCED, {}], 0, True),
        ([REDUCED, {}], 1, False),
        ([MASK, REDUCED, {}, {}], 2, True),
        ([REDUCED], 0, False),
        ([{254: 2}, {254: 2}], 0, True),
    ],
)
def test_reduced_copies_and_masks_are_not_pages(pages, read, more):
    data = tiff(*pages)
    assert read_header(data).more is more
    assert read_picture(data).getpixel((0, 0)) == (10 * read,) * 3


def test_directories_that_point_at_each_other_end():
    data = bytearray(tiff({}, {}))
    data[-52:-48] = struct.pack("<I", 8)  # the second page's link leads to the first
    assert read_header(bytes(data)).more


FRAMES = [Image.new("RGB", (12, 8), colour) for colour in ("red", "green", "blue")]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_further_frames_are_detected(kind, count, monkeypatch):
    data = encoded(FRAMES[0], kind, save_all=True, append_images=FRAMES[1:count])
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    header = read_header(data)
    assert (header.size, header.stored, header.more) == ((12, 8), (12, 8), count > 1)


def test_pictures_appended_to_a_jpeg_do_not_count():
    data = encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:])
    assert not read_header(data).more
    assert not read_header(data + encoded(FRAMES[1], "JPEG")).more


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_size_is_before_orientation(kind, orientation, tmp_path):
    header = read_header(oriented(tmp_path, orientation, kind, size=(24, 16)))
    assert header.stored == (24, 16)
    assert header.size == ((16, 24) if orientation >= 5 else (24, 16))


# HEIC -----------------------------------------------------------------------------------------------------


def distance(picture, wanted):
    found = np.asarray(picture).astype(int)
    assert found.shape == wanted.shape
    return np.abs(found - wanted).mean()


BRANDS = [(b"heic", b"mif1", b"heic"), (b"mif1", b"heic"), (b"heix", b"mif1", b"heix"), (b"mif1", b"mif1", b"miaf")]


@pytest.mark.parametrize("brands", BRANDS)
def test_heic_is_read_whatever_its_brand(brands):
    picture = read_picture(heic(brands))
    assert (picture.mode, picture.size, picture.info) == ("RGB", SIZE, {})
    assert distance(picture, scene()) < 2
    assert read_header(heic(brands)).more is False


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"heic"])
def test_avif_is_distinguished_from_heic_by_all_brands(brand):
    data = encoded(Image.fromarray(scene()), "AVIF")
    assert distance(read_picture(data.replace(b"ftypavif", b"ftyp" + brand)), scene()) < 4


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("orientation", [None, 1, 6, 8])
def test_heic_is_turned_once(quarters, orientation):
    data = heic(turns=rotated(quarters), orientation=orientation)
    picture = read_picture(data)
    assert distance(picture, np.rot90(scene(), quarters)) < 2
    assert read_header(data).size == read_header(data).stored == picture.size


def test_heic_is_mirrored():
    assert distance(read_picture(heic(turns=mirrored(0))), scene()[::-1]) < 2
    assert distance(read_picture(heic(turns=mirrored(1))), scene()[:, ::-1]) < 2
    assert distance(read_picture(heic(turns=rotated(1) + mirrored(1))), np.rot90(scene())[:, ::-1]) < 2


@pytest.mark.parametrize("primary", [1, 2, 3])
def test_primary_picture_of_several_is_read(primary):
    data = heic(copies=3, primary=primary, turns=rotated(1))  # the last one is rotated
    wanted = np.rot90(scene()) if primary == 3 else scene()
    assert distance(read_picture(data), wanted) < 2
    assert read_header(data).more


def test_heic_with_alpha_lies_on_white():
    found = np.asarray(read_picture(ALPHA)).astype(int)
    assert (found[:, 14:] > 250).all()
    assert np.abs(found[:, :10] - scene((24, 16))[:, :10]).mean() < 8


def test_deep_heic_becomes_8_bits():
    assert distance(read_picture(TEN_BITS), scene((24, 16))) < 8


def test_size_of_a_heic_is_checked_before_it_is_decoded():
    for read in (read_picture, picture_size):
        with pytest.raises(PictureError, match="too large at 20000 × 20000"):
            read(heic(says=(20_000, 20_000)))


@pytest.mark.parametrize("says", [(10, 10), (128, 65), (1000, 1000)])
def test_heic_with_a_false_size_is_refused(says):
    assert "is a HEIC photo that is cut short, damaged" in refusal(heic(says=says))[1]


def test_heic_with_another_codec_is_refused():
    for kind in (b"av01", b"vvc1", b"j2k1", b"jpeg", b"grid", b"iovl"):
        assert "is a HEIC photo that" in refusal(heic(kind=kind))[1]


@PROPERTY
@given(cut=st.integers(0, len(heic()) - 1))
def test_heic_cut_short_is_refused(cut):
    for read in (read_picture, picture_size):
        try:
            read(heic()[:cut])
        except PictureError:
            continue
        assert read is picture_size


def test_heic_without_its_library():
    code = (
        "import sys; sys.modules['pi_heif'] = None\n"
        "from patchify_core.imaging.pictures import read_picture\n"
        "from tests.heic_files import heic\n"
        "try: read_picture(heic(), name='a.heic')\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "'a.heic' is a HEIC photo, for which pi-heif is missing: install it, or save the photo as JPEG.\n"


def test_pillow_itself_is_unchanged():
    """Registered openers are process-wide, and would change what other libraries read."""
    read_picture(heic())
    assert "HEIF" not in Image.OPEN
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(heic()))
