"""Files handed in by mistake, and pictures of rare but proper kinds; each function writes one into a folder.

`BAD` lists the makers of what must be refused, with a part of the sentence that says why; `ODD` those of what
must be read, with the colour that the (one-coloured) picture must have. Other tests parametrise over both.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, features

Maker = Callable[[Path], Path]
Colour = tuple[int, int, int]

SIZE = (6, 4)
RED = (200, 30, 10)


def photograph(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A picture that is different at every pixel and under every turn."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return Image.fromarray(np.stack([x * 5 % 256, y * 7 % 256, (x * y) % 256], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bytes(
    size: tuple[int, int], depth: int, colour_type: int, rows: bytes, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG written by hand, for what Pillow does not write: `rows` are unfiltered, each after its 0 byte."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    pixels = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + pixels + after + png_chunk(b"IEND", b"")


def _write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


# To be refused --------------------------------------------------------------------------------------------


def missing(folder: Path) -> Path:
    return folder / "missing.jpg"


def below_a_file(folder: Path) -> Path:
    return _write(folder, "file.jpg", encoded(photograph(), "JPEG")) / "missing.jpg"


def a_folder(folder: Path) -> Path:
    path = folder / "folder.jpg"
    path.mkdir()
    return path


def a_pipe(folder: Path) -> Path:
    """Opening it would wait for a writer for ever."""
    path = folder / "pipe.jpg"
    os.mkfifo(path)
    return path


def empty(folder: Path) -> Path:
    return _write(folder, "empty.jpg", b"")


def text(folder: Path) -> Path:
    return _write(folder, "text.jpg", b"This is not a picture.\n" * 50)


def text_beginning_like_bmp(folder: Path) -> Path:
    return _write(folder, "letter.bmp", b"BMW is a maker of cars, not of bitmaps.\n" * 9)


def web_page(folder: Path) -> Path:
    """What a download gives when it wanted a login first."""
    return _write(folder, "page.jpg", b"\n<!DOCTYPE html><html><body><svg></svg>Sign in</body></html>")


def svg(folder: Path) -> Path:
    return _write(folder, "drawing.svg", b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>')


def svg_utf16(folder: Path) -> Path:
    return _write(folder, "drawing16.png", '<svg xmlns="http://www.w3.org/2000/svg"/>'.encode("utf-16"))


def heic(folder: Path) -> Path:
    return _write(folder, "phone.heic", struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + b"\0" * 99)


def pdf(folder: Path) -> Path:
    return _write(folder, "paper.pdf", b"%PDF-1.7\n" + b"0" * 99)


def eps(folder: Path) -> Path:
    """Pillow's plugin for it starts Ghostscript on the file."""
    return _write(folder, "figure.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")


def ppm(folder: Path) -> Path:
    """A picture that Pillow knows, of a kind that is not on our list."""
    return _write(folder, "old.ppm", encoded(photograph(), "PPM"))


def pointer(folder: Path) -> Path:
    """What is checked out where Git LFS is not installed."""
    return _write(folder, "photo.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")


def photoshop(folder: Path) -> Path:
    return _write(folder, "layers.psd", b"8BPS\0\1" + bytes(60))


def camera_raw(folder: Path) -> Path:
    return _write(folder, "DSC_1.CR2", b"II*\0\x10\0\0\0CR\2\0" + bytes(60))


def long(folder: Path) -> Path:
    """Pillow keeps the address of each row, and needs gigabytes to scale it down."""
    return _write(folder, "long.png", png_bytes((1, 9_000_000), 1, 0, bytes(9)))


def truncated_jpeg(folder: Path) -> Path:
    """Its header is whole; of its pixels the last third is missing."""
    data = encoded(photograph((200, 150)), "JPEG")
    return _write(folder, "half.jpg", data[: len(data) * 2 // 3])


def truncated_png(folder: Path) -> Path:
    data = encoded(photograph(), "PNG")
    return _write(folder, "half.png", data[: len(data) // 2])


def damaged_png(folder: Path) -> Path:
    data = bytearray(encoded(photograph(), "PNG"))
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    return _write(folder, "damaged.png", bytes(data))


def jpeg_header_only(folder: Path) -> Path:
    return _write(folder, "header.jpg", b"\xff\xd8\xff\xe0 and then nothing of use")


def bomb(folder: Path) -> Path:
    """200 megapixels of one bit in some kilobytes, all of them there."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 20_000 // 8)) for _ in range(10_000)) + rows.flush()
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 10_000, 1, 0, 0, 0, 0))
    end = png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return _write(folder, "bomb.png", b"\x89PNG\r\n\x1a\n" + header + end)


def locked(folder: Path) -> Path:
    """A file that may not be read; root may read it all the same, so that tests ask os.access() first."""
    path = _write(folder, "locked.jpg", encoded(photograph(), "JPEG"))
    path.chmod(0)
    return path


BAD: dict[str, tuple[Maker, str]] = {
    "missing": (missing, "There is no file"),
    "below_a_file": (below_a_file, "There is no file"),
    "a_folder": (a_folder, "is a folder, not a picture"),
    **({"a_pipe": (a_pipe, "is a device or pipe")} if hasattr(os, "mkfifo") else {}),  # Windows has none
    "empty": (empty, "is empty (0 bytes)"),
    "text": (text, "is text, not a picture"),
    "text_beginning_like_bmp": (text_beginning_like_bmp, "is text, not a picture"),
    "web_page": (web_page, "is a web page"),
    "svg": (svg, "export it as PNG or JPEG"),
    "svg_utf16": (svg_utf16, "export it as PNG or JPEG"),
    "heic": (heic, "is a HEIC photo"),
    "pdf": (pdf, "is a PDF document"),
    "eps": (eps, "is a PostScript document, not a picture"),
    "ppm": (ppm, "is a Netpbm picture, which is not supported"),
    "pointer": (pointer, "is a Git LFS pointer, not a picture"),
    "photoshop": (photoshop, "is a Photoshop document, which is not supported"),
    "camera_raw": (camera_raw, "is a camera raw file"),
    "long": (long, "is too long at 1 × 9000000 pixels"),
    "truncated_jpeg": (truncated_jpeg, "is cut short, damaged"),
    "truncated_png": (truncated_png, "is cut short, damaged"),
    "damaged_png": (damaged_png, "is cut short, damaged"),
    "jpeg_header_only": (jpeg_header_only, "is cut short, damaged"),
    "bomb": (bomb, "is too large at 20000 × 10000 pixels (200 megapixels; at most 100 are read)"),
}


# To be read, rare as they are -----------------------------------------------------------------------------


def cmyk_jpeg(folder: Path) -> Path:
    """Inks stored inverted, as Adobe's programs do: read the other way round it would be dark green."""
    image = Image.new("CMYK", SIZE, (0, 200, 230, 20))
    return _write(folder, "cmyk.jpg", encoded(image, "JPEG", quality=100))


def ycck_jpeg(folder: Path) -> Path:
    """The same inks, the first three stored as luma and chroma.

    Pillow writes no YCCK; it inverts the four planes given to it and marks them "as they are" (transform 0).
    So it is given what ends up as the luma and chroma of the inks, and the mark is changed to 2, YCCK.
    """
    y, cb, cr = Image.new("RGB", (1, 1), (0, 200, 230)).convert("YCbCr").getpixel((0, 0))
    image = Image.new("CMYK", SIZE, (255 - y, 255 - cb, 255 - cr, 20))
    data = encoded(image, "JPEG", quality=100)
    mark = data.index(b"Adobe") + 11
    assert data[mark] == 0
    return _write(folder, "ycck.jpg", data[:mark] + b"\2" + data[mark + 1 :])


def gray16_png(folder: Path) -> Path:
    rows = (b"\0" + struct.pack(">H", 0x8040) * SIZE[0]) * SIZE[1]
    return _write(folder, "gray16.png", png_bytes(SIZE, 16, 0, rows))


def gray16_transparent_png(folder: Path) -> Path:
    rows = (b"\0" + struct.pack(">H", 0x8040) * SIZE[0]) * SIZE[1]
    see_through = png_chunk(b"tRNS", struct.pack(">H", 0x8040))
    return _write(folder, "gray16t.png", png_bytes(SIZE, 16, 0, rows, before=see_through))


def rgb16_png(folder: Path) -> Path:
    rows = (b"\0" + struct.pack(">HHH", 0xC840, 0x1E40, 0x0A40) * SIZE[0]) * SIZE[1]
    return _write(folder, "rgb16.png", png_bytes(SIZE, 16, 2, rows))


def rgb16_transparent_png(folder: Path) -> Path:
    pixel = struct.pack(">HHH", 0xC840, 0x1E40, 0x0A40)
    rows = (b"\0" + pixel * SIZE[0]) * SIZE[1]
    data = png_bytes(SIZE, 16, 2, rows, before=png_chunk(b"tRNS", pixel))
    return _write(folder, "rgb16t.png", data)


def gray2_transparent_png(folder: Path) -> Path:
    """Two bits a pixel: value 2 of 0..3 is gray 170, and is declared transparent."""
    rows = (b"\0" + b"\xaa\xaa") * SIZE[1]
    see_through = png_chunk(b"tRNS", struct.pack(">H", 2))
    return _write(folder, "gray2t.png", png_bytes(SIZE, 2, 0, rows, before=see_through))


def one_bit_png(folder: Path) -> Path:
    return _write(folder, "bit.png", encoded(Image.new("1", SIZE, 1), "PNG"))


def palette_png(folder: Path) -> Path:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED])
    return _write(folder, "palette.png", encoded(image, "PNG"))


def palette_one_transparent_png(folder: Path) -> Path:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED])
    return _write(folder, "palette1.png", encoded(image, "PNG", transparency=1))


def palette_half_transparent_png(folder: Path) -> Path:
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED])
    return _write(folder, "palette2.png", encoded(image, "PNG", transparency=b"\xff\x33"))


def gray_alpha_png(folder: Path) -> Path:
    return _write(folder, "la.png", encoded(Image.new("LA", SIZE, (0, 51)), "PNG"))


def rgba_png(folder: Path) -> Path:
    return _write(folder, "rgba.png", encoded(Image.new("RGBA", SIZE, (*RED, 51)), "PNG"))


def rgba_webp(folder: Path) -> Path:
    return _write(folder, "rgba.webp", encoded(Image.new("RGBA", SIZE, (*RED, 0)), "WEBP", lossless=True))


def animated_gif(folder: Path) -> Path:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    return _write(folder, "two.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))


def animated_webp(folder: Path) -> Path:
    frames = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return _write(folder, "two.webp", data)


def mpo(folder: Path) -> Path:
    """Two JPEGs in one file, as stereo cameras and some phones write."""
    frames = [Image.new("RGB", SIZE, colour) for colour in ((90, 90, 90), (0, 0, 255))]
    return _write(folder, "stereo.jpg", encoded(frames[0], "MPO", save_all=True, append_images=frames[1:]))


def bmp(folder: Path) -> Path:
    return _write(folder, "red.bmp", encoded(Image.new("RGB", SIZE, RED), "BMP"))


def two_page_tiff(folder: Path) -> Path:
    pages = [Image.new("RGB", SIZE, colour) for colour in (RED, (0, 0, 255))]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:], compression="tiff_lzw")
    return _write(folder, "pages.tif", data)


def gray16_tiff(folder: Path) -> Path:
    image = Image.fromarray(np.full(SIZE[::-1], 0x8040, np.uint16))
    return _write(folder, "gray16.tif", encoded(image, "TIFF"))


def float_tiff(folder: Path) -> Path:
    image = Image.fromarray(np.full(SIZE[::-1], 0.2, np.float32))
    return _write(folder, "float.tif", encoded(image, "TIFF"))


def int32_tiff(folder: Path) -> Path:
    image = Image.fromarray(np.full(SIZE[::-1], 0x8080, np.int32))
    return _write(folder, "int32.tif", encoded(image, "TIFF"))


def avif(folder: Path) -> Path:
    return _write(folder, "red.avif", encoded(Image.new("RGB", SIZE, (90, 90, 90)), "AVIF", quality=100))


def png_named_jpg(folder: Path) -> Path:
    return _write(folder, "wrong.jpg", encoded(Image.new("RGB", SIZE, RED), "PNG"))


ON_WHITE_20 = tuple(round(255 + (value - 255) * 0.2) for value in RED)  # alpha 51 of 255

ODD: dict[str, tuple[Maker, Colour]] = {
    "cmyk_jpeg": (cmyk_jpeg, (235, 51, 23)),  # (255 - ink) * (255 - 20) / 255
    "ycck_jpeg": (ycck_jpeg, (235, 51, 23)),
    "gray16_png": (gray16_png, (128, 128, 128)),
    "gray16_transparent_png": (gray16_transparent_png, (255, 255, 255)),
    "rgb16_png": (rgb16_png, RED),
    "rgb16_transparent_png": (rgb16_transparent_png, (255, 255, 255)),
    "gray2_transparent_png": (gray2_transparent_png, (255, 255, 255)),
    "one_bit_png": (one_bit_png, (255, 255, 255)),
    "palette_png": (palette_png, RED),
    "palette_one_transparent_png": (palette_one_transparent_png, (255, 255, 255)),
    "palette_half_transparent_png": (palette_half_transparent_png, ON_WHITE_20),
    "gray_alpha_png": (gray_alpha_png, (204, 204, 204)),
    "rgba_png": (rgba_png, ON_WHITE_20),
    "rgba_webp": (rgba_webp, (255, 255, 255)),
    "animated_gif": (animated_gif, RED),
    "animated_webp": (animated_webp, RED),
    "mpo": (mpo, (90, 90, 90)),
    "bmp": (bmp, RED),
    "two_page_tiff": (two_page_tiff, RED),
    "gray16_tiff": (gray16_tiff, (128, 128, 128)),
    "float_tiff": (float_tiff, (51, 51, 51)),
    "int32_tiff": (int32_tiff, (128, 128, 128)),
    "png_named_jpg": (png_named_jpg, RED),
}
if features.check("avif"):
    ODD["avif"] = (avif, (90, 90, 90))


# Turned ---------------------------------------------------------------------------------------------------


def oriented(folder: Path, orientation: int, kind: str = "png", size: tuple[int, int] = (5, 3)) -> Path:
    """`photograph(size)` as it is stored, with EXIF asking to turn it; kind is a Pillow format."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "webp" else {"quality": 100} if kind in ("jpeg", "avif") else {}
    data = encoded(photograph(size), kind, exif=exif, **options)
    return _write(folder, f"turned{orientation}.{kind}", data)


def oriented_late(folder: Path, orientation: int, size: tuple[int, int] = (5, 3)) -> Path:
    """The same as a PNG whose EXIF stands behind the pixels, where some programs append it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    late = png_chunk(b"tEXt", b"Comment\0hello") + png_chunk(b"eXIf", exif.tobytes()[6:])
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(photograph(size)))
    return _write(folder, f"late{orientation}.png", png_bytes(size, 8, 2, rows, after=late))
