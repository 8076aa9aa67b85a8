"""Decode TIFF files whose samples are not plain 8 bits, of which Pillow supports few and reads some wrongly.

Pillow and libtiff decompress the bytes of such a file as if they were an 8-bit gray picture, which is reliable for
every compression; their type, byte order, predictor, planes and tiles are interpreted here.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from numbers import Number
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from patchify_core.imaging.bit_depth import Samples, Scale, to_8_bit

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS = 258, 259, 262, 266, 277, 278
_MIN, _MAX, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA = 280, 281, 284, 317, 322, 323, 338
_FORMAT, _SMIN, _SMAX, _NO_DATA, _ORIENTATION = 339, 340, 341, 42113, 274
_STRIPS, _TILES = (273, 279), (324, 325)
_RAW, _YCBCR = 1, 6
_COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, LZMA, Zstandard
_COLOURS = {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}
_KINDS = {1: ("u", "unsigned integers"), 2: ("i", "signed integers"), 3: ("f", "floats"), 4: ("u", "values")}


class UnsupportedLayout(Exception):
    """A valid TIFF has an unsupported layout; the text is the end of a sentence that begins with the file's name."""


class TiffFile(TiffImagePlugin.TiffImageFile):
    """A TIFF as Pillow opens it or, if its samples are not plain 8 bits, as `Layout` describes it."""

    layout: Layout | None = None

    def _open(self) -> None:
        assert self.fp is not None
        if self.fp.read(4) == b"MM\0+":  # Pillow mistakes it for an ordinary TIFF
            raise UnsupportedLayout("is a BigTIFF in big-endian byte order: save it in little-endian order or as PNG.")
        self.fp.seek(0)
        super()._open()

    def _setup(self) -> None:
        tags = self.tag_v2
        self.layout = None
        if 0 in _as_tuple(
            tags.get(_STRIPS[0], tags.get(_TILES[0], ()))
        ):  # offset 0, where Pillow would read the file's header
            raise UnsupportedLayout("is a TIFF without some of its parts (sparse): save it completely, or as PNG.")
        bits, formats = _as_tuple(tags.get(_BITS, 1)), _as_tuple(tags.get(_FORMAT, 1))
        colours = 3 if tags.get(_PHOTOMETRIC) == 2 else 4
        undeclared = _EXTRA not in tags and tags.get(_SAMPLES, 1) > colours
        raw = tags.get(_COMPRESSION, _RAW) == _RAW
        separate_planes = raw and tags.get(_PLANAR) == 2
        reason: Exception | None = None
        if max(bits) <= 8 and not {2, 3} & set(formats) and not undeclared and not separate_planes:
            try:
                super()._setup()
            except (SyntaxError, KeyError, ValueError, IndexError) as error:
                reason = error
            else:
                if raw and tags.get(_PHOTOMETRIC) == _YCBCR:  # which only libtiff supports
                    self.use_load_libtiff = True
                    args = ("RGBX", "raw", False, tags.offset)
                    self.tile = [ImageFile._Tile("libtiff", (0, 0, *self._tile_size), 0, args)]
                return
        self.layout = _read_layout(tags, reason)
        self._size = self._tile_size = self.layout.size
        if tags.get(_ORIENTATION) in (5, 6, 7, 8):
            self._size = self.layout.size[::-1]
        self._mode, self.tile, self.use_load_libtiff = self.layout.mode, [], False
        self._planar_configuration = 1

    def load_prepare(self) -> None:
        """Allocate like Pillow, without its process-wide limit; ours have been checked."""
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()

    def load(self) -> Image.core.PixelAccess | None:
        """Decode the picture to 8 bits and turn it upright."""
        if self.layout is None or self._im is not None:
            return super().load()
        if self.fp is None:
            raise ValueError("the file is closed")
        decoded = to_8_bit(self.layout.samples(self.fp))
        self.im, self._mode = decoded.im, decoded.mode
        self.load_end()
        return super().load()


@dataclass(frozen=True)
class Layout:
    """How the samples of a TIFF's page are stored.

    Attributes:
        size: (width, height) in pixels, as stored.
        mode: Pillow's name of the first channels; without the channel that `maybe_alpha` is about.
        kind: "u", "i" or "f"; with `bits` and `order` ("<" or ">") the type of a sample.
        channels: The number of channels.
        planes: The number of channels if each is stored separately, else 1.
        piece: (width, height) of a strip or tile.
        tiled: Whether the pieces are tiles.
        extents: (offset, length in bytes) of each piece.
        compression: The TIFF's number for it.
        predictor: 1 for none, 2 for differences, 3 for floats.
        fill_order: 2 if the lowest bit of a byte comes first.
        maybe_alpha: Whether there is a fourth channel whose meaning the file does not declare.
        declared, no_data, inverted: See `Samples`.
    """

    size: tuple[int, int]
    mode: str
    kind: str
    bits: int
    order: str
    channels: int
    planes: int
    piece: tuple[int, int]
    tiled: bool
    extents: tuple[tuple[int, int], ...]
    compression: int
    predictor: int
    fill_order: int
    maybe_alpha: bool
    declared: tuple[Scale, ...]
    no_data: tuple[float, ...]
    inverted: bool

    @property
    def pieces_across(self) -> int:
        """Number of pieces beside each other."""
        return math.ceil(self.size[0] / self.piece[0])

    @property
    def row_bytes(self) -> int:
        """Bytes per row of a piece."""
        return math.ceil(self.piece[0] * self.channels // self.planes * self.bits / 8)

    @property
    def bytes_per_pixel(self) -> int:
        """Estimated peak memory of decoding, in bytes per pixel."""
        decompressed = self.row_bytes * self.pieces_across * self.planes * self.size[1]
        one_piece = self.row_bytes * self.piece[1] * (1 if self.tiled or self.compression != _RAW else 0)
        return math.ceil((decompressed + one_piece) / (self.size[0] * self.size[1])) + 5

    def samples(self, stream: IO[bytes]) -> Samples:
        """Decompress the file; the samples are interpreted band by band."""
        wanted = min(self.planes, len(self.mode) + self.maybe_alpha)
        gray_tiff = self._as_gray_tiff(stream)
        planes = [_load_page(gray_tiff, number) for number in range(wanted)]
        row_bytes = planes[0].width

        def rows(top: int, bottom: int) -> NDArray[Any]:
            bands = [np.asarray(plane.crop((0, top, row_bytes, bottom))) for plane in planes]
            return np.concatenate([self._interpret(band) for band in bands], 2)

        mode = self.mode
        if self.maybe_alpha and _is_alpha(rows, self.size[1], 3):
            mode = "RGBA"
        return Samples(
            self.size,
            lambda top, bottom: rows(top, bottom)[..., : len(mode)],
            mode,
            self.declared,
            self.no_data,
            0,
            self.inverted,
            (0.0, 2.0**self.bits - 1) if mode == "CMYK" or (self.kind == "u" and self.bits <= 8) else None,
        )

    def _as_gray_tiff(self, stream: IO[bytes]) -> bytes:
        """Return the file with new directories: one 8-bit gray page per plane, in which every byte is a pixel."""
        stream.seek(8)
        data = stream.read()
        parts = [b"II*\0", b"", data, bytes(len(data) % 2)]
        end = 8 + len(data) + len(data) % 2
        parts[1] = struct.pack("<I", end)
        pieces = len(self.extents) // self.planes
        width, height = self.row_bytes, self.piece[1]
        for number in range(self.planes):
            offsets, lengths = zip(*self.extents[number * pieces : number * pieces + pieces], strict=True)
            offset_tag, length_tag = _TILES if self.tiled else _STRIPS
            tags = {256: (width * self.pieces_across,), 257: (self.size[1],)}
            tags |= {_BITS: (8,), _COMPRESSION: (self.compression,)}
            tags |= {_PHOTOMETRIC: (1,), _FILL_ORDER: (self.fill_order,), _SAMPLES: (1,)}
            tags |= {_TILE_WIDTH: (width,), _TILE_HEIGHT: (height,)} if self.tiled else {_ROWS: (height,)}
            tags |= {offset_tag: offsets, length_tag: lengths}
            long_values, table = b"", struct.pack("<H", len(tags))
            start = end + 2 + 12 * len(tags) + 4
            for tag, values in sorted(tags.items()):
                value_or_offset = values[0] if len(values) == 1 else start + len(long_values)
                table += struct.pack("<HHII", tag, 4, len(values), value_or_offset)
                long_values += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
            end = start + len(long_values)
            parts.append(table + struct.pack("<I", end if number + 1 < self.planes else 0) + long_values)
        return b"".join(parts)

    def _interpret(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        """Convert bytes (height, width in bytes) to samples (height, width, channels of a plane)."""
        height, width, channels = len(rows), self.piece[0], self.channels // self.planes
        pieces = rows.reshape(height, self.pieces_across, self.row_bytes)
        if self.bits < 8 or self.bits % 8:
            bits = np.unpackbits(pieces, axis=2)[..., : width * channels * self.bits]
            bits = bits.reshape(height, self.pieces_across, width * channels, self.bits)
            values = np.packbits(np.pad(bits, ((0, 0),) * 3 + ((16 - self.bits, 0),)), axis=3).view(">u2")
        elif self.predictor == 3:
            sums = pieces.reshape(height, self.pieces_across, -1, channels).cumsum(2, np.uint8)
            by_value = sums.reshape(height, self.pieces_across, self.bits // 8, width * channels).swapaxes(2, 3)
            values = np.ascontiguousarray(by_value).view(f">f{self.bits // 8}")
        else:
            values = pieces.view(f"{self.order}{self.kind}{self.bits // 8}")
        values = values.astype(values.dtype.newbyteorder("=")).reshape(height, self.pieces_across, width, channels)
        if self.predictor == 2:
            integers = values.view(f"u{values.itemsize}")
            values = integers.cumsum(2, integers.dtype).view(values.dtype)
        return values.reshape(height, self.pieces_across * width, channels)[:, : self.size[0]]


def _read_layout(tags: TiffImagePlugin.ImageFileDirectory_v2, reason: Exception | None) -> Layout:
    """Read the layout from a page's tags.

    Raises:
        UnsupportedLayout: The layout is valid but not supported.
        Exception: The tags are invalid; `reason` if there is one.
    """
    size = (int(tags[256]), int(tags[257]))
    channels = tags.get(_SAMPLES, 1)
    bits, formats = set(_as_tuple(tags.get(_BITS, 1))[:channels]), set(_as_tuple(tags.get(_FORMAT, 1))[:channels])
    photometric, compression = tags.get(_PHOTOMETRIC, 0), tags.get(_COMPRESSION, 1)
    if len(bits) > 1 or len(formats) > 1:
        raise UnsupportedLayout("is a TIFF whose channels are of different types: save it with 8 or 16 bits for each.")
    (depth,), (sample_format,) = bits, formats
    kind, values_name = _KINDS.get(sample_format, ("c", "complex numbers"))
    samples_name = f"{depth}-bit {values_name}"
    supported = {"u": (*range(1, 17), 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
    if depth not in supported.get(kind, ()):
        raise UnsupportedLayout(
            f"is a TIFF of {samples_name}, which are not supported: save it as 32-bit floats or with 16 bits."
        )
    if compression not in _COMPRESSIONS:
        method = TiffImagePlugin.COMPRESSION_INFO.get(compression, f"number {compression}").removeprefix("tiff_")
        raise UnsupportedLayout(
            f"is a TIFF of {samples_name} with the compression {method!r}, a combination that is not supported: save "
            "it with LZW compression or none."
        )
    predictor = tags.get(_PREDICTOR, 1) if compression != _RAW else 1
    if predictor not in (1, 2, 3) or (predictor > 1 and depth % 8) or (predictor == 3 and kind != "f"):
        raise UnsupportedLayout(
            f"is a TIFF of {samples_name} with a predictor that is not supported: save it without one."
        )
    mode, extra = _COLOURS.get(photometric), _as_tuple(tags.get(_EXTRA, ()))
    if mode == "L" and channels > 2 and not {1, 2} & set(extra[:2]):
        mode = "RGB"  # bands, as geographic programs write and show them
    if mode is None or (mode == "CMYK" and kind != "u"):
        raise UnsupportedLayout(
            f"is a TIFF of {samples_name} in the colour space number {photometric}, a combination that is not "
            "supported: save it as RGB or gray."
        )
    if channels < len(mode):
        raise reason or SyntaxError("too few channels")
    undeclared = mode == "RGB" and channels == 4 and _EXTRA not in tags
    if mode != "CMYK":
        after = extra[len(mode) - len(_COLOURS[photometric]) :]
        mode += {(1,): "a", (2,): "A"}.get(after[:1], "")
    planes = channels if tags.get(_PLANAR, 1) == 2 else 1
    tiled = _TILES[0] in tags
    piece = (tags[_TILE_WIDTH], tags[_TILE_HEIGHT]) if tiled else (size[0], min(tags.get(_ROWS, size[1]), size[1]))
    if min(*size, *piece) < 1:
        raise reason or SyntaxError("no pixels")
    offsets, lengths = (_as_tuple(tags.get(tag, ())) for tag in (_TILES if tiled else _STRIPS))
    pieces = math.ceil(size[0] / piece[0]) * math.ceil(size[1] / piece[1]) * planes
    if len(offsets) < pieces:
        raise reason or SyntaxError("strips or tiles are missing")
    lengths = lengths if len(lengths) >= pieces else (0,) * pieces
    return Layout(
        size,
        mode,
        kind,
        depth,
        "<" if tags.prefix == b"II" else ">",
        channels,
        planes,
        piece,
        tiled,
        tuple(zip(offsets[:pieces], lengths[:pieces], strict=True)),
        compression,
        predictor,
        tags.get(_FILL_ORDER, 1),
        undeclared,
        _declared_scales(tags, kind, depth),
        _no_data(tags, f"{kind}{max(depth, 16) // 8}" if depth != 8 else f"{kind}1"),
        photometric == 0,
    )


def _load_page(data: bytes, number: int) -> Image.Image:
    page = TiffFile(BytesIO(data))
    page.seek(number)
    page.load()
    return page


def _is_alpha(rows: Callable[[int, int], NDArray[Any]], height: int, channel: int) -> bool:
    """Return whether at least half of a channel is its lowest or highest value, as in transparency but not in light."""
    values = np.concatenate([rows(top, top + 1)[..., channel].ravel() for top in range(0, height, height // 256 + 1)])
    full = 1 if values.dtype.kind == "f" else (1 << max(int(values.max()).bit_length(), 8)) - 1
    return bool(np.isin(values, (0, full)).mean() >= 0.5)


def _declared_scales(tags: TiffImagePlugin.ImageFileDirectory_v2, kind: str, bits: int) -> tuple[Scale, ...]:
    """Return the scales that a file declares: by its tags, and by the number of bits."""
    scales = []
    for low_tag, high_tag in ((_SMIN, _SMAX), (_MIN, _MAX)):
        edges = (*_as_tuple(tags.get(low_tag, ())), *_as_tuple(tags.get(high_tag, ())))
        channels = len(edges) // 2
        low, high = edges[:channels], edges[channels:]
        if len(set(low)) == len(set(high)) == 1 and all(isinstance(edge, Number) for edge in edges) and low < high:
            scales.append((float(low[0]), float(high[0])))
    if kind != "f" and bits <= 16:
        scales.append((-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if kind == "i" else (0.0, 2.0**bits - 1))
    return tuple(scales)


def _no_data(tags: TiffImagePlugin.ImageFileDirectory_v2, dtype: str) -> tuple[float, ...]:
    """Return the value for "no data" that geographic programs declare, as the picture's own type stores it."""
    try:
        with np.errstate(all="ignore"):
            value = float(str(tags.get(_NO_DATA, "")).strip("\0 "))
            stored = float(np.array(value).astype(dtype))
    except (ValueError, OverflowError):
        return ()
    return (stored,) if stored == value or dtype[0] == "f" else ()


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
