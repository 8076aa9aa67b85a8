"""TIFF files whose values are not plain 8 bits: Pillow knows few of these layouts, and reads some wrongly in silence.

Of every such file the bytes are unpacked as if they were an 8-bit gray picture, which Pillow and libtiff do reliably
for every compression, and their meaning (type, byte order, predictor, planes, tiles) is worked out here.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from numbers import Number
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from patchify_core.imaging.depth import Samples, Scale, scaled

_BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _SAMPLES, _ROWS = 258, 259, 262, 266, 277, 278
_MIN, _MAX, _PLANAR, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT, _EXTRA = 280, 281, 284, 317, 322, 323, 338
_FORMAT, _SMIN, _SMAX, _NO_DATA, _ORIENTATION = 339, 340, 341, 42113, 274
_STRIPS, _TILES = (273, 279), (324, 325)
_RAW, _YCBCR = 1, 6
_UNPACKED = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, LZMA, Zstandard
_COLOURS = {0: "L", 1: "L", 2: "RGB", 5: "CMYK"}
_KINDS = {1: ("u", "unsigned integers"), 2: ("i", "signed integers"), 3: ("f", "floats"), 4: ("u", "values")}


class UnreadLayout(Exception):
    """A TIFF that is whole, of a layout that is not read; its text ends a sentence that begins with the file's name."""


class TiffFile(TiffImagePlugin.TiffImageFile):
    """A TIFF as Pillow opens it, or, where its values are not plain 8 bits, as `Layout` says."""

    layout: Layout | None = None

    def _open(self) -> None:
        assert self.fp is not None
        if self.fp.read(4) == b"MM\0+":  # Pillow takes it for an ordinary TIFF
            raise UnreadLayout("is a BigTIFF in big-endian byte order: save it in little-endian order or as PNG.")
        self.fp.seek(0)
        super()._open()

    def _setup(self) -> None:
        tags = self.tag_v2
        self.layout = None
        if 0 in _all(tags.get(_STRIPS[0], tags.get(_TILES[0], ()))):  # where Pillow would find the file's header
            raise UnreadLayout("is a TIFF of which parts were left out (sparse): save it whole, or as PNG.")
        bits, formats = _all(tags.get(_BITS, 1)), _all(tags.get(_FORMAT, 1))
        colours = 3 if tags.get(_PHOTOMETRIC) == 2 else 4
        undeclared = _EXTRA not in tags and tags.get(_SAMPLES, 1) > colours
        raw = tags.get(_COMPRESSION, _RAW) == _RAW
        apart = raw and tags.get(_PLANAR) == 2
        reason: Exception | None = None
        if max(bits) <= 8 and not {2, 3} & set(formats) and not undeclared and not apart:
            try:
                super()._setup()
            except (SyntaxError, KeyError, ValueError, IndexError) as error:
                reason = error
            else:
                if raw and tags.get(_PHOTOMETRIC) == _YCBCR:  # which Pillow itself does not know
                    self.use_load_libtiff = True
                    args = ("RGBX", "raw", False, tags.offset)
                    self.tile = [ImageFile._Tile("libtiff", (0, 0, *self._tile_size), 0, args)]
                return
        self.layout = _layout(tags, reason)
        self._size = self._tile_size = self.layout.size
        if tags.get(_ORIENTATION) in (5, 6, 7, 8):
            self._size = self.layout.size[::-1]
        self._mode, self.tile, self.use_load_libtiff = self.layout.mode, [], False
        self._planar_configuration = 1

    def load_prepare(self) -> None:
        """As Pillow's own, without its process-wide limit: what a picture may cost is checked before."""
        if self._im is None:
            self.im = Image.core.new(self.mode, self._tile_size)
        super().load_prepare()

    def load(self) -> Image.core.PixelAccess | None:
        """Decode the picture, to 8 bits and upright."""
        if self.layout is None or self._im is not None:
            return super().load()
        if self.fp is None:
            raise ValueError("the file is closed")
        found = scaled(self.layout.samples(self.fp))
        self.im, self._mode = found.im, found.mode
        self.load_end()
        return super().load()


@dataclass(frozen=True)
class Layout:
    """How the values of a TIFF's page are stored.

    Attributes:
        size: (width, height) in pixels, as stored.
        mode: What the first channels are, as Pillow calls them; of `maybe_alpha` only if it is.
        kind: "u", "i" or "f"; with `bits` and `order` ("<" or ">") the type of a value.
        channels: How many are stored.
        planes: As many as there are channels, if each is stored apart, or 1.
        piece: (width, height) of a strip or tile.
        tiled: Whether they are tiles.
        places: Where each piece begins, and how many bytes it is.
        compression: The TIFF's number for it.
        predictor: 1 for none, 2 for differences, 3 for floats.
        fill_order: 2 if the lowest bit of a byte comes first.
        maybe_alpha: Whether a fourth channel is there of which the file does not say what it is.
        declared, absent, inverted: As for `Samples`.
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
    places: tuple[tuple[int, int], ...]
    compression: int
    predictor: int
    fill_order: int
    maybe_alpha: bool
    declared: tuple[Scale, ...]
    absent: tuple[float, ...]
    inverted: bool

    @property
    def across(self) -> int:
        """How many pieces lie beside each other."""
        return math.ceil(self.size[0] / self.piece[0])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a piece."""
        return math.ceil(self.piece[0] * self.channels // self.planes * self.bits / 8)

    @property
    def bytes_per_pixel(self) -> int:
        """The most memory that reading takes at once, in bytes per pixel."""
        unpacked = self.row_bytes * self.across * self.planes * self.size[1]
        whole = self.row_bytes * self.piece[1] * (1 if self.tiled or self.compression != _RAW else 0)
        return math.ceil((unpacked + whole) / (self.size[0] * self.size[1])) + 5

    def samples(self, stream: IO[bytes]) -> Samples:
        """Unpack the file's bytes; the values are worked out piece by piece."""
        wanted = min(self.planes, len(self.mode) + self.maybe_alpha)
        whole = self._as_bytes(stream)
        planes = [_unpacked(whole, number) for number in range(wanted)]
        wide = planes[0].width

        def band(top: int, bottom: int) -> NDArray[Any]:
            bands = [np.asarray(plane.crop((0, top, wide, bottom))) for plane in planes]
            return np.concatenate([self._values(rows) for rows in bands], 2)

        mode = self.mode
        if self.maybe_alpha and _is_mask(band, self.size[1], 3):
            mode = "RGBA"
        return Samples(
            self.size,
            lambda top, bottom: band(top, bottom)[..., : len(mode)],
            mode,
            self.declared,
            self.absent,
            0,
            self.inverted,
            (0.0, 2.0**self.bits - 1) if mode == "CMYK" or (self.kind == "u" and self.bits <= 8) else None,
        )

    def _as_bytes(self, stream: IO[bytes]) -> bytes:
        """The file as one of 8-bit gray pages, one for each plane, of which every byte is a pixel."""
        stream.seek(8)
        data = stream.read()
        parts = [b"II*\0", b"", data, bytes(len(data) % 2)]
        end = 8 + len(data) + len(data) % 2
        parts[1] = struct.pack("<I", end)
        each = len(self.places) // self.planes
        wide, tall = self.row_bytes, self.piece[1]
        for number in range(self.planes):
            places, counts = zip(*self.places[number * each : number * each + each], strict=True)
            offset_tag, count_tag = _TILES if self.tiled else _STRIPS
            tags = {256: (wide * self.across,), 257: (self.size[1],), _BITS: (8,), _COMPRESSION: (self.compression,)}
            tags |= {_PHOTOMETRIC: (1,), _FILL_ORDER: (self.fill_order,), _SAMPLES: (1,)}
            tags |= {_TILE_WIDTH: (wide,), _TILE_HEIGHT: (tall,)} if self.tiled else {_ROWS: (tall,)}
            tags |= {offset_tag: places, count_tag: counts}
            late, table = b"", struct.pack("<H", len(tags))
            start = end + 2 + 12 * len(tags) + 4
            for tag, values in sorted(tags.items()):
                place = values[0] if len(values) == 1 else start + len(late)
                table += struct.pack("<HHII", tag, 4, len(values), place)
                late += struct.pack(f"<{len(values)}I", *values) if len(values) > 1 else b""
            end = start + len(late)
            parts.append(table + struct.pack("<I", end if number + 1 < self.planes else 0) + late)
        return b"".join(parts)

    def _values(self, rows: NDArray[np.uint8]) -> NDArray[Any]:
        """Bytes of (height, width in bytes) to values of (height, width, channels of a plane)."""
        height, wide, each = len(rows), self.piece[0], self.channels // self.planes
        pieces = rows.reshape(height, self.across, self.row_bytes)
        if self.bits < 8 or self.bits % 8:
            bits = np.unpackbits(pieces, axis=2)[..., : wide * each * self.bits]
            bits = bits.reshape(height, self.across, wide * each, self.bits)
            values = np.packbits(np.pad(bits, ((0, 0),) * 3 + ((16 - self.bits, 0),)), axis=3).view(">u2")
        elif self.predictor == 3:
            sums = pieces.reshape(height, self.across, -1, each).cumsum(2, np.uint8)
            of_each = sums.reshape(height, self.across, self.bits // 8, wide * each).swapaxes(2, 3)
            values = np.ascontiguousarray(of_each).view(f">f{self.bits // 8}")
        else:
            values = pieces.view(f"{self.order}{self.kind}{self.bits // 8}")
        values = values.astype(values.dtype.newbyteorder("=")).reshape(height, self.across, wide, each)
        if self.predictor == 2:
            whole = values.view(f"u{values.itemsize}")
            values = whole.cumsum(2, whole.dtype).view(values.dtype)
        return values.reshape(height, self.across * wide, each)[:, : self.size[0]]


def _layout(tags: TiffImagePlugin.ImageFileDirectory_v2, reason: Exception | None) -> Layout:
    """Read a page's tags, or raise `UnreadLayout`; what makes no sense ends as `reason` or another exception."""
    size = (int(tags[256]), int(tags[257]))
    channels = tags.get(_SAMPLES, 1)
    bits, formats = set(_all(tags.get(_BITS, 1))[:channels]), set(_all(tags.get(_FORMAT, 1))[:channels])
    photometric, compression = tags.get(_PHOTOMETRIC, 0), tags.get(_COMPRESSION, 1)
    if len(bits) > 1 or len(formats) > 1:
        raise UnreadLayout("is a TIFF whose channels are of different types: save it with 8 or 16 bits for each.")
    (depth,), (form,) = bits, formats
    kind, called = _KINDS.get(form, ("c", "complex numbers"))
    called = f"{depth}-bit {called}"
    known = {"u": (*range(1, 17), 32, 64), "i": (8, 16, 32, 64), "f": (16, 32, 64)}
    if depth not in known.get(kind, ()):
        raise UnreadLayout(f"is a TIFF of {called}, which are not read: save it as 32-bit floats or with 16 bits.")
    if compression not in _UNPACKED:
        packed = TiffImagePlugin.COMPRESSION_INFO.get(compression, f"number {compression}").removeprefix("tiff_")
        raise UnreadLayout(
            f"is a TIFF of {called} with the compression {packed!r}, which are not read together: save it with LZW "
            "compression or none."
        )
    predictor = tags.get(_PREDICTOR, 1) if compression != _RAW else 1
    if predictor not in (1, 2, 3) or (predictor > 1 and depth % 8) or (predictor == 3 and kind != "f"):
        raise UnreadLayout(f"is a TIFF of {called} with a predictor that is not read: save it without one.")
    mode, extra = _COLOURS.get(photometric), _all(tags.get(_EXTRA, ()))
    if mode == "L" and channels > 2 and not {1, 2} & set(extra[:2]):
        mode = "RGB"  # bands, as geographic programs write and show them
    if mode is None or (mode == "CMYK" and kind != "u"):
        raise UnreadLayout(
            f"is a TIFF of {called} in the colour space number {photometric}, which are not read together: save it as "
            "RGB or gray."
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
    begins, lengths = (_all(tags.get(tag, ())) for tag in (_TILES if tiled else _STRIPS))
    pieces = math.ceil(size[0] / piece[0]) * math.ceil(size[1] / piece[1]) * planes
    if len(begins) < pieces:
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
        tuple(zip(begins[:pieces], lengths[:pieces], strict=True)),
        compression,
        predictor,
        tags.get(_FILL_ORDER, 1),
        undeclared,
        _declared(tags, kind, depth),
        _absent(tags, f"{kind}{max(depth, 16) // 8}" if depth != 8 else f"{kind}1"),
        photometric == 0,
    )


def _unpacked(data: bytes, number: int) -> Image.Image:
    page = TiffFile(BytesIO(data))
    page.seek(number)
    page.load()
    return page


def _is_mask(band: Any, height: int, channel: int) -> bool:
    """Whether at least half of a channel is its lowest or highest value, as transparency is and light is not."""
    values = np.concatenate([band(top, top + 1)[..., channel].ravel() for top in range(0, height, height // 256 + 1)])
    full = 1 if values.dtype.kind == "f" else (1 << max(int(values.max()).bit_length(), 8)) - 1
    return bool(np.isin(values, (0, full)).mean() >= 0.5)


def _declared(tags: TiffImagePlugin.ImageFileDirectory_v2, kind: str, bits: int) -> tuple[Scale, ...]:
    """The scales that a file declares: by its tags, and by how many bits it stores."""
    said = []
    for low_tag, high_tag in ((_SMIN, _SMAX), (_MIN, _MAX)):
        edges = (*_all(tags.get(low_tag, ())), *_all(tags.get(high_tag, ())))
        channels = len(edges) // 2
        low, high = edges[:channels], edges[channels:]
        if len(set(low)) == len(set(high)) == 1 and all(isinstance(edge, Number) for edge in edges) and low < high:
            said.append((float(low[0]), float(high[0])))
    if kind != "f" and bits <= 16:
        said.append((-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if kind == "i" else (0.0, 2.0**bits - 1))
    return tuple(said)


def _absent(tags: TiffImagePlugin.ImageFileDirectory_v2, dtype: str) -> tuple[float, ...]:
    """The value that geographic programs declare to stand for no data, as the picture's own type stores it."""
    try:
        with np.errstate(all="ignore"):
            value = float(str(tags.get(_NO_DATA, "")).strip("\0 "))
            stored = float(np.array(value).astype(dtype))
    except (ValueError, OverflowError):
        return ()
    return (stored,) if stored == value or dtype[0] == "f" else ()


def _all(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
