"""The one place where bytes become a picture: upright, 8-bit RGB, whole, or one sentence saying why not.

Pictures come from strangers (uploads, downloads, memory cards), so that three things are checked before any
pixel is decoded: that the file is there and of a listed kind, that its plugin is one of the seven named here
(Pillow has others that start programs or read exotic containers), and that its header does not promise more
pixels than fit in memory. Whatever a decoder then raises ends as a `PictureError`.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from patchify_core.errors import PictureError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
"""File name endings (lower case) under which a folder is searched for pictures."""

KINDS = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"


@dataclass(frozen=True)
class PictureSettings:
    """What a picture may cost.

    Attributes:
        max_pixels: Largest width x height that is decoded, in pixels (Pillow's RGB takes 4 bytes a pixel).
    """

    max_pixels: int = 100_000_000


DEFAULTS = PictureSettings()

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEAD_BYTES = 4096
_BMP_HEADER_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})


def read_picture(source: Path | str | bytes, settings: PictureSettings = DEFAULTS) -> Image.Image:
    """Read a picture whole, as every other room expects it.

    Args:
        source: A file's path, or the file's bytes (JPEG, PNG, WebP, GIF, BMP, TIFF, MPO or AVIF).
        settings: The largest picture to decode.

    Returns:
        A fully decoded Pillow picture of mode RGB (8 bits a channel), EXIF orientation applied, transparency
        laid over white, the first frame of an animation, without metadata: nobody can turn it twice. Colour
        profiles are dropped, not applied, as the encoders' own training pictures were read.

    Raises:
        PictureError: The file is missing, a folder, unreadable, empty, no picture of a listed kind, larger
            than `settings.max_pixels`, cut short or damaged.

    Example:
        >>> from io import BytesIO
        >>> file = BytesIO()
        >>> Image.new("L", (3, 2), 7).save(file, "PNG")
        >>> picture = read_picture(file.getvalue())
        >>> picture.mode, picture.size, picture.getpixel((0, 0))
        ('RGB', (3, 2), (7, 7, 7))
    """
    with _opened(source, settings) as (image, _):
        return _normalise(image)


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


def read_reduced(source: Path | str | bytes, long_side: int, settings: PictureSettings = DEFAULTS) -> Reduced:
    """Read a picture for a use that needs `long_side` pixels along its longer side and no more.

    A JPEG's decoder can leave out the finest frequencies of its 8 x 8 blocks, and gives 1/2, 1/4 or 1/8 of the picture
    in a fraction of the time and memory (12 megapixels at 1/4: half of the time to decode, an eighth to
    scale down further). Other kinds are decoded whole.

    Args:
        source: As for `read_picture`.
        long_side: The least longer side to decode, in pixels, at least 1; a smaller picture is read as it is.
        settings: The largest picture to accept, before it is reduced.

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
    with _opened(source, settings) as (image, _):
        width, height = image.size
        scale = 1
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            fits = min(max(width, height) // long_side, min(width, height))
            scale = next(factor for factor in (8, 4, 2, 1) if factor <= max(fits, 1))
            if scale > 1:
                image.draft(None, (width // scale, height // scale))
        picture = _normalise(image)
        if scale == 1:
            return Reduced(picture, picture.size, 1)
        return Reduced(picture, (height, width) if _orientation(image) >= 5 else (width, height), scale)


def picture_size(source: Path | str | bytes, settings: PictureSettings = DEFAULTS) -> tuple[int, int]:
    """Say how large the picture will be once read, from its header alone.

    Args:
        source: As for `read_picture`.
        settings: The largest picture to accept.

    Returns:
        (width, height) in pixels of the upright picture, each >= 1: the size of `read_picture(source)`.

    Raises:
        PictureError: As for `read_picture`, except that pixels which are cut short or damaged go unnoticed.
    """
    with _opened(source, settings) as (image, stream):
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile) and _ORIENTATION in image.tag_v2:
            return width, height  # Pillow already gives a TIFF's upright size
        if isinstance(image, PngImagePlugin.PngImageFile) and not _has_late_metadata(stream):
            # PngImageFile.getexif() decodes the whole picture to look behind it; here nothing is behind it.
            orientation = _orientation(image, Image.Image.getexif)
        else:
            orientation = _orientation(image)
        return (height, width) if orientation >= 5 else (width, height)


def upright(image: Image.Image, settings: PictureSettings = DEFAULTS) -> Image.Image:
    """Bring a picture that is already open to the form that `read_picture` returns.

    Args:
        image: Any Pillow picture, decoded or not; its pixels are left as they are.
        settings: The largest picture to accept.

    Returns:
        A new picture of mode RGB as `read_picture` describes; upright(upright(image)) equals upright(image).

    Raises:
        PictureError: The picture has no pixels, too many, a colour mode without RGB, or cannot be decoded.
    """
    with _in_one_sentence("The picture"):
        _check_size("The picture", image.size, settings)
        return _normalise(image)


# Opening -------------------------------------------------------------------------


@contextmanager
def _opened(source: Path | str | bytes, settings: PictureSettings) -> Iterator[tuple[ImageFile.ImageFile, IO[bytes]]]:
    """Open a listed kind of picture, its header read and its size checked, no pixel decoded."""
    path = None if isinstance(source, bytes) else Path(source)
    name = repr(path.name or str(path)) if path else "The picture"
    with _in_one_sentence(name, path):
        with BytesIO(source) if isinstance(source, bytes) else _open_file(Path(source), name) as stream:
            head = stream.read(_HEAD_BYTES)
            if not head:
                raise PictureError(f"{name} is empty (0 bytes): copy or download it again.")
            opener = _opener(head)
            if opener is None:
                raise PictureError(_what_it_is(head, name, path))
            stream.seek(0)
            # Not Image.open(): it holds the size against Pillow's own process-wide limit, and the warning
            # that it gives below ours could be silenced only for every thread of the process.
            image = opener(stream)
            _check_size(name, image.size, settings)
            yield image, stream


def _open_file(path: Path, name: str) -> IO[bytes]:
    """Open a regular file; opening a named pipe would wait for ever, reading a device too."""
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise PictureError(f"{name} is a folder, not a picture: name a picture file in it.")
    if not stat.S_ISREG(kind):
        raise PictureError(f"{name} is a device or pipe, not a picture file: save it as a file first.")
    return path.open("rb")


def _opener(head: bytes) -> Callable[[IO[bytes]], ImageFile.ImageFile] | None:
    """Choose the Pillow plugin by the file's first bytes; None where they are of no listed kind."""
    if head.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile  # an MPO too: its first picture is a complete JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and WebPImagePlugin.SUPPORTED:
        return WebPImagePlugin.WebPImageFile
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return BmpImagePlugin.BmpImageFile
    if _brands(head) & {b"avif", b"avis"} and features.check("avif"):
        from PIL import AvifImagePlugin  # not in Pillow before 11.3

        return AvifImagePlugin.AvifImageFile
    return None


def _brands(head: bytes) -> set[bytes]:
    """List the major and compatible brands of an ISO media file (AVIF, HEIC); empty for any other file."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end - 3, 4)}


def _what_it_is(head: bytes, name: str, path: Path | None) -> str:
    """Tell a person what a file that is no listed picture looks like, and what to do with it."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, "ignore").lstrip().lower()
    suffix = path.suffix.lower() if path else ""
    if text.startswith(("<!doctype html", "<html")):
        return f"{name} is a web page, not a picture: save the picture itself."
    if (text.startswith("<") and "<svg" in text) or suffix in (".svg", ".svgz"):
        return f"{name} is an SVG drawing, which has no pixels: export it as PNG or JPEG."
    if _brands(head) & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return f"{name} is a HEIC photo, a kind that is not read here: save it as JPEG or PNG."
    if text.startswith("%pdf"):
        return f"{name} is a PDF document, not a picture: export its page as PNG or JPEG."
    return f"{name} is not a picture of a kind that is read here ({KINDS}): save it as JPEG or PNG."


def _check_size(name: str, size: tuple[int, int], settings: PictureSettings) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name} has no pixels ({width} × {height}): choose another picture.")
    if width * height > settings.max_pixels:
        raise PictureError(
            f"{name} is too large at {width} × {height} pixels ({width * height / 1e6:,.0f} megapixels; "
            f"at most {settings.max_pixels / 1e6:,.0f} are read): scale it down."
        )


@contextmanager
def _in_one_sentence(name: str, path: Path | None = None) -> Iterator[None]:
    """Turn whatever goes wrong inside into a `PictureError` of one sentence."""
    try:
        yield
    except PictureError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError(f"There is no file {str(path)!r}: check its name and folder.") from error
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


# Orientation ---------------------------------------------------------------------


def _orientation(
    image: Image.Image, getexif: Callable[[Image.Image], Image.Exif] = lambda image: image.getexif()
) -> int:
    """Return the EXIF orientation, 1..8; metadata that make no sense are no reason to refuse the pixels."""
    try:
        value = getexif(image).get(_ORIENTATION, 1)
        return int(value) if value in _TURNS else 1
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


# Colour --------------------------------------------------------------------------


def _normalise(image: Image.Image) -> Image.Image:
    """Decode, turn upright, bring to RGB and strip; a new plain picture, by as few copies as that takes."""
    transparency = _transparent_colour(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    rgb = _to_rgb(image, transparency)
    if turn is not None:
        rgb = rgb.transpose(turn)
    elif rgb is image:
        rgb = image.copy()
    rgb.info = {}
    return rgb


def _transparent_colour(image: Image.Image) -> object:
    """Return the colour that a picture without alpha calls transparent, on the scale of its decoded pixels.

    Pillow scales a PNG's 2-, 4- and 16-bit samples to 8 bits but leaves the transparent colour as stored. How
    many bits there were is known only until the pixels are loaded.
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
    """Return the loaded picture in mode RGB over white: itself where it is that already, else a new one."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_gray_to_rgb(image, transparency)
    if image.mode in ("RGB", "L", "1", "P") and transparency is not None:
        image = image.copy()  # convert() writes the transparency into the palette of the picture it is given
        image.info["transparency"] = transparency
        image = image.convert("RGBA")
    elif image.mode in ("LA", "PA", "RGBa", "RGBA") or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep_gray_to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Scale gray of more than 8 bits to 8 (Pillow's own conversion clips all above 255 to white)."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        gray = (values >> 8).astype(np.uint8)  # the high byte, as Pillow takes it of 16-bit colour
    else:
        # 32-bit and float samples carry no scale: take the smallest usual one that holds the brightest pixel.
        values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        brightest = float(values.max())
        usual = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
        if image.mode == "I" and isinstance(image, PngImagePlugin.PngImageFile):
            usual = [65535.0]  # Pillow before 11 opened every 16-bit PNG as mode I
        scale = next((full for full in usual if brightest <= full), brightest)
        gray = np.clip(np.rint(values * (255.0 / scale)), 0, 255).astype(np.uint8)
    if isinstance(transparency, int):
        gray[np.asarray(image) == transparency] = 255
    return Image.fromarray(gray).convert("RGB")
