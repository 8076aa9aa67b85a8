"""A collection of patches in Milvus: schema, index, metadata, and reading rows.

There is one row per patch. Field `picture` is the picture's number, which does not change when the gallery is renamed
or reordered. The primary key is picture * patches per picture + cell, so writing a row twice stores it once. The row of
patch 0 has the digest of the picture's bytes, so that the collection itself says which pictures it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import StoreError
from patchify_core.files import read_json, sha256_of_bytes, sha256_of_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.milvus.connect import WAIT_S, MilvusConnection
from patchify_core.index.recipe import Recipe

MAX_RESULTS = 16_384
"""Maximum rows in a response of a Milvus server."""
MESSAGE_BYTES = 16 << 20
"""Maximum size of the vectors in one message; a server accepts 64 MB."""
PROPERTY = "patchify"
BOX_FIELDS = ("x1", "y1", "x2", "y2")
LITE_KINDS = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
"""Index kinds of Milvus Lite 3.2. It accepts IVF_PQ too, and then fails in the background."""

UNROUNDED = ("FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX")
"""Index kinds that compare queries with full vectors. Others compare codes; their top pictures are re-scored with the
full vectors, which Milvus stores too."""

LISTS, PROBES, NEIGHBOURS, CONSTRUCTION, SEARCH_WIDTH = 1024, 64, 16, 200, 128
"""Inverted files: lists per segment, and lists that a search visits. HNSW: links per vector, candidates during the
build, and minimum candidates during a search."""

NEW_PROJECTION = "new"
"""Digest of a projection that is not learned yet; no collection has it."""

_STRONG = {"consistency_level": "Strong"}  # include rows written a moment ago


def maker_of(recipe: Recipe, projection: Projection | None = None) -> dict[str, Any]:
    """Return collection metadata, as JSON values that differ whenever vectors cannot be mixed.

    Args:
        recipe: How the vectors were made.
        projection: Applied to them; None for none, or if it is not learned yet.
    """
    return {
        "encoder": recipe.encoder.spec,
        "weights": sha256_of_json(recipe.encoder.as_dict()),
        "regions": recipe.regions.spec,
        "features": recipe.features,
        "projection": None if projection is None else sha256_of_bytes(projection.to_bytes()),
        "dim": recipe.encoder.dim if projection is None else projection.dim,
    }


class MilvusCollection:
    """One collection; see the module.

    Args:
        connection: An open connection.
        name: Name of the collection.
        recipe: How its vectors are made.
        projection: Applied to them; None for none.
    """

    def __init__(self, connection: MilvusConnection, name: str, recipe: Recipe, projection: Projection | None) -> None:
        self.connection, self.name = connection, name
        self.maker = maker_of(recipe, projection)
        self.dim = recipe.encoder.dim if projection is None else projection.dim
        self.patches, self.has_boxes = recipe.regions.patches_per_image, recipe.regions.needs_picture
        self.kind = ""

    @property
    def where(self) -> str:
        """The collection as the subject of an error message."""
        return f"The collection {self.name} in {self.connection.address.uri}"

    def call(self, doing: str, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the client with this collection; see `MilvusConnection.call`."""
        return self.connection.call(doing, getattr(self.connection.client, method), self.name, *arguments, **named)

    def exists(self) -> bool:
        """Whether the collection exists."""
        return bool(self.call("check for a collection", "has_collection"))

    def check(self, gallery: str | None = None) -> None:
        """Check that the collection has the expected recipe and gallery.

        Args:
            gallery: Root of the gallery; None to skip that check.

        Raises:
            StoreError: The collection is missing or differs; the message names the difference.
        """
        if not self.exists():
            raise StoreError(
                f"{self.where} is missing: run the index command again, or check that this is the right Milvus."
            )
        description = self.call("describe a collection", "describe_collection")
        metadata = _metadata(description)
        if metadata is None:
            raise StoreError(f"{self.where} was not made by this program: choose another name with --collection.")
        stored = metadata["maker"]
        for key in ("encoder", "weights", "regions", "features", "projection", "dim"):
            if stored.get(key) != self.maker[key]:
                had, wanted = (_described(key, values) for values in (stored, self.maker))
                raise StoreError(
                    f"{self.where} was made with {had}, not with {wanted}: choose another name with --collection, or "
                    "build it again."
                )
        vectors: dict[str, Any] = next(
            (one for one in description.get("fields", []) if one.get("name") == "vector"), {}
        )
        if int(vectors.get("params", {}).get("dim", 0)) != self.dim:
            raise StoreError(f"{self.where} has no vectors of {self.dim} numbers: choose another --collection.")
        if gallery is not None and metadata.get("gallery") != gallery:
            raise StoreError(
                f"{self.where} has another gallery, {metadata.get('gallery')}, whose pictures would be deleted: "
                "choose another name with --collection."
            )

    def create(self, gallery: str, kind: str) -> None:
        """Create the empty collection with an index of this kind.

        Raises:
            StoreError: The server refuses, for instance because it has no such index.
        """
        from pymilvus import DataType, MilvusClient

        metadata = json.dumps({"format": 1, "maker": self.maker, "gallery": gallery})
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=metadata)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("picture", DataType.INT64)
        schema.add_field("cell", DataType.INT16)
        schema.add_field("sha256", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        if self.has_boxes:
            for name in BOX_FIELDS:
                schema.add_field(name, DataType.FLOAT)
        self.call("create a collection", "create_collection", schema=schema, properties={PROPERTY: metadata})
        try:
            self.use_index(kind)
        except StoreError:
            self.call("delete a collection", "drop_collection")
            raise

    def use_index(self, kind: str) -> None:
        """Have the server build an index of this kind, replacing another one if there is one.

        Raises:
            StoreError: The server has no such kind.
        """
        before = self.index_kind()
        if before == kind:
            self.kind = kind
            return
        if before:
            self.call("release a collection", "release_collection")
            self.call("delete an index", "drop_index", "vector")
        try:
            self._create_index(kind)
        except StoreError as error:
            if before:  # others may be searching it
                self._create_index(before)
                self.load()
            raise StoreError(
                f"{str(error).rstrip('.')}: choose another kind with --milvus-index, e.g. HNSW, IVF_FLAT or FLAT."
            ) from error

    def _create_index(self, kind: str) -> None:
        params = self.connection.client.prepare_index_params()
        params.add_index("vector", index_type=kind, metric_type="IP", params=build_params(kind, self.dim))
        self.call(f"create an index of kind {kind}", "create_index", params, timeout=WAIT_S)
        self.kind = kind

    def index_kind(self) -> str:
        """Kind of the index of the vectors; empty for none."""
        if "vector" not in self.call("list its indexes", "list_indexes"):
            return ""
        description = self.call("describe an index", "describe_index", "vector")
        return str((description or {}).get("index_type", ""))

    def load(self) -> None:
        """Load the collection, so that it can be searched."""
        self.kind = self.kind or self.index_kind()
        self.call("load a collection", "load_collection", timeout=WAIT_S)

    def count(self) -> int:
        """Count the rows."""
        counted = self.call("count rows", "query", filter="", output_fields=["count(*)"], **_STRONG)
        return int(counted[0]["count(*)"])

    def rows(self, where: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Iterate over all rows that match an expression; `fields` without vectors."""
        iterator = self.call(
            "list rows", "query_iterator", batch_size=8192, filter=where, output_fields=[*fields], **_STRONG
        )
        try:
            # `next` takes no time limit of its own; that of the iterator applies.
            while batch := self.connection.call("list rows", lambda timeout: iterator.next()):
                yield from batch
        finally:
            iterator.close()

    def complete_and_partial(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of the pictures with all patches, and of those with some; reads the key of every row."""
        ids = np.fromiter((row["id"] for row in self.rows("cell >= 0", ["id"])), np.int64)
        numbers, counts = np.unique(ids // self.patches, return_counts=True)
        return numbers[counts == self.patches], numbers[counts != self.patches]

    def by_key(self, keys: NDArray[np.int64], field: str) -> Iterator[tuple[NDArray[np.int64], list[Any]]]:
        """Yield the keys and a field of the rows with these keys, in batches, unordered.

        Raises:
            StoreError: A row is missing.
        """
        step = max(1, min(MAX_RESULTS, MESSAGE_BYTES // (4 * self.dim)))
        for start in range(0, len(keys), step):
            wanted = keys[start : start + step].tolist()
            rows = self.call("return vectors", "get", ids=wanted, output_fields=["id", field], **_STRONG)
            if len(rows) != len(wanted):
                raise StoreError(f"{self.where} has lost rows since the index was made: run the index command again.")
            yield np.array([row["id"] for row in rows], np.int64), [row[field] for row in rows]

    def vectors(self, pictures: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read the (K, P, dim) float32 vectors of pictures, by their numbers in the collection."""
        keys = (pictures[:, None] * self.patches + np.arange(self.patches)).reshape(-1)
        order = np.argsort(keys)
        vectors = np.empty((len(keys), self.dim), np.float32)
        for ids, rows in self.by_key(keys, "vector"):
            vectors[order[np.searchsorted(keys, ids, sorter=order)]] = rows
        return vectors.reshape(len(pictures), self.patches, -1)


def default_name(gallery: str, recipe: Recipe, projected: int | None) -> str:
    """Derive a collection name from gallery and recipe, so that no two are mixed up by accident.

    Args:
        gallery: Root of the gallery.
        recipe: How the vectors are made.
        projected: Dimension of the projection to learn; None for none.
    """
    known = {key: value for key, value in maker_of(recipe).items() if key != "projection"}
    known["dim"] = projected or recipe.encoder.dim
    word = re.sub(r"[^A-Za-z0-9]+", "_", gallery.rstrip("/").rpartition("/")[2]).strip("_")[:40]
    return f"patchify_{word}_{sha256_of_json([gallery, known])[:8]}"


def checked_name(name: str) -> str:
    """Return the name; raise StoreError unless Milvus accepts it for a collection."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise StoreError(f"'{name}' cannot be a collection's name: use letters, digits and _, beginning with a letter.")
    return name


def _metadata(description: dict[str, Any]) -> dict[str, Any] | None:
    """Return what `create` wrote: a property, or on some servers the description; None if it is neither."""
    for text in (description.get("properties", {}).get(PROPERTY), description.get("description")):
        metadata = read_json((text or "").encode())
        if isinstance(metadata, dict) and isinstance(metadata.get("maker"), dict):
            return metadata
    return None


def _described(key: str, values: dict[str, Any]) -> str:
    if key == "weights":
        return f"{str(values.get(key))[:8]}, its weights' digest,"
    if key == "projection":
        if values.get(key) == NEW_PROJECTION:
            return "a projection that is yet to be learned"
        return f"the projection {str(values.get(key))[:8]}" if values.get(key) else "no projection"
    return f"{key} {values.get(key)}"


def checked_kind(name: str | None, lite: bool) -> str:
    """Return the index kind in capitals; by default FLAT for Milvus Lite, which is exact, and HNSW for a server.

    Raises:
        StoreError: Milvus Lite cannot build it. A server is not checked here.
    """
    kind = (name or ("FLAT" if lite else "HNSW")).strip().upper()
    if lite and kind not in LITE_KINDS:
        raise StoreError(
            f"Milvus Lite has no index kind {kind}: choose {', '.join(LITE_KINDS)} with --milvus-index, or use a "
            "Milvus server."
        )
    return kind


def build_params(kind: str, dim: int) -> dict[str, Any]:
    """Build parameters of an index kind.

    Example:
        >>> build_params("IVF_PQ", 128)
        {'nlist': 1024, 'm': 32, 'nbits': 8}
    """
    if kind.startswith("HNSW"):
        params: dict[str, Any] = {"M": NEIGHBOURS, "efConstruction": CONSTRUCTION}
        if kind == "HNSW_SQ":
            params["sq_type"] = "SQ8"
        if kind in ("HNSW_PQ", "HNSW_PRQ"):
            params |= {"m": code_bytes(dim), "nbits": 8}
        return params
    if kind.startswith("IVF") or kind == "SCANN":
        return {"nlist": LISTS} | ({"m": code_bytes(dim), "nbits": 8} if kind == "IVF_PQ" else {})
    return {}


def search_params(kind: str, limit: int) -> dict[str, Any]:
    """Search parameters of an index kind for `limit` patches; HNSW needs as many candidates."""
    if kind.startswith("HNSW"):
        return {"ef": max(SEARCH_WIDTH, limit)}
    if kind.startswith("IVF"):
        return {"nprobe": PROBES}
    if kind == "SCANN":
        return {"nprobe": PROBES, "reorder_k": max(SEARCH_WIDTH, limit)}
    if kind == "DISKANN":
        return {"search_list": max(SEARCH_WIDTH, limit)}
    return {}


def code_bytes(dim: int) -> int:
    """Bytes per product quantization code: the largest divisor of `dim` up to a quarter of it."""
    return max(count for count in range(1, max(1, dim // 4) + 1) if dim % count == 0)
