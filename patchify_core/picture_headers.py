"""What a picture's header says beside its size: how to turn it, and whether more pages or frames follow the first."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import IO

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.picture_kinds import BRANDS_OF_SEQUENCES, brands

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
        turned = orientation(image) >= 5
    return size, (height, width) if turned else size


def orientation(
    image: Image.Image, getexif: Callable[[Image.Image], Image.Exif] = lambda image: image.getexif()
) -> int:
    """Return the EXIF orientation, 1..8; metadata that make no sense are no reason to refuse the pixels."""
    if image.format == "HEIF":
        return 1  # libheif has turned it; what its EXIF or XMP say of it besides is to be ignored (ISO/IEC 23008-12)
    try:
        value = getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in TURNS else 1
    except Exception:
        return 1


def _has_late_metadata(stream: IO[bytes]) -> bool:
    """Walk a PNG's chunk headers (a few bytes each) for an orientation that is kept behind the pixels."""
    stream.seek(8)
    pixels_seen = False
    while len(header := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        pixels_seen |= kind == b"IDAT"
        if pixels_seen and kind in (b"eXIf", b"zTXt", b"iTXt", b"tEXt"):
            word = stream.read(min(length, 17))
            stream.seek(-len(word), os.SEEK_CUR)
            if kind == b"eXIf" or word.startswith((b"Raw profile type ", b"XML:com.adobe.xmp")):
                return True
        stream.seek(length + 4, os.SEEK_CUR)  # the chunk and its checksum
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
    stream.seek(0)
    if image.format == "HEIF" and BRANDS_OF_SEQUENCES & set(brands(stream.read(64))):
        return True
    return bool(getattr(image, "is_animated", False))


Directory = dict[int, tuple[int, int, bytes]]
"""One page's tags in a TIFF: (type, count, the value or where it is)."""

_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_MOST_PAGES = 64


def only_preview(stream: IO[bytes]) -> bool:
    """Whether a TIFF is a camera raw file by its tags: the picture itself is of a kind that is not read here."""
    directories = list(_tiff_directories(stream))
    if not directories:
        return False
    return _DNG_VERSION in directories[0] or (
        _SUB_DIRECTORIES in directories[0] and not any(map(_is_full, directories))
    )


def full_pages(stream: IO[bytes]) -> list[int]:
    """List which of a TIFF's pages (the first is 0) are neither reduced copies of others nor masks."""
    return [number for number, page in enumerate(_tiff_directories(stream)) if _is_full(page)]


def _is_full(directory: Directory) -> bool:
    value = directory.get(_SUBFILE_TYPE, (4, 1, bytes(4)))[2]
    return not (value[0] | value[3]) & (_REDUCED | _MASK)  # its flags are in the low byte, whichever end that is


def _tiff_directories(stream: IO[bytes]) -> Iterator[Directory]:
    """Walk the directories of a TIFF's pages (a few bytes for each tag), as far as they are whole."""
    stream.seek(0)
    head = stream.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in (head[2], head[3])
    count_of, entry, link = (order + kind for kind in (("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")))
    seen: set[int] = set()
    try:
        (at,) = struct.unpack(link, head[8:16] if big else head[4:8])
        while at and at not in seen and len(seen) < _MOST_PAGES:
            seen.add(at)
            stream.seek(at)
            (count,) = struct.unpack(count_of, stream.read(struct.calcsize(count_of)))
            table = stream.read(min(count, 65_535) * struct.calcsize(entry))
            yield {tag: (kind, number, value) for tag, kind, number, value in struct.iter_unpack(entry, table)}
            (at,) = struct.unpack(link, stream.read(struct.calcsize(link)))
    except (struct.error, ValueError, OverflowError):
        return  # Pillow will say what is wrong with the first page; later ones are not read
