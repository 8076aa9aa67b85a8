"""Feature maps kept beside an index, so that a box can be searched for later without a second pass of the network.

The last map of a network that ends in a rectifier is nearly empty: of EfficientNet-Lite's cells 94 % are 0. Values
are rounded to 8 bits over the map's own range and packed by zlib, which takes some 35 KB for 20 x 15 cells of 1280
channels, less than a projection to 256 dimensions in 8 bits would, and loses only the rounding. Beside the map stands
a thumbnail, in which an object's outline is looked for.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.digests import sha256_of_file

if TYPE_CHECKING:
    from PIL.Image import Image

THUMBNAIL = 96
"""Side of the thumbnail in pixels, whatever the picture's shape: positions in it are fractions of the picture."""

_HEAD = struct.Struct("<HHHffI")  # height, width, channels, lowest value, step, bytes of the thumbnail
_MAGIC = b"PFYMAPS1"
_LEVELS = 255
_LARGEST = float(np.finfo(np.float32).max)
_QUALITY = 90  # of the thumbnail's JPEG


@dataclass(frozen=True, eq=False)
class PictureMap:
    """What is kept of a picture.

    Attributes:
        cells: (h, w, C) float32, its feature map.
        thumbnail: (THUMBNAIL, THUMBNAIL, 3) uint8 RGB, the picture squashed to a square.
    """

    cells: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]


def thumbnail(picture: Image) -> NDArray[np.uint8]:
    """The picture squashed to (THUMBNAIL, THUMBNAIL, 3) uint8 RGB."""
    from PIL.Image import Resampling

    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Resampling.BOX, reducing_gap=3.0))


def pack(kept: PictureMap) -> bytes:
    """A map and its thumbnail as bytes. Values are rounded to 256 levels, the thumbnail is a JPEG."""
    from PIL import Image

    height, width, channels = kept.cells.shape
    low, high = float(kept.cells.min()), float(kept.cells.max())
    step = float(np.float32((high - low) / _LEVELS)) or 1.0  # 0 too where single precision has no number so small
    levels = np.rint((kept.cells - np.float32(low)) / np.float32(step)).astype(np.uint8)
    small = io.BytesIO()
    Image.fromarray(kept.thumbnail).save(small, "JPEG", quality=_QUALITY, subsampling=0)
    jpeg = small.getvalue()
    return _HEAD.pack(height, width, channels, low, step, len(jpeg)) + jpeg + zlib.compress(levels.tobytes())


def unpack(data: bytes) -> PictureMap:
    """Reads what `pack` wrote.

    Raises:
        ValueError: if it is something else.
    """
    from PIL import JpegImagePlugin

    try:
        height, width, channels, low, step, size = _HEAD.unpack_from(data)
        start = _HEAD.size + size
        # Not Image.open(): its own limit on sizes comes as a warning, or as an error that is no ValueError.
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data[_HEAD.size : start])) as image:
            if image.size != (THUMBNAIL, THUMBNAIL) or image.mode != "RGB":
                raise ValueError("not a thumbnail")
            small = np.asarray(image)
        count = height * width * channels
        unpacker = zlib.decompressobj()
        levels = np.frombuffer(unpacker.decompress(data[start:], count + 1), np.uint8)  # never more than expected
        if len(levels) != count or count == 0 or not unpacker.eof or not abs(low) + _LEVELS * abs(step) < _LARGEST:
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

    Args:
        path: file that `write_maps` wrote.

    Raises:
        ValueError: if it is something else.
        OSError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        """Reads the table of contents alone."""
        self.path = path
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("not a file of maps")
            count = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if count >= size // 8:
                raise ValueError("not a file of maps")
            self._ends = np.frombuffer(file.read(8 * (count + 1)), "<u8").astype(np.int64)
        start = len(_MAGIC) + 8 * (count + 2)
        whole = len(self._ends) == count + 1 and self._ends[0] == start and self._ends[-1] == size
        if not whole or (np.diff(self._ends) <= 0).any():
            raise ValueError("not a file of maps")

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
            OSError: if the file has vanished.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"map {row} of {len(self)}")
        with open(self.path, "rb") as file:
            file.seek(int(self._ends[row]))
            return file.read(int(self._ends[row + 1] - self._ends[row]))

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


def write_maps(maps: PackedMaps, path: Path) -> tuple[int, str]:
    """Writes packed maps into one file, holding one at a time.

    Returns:
        The file's size in bytes and its SHA-256.

    Raises:
        OSError: if it cannot be written.
    """
    start = len(_MAGIC) + 8 * (len(maps) + 2)
    ends = [start]
    with open(path, "wb+") as file:
        file.seek(start)  # the table of contents is known last
        for row in range(len(maps)):
            data = maps.packed(row)
            file.write(data)
            ends.append(ends[-1] + len(data))
        file.seek(0)
        file.write(_MAGIC + len(maps).to_bytes(8, "little") + np.array(ends, "<u8").tobytes())
    return ends[-1], sha256_of_file(path)
