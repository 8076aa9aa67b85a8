"""Train what a big index is coded with (projection, inverted lists, codebooks) on pictures sampled evenly.

The result is saved in the private folder of the build with its digest, so that a resumed build uses the same.

Plain k-means over 65,536 centroids compares every training vector with all of them, ten times: hours. Hierarchical
k-means (Nister and Stewenius, "Scalable Recognition with a Vocabulary Tree", CVPR 2006) takes two minutes: first a few
hundred cells, then each cell's share of the lists. A vector near the border of a cell may belong to a list of a
neighbouring cell, so the lists of its four nearest cells are compared. All of that is matrix products: on two cores
260,000 vectors/s find the right one of 8,192 lists in 98 % of cases, where a graph walk (HNSW, efSearch 16) finds 95 %
at 165,000/s.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.files import atomic, sha256_of_bytes
from patchify_core.index.big.plan import ListsPlan
from patchify_core.index.codec.factory import make_codec, needed_to_train, parse_factory, too_few, train
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import check_faiss_file
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder

if TYPE_CHECKING:
    import faiss

FLAT_LISTS = 1024
"""Largest number of lists for which k-means is not hierarchical and every centroid is compared."""

NEAR_CELLS = 4
"""Nearest cells whose lists a vector is compared with."""

TRAINING_PER_LIST = 40
"""Training vectors per list."""

PROJECTION_PATCHES = 100_000
"""Largest training set of a projection, in patches."""

CODE_PATCHES = 65_536
"""Largest training set of the codebooks, in patches: 256 per centroid."""

_ITERATIONS = 10
_RUN = 32  # consecutive pictures that are read together for the sample
_NAME = "learned.npz"


@dataclass(frozen=True, eq=False)
class Lists:
    """Assigns vectors to lists: to the nearest centroid by inner product among those of the nearest cells.

    Attributes:
        centroids: (L, d) float32, rows of length 1, grouped by cell.
        cells: (T, d) float32, rows of length 1.
        firsts: (T + 1,) int64, first centroid of each cell.
    """

    centroids: NDArray[np.float32]
    cells: NDArray[np.float32]
    firsts: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.centroids)

    def assign(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the (N,) int32 list of each of (N, d) float32 vectors of length 1."""
        if len(self.cells) == 1:
            return _nearest(vectors, self.centroids, 1)[1][:, 0].astype(np.int32)
        near = min(NEAR_CELLS, len(self.cells))
        cell = _nearest(vectors, self.cells, near)[1].astype(np.uint16).ravel()
        order = np.argsort(cell, kind="stable")  # a radix sort, for 16 bits
        ends = np.searchsorted(cell[order], np.arange(len(self.cells) + 1))
        best = np.full(len(vectors), -np.inf, np.float32)
        assigned = np.empty(len(vectors), np.int32)
        for number in np.flatnonzero(np.diff(ends)).tolist():
            rows = order[ends[number] : ends[number + 1]] // near
            first, last = int(self.firsts[number]), int(self.firsts[number + 1])
            if first == last:
                continue
            scores, lists = _nearest(vectors[rows], self.centroids[first:last], 1)
            better = scores[:, 0] > best[rows]
            rows = rows[better]
            best[rows], assigned[rows] = scores[better, 0], lists[better, 0] + first
        return assigned

    @classmethod
    def learn(cls, vectors: NDArray[np.float32], count: int, seed: int = 0) -> Lists:
        """Train on a sample.

        Args:
            vectors: (N, d) float32 of length 1, at least `count`.
            count: L, the number of lists.
            seed: Of k-means.
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
    """Inverted lists, and a product quantizer of the residuals to their centroids.

    Attributes:
        lists: The inverted lists.
        quantizer: (M, 256, d / M) float32 codebooks of the residuals.
    """

    lists: Lists
    quantizer: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Dimension d of the coded vectors."""
        return int(self.lists.centroids.shape[1])

    def product_quantizer(self) -> faiss.ProductQuantizer:
        """Create the product quantizer of the residuals."""
        import faiss

        parts, _, width = self.quantizer.shape
        codec = faiss.ProductQuantizer(parts * width, parts, 8)
        faiss.copy_array_to_vector(np.ascontiguousarray(self.quantizer).ravel(), codec.centroids)
        return codec

    def empty_index(self) -> faiss.IndexIVFPQ:
        """Create an empty FAISS index with these lists and codebooks."""
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
    """Trained coders: inverted lists, finer codes, or both.

    Attributes:
        projection: To apply to every descriptor; None for none, or if the stream is projected already.
        coder: Lists and codebooks; None if only finer codes are added.
        fine: Empty trained codec of finer codes, or None.
        digest: SHA-256 of the file that it is saved in; empty before.
    """

    projection: Projection | None
    coder: Coder | None
    fine: faiss.Index | None
    digest: str = ""

    @property
    def dim(self) -> int:
        """Dimension d of the coded vectors."""
        return self.coder.dim if self.coder is not None else int(self.fine.d if self.fine is not None else 0)

    def saved(self, work: BuildFolder) -> Learned:
        """Save atomically and return a copy with the digest."""
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
        """Load what `saved` wrote; None if it is missing or damaged."""
        import faiss

        try:
            data = (work.folder / _NAME).read_bytes()
        except OSError:
            return None
        digest, entry = sha256_of_bytes(data), work.finished(_NAME)
        if entry is None or entry.get("sha256") != digest:
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


def learn(stream: PictureStream, plan: ListsPlan) -> Learned:
    """Train projection, lists and codebooks on pictures sampled evenly from the stream.

    Raises:
        PatchifyError: There are too few patches to train on.
    """
    import faiss

    patches = stream.regions.patches_per_image
    needed, available = max(plan.lists, 256), len(stream) * patches
    if available < needed:
        raise too_few(plan.factory, needed, available)
    projection = None
    if plan.projection is not None and stream.projection is None:
        Projection.check_enough(available, plan.projection)
        raw = _sample(stream, PROJECTION_PATCHES, None)
        projection = Projection.learn(raw, plan.projection)
        del raw
    sample = _sample_for_lists(stream, plan.lists, projection)
    lists = Lists.learn(sample, plan.lists, plan.seed)
    subset = _subset(sample, plan.seed)
    del sample
    residuals = subset - lists.centroids[lists.assign(subset)]
    codec = faiss.ProductQuantizer(residuals.shape[1], plan.code_bytes, 8)
    codec.cp.min_points_per_centroid = 1
    codec.cp.seed += plan.seed
    codec.train(np.ascontiguousarray(residuals))
    quantizer = faiss.vector_to_array(codec.centroids).reshape(plan.code_bytes, 256, -1)
    fine = None if plan.rescore is None else _train_finer(subset, plan.rescore, plan.seed)
    return Learned(projection, Coder(lists, quantizer), fine)


def learn_finer(
    stream: PictureStream, projection: Projection | None, lists: int, rescore: str, seed: int
) -> faiss.Index:
    """Train the codec of finer codes exactly as `learn` does.

    Raises:
        PatchifyError: There are too few patches to train on.
    """
    return _train_finer(_subset(_sample_for_lists(stream, lists, projection), seed), rescore, seed)


def _train_finer(vectors: NDArray[np.float32], rescore: str, seed: int) -> faiss.Index:
    codec = make_codec(parse_factory(rescore), vectors.shape[1], seed)
    if len(vectors) < needed_to_train(codec):
        raise too_few(rescore, needed_to_train(codec), len(vectors))
    train(codec, vectors, rescore)
    return codec


def _sample_for_lists(stream: PictureStream, lists: int, projection: Projection | None) -> NDArray[np.float32]:
    return _sample(stream, max(TRAINING_PER_LIST * lists, CODE_PATCHES), projection)


def _subset(sample: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Draw at most `CODE_PATCHES` of the sample, in its order."""
    return sample[np.sort(np.random.default_rng(seed).permutation(len(sample))[:CODE_PATCHES])]


def _sample(stream: PictureStream, count: int, projection: Projection | None) -> NDArray[np.float32]:
    """Read about `count` descriptors, (n, d), of runs of consecutive pictures spread evenly over the stream."""
    patches = stream.regions.patches_per_image
    pictures = min(len(stream), -(-count // patches))
    runs = -(-pictures // _RUN)
    starts = np.unique(np.linspace(0, max(len(stream) - _RUN, 0), runs).astype(np.int64))
    if pictures == len(stream):
        starts = np.arange(0, len(stream), _RUN)
    spans = [(start, min(start + _RUN, len(stream))) for start in starts.tolist()]
    sample: NDArray[np.float32] | None = None
    at = 0
    for start, stop in spans:
        vectors = stream.batch(start, stop)[1]
        vectors = vectors.reshape(-1, vectors.shape[2])
        if projection is not None:
            vectors = projection(vectors)
        if sample is None:
            sample = np.empty((sum(b - a for a, b in spans) * patches, vectors.shape[1]), np.float32)
        sample[at : at + len(vectors)] = vectors
        at += len(vectors)
    assert sample is not None, "a stream has a picture"
    return sample


def _shares(population: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Distribute `count` lists over cells by population: at least one per cell, at most one per vector.

    Args:
        population: (T,) number of vectors per cell, `count` or more in total.
        count: At least the number of cells that are not empty.
    """
    wanted = population / population.sum() * count
    shares = np.clip(np.floor(wanted), population > 0, population).astype(np.int64)
    while (rest := count - int(shares.sum())) != 0:
        can_change = shares < population if rest > 0 else shares > 1
        deficit = np.where(can_change, (wanted - shares) * np.sign(rest), -np.inf)
        changed = np.argsort(-deficit, kind="stable")[: min(abs(rest), int(can_change.sum()))]
        shares[changed] += np.sign(rest)
    return shares


def _kmeans(vectors: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """Return (count, d) centroids of spherical k-means."""
    import faiss

    if len(vectors) == count:
        return np.ascontiguousarray(vectors)
    parameters = faiss.ClusteringParameters()
    parameters.niter, parameters.spherical, parameters.seed = _ITERATIONS, True, 1234 + seed
    parameters.min_points_per_centroid = 1
    clustering = faiss.Clustering(vectors.shape[1], count, parameters)
    clustering.train(np.ascontiguousarray(vectors), faiss.IndexFlatIP(vectors.shape[1]))
    centroids: NDArray[np.float32] = faiss.vector_to_array(clustering.centroids).reshape(count, -1)
    return centroids


def _nearest(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (N, count) similarities and numbers of the nearest centroids of each vector, by inner product."""
    import faiss

    vectors, centroids = np.ascontiguousarray(vectors), np.ascontiguousarray(centroids)
    scores, numbers = faiss.knn(vectors, centroids, count, faiss.METRIC_INNER_PRODUCT)
    return scores, numbers
