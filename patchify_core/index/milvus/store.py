"""MilvusStore: a gallery's descriptors in Milvus, searched like a `PatchIndex`.

The vectors are in a collection (`collection`), on a server or in a file of Milvus Lite. The index folder says how they
were made and of which pictures: `meta.json`, `pictures.bin` (a `PictureTable`), `numbers.npy` (each picture's number in
the collection) and where needed `projection.npy` and `boxes.npy`. A token is never written into it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.extract import checked_features
from patchify_core.features.maps import KeptMaps
from patchify_core.files import sha256_of_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import BOXES_NAME, FORMAT, NUMBERS_NAME, PICTURES_NAME, PROJECTION_NAME, read_meta
from patchify_core.index.integrity import META_NAME, Digests, damaged, is_whole, opened, steadily
from patchify_core.index.milvus.collection import Collection, Maker
from patchify_core.index.milvus.connect import Address, Connection
from patchify_core.index.milvus.finding import Finder, Found, compared_again
from patchify_core.index.milvus.kinds import UNROUNDED
from patchify_core.index.npy import npy_array
from patchify_core.index.patch_index import RESCORED, Hits, IndexedImage, PatchIndex
from patchify_core.index.picture_table import PictureTable, read_table, write_tables
from patchify_core.regions import Regions, parse_regions

_FILES = frozenset({PICTURES_NAME, NUMBERS_NAME, PROJECTION_NAME, BOXES_NAME})


@dataclass(frozen=True, eq=False)
class Listing:
    """What an index folder knows of a collection in Milvus.

    Attributes:
        maker: what the vectors were made with.
        images: the pictures, in row order.
        numbers: (N,) int64 number of each picture in the collection; pictures of the same bytes share one.
        address: where Milvus is.
        collection: its name there.
        kind: of its index.
        boxes: (N, P, 4) float32 xyxy in pixels where the regions depend on the pixels, else None.
        root: folder that the file names are relative to.
    """

    maker: Maker
    images: PictureTable
    numbers: NDArray[np.int64]
    address: Address
    collection: str
    kind: str
    boxes: NDArray[np.float32] | None = None
    root: Path | None = None


class MilvusStore:
    """A `stores.PatchStore` whose vectors are in Milvus.

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

    def __init__(self, listing: Listing, connection: Connection) -> None:
        """Checks the collection and has it loaded."""
        maker = listing.maker
        self.listing, self.connection = listing, connection
        self.encoder: EncoderInfo = maker.encoder
        self.regions: Regions = maker.regions
        self.features: str = maker.features
        self.projection = maker.projection
        self.root: Path | None = listing.root
        self.maps: KeptMaps | None = None
        self.patches_per_image: int = maker.regions.patches_per_image
        self.collection = Collection(connection, listing.collection, maker)
        self.collection.check()
        self.collection.load()
        self._order = np.argsort(listing.numbers, kind="stable")
        self._sorted = listing.numbers[self._order]
        self.finder = Finder(self.collection, np.unique(listing.numbers), not connection.is_lite)

    @classmethod
    def open(cls, folder: str | Path, token: str | None = None) -> MilvusStore:
        """Opens the index folder and the collection that it names.

        Args:
            folder: made by the index command with `--store milvus`.
            token: of the server; that of the environment variable `MILVUS_TOKEN` by default.

        Raises:
            IndexFolderError: if the folder is not whole.
            StoreError: if Milvus does not answer, or the collection does not fit.
        """
        listing = read_listing(Path(folder), token)
        connection = Connection(listing.address)
        try:
            return cls(listing, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    @property
    def images(self) -> Sequence[IndexedImage]:
        """The pictures, in row order."""
        return self.listing.images

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids in row order."""
        return self.listing.images.ids

    @cached_property
    def row_of(self) -> Mapping[int, int]:
        """Row of each gallery image id."""
        from patchify_core.index.picture_table import RowOf

        return RowOf(self.listing.images)

    @property
    def dim(self) -> int:
        """Dimension of the vectors as they are compared."""
        return self.listing.maker.dim

    @property
    def factory(self) -> str:
        """What an index folder of FAISS would be called that keeps as much: whole vectors, perhaps projected."""
        return "Flat" if self.projection is None else f"PCAH{self.dim},Flat"

    @property
    def bytes_per_patch(self) -> int:
        """Bytes of one vector; Milvus' index comes on top."""
        return 4 * self.dim

    @property
    def bytes_per_image(self) -> float:
        """Bytes of the vectors of one picture."""
        return self.patches_per_image * self.bytes_per_patch

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `PatchIndex.project`."""
        return descriptors if self.projection is None else self.projection(descriptors)

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """(P, 4) xyxy pixel boxes of the patches of the picture in `row`."""
        if self.listing.boxes is not None:
            return self.listing.boxes[row].astype(np.float64)
        image = self.images[row]
        return self.regions.boxes(image.width, image.height)

    def box_of(self, row: int, cell: int) -> NDArray[np.float64]:
        """(4,) xyxy pixel box of one patch of the picture in `row`."""
        if self.listing.boxes is not None:
            return self.listing.boxes[row, cell].astype(np.float64)
        image = self.images[row]
        return self.regions.box(image.width, image.height, cell)

    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 vectors of the picture in `row`."""
        return self.collection.vectors(self.listing.numbers[row : row + 1])[0]

    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """(P,) float32 similarities of the query (dim,) with every patch of the picture in `row`.

        They are computed here, so that they may differ from Milvus' in the last bit.
        """
        scores: NDArray[np.float32] = np.einsum("pd,d->p", self.descriptors_of(row), np.asarray(query, np.float32))
        return scores

    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch; arguments, order and errors are those of `PatchIndex.search`.

        Raises:
            PatchifyError: if an argument does not fit.
            StoreError: if Milvus does not answer.
        """
        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        if query.size != self.dim or not np.isfinite(query).all():
            raise PatchifyError(f"The query must be {self.dim} finite numbers, as {self.encoder.spec} gives them.")
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        used = self.regions.stages[self.checked_level(level) - 1].patches
        pictures = len(self.finder.numbers)
        wanted = pictures if top is None else min(top, pictures)
        again = 0 if self.collection.kind in UNROUNDED else min(max(20, 2 * wanted), RESCORED)
        found = self.finder.find(query, min(max(wanted, again), pictures), used)
        if again:
            found = compared_again(found, query, used, again, self.collection.vectors)
        return self._hits(found)[: len(self.images) if top is None else top]

    def _hits(self, found: Found) -> Hits:
        """Pictures for numbers: pictures of the same bytes share one. Ties go by image id."""
        first = np.searchsorted(self._sorted, found.numbers, "left")
        several = np.searchsorted(self._sorted, found.numbers, "right") - first
        of = np.repeat(np.arange(len(several)), several)
        place = np.arange(len(of)) - np.repeat(np.cumsum(several) - several, several)
        rows = self._order[first[of] + place]
        scores, cells = found.scores[of], found.cells[of]
        order = np.lexsort((self.image_ids[rows], -scores))
        return Hits(rows[order], scores[order], cells[order])

    def checked_level(self, level: int | None) -> int:
        """See `PatchIndex.checked_level`."""
        return PatchIndex.checked_level(self, level)  # type: ignore[arg-type]

    def check_encoder(self, info: EncoderInfo) -> None:
        """See `PatchIndex.check_encoder`."""
        PatchIndex.check_encoder(self, info)  # type: ignore[arg-type]

    def check_pictures(self, root: Path, *, content: bool = False, rows: Iterable[int] | None = None) -> None:
        """See `PatchIndex.check_pictures`."""
        PatchIndex.check_pictures(self, root, content=content, rows=rows)  # type: ignore[arg-type]

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
    """Writes the files into an existing folder; `swap.swap_in` puts it at `out`.

    Raises:
        OSError: if a file cannot be written.
    """
    pictures, projection = io.BytesIO(), listing.maker.projection
    write_tables([listing.images], pictures)
    parts = {
        PICTURES_NAME: pictures.getvalue(),
        NUMBERS_NAME: _npy(listing.numbers),
        PROJECTION_NAME: None if projection is None else projection.to_bytes(),
        BOXES_NAME: None if listing.boxes is None else _npy(listing.boxes),
    }
    files = {}
    for name, data in parts.items():
        if data is not None:
            (folder / name).write_bytes(data)
            digests = Digests()
            digests.update(data)
            files[name] = digests.listed()
    address = listing.address
    uri = _relative(address.uri, out) if address.is_file else address.uri
    where = {"uri": uri, "ca": address.ca, "server_name": address.server_name}
    meta: dict[str, Any] = {"format": FORMAT} | _meta(listing) | {"images": None, "root": root, "files": files}
    meta["store"] |= where
    meta["digest"] = sha256_of_json(meta)
    (folder / META_NAME).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def read_listing(folder: Path, token: str | None = None) -> Listing:
    """Reads an index folder of a `MilvusStore`; every byte is checked first.

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
        encoder, regions = EncoderInfo(**meta["encoder"]), parse_regions(meta["regions"])
        features, root = checked_features(meta["features"]), (folder / meta["root"]).resolve()
        uri, ca, server_name = store["uri"], store["ca"], store["server_name"]
        uri = uri if "://" in uri else str((folder / uri).resolve())
        name, kind = str(store["collection"]), str(store["index"])
    except (KeyError, TypeError, AttributeError):
        raise damaged(folder, META_NAME) from None
    boxes = projection = None
    with opened(place, files, folder) as at:
        for file_name, file in at.items():
            try:
                whole = is_whole(file, files[file_name])
            except (KeyError, TypeError):
                raise damaged(folder, META_NAME) from None
            if not whole:
                raise damaged(folder, file_name)
            file.seek(0)
        try:
            images = read_table(at[PICTURES_NAME])
            numbers = npy_array(at[NUMBERS_NAME].read())
            if PROJECTION_NAME in at:
                projection = Projection.from_bytes(at[PROJECTION_NAME].read())
            if BOXES_NAME in at:
                boxes = npy_array(at[BOXES_NAME].read())
        except ValueError:
            raise damaged(folder, META_NAME) from None
    shape = (len(images), regions.patches_per_image, 4)
    fits = (
        numbers.shape == (len(images),)
        and numbers.dtype == np.int64
        and len(images) > 0
        and (projection is None or len(projection.mean) == encoder.dim)
        and (boxes is not None) == regions.needs_picture
        and (boxes is None or (boxes.shape == shape and boxes.dtype == np.float32))
    )
    if not fits:
        raise damaged(folder, META_NAME)
    address = Address.of(uri, token, ca, server_name)
    return Listing(Maker(encoder, regions, features, projection), images, numbers, address, name, kind, boxes, root)


def _meta(listing: Listing) -> dict[str, Any]:
    maker = listing.maker
    return {
        "encoder": maker.encoder.as_dict(),
        "regions": maker.regions.spec,
        "features": maker.features,
        "factory": "Flat" if maker.projection is None else f"PCAH{maker.dim},Flat",
        "codebook": "uniform",
        "rescore": None,
        "store": {"kind": "milvus", "collection": listing.collection, "index": listing.kind},
    }


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def _relative(path: str, out: Path) -> str:
    """From the index folder, so that both can move together; absolute across drives."""
    try:
        return Path(os.path.relpath(path, out.resolve())).as_posix()
    except ValueError:
        return Path(path).as_posix()


def moved(listing: Listing, address: Address) -> Listing:
    """The same at another address."""
    return replace(listing, address=address)
