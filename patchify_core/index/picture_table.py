"""The pictures of an index: one as a record, and millions of them as columns that can be mapped from disk.

A record is a Python object of some 500 bytes; ten million of them are 5 GB and a minute of loading. `PictureTable`
keeps the same facts as numpy columns, some 100 bytes per picture, and makes a record of a picture when it is asked for.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

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
"""Name, type and numbers per picture of each column, in the order of the file; the names' text comes last."""


@dataclass(frozen=True)
class IndexedImage:
    """One gallery picture as the index knows it.

    Attributes:
        id: gallery image id.
        file_name: POSIX path below the gallery's root.
        width: upright width in pixels.
        height: upright height in pixels.
        bytes: size of the file.
        sha256: digest of the file's bytes.
    """

    id: int
    file_name: str
    width: int
    height: int
    bytes: int
    sha256: str


class PictureTable(Sequence[IndexedImage]):
    """Pictures as columns: a sequence of `IndexedImage`, each made when it is asked for. Not to be changed.

    Args:
        ids: (N,) int64 gallery image ids.
        widths: (N,) int32 upright widths in pixels.
        heights: (N,) int32 upright heights in pixels.
        sizes: (N,) int64 sizes of the files in bytes.
        digests: (N, 32) uint8 SHA-256 of the files.
        ends: (N,) int64 where each name ends in `text`; it begins where the one before ends.
        text: (B,) uint8 the names in UTF-8, one after the other.
        first: where the first name begins in `text`.

    Raises:
        ValueError: if the columns do not fit together.
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
        """The same pictures as a table; a table as it is."""
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

    @classmethod
    def made(
        cls,
        ids: NDArray[np.int64],
        names: Sequence[str],
        size: tuple[int, int],
        *,
        sizes: NDArray[np.int64] | None = None,
        digests: NDArray[np.uint8] | None = None,
    ) -> PictureTable:
        """A table of pictures of one size in pixels; bytes and digests are 0 where they are not known."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        count = len(encoded)
        return cls(
            np.asarray(ids, np.int64),
            np.full(count, size[0], np.int32),
            np.full(count, size[1], np.int32),
            np.zeros(count, np.int64) if sizes is None else np.asarray(sizes, np.int64),
            np.zeros((count, 32), np.uint8) if digests is None else digests,
            np.cumsum([len(name) for name in encoded], dtype=np.int64),
            np.frombuffer(b"".join(encoded), np.uint8),
        )

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.ids)

    @overload
    def __getitem__(self, row: SupportsIndex) -> IndexedImage: ...

    @overload
    def __getitem__(self, row: slice) -> PictureTable: ...

    def __getitem__(self, row: SupportsIndex | slice) -> IndexedImage | PictureTable:
        """One picture, or a run of them as a table that shares the columns.

        Raises:
            IndexError: if there is no such row.
            ValueError: if the slice has a step.
        """
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            if step != 1:
                raise ValueError("a picture table is sliced without a step")
            stop = max(start, stop)
            run = slice(start, stop)
            return PictureTable(
                self.ids[run],
                self.widths[run],
                self.heights[run],
                self.sizes[run],
                self.digests[run],
                self.ends[run],
                self.text,
                self._begin(start),
            )
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
        """The pictures, each made as its turn comes."""
        for row in range(len(self)):
            yield self[row]

    def __eq__(self, other: object) -> bool:
        """Whether another sequence holds the same pictures in the same order."""
        if not isinstance(other, (PictureTable, tuple, list)):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def name(self, row: int) -> str:
        """The file name of the picture in `row`, 0..N-1."""
        return bytes(self.text[self._begin(row) : int(self.ends[row])]).decode("utf-8", "surrogateescape")

    def _begin(self, row: int) -> int:
        return self.first if row == 0 else int(self.ends[row - 1])

    @cached_property
    def _order(self) -> NDArray[np.int64] | None:
        """Rows by ascending id; None where they stand so already, as in nearly every collection."""
        return (
            None if len(self) < 2 or bool((self.ids[1:] > self.ids[:-1]).all()) else np.argsort(self.ids, kind="stable")
        )

    def rows_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """(K,) int64 rows of these ids, -1 for an id that no picture has."""
        ids = np.asarray(ids, np.int64)
        if not len(self):
            return np.full(ids.shape, -1, np.int64)
        order = self._order
        at = np.searchsorted(self.ids, ids, sorter=order).clip(max=len(self) - 1)
        rows = at if order is None else order[at]
        return np.where(self.ids[rows] == ids, rows, -1)

    def nbytes(self) -> int:
        """Bytes of all columns and names."""
        return sum(int(column.nbytes) for column in self._columns()) + len(self.text)

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.ids, self.widths, self.heights, self.sizes, self.digests, self.ends


class RowOf(Mapping[int, int]):
    """Row of each gallery image id, looked up in the table's columns instead of a dictionary."""

    def __init__(self, table: PictureTable) -> None:
        self._table = table

    def __getitem__(self, image_id: int) -> int:
        """The row; raises KeyError where no picture has this id."""
        try:
            row = int(self._table.rows_of(np.array([image_id], np.int64))[0])
        except (OverflowError, TypeError, ValueError):
            raise KeyError(image_id) from None
        if row < 0:
            raise KeyError(image_id)
        return row

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._table)

    def __iter__(self) -> Iterator[int]:
        """The ids in the order of the rows."""
        return iter(self._table.ids.tolist())


def table_pieces(tables: Sequence[PictureTable]) -> Iterator[bytes]:
    """The file of several tables as one, a column of a table at a time, so that no more than that is held.

    Args:
        tables: in the order of the rows.
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
    """Several tables as one, in memory."""
    return tables[0] if len(tables) == 1 else _parsed(memoryview(b"".join(table_pieces(tables))))


def read_table(file: BinaryIO) -> PictureTable:
    """Maps a table from an open file: only what is looked at is read from the disk. The file may be closed afterwards.

    Raises:
        ValueError: if it is something else.
        OSError: if it cannot be mapped.
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
