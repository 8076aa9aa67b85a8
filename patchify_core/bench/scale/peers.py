"""The peers of `bench scale`: plain FAISS, hnswlib, Milvus Lite, Qdrant's local mode, each up to its largest size.

Each gets the same descriptors and returns patches. Those that cannot group by picture return as many patches as ten
pictures have, which numpy groups, as a user would do. All but FAISS are optional packages (requirements-bench.txt).
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from patchify_core.bench.scale.collection import SyntheticPictures
from patchify_core.gallery import Progress

CHUNK = 1000
"""Pictures added at a time."""


class Peer:
    """A search library to compare with. Patches are numbered as ours: picture * patches + cell.

    Attributes:
        name: Its name in tables.
        what: What is measured, in a few words.
        package: Names of the required modules, separated by spaces.
        limit: Most pictures at which it is measured.
        why: Reason for the limit.
        knobs: Settings to try until it is as good as ours, the fastest first; None where there is none.
        grouped: Whether a search returns K pictures; else K patches.
        in_engine: Whether the library groups patches by picture itself.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    package: ClassVar[str]
    limit: ClassVar[int]
    why: ClassVar[str]
    knobs: ClassVar[tuple[int | None, ...]] = (None,)
    grouped: ClassVar[bool] = True
    in_engine: ClassVar[bool] = False

    def __init__(self, folder: Path, stream: SyntheticPictures) -> None:
        self.folder, self.stream = folder, stream
        self.patches = stream.regions.patches_per_image

    @classmethod
    def missing(cls) -> str | None:
        """Return one sentence if a required module is not installed."""
        for package in cls.package.split():
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed: pip install -r requirements-bench.txt."
        return None

    def build(self, progress: Progress) -> None:
        """Index the whole collection."""
        raise NotImplementedError

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """Return the numbers of the `count` most similar patches, best first."""
        raise NotImplementedError

    def search(self, query: NDArray[np.float32], top: int, knob: int | None) -> NDArray[np.int64]:
        """Return patches of the best `top` pictures, best first, one per picture (if `grouped`)."""
        count = top * self.patches if self.grouped and not self.in_engine else top
        patches = self.nearest(query, count, knob)
        return patches if not self.grouped or self.in_engine else first_per_picture(patches, self.patches)[:top]

    def disk_bytes(self) -> int:
        """Return the bytes that it wrote; 0 if it keeps everything in memory."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def close(self) -> None:
        """Close it, and delete its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pieces(self, progress: Progress, chunk: int = CHUNK) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (first patch, (n P, d) descriptors) of the whole collection."""
        for start in range(0, len(self.stream), chunk):
            stop = min(start + chunk, len(self.stream))
            yield start * self.patches, self.stream.descriptors(start, stop).reshape(-1, self.stream.dim)
            progress(stop, len(self.stream))


def first_per_picture(patches: NDArray[np.int64], per_picture: int) -> NDArray[np.int64]:
    """Keep the first patch of each picture, in the same order."""
    _, first = np.unique(patches // per_picture, return_index=True)
    return patches[np.sort(first)]


class FaissFlat(Peer):
    """FAISS IndexFlatIP: every patch, float32."""

    index: Any
    name, what, package = "FAISS IndexFlatIP", "exact, grouped by numpy", "faiss"
    limit, why = 100_000, "a million pictures take 15 GB of float32"

    def build(self, progress: Progress) -> None:
        """Add everything to a new index."""
        self.index = self.new_index()
        for _, vectors in self._pieces(progress):
            self.index.add(vectors)

    def new_index(self) -> Any:
        """Return an empty index, trained if necessary."""
        import faiss

        return faiss.IndexFlatIP(self.stream.dim)

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Peer.nearest`."""
        return np.asarray(self.index.search(query[None], min(count, self.index.ntotal))[1][0])


class FaissIvfPq(FaissFlat):
    """FAISS IVF,PQ32, searching ten patches."""

    name, what, package = "FAISS IVF,PQ32", "10 patches, not grouped", "faiss"
    limit, why = 100_000, "with a flat list of centroids, adding a million pictures takes half an hour"
    knobs, grouped = (1, 2, 4, 8, 16, 32, 64, 128, 256), False

    def new_index(self) -> Any:
        """Train on a sample from the whole collection."""
        import faiss

        patches = len(self.stream) * self.patches
        lists = 1 << int(np.log2(max(4, 4 * patches**0.5)))
        while lists > 4 and lists * 39 > patches:
            lists //= 2
        parts = next(p for p in (32, 16, 8, 4, 2, 1) if self.stream.dim % p == 0)
        index: Any = faiss.index_factory(self.stream.dim, f"IVF{lists},PQ{parts}", faiss.METRIC_INNER_PRODUCT)
        for clustering in (index.pq.cp, index.cp):
            clustering.min_points_per_centroid = 1
        index.do_polysemous_training = False  # slow, and for a kind of search that is not used here
        wanted = min(len(self.stream), max(2, lists * 39 // self.patches + 1))
        starts = np.linspace(0, len(self.stream) - 1, wanted).astype(int)
        index.train(np.concatenate([self.stream.descriptors(at, at + 1)[0] for at in starts.tolist()]))
        return index

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Peer.nearest`; the knob is the number of lists that are visited."""
        self.index.nprobe = min(knob or 1, self.index.nlist)
        patches = np.asarray(self.index.search(query[None], count)[1][0])
        return patches[patches >= 0]


class Hnswlib(Peer):
    """hnswlib: a graph over float32 vectors."""

    name, what, package = "hnswlib", "M 16, grouped by numpy", "hnswlib"
    limit, why = 10_000, "it links some thousand patches per second on a core, so 100,000 pictures take an hour or more"
    knobs = (64, 128, 200, 300, 600, 1200, 2400)

    def build(self, progress: Progress) -> None:
        """Add everything to a graph."""
        import hnswlib

        self.index: Any = hnswlib.Index(space="ip", dim=self.stream.dim)
        self.index.init_index(max_elements=len(self.stream) * self.patches, M=16, ef_construction=200)
        for first, vectors in self._pieces(progress):
            self.index.add_items(vectors, np.arange(first, first + len(vectors)))

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Peer.nearest`; the knob is the length of the list of candidates, of which it gives no more."""
        count = min(count, knob or count, len(self.stream) * self.patches)
        self.index.set_ef(knob or count)
        labels, _ = self.index.knn_query(query[None], k=count)
        return np.asarray(labels[0], np.int64)


class FaissHnsw(FaissFlat):
    """FAISS HNSW: a graph over float32 vectors."""

    name, what, package = "FAISS HNSW", "M 16, grouped by numpy", "faiss"
    limit, why = 100_000, "a million pictures take 15 GB of float32, and hours to link"
    knobs = Hnswlib.knobs

    def new_index(self) -> Any:
        """Return an empty graph, built with as many candidates as that of hnswlib."""
        import faiss

        index = faiss.IndexHNSWFlat(self.stream.dim, 16, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 200
        return index

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Hnswlib.nearest`."""
        import faiss

        count = min(count, knob or count, self.index.ntotal)
        options = faiss.SearchParametersHNSW(efSearch=knob or count)  # type: ignore[attr-defined]
        return np.asarray(self.index.search(query[None], count, params=options)[1][0])


class MilvusLite(Peer):
    """Milvus Lite in a local file, HNSW, grouped by picture in the engine."""

    name, what, package = "Milvus Lite", "HNSW, grouped in the engine", "milvus_lite pymilvus"
    limit, why = 30_000, "it takes some 6,000 patches per second in and ever longer to answer"
    in_engine = True
    knobs: ClassVar[tuple[int | None, ...]] = (64, 128, 300, 1000)
    kind = "HNSW"

    def build(self, progress: Progress) -> None:
        """Insert in batches, then wait for the index."""
        from pymilvus import DataType, MilvusClient

        self.folder.mkdir(parents=True, exist_ok=True)
        self.client: Any = MilvusClient(str(self.folder / "milvus.db"))
        schema = self.client.create_schema(auto_id=False)
        schema.add_field("patch", DataType.INT64, is_primary=True)
        schema.add_field("picture", DataType.INT64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.stream.dim)
        index = self.client.prepare_index_params()
        options = {"M": 16, "efConstruction": 200} if self.kind == "HNSW" else {}
        index.add_index("vector", index_type=self.kind, metric_type="IP", params=options)
        self.client.create_collection("patches", schema=schema, index_params=index)
        for first, vectors in self._pieces(progress, 500):
            rows = [
                {"patch": first + at, "picture": (first + at) // self.patches, "vector": vector}
                for at, vector in enumerate(vectors)
            ]
            self.client.insert("patches", rows)
        self.client.flush("patches")
        self.client.load_collection("patches")

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Peer.nearest`, one patch a picture; the knob is the length of the list of candidates."""
        hits = self.client.search(
            "patches",
            [query.tolist()],
            limit=count,
            group_by_field="picture",
            search_params={"params": {"ef": knob} if knob else {}},
        )
        return np.array([hit["patch"] for hit in hits[0]], np.int64)

    def close(self) -> None:
        """Close the file and delete it."""
        if hasattr(self, "client"):  # else there is only what a stopped run left
            self.client.close()
        super().close()


class MilvusLiteFlat(MilvusLite):
    """Milvus Lite without an index: exact."""

    name, what = "Milvus Lite, exact", "FLAT, grouped in the engine"
    knobs, kind = (None,), "FLAT"


class QdrantLocal(Peer):
    """Qdrant's local mode, in memory: every patch, by numpy; grouped by numpy, which is faster than by itself."""

    name, what, package = "Qdrant local", "exact, in memory, grouped by numpy", "qdrant_client"
    limit, why = 30_000, "it warns above 20,000 patches itself, and keeps a Python dictionary per patch"

    def build(self, progress: Progress) -> None:
        """Add everything; on disk it would take 300 patches per second."""
        from qdrant_client import QdrantClient, models

        self.client = QdrantClient(":memory:")
        size = models.VectorParams(size=self.stream.dim, distance=models.Distance.DOT)
        self.client.create_collection("patches", vectors_config=size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more than 20,000 points, see `why`
            for first, vectors in self._pieces(progress):
                ids: list[Any] = list(range(first, first + len(vectors)))
                self.client.upsert("patches", points=models.Batch(ids=ids, vectors=vectors.tolist()))

    def nearest(self, query: NDArray[np.float32], count: int, knob: int | None) -> NDArray[np.int64]:
        """See `Peer.nearest`."""
        hits = self.client.query_points("patches", query=query.tolist(), limit=count, with_payload=False)
        return np.array([point.id for point in hits.points], np.int64)

    def close(self) -> None:
        """Close it."""
        if hasattr(self, "client"):  # else there is only what a stopped run left
            self.client.close()
        super().close()


PEERS: dict[str, type[Peer]] = {
    "faiss-flat": FaissFlat,
    "faiss-ivfpq": FaissIvfPq,
    "hnswlib": Hnswlib,
    "faiss-hnsw": FaissHnsw,
    "milvus-lite": MilvusLite,
    "milvus-lite-exact": MilvusLiteFlat,
    "qdrant-local": QdrantLocal,
}
