"""What a picture's file says beside its size, nothing decoded: how to turn it, what follows, what it is made of."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import IO

from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.imaging.kinds import BRANDS_OF_SEQUENCES, brands
from patchify_core.imaging.tiff import full_pages, is_bomb

_ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture of each EXIF orientation but 1 upright."""


def sizes(image: ImageFile.ImageFile, stream: IO[bytes]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (width, height) as it is stored and upright, decoding nothing."""
    width, height = size = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _ORIENTATION in image.tag_v2:
        # Pillow already gives a TIFF's upright size
        return ((height, width) if image.tag_v2[_ORIENTATION] in (5, 6, 7, 8) else size), size
    if isinstance(image, PngImagePlugin.PngImageFile) and not _has_late_metadata(stream):
        # PngImageFile.getexif() decodes the whole picture to look behind it; here nothing is behind it.
        turned = orientation(image, Image.Image.getexif) >= 5
    else:
        if isinstance(image, PngImagePlugin.PngImageFile):
            image.load()
        turned = orientation(image) >= 5
    return size, (height, width) if turned else size


def orientation(
    image: Image.Image, getexif: Callable[[Image.Image], Image.Exif] = lambda image: image.getexif()
) -> int:
    """Return the EXIF orientation, 1..8; metadata that make no sense are no reason to refuse the pixels."""
    if image.format == "HEIF":
        return 1  # libheif has turned it; what its EXIF or XMP say of it besides is to be ignored (ISO/IEC 23008-12)
    try:
        if _is_tag_bomb(image):
            return 1
        value = getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in TURNS else 1
    except Exception:
        return 1


def _is_tag_bomb(image: Image.Image) -> bool:
    """Whether reading the EXIF would cost more than it can be worth."""
    if "Raw profile type exif" in image.info:
        exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    else:
        exif = image.info.get("exif", b"")
    return isinstance(exif, bytes) and is_bomb(exif)


def _has_late_metadata(stream: IO[bytes]) -> bool:
    """Walk a PNG's chunks for an orientation that is kept behind the pixels."""
    pixels_seen = False
    for kind, at, length in blocks_of_png(stream):
        pixels_seen |= kind == b"IDAT"
        if pixels_seen and kind in (b"eXIf", b"zTXt", b"iTXt", b"tEXt"):
            stream.seek(at)
            word = stream.read(min(length, 17))
            if kind == b"eXIf" or word.startswith((b"Raw profile type ", b"XML:com.adobe.xmp")):
                return True
    return False


# Pages and frames -----------------------------------------------------------------


def more_follows(image: ImageFile.ImageFile, stream: IO[bytes]) -> bool:
    """Say whether a picture has pages or frames after the one that is read, decoding nothing.

    A JPEG has none: what phones append to it are previews and gain maps. Reduced copies and masks in a TIFF are none.
    """
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(full_pages(stream)) > 1
    if isinstance(image, GifImagePlugin.GifImageFile):
        return frames_of_gif(stream, 2) == 2  # Pillow would unpack every block of the first
    stream.seek(0)
    if image.format == "HEIF" and BRANDS_OF_SEQUENCES & set(brands(stream.read(64))):
        return True
    return bool(getattr(image, "is_animated", False))


# Blocks: what a JPEG, PNG or GIF is made of, walked without reading them ------------------------------------------


Block = tuple[int | bytes, int, int]
"""Its kind, where its data begin and how many bytes they are."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MOST_GIF_BLOCKS = 300_000


def blocks_of_jpeg(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the segments up to the first scan's, and each byte between them that is none."""
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


def scans_of_jpeg(stream: IO[bytes], most: int) -> int:
    """Count the scans of a JPEG, up to `most` + 1; each is a pass over the whole picture."""
    stream.seek(0)
    data = stream.read()
    at, scans = 2, 0
    while scans <= most and (found := _MARKER.search(data, at)):
        at, kind = found.end(), data[found.end() - 1]
        if kind == 0xD9:
            break
        if kind != 0x01:
            scans += kind == 0xDA
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def blocks_of_png(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the chunks, all of them."""
    at = 8
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        at += 12 + length


def blocks_of_gif(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the data blocks (up to 255 bytes each) of frames (kind 0x2C) and of what lies between them (0x21)."""
    stream.seek(10)
    flags = stream.read(3)[:1] or b"\0"
    stream.seek(13 + _palette(flags[0]))
    while (kind := stream.read(1)) in (b"\x21", b"\x2c", b"\0"):
        if kind == b"\x21":
            stream.read(1)
        elif kind == b"\x2c":
            frame = stream.read(9)
            if len(frame) < 9:
                return
            stream.seek(_palette(frame[8]) + 1, 1)
            yield kind, stream.tell(), 0
        while kind != b"\0" and (size := stream.read(1)) not in (b"", b"\0"):
            yield kind, stream.tell(), size[0]
            stream.seek(size[0], 1)


def frames_of_gif(stream: IO[bytes], most: int) -> int:
    """Count the frames of a GIF, up to `most`."""
    blocks = islice(blocks_of_gif(stream), _MOST_GIF_BLOCKS)
    starts = (1 for kind, _, length in blocks if kind == b"\x2c" and not length)
    return sum(islice(starts, most))


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


# HEIC ----------------------------------------------------------------------------------------------------------


Boxes = dict[bytes, list[bytes]]


def decoded_pixels(data: bytes) -> int:
    """Add up the pixels of the primary picture and of all that it is made of, as often as it is.

    Raises:
        ValueError: The file does not say so.
    """
    meta = _boxes(_only(_boxes(data), b"meta")[4:])
    properties = _boxes(_only(meta, b"iprp"))
    sizes = _sizes(_children(_only(properties, b"ipco")), properties.get(b"ipma", []))
    parts = _parts(meta.get(b"iref", []))
    primary = _only(meta, b"pitm")
    known: dict[int, int] = {}

    def pixels(item: int, depth: int) -> int:
        if depth > 8 or item not in sizes:
            raise ValueError(f"item {item} has no size, or contains itself")
        if item not in known:
            known[item] = sizes[item] + sum(pixels(part, depth + 1) for part in parts.get(item, ()))
        return known[item]

    return pixels(int.from_bytes(primary[4 : 6 if primary[0] == 0 else 8], "big"), 0)


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of each box, as far as they are whole."""
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


def _sizes(properties: Iterator[tuple[bytes, bytes]], associations: list[bytes]) -> dict[int, int]:
    """The pixels of each item, by the largest `ispe` that belongs to it."""
    areas = [
        width * height if kind == b"ispe" else 0
        for kind, content in properties
        for width, height in [struct.unpack_from(">II", content.ljust(12, b"\0"), 4)]
    ]
    sizes: dict[int, int] = {}
    for content in associations:
        version, wide = content[0], content[3] & 1
        (count,) = struct.unpack_from(">I", content, 4)
        at = 8
        for _ in range(count):
            (item,) = struct.unpack_from(">I" if version else ">H", content, at)
            at += 4 if version else 2
            owned = content[at]
            at += 1
            for _ in range(owned):
                index = struct.unpack_from(">H", content, at)[0] & 0x7FFF if wide else content[at] & 0x7F
                at += 2 if wide else 1
                if 0 < index <= len(areas):
                    sizes[item] = max(sizes.get(item, 0), areas[index - 1])
    return {item: area for item, area in sizes.items() if area}


def _parts(references: list[bytes]) -> dict[int, list[int]]:
    """Which items each is made of (`dimg`), and which are its transparency (`auxl`, said by that one)."""
    parts: dict[int, list[int]] = {}
    for content in references:
        item = ">I" if content[0] else ">H"
        for kind, reference in _children(content[4:]):
            (source,) = struct.unpack_from(item, reference)
            wide = struct.calcsize(item)
            (count,) = struct.unpack_from(">H", reference, wide)
            targets = struct.unpack_from(f">{count}{item[1]}", reference, wide + 2)
            if kind == b"dimg":
                parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    parts.setdefault(target, []).append(source)
    return parts
