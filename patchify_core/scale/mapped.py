"""Codes of a big index where they lie on the disk: FAISS searches a mapped file, and single patches are found in it.

FAISS keeps 8 bytes a patch in memory (its direct map) to give a patch back by its number. Here `lists.npy` says in 2
bytes, mapped, which list a patch is in; within a list the numbers ascend, so that halving finds the patch.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError

if TYPE_CHECKING:
    import faiss


def map_codes(file: BinaryIO) -> tuple[faiss.Index, NDArray[np.uint8]]:
    """A FAISS index whose codes stay in the file: only what a search visits is read.

    The very file that was checked is mapped, not what stands under its name by now; it may be closed afterwards.

    Args:
        file: open, with a digest that was checked: FAISS follows what it reads.

    Returns:
        The index, and the bytes of the whole file; they stay mapped as long as either is there.

    Raises:
        RuntimeError: if FAISS does not read it.
    """
    import faiss

    faiss_: Any = faiss  # its annotations lack the reader
    data: NDArray[np.uint8] = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    reader = faiss_.ZeroCopyIOReader(faiss.swig_ptr(data), data.size)
    codes = faiss_.read_index(reader)
    codes.referenced_objects = [data]  # FAISS points into it
    return codes, data


def map_numbers(file: BinaryIO) -> NDArray[Any]:
    """A .npy file, mapped; raises ValueError if it is something else."""
    file.seek(0)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not a table of lists")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 1 or kind.kind != "u":
        raise ValueError("not a table of lists")
    start = file.tell()
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(mapped, kind, shape[0], start)


class PatchCodes:
    """Decodes patches of an inverted file by their numbers.

    Args:
        codes: FAISS's inverted file (`IndexIVFPQ`) of product-quantized residuals, whose ids ascend in every list.
        data: the file that it was read from; its lists are the end of it.
        lists: (N,) unsigned, the list of each patch.

    Raises:
        ValueError: if they do not fit together.
    """

    def __init__(self, codes: faiss.Index, data: NDArray[np.uint8], lists: NDArray[Any]) -> None:
        """Finds out where every list begins."""
        import faiss

        if not isinstance(codes, faiss.IndexIVFPQ):
            raise ValueError("not an inverted file of product-quantized residuals")
        inverted: Any = codes.invlists
        self._codes: Any = codes
        self._data, self._lists = data, lists
        self._sizes = np.array([inverted.list_size(number) for number in range(codes.nlist)], np.int64)
        self._code_size = int(codes.code_size)
        entry = self._code_size + 8
        self._begins = np.concatenate([[0], np.cumsum(self._sizes)[:-1]]) * entry + len(data)
        self._begins -= int(self._sizes.sum()) * entry
        if (
            len(lists) != codes.ntotal
            or int(self._sizes.sum()) != codes.ntotal
            or self._begins[0] < 0
            or int(lists.max(initial=0)) >= codes.nlist
        ):
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
