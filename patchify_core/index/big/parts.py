"""A part of a big index: some hundred thousand pictures, coded and sorted by list, whole on the disk or not there.

Its files are what the finished index is put together from: `codes` and `ids` sorted by list, `counts` of each list,
`lists` (which list each patch is in) or `fine` (finer codes) in the order of the patches, and `pictures`. A JSON file
with their digests is written last; a part without it does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.files import write_json
from patchify_core.index.big.learned import Learned
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import Digests, is_whole
from patchify_core.index.picture_table import PictureTable, joined, read_table, write_tables
from patchify_core.index.shards.stream import PictureStream

READ_BYTES = 1 << 28
"""Of descriptors that are read from the stream at a time."""

CODED_PATCHES = 1 << 18
"""Patches that are assigned to lists and coded at a time: enough of them for each cell."""


class HashedFile:
    """A file that is written from its beginning to its end, and the digests of what was written."""

    def __init__(self, path: Path) -> None:
        """Makes the file anew."""
        self._file: BinaryIO = open(path, "wb")
        self.digests = Digests()

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes.

        Raises:
            OSError: if the disk is full.
        """
        self._file.write(data)
        self.digests.update(data)  # type: ignore[arg-type]

    def close(self) -> dict[str, Any]:
        """Closes it; returns its entry for `meta.json`."""
        self._file.close()
        return self.digests.listed()

    def __enter__(self) -> HashedFile:
        """The file itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it."""
        self._file.close()


@dataclass(frozen=True, eq=False)
class IndexPart:
    """A part that stands on the disk.

    Attributes:
        path: of its files, without their suffixes.
        first: its first picture.
        pictures: how many it has.
        patches: of each picture.
    """

    path: Path
    first: int
    pictures: int
    patches: int

    def file(self, suffix: str) -> Path:
        """One of its files."""
        return self.path.with_suffix(f".{suffix}")

    def mapped(self, suffix: str, kind: str) -> NDArray[Any]:
        """One of its files as numbers, mapped."""
        return np.memmap(self.file(suffix), kind, "r")

    def table(self) -> PictureTable:
        """Its pictures, mapped."""
        with open(self.file("pictures"), "rb") as file:
            return read_table(file)

    @classmethod
    def standing(cls, path: Path, first: int, pictures: int, patches: int) -> IndexPart | None:
        """The part if it is there and whole, by its digests; else None."""
        try:
            listed = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if (listed["first"], listed["pictures"]) != (first, pictures):
                return None
            for suffix, entry in listed["files"].items():
                with open(path.with_suffix(f".{suffix}"), "rb") as file:
                    if not is_whole(file, entry):
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(path, first, pictures, patches)


def write_part(
    path: Path,
    stream: PictureStream,
    first: int,
    pictures: int,
    learned: Learned,
    passed: Callable[[int], None] = lambda pictures: None,
) -> IndexPart:
    """Codes a run of pictures and writes it.

    Args:
        path: of the files, without their suffixes.
        stream: the collection.
        first: first picture of the run.
        pictures: how many.
        learned: what codes are made with.
        passed: told how many pictures more are coded.

    Raises:
        OSError: if it cannot be written.
    """
    patches = stream.regions.patches_per_image
    every = pictures * patches
    kind = list_kind(len(learned.lists))
    lists = np.empty(every, kind)
    codes = np.empty((every, len(learned.quantizer)), np.uint8)
    coder, tables, files = learned.product_quantizer(), [], {}
    at = 0
    with HashedFile(path.with_suffix(".fine")) as fine:
        for table, vectors in batches(stream, first, pictures, learned.projection, learned.dim):
            tables.append(table)
            here = slice(at, at + len(vectors))
            found = learned.lists.assign(vectors)
            lists[here] = found
            if learned.fine is not None:
                fine.write(np.asarray(learned.fine.sa_encode(vectors)).data.cast("B"))
            vectors -= learned.lists.centroids[found]
            codes[here] = coder.compute_codes(vectors)
            at += len(vectors)
            passed(len(table))
        files["fine"] = fine.close()
    order = np.argsort(lists, kind="stable").astype(np.uint32)  # ids stay in ascending order within a list
    counts = np.bincount(lists, minlength=len(learned.lists)).astype("<u4")
    columns: dict[str, NDArray[Any]] = {"lists": lists, "counts": counts, "ids": order.astype("<u4")}
    for suffix, column in columns.items():
        with HashedFile(path.with_suffix(f".{suffix}")) as file:
            file.write(column.data.cast("B"))
            files[suffix] = file.close()
    with HashedFile(path.with_suffix(".codes")) as file:
        for start in range(0, every, CODED_PATCHES):
            file.write(codes[order[start : start + CODED_PATCHES]].data.cast("B"))
        files["codes"] = file.close()
    with HashedFile(path.with_suffix(".pictures")) as file:
        write_tables(tables, file)
        files["pictures"] = file.close()
    write_json(path.with_suffix(".json"), {"first": first, "pictures": pictures, "files": files})
    return IndexPart(path, first, pictures, patches)


def list_kind(lists: int) -> str:
    """The type that a list's number is kept as."""
    return "<u2" if lists <= 1 << 16 else "<u4"


def batches(
    stream: PictureStream, first: int, pictures: int, projection: Projection | None, dim: int
) -> Iterator[tuple[PictureTable, NDArray[np.float32]]]:
    """Yields (pictures, (n, dim) projected descriptors) that are enough at a time for `Lists.assign` to be fast."""
    patches = stream.regions.patches_per_image
    raw = stream.dim
    read = max(1, min(READ_BYTES // (4 * raw), CODED_PATCHES) // patches)
    coded = max(1, CODED_PATCHES // patches)
    for start in range(first, first + pictures, coded):
        stop = min(start + coded, first + pictures)
        vectors = np.empty(((stop - start) * patches, dim), np.float32)
        for begin in range(start, stop, read):
            end = min(begin + read, stop)
            table, found = stream.batch(begin, end)
            found = found.reshape(-1, raw)
            rows = slice((begin - start) * patches, (end - start) * patches)
            vectors[rows] = found if projection is None else projection(found)
            if begin == start:
                tables = [table]
            else:
                tables.append(table)
        yield tables[0] if len(tables) == 1 else joined(tables), vectors
