"""Parse the structure of picture files without decoding them: orientation, pages, segments, TIFF tags, HEIC items.

Pillow offers no such access, or only after it has done the work that the limits are there to prevent.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from typing import IO

from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.imaging.file_types import SEQUENCE_BRANDS, brands

_ORIENTATION = 0x0112
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture of each EXIF orientation except 1 upright."""


def sizes(image: ImageFile.ImageFile, stream: IO[bytes]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the stored and the upright (width, height), without decoding."""
    width, height = size = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _ORIENTATION in image.tag_v2:
        # Pillow's size of a TIFF is upright already.
        return ((height, width) if image.tag_v2[_ORIENTATION] in (5, 6, 7, 8) else size), size
    if isinstance(image, PngImagePlugin.PngImageFile) and not _has_late_metadata(stream):
        # PngImageFile.getexif() decodes the whole picture to find metadata behind it; here there is none.
        swapped = orientation(image, Image.Image.getexif) >= 5
    else:
        if isinstance(image, PngImagePlugin.PngImageFile):
            image.load()
        swapped = orientation(image) >= 5
    return size, (height, width) if swapped else size


def orientation(
    image: Image.Image, getexif: Callable[[Image.Image], Image.Exif] = lambda image: image.getexif()
) -> int:
    """Return the EXIF orientation, 1..8; 1 where the metadata are invalid, since the pixels may still be valid."""
    if image.format == "HEIF":
        return 1  # libheif has applied it; EXIF and XMP are to be ignored (ISO/IEC 23008-12)
    try:
        if "Raw profile type exif" in image.info:
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        else:
            exif = image.info.get("exif", b"")
        if isinstance(exif, bytes) and is_tag_bomb(exif):
            return 1
        value = getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in TRANSPOSE else 1
    except Exception:
        return 1


def _has_late_metadata(stream: IO[bytes]) -> bool:
    """Return whether a PNG has an orientation behind its pixels."""
    pixels_seen = False
    for kind, at, length in png_blocks(stream):
        pixels_seen |= kind == b"IDAT"
        if pixels_seen and kind in (b"eXIf", b"zTXt", b"iTXt", b"tEXt"):
            stream.seek(at)
            keyword = stream.read(min(length, 17))
            if kind == b"eXIf" or keyword.startswith((b"Raw profile type ", b"XML:com.adobe.xmp")):
                return True
    return False


def has_more_pages(image: ImageFile.ImageFile, stream: IO[bytes]) -> bool:
    """Return whether a picture has pages or frames after the first, without decoding.

    Previews and gain maps that phones append to a JPEG do not count, nor do reduced copies and masks in a TIFF.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(full_pages(stream)) > 1
    if isinstance(image, GifImagePlugin.GifImageFile):
        return _has_two_frames(stream)  # Pillow would decode every block of the first
    stream.seek(0)
    if image.format == "HEIF" and SEQUENCE_BRANDS & set(brands(stream.read(64))):
        return True
    return bool(getattr(image, "is_animated", False))


# JPEG segments, PNG chunks, GIF blocks ---------------------------------------------------------------------------


Block = tuple[int | bytes, int, int]
"""Type, offset of the data, and their length in bytes."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MAX_GIF_BLOCKS = 300_000


def jpeg_blocks(stream: IO[bytes]) -> Iterator[Block]:
    """Yield the segments up to the first scan, and each stray byte between them."""
    at = 2
    while True:
        stream.seek(at)
        head = stream.read(4)
        if len(head) < 4:
            return
        marker, length = struct.unpack(">HH", head)
        if head[0] != 0xFF or head[1] in (0, 1, *range(0xD0, 0xD9), 0xFF):
            yield 0, at, 1
            at += 1
            continue
        yield marker, at + 4, length - 2
        if marker == 0xFFDA:
            return
        at += 2 + length


def count_jpeg_scans(stream: IO[bytes], limit: int) -> int:
    """Count the scans of a JPEG, up to `limit` + 1; each is a pass over the whole picture."""
    stream.seek(0)
    data = stream.read()
    at, scans = 2, 0
    while scans <= limit and (match := _MARKER.search(data, at)):
        at, marker = match.end(), data[match.end() - 1]
        if marker == 0xD9:
            break
        if marker != 0x01:
            scans += marker == 0xDA
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def png_blocks(stream: IO[bytes]) -> Iterator[Block]:
    """Yield all chunks."""
    at = 8
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        at += 12 + length


def gif_blocks(stream: IO[bytes]) -> Iterator[Block]:
    """Yield the data blocks of frames (type 0x2C) and extensions (0x21), and a block of length 0 for each frame."""
    stream.seek(10)
    flags = stream.read(3)[:1] or b"\0"
    stream.seek(13 + _palette_bytes(flags[0]))
    while (kind := stream.read(1)) in (b"\x21", b"\x2c", b"\0"):
        if kind == b"\x21":
            stream.read(1)
        elif kind == b"\x2c":
            frame = stream.read(9)
            if len(frame) < 9:
                return
            stream.seek(_palette_bytes(frame[8]) + 1, 1)
            yield kind, stream.tell(), 0
        while kind != b"\0" and (size := stream.read(1)) not in (b"", b"\0"):
            yield kind, stream.tell(), size[0]
            stream.seek(size[0], 1)


def _has_two_frames(stream: IO[bytes]) -> bool:
    blocks = islice(gif_blocks(stream), _MAX_GIF_BLOCKS)
    frames = (1 for kind, _, length in blocks if kind == b"\x2c" and not length)
    return sum(islice(frames, 2)) == 2


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# TIFF directories, which EXIF consists of too --------------------------------------------------------------------


Directory = list[tuple[int, int, int, bytes, int]]
"""One page's tags: (tag, type, count, value or offset as bytes, the same as a number)."""

_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4
_STRIPS, _TILES, _SUB_DIRECTORIES, _DNG_VERSION = 273, 324, 330, 50706
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MAX_PAGES, _MAX_TAGS = 64, 2000


def is_raw_tiff(stream: IO[bytes]) -> bool:
    """Return whether the tags of a TIFF are those of a camera raw file, whose first page is only a preview."""
    pages = list(_directories(stream))
    if not pages:
        return False
    tags = {tag for tag, *_ in pages[0]}
    return _DNG_VERSION in tags or (_SUB_DIRECTORIES in tags and not any(map(_is_full, pages)))


def full_pages(stream: IO[bytes]) -> list[int]:
    """List which of a TIFF's first 64 pages, from 0, are neither reduced copies of others nor masks."""
    return [number for number, page in enumerate(_directories(stream)) if _is_full(page)]


def tiff_cost(stream: IO[bytes], size: int) -> tuple[bool, int]:
    """Estimate the cost of decoding a TIFF's first full page, apart from its pixels.

    Args:
        stream: The file.
        size: Its size in bytes.

    Returns:
        Whether the tags up to that page are a bomb (see `is_tag_bomb`), and the page's number of strips or tiles.
    """
    read, pieces = 0, 0
    for page in _directories(stream):
        read += _bytes_read(page, size)
        pieces = max((count for tag, _, count, *_ in page if tag in (_STRIPS, _TILES)), default=0)
        if _is_full(page):
            break
    return _is_excessive(read, size), pieces


def is_tag_bomb(exif: bytes) -> bool:
    """Return whether a reader of an EXIF block would copy many times its bytes, because each tag can claim them all."""
    first = next(_directories(BytesIO(exif.removeprefix(b"Exif\0\0"))), [])
    return _is_excessive(_bytes_read(first, len(exif)), len(exif))


def _directories(stream: IO[bytes]) -> Iterator[Directory]:
    """Yield the directory of each page of a TIFF (a few bytes per tag), as far as they are complete."""
    stream.seek(0)
    head = stream.read(16)
    if head[:2] not in (b"II", b"MM"):
        return
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in head[2:4]
    count_format, tag_format, link = (order + code for code in (("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")))
    seen: set[int] = set()
    try:
        (at,) = struct.unpack(link, head[8:16] if big else head[4:8])
        while at and at not in seen and len(seen) < _MAX_PAGES:
            seen.add(at)
            stream.seek(at)
            (count,) = struct.unpack(count_format, stream.read(struct.calcsize(count_format)))
            table = stream.read(min(count, _MAX_TAGS + 1) * struct.calcsize(tag_format))
            complete = len(table) // struct.calcsize(tag_format) * struct.calcsize(tag_format)
            tags = struct.iter_unpack(tag_format, table[:complete])
            yield [(*tag, struct.unpack(link, tag[3])[0]) for tag in tags]
            (at,) = struct.unpack(link, stream.read(struct.calcsize(link)))
    except (struct.error, ValueError, OverflowError):
        return  # Pillow reports what is wrong with the first page; later ones are not read


def _is_full(page: Directory) -> bool:
    value = next((value for tag, _, _, value, _ in page if tag == _SUBFILE_TYPE), bytes(4))
    # The flags are in the low byte, at either end of two or four bytes.
    return not (value[0] | value[1] | value[3]) & (_REDUCED | _MASK)


def _bytes_read(page: Directory, size: int) -> int:
    """Return how many bytes a reader copies for the tags of a page; a huge number if there are too many tags."""
    claims = ((count * _BYTES_OF_TYPE.get(kind, 0), at) for _, kind, count, _, at in page)
    read = sum(min(length, max(size - at, 0)) for length, at in claims if length > 4)
    return read if len(page) <= _MAX_TAGS else 1 << 60


def _is_excessive(read: int, size: int) -> bool:
    return read > 4 * size + 1_000_000


# HEIC items ------------------------------------------------------------------------------------------------------


Boxes = dict[bytes, list[bytes]]
"""Type -> contents of the boxes (in the sense of ISO/IEC 14496-12) of that type."""


def decoded_heic_pixels(data: bytes) -> int:
    """Add up the pixels of a HEIC's primary picture and of all items that it is composed of, at each use.

    Raises:
        ValueError: The file does not say.
    """
    meta = _boxes(_only(_boxes(data), b"meta")[4:])
    properties = _boxes(_only(meta, b"iprp"))
    areas = _item_areas(_children(_only(properties, b"ipco")), properties.get(b"ipma", []))
    parts = _item_parts(meta.get(b"iref", []))
    primary = _only(meta, b"pitm")
    known: dict[int, int] = {}

    def pixels(item: int, depth: int) -> int:
        if depth > 8 or item not in areas:
            raise ValueError(f"item {item} has no size, or contains itself")
        if item not in known:
            known[item] = areas[item] + sum(pixels(part, depth + 1) for part in parts.get(item, ()))
        return known[item]

    return pixels(int.from_bytes(primary[4 : 6 if primary[0] == 0 else 8], "big"), 0)


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, content) of each box, as far as they are complete."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and start + 8 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + size if size else len(data)
        if end < start or end > len(data):
            return
        yield kind, data[start:end]
        at = end


def _boxes(data: bytes) -> Boxes:
    boxes: Boxes = {}
    for kind, content in _children(data):
        if kind != b"mdat":
            boxes.setdefault(kind, []).append(content)
    return boxes


def _only(boxes: Boxes, kind: bytes) -> bytes:
    if len(boxes.get(kind, [])) != 1:
        raise ValueError(f"{len(boxes.get(kind, []))} boxes of {kind!r}")
    return boxes[kind][0]


def _item_areas(properties: Iterator[tuple[bytes, bytes]], associations: list[bytes]) -> dict[int, int]:
    """Return the pixels of each item, by the largest `ispe` property associated with it."""
    property_areas = [
        width * height if kind == b"ispe" else 0
        for kind, content in properties
        for width, height in [struct.unpack_from(">II", content.ljust(12, b"\0"), 4)]
    ]
    areas: dict[int, int] = {}
    for content in associations:
        version, wide = content[0], content[3] & 1
        (count,) = struct.unpack_from(">I", content, 4)
        at = 8
        for _ in range(count):
            (item,) = struct.unpack_from(">I" if version else ">H", content, at)
            at += 4 if version else 2
            associated = content[at]
            at += 1
            for _ in range(associated):
                index = struct.unpack_from(">H", content, at)[0] & 0x7FFF if wide else content[at] & 0x7F
                at += 2 if wide else 1
                if 0 < index <= len(property_areas):
                    areas[item] = max(areas.get(item, 0), property_areas[index - 1])
    return {item: area for item, area in areas.items() if area}


def _item_parts(references: list[bytes]) -> dict[int, list[int]]:
    """Return the items that each item is composed of (`dimg`), and its transparency (`auxl`, an inverse reference)."""
    parts: dict[int, list[int]] = {}
    for content in references:
        item = ">I" if content[0] else ">H"
        for kind, reference in _children(content[4:]):
            (source,) = struct.unpack_from(item, reference)
            start = struct.calcsize(item)
            (count,) = struct.unpack_from(">H", reference, start)
            targets = struct.unpack_from(f">{count}{item[1]}", reference, start + 2)
            if kind == b"dimg":
                parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    parts.setdefault(target, []).append(source)
    return parts
