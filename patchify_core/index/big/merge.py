"""Parts -> the files of one index, each read and written from its beginning to its end.

`index.faiss` is FAISS's own format, byte for byte what FAISS would write of the same index; but the codes never are in
memory together: a run of lists is taken from every part, put in order, and written.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.big.learned import Learned
from patchify_core.index.big.parts import HashedFile, IndexPart, list_kind
from patchify_core.index.npy import npy_head
from patchify_core.index.picture_table import write_tables
from patchify_core.index.shards.stream import PictureStream

if TYPE_CHECKING:
    import faiss

RUN_BYTES = 1 << 27
"""Of codes and ids that are put in order at a time."""


def write_codes(parts: Sequence[IndexPart], learned: Learned, probes: int, path: Path) -> dict[str, Any]:
    """Writes `index.faiss`; returns its entry for `meta.json`.

    Args:
        parts: in the order of their pictures.
        learned: what they were coded with.
        probes: lists that a search visits.
        path: the file.

    Raises:
        OSError: if it cannot be written.
    """
    import faiss

    counts = np.stack([part.mapped("counts", "<u4") for part in parts]).astype(np.int64)
    sizes = counts.sum(axis=0)
    index: Any = learned.empty_index()
    index.ntotal, index.nprobe = int(sizes.sum()), probes
    index.replace_invlists(None, False)
    head = faiss.serialize_index(index).tobytes()
    if not head.endswith(b"il00"):
        raise AssertionError("FAISS writes an index without lists in another way than this version expects")
    code_size = len(learned.quantizer)
    with HashedFile(path) as file:
        file.write(head[:-4] + b"ilar" + struct.pack("<QQ", len(sizes), code_size))
        file.write(b"full" + struct.pack("<Q", len(sizes)) + sizes.astype("<u8").tobytes())
        for first, last in _runs(sizes, code_size + 8):
            file.write(_run(parts, counts, first, last, code_size))
        return file.close()


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


def write_column(parts: Sequence[IndexPart], suffix: str, head: bytes, path: Path) -> dict[str, Any]:
    """Writes a file of the parts' files one after the other; returns its entry for `meta.json`."""
    with HashedFile(path) as file:
        file.write(head)
        for part in parts:
            with open(part.file(suffix), "rb") as source:
                shutil.copyfileobj(source, file, 1 << 22)
        return file.close()


def write_lists(parts: Sequence[IndexPart], lists: int, path: Path) -> dict[str, Any]:
    """Writes `lists.npy`, which list each patch is in; returns its entry for `meta.json`."""
    count = sum(part.pictures * part.patches for part in parts)
    return write_column(parts, "lists", npy_head(list_kind(lists), (count,)), path)


def write_boxes(stream: PictureStream, path: Path) -> dict[str, Any]:
    """Writes `boxes.npy`, (N, P, 4) float32, some pictures at a time; returns its entry for `meta.json`."""
    patches = stream.regions.patches_per_image
    step = max(1, RUN_BYTES // (16 * patches))
    with HashedFile(path) as file:
        file.write(npy_head("<f4", (len(stream), patches, 4)))
        for start in range(0, len(stream), step):
            file.write(stream.boxes(start, min(start + step, len(stream))).astype("<f4").data.cast("B"))
        return file.close()


def write_fine(parts: Sequence[IndexPart], codec: faiss.Index, path: Path) -> dict[str, Any]:
    """Writes `fine.faiss`, finer codes in the order of the patches; returns its entry for `meta.json`."""
    head, tail = framed(codec, sum(part.pictures * part.patches for part in parts))
    with HashedFile(path) as file:
        file.write(head)
        for part in parts:
            with open(part.file("fine"), "rb") as source:
                shutil.copyfileobj(source, file, 1 << 22)
        file.write(tail)
        return file.close()


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


def write_pictures(parts: Sequence[IndexPart], path: Path) -> dict[str, Any]:
    """Writes `pictures.bin`; returns its entry for `meta.json`."""
    with HashedFile(path) as file:
        write_tables([part.table() for part in parts], file)
        return file.close()
