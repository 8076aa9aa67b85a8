"""MilvusStore: a gallery's descriptors in Milvus, searched like a `PatchIndex`.

The vectors are in a collection (`collection`) on a server or in a Milvus Lite file. The index folder says how they were
made and of which pictures: `meta.json`, `pictures.bin` (a `PictureTable`), `numbers.npy` (each picture's number in the
collection) and, where needed, `projection.npy` and `boxes.npy`. A token is never written into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, StoreError
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import (
    BOXES_NAME,
    NUMBERS_NAME,
    PICTURES_NAME,
    PROJECTION_NAME,
    FileContent,
    npy_pieces,
    projection_pieces,
    read_beside,
    read_meta,
    write_folder,
)
from patchify_core.index.integrity import META_NAME, damaged, npy_array, open_intact
from patchify_core.index.milvus.collection import MAX_RESULTS, UNROUNDED, MilvusCollection, search_params
from patchify_core.index.milvus.connect import READ_S, Address, MilvusConnection
from patchify_core.index.patch_index import RESCORED
from patchify_core.index.pictures import Pictures, PictureTable, read_table, table_pieces
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import Hits, PatchStore
from patchify_core.index.swap import read_steadily, relative_path

TIE_MARGIN = 8
"""Extra pictures to request from a grouping server, to see whether the last one is tied with others."""

_FILES = frozenset({PICTURES_NAME, NUMBERS_NAME, PROJECTION_NAME, BOXES_NAME})


@dataclass(frozen=True, eq=False)
class Listing:
    """What an index folder stores about a collection in Milvus.

    Attributes:
        recipe: How the vectors were made; its factory is `Flat`, possibly with a projection.
        pictures: The pictures in row order; a `PictureTable` of them.
        numbers: (N,) int64 number of each picture in the collection; pictures with the same bytes share one.
        address: Where Milvus is.
        collection: Name of the collection.
        kind: Kind of its index.
        projection: Applied to the vectors; None for none.
    """

    recipe: Recipe
    pictures: Pictures
    numbers: NDArray[np.int64]
    address: Address
    collection: str
    kind: str
    projection: Projection | None = None

    def meta(self) -> dict[str, Any]:
        """How the vectors were made and where they are, as JSON values."""
        store = {"kind": "milvus", "collection": self.collection, "index": self.kind}
        return self.recipe.as_dict() | {"store": store}


class MilvusStore(PatchStore):
    """A `PatchStore` whose vectors are in Milvus.

    Scores are inner products of full vectors, as computed by Milvus. With an index of codes (IVF_PQ, ...) twice as many
    pictures as wanted, at most `RESCORED`, are re-scored with full vectors. All kinds of index but FLAT are
    approximate: a full ranking may lack pictures at its end. A server that groups chooses among tied patches of a
    picture.

    Args:
        listing: Content of the index folder.
        connection: An open connection to `listing.address`.

    Raises:
        StoreError: The collection is missing or has another recipe.
    """

    def __init__(self, listing: Listing, connection: MilvusConnection) -> None:
        super().__init__(listing.recipe, listing.pictures, listing.projection)
        self.listing, self.connection = listing, connection
        self.collection = MilvusCollection(connection, listing.collection, listing.recipe, listing.projection)
        self.collection.check()
        self.collection.load()
        self._order = np.argsort(listing.numbers, kind="stable")
        self._sorted = listing.numbers[self._order]
        self.finder = Finder(self.collection, np.unique(listing.numbers), not connection.is_lite)

    @classmethod
    def open(cls, folder: str | Path, token: str | None = None) -> MilvusStore:
        """Open an index folder and the collection that it names.

        Args:
            folder: Made by the index command with `--store milvus`.
            token: Of the server; the environment variable `MILVUS_TOKEN` by default.

        Raises:
            IndexFolderError: The folder is damaged.
            StoreError: Milvus does not answer, or the collection does not fit.
        """
        listing = read_listing(Path(folder), token)
        connection = MilvusConnection(listing.address)
        try:
            return cls(listing, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    @property
    def bytes_per_patch(self) -> int:
        """Bytes per vector, without the index of Milvus."""
        return 4 * self.dim

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 vectors of the picture in `row`."""
        return self.collection.vectors(self.listing.numbers[row : row + 1])[0]

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """See `PatchStore.cell_scores`; computed locally, so the last bit may differ from Milvus."""
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self.descriptors_of(row), np.asarray(query, np.float32))
        return scores

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """See `PatchStore.search`.

        Raises:
            PatchifyError: An argument does not fit.
            StoreError: Milvus does not answer.
        """
        query = self.checked_query(query, top)
        used = self.regions.stages[self.checked_level(level) - 1].patches
        pictures = len(self.finder.numbers)
        wanted = pictures if top is None else min(top, pictures)
        rescored = 0 if self.collection.kind in UNROUNDED else min(max(20, 2 * wanted), RESCORED)
        hits = self.finder.find(query, min(max(wanted, rescored), pictures), used)
        if rescored:
            hits = rescore(hits, query, used, rescored, self.collection.vectors)
        return self._with_rows(hits)[: len(self.images) if top is None else top]

    def _with_rows(self, hits: Hits) -> Hits:
        """Replace picture numbers by rows; pictures with the same bytes share a number. Ties by image id."""
        first = np.searchsorted(self._sorted, hits.rows, "left")
        copies = np.searchsorted(self._sorted, hits.rows, "right") - first
        hit = np.repeat(np.arange(len(copies)), copies)
        copy = np.arange(len(hit)) - np.repeat(np.cumsum(copies) - copies, copies)
        rows = self._order[first[hit] + copy]
        scores, cells = hits.scores[hit], hits.cells[hit]
        order = np.lexsort((self.image_ids[rows], -scores))
        return Hits(rows[order], scores[order], cells[order])

    def lost(self) -> int:
        """Count the pictures of which the collection lacks patches.

        Raises:
            StoreError: Milvus does not answer.
        """
        stored = np.fromiter((row["picture"] for row in self.collection.rows("cell == 0", ["picture"])), np.int64)
        if self.collection.count() != len(stored) * self.patches_per_image:
            stored, _ = self.collection.complete_and_partial()
        return int((~np.isin(self.listing.numbers, stored)).sum())

    def meta(self) -> dict[str, Any]:
        """How the vectors were made and where they are, as JSON values."""
        return self.listing.meta()


@dataclass
class Finder:
    """Finds the best patch per picture in a collection. Here the rows of `Hits` are picture numbers.

    It uses the first of three ways that works: the server groups by picture; it returns more and more patches until
    they cover enough pictures; it returns all patches of one range of pictures after the other, for full rankings
    beyond the `MAX_RESULTS` rows of one response.

    Attributes:
        collection: A loaded collection.
        numbers: (K,) int64 ascending numbers of the indexed pictures; others in the collection are ignored.
        groups: Whether the server groups. Milvus Lite does, but only among ten patches per picture wanted.
        most: Maximum rows of a response.
    """

    collection: MilvusCollection
    numbers: NDArray[np.int64]
    groups: bool
    most: int = MAX_RESULTS

    def find(self, query: NDArray[np.float32], wanted: int, used: int) -> Hits:
        """Find the best patch of each of the best pictures.

        Args:
            query: (dim,) float32.
            wanted: Number of pictures, 1..K.
            used: How many of the first patches of each picture to use, 1..P.

        Returns:
            `wanted` pictures and all that tie with the last one, in descending score; fewer if the index finds fewer.
        """
        where = "" if used == self.collection.patches else f"cell < {used}"
        if self.groups and wanted < min(len(self.numbers), self.most):
            hits = self._grouped(query, wanted, where)
            if hits is not None:
                return hits
        if wanted <= self.most:
            hits = self._by_patches(query, wanted, used, where)
            if hits is not None:
                return hits
        return self._all(query, used, where)

    def _grouped(self, query: NDArray[np.float32], wanted: int, where: str) -> Hits | None:
        """Let the server group; return None if it cannot with this index, or finds too few."""
        limit = min(wanted + TIE_MARGIN, len(self.numbers), self.most)
        while True:
            try:
                best = _best_patches(self._indexed(self._search(query, limit, where, group_by_field="picture")))
            except StoreError as error:
                message = str(getattr(error.__cause__, "message", "")).lower()  # without the user's address
                if any(word in message for word in ("group", "iterator")):
                    self.groups = False  # IVF_PQ, and indexes on a GPU
                    return None
                raise
            if len(best.scores) < min(limit, len(self.numbers)):
                return None
            if limit == min(len(self.numbers), self.most) or best.scores[-1] < best.scores[wanted - 1]:
                return best
            limit = min(2 * limit, len(self.numbers), self.most)

    def _by_patches(self, query: NDArray[np.float32], wanted: int, used: int, where: str) -> Hits | None:
        """Request more and more patches; return None if the largest response does not suffice."""
        available = len(self.numbers) * used
        fetch = min(self.most, available, max(64, 4 * wanted) if wanted < len(self.numbers) else available)
        while True:
            patches = self._search(query, fetch, where)
            indexed = self._indexed(patches)
            best = _best_patches(indexed)
            enough = len(best.scores) >= wanted and patches.scores[-1] < best.scores[wanted - 1]
            if enough or len(indexed.scores) == available or len(patches.scores) < fetch:
                return best
            if fetch == self.most:
                return None
            fetch = min(self.most, 4 * fetch)

    def _all(self, query: NDArray[np.float32], used: int, where: str) -> Hits:
        """Find the best patch of every picture, one range of pictures after the other."""
        step = max(1, self.most // used)
        ranges = []
        for start in range(0, len(self.numbers), step):
            numbers = self.numbers[start : start + step]
            within = f"picture >= {numbers[0]} and picture <= {numbers[-1]}"
            patches = self._search(query, self.most, f"{within} and {where}" if where else within)
            ranges.append(_best_patches(self._indexed(patches)))
        return _best_patches(reduce(Hits.followed_by, ranges))

    def _search(self, query: NDArray[np.float32], limit: int, where: str, **options: str) -> Hits:
        collection = self.collection
        results = collection.call(
            "search",
            "search",
            data=[query.tolist()],
            anns_field="vector",
            limit=int(limit),
            filter=where,
            output_fields=["cell"],  # Milvus Lite would send the vectors too
            search_params={"metric_type": "IP", "params": search_params(collection.kind, int(limit))},
            timeout=READ_S,
            **options,
        )[0]
        numbers, cells = np.divmod(np.array([hit["id"] for hit in results], np.int64), collection.patches)
        return Hits(numbers, np.array([hit["distance"] for hit in results], np.float32), cells)

    def _indexed(self, hits: Hits) -> Hits:
        """Drop pictures that the index does not list, which another index command is adding."""
        if not len(self.numbers) or not len(hits.rows):
            return hits
        at = np.searchsorted(self.numbers, hits.rows).clip(max=len(self.numbers) - 1)
        return hits[np.flatnonzero(self.numbers[at] == hits.rows)]


def _best_patches(hits: Hits) -> Hits:
    """Return the best patch of each picture, best first; of tied patches the coarser one."""
    order = np.lexsort((hits.cells, hits.rows, -hits.scores))
    _, first = np.unique(hits.rows[order], return_index=True)
    return hits[order[np.sort(first)]]


def rescore(
    hits: Hits,
    query: NDArray[np.float32],
    used: int,
    count: int,
    vectors: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> Hits:
    """Re-score and re-order the first `count` pictures with their full vectors; the others follow unchanged.

    Args:
        hits: The ranking; its rows are picture numbers.
        query: (dim,) float32.
        used: How many of the first patches of each picture to use, 1..P.
        count: How many pictures.
        vectors: Picture numbers (K,) -> (K, P, dim) float32.
    """
    first = hits[:count]
    if not len(first.scores):
        return hits
    scores = np.einsum("npd,d->np", vectors(first.rows)[:, :used], query).astype(np.float32)
    first = Hits(first.rows, scores.max(axis=1), scores.argmax(axis=1).astype(np.int64))
    return first[np.lexsort((first.rows, -first.scores))].followed_by(hits[count:])


def is_listing(folder: Path) -> bool:
    """Whether an index folder has its vectors in Milvus; False if it is not an index folder."""
    try:
        return isinstance(read_meta(folder).get("store"), dict)
    except IndexFolderError:
        return False


def write_listing(listing: Listing, folder: Path, out: Path, root: str) -> None:
    """Write the files of an index into an existing folder, which `swap_in` then moves to `out`.

    Raises:
        OSError: A file cannot be written.
    """
    address = listing.address
    uri = relative_path(Path(address.uri), out) if address.is_file else address.uri
    meta = listing.meta() | {"images": None, "root": root}
    meta["store"] |= {"uri": uri, "ca": address.ca, "server_name": address.server_name}
    files: dict[str, FileContent] = {
        PICTURES_NAME: table_pieces([PictureTable.of(listing.pictures.images)]),
        NUMBERS_NAME: npy_pieces(listing.numbers),
        PROJECTION_NAME: projection_pieces(listing.projection),
        BOXES_NAME: npy_pieces(listing.pictures.boxes),
    }
    write_folder(folder, meta, files)


def read_listing(folder: Path, token: str | None = None) -> Listing:
    """Read the index folder of a `MilvusStore` after checking every byte.

    Raises:
        IndexFolderError: It is missing, damaged or of another kind.
        StoreError: Its address cannot be used.
    """
    return read_steadily(folder, lambda place: _read(place, folder, token))


def checked_listing_files(meta: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the file entries in `meta.json`; raise IndexFolderError unless they are those of a `MilvusStore`."""
    files = meta["files"]
    if meta["store"]["kind"] != "milvus" or not {PICTURES_NAME, NUMBERS_NAME} <= {*files} <= _FILES:
        raise damaged(folder, META_NAME)
    return dict(files)


def _read(place: Path, folder: Path, token: str | None) -> Listing:
    meta = read_meta(folder)
    try:
        store, files = meta["store"], checked_listing_files(meta, folder)
        recipe, root = Recipe.from_meta(meta), (folder / meta["root"]).resolve()
        uri, ca, server_name = store["uri"], store["ca"], store["server_name"]
        uri = uri if "://" in uri else str((folder / uri).resolve())
        name, kind = str(store["collection"]), str(store["index"])
    except (KeyError, TypeError, AttributeError):
        raise damaged(folder, META_NAME) from None
    with open_intact(place, files, folder) as at:
        try:
            images, numbers = read_table(at[PICTURES_NAME]), npy_array(at[NUMBERS_NAME].read())
            projection, boxes, _ = read_beside(at, folder)
            pictures = Pictures(images, root, boxes)
            pictures.check(recipe)
            recipe.check_projection(projection)
        except ValueError:
            raise damaged(folder, META_NAME) from None
    if numbers.shape != (len(images),) or numbers.dtype != np.int64 or not len(images):
        raise damaged(folder, META_NAME)
    address = Address.of(uri, token, ca, server_name)
    return Listing(recipe, pictures, numbers, address, name, kind, projection)
