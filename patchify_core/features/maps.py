"""Feature maps stored in an index, so that boxes can be refined without running the network again.

The last map of a network that ends in a rectifier is sparse: 94 % of EfficientNet-Lite's values are 0. Values are
quantised to 8 bits over the map's range and compressed by zlib, about 35 KB for 20 x 15 cells of 1280 channels. That is
less than a projection to 256 dimensions in 8 bits, and loses only the rounding. A thumbnail of about 10 KB is stored
with each map, for the object's outline.
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
"""Side of the square thumbnail in pixels, whatever the picture's shape.

Pictures with a smaller side get the small one, as all did in earlier versions: enlarging would amplify pixel noise.
"""

_HEAD = struct.Struct("<HHHffI")  # height, width, channels, lowest value, step, bytes of the thumbnail
_MAGIC = b"PFYMAPS1"
_MOST_CELLS = 1 << 26  # cells x channels of a map; 73 x 73 cells of 1024 channels are a twelfth of it
_LEVELS = 255
_LARGEST = float(np.finfo(np.float32).max)
_QUALITY = {THUMBNAIL: 85, SMALL_THUMBNAIL: 90}  # JPEG quality of a thumbnail by its side; there are no other sides
_KEEPS_OPEN = hasattr(os, "pread")  # everywhere but on Windows


@dataclass(frozen=True, eq=False)
class PictureMap:
    """A picture's feature map and thumbnail.

    Attributes:
        cells: (h, w, C) float32, the feature map.
        thumbnail: (S, S, 3) uint8 RGB, the picture squashed to a square, S = THUMBNAIL or SMALL_THUMBNAIL.
    """

    cells: NDArray[np.float32]
    thumbnail: NDArray[np.uint8]


def thumbnail(picture: Image) -> NDArray[np.uint8]:
    """Resize a picture to (S, S, 3) uint8 RGB, S = THUMBNAIL or SMALL_THUMBNAIL."""
    from PIL.Image import Resampling

    side = THUMBNAIL if min(picture.size) >= THUMBNAIL else SMALL_THUMBNAIL
    return np.asarray(picture.resize((side, side), Resampling.BOX, reducing_gap=3.0))


def pack(kept: PictureMap) -> bytes:
    """Encode a map (quantised to 256 levels) and its thumbnail (JPEG) as bytes."""
    from PIL import Image

    height, width, channels = kept.cells.shape
    low, high = float(kept.cells.min()), float(kept.cells.max())
    step = float(np.float32((high - low) / _LEVELS)) or 1.0  # also 0 if it underflows single precision
    levels = np.rint((kept.cells - np.float32(low)) / np.float32(step)).astype(np.uint8)
    small = io.BytesIO()
    Image.fromarray(kept.thumbnail).save(small, "JPEG", quality=_QUALITY[len(kept.thumbnail)], subsampling=0)
    jpeg = small.getvalue()
    return _HEAD.pack(height, width, channels, low, step, len(jpeg)) + jpeg + zlib.compress(levels.tobytes())


def packed_shape(data: bytes) -> tuple[int, int, int]:
    """Read (h, w, C) of a packed map from its header.

    Raises:
        ValueError: If it is not a packed map, or implausibly large.
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
        # Not Image.open(): its size limit is a warning, or an error that is no ValueError.
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data[_HEAD.size : start])) as image:
            if image.size not in [(side, side) for side in _QUALITY] or image.mode != "RGB":
                raise ValueError("not a thumbnail")
            small = np.asarray(image)
        count = height * width * channels
        unpacker = zlib.decompressobj()
        levels = np.frombuffer(unpacker.decompress(data[start:], count + 1), np.uint8)  # bounded output
        if len(levels) != count or not unpacker.eof or not abs(low) + _LEVELS * abs(step) < _LARGEST:
            raise ValueError("not a feature map")
    except ValueError:
        raise
    except Exception as error:  # decoders fail in many ways on malformed bytes
        raise ValueError("not a feature map") from error
    # A table of 256 values: one look-up per value, and zeros stay exactly 0.
    values = (np.float32(low) + np.arange(_LEVELS + 1, dtype=np.float32) * np.float32(step)).astype(np.float32)
    return PictureMap(values[levels].reshape(height, width, channels), small)


class KeptMaps:
    """The packed maps of an index in the order of its pictures, read from disk on demand.

    The file stays open, so that an open index keeps reading its own file after a build has replaced it. Windows does
    not allow replacing an open file; there the file is opened for each map, and rejected if it has been replaced.

    Args:
        path: A file by `write_maps`.
        opened: The same file if it is open already; it may be closed afterwards.

    Raises:
        ValueError: If it is not such a file.
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
        """Return the number of pictures."""
        return len(self._ends) - 1

    @property
    def size(self) -> int:
        """Total size of all maps in bytes."""
        return int(self._ends[-1] - self._ends[0])

    def packed(self, row: int) -> bytes:
        """Read the packed map of the picture in `row`.

        Raises:
            OSError: If the file cannot be read, or, where it is not kept open, has vanished or been replaced.
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
        """Read and unpack the map of the picture in `row`; errors: see `packed` and `unpack`."""
        return unpack(self.packed(row))


class PackedMaps(Protocol):
    """Packed maps of many pictures by row, e.g. `KeptMaps`."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def packed(self, row: int) -> bytes:
        """Return the packed map of the picture in `row`."""
        ...


def write_maps(maps: PackedMaps, path: Path) -> None:
    """Write packed maps into a file, with one in memory at a time.

    Raises:
        OSError: If it cannot be written.
    """
    with open(path, "wb") as file:
        write_maps_to(file, (maps.packed(row) for row in range(len(maps))), len(maps))


def write_maps_to(file: BinaryIO, maps: Iterable[bytes], count: int) -> None:
    """Write packed maps into an empty open file.

    Args:
        file: Open for writing, seekable.
        maps: The packed maps, in the order of the pictures.
        count: Number of maps.

    Raises:
        OSError: If it cannot be written.
    """
    start = len(_MAGIC) + 8 * (count + 2)
    ends = [start]
    file.seek(start)  # the table of offsets is written last
    for data in maps:
        file.write(data)
        ends.append(ends[-1] + len(data))
    file.seek(0)
    file.write(_MAGIC + count.to_bytes(8, "little") + np.array(ends, "<u8").tobytes())
