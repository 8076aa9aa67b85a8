"""Memory-mapped codes of a big index: FAISS searches the mapped file, and single patches are decoded from it.

FAISS needs 8 bytes per patch in memory (its direct map) to decode a patch by its id. Here the mapped `lists.npy` stores
the inverted list of each patch in 2 bytes; within a list the ids ascend, so binary search finds the patch.

Mapped pages are read on first access, a few at a time. `ReadAhead` requests all pages of a search from the system at
once.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.index.faiss_files import check_faiss_file
from patchify_core.index.integrity import npy_array

if TYPE_CHECKING:
    import faiss

ID_BYTES = 8
"""Bytes of a patch id in an inverted list."""

READ_BYTES = 1 << 17
"""Maximum size of a prefetch request: systems may truncate requests to what one disk request takes."""


@dataclass(frozen=True, eq=False)
class MappedCodes:
    """A FAISS index whose codes are in a mapped file.

    Attributes:
        codes: The index.
        data: Bytes of the whole file; mapped as long as this or the index exists.
        file: The mapping.
    """

    codes: faiss.Index
    data: NDArray[np.uint8]
    file: mmap.mmap

    @cached_property
    def lists(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Offset in bytes and number of entries of each inverted list, and the bytes of an entry.

        Raises:
            ValueError: The file is too short for the lists.
        """
        codes: Any = self.codes
        sizes = np.array([codes.invlists.list_size(number) for number in range(codes.nlist)], np.int64)
        entry = int(codes.code_size) + ID_BYTES
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * entry + len(self.data)
        begins -= int(sizes.sum()) * entry  # the lists are at the end of the file
        if int(sizes.sum()) != codes.ntotal or begins[0] < 0:
            raise ValueError("lists that do not fit the file")
        return begins, sizes, entry


def map_codes(file: BinaryIO) -> MappedCodes:
    """Map a FAISS index, so that a search reads only the codes that it visits.

    The open file itself is mapped, since another file may have taken its name by now. It may be closed afterwards.

    Args:
        file: An open file whose digest was checked.

    Raises:
        ValueError: The file is inconsistent. The ids in the lists are not checked; callers must check search results.
        RuntimeError: FAISS cannot read it.
    """
    import faiss

    faiss_: Any = faiss  # its type hints lack the reader
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    check_faiss_file(mapped, ids=False)
    data: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
    reader = faiss_.ZeroCopyIOReader(faiss.swig_ptr(data), data.size)
    codes = faiss_.read_index(reader)
    codes.referenced_objects = [data]  # FAISS points into this memory
    return MappedCodes(codes, data, mapped)


def map_numbers(file: BinaryIO) -> NDArray[Any]:
    """Map a .npy file of (N,) unsigned integers; raise ValueError if it is something else."""
    numbers = npy_array(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if numbers.ndim != 1 or numbers.dtype.kind != "u":
        raise ValueError("not a table of lists")
    return numbers


class ReadAhead:
    """Prefetches the parts of mapped files that a search will read. Does nothing on Windows, which has no such call.

    Args:
        coarse: Inverted file (`IndexIVF`).
        fine: Finer codes in patch order, or None.

    Raises:
        ValueError: The lists do not fit the file.
    """

    def __init__(self, coarse: MappedCodes, fine: MappedCodes | None = None) -> None:
        self._coarse, self._fine = coarse, fine
        self._begins, self._sizes, self._entry = coarse.lists
        if fine is not None:
            inner: Any = fine.codes
            self._code_size = int(inner.code_size)
            self._first = int(inner.codes.data()) - fine.data.ctypes.data

    def lists(self, numbers: NDArray[np.int64]) -> None:
        """Prefetch inverted lists; -1 stands for none."""
        numbers = numbers[numbers >= 0]
        _will_need(self._coarse.file, self._begins[numbers], self._sizes[numbers] * self._entry)

    def patches(self, firsts: NDArray[np.int64], count: int) -> None:
        """Prefetch the finer codes of ranges of patches.

        Args:
            firsts: First patch id of each range.
            count: Patches per range.
        """
        if self._fine is not None:
            sizes = np.full(len(firsts), count * self._code_size)
            _will_need(self._fine.file, self._first + firsts * self._code_size, sizes)


def _will_need(file: mmap.mmap, begins: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    if not hasattr(file, "madvise"):
        return
    page, most = mmap.PAGESIZE, len(file)
    for begin, size in zip((begins // page * page).tolist(), (sizes + begins % page).tolist(), strict=True):
        for at in range(begin, begin + size, READ_BYTES):
            file.madvise(mmap.MADV_WILLNEED, at, min(READ_BYTES, begin + size - at, most - at))


class PatchCodes:
    """Decodes patches of an inverted file by their ids.

    Args:
        mapped: Inverted file (`IndexIVFPQ`) of product-quantized residuals, with ascending ids in every list.
        lists: (N,) unsigned, the list of each patch.

    Raises:
        ValueError: They do not fit together.
    """

    def __init__(self, mapped: MappedCodes, lists: NDArray[Any]) -> None:
        import faiss

        codes = mapped.codes
        if not isinstance(codes, faiss.IndexIVFPQ):
            raise ValueError("not an inverted file of product-quantized residuals")
        self._codes: Any = codes
        self._data, self._lists = mapped.data, lists
        self._begins, self._sizes, entry = mapped.lists
        self._code_size = entry - ID_BYTES
        if len(lists) != codes.ntotal or int(lists.max(initial=0)) >= codes.nlist:
            raise ValueError("lists that do not fit the codes")
        self._quantizer = faiss.downcast_index(codes.quantizer)

    def decode(self, patches: NDArray[np.int64]) -> NDArray[np.float32]:
        """Decode the (K, d) float32 descriptors of patches.

        Raises:
            IndexFolderError: A patch is not in its list; the file was changed after it was checked.
        """
        lists = self._lists[patches].astype(np.int64)
        sizes = self._sizes[lists]
        ids = self._begins[lists] + sizes * self._code_size
        low: NDArray[np.int64] = np.zeros(len(patches), np.int64)
        high = sizes
        while (low < high).any():
            middle = (low + high) // 2
            open_ = low < high
            below = self._numbers(ids + 8 * np.where(open_, middle, 0)) < patches
            low = np.where(open_ & below, middle + 1, low)
            high = np.where(open_ & ~below, middle, high)
        if (low >= sizes).any() or (self._numbers(ids + 8 * low) != patches).any():
            raise IndexFolderError("The index was changed while it was open: open it again, or build it again.")
        at = self._begins[lists] + low * self._code_size
        codes = self._data[at[:, None] + np.arange(self._code_size)]
        residuals = self._codes.pq.decode(codes)
        descriptors: NDArray[np.float32] = residuals + self._quantizer.reconstruct_batch(lists)
        return descriptors

    def _numbers(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Read the 8-byte integers at these offsets, which need not be aligned."""
        values: NDArray[Any] = self._data[at[:, None] + np.arange(8)]
        return np.frombuffer(values.tobytes(), np.int64)
