"""Codes of a big index where they lie on the disk: FAISS searches a mapped file, and single patches are found in it.

FAISS keeps 8 bytes per patch in memory (its direct map) to give a patch back by its number. Here `lists.npy` says in 2
bytes, mapped, which list a patch is in; within a list the numbers ascend, so that halving finds the patch.

What is not in memory yet is read when it is touched, a little at a time, and the disk waits in between. `ReadAhead`
tells the system all that a search will touch at once.
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
"""Of a patch' number in a list."""

READ_BYTES = 1 << 17
"""Read at a time at most: a system may cut what it is asked for at once to what one request of the disk takes."""


@dataclass(frozen=True, eq=False)
class MappedCodes:
    """A FAISS index whose codes lie in a mapped file.

    Attributes:
        codes: the index.
        data: the bytes of the whole file; they stay mapped as long as this or the index is there.
        file: the mapping.
    """

    codes: faiss.Index
    data: NDArray[np.uint8]
    file: mmap.mmap

    @cached_property
    def lists(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Where the lists of an inverted file lie: of each its first byte and its entries, and the bytes of an entry.

        Raises:
            ValueError: if the file is too short for them.
        """
        codes: Any = self.codes
        sizes = np.array([codes.invlists.list_size(number) for number in range(codes.nlist)], np.int64)
        entry = int(codes.code_size) + ID_BYTES
        begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * entry + len(self.data)
        begins -= int(sizes.sum()) * entry  # they are the end of it
        if int(sizes.sum()) != codes.ntotal or begins[0] < 0:
            raise ValueError("lists that do not fit the file")
        return begins, sizes, entry


def map_codes(file: BinaryIO) -> MappedCodes:
    """A FAISS index whose codes stay in the file: only what a search visits is read.

    The very file that was checked is mapped, not what stands under its name by now; it may be closed afterwards.

    Args:
        file: open, with a digest that was checked.

    Raises:
        ValueError: if it does not fit together; which vectors are in which list is not looked at, whoever searches has
            to check the numbers that come back.
        RuntimeError: if FAISS does not read it.
    """
    import faiss

    faiss_: Any = faiss  # its annotations lack the reader
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    check_faiss_file(mapped, ids=False)
    data: NDArray[np.uint8] = np.frombuffer(mapped, np.uint8)
    reader = faiss_.ZeroCopyIOReader(faiss.swig_ptr(data), data.size)
    codes = faiss_.read_index(reader)
    codes.referenced_objects = [data]  # FAISS points into it
    return MappedCodes(codes, data, mapped)


def map_numbers(file: BinaryIO) -> NDArray[Any]:
    """A .npy file, mapped; raises ValueError if it is something else."""
    found = npy_array(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    if found.ndim != 1 or found.dtype.kind != "u":
        raise ValueError("not a table of lists")
    return found


@dataclass(frozen=True, eq=False)
class OnDisk:
    """How the mapped codes of a big index are reached.

    Attributes:
        located: where the code of a patch is, by its number; None where finer codes lie in the order of the patches.
        ahead: has the disk read what a search will touch.
    """

    located: PatchCodes | None
    ahead: ReadAhead


class ReadAhead:
    """Tells the system which parts of mapped files a search will touch, so that the disk has all requests at once.

    Where there is no such call (Windows) it does nothing.

    Args:
        coarse: FAISS's inverted file (`IndexIVF`).
        fine: finer codes in the order of the patches, or None.

    Raises:
        ValueError: if the lists do not fit the file.
    """

    def __init__(self, coarse: MappedCodes, fine: MappedCodes | None = None) -> None:
        self._coarse, self._fine = coarse, fine
        self._begins, self._sizes, self._entry = coarse.lists
        if fine is not None:
            inner: Any = fine.codes
            self._code_size = int(inner.code_size)
            self._first = int(inner.codes.data()) - fine.data.ctypes.data

    def lists(self, numbers: NDArray[np.int64]) -> None:
        """Has lists read; -1 stands for none."""
        numbers = numbers[numbers >= 0]
        _will_need(self._coarse.file, self._begins[numbers], self._sizes[numbers] * self._entry)

    def patches(self, firsts: NDArray[np.int64], count: int) -> None:
        """Has the finer codes of some runs of patches read.

        Args:
            firsts: number of the first patch of each run.
            count: patches of a run.
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
    """Decodes patches of an inverted file by their numbers.

    Args:
        mapped: FAISS's inverted file (`IndexIVFPQ`) of product-quantized residuals, whose ids ascend in every list.
        lists: (N,) unsigned, the list of each patch.

    Raises:
        ValueError: if they do not fit together.
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
        """(K, d) float32 descriptors of these patches.

        Raises:
            IndexFolderError: if a patch is not where it should be: the file was changed after it was checked.
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
        found: NDArray[np.float32] = residuals + self._quantizer.reconstruct_batch(lists)
        return found

    def _numbers(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The 8-byte numbers at these places of the file, which need not be multiples of 8."""
        eights: NDArray[Any] = self._data[at[:, None] + np.arange(8)]
        return np.frombuffer(eights.tobytes(), np.int64)
