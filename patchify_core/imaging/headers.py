"""What a picture's header says beside its size: how to turn it, and whether more pages or frames follow the first."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import IO

from PIL import GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.imaging.blocks import frames_of_gif
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
    if isinstance(image, GifImagePlugin.GifImageFile):
        return frames_of_gif(stream, 2) == 2  # Pillow would unpack every block of the first
    stream.seek(0)
    if image.format == "HEIF" and BRANDS_OF_SEQUENCES & set(brands(stream.read(64))):
        return True
    return bool(getattr(image, "is_animated", False))
