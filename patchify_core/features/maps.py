"""Feature maps kept beside an index, so that a box can be searched for later without a second pass of the network.

The last map of a network that ends in a rectifier is nearly empty: of EfficientNet-Lite's cells 94 % are 0. Values
are rounded to 8 bits over the map's own range and packed by zlib, which takes some 35 KB for 20 x 15 cells of 1280
channels, less than a projection to 256 dimensions in 8 bits would, and loses only the rounding. Beside the map stands
a thumbnail, some 10 KB, in which an object's outline is looked for.
"""

from __future__ import annotations

import io
import os
import struct
import weakref
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL, SMALL_THUMBNAIL = 192, 96
"""Side of the thumbnail in pixels, whatever the picture's shape: positions in it are fractions of the picture.

A picture with a smaller side gets a small one, as all did in earlier versions: enlarged, the noise of its pixels would
be larger than what ends at them.
"""

_HEAD = struct.Struct("<HHHffI")  # height, width, channels, lowest value, step, bytes of the thumbnail
_MAGIC = b"PFYMAPS1"
_MOST_CELLS = 1 << 26  # x channels, of a map; a map of 73 x 73 cells of 1024 channels has a twelfth of it
_LEVELS = 255
_LARGEST = float(np.finfo(np.float32).max)
_QUALITY = {THUMBNAIL: 85, SMALL_THUMBNAIL: 90}  # of a thumbnail's JPEG, by its side: there are no other sides
_KEEPS_OPEN = hasattr(os, "pread")  # everywhere but on Windows


@dataclass(frozen=True, eq=False)
class PictureMap:
    """What is kept of a picture.

    Attributes:
        cells: (h, w, C) float32, its feature map.
        thumbnail: (S, S, 3) uint8 RGB, the picture squashed to a square, S = THUMBNAIL or SMALL_THUMBNAIL.
    """

    cells: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]


def thumbnail(picture: Image) -> NDArray[np.uint8]:
    """The picture squashed to (S, S, 3) uint8 RGB, S = THUMBNAIL or SMALL_THUMBNAIL."""
    from PIL.Image import Resampling

    side = THUMBNAIL if min(picture.size) >= THUMBNAIL else SMALL_THUMBNAIL
    return np.asarray(picture.resize((side, side), Resampling.BOX, reducing_gap=3.0))


def pack(kept: PictureMap) -> bytes:
    """A map and its thumbnail as bytes. Values are rounded to 256 levels, the thumbnail is a JPEG."""
    from PIL import Image

    height, width, channels = kept.cells.shape
    low, high = float(kept.cells.min()), float(kept.cells.max())
    step = float(np.float32((high - low) / _LEVELS)) or 1.0  # 0 too where single precision has no number so small
    levels = np.rint((kept.cells - np.float32(low)) / np.float32(step)).astype(np.uint8)
    small = io.BytesIO()
    Image.fromarray(kept.thumbnail).save(small, "JPEG", quality=_QUALITY[len(kept.thumbnail)], subsampling=0)
    jpeg = small.getvalue()
    return _HEAD.pack(height, width, channels, low, step, len(jpeg)) + jpeg + zlib.compress(levels.tobytes())


def packed_shape(data: bytes) -> tuple[int, int, int]:
    """(h, w, C) of a packed map as its head says, without unpacking it.

    Raises:
        ValueError: If it is no such map, or would be larger than any.
    """
    if len(data) < _HEAD.size:
        raise ValueError("not a feature map")
    height, width, channels, *_ = _HEAD.unpack_from(data)
    if not 0 < height * width * channels <= _MOST_CELLS:
        raise ValueError("not a feature map")
    return height, width, channels


def unpack(data: bytes) -> PictureMap:
    """Read what `pack` wrote.

    Raises:
        ValueError: If it is something else.
    """
    from PIL import JpegImagePlugin

    height, width, channels = packed_shape(data)
    try:
        *_, low, step, size = _HEAD.unpack_from(data)
        start = _HEAD.size + size
        # Not Image.open(): its own limit on sizes comes as a warning, or as an error that is no ValueError.
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data[_HEAD.size : start])) as image:
            if image.size not in [(side, side) for side in _QUALITY] or image.mode != "RGB":
                raise ValueError("not a thumbnail")
            small = np.asarray(image)
        count = height * width * channels
        unpacker = zlib.decompressobj()
        levels = np.frombuffer(unpacker.decompress(data[start:], count + 1), np.uint8)  # never more than expected
        if len(levels) != count or not unpacker.eof or not abs(low) + _LEVELS * abs(step) < _LARGEST:
            raise ValueError("not a feature map")
    except ValueError:
        raise
    except Exception as error:  # decoders have many ways to say that bytes make no sense (see `pictures`)
        raise ValueError("not a feature map") from error
    # A table of 256 values: one look-up a cell, and what was 0 is 0 again.
    values = (np.float32(low) + np.arange(_LEVELS + 1, dtype=np.float32) * np.float32(step)).astype(np.float32)
    return PictureMap(values[levels].reshape(height, width, channels), small)


class KeptMaps:
    """The packed maps of an index, in the order of its pictures; read from disk one at a time.

    The file stays open, so that whoever opened an index reads on in its own file when a build has put a new one in its
    place. Windows would not let the build do that; there the file is opened for each map, and is refused if it is
    another one by then.

    Args:
        path: File that `write_maps` wrote.
        opened: The same file open, where it was opened before (to be checked); it may be closed afterwards.

    Raises:
        ValueError: If it is something else.
        OSError: If it cannot be read.
    """

    def __init__(self, path: Path, opened: BinaryIO | None = None) -> None:
        self.path = path
        if opened is not None:
            self._open(opened)
        else:
            with open(path, "rb") as file:
                self._open(file)

    def _open(self, file: BinaryIO) -> None:
        file.seek(0)
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("not a file of maps")
        count = int.from_bytes(file.read(8), "little")
        state = os.fstat(file.fileno())
        size = state.st_size
        if count >= size // 8:
            raise ValueError("not a file of maps")
        self._ends = np.frombuffer(file.read(8 * (count + 1)), "<u8").astype(np.int64)
        start = len(_MAGIC) + 8 * (count + 2)
        whole = len(self._ends) == count + 1 and self._ends[0] == start and self._ends[-1] == size
        if not whole or (np.diff(self._ends) <= 0).any():
            raise ValueError("not a file of maps")
        self._written = state.st_size, state.st_mtime_ns
        self._handle: int | None = None
        if _KEEPS_OPEN:
            self._handle = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._handle)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._ends) - 1

    @property
    def size(self) -> int:
        """Bytes of all maps."""
        return int(self._ends[-1] - self._ends[0])

    def packed(self, row: int) -> bytes:
        """The packed map of the picture in `row`.

        Raises:
            OSError: If the file cannot be read, or has vanished or become another one where it is not kept open.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"map {row} of {len(self)}")
        start, size = int(self._ends[row]), int(self._ends[row + 1] - self._ends[row])
        if self._handle is not None:
            return os.pread(self._handle, size, start)
        with open(self.path, "rb") as file:
            state = os.fstat(file.fileno())
            if (state.st_size, state.st_mtime_ns) != self._written:
                raise OSError(f"{self.path} is not the file that was opened")
            file.seek(start)
            return file.read(size)

    def __getitem__(self, row: int) -> PictureMap:
        """The map of the picture in `row`; see `unpack` for what it raises."""
        return unpack(self.packed(row))


class PackedMaps(Protocol):
    """Packed maps of many pictures, by row; `KeptMaps` is one."""

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def packed(self, row: int) -> bytes:
        """The packed map of the picture in `row`."""
        ...


def write_maps(maps: PackedMaps, path: Path) -> None:
    """Write packed maps into one file, holding one at a time.

    Raises:
        OSError: If it cannot be written.
    """
    with open(path, "wb") as file:
        write_maps_to(file, (maps.packed(row) for row in range(len(maps))), len(maps))


def write_maps_to(file: BinaryIO, maps: Iterable[bytes], count: int) -> None:
    """Write packed maps into an empty open file.

    Args:
        file: Open for writing bytes.
        maps: The packed maps, in the order of the pictures.
        count: How many there are.

    Raises:
        OSError: If it cannot be written.
    """
    start = len(_MAGIC) + 8 * (count + 2)
    ends = [start]
    file.seek(start)  # the table of contents is known last
    for data in maps:
        file.write(data)
        ends.append(ends[-1] + len(data))
    file.seek(0)
    file.write(_MAGIC + count.to_bytes(8, "little") + np.array(ends, "<u8").tobytes())
