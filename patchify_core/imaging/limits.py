"""What a picture may cost, checked before it is decoded: a few bytes can demand much work.

Each check is by what the file's header promises, and errs on the side of more: a 100-megapixel JPEG or PNG is read, one
of the same size in a form that takes several times as much memory or time is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from PIL import ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from patchify_core.errors import PictureError
from patchify_core.imaging.depth import is_deep_colour, is_deep_gray
from patchify_core.imaging.headers import (
    Block,
    blocks_of_gif,
    blocks_of_jpeg,
    blocks_of_png,
    decoded_pixels,
    orientation,
    scans_of_jpeg,
)
from patchify_core.imaging.samples import TiffFile
from patchify_core.imaging.tiff import demands, is_bomb


@dataclass(frozen=True)
class PictureSettings:
    """What a picture may cost.

    Attributes:
        max_pixels: Largest width x height that is decoded, in pixels (Pillow's RGB takes 4 bytes a pixel).
        max_side: Largest width or height, in pixels: what is scaled down from it takes memory for each of them.
        max_bytes: Most memory at once that decoding may take, as predicted from the header. 100 megapixels of JPEG or
            PNG pass with the default, of WebP 75 do.
        max_scanned: Most pixels x scans of a JPEG: each scan of a progressive one is a pass over all pixels, for a few
            bytes. Cameras and browsers' tools write 10 scans; the default allows 25 at 100 megapixels.
        max_scans: Most scans of a JPEG of any size.
    """

    max_pixels: int = 100_000_000
    max_side: int = 100_000
    max_bytes: int = 1_200_000_000
    max_scanned: int = 2_500_000_000
    max_scans: int = 500


DEFAULTS = PictureSettings()

_MOST_BLOCKS, _MOST_PIXEL_BLOCKS, _MOST_PIECES = 4000, 200_000, 400_000
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
    """Raise PictureError for a file on whose header alone a decoder would spend minutes or gigabytes.

    Decoders copy what each tag of a TIFF or of EXIF claims, and join comments and segments one by one.

    Args:
        name: The file as the sentence calls it.
        stream: The file; it is left anywhere.
        kind: What Pillow calls its format.
    """
    size = stream.seek(0, 2)
    if kind == "TIFF":
        bomb, pieces = demands(stream, size)
        fits = not bomb and pieces <= _MOST_PIECES
    elif kind == "AVIF":  # its plugin reads the whole file and its EXIF at once
        stream.seek(0)
        data = stream.read()
        fits = not any(is_bomb(data[found.start() :]) for found in _TIFF_HEADER.finditer(data))
    else:
        fits = _has_few_blocks(stream, kind)
    if not fits:
        raise PictureError(
            f"{name} has more metadata than a picture has, or some that claim more than the file: save it anew as PNG "
            "or JPEG."
        )


def _has_few_blocks(stream: IO[bytes], kind: str | None) -> bool:
    walk = {"JPEG": blocks_of_jpeg, "PNG": blocks_of_png, "GIF": blocks_of_gif}.get(kind or "")
    blocks: Iterator[Block] = walk(stream) if walk else iter(())
    others = pixel_blocks = 0
    exif: list[tuple[int, int]] = []
    for what, at, length in blocks:
        if what == b"\x2c":
            break  # a GIF's first frame: what follows is not read
        if what in (b"IDAT", b"fdAT"):
            pixel_blocks += 1
        else:
            others += 1
        if what == 0xFFE1:
            exif.append((at, length))
        if others > _MOST_BLOCKS or pixel_blocks > _MOST_PIXEL_BLOCKS:
            return False
    parts = []
    for at, length in exif:
        stream.seek(at)
        if (part := stream.read(max(length, 0))).startswith(b"Exif\0\0"):
            parts.append(part[6:])
    return not is_bomb(b"".join(parts))


def check_cost(name: str, image: ImageFile.ImageFile, stream: IO[bytes], settings: PictureSettings) -> None:
    """Raise PictureError for a picture, opened and not decoded, that would take more than the settings allow.

    Args:
        name: The file as the sentence calls it.
        image: The picture; its size is checked already.
        stream: The file; it is left anywhere.
        settings: What a picture may cost.
    """
    pixels = image.width * image.height
    if image.format == "HEIF":
        stream.seek(0)
        if decoded_pixels(stream.read()) > 4 * pixels + 50_000_000:  # tiles and transparency count twice
            raise PictureError(f"{name} is put together of many times its own pixels: save it as JPEG or PNG.")
    most = min(settings.max_scans, settings.max_scanned // pixels)
    if _scans(image, stream, most) > most:
        raise PictureError(
            f"{name} is stored in more than {most} scans, each a pass over its {pixels / 1e6:,.1f} megapixels: save it "
            "anew as PNG or JPEG."
        )
    needed = memory_of(image)
    if needed > settings.max_bytes:
        raise PictureError(
            f"{name} would take {needed / 1e9:.1f} GB of memory at {image.width} × {image.height} pixels of its kind "
            f"(at most {settings.max_bytes / 1e9:.1f} are spent): scale it down, or save it as an 8-bit JPEG."
        )


def _scans(image: ImageFile.ImageFile, stream: IO[bytes], most: int) -> int:
    """How many passes over all pixels decoding takes, counted up to `most` + 1."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        # Behind the first scan's header, where Pillow has stopped: an ordinary JPEG has all colours in that one.
        length = 6 + 2 * image.layers
        stream.seek(-length, 1)
        whole = stream.read(3) == length.to_bytes(2, "big") + bytes([image.layers])
        return 1 if whole and "progressive" not in image.info else scans_of_jpeg(stream, most)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(259) in (6, 7):
        pieces = image.tag_v2.get(273, image.tag_v2.get(324, 0))  # strips or tiles, each of them a JPEG
        stream.seek(0)
        return stream.read().count(b"\xff\xda") // (len(pieces) if isinstance(pieces, tuple) and pieces else 1)
    return 1


def memory_of(image: ImageFile.ImageFile) -> int:
    """The most memory that reading a picture takes at once, in bytes, as its header says."""
    return image.width * image.height * _bytes_per_pixel(image)


def _bytes_per_pixel(image: ImageFile.ImageFile) -> int:
    """See `memory_of`, in bytes a pixel: what decoders and copies were seen to take."""
    if isinstance(image, TiffFile) and image.layout:
        return image.layout.bytes_per_pixel + (4 if orientation(image) > 1 else 0)
    decoded = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    needed = decoded if image.mode == "RGB" else decoded + 4
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or is_deep_gray(image):
        needed += 1
    if image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info:
        needed += 8  # a copy, and one with alpha
    if is_deep_colour(image):
        needed += 12
    if isinstance(image, JpegImagePlugin.JpegImageFile) and "progressive" in image.info:
        needed += 2 * image.layers  # all coefficients
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(278, 0) * 2 > image.height:
        needed += decoded  # one strip, unpacked at once
    needed += {"WEBP": 12, "AVIF": 8, "HEIF": 8}.get(image.format or "", 0)
    # A PNG's orientation may lie behind its pixels; asking for it now would keep the wrong answer.
    turned = "exif" in image.info if isinstance(image, PngImagePlugin.PngImageFile) else orientation(image) > 1
    return needed + 4 if turned else needed
