"""A collection of patches in Milvus: its fields, its index, what is written on it about its maker, reading rows.

One row per patch. A picture has a number that stays the same however the gallery is renamed or put in order: `picture`.
Row number = picture * patches per picture + cell, so that a row written twice stands there once. Patch 0 carries the
digest of the picture's bytes: what a collection holds is asked of the collection itself, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import StoreError
from patchify_core.files import sha256_of_bytes, sha256_of_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.milvus.connect import WAIT_S, MilvusConnection
from patchify_core.index.recipe import Recipe

MOST_RESULTS = 16_384
"""Rows that a Milvus server gives for one request, at most."""
MESSAGE_BYTES = 16 << 20
"""Vectors in one message, at most; a server takes 64 MB."""
PROPERTY = "patchify"
BOX_FIELDS = ("x1", "y1", "x2", "y2")
LITE_KINDS = ("FLAT", "HNSW", "HNSW_SQ", "IVF_FLAT", "IVF_SQ8", "AUTOINDEX")
"""What Milvus Lite 3.2 builds. It takes the name IVF_PQ too, and then fails in the background."""

UNROUNDED = ("FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX")
"""Kinds that compare a query with whole vectors. Others compare it with codes, and their first pictures are compared
again with the whole vectors, which Milvus keeps too."""

LISTS, PROBES, NEIGHBOURS, CONSTRUCTION, SEARCH_WIDTH = 1024, 64, 16, 200, 128
"""Of inverted files: lists per segment, and how many of them a search visits; of HNSW: links per vector, and how many
candidates are kept while it is built and while it is searched, at least."""

NEW_PROJECTION = "new"
"""Of a maker whose projection is yet to be learned: no collection has it."""

_STRONG = {"consistency_level": "Strong"}  # what was written a moment ago counts


def maker_of(recipe: Recipe, projection: Projection | None = None) -> dict[str, Any]:
    """What is written on a collection about its vectors: JSON values that differ wherever vectors cannot be mixed.

    Args:
        recipe: how the vectors were made.
        projection: what was applied to them; None for nothing, or where it is yet to be learned.
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
        connection: an open one.
        name: of the collection.
        recipe: how its vectors are made.
        projection: what is applied to them; None for nothing.
    """

    def __init__(self, connection: MilvusConnection, name: str, recipe: Recipe, projection: Projection | None) -> None:
        self.connection, self.name = connection, name
        self.maker = maker_of(recipe, projection)
        self.dim = recipe.encoder.dim if projection is None else projection.dim
        self.patches, self.has_boxes = recipe.regions.patches_per_image, recipe.regions.needs_picture
        self.kind = ""

    @property
    def where(self) -> str:
        """How it is called in sentences."""
        return f"The collection {self.name} in {self.connection.address.uri}"

    def call(self, doing: str, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of the client about this collection; see `MilvusConnection.call`."""
        return self.connection.call(doing, getattr(self.connection.client, method), self.name, *arguments, **named)

    def exists(self) -> bool:
        """Whether it is there."""
        return bool(self.call("say whether a collection is there", "has_collection"))

    def check(self, gallery: str | None = None) -> None:
        """Refuse a collection that another maker made, or one of another gallery.

        Args:
            gallery: root of the gallery that it must hold; None where that is known already.

        Raises:
            StoreError: one sentence naming the difference, or that it is missing.
        """
        if not self.exists():
            raise StoreError(
                f"{self.where} is missing: run the index command again, or check that this is the right Milvus."
            )
        found = self.call("describe a collection", "describe_collection")
        written = _written(found)
        if written is None:
            raise StoreError(f"{self.where} was not made by this program: choose another name with --collection.")
        mine, theirs = self.maker, written.get("maker", {})
        for key in ("encoder", "weights", "regions", "features", "projection", "dim"):
            if theirs.get(key) != mine[key]:
                had, wanted = (_called(key, values) for values in (theirs, mine))
                raise StoreError(
                    f"{self.where} was made with {had}, not with {wanted}: choose another name with --collection, or "
                    "make it anew."
                )
        vectors: dict[str, Any] = next((one for one in found.get("fields", []) if one.get("name") == "vector"), {})
        if int(vectors.get("params", {}).get("dim", 0)) != self.dim:
            raise StoreError(f"{self.where} keeps no vectors of {self.dim} numbers: choose another --collection.")
        if gallery is not None and written.get("gallery") != gallery:
            raise StoreError(
                f"{self.where} holds another gallery, {written.get('gallery')}, whose pictures would be deleted: "
                "choose another name with --collection."
            )

    def make(self, gallery: str, kind: str) -> None:
        """Make it, empty, with an index of `kind`.

        Raises:
            StoreError: one sentence, if the server refuses, for instance because it has no such index.
        """
        from pymilvus import DataType, MilvusClient

        written = json.dumps({"format": 1, "maker": self.maker, "gallery": gallery})
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=written)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("picture", DataType.INT64)
        schema.add_field("cell", DataType.INT16)
        schema.add_field("sha256", DataType.VARCHAR, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        if self.has_boxes:
            for name in BOX_FIELDS:
                schema.add_field(name, DataType.FLOAT)
        self.call("make a collection", "create_collection", schema=schema, properties={PROPERTY: written})
        try:
            self.use_index(kind)
        except StoreError:
            self.call("delete a collection", "drop_collection")
            raise

    def use_index(self, kind: str) -> None:
        """Have the server keep an index of this kind, in the place of another one if there is one.

        Raises:
            StoreError: one sentence, if it has no such kind.
        """
        if self.index_kind() == kind:
            self.kind = kind
            return
        before = self.index_kind()
        if before:
            self.call("let go of a collection", "release_collection")
            self.call("delete an index", "drop_index", "vector")
        try:
            self._make_index(kind)
        except StoreError as error:
            if before:  # whoever searches it now shall go on doing so
                self._make_index(before)
                self.load()
            raise StoreError(
                f"{str(error).rstrip('.')}: choose another kind with --milvus-index, e.g. HNSW, IVF_FLAT or FLAT."
            ) from error

    def _make_index(self, kind: str) -> None:
        params = self.connection.client.prepare_index_params()
        params.add_index("vector", index_type=kind, metric_type="IP", params=build_params(kind, self.dim))
        self.call(f"make an index of kind {kind}", "create_index", params, timeout=WAIT_S)
        self.kind = kind

    def index_kind(self) -> str:
        """The kind of index that the vectors have; empty for none."""
        if "vector" not in self.call("list its indexes", "list_indexes"):
            return ""
        found = self.call("describe an index", "describe_index", "vector")
        return str((found or {}).get("index_type", ""))

    def load(self) -> None:
        """Have the server ready to search it."""
        self.kind = self.kind or self.index_kind()
        self.call("load a collection", "load_collection", timeout=WAIT_S)

    def count(self) -> int:
        """Rows."""
        found = self.call("count rows", "query", filter="", output_fields=["count(*)"], **_STRONG)
        return int(found[0]["count(*)"])

    def rows(self, which: str, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
        """All rows that an expression holds for, in pieces; `fields` without vectors."""
        found = self.call(
            "list rows", "query_iterator", batch_size=8192, filter=which, output_fields=[*fields], **_STRONG
        )
        try:
            while piece := self.connection.call("list rows", _without_timeout(found.next)):
                yield from piece
        finally:
            found.close()

    def whole_and_torn(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the pictures with every patch, and of those with only some; reads the number of every row."""
        ids = np.fromiter((row["id"] for row in self.rows("cell >= 0", ["id"])), np.int64)
        numbers, counts = np.unique(ids // self.patches, return_counts=True)
        return numbers[counts == self.patches], numbers[counts != self.patches]

    def by_number(self, numbers: NDArray[np.int64], field: str) -> Iterator[tuple[NDArray[np.int64], list[Any]]]:
        """A field of the rows with these numbers, in pieces and in no order.

        Raises:
            StoreError: if one of them is not there.
        """
        step = max(1, min(MOST_RESULTS, MESSAGE_BYTES // (4 * self.dim)))
        for start in range(0, len(numbers), step):
            wanted = numbers[start : start + step].tolist()
            found = self.call("give vectors", "get", ids=wanted, output_fields=["id", field], **_STRONG)
            if len(found) != len(wanted):
                raise StoreError(f"{self.where} has lost rows since the index was made: run the index command again.")
            yield np.array([row["id"] for row in found], np.int64), [row[field] for row in found]

    def vectors(self, pictures: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, P, dim) float32 vectors of these pictures, by their numbers in the collection."""
        numbers = (pictures[:, None] * self.patches + np.arange(self.patches)).reshape(-1)
        order = np.argsort(numbers)
        filled = np.empty((len(numbers), self.dim), np.float32)
        for ids, rows in self.by_number(numbers, "vector"):
            filled[order[np.searchsorted(numbers, ids, sorter=order)]] = rows
        return filled.reshape(len(pictures), self.patches, -1)


def default_name(gallery: str, recipe: Recipe, projected: int | None) -> str:
    """A collection's name from its gallery and recipe, so that two of them are not mixed up by accident.

    Args:
        gallery: its root.
        recipe: how its vectors are made.
        projected: dimension of the projection that will be learned; None without one.
    """
    known = {key: value for key, value in maker_of(recipe).items() if key != "projection"}
    known["dim"] = projected or recipe.encoder.dim
    word = re.sub(r"[^A-Za-z0-9]+", "_", gallery.rstrip("/").rpartition("/")[2]).strip("_")[:40]
    return f"patchify_{word}_{sha256_of_json([gallery, known])[:8]}"


def checked_name(name: str) -> str:
    """Raise StoreError unless Milvus takes this as a collection's name."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise StoreError(f"'{name}' cannot be a collection's name: use letters, digits and _, beginning with a letter.")
    return name


def _written(found: dict[str, Any]) -> dict[str, Any] | None:
    """What `make` wrote; a server gives it back as a property or as the description, Milvus Lite as a property."""
    for text in (found.get("properties", {}).get(PROPERTY), found.get("description")):
        try:
            written = json.loads(text or "")
        except ValueError:
            continue
        if isinstance(written, dict) and isinstance(written.get("maker"), dict):
            return written
    return None


def _called(key: str, values: dict[str, Any]) -> str:
    if key == "weights":
        return f"{str(values.get(key))[:8]}, its weights' digest,"
    if key == "projection":
        if values.get(key) == NEW_PROJECTION:
            return "a projection that is yet to be learned"
        return f"the projection {str(values.get(key))[:8]}" if values.get(key) else "no projection"
    return f"{key} {values.get(key)}"


def _without_timeout(method: Any) -> Any:
    """An iterator's `next` takes no time limit of its own; it keeps that of its beginning."""
    return lambda timeout: method()


def checked_kind(name: str | None, lite: bool) -> str:
    """The kind asked for in capitals; by default FLAT for Milvus Lite, which is exact, and HNSW for a server.

    Raises:
        StoreError: if Milvus Lite cannot build it. What a server has is found out by asking it.
    """
    kind = (name or ("FLAT" if lite else "HNSW")).strip().upper()
    if lite and kind not in LITE_KINDS:
        raise StoreError(
            f"Milvus Lite has no index kind {kind}: choose {', '.join(LITE_KINDS)} with --milvus-index, or use a "
            "Milvus server."
        )
    return kind


def build_params(kind: str, dim: int) -> dict[str, Any]:
    """What an index of this kind is made with.

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
    """What an index of this kind is searched with for `limit` patches; HNSW must keep as many candidates."""
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
    """Bytes of a product quantiser's code: the most up to a quarter of the dimensions that divide them evenly."""
    return max(count for count in range(1, max(1, dim // 4) + 1) if dim % count == 0)
