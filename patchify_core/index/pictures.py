"""The pictures of an index: a record each (`IndexedImage`), or millions of them as memory-mapped columns.

A record is a Python object of about 500 bytes; ten million of them take 5 GB and a minute to load. `PictureTable`
stores the same fields as numpy columns, about 100 bytes per picture, and creates records on access.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from patchify_core.features.extract import CROP
from patchify_core.index.recipe import Recipe

if TYPE_CHECKING:
    from patchify_core.features.maps import KeptMaps

_CHECKED_ROWS = 1 << 16
"""Pictures whose boxes are checked at a time: those of a big index are mapped, and larger than memory."""

_MAGIC = b"PFYPICT1"
_HEAD_BYTES = 24  # magic, pictures, bytes of all names
_COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("ids", "<i8", 1),
    ("sizes", "<i8", 1),
    ("ends", "<i8", 1),
    ("widths", "<i4", 1),
    ("heights", "<i4", 1),
    ("digests", "|u1", 32),
)
"""Name, dtype and width of each column, in file order; the text of the names comes last."""


@dataclass(frozen=True)
class IndexedImage:
    """One indexed gallery picture.

    Attributes:
        id: Gallery image id.
        file_name: POSIX path below the gallery's root.
        width: Upright width in pixels.
        height: Upright height in pixels.
        bytes: Size of the file.
        sha256: Digest of the file's bytes.
    """

    id: int
    file_name: str
    width: int
    height: int
    bytes: int
    sha256: str


class PictureTable(Sequence[IndexedImage]):
    """Pictures as columns: an immutable sequence of `IndexedImage`, created on access.

    Args:
        ids: (N,) int64 gallery image ids.
        widths: (N,) int32 upright widths in pixels.
        heights: (N,) int32 upright heights in pixels.
        sizes: (N,) int64 sizes of the files in bytes.
        digests: (N, 32) uint8 SHA-256 of the files.
        ends: (N,) int64 where each name ends in `text`; it begins where the previous one ends.
        text: (B,) uint8 the concatenated names in UTF-8.
        first: Where the first name begins in `text`.

    Raises:
        ValueError: The columns do not fit together.
    """

    def __init__(
        self,
        ids: NDArray[np.int64],
        widths: NDArray[np.int32],
        heights: NDArray[np.int32],
        sizes: NDArray[np.int64],
        digests: NDArray[np.uint8],
        ends: NDArray[np.int64],
        text: NDArray[np.uint8],
        first: int = 0,
    ) -> None:
        self.ids, self.widths, self.heights, self.sizes = ids, widths, heights, sizes
        self.digests, self.ends, self.text, self.first = digests, ends, text, first
        count = len(ids)
        if any(column.shape != (count,) for column in (widths, heights, sizes, ends)) or digests.shape != (count, 32):
            raise ValueError("the columns of a picture table must be of one length")
        if count and not 0 <= first <= int(ends[0]) <= int(ends[-1]) <= len(text):
            raise ValueError("the names of a picture table end where there is no text")

    @classmethod
    def of(cls, images: Sequence[IndexedImage]) -> PictureTable:
        """Convert pictures to a table; return a table unchanged."""
        if isinstance(images, PictureTable):
            return images
        names = [image.file_name.encode("utf-8", "surrogateescape") for image in images]
        digests = b"".join(bytes.fromhex(image.sha256) for image in images)
        return cls(
            np.array([image.id for image in images], np.int64),
            np.array([image.width for image in images], np.int32),
            np.array([image.height for image in images], np.int32),
            np.array([image.bytes for image in images], np.int64),
            np.frombuffer(digests, np.uint8).reshape(-1, 32),
            np.cumsum([len(name) for name in names], dtype=np.int64),
            np.frombuffer(b"".join(names), np.uint8),
        )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.ids)

    @overload
    def __getitem__(self, row: SupportsIndex) -> IndexedImage: ...

    @overload
    def __getitem__(self, row: slice) -> PictureTable: ...

    def __getitem__(self, row: SupportsIndex | slice) -> IndexedImage | PictureTable:
        """Return one picture, or a slice as a table that shares the columns.

        Raises:
            IndexError: There is no such row.
            ValueError: The slice has a step.
        """
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                raise ValueError("a picture table is sliced without a step")
            run = slice(start, max(start, stop))
            columns = {name: getattr(self, name)[run] for name, _, _ in _COLUMNS}
            return PictureTable(**columns, text=self.text, first=self._begin(start))
        at = row.__index__()
        if at < 0:
            at += len(self)
        if not 0 <= at < len(self):
            raise IndexError(f"picture {row} of {len(self)}")
        return IndexedImage(
            int(self.ids[at]),
            self.name(at),
            int(self.widths[at]),
            int(self.heights[at]),
            int(self.sizes[at]),
            self.digests[at].tobytes().hex(),
        )

    def __iter__(self) -> Iterator[IndexedImage]:
        """Iterate over the pictures."""
        for row in range(len(self)):
            yield self[row]

    def __eq__(self, other: object) -> bool:
        """Whether another sequence has the same pictures in the same order."""
        if not isinstance(other, (PictureTable, tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def name(self, row: int) -> str:
        """Return the file name of the picture in `row`, 0..N-1."""
        return bytes(self.text[self._begin(row) : int(self.ends[row])]).decode("utf-8", "surrogateescape")

    def _begin(self, row: int) -> int:
        return self.first if row == 0 else int(self.ends[row - 1])

    @cached_property
    def _order(self) -> NDArray[np.int64] | None:
        """Rows by ascending id; None if the ids ascend already, as in nearly every collection."""
        ascending = len(self) < 2 or bool((self.ids[1:] > self.ids[:-1]).all())
        return None if ascending else np.argsort(self.ids, kind="stable")

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Look up the (K,) int64 rows of ids; -1 for an unknown id."""
        ids = np.asarray(ids, np.int64)
        if not len(self):
            return np.full(ids.shape, -1, np.int64)
        order = self._order
        at = np.searchsorted(self.ids, ids, sorter=order).clip(max=len(self) - 1)
        rows = at if order is None else order[at]
        return np.where(self.ids[rows] == ids, rows, -1)


class RowOf(Mapping[int, int]):
    """Maps gallery image ids to rows by searching the table's columns."""

    def __init__(self, table: PictureTable) -> None:
        self._table = table

    def __getitem__(self, image_id: int) -> int:
        """Return the row; raise KeyError if no picture has this id."""
        try:
            row = int(self._table.rows_of(np.array([image_id], np.int64))[0])
        except (OverflowError, TypeError, ValueError):
            raise KeyError(image_id) from None
        if row < 0:
            raise KeyError(image_id)
        return row

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._table)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the ids in row order."""
        return iter(self._table.ids.tolist())


def table_pieces(tables: Sequence[PictureTable]) -> Iterator[bytes]:
    """Serialize several tables as one file, yielding one column of one table at a time.

    Args:
        tables: In row order.
    """
    count = sum(len(table) for table in tables)
    texts = [(table.first, int(table.ends[-1]) if len(table) else table.first) for table in tables]
    yield _MAGIC + count.to_bytes(8, "little") + sum(b - a for a, b in texts).to_bytes(8, "little")
    for name, kind, _ in _COLUMNS:
        moved = 0
        for table, (begin, end) in zip(tables, texts, strict=True):
            column = getattr(table, name)
            if name == "ends":
                column = column + (moved - begin)
                moved += end - begin
            yield np.ascontiguousarray(column, kind).tobytes()
    for table, (begin, end) in zip(tables, texts, strict=True):
        yield table.text[begin:end].tobytes()


def joined(tables: Sequence[PictureTable]) -> PictureTable:
    """Concatenate tables in memory."""
    return tables[0] if len(tables) == 1 else _parsed(memoryview(b"".join(table_pieces(tables))))


def read_table(file: BinaryIO) -> PictureTable:
    """Map a table from an open file, which may be closed afterwards; only accessed parts are read from disk.

    Raises:
        ValueError: The file is not a picture table.
        OSError: The file cannot be mapped.
    """
    return _parsed(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _parsed(data: mmap.mmap | memoryview) -> PictureTable:
    if len(data) < _HEAD_BYTES or bytes(data[:8]) != _MAGIC:
        raise ValueError("not a picture table")
    count, text_bytes = (int.from_bytes(bytes(data[at : at + 8]), "little") for at in (8, 16))
    expected = _HEAD_BYTES + text_bytes + count * sum(np.dtype(kind).itemsize * width for _, kind, width in _COLUMNS)
    if len(data) != expected:
        raise ValueError("not a picture table")
    columns: dict[str, Any] = {}
    at = _HEAD_BYTES
    for name, kind, width in _COLUMNS:
        column: NDArray[Any] = np.frombuffer(data, kind, count * width, at)
        columns[name] = column.reshape(count, width) if width > 1 else column
        at += column.nbytes
    if (columns["ends"][1:] < columns["ends"][:-1]).any():
        raise ValueError("not a picture table")
    return PictureTable(**columns, text=np.frombuffer(data, np.uint8, text_bytes, at))


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a store, in the order of their patches.

    Attributes:
        images: N pictures; a `PictureTable` where there are very many. A list becomes a tuple.
        root: Folder that their file names are relative to, if known.
        boxes: (N, P, 4) float32 xyxy in pixels where the regions depend on the pixels, else None.
        maps: Their feature maps, or None.

    Raises:
        ValueError: The parts do not fit together.
    """

    images: Sequence[IndexedImage]
    root: Path | None = None
    boxes: NDArray[np.float32] | None = None
    maps: KeptMaps | None = None

    def __post_init__(self) -> None:
        """Check the parts against each other."""
        if not isinstance(self.images, PictureTable):
            object.__setattr__(self, "images", tuple(self.images))
        if self.boxes is not None:
            valid = self.boxes.ndim == 3 and self.boxes.dtype == np.float32
            if not valid or (len(self.boxes), self.boxes.shape[2]) != (len(self.images), 4):
                raise ValueError("boxes that do not fit the pictures")
            for start in range(0, len(self.boxes), _CHECKED_ROWS):
                if not np.isfinite(self.boxes[start : start + _CHECKED_ROWS]).all():
                    raise ValueError("boxes that are no numbers")
        if self.maps is not None and len(self.maps) != len(self.images):
            raise ValueError("feature maps that do not fit the pictures")

    def check(self, recipe: Recipe) -> None:
        """Raise ValueError unless boxes and maps fit the recipe."""
        regions = recipe.regions
        if (self.boxes is not None) != regions.needs_picture:
            raise ValueError("boxes where there should be none, or none where they are needed")
        if self.boxes is not None and self.boxes.shape[1] != regions.patches_per_image:
            raise ValueError("boxes that do not fit the regions")
        if self.maps is not None and recipe.features == CROP:
            raise ValueError("feature maps of crops, which have none")
