"""What a big index is coded with: projection, lists, codes; learned once, from pictures drawn evenly over all.

It is kept in the private folder of the build with a digest, so that a build that was killed goes on with the same.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.files import atomic, sha256_of_bytes, write_json
from patchify_core.index.big.lists import TRAINING_PER_LIST, Lists
from patchify_core.index.codec.factory import make_codec, needed_to_train, parse_factory, too_few, train
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import check_faiss_file
from patchify_core.index.shards.stream import PictureStream

if TYPE_CHECKING:
    import faiss

PROJECTION_PATCHES = 100_000
"""Patches that a projection is learned from, at most."""

CODE_PATCHES = 65_536
"""Patches that the codes are learned from, at most: 256 for each centroid."""

_RUN = 32  # neighbouring pictures that are read together for the sample
_NAME = "learned.npz"


@dataclass(frozen=True)
class Wanted:
    """What shall be learned.

    Attributes:
        projection: dimensions; None to leave descriptors as they come.
        lists: inverted lists.
        parts: bytes of a code.
        rescore: factory of finer codes, or None.
        seed: of k-means.
    """

    projection: int | None
    lists: int
    parts: int
    rescore: str | None
    seed: int


@dataclass(frozen=True, eq=False)
class Learned:
    """What codes are made with.

    Attributes:
        projection: applied by us to every descriptor; None where there is none, or the stream has done it.
        lists: where every vector belongs.
        quantizer: (M, 256, d / M) float32 centroids of the residuals' parts.
        fine: an empty trained codec of finer codes, or None.
    """

    projection: Projection | None
    lists: Lists
    quantizer: NDArray[np.float32]
    fine: faiss.Index | None

    @property
    def dim(self) -> int:
        """d, of the vectors that are coded."""
        return int(self.lists.centroids.shape[1])

    def product_quantizer(self) -> faiss.ProductQuantizer:
        """The codec of the residuals."""
        import faiss

        parts, _, width = self.quantizer.shape
        codec = faiss.ProductQuantizer(parts * width, parts, 8)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.quantizer).ravel(), codec.centroids)
        return codec

    def empty_index(self) -> faiss.IndexIVFPQ:
        """FAISS's index of these lists and codes, without any."""
        import faiss

        quantizer = faiss.IndexFlatIP(self.dim)
        quantizer.add(np.ascontiguousarray(self.lists.centroids))
        parts = len(self.quantizer)
        index = faiss.IndexIVFPQ(quantizer, self.dim, len(self.lists), parts, 8, faiss.METRIC_INNER_PRODUCT)
        quantizer.this.disown()  # type: ignore[attr-defined]
        index.own_fields = True
        index.pq = self.product_quantizer()
        index.is_trained = True
        return index

    def save(self, folder: Path) -> None:
        """Writes it down, whole or not at all."""
        import faiss

        arrays: dict[str, NDArray[Any]] = {
            "centroids": self.lists.centroids,
            "cells": self.lists.cells,
            "firsts": self.lists.firsts,
            "quantizer": self.quantizer,
        }
        if self.projection is not None:
            arrays["projection"] = np.frombuffer(self.projection.to_bytes(), np.uint8)
        if self.fine is not None:
            arrays["fine"] = faiss.serialize_index(self.fine)
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        with atomic(folder / _NAME) as file:
            file.write(stream.getbuffer())
        write_json((folder / _NAME).with_suffix(".json"), {"sha256": sha256_of_bytes(stream.getvalue())})

    @classmethod
    def load(cls, folder: Path) -> Learned | None:
        """What `save` wrote; None where that is not there or not whole."""
        import faiss

        try:
            data = (folder / _NAME).read_bytes()
            listed = json.loads((folder / _NAME).with_suffix(".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(listed, dict) or sha256_of_bytes(data) != listed.get("sha256"):
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            projection = Projection.from_bytes(arrays["projection"].tobytes()) if "projection" in arrays else None
            fine = None
            if "fine" in arrays:
                check_faiss_file(arrays["fine"].tobytes())
                fine = faiss.deserialize_index(arrays["fine"])
            lists = Lists(arrays["centroids"], arrays["cells"], arrays["firsts"])
            return cls(projection, lists, arrays["quantizer"], fine)


def learn(stream: PictureStream, wanted: Wanted, factory: str) -> Learned:
    """Learns from pictures drawn evenly over the stream.

    Args:
        stream: the collection.
        wanted: what shall be learned.
        factory: what it is called in messages.

    Raises:
        PatchifyError: if there are too few patches for that.
    """
    import faiss

    patches = stream.regions.patches_per_image
    needed = max(wanted.lists, 256)
    there = len(stream) * patches
    if there < needed:
        raise too_few(factory, needed, there)
    projection = None
    if wanted.projection is not None and stream.projection is None:
        Projection.check_enough(there, wanted.projection)
        raw = _sample(stream, PROJECTION_PATCHES, None)
        projection = Projection.learn(raw, wanted.projection)
        del raw
    sample = _sample_for_lists(stream, wanted.lists, projection)
    lists = Lists.learn(sample, wanted.lists, wanted.seed)
    some = _some(sample, wanted.seed)
    del sample
    residuals = some - lists.centroids[lists.assign(some)]
    codec = faiss.ProductQuantizer(residuals.shape[1], wanted.parts, 8)
    codec.cp.min_points_per_centroid = 1
    codec.cp.seed += wanted.seed
    codec.train(np.ascontiguousarray(residuals))
    quantizer = faiss.vector_to_array(codec.centroids).reshape(wanted.parts, 256, -1)
    fine = None if wanted.rescore is None else _finer(some, wanted.rescore, wanted.seed)
    return Learned(projection, lists, quantizer, fine)


def learn_finer(
    stream: PictureStream, projection: Projection | None, lists: int, rescore: str, seed: int
) -> faiss.Index:
    """The empty trained codec of finer codes, the very one that `learn` would have made with the lists.

    Raises:
        PatchifyError: if there are too few patches for it.
    """
    return _finer(_some(_sample_for_lists(stream, lists, projection), seed), rescore, seed)


def _finer(some: NDArray[np.float32], rescore: str, seed: int) -> faiss.Index:
    codec = make_codec(parse_factory(rescore), some.shape[1], seed)
    if len(some) < needed_to_train(codec):
        raise too_few(rescore, needed_to_train(codec), len(some))
    train(codec, some, rescore)
    return codec


def _sample_for_lists(stream: PictureStream, lists: int, projection: Projection | None) -> NDArray[np.float32]:
    return _sample(stream, max(TRAINING_PER_LIST * lists, CODE_PATCHES), projection)


def _some(sample: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """`CODE_PATCHES` of the sample at most, in its order."""
    return sample[np.sort(np.random.default_rng(seed).permutation(len(sample))[:CODE_PATCHES])]


def _sample(stream: PictureStream, count: int, projection: Projection | None) -> NDArray[np.float32]:
    """About `count` descriptors, (n, d), of runs of neighbouring pictures that are spread evenly over the stream."""
    patches = stream.regions.patches_per_image
    pictures = min(len(stream), -(-count // patches))
    runs = -(-pictures // _RUN)
    starts = np.unique(np.linspace(0, max(len(stream) - _RUN, 0), runs).astype(np.int64))
    if pictures == len(stream):
        starts = np.arange(0, len(stream), _RUN)
    spans = [(start, min(start + _RUN, len(stream))) for start in starts.tolist()]
    found: NDArray[np.float32] | None = None
    at = 0
    for start, stop in spans:
        vectors = stream.batch(start, stop)[1]
        vectors = vectors.reshape(-1, vectors.shape[2])
        if projection is not None:
            vectors = projection(vectors)
        if found is None:
            found = np.empty((sum(b - a for a, b in spans) * patches, vectors.shape[1]), np.float32)
        found[at : at + len(vectors)] = vectors
        at += len(vectors)
    assert found is not None, "a stream has a picture"
    return found
