"""The one place where bytes become a picture: upright, 8-bit RGB, whole, or one sentence saying why not.

Pictures come from strangers (uploads, downloads, memory cards), so that three things are checked before any
pixel is decoded: that the file is there and of a kind that is read (`imaging.kinds`), that its decoder is one of the
eight named there (Pillow has others that start programs or read exotic containers), and that its header does not
promise more than may be spent on it (`imaging.limits`). Whatever a decoder then raises ends as a `PictureError`.
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

from PIL import Image, ImageFile, JpegImagePlugin

from patchify_core.errors import NotAPictureError, PictureError
from patchify_core.imaging.depth import colour_to_bytes, is_deep_colour, to_rgb, transparent_colour
from patchify_core.imaging.headers import TURNS, more_follows, orientation, sizes
from patchify_core.imaging.kinds import (
    KINDS,
    PICTURE_SUFFIXES,
    RAW_SUFFIXES,
    is_called_a_picture,
    opener,
    raw_photo,
    what_it_is,
)
from patchify_core.imaging.limits import DEFAULTS, PictureSettings, check_cost, check_header, check_size, memory_of
from patchify_core.imaging.samples import TiffFile, UnreadLayout
from patchify_core.imaging.tiff import full_pages, only_preview

__all__ = [
    "DEFAULTS",
    "KINDS",
    "PICTURE_SUFFIXES",
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
    """Read a picture whole, as every other room expects it.

    Args:
        source: A file's path, or the file's bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, MPO, HEIC or AVIF).
        settings: What a picture may cost.
        name: What the file is called, for bytes, or for a path that is not the file's own name: sentences name it, and
            its ending says whether it was meant to be a picture.

    Returns:
        A fully decoded Pillow picture of mode RGB (8 bits a channel), EXIF orientation applied, transparency
        laid over white, the first frame of an animation, without metadata: nobody can turn it twice. Colour
        profiles are dropped, not applied, as the encoders' own training pictures were read.

    Raises:
        NotAPictureError: The file is no picture by its content, nor called one by the ending of its name.
        PictureError: The file is missing, a folder, unreadable, empty, a picture of a kind that is not read, costs more
            than `settings` allow, is cut short or damaged.

    Example:
        >>> from io import BytesIO
        >>> file = BytesIO()
        >>> Image.new("L", (3, 2), 7).save(file, "PNG")
        >>> picture = read_picture(file.getvalue())
        >>> picture.mode, picture.size, picture.getpixel((0, 0))
        ('RGB', (3, 2), (7, 7, 7))
    """
    with _opened(source, settings, name) as (image, stream):
        return _normalise(image, stream)


@dataclass(frozen=True)
class Reduced:
    """A picture decoded at a fraction of its size.

    Attributes:
        picture: As `read_picture` returns it, but 1/`scale` as wide and high, rounded up.
        size: (width, height) in pixels of the whole upright picture: the size of `read_picture` of the same source.
        scale: 1, 2, 4 or 8.
    """

    picture: Image.Image
    size: tuple[int, int]
    scale: int


def read_reduced(
    source: Source, long_side: int, settings: PictureSettings = DEFAULTS, name: str | None = None
) -> Reduced:
    """Read a picture for a use that needs `long_side` pixels along its longer side and no more.

    A JPEG's decoder can leave out the finest frequencies of its 8 x 8 blocks, and gives 1/2, 1/4 or 1/8 of the picture
    in a fraction of the time and memory (12 megapixels at 1/4: half of the time to decode, an eighth to
    scale down further). Other kinds are decoded whole.

    Args:
        source: As for `read_picture`.
        long_side: The least longer side to decode, in pixels, at least 1; a smaller picture is read as it is.
        settings: What a picture may cost; its size counts before it is reduced.
        name: As for `read_picture`.

    Returns:
        The smallest that is at least `long_side` pixels along its longer side; the whole picture if that is smaller.
        Scaled down further, it looks like the whole picture scaled down, but not to the last bit: descriptors of a
        crop at half its size were found to agree to a cosine of 0.995 - 0.999 with those of the whole crop.

    Raises:
        PictureError: As for `read_picture`.
        ValueError: `long_side` is less than 1.
    """
    if long_side < 1:
        raise ValueError(f"long_side is {long_side}: at least 1")
    with _opened(source, settings, name) as (image, stream):
        width, height = image.size
        scale = 1
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            fits = min(max(width, height) // long_side, min(width, height))
            scale = next(factor for factor in (8, 4, 2, 1) if factor <= max(fits, 1))
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
        size: (width, height) in pixels of the upright picture, each >= 1: the size of `read_picture`'s.
        stored: (width, height) in pixels before the EXIF orientation is applied: the two sides swapped, or `size`.
        more: Whether further pages or frames follow the one that is read (animations, multi-page TIFF, HEIC sequences);
            never for a JPEG or MPO, where phones append previews and gain maps.
        memory: The most memory in bytes that `read_picture` takes at once, as predicted; errs on the side of more.
    """

    size: tuple[int, int]
    stored: tuple[int, int]
    more: bool
    memory: int


def read_header(source: Source, settings: PictureSettings = DEFAULTS, name: str | None = None) -> Header:
    """Say what a picture will be once read, from its header alone.

    Args:
        source: As for `read_picture`.
        settings: What a picture may cost.
        name: As for `read_picture`.

    Raises:
        PictureError: As for `read_picture`, except that pixels which are cut short or damaged go unnoticed.
    """
    with _opened(source, settings, name) as (image, stream):
        stored, size = sizes(image, stream)
        memory = memory_of(image)  # before what follows is looked at
        return Header(size, stored, more_follows(image, stream), memory)


def picture_size(source: Source, settings: PictureSettings = DEFAULTS, name: str | None = None) -> tuple[int, int]:
    """The `size` of `read_header`; arguments and errors are the same."""
    with _opened(source, settings, name) as (image, stream):
        return sizes(image, stream)[1]


def upright(image: Image.Image, settings: PictureSettings = DEFAULTS) -> Image.Image:
    """Bring a picture that is already open to the form that `read_picture` returns.

    Args:
        image: Any Pillow picture, decoded or not; its pixels are left as they are.
        settings: What a picture may cost.

    Returns:
        A new picture of mode RGB as `read_picture` describes; upright(upright(image)) equals upright(image).

    Raises:
        PictureError: The picture has no pixels, too many, a colour mode without RGB, or cannot be decoded.
    """
    with _in_one_sentence("The picture"):
        check_size("The picture", image.size, settings)
        return _normalise(image)


# Opening -------------------------------------------------------------------------


@contextmanager
def _opened(
    source: Source, settings: PictureSettings, called: str | None = None
) -> Iterator[tuple[ImageFile.ImageFile, IO[bytes]]]:
    """Open a picture of a kind that is read, its header read and its cost checked, no pixel decoded."""
    path = None if isinstance(source, bytes) else source if isinstance(source, Path) else Path(source)
    called = re.split(r"[/\\]", called)[-1] if called else path.name or str(path) if path else ""
    name = repr(called) if called else "The picture"
    with _in_one_sentence(name, path):
        with BytesIO(source) if isinstance(source, bytes) else _open_file(path or Path(), name) as stream:
            start = _opener(stream, name, called)
            # Not Image.open(): it holds the size against Pillow's own process-wide limit, and the warning
            # that it gives below ours could be silenced only for every thread of the process.
            with _in_one_sentence(f"{name} is a HEIC photo that" if start.format == "HEIF" else name):
                check_header(name, stream, start.format)
                stream.seek(0)
                image = start(stream)
                if isinstance(image, TiffFile):
                    image.seek(next(iter(full_pages(stream)), 0))
                check_size(name, image.size, settings)
                check_cost(name, image, stream, settings)
                yield image, stream


def _open_file(path: Path, name: str) -> IO[bytes]:
    """Open a regular file; opening a named pipe would wait for ever, reading a device too."""
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise PictureError(f"{name} is a folder, not a picture: name a picture file in it.")
    if not stat.S_ISREG(kind):
        raise PictureError(f"{name} is a device or pipe, not a picture file: save it as a file first.")
    return path.open("rb")


def _opener(stream: IO[bytes], name: str, called: str) -> type[ImageFile.ImageFile]:
    """Choose the decoder and go back to the start; what is not read is named, as a bad picture or as none."""
    head = stream.read(_HEAD_BYTES)
    if not head:
        raise _refusal(called)(f"{name} is empty (0 bytes): copy or download it again.")
    suffix = PurePath(called).suffix.lower()
    start = opener(head)
    if start is None:
        sentence, pictured = what_it_is(head, name, suffix)
        raise (PictureError if pictured else _refusal(called))(sentence)
    if start is TiffFile and (suffix in RAW_SUFFIXES or only_preview(stream)):
        raise PictureError(raw_photo(name))
    stream.seek(0)
    return start


def _refusal(called: str) -> type[PictureError]:
    """Which error says that a file's content is no picture."""
    return PictureError if is_called_a_picture(called) else NotAPictureError


@contextmanager
def _in_one_sentence(name: str, path: Path | None = None) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `PictureError` of one sentence."""
    try:
        yield
    except PictureError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        if path and os.path.islink(path):
            raise PictureError(
                f"{name} is a link that leads nowhere (to {os.readlink(path)!r}): copy the picture itself."
            ) from error
        raise PictureError(f"There is no file {str(path)!r}: check its name and folder.") from error
    except UnreadLayout as error:
        raise PictureError(f"{name} {error}") from error
    except PermissionError as error:
        raise PictureError(f"{name} may not be read: change its permissions or copy it.") from error
    except MemoryError as error:
        raise PictureError(f"{name} needs more memory than there is: scale it down.") from error
    except Exception as error:
        # Decoders meet hostile bytes with OSError, SyntaxError, ValueError, struct.error, zlib.error,
        # EOFError and others, warnings made errors among them; no list has stayed complete for long.
        if isinstance(error, OSError) and error.errno:
            raise PictureError(
                f"{name} cannot be read ({os.strerror(error.errno)}): check its name and disk."
            ) from error
        raise PictureError(
            f"{name} is cut short, damaged or of an unusual kind: copy or download it again, or save it "
            "anew as PNG or JPEG."
        ) from error


# Colour --------------------------------------------------------------------------


def _normalise(image: Image.Image, stream: IO[bytes] | None = None) -> Image.Image:
    """Decode, turn upright, bring to RGB and strip; a new plain picture, by as few copies as that takes.

    With `stream`, the file that it was opened from, the pixels are taken over from `image`.
    """
    transparency = transparent_colour(image)
    deep = stream is not None and is_deep_colour(image)
    image.load()
    turn = TURNS.get(orientation(image))
    scaled = colour_to_bytes(image, stream) if deep and stream is not None else None
    rgb = to_rgb(image, transparency) if scaled is None else to_rgb(scaled, None)
    if turn is not None:
        rgb = rgb.transpose(turn)
    elif rgb is image:
        rgb = image.copy() if stream is None else image._new(image.im)
    rgb.info = {}
    return rgb
