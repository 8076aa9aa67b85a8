"""MilvusStore: a gallery's descriptors in Milvus, searched like a `PatchIndex`.

The vectors are in a collection (`collection`), on a server or in a file of Milvus Lite. The index folder says how they
were made and of which pictures: `meta.json`, `pictures.bin` (a `PictureTable`), `numbers.npy` (each picture's number in
the collection) and where needed `projection.npy` and `boxes.npy`. A token is never written into it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
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
from patchify_core.index.integrity import (
    META_NAME,
    damaged,
    npy_array,
    open_intact,
    steadily,
)
from patchify_core.index.milvus.collection import UNROUNDED, MilvusCollection
from patchify_core.index.milvus.connect import Address, MilvusConnection
from patchify_core.index.milvus.finding import Finder, FoundPatches, compared_again
from patchify_core.index.patch_index import RESCORED
from patchify_core.index.pictures import Pictures, PictureTable, read_table, table_pieces
from patchify_core.index.recipe import Recipe
from patchify_core.index.store import Hits, PatchStore

_FILES = frozenset({PICTURES_NAME, NUMBERS_NAME, PROJECTION_NAME, BOXES_NAME})


@dataclass(frozen=True, eq=False)
class Listing:
    """What an index folder knows of a collection in Milvus.

    Attributes:
        recipe: how the vectors were made; its factory is `Flat`, perhaps with a projection.
        pictures: the pictures, in row order; a `PictureTable` of them.
        numbers: (N,) int64 number of each picture in the collection; pictures of the same bytes share one.
        address: where Milvus is.
        collection: its name there.
        kind: of its index.
        projection: what was applied to the vectors; None for nothing.
    """

    recipe: Recipe
    pictures: Pictures
    numbers: NDArray[np.int64]
    address: Address
    collection: str
    kind: str
    projection: Projection | None = None


class MilvusStore(PatchStore):
    """A `PatchStore` whose vectors are in Milvus.

    Scores are inner products of whole vectors, as Milvus computes them. With an index that keeps codes (IVF_PQ, ...)
    twice as many pictures as wanted, `RESCORED` at most, are compared again with the whole vectors; with one that
    visits a part (all but FLAT) pictures may be missing at the end of a whole ranking. Where a server groups, it
    chooses among equally good patches of a picture.

    Args:
        listing: what the index folder knows.
        connection: an open one to `listing.address`.

    Raises:
        StoreError: if the collection is missing or was made otherwise.
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
        """Open the index folder and the collection that it names.

        Args:
            folder: made by the index command with `--store milvus`.
            token: of the server; that of the environment variable `MILVUS_TOKEN` by default.

        Raises:
            IndexFolderError: if the folder is not whole.
            StoreError: if Milvus does not answer, or the collection does not fit.
        """
        listing = read_listing(Path(folder), token)
        connection = MilvusConnection(listing.address)
        try:
            return cls(listing, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """End the connection."""
        self.connection.close()

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of one vector; Milvus' index comes on top."""
        return 4 * self.dim

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 vectors of the picture in `row`."""
        return self.collection.vectors(self.listing.numbers[row : row + 1])[0]

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """See `PatchStore.cell_scores`; computed here, so that they may differ from Milvus' in the last bit."""
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self.descriptors_of(row), np.asarray(query, np.float32))
        return scores

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """See `PatchStore.search`.

        Raises:
            PatchifyError: if an argument does not fit.
            StoreError: if Milvus does not answer.
        """
        query = self.checked_query(query, top)
        used = self.regions.stages[self.checked_level(level) - 1].patches
        pictures = len(self.finder.numbers)
        wanted = pictures if top is None else min(top, pictures)
        again = 0 if self.collection.kind in UNROUNDED else min(max(20, 2 * wanted), RESCORED)
        found = self.finder.find(query, min(max(wanted, again), pictures), used)
        if again:
            found = compared_again(found, query, used, again, self.collection.vectors)
        return self._hits(found)[: len(self.images) if top is None else top]

    def _hits(self, found: FoundPatches) -> Hits:
        """Pictures for numbers: pictures of the same bytes share one. Ties go by image id."""
        first = np.searchsorted(self._sorted, found.numbers, "left")
        several = np.searchsorted(self._sorted, found.numbers, "right") - first
        of = np.repeat(np.arange(len(several)), several)
        place = np.arange(len(of)) - np.repeat(np.cumsum(several) - several, several)
        rows = self._order[first[of] + place]
        scores, cells = found.scores[of], found.cells[of]
        order = np.lexsort((self.image_ids[rows], -scores))
        return Hits(rows[order], scores[order], cells[order])

    def lost(self) -> int:
        """How many of the pictures the collection no longer has every patch of.

        Raises:
            StoreError: one sentence, if Milvus does not answer.
        """
        held = np.fromiter((row["picture"] for row in self.collection.rows("cell == 0", ["picture"])), np.int64)
        if self.collection.count() != len(held) * self.patches_per_image:
            held, _ = self.collection.whole_and_torn()
        return int((~np.isin(self.listing.numbers, held)).sum())

    def meta(self) -> dict[str, Any]:
        """How the vectors were made, as plain JSON values."""
        return _meta(self.listing)


def is_listing(folder: Path) -> bool:
    """Whether an index folder keeps its vectors in Milvus; False where it is none at all."""
    try:
        return isinstance(read_meta(folder).get("store"), dict)
    except IndexFolderError:
        return False


def write_listing(listing: Listing, folder: Path, out: Path, root: str) -> None:
    """Write the files into an existing folder; `swap.swap_in` puts it at `out`.

    Raises:
        OSError: if a file cannot be written.
    """
    address = listing.address
    uri = _relative(address.uri, out) if address.is_file else address.uri
    meta = _meta(listing) | {"images": None, "root": root}
    meta["store"] |= {"uri": uri, "ca": address.ca, "server_name": address.server_name}
    files: dict[str, FileContent] = {
        PICTURES_NAME: table_pieces([PictureTable.of(listing.pictures.images)]),
        NUMBERS_NAME: npy_pieces(listing.numbers),
        PROJECTION_NAME: projection_pieces(listing.projection),
        BOXES_NAME: npy_pieces(listing.pictures.boxes),
    }
    write_folder(folder, meta, files)


def read_listing(folder: Path, token: str | None = None) -> Listing:
    """Read an index folder of a `MilvusStore`; every byte is checked first.

    Raises:
        IndexFolderError: one sentence, if it is missing, damaged or of another kind.
        StoreError: if the address in it cannot be used.
    """
    return steadily(folder, lambda place: _read(place, folder, token))


def checked_listing_files(meta: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The files that `meta.json` lists, by name; raises IndexFolderError unless they are those of a `MilvusStore`."""
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
    fits = numbers.shape == (len(images),) and numbers.dtype == np.int64 and len(images) > 0
    if not fits:
        raise damaged(folder, META_NAME)
    address = Address.of(uri, token, ca, server_name)
    return Listing(recipe, pictures, numbers, address, name, kind, projection)


def _meta(listing: Listing) -> dict[str, Any]:
    where = {"kind": "milvus", "collection": listing.collection, "index": listing.kind}
    return listing.recipe.as_dict() | {"store": where}


def _relative(path: str, out: Path) -> str:
    """From the index folder, so that both can move together; absolute across drives."""
    try:
        return Path(os.path.relpath(path, out.resolve())).as_posix()
    except ValueError:
        return Path(path).as_posix()
