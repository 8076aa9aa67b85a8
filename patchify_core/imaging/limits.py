"""Limits on a picture, checked before it is decoded: a file of a few bytes can demand minutes or gigabytes.

Each check estimates the cost from the file's header and errs on the side of more: a 100-megapixel JPEG or PNG is read,
but not one of the same size in a form that takes several times as much memory or time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.errors import PictureError
from patchify_core.imaging.bit_depth import is_deep_gray, is_deep_png
from patchify_core.imaging.headers import (
    Block,
    count_jpeg_scans,
    decoded_heic_pixels,
    gif_blocks,
    is_tag_bomb,
    jpeg_blocks,
    orientation,
    png_blocks,
    tiff_cost,
)
from patchify_core.imaging.tiff import TiffFile


@dataclass(frozen=True)
class PictureSettings:
    """Limits on a picture.

    Attributes:
        max_pixels: Largest width x height, in pixels (Pillow's RGB takes 4 bytes per pixel).
        max_side: Largest width or height, in pixels; scaling down takes memory in proportion to each.
        max_bytes: Most memory in bytes that decoding may take at once, as estimated from the header. The default
            allows 100 megapixels of JPEG or PNG and 75 of WebP.
        max_scanned: Most pixels x scans of a JPEG: each scan of a progressive JPEG is a pass over all pixels and may
            take only a few bytes. Cameras and web tools write 10 scans; the default allows 25 at 100 megapixels.
        max_scans: Most scans of a JPEG of any size.
    """

    max_pixels: int = 100_000_000
    max_side: int = 100_000
    max_bytes: int = 1_200_000_000
    max_scanned: int = 2_500_000_000
    max_scans: int = 500


DEFAULTS = PictureSettings()

_MAX_BLOCKS, _MAX_PIXEL_BLOCKS, _MAX_PIECES = 4000, 200_000, 400_000
_TIFF_HEADER = re.compile(rb"II[*+]\0|MM\0[*+]")


def check_size(name: str, size: tuple[int, int], settings: PictureSettings) -> None:
    """Raise PictureError for a (width, height) in pixels that is empty or larger than the settings allow."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name} has no pixels ({width} × {height}): choose another picture.")
    if width * height > settings.max_pixels:
        raise PictureError(
            f"{name} is too large at {width} × {height} pixels ({width * height / 1e6:,.0f} megapixels; "
            f"at most {settings.max_pixels / 1e6:,.0f} are read): scale it down."
        )
    if max(size) > settings.max_side:
        raise PictureError(
            f"{name} is too long at {width} × {height} pixels (at most {settings.max_side:,} along a side are read): "
            "cut it into pieces."
        )


def check_header(name: str, stream: IO[bytes], kind: str | None) -> None:
    """Raise PictureError for a file whose header alone would take a decoder minutes or gigabytes.

    Decoders copy whatever each tag of a TIFF or of EXIF claims, and join comments and segments one by one.

    Args:
        name: The file's name as it appears in the message.
        stream: The file; its position is not restored.
        kind: Pillow's name of its format.
    """
    size = stream.seek(0, 2)
    if kind == "TIFF":
        bomb, pieces = tiff_cost(stream, size)
        accepted = not bomb and pieces <= _MAX_PIECES
    elif kind == "AVIF":  # the plugin reads the whole file and its EXIF at once
        stream.seek(0)
        data = stream.read()
        accepted = not any(is_tag_bomb(data[match.start() :]) for match in _TIFF_HEADER.finditer(data))
    else:
        accepted = _has_few_blocks(stream, kind)
    if not accepted:
        raise PictureError(
            f"{name} has excessive metadata, or metadata that claim more bytes than the file has: save it again as PNG "
            "or JPEG."
        )


def _has_few_blocks(stream: IO[bytes], kind: str | None) -> bool:
    read_blocks = {"JPEG": jpeg_blocks, "PNG": png_blocks, "GIF": gif_blocks}.get(kind or "")
    blocks: Iterator[Block] = read_blocks(stream) if read_blocks else iter(())
    others = pixel_blocks = 0
    exif: list[tuple[int, int]] = []
    for block, at, length in blocks:
        if block == b"\x2c":
            break  # a GIF's first frame; what follows is not read
        if block in (b"IDAT", b"fdAT"):
            pixel_blocks += 1
        else:
            others += 1
        if block == 0xFFE1:
            exif.append((at, length))
        if others > _MAX_BLOCKS or pixel_blocks > _MAX_PIXEL_BLOCKS:
            return False
    parts = []
    for at, length in exif:
        stream.seek(at)
        if (part := stream.read(max(length, 0))).startswith(b"Exif\0\0"):
            parts.append(part[6:])
    return not is_tag_bomb(b"".join(parts))


def check_cost(name: str, image: ImageFile.ImageFile, stream: IO[bytes], settings: PictureSettings) -> None:
    """Raise PictureError for a picture whose decoding would take more time or memory than the settings allow.

    Args:
        name: The file's name as it appears in the message.
        image: The picture, opened but not decoded; its size has been checked.
        stream: The file; its position is not restored.
        settings: Limits on the picture.
    """
    pixels = image.width * image.height
    if image.format == "HEIF":
        stream.seek(0)
        if decoded_heic_pixels(stream.read()) > 4 * pixels + 50_000_000:  # tiles and transparency count twice
            raise PictureError(f"{name} is composed of many times its own pixels: save it as JPEG or PNG.")
    max_scans = min(settings.max_scans, settings.max_scanned // pixels)
    if _scans(image, stream, max_scans) > max_scans:
        raise PictureError(
            f"{name} is stored in more than {max_scans} scans, each a pass over its {pixels / 1e6:,.1f} megapixels: "
            "save it again as PNG or JPEG."
        )
    memory = decoding_memory(image)
    if memory > settings.max_bytes:
        raise PictureError(
            f"{name} would take {memory / 1e9:.1f} GB of memory at {image.width} × {image.height} pixels "
            f"(at most {settings.max_bytes / 1e9:.1f} are allowed): scale it down, or save it as an 8-bit JPEG."
        )


def _scans(image: ImageFile.ImageFile, stream: IO[bytes], limit: int) -> int:
    """Return the number of passes over all pixels that decoding takes, counted up to `limit` + 1."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # Pillow has stopped behind the header of the first scan, which has all colours in an ordinary JPEG.
        length = 6 + 2 * image.layers
        stream.seek(-length, 1)
        has_all_colours = stream.read(3) == length.to_bytes(2, "big") + bytes([image.layers])
        return 1 if has_all_colours and "progressive" not in image.info else count_jpeg_scans(stream, limit)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(259) in (6, 7):
        pieces = image.tag_v2.get(273, image.tag_v2.get(324, 0))  # strips or tiles, each a JPEG
        stream.seek(0)
        return stream.read().count(b"\xff\xda") // (len(pieces) if isinstance(pieces, tuple) and pieces else 1)
    return 1


def decoding_memory(image: ImageFile.ImageFile) -> int:
    """Estimate the peak memory of reading a picture, in bytes, from its header."""
    return image.width * image.height * _bytes_per_pixel(image)


def _bytes_per_pixel(image: ImageFile.ImageFile) -> int:
    """Estimate the peak memory in bytes per pixel, by the measured use of decoders and conversions."""
    if isinstance(image, TiffFile) and image.layout:
        return image.layout.bytes_per_pixel + (4 if orientation(image) > 1 else 0)
    decoded = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    needed = decoded if image.mode == "RGB" else decoded + 4
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or is_deep_gray(image):
        needed += 1
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        needed += 8  # a copy, and one with alpha
    if is_deep_png(image):
        needed += 12
    if isinstance(image, JpegImagePlugin.JpegImageFile) and "progressive" in image.info:
        needed += 2 * image.layers  # all coefficients
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(278, 0) * 2 > image.height:
        needed += decoded  # a single strip, decompressed at once
    needed += {"WEBP": 12, "AVIF": 8, "HEIF": 8}.get(image.format or "", 0)
    # A PNG's orientation may be behind its pixels; asking for it now would cache the wrong answer.
    rotated = "exif" in image.info if isinstance(image, PngImagePlugin.PngImageFile) else orientation(image) > 1
    return needed + 4 if rotated else needed
