"""Read an untrusted picture as an upright 8-bit RGB image, or raise a `PictureError` that says why it cannot be read.

Uploads and downloads can be hostile, so three things are checked before any pixel is decoded: that the file is of a
supported format (`imaging.file_types`; Pillow has other decoders that start programs or read exotic containers), that
its header promises no more than may be spent on it (`imaging.limits`), and that it is a regular file.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath
from typing import IO

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from patchify_core.errors import NotAPictureError, PictureError
from patchify_core.imaging.bit_depth import deep_gray_to_8_bit, deep_png_to_8_bit, is_deep_gray, is_deep_png
from patchify_core.imaging.file_types import (
    RAW_SUFFIXES,
    decoder_for,
    explain_unsupported,
    has_picture_suffix,
    raw_photo_message,
)
from patchify_core.imaging.headers import TRANSPOSE, full_pages, has_more_pages, is_raw_tiff, orientation, sizes
from patchify_core.imaging.limits import (
    DEFAULTS,
    PictureSettings,
    check_cost,
    check_header,
    check_size,
    decoding_memory,
)
from patchify_core.imaging.tiff import TiffFile, UnsupportedLayout

__all__ = [
    "DEFAULTS",
    "Header",
    "PictureSettings",
    "Reduced",
    "picture_size",
    "read_header",
    "read_picture",
    "read_reduced",
    "upright",
]

Source = Path | str | bytes

_HEAD_BYTES = 4096


def read_picture(source: Source, settings: PictureSettings = DEFAULTS, name: str | None = None) -> Image.Image:
    """Read a picture completely.

    Args:
        source: A file's path, or the file's bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, MPO, HEIC or AVIF).
        settings: Limits on the picture.
        name: The file's name, for bytes or for a path with another name: it appears in error messages, and its suffix
            says whether the file was meant to be a picture.

    Returns:
        A decoded Pillow image of mode RGB (8 bits per channel), EXIF orientation applied, transparency over white, the
        first frame of an animation, without metadata, so that no one can rotate it again. Colour profiles are dropped,
        not applied, as in the encoders' training.

    Raises:
        NotAPictureError: Neither the content nor the name of the file is that of a picture.
        PictureError: The file is missing, a folder, unreadable, empty, of an unsupported format, exceeds the limits, is
            cut short or damaged.

    Example:
        >>> from io import BytesIO
        >>> file = BytesIO()
        >>> Image.new("L", (3, 2), 7).save(file, "PNG")
        >>> picture = read_picture(file.getvalue())
        >>> picture.mode, picture.size, picture.getpixel((0, 0))
        ('RGB', (3, 2), (7, 7, 7))
    """
    with _open(source, settings, name) as (image, stream):
        return _normalise(image, stream)


@dataclass(frozen=True)
class Reduced:
    """A picture decoded at a fraction of its size.

    Attributes:
        picture: As `read_picture` returns it, but 1/`scale` as wide and high, rounded up.
        size: (width, height) in pixels of the complete upright picture, as `read_picture` would return it.
        scale: 1, 2, 4 or 8.
    """

    picture: Image.Image
    size: tuple[int, int]
    scale: int


def read_reduced(
    source: Source, long_side: int, settings: PictureSettings = DEFAULTS, name: str | None = None
) -> Reduced:
    """Read a picture for a use that needs no more than `long_side` pixels along its longer side.

    A JPEG's decoder can omit the high frequencies of its 8 x 8 blocks, and returns 1/2, 1/4 or 1/8 of the picture in a
    fraction of the time and memory (12 megapixels at 1/4: half of the time to decode, an eighth to scale down
    further). Other formats are decoded completely.

    Args:
        source: See `read_picture`.
        long_side: The minimum of the longer side, in pixels, at least 1; a smaller picture is read as it is.
        settings: Limits on the picture; its size counts before it is reduced.
        name: See `read_picture`.

    Returns:
        The smallest picture with at least `long_side` pixels along its longer side; the complete picture if it has
        fewer. Scaled down further, it looks like the complete picture scaled down, but not to the last bit: descriptors
        of a crop at half its size agreed with those of the complete crop to a cosine of 0.995 - 0.999.

    Raises:
        PictureError: See `read_picture`.
        ValueError: `long_side` is less than 1.
    """
    if long_side < 1:
        raise ValueError(f"long_side is {long_side}: at least 1")
    with _open(source, settings, name) as (image, stream):
        width, height = image.size
        scale = 1
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            most = min(max(width, height) // long_side, min(width, height))
            scale = next(factor for factor in (8, 4, 2, 1) if factor <= max(most, 1))
            if scale > 1:
                image.draft(None, (width // scale, height // scale))
        picture = _normalise(image, stream)
        if scale == 1:
            return Reduced(picture, picture.size, 1)
        return Reduced(picture, (height, width) if orientation(image) >= 5 else (width, height), scale)


@dataclass(frozen=True)
class Header:
    """What a picture's header says.

    Attributes:
        size: (width, height) in pixels of the upright picture, each >= 1, as `read_picture` would return it.
        stored: (width, height) in pixels before the EXIF orientation is applied: `size`, or its two sides swapped.
        more: Whether further pages or frames follow the first (animations, multi-page TIFF, HEIC sequences); never for
            a JPEG or MPO, to which phones append previews and gain maps.
        memory: Estimated peak memory of `read_picture` in bytes; errs on the side of more.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    more: bool
    memory: int


def read_header(source: Source, settings: PictureSettings = DEFAULTS, name: str | None = None) -> Header:
    """Read only the header of a picture.

    Args:
        source: See `read_picture`.
        settings: Limits on the picture.
        name: See `read_picture`.

    Raises:
        PictureError: See `read_picture`, except that truncated or damaged pixels are not noticed.
    """
    with _open(source, settings, name) as (image, stream):
        stored, size = sizes(image, stream)
        memory = decoding_memory(image)  # before has_more_pages() seeks
        return Header(size, stored, has_more_pages(image, stream), memory)


def picture_size(source: Source, settings: PictureSettings = DEFAULTS, name: str | None = None) -> tuple[int, int]:
    """Return the `size` of `read_header`; arguments and errors are the same."""
    with _open(source, settings, name) as (image, stream):
        return sizes(image, stream)[1]


def upright(image: Image.Image, settings: PictureSettings = DEFAULTS) -> Image.Image:
    """Convert an open Pillow image to the form that `read_picture` returns.

    Args:
        image: Any Pillow image, decoded or not; its pixels are not changed.
        settings: Limits on the picture.

    Returns:
        A new image of mode RGB as `read_picture` describes; upright(upright(image)) equals upright(image).

    Raises:
        PictureError: The image has no pixels, too many, a colour mode without RGB, or cannot be decoded.
    """
    with _as_picture_error("The picture"):
        check_size("The picture", image.size, settings)
        return _normalise(image)


# Opening -------------------------------------------------------------------------


@contextmanager
def _open(
    source: Source, settings: PictureSettings, file_name: str | None = None
) -> Iterator[tuple[ImageFile.ImageFile, IO[bytes]]]:
    """Open a picture of a supported format and check its header and cost, without decoding pixels."""
    if isinstance(source, str):
        source = Path(source)
    path = None if isinstance(source, bytes) else source
    if file_name:
        file_name = re.split(r"[/\\]", file_name)[-1]
    elif path:
        file_name = path.name or str(path)
    name = repr(file_name) if file_name else "The picture"
    with _as_picture_error(name, path):
        with BytesIO(source) if isinstance(source, bytes) else _open_file(source, name) as stream:
            decoder = _choose_decoder(stream, name, file_name or "")
            # Not Image.open(): it applies Pillow's own process-wide size limit, and the warning that it issues below
            # ours could be silenced only for all threads of the process.
            with _as_picture_error(f"{name} is a HEIC photo that" if decoder.format == "HEIF" else name):
                check_header(name, stream, decoder.format)
                stream.seek(0)
                image = decoder(stream)
                if isinstance(image, TiffFile):
                    image.seek(next(iter(full_pages(stream)), 0))
                check_size(name, image.size, settings)
                check_cost(name, image, stream, settings)
                yield image, stream


def _open_file(path: Path, name: str) -> IO[bytes]:
    """Open a regular file; opening a named pipe or reading a device could block for ever."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise PictureError(f"{name} is a folder, not a picture: name a picture file in it.")
    if not stat.S_ISREG(mode):
        raise PictureError(f"{name} is a device or pipe, not a picture file: save it as a file first.")
    return path.open("rb")


def _choose_decoder(stream: IO[bytes], name: str, file_name: str) -> type[ImageFile.ImageFile]:
    """Choose the decoder by content and rewind the stream, or say what the file is instead."""
    head = stream.read(_HEAD_BYTES)
    no_picture = PictureError if has_picture_suffix(file_name) else NotAPictureError
    if not head:
        raise no_picture(f"{name} is empty (0 bytes): copy or download it again.")
    suffix = PurePath(file_name).suffix.lower()
    decoder = decoder_for(head)
    if decoder is None:
        message, is_picture = explain_unsupported(head, name, suffix)
        raise (PictureError if is_picture else no_picture)(message)
    if decoder is TiffFile and (suffix in RAW_SUFFIXES or is_raw_tiff(stream)):
        raise PictureError(raw_photo_message(name))
    stream.seek(0)
    return decoder


@contextmanager
def _as_picture_error(name: str, path: Path | None = None) -> Iterator[None]:
    """Convert any exception to a `PictureError` with a clear message."""
    try:
        yield
    except PictureError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if path and os.path.islink(path):
            raise PictureError(
                f"{name} is a broken link (to {os.readlink(path)!r}): copy the picture itself."
            ) from error
        raise PictureError(f"There is no file {str(path)!r}: check its name and folder.") from error
    except UnsupportedLayout as error:
        raise PictureError(f"{name} {error}") from error
    except PermissionError as error:
        raise PictureError(f"{name} may not be read: change its permissions or copy it.") from error
    except MemoryError as error:
        raise PictureError(f"{name} needs more memory than there is: scale it down.") from error
    except Exception as error:
        # Hostile bytes make decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, EOFError,
        # warnings turned into errors, and others; no list of these has stayed complete for long.
        if isinstance(error, OSError) and error.errno:
            raise PictureError(
                f"{name} cannot be read ({os.strerror(error.errno)}): check its name and disk."
            ) from error
        raise PictureError(
            f"{name} is cut short, damaged or of an unusual kind: copy or download it again, or save it "
            "again as PNG or JPEG."
        ) from error


# Conversion to upright RGB -------------------------------------------------------


def _normalise(image: Image.Image, stream: IO[bytes] | None = None) -> Image.Image:
    """Decode, turn upright, convert to RGB and strip metadata, with as few copies as possible.

    With `stream`, the file that `image` was opened from, the pixels are taken over from `image`.
    """
    transparency = _transparent_colour(image)
    deep_png = stream if is_deep_png(image) else None
    image.load()
    transpose = TRANSPOSE.get(orientation(image))
    scaled = deep_png_to_8_bit(image, deep_png) if deep_png else None
    rgb = _to_rgb(image, transparency) if scaled is None else _to_rgb(scaled, None)
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    elif rgb is image:
        rgb = image.copy() if stream is None else image._new(image.im)
    rgb.info = {}
    return rgb


def _transparent_colour(image: Image.Image) -> object:
    """Return the transparent colour of a picture without alpha channel, on the scale of its decoded pixels.

    Pillow scales a PNG's 2-, 4- and 16-bit samples to 8 bits but not its transparent colour, and forgets the number of
    bits when it loads the pixels.
    """
    colour = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if isinstance(image, PngImagePlugin.PngImageFile) and tile:
        rawmode = tile[0][3]
        if isinstance(colour, int) and rawmode in ("L;2", "L;4"):
            return colour * (85 if rawmode == "L;2" else 17)
        if isinstance(colour, tuple) and rawmode == "RGB;16B":
            return tuple(value >> 8 for value in colour)
    return colour


def _to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Convert a loaded picture to RGB over white; return the same object if it is that already."""
    if is_deep_gray(image):
        return deep_gray_to_8_bit(image, transparency).convert("RGB")
    if image.mode in ("RGB", "L", "1", "P") and transparency is not None:
        image = image.copy()  # convert() writes the transparency into the palette of its picture
        image.info["transparency"] = transparency
        image = image.convert("RGBA")
    elif image.mode in ("LA", "PA", "RGBa") or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
