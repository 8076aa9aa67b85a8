"""What a big index is coded with: projection, lists, codes; learned once, from pictures drawn evenly over all.

It is kept in the private folder of the build with a digest, so that a build that was killed goes on with the same.

Plain k-means over 65,536 centroids compares every training vector with all of them, ten times over: hours. Here k-means
runs twice instead (hierarchical k-means, Nister and Stewenius, "Scalable Recognition with a Vocabulary Tree", CVPR
2006): some hundred cells first, then each cell's own share of the lists; two minutes. A vector near a cell's border may
belong to a list of the cell beside it, so the lists of its four nearest cells are compared. All of that is products of
matrices, which processors do best: 260,000 vectors/s on two cores find the right list of 8,192 in 98 % of cases, where
a walk over a graph (HNSW, efSearch 16) finds 95 % at 165,000/s.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.files import atomic, sha256_of_bytes
from patchify_core.index.codec.factory import make_codec, needed_to_train, parse_factory, too_few, train
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import check_faiss_file
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder

if TYPE_CHECKING:
    import faiss

FLAT_LISTS = 1024
"""Up to so many lists, k-means runs once and every centroid is compared with."""

NEAR_CELLS = 4
"""Cells whose lists a vector is compared with."""

TRAINING_PER_LIST = 40
"""Vectors that each centroid is learned from."""

PROJECTION_PATCHES = 100_000
"""Patches that a projection is learned from, at most."""

CODE_PATCHES = 65_536
"""Patches that the codes are learned from, at most: 256 for each centroid."""

_ROUNDS = 10
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
class Lists:
    """Where every vector belongs: the nearest centroid by inner product among those of its nearest cells.

    Attributes:
        centroids: (L, d) float32, rows of length 1; those of one cell stand together.
        cells: (T, d) float32, rows of length 1.
        firsts: (T + 1,) int64, where each cell's centroids begin.
    """

    centroids: NDArray[np.float32]
    cells: NDArray[np.float32]
    firsts: NDArray[np.int64]

    def __len__(self) -> int:
        """How many lists there are."""
        return len(self.centroids)

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """(N,) int32 list of each of (N, d) float32 vectors of length 1."""
        if len(self.cells) == 1:
            return _nearest(vectors, self.centroids, 1)[1][:, 0].astype(np.int32)
        near = min(NEAR_CELLS, len(self.cells))
        cell = _nearest(vectors, self.cells, near)[1].astype(np.uint16).ravel()
        order = np.argsort(cell, kind="stable")  # of 16 bits: a radix sort
        ends = np.searchsorted(cell[order], np.arange(len(self.cells) + 1))
        best = np.full(len(vectors), -np.inf, np.float32)
        found = np.empty(len(vectors), np.int32)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            rows = order[ends[number] : ends[number + 1]] // near
            first, last = int(self.firsts[number]), int(self.firsts[number + 1])
            if first == last:
                continue
            scores, lists = _nearest(vectors[rows], self.centroids[first:last], 1)
            better = scores[:, 0] > best[rows]
            rows = rows[better]
            best[rows], found[rows] = scores[better, 0], lists[better, 0] + first
        return found

    @classmethod
    def learn(cls, vectors: NDArray[np.float32], count: int, seed: int = 0) -> Lists:
        """Learns from a sample.

        Args:
            vectors: (N, d) float32 of length 1, at least `count`.
            count: L, how many lists.
            seed: of where k-means begins.
        """
        if count <= FLAT_LISTS:
            centroids = _kmeans(vectors, count, seed)
            return cls(centroids, centroids[:1], np.array([0, count], np.int64))
        cells = _kmeans(vectors, 1 << int(np.log2(count) / 2), seed)
        near = _nearest(vectors, cells, 1)[1][:, 0]
        order = np.argsort(near, kind="stable")
        ends = np.searchsorted(near[order], np.arange(len(cells) + 1))
        shares = _shares(np.diff(ends), count)
        learned = [
            _kmeans(vectors[order[ends[cell] : ends[cell + 1]]], share, seed + 1 + cell)
            for cell, share in enumerate(shares.tolist())
            if share
        ]
        joined = np.concatenate(learned)
        return cls(joined, cells, np.concatenate([[0], np.cumsum(shares)]).astype(np.int64))


@dataclass(frozen=True, eq=False)
class Coder:
    """Inverted lists, and codes of what remains of a vector without its list's centroid.

    Attributes:
        lists: where every vector belongs.
        quantizer: (M, 256, d / M) float32 centroids of the residuals' parts.
    """

    lists: Lists
    quantizer: NDArray[np.float32]

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


@dataclass(frozen=True, eq=False)
class Learned:
    """What codes are made with: those of lists, finer ones, or both.

    Attributes:
        projection: applied by us to every descriptor; None where there is none, or the stream has done it.
        coder: lists and codes; None where an index that has them gets finer codes.
        fine: an empty trained codec of finer codes, or None.
        digest: SHA-256 of the file that it is saved in; empty before.
    """

    projection: Projection | None
    coder: Coder | None
    fine: faiss.Index | None
    digest: str = ""

    @property
    def dim(self) -> int:
        """d, of the vectors that are coded."""
        return self.coder.dim if self.coder is not None else int(self.fine.d if self.fine is not None else 0)

    def saved(self, work: BuildFolder) -> Learned:
        """The same, once it is written down, whole or not at all."""
        import faiss

        arrays: dict[str, NDArray[Any]] = {}
        if self.coder is not None:
            lists = self.coder.lists
            arrays |= {"centroids": lists.centroids, "cells": lists.cells, "firsts": lists.firsts}
            arrays["quantizer"] = self.coder.quantizer
        if self.projection is not None:
            arrays["projection"] = np.frombuffer(self.projection.to_bytes(), np.uint8)
        if self.fine is not None:
            arrays["fine"] = faiss.serialize_index(self.fine)
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        with atomic(work.folder / _NAME) as file:
            file.write(stream.getbuffer())
        digest = sha256_of_bytes(stream.getvalue())
        work.journal.add({"piece": _NAME, "sha256": digest})
        return replace(self, digest=digest)

    @classmethod
    def load(cls, work: BuildFolder) -> Learned | None:
        """What `saved` wrote; None where that is not there or not whole."""
        import faiss

        try:
            data = (work.folder / _NAME).read_bytes()
        except OSError:
            return None
        digest, listed = sha256_of_bytes(data), work.finished(_NAME)
        if listed is None or listed.get("sha256") != digest:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            projection = Projection.from_bytes(arrays["projection"].tobytes()) if "projection" in arrays else None
            coder = fine = None
            if "centroids" in arrays:
                coder = Coder(Lists(arrays["centroids"], arrays["cells"], arrays["firsts"]), arrays["quantizer"])
            if "fine" in arrays:
                check_faiss_file(arrays["fine"].tobytes())
                fine = faiss.deserialize_index(arrays["fine"])
            return cls(projection, coder, fine, digest)


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
    return Learned(projection, Coder(lists, quantizer), fine)


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


def _shares(population: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many of `count` lists each cell gets: by its population, one at least and none more than it has vectors.

    Args:
        population: (T,) vectors of each cell, `count` or more in all.
        count: at least as many as there are cells with any.
    """
    wanted = population / population.sum() * count
    shares = np.clip(np.floor(wanted), population > 0, population).astype(np.int64)
    while (rest := count - int(shares.sum())) != 0:
        may = shares < population if rest > 0 else shares > 1
        lacks = np.where(may, (wanted - shares) * np.sign(rest), -np.inf)
        some = np.argsort(-lacks, kind="stable")[: min(abs(rest), int(may.sum()))]
        shares[some] += np.sign(rest)
    return shares


def _kmeans(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Spherical k-means, (count, d)."""
    import faiss

    if len(vectors) == count:
        return np.ascontiguousarray(vectors)
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.spherical, parameters.seed = _ROUNDS, True, 1234 + seed
    parameters.min_points_per_centroid = 1
    clustering = faiss.Clustering(vectors.shape[1], count, parameters)
    clustering.train(np.ascontiguousarray(vectors), faiss.IndexFlatIP(vectors.shape[1]))
    centroids: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(count, -1)
    return centroids


def _nearest(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(N, count) similarities and numbers of the nearest centroids of each vector, by inner product."""
    import faiss

    scores, found = faiss.knn(
        np.ascontiguousarray(vectors), np.ascontiguousarray(centroids), count, faiss.METRIC_INNER_PRODUCT
    )
    return scores, found
