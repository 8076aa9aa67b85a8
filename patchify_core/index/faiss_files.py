"""Whether a file of FAISS's fits together, before FAISS reads it: FAISS follows the lengths and numbers that it finds.

An index folder may come from a stranger, who can make its digests anew. A length that does not fit is a read or a
write beyond the memory's end, or gigabytes that are asked for. So the file is gone through here first: every length is
computed from what stands before it, and whatever is not one of the few kinds of index that this program writes is
refused. What remains is numbers, and other numbers give other similarities, no more.

The format is FAISS's own (`faiss/impl/index_write.cpp`, 1.14): the fields of each class one after the other, and in
front of each array how many items it has.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.integrity import Digests

if TYPE_CHECKING:
    import faiss

_SCALARS = {0: (8, 2), 1: (4, 2), 6: (6, 2), 4: (16, 0), 7: (16, 0)}
"""Of FAISS's scalar quantizers SQ8, SQ4, SQ6, SQfp16 and SQbf16: bits per number, and learned numbers per dimension."""

_MOST_BITS = 12
"""Of a part of a product quantizer's code."""

_BLOCK = 32
"""Codes that fast-scan keeps together."""

_WIDEST_WALK = 1 << 16
"""Candidates that a walk over a graph keeps, at most."""

_NODES = 1 << 16
"""Nodes of a graph whose links are looked at together."""


def check_faiss_file(data: bytes | mmap.mmap, ids: bool = True) -> None:
    """Go through a file that `faiss.write_index` wrote, or another one that is said to be such.

    Args:
        data: the whole file.
        ids: whether to look at every number of a vector in inverted lists; else whoever searches must check those that
            come back, and may not ask FAISS for vectors by number.

    Raises:
        ValueError: if FAISS should not get to read it.
    """
    file = _Fields(data)
    _index(file, {b"IxFI", b"IxSQ", b"IxPq", b"IPfs", b"IwFl", b"IwSq", b"IwPQ", b"IxPT", b"IHNf", b"IHNs"}, ids)
    _must(file.at == len(file.data))


def read_faiss_file(file: BinaryIO) -> faiss.Index:
    """Read a FAISS index whose digest was checked, ready to give single patches back.

    Raises:
        ValueError: if it does not fit together.
        RuntimeError: if FAISS does not read it.
    """
    import faiss

    check_faiss_file(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    # Not by its path, where another file may stand by now; in pieces of this size it takes no longer.
    codes = faiss.read_index(faiss.PyCallbackIOReader(file.read, 1 << 20))  # type: ignore[attr-defined]
    if isinstance(codes, faiss.IndexPreTransform):
        chain: Any = codes.chain
        rotation: Any = faiss.downcast_VectorTransform(chain.at(0))
        if not rotation.is_orthonormal:  # nothing could be rotated back
            raise ValueError("not a rotation")
    inverted = faiss.try_extract_index_ivf(codes)
    if inverted is not None:  # it keeps patches by list; this finds them by number
        inverted.set_direct_map_type(0)  # not the one in the file, which nobody checked
        inverted.make_direct_map()
    return codes


def write_faiss_file(codes: faiss.Index, path: Path) -> dict[str, Any]:
    """Stream the FAISS index into a file without a second copy in memory; returns its entry for `meta.json`."""
    import faiss

    digests = Digests()
    failure: list[OSError] = []
    with open(path, "wb") as file:

        def write(chunk: bytes) -> None:
            try:
                file.write(chunk)
            except OSError as error:
                failure.append(error)  # FAISS would report its own words instead of the disk's
                raise
            digests.update(chunk)

        try:
            faiss.write_index(codes, faiss.PyCallbackIOWriter(write, 1 << 20))  # type: ignore[attr-defined]
        except RuntimeError:
            if failure:
                raise failure[0] from None
            raise
    return digests.listed()


def _must(fits: bool) -> None:
    if not fits:
        raise ValueError("not an index of FAISS's that fits together")


class _Fields:
    """Read fields one after the other, never beyond the end."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data, self.at = memoryview(data), 0

    def read(self, kinds: str) -> tuple[Any, ...]:
        """The next fields, as `struct` names their kinds."""
        layout = struct.Struct("<" + kinds)
        _must(self.at + layout.size <= len(self.data))
        self.at += layout.size
        return layout.unpack_from(self.data, self.at - layout.size)

    def array(self, kind: str, count: int | None = None) -> NDArray[Any]:
        """The next array, whose length stands in front of it and must be `count`, if that is known."""
        (stated,) = self.read("Q")
        _must(count is None or stated == count)
        return self.items(kind, stated)

    def items(self, kind: str, count: int) -> NDArray[Any]:
        """Items without a length in front of them; a view, which need not be aligned."""
        size = count * np.dtype(kind).itemsize
        _must(self.at + size <= len(self.data))
        self.at += size
        return np.frombuffer(self.data, kind, count, self.at - size)

    def numbers(self, count: int | None = None) -> NDArray[np.float32]:
        """The next array of learned numbers, all of them finite."""
        found = self.array("<f4", count)
        _must(bool(np.isfinite(found).all()))
        return found


def _index(file: _Fields, kinds: set[bytes], ids: bool) -> tuple[int, int]:
    """Go through an index of one of these kinds; returns the dimension and the number of its vectors."""
    (kind,) = file.read("4s")
    _must(kind in kinds)
    dim, total, _, _, trained, metric = file.read("iqqqBi")
    _must(dim > 0 and total >= 0 and trained == 1 and metric == 0)  # 0: inner product
    if kind == b"IxFI":
        file.array("<f4", total * dim)
    elif kind == b"IxSQ":
        file.array("u1", total * _scalar_quantizer(file, dim))
    elif kind == b"IxPq":
        file.array("u1", total * _product_quantizer(file, dim))
        how, signs, _ = file.read("iBi")
        _must(how == 0 and signs == 0)
    elif kind == b"IPfs":
        _fast_scan(file, dim, total)
    elif kind in (b"IHNf", b"IHNs"):
        _graph(file, total)
        _must(_index(file, {b"IxFI" if kind == b"IHNf" else b"IxSQ"}, ids) == (dim, total))
    elif kind == b"IxPT":
        (transforms,) = file.read("i")
        _must(transforms == 1)
        rotated = _rotation(file, dim)
        _must(_index(file, kinds - {b"IxPT", b"IHNf", b"IHNs"}, ids) == (rotated, total))
    else:
        _inverted_file(file, kind, dim, total, ids)
    return dim, total


def _scalar_quantizer(file: _Fields, dim: int) -> int:
    """Return the bytes of a code."""
    kind, _, _, stated_dim, code_size = file.read("iifQQ")
    _must(kind in _SCALARS and stated_dim == dim)
    bits, learned = _SCALARS[kind]
    _must(code_size == (dim * bits + 7) // 8)
    file.numbers(dim * learned)
    return int(code_size)


def _product_quantizer(file: _Fields, dim: int) -> int:
    """Return the bytes of a code."""
    stated_dim, parts, bits = file.read("QQQ")
    _must(stated_dim == dim and 0 < parts <= dim and dim % parts == 0 and 0 < bits <= _MOST_BITS)
    file.numbers(dim << bits)
    return int(parts * bits + 7) // 8


def _fast_scan(file: _Fields, dim: int, total: int) -> None:
    code_size = _product_quantizer(file, dim)
    how, block, batch, padded, width = file.read("iiiQQ")
    # Two parts of 4 bits to a byte, an even number of parts, and whole blocks of codes.
    _must(how == 0 and block == _BLOCK and batch == 0)
    _must(width == 2 * code_size and padded == -(-total // _BLOCK) * _BLOCK)
    file.array("u1", padded * code_size)


def _rotation(file: _Fields, dim: int) -> int:
    """Return the dimension that it rotates to."""
    kind, biased = file.read("4sB")
    matrix, bias = file.numbers(), file.numbers()
    dim_in, dim_out, trained = file.read("iiB")
    _must(kind == b"LTra" and biased == 0 and not len(bias) and trained == 1)
    _must(dim_in == dim and 0 < dim_out <= dim and len(matrix) == dim_in * dim_out)
    return int(dim_out)


def _inverted_file(file: _Fields, kind: bytes, dim: int, total: int, ids: bool) -> None:
    lists, visited = file.read("QQ")
    _must(0 < visited <= lists)
    _must(_index(file, {b"IxFI", b"IHNf"}, ids) == (dim, lists))
    (mapped,) = file.read("B")
    _must(mapped in (0, 1))
    file.array("<i8", total if mapped else 0)
    if kind == b"IwFl":
        code_size = 4 * dim
    elif kind == b"IwSq":
        code_size = _scalar_quantizer(file, dim)
        stated, residual = file.read("QB")
        _must(stated == code_size and residual in (0, 1))
    else:
        residual, stated = file.read("BQ")
        code_size = _product_quantizer(file, dim)
        _must(stated == code_size and residual in (0, 1))
    _inverted_lists(file, lists, code_size, total, ids)


def _inverted_lists(file: _Fields, lists: int, code_size: int, total: int, ids: bool) -> None:
    kind, stated, stated_size, written = file.read("4sQQ4s")
    _must(kind == b"ilar" and stated == lists and stated_size == code_size and written in (b"full", b"sprs"))
    if written == b"full":
        sizes = file.array("<u8", lists)
    else:  # most lists are empty: the numbers of those that are not, and their sizes
        pairs = file.array("<u8")
        _must(len(pairs) % 2 == 0)
        numbers, sizes = pairs[::2], pairs[1::2]
        _must(bool((numbers < lists).all() and (numbers[1:] > numbers[:-1]).all()))
    _must(not len(sizes) or int(sizes.max()) <= total)
    _must(int(sizes.sum()) == total)
    if not ids:
        file.items("u1", total * (code_size + 8))
        return
    seen = np.zeros(total, bool) if total * (code_size + 8) <= len(file.data) else np.zeros(0, bool)
    for size in sizes[sizes > 0].tolist():
        file.items("u1", size * code_size)
        found = file.items("<i8", size)
        _must(0 <= int(found.min()) and int(found.max()) < len(seen))
        seen[found] = True
    _must(len(seen) == total and bool(seen.all()))


def _graph(file: _Fields, total: int) -> None:
    """A navigable small world: of each node the levels that it is on, and for each of these its neighbours."""
    levels_possible = len(file.array("<f8"))
    begins = file.array("<i4", levels_possible + 1).astype(np.int64)  # of each level's among a node's neighbours
    levels = file.array("<i4", total).astype(np.int64)
    ends = file.array("<u8", total + 1)
    neighbours = file.array("<i4")
    entry, highest, breadth, walk, _ = file.read("iiiii")
    _must(begins[0] == 0 and bool((np.diff(begins) > 0).all()) and total > 0)
    _must(1 <= int(levels.min()) and int(levels.max()) <= levels_possible)
    _must(ends[0] == 0 and int(ends[-1]) == len(neighbours) == int(begins[levels].sum()))
    _must(bool((np.diff(ends.astype(np.int64)) == begins[levels]).all()))
    _must(0 <= entry < total and highest == int(levels[entry]) - 1 == int(levels.max()) - 1)
    _must(0 < breadth <= _WIDEST_WALK and 0 < walk <= _WIDEST_WALK)
    _must(-1 <= int(neighbours.min()) and int(neighbours.max()) < total)
    for first in range(0, total, _NODES):  # those of a large graph take gigabytes at once
        sizes = begins[levels[first : first + _NODES]]
        begin = int(ends[first])
        near = neighbours[begin : begin + int(sizes.sum())]
        places = np.arange(len(near)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        level = np.searchsorted(begins, places, side="right") - 1
        # A walk on a level goes on from every neighbour there: it must be on this level too.
        _must(bool((levels[near][near >= 0] > level[near >= 0]).all()))
