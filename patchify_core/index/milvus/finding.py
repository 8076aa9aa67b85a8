"""Pictures from patches: what a Milvus search finds, grouped by picture, certain and in one order.

Three ways, the first that serves: the server groups (`group_by_field`); it is asked for more and more patches until
they hold enough pictures; it is asked for every patch of one run of pictures after the other, for whole rankings
beyond the `MOST_RESULTS` rows that a server gives at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import StoreError
from patchify_core.index.milvus.collection import MOST_RESULTS, MilvusCollection, search_params
from patchify_core.index.milvus.connect import READ_S

TIE_MARGIN = 8
"""Pictures more than wanted that a grouping server is asked for at first, to see whether the last one has equals."""


@dataclass(frozen=True)
class FoundPatches:
    """Patches that a server found, best first, as parallel arrays.

    Attributes:
        numbers: (K,) int64 numbers of their pictures in the collection.
        cells: (K,) int64.
        scores: (K,) float32 similarities.
    """

    numbers: NDArray[np.int64]
    cells: NDArray[np.int64]
    scores: NDArray[np.float32]

    def best(self) -> FoundPatches:
        """The best patch of each picture, best first; within a picture, the coarser of two that are equally good."""
        order = np.lexsort((self.cells, self.numbers, -self.scores))
        _, first = np.unique(self.numbers[order], return_index=True)
        return self.at(order[np.sort(first)])

    def at(self, chosen: NDArray[np.intp] | NDArray[np.bool_] | slice) -> FoundPatches:
        """Some of them."""
        return FoundPatches(self.numbers[chosen], self.cells[chosen], self.scores[chosen])


@dataclass
class Finder:
    """Searches one collection.

    Attributes:
        collection: a loaded one.
        numbers: (K,) int64 ascending numbers of the pictures that count; others in the collection are left out.
        groups: whether the server is asked to group. Milvus Lite can, but only among ten patches per picture wanted.
        most: rows that the server gives at a time, at most.
    """

    collection: MilvusCollection
    numbers: NDArray[np.int64]
    groups: bool
    most: int = MOST_RESULTS
    asked: int = field(default=0, init=False)

    def find(self, query: NDArray[np.float32], wanted: int, used: int) -> FoundPatches:
        """The best patch of each of the best pictures, best first.

        Args:
            query: (dim,) float32.
            wanted: pictures, 1..K.
            used: the first patches of each picture that count, 1..P.

        Returns:
            `wanted` pictures and all that are as good as the last one, in descending score, or all that the index can
            find if that is fewer.
        """
        which = "" if used == self.collection.patches else f"cell < {used}"
        if self.groups and wanted < min(len(self.numbers), self.most):
            grouped = self._grouped(query, wanted, which)
            if grouped is not None:
                return grouped
        if wanted <= self.most:
            found = self._by_patches(query, wanted, used, which)
            if found is not None:
                return found
        return self._all(query, used, which)

    def _grouped(self, query: NDArray[np.float32], wanted: int, which: str) -> FoundPatches | None:
        """What the server's own grouping gives; None where it has none for this index, or finds too few."""
        limit = min(wanted + TIE_MARGIN, len(self.numbers), self.most)
        while True:
            try:
                found = self._known(self._ask(query, limit, which, group_by_field="picture"))
            except StoreError as error:
                said = str(getattr(error.__cause__, "message", "")).lower()  # without the address, as a person gave it
                if any(word in said for word in ("group", "iterator")):
                    self.groups = False  # IVF_PQ, and what runs on a GPU
                    return None
                raise
            best = found.best()
            if len(best.scores) < min(limit, len(self.numbers)):
                return None
            if limit == min(len(self.numbers), self.most) or best.scores[-1] < best.scores[wanted - 1]:
                return best
            limit = min(2 * limit, len(self.numbers), self.most)

    def _by_patches(self, query: NDArray[np.float32], wanted: int, used: int, which: str) -> FoundPatches | None:
        """Ask for more and more patches; None where the most that the server gives are not enough."""
        available = len(self.numbers) * used
        fetch = min(self.most, available, max(64, 4 * wanted) if wanted < len(self.numbers) else available)
        while True:
            every = self._ask(query, fetch, which)
            found = self._known(every)
            best = found.best()
            sure = len(best.scores) >= wanted and every.scores[-1] < best.scores[wanted - 1]
            if sure or len(found.scores) == available or len(every.scores) < fetch:
                return best
            if fetch == self.most:
                return None
            fetch = min(self.most, 4 * fetch)

    def _all(self, query: NDArray[np.float32], used: int, which: str) -> FoundPatches:
        """The best patch of every picture, some pictures at a time."""
        step = max(1, self.most // used)
        parts = []
        for start in range(0, len(self.numbers), step):
            part = self.numbers[start : start + step]
            run = f"picture >= {part[0]} and picture <= {part[-1]}"
            parts.append(self._known(self._ask(query, self.most, f"{run} and {which}" if which else run)).best())
        joined = FoundPatches(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in FoundPatches.__annotations__)
        )
        return joined.best()

    def _ask(self, query: NDArray[np.float32], limit: int, which: str, **options: str) -> FoundPatches:
        collection = self.collection
        found = collection.call(
            "search",
            "search",
            data=[query.tolist()],
            anns_field="vector",
            limit=int(limit),
            filter=which,
            output_fields=["cell"],  # Milvus Lite would send the vectors too
            search_params={"metric_type": "IP", "params": search_params(collection.kind, int(limit))},
            timeout=READ_S,
            **options,
        )[0]
        self.asked += 1
        numbers, cells = np.divmod(np.array([hit["id"] for hit in found], np.int64), collection.patches)
        return FoundPatches(numbers, cells, np.array([hit["distance"] for hit in found], np.float32))

    def _known(self, found: FoundPatches) -> FoundPatches:
        """Without pictures of the collection that the index does not list: another index command is adding them."""
        if not len(self.numbers) or not len(found.numbers):
            return found
        at = np.searchsorted(self.numbers, found.numbers).clip(max=len(self.numbers) - 1)
        known = self.numbers[at] == found.numbers
        return found if known.all() else found.at(known)


Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Numbers of pictures (K,) -> (K, P, dim) float32."""


def compared_again(
    found: FoundPatches, query: NDArray[np.float32], used: int, first: int, vectors: Vectors
) -> FoundPatches:
    """The same pictures, the first of them by their whole vectors instead of codes; the others follow as they were."""
    front = found.at(slice(0, first))
    if not len(front.scores):
        return found
    scores = np.einsum("npd,d->np", vectors(front.numbers)[:, :used], query).astype(np.float32)
    again = FoundPatches(front.numbers, scores.argmax(axis=1).astype(np.int64), scores.max(axis=1))
    order = np.lexsort((again.numbers, -again.scores))
    rest = found.at(slice(first, None))
    parts = [(getattr(again.at(order), name), getattr(rest, name)) for name in FoundPatches.__annotations__]
    return FoundPatches(*(np.concatenate(pair) for pair in parts))
