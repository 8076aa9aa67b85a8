"""The exact answer, by comparing the queries with every patch while the collection streams by; and how lifelike it is.

Memory is bounded by the batch. A sweep that was stopped goes on where it last saved.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.bench.scale.collection import ScaleSource, SyntheticPictures
from patchify_core.errors import PatchifyError
from patchify_core.files import atomic

BATCH = 1024
"""Pictures compared at a time."""

SAVE_EVERY_S = 20.0


@dataclass(frozen=True, eq=False)
class ExactRanking:
    """The best pictures of several queries, best first, ties by ascending row.

    Attributes:
        rows: (Q, K) int64; -1 where there are fewer pictures.
        scores: (Q, K) float32, similarity of the winning patch.
        cells: (Q, K) int64, the winning patch.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cells: NDArray[np.int64]


def exact_ranking(
    stream: SyntheticPictures,
    top: int = 10,
    state: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    batch: int = BATCH,
) -> ExactRanking:
    """The `top` pictures of every planted query, by comparing it with every patch.

    Args:
        stream: the collection.
        top: pictures wanted.
        state: a file that the work is saved to now and then and taken up from.
        progress: called with (pictures done, pictures in all).
        batch: pictures compared at a time.
    """
    queries = stream.source.queries
    done, best = _resumed(state, stream, top)
    saved = time.monotonic()
    while done < len(stream):
        stop = min(done + batch, len(stream))
        vectors = stream.descriptors(done, stop)
        # (n, P, Q): the queries last, so that the best patch is found along whole cache lines
        scores = (vectors.reshape(-1, vectors.shape[2]) @ queries.T).reshape(*vectors.shape[:2], -1)
        best = _merged(best, scores, done, top)
        done = stop
        if progress:
            progress(done, len(stream))
        if state is not None and (time.monotonic() - saved > SAVE_EVERY_S or done == len(stream)):
            _save(state, stream, top, done, best)
            saved = time.monotonic()
    return best


def _merged(best: ExactRanking, scores: NDArray[np.float32], first: int, top: int) -> ExactRanking:
    """The best of what was known and of a batch's similarities (n, P, Q)."""
    of_picture = scores.max(axis=1)  # (n, Q)
    rows, found, cells = best.rows.copy(), best.scores.copy(), best.cells.copy()
    for query in np.flatnonzero((of_picture > found[:, -1]).any(axis=0)).tolist():
        new = np.flatnonzero(of_picture[:, query] > found[query, -1])
        all_rows = np.concatenate([rows[query], new + first])
        all_scores = np.concatenate([found[query], of_picture[new, query]])
        all_cells = np.concatenate([cells[query], scores[new, :, query].argmax(axis=1)])
        order = np.lexsort((all_rows, -all_scores))[:top]
        rows[query], found[query], cells[query] = all_rows[order], all_scores[order], all_cells[order]
    return ExactRanking(rows, found, cells)


def _key(stream: SyntheticPictures, top: int) -> str:
    return f"{stream.digest} {top}"


def _resumed(state: Path | None, stream: SyntheticPictures, top: int) -> tuple[int, ExactRanking]:
    count = len(stream.source.queries)
    if state is not None and state.is_file():
        try:
            with np.load(state, allow_pickle=False) as file:
                if str(file["key"]) == _key(stream, top):
                    return int(file["done"]), ExactRanking(file["rows"], file["scores"], file["cells"])
        except (OSError, ValueError, KeyError) as error:
            raise PatchifyError(f"{state} is not what bench scale left there: delete it.") from error
    nothing = np.full((count, top), -1, np.int64)
    return 0, ExactRanking(nothing, np.full((count, top), -np.inf, np.float32), nothing.copy())


def _save(state: Path, stream: SyntheticPictures, top: int, done: int, best: ExactRanking) -> None:
    with atomic(state) as file:
        np.savez(
            file,
            key=np.array(_key(stream, top)),
            done=np.array(done),
            rows=best.rows,
            scores=best.scores,
            cells=best.cells,
        )


def likeness(source: ScaleSource, seed: int = 0) -> dict[str, Any]:
    """How far synthetic pictures look like real ones, in numbers.

    Half of the real pictures make as many synthetic ones as the other half has, and both get the same queries.

    Returns:
        For `real` and `synthetic`: quartiles of the similarity of a query with its best and its tenth picture, and
        `kmeans`, the share of the variance that 64 clusters leave, beside `kmeans_of_noise`, what they leave of normal
        noise of the same covariance; less than noise means clusters.
    """
    order = np.random.default_rng(seed).permutation(len(source.pictures))
    half = len(order) // 2
    real = source.pictures[order[half : 2 * half]]
    maker = ScaleSource(
        source.encoder,
        source.regions,
        source.projection,
        source.pictures[order[:half]],
        source.queries,
        source.answers[:0],
        source.true[:, :0],
    )
    made = SyntheticPictures(maker, half, seed).descriptors(0, half)
    return {"pictures": half} | {
        name: _statistics(pictures, source.queries, seed) for name, pictures in (("real", real), ("synthetic", made))
    }


def _statistics(pictures: NDArray[np.float32], queries: NDArray[np.float32], seed: int) -> dict[str, Any]:
    import faiss

    scores = np.sort(np.einsum("qd,npd->qnp", queries, pictures).max(axis=2), axis=1)
    flat = pictures.reshape(-1, pictures.shape[2])
    centred = flat - flat.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(centred.T))
    noise = np.random.default_rng(seed).standard_normal(flat.shape) * np.sqrt(values.clip(0)) @ axes.T
    left = []
    for vectors in (centred, noise.astype(np.float32)):
        means = faiss.Kmeans(flat.shape[1], min(64, len(flat)), niter=10, seed=1, min_points_per_centroid=1)
        means.train(np.ascontiguousarray(vectors))
        left.append(float(np.asarray(means.obj)[-1] / (vectors**2).sum()))
    tenth = min(10, scores.shape[1])
    return {
        "best": np.quantile(scores[:, -1], [0.25, 0.5, 0.75]).tolist(),
        "tenth": np.quantile(scores[:, -tenth], [0.25, 0.5, 0.75]).tolist(),
        "kmeans": left[0],
        "kmeans_of_noise": left[1],
    }
