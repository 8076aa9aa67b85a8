"""A big index in parts, and the files that are put together from them.

A part is some hundred thousand pictures, coded and sorted by list, whole on the disk or not there. Its files: `codes`
and `ids` sorted by list, `counts` of each list, `lists` (which list each patch is in) or `fine` (finer codes) in the
order of the patches, and `pictures`. The journal gets a line with their digests last; a part without it does not exist.

Every file of the index is read and written from its beginning to its end. `index.faiss` is FAISS's own format, byte for
byte what FAISS would write of the same index; but the codes never are in memory together: a run of lists is taken from
every part, put in order, and written.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.gallery import Progress
from patchify_core.index.big.learned import Coder, Learned
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import is_whole, npy_head, write_listed
from patchify_core.index.pictures import PictureTable, joined, read_table, table_pieces
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder

if TYPE_CHECKING:
    import faiss

READ_BYTES = 1 << 28
"""Of descriptors that are read from the stream at a time."""

CODED_PATCHES = 1 << 18
"""Patches that are assigned to lists and coded at a time: enough of them for each cell."""

RUN_BYTES = 1 << 27
"""Of codes and ids that are put in order at a time."""


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
    def finished(
        cls, work: BuildFolder, number: int, first: int, pictures: int, learned: str, patches: int
    ) -> IndexPart | None:
        """The part of this number if it is finished and whole, by its digests, and coded with `learned`; else None."""
        path = part_path(work, number)
        try:
            listed = work.finished(path.name)
            if (listed["first"], listed["pictures"], listed["learned"]) != (first, pictures, learned):
                return None
            for suffix, entry in listed["files"].items():
                with open(path.with_suffix(f".{suffix}"), "rb") as file:
                    if not is_whole(file, entry):
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(path, first, pictures, patches)


def part_path(work: BuildFolder, number: int) -> Path:
    """Where the files of a part are, without their suffixes."""
    return work.folder / f"part-{number:05d}"


def all_parts(
    stream: PictureStream, work: BuildFolder, learned: Learned, size: int, progress: Progress
) -> tuple[list[IndexPart], int, float]:
    """Codes all parts that are not finished yet.

    Args:
        stream: the collection.
        work: where the parts are.
        learned: what codes are made with; it was saved there.
        size: pictures of a part.
        progress: called with (pictures coded, pictures in all).

    Returns:
        The parts, how many pictures were coded now, and in how many seconds.

    Raises:
        OSError: if one cannot be written.
    """
    patches, total = stream.regions.patches_per_image, len(stream)
    parts, coded, seconds, done = [], 0, 0.0, 0

    def passed(pictures: int) -> None:
        nonlocal done
        done += pictures
        progress(done, total)

    for number, first in enumerate(range(0, total, size)):
        pictures = min(size, total - first)
        part = IndexPart.finished(work, number, first, pictures, learned.digest, patches)
        if part is None:
            start, path = time.perf_counter(), part_path(work, number)
            files = _write_part(path, stream, first, pictures, learned, passed)
            line = {"piece": path.name, "first": first, "pictures": pictures, "learned": learned.digest}
            work.journal.add(line | {"files": files})
            part = IndexPart(path, first, pictures, patches)
            seconds += time.perf_counter() - start
            coded += pictures
        else:
            passed(pictures)
        parts.append(part)
    return parts, coded, seconds


def _write_part(
    path: Path,
    stream: PictureStream,
    first: int,
    pictures: int,
    learned: Learned,
    passed: Callable[[int], None],
) -> dict[str, Any]:
    """Codes a run of pictures and writes its files; returns their entries by suffix.

    Where nothing but finer codes were learned, they are the only file.
    """
    patches, coder = stream.regions.patches_per_image, learned.coder
    every = pictures * patches
    lists, codes = np.empty(0, "<u2"), np.empty((0, 0), np.uint8)
    if coder is not None:
        quantizer = coder.product_quantizer()
        lists = np.empty(every, list_kind(len(coder.lists)))
        codes = np.empty((every, len(coder.quantizer)), np.uint8)
    tables = []

    def coded() -> Iterator[memoryview]:
        """Codes everything, and yields the finer codes as they come."""
        at = 0
        for table, vectors in batches(stream, first, pictures, learned.projection, learned.dim):
            tables.append(table)
            here = slice(at, at + len(vectors))
            if learned.fine is not None:
                yield np.asarray(learned.fine.sa_encode(vectors)).data.cast("B")
            if coder is not None:
                found = coder.lists.assign(vectors)
                lists[here] = found
                vectors -= coder.lists.centroids[found]
                codes[here] = quantizer.compute_codes(vectors)
            at += len(vectors)
            passed(len(table))

    files = {"fine": write_listed(path.with_suffix(".fine"), coded())}
    if coder is None:
        return files
    order = np.argsort(lists, kind="stable").astype(np.uint32)  # ids stay in ascending order within a list
    counts = np.bincount(lists, minlength=len(coder.lists)).astype("<u4")
    runs = range(0, every, CODED_PATCHES)
    columns: dict[str, Iterable[bytes | memoryview]] = {
        "lists": [lists.data.cast("B")],
        "counts": [counts.data.cast("B")],
        "ids": [order.astype("<u4").data.cast("B")],
        "codes": (codes[order[start : start + CODED_PATCHES]].data.cast("B") for start in runs),
        "pictures": table_pieces(tables),
    }
    return files | {suffix: write_listed(path.with_suffix(f".{suffix}"), data) for suffix, data in columns.items()}


def list_kind(lists: int) -> str:
    """The type that a list's number is stored as."""
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
        vectors, tables = np.empty(((stop - start) * patches, dim), np.float32), []
        for begin in range(start, stop, read):
            end = min(begin + read, stop)
            table, found = stream.batch(begin, end)
            found = found.reshape(-1, raw)
            rows = slice((begin - start) * patches, (end - start) * patches)
            vectors[rows] = found if projection is None else projection(found)
            tables.append(table)
        yield joined(tables), vectors


def lists_pieces(parts: Sequence[IndexPart], coder: Coder, probes: int) -> Iterator[bytes | memoryview]:
    """The file `index.faiss`.

    Args:
        parts: in the order of their pictures.
        coder: what they were coded with.
        probes: lists that a search visits.
    """
    import faiss

    counts = np.stack([part.mapped("counts", "<u4") for part in parts]).astype(np.int64)
    sizes = counts.sum(axis=0)
    index: Any = coder.empty_index()
    index.ntotal, index.nprobe = int(sizes.sum()), probes
    index.replace_invlists(None, False)
    head = faiss.serialize_index(index).tobytes()
    if not head.endswith(b"il00"):
        raise AssertionError("FAISS writes an index without lists in another way than this version expects")
    code_size = len(coder.quantizer)
    yield head[:-4] + b"ilar" + struct.pack("<QQ", len(sizes), code_size)
    yield b"full" + struct.pack("<Q", len(sizes)) + sizes.astype("<u8").tobytes()
    for first, last in _runs(sizes, code_size + 8):
        yield _run(parts, counts, first, last, code_size)


def _runs(sizes: NDArray[np.int64], entry_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs of lists of about `RUN_BYTES` in all."""
    first, held = 0, 0
    for number, size in enumerate(sizes.tolist()):
        held += size * entry_bytes
        if held >= RUN_BYTES:
            yield first, number + 1
            first, held = number + 1, 0
    if first < len(sizes):
        yield first, len(sizes)


def _run(parts: Sequence[IndexPart], counts: NDArray[np.int64], first: int, last: int, code_size: int) -> memoryview:
    """The lists first..last-1 as they stand in the file: of each list the codes, then the ids."""
    sizes = counts[:, first:last].sum(axis=0)
    entry = code_size + 8
    begins = np.concatenate([[0], np.cumsum(sizes)])
    # Of every entry: where its code and its id go in the bytes of this run.
    out = np.empty(int(begins[-1]) * entry, np.uint8)
    filled = np.zeros(last - first, np.int64)
    for number, part in enumerate(parts):
        here = counts[number, first:last]
        begin = int(counts[number, :first].sum())
        count = int(here.sum())
        if not count:
            continue
        lists = np.repeat(np.arange(last - first), here)
        rank = np.arange(count) - np.repeat(np.cumsum(here) - here, here) + filled[lists]
        codes = part.mapped("codes", "u1")[begin * code_size : (begin + count) * code_size].reshape(count, code_size)
        ids = part.mapped("ids", "<u4")[begin : begin + count].astype("<i8") + part.first * part.patches
        base = begins[lists] * entry
        _scatter(out, base + rank * code_size, codes)
        _scatter(out, base + sizes[lists] * code_size + rank * 8, ids.view(np.uint8).reshape(count, 8))
        filled += here
    return out.data


def _scatter(out: NDArray[np.uint8], at: NDArray[np.int64], rows: NDArray[np.uint8]) -> None:
    """Copies each row of bytes to its place."""
    width = rows.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(out, width, writeable=True)
    windows[at] = rows


def column_pieces(parts: Sequence[IndexPart], suffix: str, head: bytes, tail: bytes = b"") -> Iterator[bytes]:
    """A file of the parts' files one after the other, between `head` and `tail`."""
    yield head
    for part in parts:
        with open(part.file(suffix), "rb") as source:
            while chunk := source.read(1 << 22):
                yield chunk
    yield tail


def list_numbers_pieces(parts: Sequence[IndexPart], lists: int) -> Iterator[bytes]:
    """The file `lists.npy`, which list each patch is in."""
    count = sum(part.pictures * part.patches for part in parts)
    return column_pieces(parts, "lists", npy_head(list_kind(lists), (count,)))


def fine_pieces(parts: Sequence[IndexPart], codec: faiss.Index) -> Iterator[bytes]:
    """The file `fine.faiss`, finer codes in the order of the patches."""
    return column_pieces(parts, "fine", *framed(codec, sum(part.pictures * part.patches for part in parts)))


def boxes_pieces(stream: PictureStream) -> Iterator[bytes | memoryview]:
    """The file `boxes.npy`, (N, P, 4) float32, some pictures at a time."""
    patches = stream.regions.patches_per_image
    step = max(1, RUN_BYTES // (16 * patches))
    yield npy_head("<f4", (len(stream), patches, 4))
    for start in range(0, len(stream), step):
        yield stream.boxes(start, min(start + step, len(stream))).astype("<f4").data.cast("B")


def framed(codec: faiss.Index, count: int) -> tuple[bytes, bytes]:
    """What stands before and behind the codes of `count` vectors in a file of FAISS.

    Args:
        codec: empty and trained.
        count: how many codes will stand between.
    """
    import faiss

    size = int(codec.sa_code_size())
    one = faiss.clone_index(codec)
    one.add_sa_codes(np.zeros((1, size), np.uint8))
    for index in (codec, one):
        index.ntotal = count
    empty, single = (faiss.serialize_index(index).tobytes() for index in (codec, one))
    codec.ntotal = 0
    # The two differ first in the number of the codes' bytes (of their fours, for exact numbers), which is 0 in one.
    differs = next(at for at, (a, b) in enumerate(zip(empty, single, strict=False)) if a != b)
    units = {size: 1, size // 4: 4}
    begin, unit = next(
        (at, units[int.from_bytes(single[at : at + 8], "little")])
        for at in range(differs, differs - 8, -1)
        if int.from_bytes(single[at : at + 8], "little") in units and not any(empty[at : at + 8])
    )
    return empty[:begin] + struct.pack("<Q", count * size // unit), empty[begin + 8 :]
