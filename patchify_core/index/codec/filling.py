"""Fills codecs: an empty one of the same training, codes copied byte for byte, and links of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.index.codec.factory import compared

if TYPE_CHECKING:
    import faiss

_LINKED_TOGETHER = 256
"""Pictures that are linked into a graph at a time: each call costs it a look at all that are there."""


_DECODED_TOGETHER = 8192
"""Codes that are copied from a graph to another at a time."""


class Filler:
    """Fills a codec, picture by picture.

    Args:
        codes: trained and empty.
        old: one of the same training, that codes are copied from.

    Attributes:
        codes: the filled codec, once `flush` was called.
    """

    def __init__(self, codes: faiss.Index, old: faiss.Index | None = None) -> None:
        import faiss

        self._graph = isinstance(codes, faiss.IndexHNSW)
        self.codes, self._old = _well_linked(codes) if self._graph else codes, old
        self._waiting: list[NDArray[np.float32]] = []
        self._same = 0
        """Codes of the old graph that have the same numbers in the new one, as long as there are no others."""

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Code the (P, d) float32 descriptors of a picture."""
        self._waiting.append(vectors)
        if not self._graph or len(self._waiting) >= _LINKED_TOGETHER:
            self.flush()

    def copy(self, first: int, count: int) -> None:
        """Append `count` of the old codes from number `first` on.

        A graph that only grows keeps its links. Else its codes are decoded, linked, and coded again to the same bytes:
        a scalar quantizer decodes to the middle of a step.
        """
        assert self._old is not None, "there is what to copy from"
        if not self._graph:
            _copy(self._old, first, count, self.codes)
        elif first == self._same and not self._waiting and not self.codes.ntotal:
            self._same += count
        else:
            self.add(np.asarray(compared(self._old).reconstruct_n(first, count)))

    def flush(self) -> None:
        """Add what waits to be added together."""
        import faiss

        if self._same and self._old is not None:
            same, self._same = self._same, 0
            if same == self._old.ntotal:
                self.codes = _well_linked(faiss.clone_index(self._old))
            else:
                for at in range(0, same, _DECODED_TOGETHER):
                    count = min(_DECODED_TOGETHER, same - at)
                    self.codes.add(np.asarray(compared(self._old).reconstruct_n(at, count)))
        if self._waiting:
            self.codes.add(np.concatenate(self._waiting))
            self._waiting.clear()


def _well_linked(graph: Any) -> Any:
    """A graph that gives each patch as many links as there is room for.

    FAISS drops links to what lies behind another neighbour, until nothing leads to some patches any more: one in a
    hundred of the first ten pictures was not found, however long a search walked. No file says that it was set.
    """
    graph.keep_max_size_level0 = True
    return graph


def emptied(codes: faiss.Index) -> faiss.Index:
    """A trained codec of the same kind without codes."""
    import faiss

    if isinstance(codes, faiss.IndexFlat):
        return faiss.IndexFlatIP(codes.d)
    if isinstance(codes, faiss.IndexScalarQuantizer):
        # Not by a copy, which would have all of the old codes in memory once more.
        empty = faiss.IndexScalarQuantizer(codes.d, codes.sq.qtype, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(faiss.vector_to_array(codes.sq.trained), empty.sq.trained)
        empty.is_trained = True
        return empty
    copy = faiss.clone_index(codes)
    copy.reset()
    inverted = faiss.try_extract_index_ivf(copy)
    if inverted is not None:
        inverted.set_direct_map_type(0)  # none: it was the old index's, and loading makes one
    return copy


def _copy(old: faiss.Index, first: int, count: int, new: faiss.Index) -> None:
    """Append `count` codes of `old` from number `first` on to `new`, a codec of the same training.

    Not decoded and coded again: the nearest list or centroid of what a code decodes to can be another one, and the
    pictures of an index would wander with every update.
    """
    import faiss

    inner_old: Any = faiss.downcast_index(old)
    inner_new: Any = faiss.downcast_index(new)
    if isinstance(inner_old, faiss.IndexPreTransform):
        inner_old, inner_new = faiss.downcast_index(inner_old.index), faiss.downcast_index(inner_new.index)
    if isinstance(inner_old, faiss.IndexIVF):
        lists: Any = inner_old.invlists
        entries = inner_old.direct_map.array
        for at in range(count):
            entry, number = entries.at(first + at), int(inner_new.ntotal) + at
            where, offset = entry >> 32, entry & 0xFFFFFFFF
            code = lists.get_single_code(where, offset)
            inner_new.invlists.add_entry(where, number, code)
        inner_new.ntotal += count
    elif isinstance(inner_old, faiss.IndexFlatCodes):
        size = int(inner_old.code_size)
        stored = faiss.rev_swig_ptr(inner_old.codes.data(), int(inner_old.ntotal) * size)
        inner_new.add_sa_codes(np.ascontiguousarray(stored[first * size : (first + count) * size].reshape(count, size)))
    else:  # fast-scan, whose codes are interleaved; it has no lists, and of equal centroids takes the first
        new.add(np.asarray(old.reconstruct_n(first, count)))
        return
    new.ntotal = inner_new.ntotal
