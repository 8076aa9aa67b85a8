"""Write to a collection in Milvus only what it lacks, so that an interrupted build can resume."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import StoreError
from patchify_core.index.codec.projection import Projection
from patchify_core.index.milvus.collection import BOX_FIELDS, MESSAGE_BYTES, MilvusCollection
from patchify_core.index.milvus.connect import WAIT_S, WRITE_S

_DELETED = 1000  # pictures per request
_MAX_KEY = 2**62  # so that no expression overflows


class CollectionWriter:
    """Writes descriptors picture by picture, identified by the digest of their bytes, in batches.

    All rows of a picture are in one request. If a failing server stored only a part of it, the number of rows shows
    that, and the picture is written again.

    Args:
        collection: A loaded collection that fits its recipe.
        projection: To apply to the descriptors; None to write them as they are.

    Attributes:
        known: Digest -> number of each picture in the collection.
    """

    def __init__(self, collection: MilvusCollection, projection: Projection | None = None) -> None:
        self.collection = collection
        self._projection = projection
        self._dim = collection.dim if projection is None else len(projection.mean)
        self.patches = collection.patches
        self.batch = max(1, MESSAGE_BYTES // (4 * collection.dim * self.patches))
        self.known: dict[str, int] = {}
        self.boxes: dict[int, NDArray[np.float32]] = {}
        self._duplicates: list[int] = []
        self._pending: dict[str, NDArray[np.float32]] = {}
        for row in collection.rows("cell == 0", ["picture", "sha256"]):
            if row["sha256"] in self.known:
                self._duplicates.append(int(row["picture"]))
            else:
                self.known[row["sha256"]] = int(row["picture"])
        self._next = max((*self.known.values(), *self._duplicates), default=-1) + 1
        if collection.count() != (len(self.known) + len(self._duplicates)) * self.patches:
            self._delete_partial()

    def __len__(self) -> int:
        """Return the number of pictures added since the last flush."""
        return len(self._pending)

    def add(self, digest: str, rows: NDArray[np.float32]) -> None:
        """Add one picture, which is `known` once it is flushed.

        Args:
            digest: Of the picture's bytes.
            rows: (P, D) float32 descriptors, followed by 4 columns of boxes if the regions depend on the pixels.
        """
        self._pending[digest] = rows

    def flush(self) -> None:
        """Write the added pictures.

        Raises:
            StoreError: The server rejects them.
        """
        pending = list(self._pending.items())
        for start in range(0, len(pending), self.batch):
            self._write(dict(pending[start : start + self.batch]))
        self._pending.clear()

    def _write(self, batch: dict[str, NDArray[np.float32]]) -> None:
        has_boxes, patches = self.collection.has_boxes, self.patches
        rows = []
        numbers = {digest: self._next + at for at, digest in enumerate(batch)}
        if (self._next + len(batch)) * patches >= _MAX_KEY:
            raise StoreError(f"{self.collection.where} has no keys left: use another --collection.")
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
        self.collection.call("accept rows", "upsert", rows, timeout=WRITE_S)
        self._next += len(batch)
        self.known |= numbers

    def finish(self, digests: Iterable[str]) -> NDArray[np.int64]:
        """Write the added pictures and have the server build its index; removed pictures stay until `tidy`.

        Args:
            digests: Of the gallery's pictures, in order; duplicates are allowed.

        Returns:
            (N,) int64 number of each picture in the collection.

        Raises:
            StoreError: Rows are missing from the collection afterwards.
        """
        self.flush()
        self.collection.call("flush its rows", "flush", timeout=WAIT_S)
        self.collection.load()
        count, expected = self.collection.count(), (len(self.known) + len(self._duplicates)) * self.patches
        if count != expected:
            raise StoreError(
                f"{self.collection.where} has {count} rows instead of {expected}: another program writes to it, or "
                "rows were lost; run the index command again."
            )
        return np.array([self.known[digest] for digest in digests], np.int64)

    def tidy(self, numbers: NDArray[np.int64]) -> None:
        """Delete all other pictures, once no index folder lists them any more.

        Args:
            numbers: (N,) int64 numbers of the pictures that stay.

        Raises:
            StoreError: The server fails; the next build deletes them.
        """
        wanted = {*numbers.tolist()}
        self._delete([*self._duplicates, *(number for number in self.known.values() if number not in wanted)])
        self.known = {digest: number for digest, number in self.known.items() if number in wanted}
        self._duplicates = []

    def all_boxes(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the (N, P, 4) boxes of pictures by their numbers, reading those of earlier runs from the server."""
        patches = self.patches
        older = np.array(sorted({int(number) for number in numbers} - {*self.boxes}), np.int64)
        rows = (older[:, None] * patches + np.arange(patches)).reshape(-1)
        for number in older.tolist():
            self.boxes[number] = np.empty((patches, 4), np.float32)
        for column, field in enumerate(BOX_FIELDS):
            for ids, values in self.collection.by_key(rows, field):
                for row, value in zip(ids.tolist(), values, strict=True):
                    self.boxes[row // patches][row % patches, column] = value
        return np.stack([self.boxes[number] for number in numbers.tolist()])

    def _delete_partial(self) -> None:
        """Delete pictures that a failing server stored in part, to be written again."""
        numbers, partial = self.collection.complete_and_partial()
        complete = {*numbers.tolist()}
        self._delete(partial.tolist())
        self.known = {digest: number for digest, number in self.known.items() if number in complete}
        self._duplicates = [number for number in self._duplicates if number in complete]

    def _delete(self, numbers: list[int]) -> None:
        for start in range(0, len(numbers), _DELETED):
            where = f"picture in [{', '.join(map(str, numbers[start : start + _DELETED]))}]"
            self.collection.call("delete rows", "delete", filter=where, timeout=WRITE_S)
