"""Read and write FAISS files; validate them first, because FAISS trusts the lengths and ids in a file.

An index folder may come from a stranger, who can forge its digests. A wrong length makes FAISS read or write beyond its
memory, or allocate gigabytes. So the file is parsed here first: every length is computed from the preceding fields, and
only the few kinds of index that this program writes are accepted. What remains are numbers, and forged numbers yield
wrong similarities, no more.

The format is that of FAISS (`faiss/impl/index_write.cpp`, 1.14): the fields of each class in order, each array preceded
by its length.
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
"""Scalar quantizers SQ8, SQ4, SQ6, SQfp16 and SQbf16: bits per number, and trained numbers per dimension."""

_MAX_BITS = 12
"""Bits per part of a product quantizer's code, at most."""

_BLOCK = 32
"""Codes per block of fast-scan."""

_MAX_CANDIDATES = 1 << 16
"""Candidates of a graph search, at most."""

_NODES = 1 << 16
"""Graph nodes whose links are checked at a time."""


def check_faiss_file(data: bytes | mmap.mmap, ids: bool = True) -> None:
    """Check that FAISS can safely read a file.

    Args:
        data: The whole file.
        ids: Check every id in inverted lists. Otherwise callers must check the ids of search results, and must not ask
            FAISS for vectors by id.

    Raises:
        ValueError: It is inconsistent, or not a known kind of index.
    """
    file = _Fields(data)
    _index(file, {b"IxFI", b"IxSQ", b"IxPq", b"IPfs", b"IwFl", b"IwSq", b"IwPQ", b"IxPT", b"IHNf", b"IHNs"}, ids)
    _require(file.at == len(file.data))


def read_faiss_file(file: BinaryIO) -> faiss.Index:
    """Read a FAISS index whose digest was checked, prepared for decoding single patches.

    Raises:
        ValueError: It is inconsistent.
        RuntimeError: FAISS cannot read it.
    """
    import faiss

    check_faiss_file(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    # Not by path, where another file may be by now; chunks of this size cost no time.
    codes = faiss.read_index(faiss.PyCallbackIOReader(file.read, 1 << 20))  # type: ignore[attr-defined]
    if isinstance(codes, faiss.IndexPreTransform):
        chain: Any = codes.chain
        rotation: Any = faiss.downcast_VectorTransform(chain.at(0))
        if not rotation.is_orthonormal:  # decoding needs the inverse
            raise ValueError("not a rotation")
    inverted = faiss.try_extract_index_ivf(codes)
    if inverted is not None:  # for decoding by id
        inverted.set_direct_map_type(0)  # not the one in the file, which is unchecked
        inverted.make_direct_map()
    return codes


def write_faiss_file(codes: faiss.Index, path: Path) -> dict[str, Any]:
    """Write a FAISS index without a second copy in memory; return its entry for `meta.json`."""
    import faiss

    digests = Digests()
    failure: list[OSError] = []
    with open(path, "wb") as file:

        def write(chunk: bytes) -> None:
            try:
                file.write(chunk)
            except OSError as error:
                failure.append(error)  # FAISS would hide the error of the disk
                raise
            digests.update(chunk)

        try:
            faiss.write_index(codes, faiss.PyCallbackIOWriter(write, 1 << 20))  # type: ignore[attr-defined]
        except RuntimeError:
            if failure:
                raise failure[0] from None
            raise
    return digests.listed()


def _require(valid: bool) -> None:
    if not valid:
        raise ValueError("not a consistent FAISS index")


class _Fields:
    """Reads consecutive fields, never beyond the end."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self.data, self.at = memoryview(data), 0

    def read(self, kinds: str) -> tuple[Any, ...]:
        """Read the next fields, given as `struct` format characters."""
        layout = struct.Struct("<" + kinds)
        _require(self.at + layout.size <= len(self.data))
        self.at += layout.size
        return layout.unpack_from(self.data, self.at - layout.size)

    def array(self, kind: str, count: int | None = None) -> NDArray[Any]:
        """Read the next array, which is preceded by its length; that must be `count`, if given."""
        (stated,) = self.read("Q")
        _require(count is None or stated == count)
        return self.items(kind, stated)

    def items(self, kind: str, count: int) -> NDArray[Any]:
        """Read items that are not preceded by a length; returns a view that may be unaligned."""
        size = count * np.dtype(kind).itemsize
        _require(self.at + size <= len(self.data))
        self.at += size
        return np.frombuffer(self.data, kind, count, self.at - size)

    def numbers(self, count: int | None = None) -> NDArray[np.float32]:
        """Read the next array of trained numbers, which must be finite."""
        numbers = self.array("<f4", count)
        _require(bool(np.isfinite(numbers).all()))
        return numbers


def _index(file: _Fields, kinds: set[bytes], ids: bool) -> tuple[int, int]:
    """Check an index of one of these kinds; return its dimension and number of vectors."""
    (kind,) = file.read("4s")
    _require(kind in kinds)
    dim, total, _, _, trained, metric = file.read("iqqqBi")
    _require(dim > 0 and total >= 0 and trained == 1 and metric == 0)  # 0: inner product
    if kind == b"IxFI":
        file.array("<f4", total * dim)
    elif kind == b"IxSQ":
        file.array("u1", total * _scalar_quantizer(file, dim))
    elif kind == b"IxPq":
        file.array("u1", total * _product_quantizer(file, dim))
        how, signs, _ = file.read("iBi")
        _require(how == 0 and signs == 0)
    elif kind == b"IPfs":
        _fast_scan(file, dim, total)
    elif kind in (b"IHNf", b"IHNs"):
        _graph(file, total)
        _require(_index(file, {b"IxFI" if kind == b"IHNf" else b"IxSQ"}, ids) == (dim, total))
    elif kind == b"IxPT":
        (transforms,) = file.read("i")
        _require(transforms == 1)
        rotated = _rotation(file, dim)
        _require(_index(file, kinds - {b"IxPT", b"IHNf", b"IHNs"}, ids) == (rotated, total))
    else:
        _inverted_file(file, kind, dim, total, ids)
    return dim, total


def _scalar_quantizer(file: _Fields, dim: int) -> int:
    """Return the bytes per code."""
    kind, _, _, stated_dim, code_size = file.read("iifQQ")
    _require(kind in _SCALARS and stated_dim == dim)
    bits, learned = _SCALARS[kind]
    _require(code_size == (dim * bits + 7) // 8)
    file.numbers(dim * learned)
    return int(code_size)


def _product_quantizer(file: _Fields, dim: int) -> int:
    """Return the bytes per code."""
    stated_dim, parts, bits = file.read("QQQ")
    _require(stated_dim == dim and 0 < parts <= dim and dim % parts == 0 and 0 < bits <= _MAX_BITS)
    file.numbers(dim << bits)
    return int(parts * bits + 7) // 8


def _fast_scan(file: _Fields, dim: int, total: int) -> None:
    code_size = _product_quantizer(file, dim)
    how, block, batch, padded, width = file.read("iiiQQ")
    # Two parts of 4 bits per byte, an even number of parts, and full blocks of codes.
    _require(how == 0 and block == _BLOCK and batch == 0)
    _require(width == 2 * code_size and padded == -(-total // _BLOCK) * _BLOCK)
    file.array("u1", padded * code_size)


def _rotation(file: _Fields, dim: int) -> int:
    """Return the output dimension."""
    kind, biased = file.read("4sB")
    matrix, bias = file.numbers(), file.numbers()
    dim_in, dim_out, trained = file.read("iiB")
    _require(kind == b"LTra" and biased == 0 and not len(bias) and trained == 1)
    _require(dim_in == dim and 0 < dim_out <= dim and len(matrix) == dim_in * dim_out)
    return int(dim_out)


def _inverted_file(file: _Fields, kind: bytes, dim: int, total: int, ids: bool) -> None:
    lists, visited = file.read("QQ")
    _require(0 < visited <= lists)
    _require(_index(file, {b"IxFI", b"IHNf"}, ids) == (dim, lists))
    (mapped,) = file.read("B")
    _require(mapped in (0, 1))
    file.array("<i8", total if mapped else 0)
    if kind == b"IwFl":
        code_size = 4 * dim
    elif kind == b"IwSq":
        code_size = _scalar_quantizer(file, dim)
        stated, residual = file.read("QB")
        _require(stated == code_size and residual in (0, 1))
    else:
        residual, stated = file.read("BQ")
        code_size = _product_quantizer(file, dim)
        _require(stated == code_size and residual in (0, 1))
    _inverted_lists(file, lists, code_size, total, ids)


def _inverted_lists(file: _Fields, lists: int, code_size: int, total: int, ids: bool) -> None:
    kind, stated, stated_size, written = file.read("4sQQ4s")
    _require(kind == b"ilar" and stated == lists and stated_size == code_size and written in (b"full", b"sprs"))
    if written == b"full":
        sizes = file.array("<u8", lists)
    else:  # sparse: number and size of each list that is not empty
        pairs = file.array("<u8")
        _require(len(pairs) % 2 == 0)
        numbers, sizes = pairs[::2], pairs[1::2]
        _require(bool((numbers < lists).all() and (numbers[1:] > numbers[:-1]).all()))
    _require(not len(sizes) or int(sizes.max()) <= total)
    _require(int(sizes.sum()) == total)
    if not ids:
        file.items("u1", total * (code_size + 8))
        return
    seen = np.zeros(total, bool) if total * (code_size + 8) <= len(file.data) else np.zeros(0, bool)
    for size in sizes[sizes > 0].tolist():
        file.items("u1", size * code_size)
        numbers = file.items("<i8", size)
        _require(0 <= int(numbers.min()) and int(numbers.max()) < len(seen))
        seen[numbers] = True
    _require(len(seen) == total and bool(seen.all()))


def _graph(file: _Fields, total: int) -> None:
    """Check an HNSW graph: the levels of each node, and its neighbours on each level."""
    max_levels = len(file.array("<f8"))
    begins = file.array("<i4", max_levels + 1).astype(np.int64)  # of each level among the neighbours of a node
    levels = file.array("<i4", total).astype(np.int64)
    ends = file.array("<u8", total + 1)
    neighbours = file.array("<i4")
    entry, highest, build_candidates, search_candidates, _ = file.read("iiiii")
    _require(begins[0] == 0 and bool((np.diff(begins) > 0).all()) and total > 0)
    _require(1 <= int(levels.min()) and int(levels.max()) <= max_levels)
    _require(ends[0] == 0 and int(ends[-1]) == len(neighbours) == int(begins[levels].sum()))
    _require(bool((np.diff(ends.astype(np.int64)) == begins[levels]).all()))
    _require(0 <= entry < total and highest == int(levels[entry]) - 1 == int(levels.max()) - 1)
    _require(0 < build_candidates <= _MAX_CANDIDATES and 0 < search_candidates <= _MAX_CANDIDATES)
    _require(-1 <= int(neighbours.min()) and int(neighbours.max()) < total)
    for first in range(0, total, _NODES):  # all links of a large graph take gigabytes
        sizes = begins[levels[first : first + _NODES]]
        begin = int(ends[first])
        linked = neighbours[begin : begin + int(sizes.sum())]
        places = np.arange(len(linked)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        level = np.searchsorted(begins, places, side="right") - 1
        # A search continues from neighbours on the same level, so they must have that level.
        _require(bool((levels[linked][linked >= 0] > level[linked >= 0]).all()))
