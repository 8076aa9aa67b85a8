"""Fills a collection in Milvus: only what it does not hold yet, so that a build may be cut anywhere and go on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import StoreError
from patchify_core.index.codec.projection import Projection
from patchify_core.index.milvus.collection import BOX_FIELDS, MESSAGE_BYTES, MilvusCollection
from patchify_core.index.milvus.connect import WAIT_S, WRITE_S

_DELETED = 1000  # pictures in one request
_NUMBERS = 2**62  # row numbers stay below, so that no expression overflows


class CollectionWriter:
    """Takes descriptors picture by picture, known by the digests of their bytes, and upserts them in batches.

    A picture goes over whole, in one request; one that a failing server kept in part is found by the number of rows
    and written again.

    Args:
        collection: that fits its recipe, loaded.
        projection: what descriptors are to be projected with; None where they come as they are written.

    Attributes:
        known: digest -> number of each picture that the collection holds.
    """

    def __init__(self, collection: MilvusCollection, projection: Projection | None = None) -> None:
        self.collection = collection
        self._projection = projection
        self._dim = collection.dim if projection is None else len(projection.mean)
        self.patches = collection.patches
        self.batch = max(1, MESSAGE_BYTES // (4 * collection.dim * self.patches))
        self.known: dict[str, int] = {}
        self.boxes: dict[int, NDArray[np.float32]] = {}
        self._surplus: list[int] = []
        self._fresh: dict[str, NDArray[np.float32]] = {}
        for row in collection.rows("cell == 0", ["picture", "sha256"]):
            if row["sha256"] in self.known:
                self._surplus.append(int(row["picture"]))
            else:
                self.known[row["sha256"]] = int(row["picture"])
        self._next = max((*self.known.values(), *self._surplus), default=-1) + 1
        if collection.count() != (len(self.known) + len(self._surplus)) * self.patches:
            self._delete_parts()

    def __len__(self) -> int:
        """Pictures added since the last flush."""
        return len(self._fresh)

    def add(self, digest: str, rows: NDArray[np.float32]) -> None:
        """Take one picture; it is `known` once it is flushed.

        Args:
            digest: of the picture's bytes.
            rows: (P, D) float32 descriptors as the encoder gave them, with 4 columns more, the boxes, where the regions
                need the picture.
        """
        self._fresh[digest] = rows

    def flush(self) -> None:
        """Write what is fresh.

        Raises:
            StoreError: one sentence, if the server does not take it.
        """
        fresh = list(self._fresh.items())
        for start in range(0, len(fresh), self.batch):
            self._write(dict(fresh[start : start + self.batch]))
        self._fresh.clear()

    def _write(self, batch: dict[str, NDArray[np.float32]]) -> None:
        has_boxes, patches = self.collection.has_boxes, self.patches
        rows = []
        numbers = {digest: self._next + at for at, digest in enumerate(batch)}
        if (self._next + len(batch)) * patches >= _NUMBERS:
            raise StoreError(f"{self.collection.where} has no numbers left: use another --collection.")
        for digest, values in batch.items():
            number = numbers[digest]
            vectors, boxes = values[:, : self._dim], values[:, self._dim :]
            if self._projection is not None:
                vectors = self._projection(vectors)
            for cell, vector in enumerate(np.ascontiguousarray(vectors, np.float32)):
                row = {
                    "id": number * patches + cell,
                    "picture": number,
                    "cell": cell,
                    "sha256": "" if cell else digest,
                    "vector": vector,
                }
                if has_boxes:
                    row |= dict(zip(BOX_FIELDS, boxes[cell].tolist(), strict=True))
                rows.append(row)
            if has_boxes:
                self.boxes[number] = boxes.astype(np.float32)
        self.collection.call("take rows", "upsert", rows, timeout=WRITE_S)
        self._next += len(batch)
        self.known |= numbers

    def finish(self, digests: Iterable[str]) -> NDArray[np.int64]:
        """Write what is fresh and has the server make its index; what vanished is there until `tidy`.

        Args:
            digests: of the gallery's pictures, in order; a picture may be there twice.

        Returns:
            (N,) int64 number of each picture in the collection.

        Raises:
            StoreError: one sentence, if the collection does not hold what was written afterwards.
        """
        self.flush()
        self.collection.call("write down what it was given", "flush", timeout=WAIT_S)
        self.collection.load()
        there, expected = self.collection.count(), (len(self.known) + len(self._surplus)) * self.patches
        if there != expected:
            raise StoreError(
                f"{self.collection.where} holds {there} rows, not {expected}: another program writes into it, or "
                "a part was lost; run the index command again."
            )
        return np.array([self.known[digest] for digest in digests], np.int64)

    def tidy(self, numbers: NDArray[np.int64]) -> None:
        """Delete all other pictures than these, once no index folder lists them any more.

        Args:
            numbers: (N,) int64 of the pictures that stay.

        Raises:
            StoreError: one sentence, if the server does not do it; the next build will.
        """
        wanted = {*numbers.tolist()}
        self._delete([*self._surplus, *(number for number in self.known.values() if number not in wanted)])
        self.known = {digest: number for digest, number in self.known.items() if number in wanted}
        self._surplus = []

    def all_boxes(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N, P, 4) boxes of pictures, by their numbers: those of earlier runs are asked for."""
        patches = self.patches
        older = np.array(sorted({int(number) for number in numbers} - {*self.boxes}), np.int64)
        rows = (older[:, None] * patches + np.arange(patches)).reshape(-1)
        for number in older.tolist():
            self.boxes[number] = np.empty((patches, 4), np.float32)
        for column, field in enumerate(BOX_FIELDS):
            for ids, values in self.collection.by_number(rows, field):
                for row, value in zip(ids.tolist(), values, strict=True):
                    self.boxes[row // patches][row % patches, column] = value
        return np.stack([self.boxes[number] for number in numbers.tolist()])

    def _delete_parts(self) -> None:
        """After a server failed in the middle of a request: pictures with too few rows go, to be written anew."""
        found, torn = self.collection.whole_and_torn()
        whole = {*found.tolist()}
        self._delete(torn.tolist())
        self.known = {digest: number for digest, number in self.known.items() if number in whole}
        self._surplus = [number for number in self._surplus if number in whole]

    def _delete(self, numbers: list[int]) -> None:
        for start in range(0, len(numbers), _DELETED):
            which = f"picture in [{', '.join(map(str, numbers[start : start + _DELETED]))}]"
            self.collection.call("delete rows", "delete", filter=which, timeout=WRITE_S)
