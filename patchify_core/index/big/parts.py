"""Code a collection in parts, and merge the parts into the files of a big index.

A part has some hundred thousand pictures. Its files: `codes` and `ids` sorted by list, `counts` per list, `lists` (the
list of each patch) and `fine` (finer codes) in patch order, and `pictures`. A line with their digests in the journal
comes last; without it the part does not count.

All files are read and written sequentially. `index.faiss` is byte-identical to what FAISS would write, but the codes
are never in memory together: a range of lists is read from every part, merged and written.
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
from patchify_core.index.integrity import is_intact, npy_head, write_listed
from patchify_core.index.pictures import PictureTable, joined, read_table, table_pieces
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder

if TYPE_CHECKING:
    import faiss

READ_BYTES = 1 << 28
"""Descriptors read from the stream at a time."""

CODED_PATCHES = 1 << 18
"""Patches assigned to lists and coded at a time: large enough for efficient matrix products per cell."""

RUN_BYTES = 1 << 27
"""Codes and ids merged at a time."""


@dataclass(frozen=True, eq=False)
class IndexPart:
    """A finished part on disk.

    Attributes:
        path: Path of its files without suffix.
        first: Row of its first picture.
        pictures: Number of pictures.
        patches: Patches per picture.
    """

    path: Path
    first: int
    pictures: int
    patches: int

    def file(self, suffix: str) -> Path:
        """Path of one of its files."""
        return self.path.with_suffix(f".{suffix}")

    def mapped(self, suffix: str, kind: str) -> NDArray[Any]:
        """Map one of its files as an array."""
        return np.memmap(self.file(suffix), kind, "r")

    def table(self) -> PictureTable:
        """Map its picture table."""
        with open(self.file("pictures"), "rb") as file:
            return read_table(file)

    @classmethod
    def finished(
        cls, work: BuildFolder, number: int, first: int, pictures: int, learned: str, patches: int
    ) -> IndexPart | None:
        """Return a part if its digests match and it was coded with `learned`; else None."""
        path = part_path(work, number)
        try:
            entry = work.finished(path.name)
            if (entry["first"], entry["pictures"], entry["learned"]) != (first, pictures, learned):
                return None
            for suffix, digests in entry["files"].items():
                with open(path.with_suffix(f".{suffix}"), "rb") as file:
                    if not is_intact(file, digests):
                        return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cls(path, first, pictures, patches)


def part_path(work: BuildFolder, number: int) -> Path:
    """Path of the files of a part without suffix."""
    return work.folder / f"part-{number:05d}"


def code_parts(
    stream: PictureStream, work: BuildFolder, learned: Learned, size: int, progress: Progress
) -> tuple[list[IndexPart], int, float]:
    """Code all parts that are not finished yet.

    Args:
        stream: The collection.
        work: Folder of the parts.
        learned: The trained coders, saved in that folder.
        size: Pictures per part.
        progress: Called with (pictures coded, pictures in total).

    Returns:
        All parts, the number of pictures coded by this call, and the seconds that took.

    Raises:
        OSError: A part cannot be written.
    """
    patches, total = stream.regions.patches_per_image, len(stream)
    parts, coded, seconds, done = [], 0, 0.0, 0

    def on_coded(pictures: int) -> None:
        nonlocal done
        done += pictures
        progress(done, total)

    for number, first in enumerate(range(0, total, size)):
        pictures = min(size, total - first)
        part = IndexPart.finished(work, number, first, pictures, learned.digest, patches)
        if part is None:
            start, path = time.perf_counter(), part_path(work, number)
            files = _write_part(path, stream, first, pictures, learned, on_coded)
            line = {"piece": path.name, "first": first, "pictures": pictures, "learned": learned.digest}
            work.journal.add(line | {"files": files})
            part = IndexPart(path, first, pictures, patches)
            seconds += time.perf_counter() - start
            coded += pictures
        else:
            on_coded(pictures)
        parts.append(part)
    return parts, coded, seconds


def _write_part(
    path: Path,
    stream: PictureStream,
    first: int,
    pictures: int,
    learned: Learned,
    on_coded: Callable[[int], None],
) -> dict[str, Any]:
    """Code a range of pictures and write its files; return their digests by suffix.

    If only finer codes were trained, theirs is the only file.
    """
    patches, coder = stream.regions.patches_per_image, learned.coder
    total = pictures * patches
    lists, codes = np.empty(0, "<u2"), np.empty((0, 0), np.uint8)
    if coder is not None:
        quantizer = coder.product_quantizer()
        lists = np.empty(total, list_dtype(len(coder.lists)))
        codes = np.empty((total, len(coder.quantizer)), np.uint8)
    tables = []

    def fine_codes() -> Iterator[memoryview]:
        """Code everything, yielding the finer codes batch by batch."""
        at = 0
        for table, vectors in batches(stream, first, pictures, learned.projection, learned.dim):
            tables.append(table)
            here = slice(at, at + len(vectors))
            if learned.fine is not None:
                yield np.asarray(learned.fine.sa_encode(vectors)).data.cast("B")
            if coder is not None:
                lists[here] = assigned = coder.lists.assign(vectors)
                vectors -= coder.lists.centroids[assigned]
                codes[here] = quantizer.compute_codes(vectors)
            at += len(vectors)
            on_coded(len(table))

    files = {"fine": write_listed(path.with_suffix(".fine"), fine_codes())}
    if coder is None:
        return files
    order = np.argsort(lists, kind="stable").astype(np.uint32)  # stable, so that ids ascend within a list
    counts = np.bincount(lists, minlength=len(coder.lists)).astype("<u4")
    runs = range(0, total, CODED_PATCHES)
    columns: dict[str, Iterable[bytes | memoryview]] = {
        "lists": [lists.data.cast("B")],
        "counts": [counts.data.cast("B")],
        "ids": [order.astype("<u4").data.cast("B")],
        "codes": (codes[order[start : start + CODED_PATCHES]].data.cast("B") for start in runs),
        "pictures": table_pieces(tables),
    }
    return files | {suffix: write_listed(path.with_suffix(f".{suffix}"), data) for suffix, data in columns.items()}


def list_dtype(lists: int) -> str:
    """Type of list numbers in files."""
    return "<u2" if lists <= 1 << 16 else "<u4"


def batches(
    stream: PictureStream, first: int, pictures: int, projection: Projection | None, dim: int
) -> Iterator[tuple[PictureTable, NDArray[np.float32]]]:
    """Yield pictures with their (n, dim) projected descriptors, in batches large enough for `Lists.assign`."""
    patches = stream.regions.patches_per_image
    raw = stream.dim
    read = max(1, min(READ_BYTES // (4 * raw), CODED_PATCHES) // patches)
    coded = max(1, CODED_PATCHES // patches)
    for start in range(first, first + pictures, coded):
        stop = min(start + coded, first + pictures)
        vectors, tables = np.empty(((stop - start) * patches, dim), np.float32), []
        for begin in range(start, stop, read):
            end = min(begin + read, stop)
            table, descriptors = stream.batch(begin, end)
            descriptors = descriptors.reshape(-1, raw)
            rows = slice((begin - start) * patches, (end - start) * patches)
            vectors[rows] = descriptors if projection is None else projection(descriptors)
            tables.append(table)
        yield joined(tables), vectors


def lists_pieces(parts: Sequence[IndexPart], coder: Coder, probes: int) -> Iterator[bytes | memoryview]:
    """Merge parts, in picture order, into the content of `index.faiss`, for searches that visit `probes` lists."""
    import faiss

    counts = np.stack([part.mapped("counts", "<u4") for part in parts]).astype(np.int64)
    sizes = counts.sum(axis=0)
    index: Any = coder.empty_index()
    index.ntotal, index.nprobe = int(sizes.sum()), probes
    index.replace_invlists(None, False)
    head = faiss.serialize_index(index).tobytes()
    if not head.endswith(b"il00"):
        raise AssertionError("FAISS writes an index without lists differently than this version expects")
    code_size = len(coder.quantizer)
    yield head[:-4] + b"ilar" + struct.pack("<QQ", len(sizes), code_size)
    yield b"full" + struct.pack("<Q", len(sizes)) + sizes.astype("<u8").tobytes()
    for first, last in _runs(sizes, code_size + 8):
        yield _run(parts, counts, first, last, code_size)


def _runs(sizes: NDArray[np.int64], entry_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of lists of about `RUN_BYTES` each."""
    first, bytes_so_far = 0, 0
    for number, size in enumerate(sizes.tolist()):
        bytes_so_far += size * entry_bytes
        if bytes_so_far >= RUN_BYTES:
            yield first, number + 1
            first, bytes_so_far = number + 1, 0
    if first < len(sizes):
        yield first, len(sizes)


def _run(parts: Sequence[IndexPart], counts: NDArray[np.int64], first: int, last: int, code_size: int) -> memoryview:
    """Merge the lists first..last-1 as in the file: per list the codes, then the ids."""
    sizes = counts[:, first:last].sum(axis=0)
    entry = code_size + 8
    begins = np.concatenate([[0], np.cumsum(sizes)])
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
    """Copy each row of bytes to its offset."""
    width = rows.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(out, width, writeable=True)
    windows[at] = rows


def column_pieces(parts: Sequence[IndexPart], suffix: str, head: bytes, tail: bytes = b"") -> Iterator[bytes]:
    """Concatenate one file of every part, between `head` and `tail`."""
    yield head
    for part in parts:
        with open(part.file(suffix), "rb") as source:
            while chunk := source.read(1 << 22):
                yield chunk
    yield tail


def list_numbers_pieces(parts: Sequence[IndexPart], lists: int) -> Iterator[bytes]:
    """Content of `lists.npy`, the list of each patch."""
    count = sum(part.pictures * part.patches for part in parts)
    return column_pieces(parts, "lists", npy_head(list_dtype(lists), (count,)))


def fine_pieces(parts: Sequence[IndexPart], codec: faiss.Index) -> Iterator[bytes]:
    """Content of `fine.faiss`, finer codes in patch order."""
    return column_pieces(parts, "fine", *framed(codec, sum(part.pictures * part.patches for part in parts)))


def boxes_pieces(stream: PictureStream) -> Iterator[bytes | memoryview]:
    """Content of `boxes.npy`, (N, P, 4) float32."""
    patches = stream.regions.patches_per_image
    step = max(1, RUN_BYTES // (16 * patches))
    yield npy_head("<f4", (len(stream), patches, 4))
    for start in range(0, len(stream), step):
        yield stream.boxes(start, min(start + step, len(stream))).astype("<f4").data.cast("B")


def framed(codec: faiss.Index, count: int) -> tuple[bytes, bytes]:
    """Return what precedes and follows the codes of `count` vectors in a FAISS file.

    Args:
        codec: Empty and trained.
        count: Number of codes.
    """
    import faiss

    size = int(codec.sa_code_size())
    one = faiss.clone_index(codec)
    one.add_sa_codes(np.zeros((1, size), np.uint8))
    for index in (codec, one):
        index.ntotal = count
    empty, single = (faiss.serialize_index(index).tobytes() for index in (codec, one))
    codec.ntotal = 0
    # They first differ in the length of the codes (in bytes, or in floats for exact codes), which is 0 in one.
    differs = next(at for at, (a, b) in enumerate(zip(empty, single, strict=False)) if a != b)
    units = {size: 1, size // 4: 4}
    begin, unit = next(
        (at, units[int.from_bytes(single[at : at + 8], "little")])
        for at in range(differs, differs - 8, -1)
        if int.from_bytes(single[at : at + 8], "little") in units and not any(empty[at : at + 8])
    )
    return empty[:begin] + struct.pack("<Q", count * size // unit), empty[begin + 8 :]
