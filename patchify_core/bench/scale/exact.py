"""Measurements of `bench scale`: exact results, realism of the collection, quality, latency, memory, the machine.

Exact results come from comparing the queries with every patch while the collection streams by, in memory bounded by the
batch. An interrupted sweep resumes from its last saved state.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.bench.scale.collection import Planted, ScaleSource, SyntheticPictures
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
    """Find the `top` pictures of every query, by comparing it with every patch.

    Args:
        stream: The collection.
        top: Number of pictures per query.
        state: File to which the sweep is saved regularly, and from which it resumes.
        progress: Called with (pictures done, pictures in all).
        batch: Pictures compared at a time.
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
    """Merge the best pictures so far with a batch of similarities (n, P, Q)."""
    of_picture = scores.max(axis=1)  # (n, Q)
    rows, best_scores, cells = best.rows.copy(), best.scores.copy(), best.cells.copy()
    for query in np.flatnonzero((of_picture > best_scores[:, -1]).any(axis=0)).tolist():
        new = np.flatnonzero(of_picture[:, query] > best_scores[query, -1])
        all_rows = np.concatenate([rows[query], new + first])
        all_scores = np.concatenate([best_scores[query], of_picture[new, query]])
        all_cells = np.concatenate([cells[query], scores[new, :, query].argmax(axis=1)])
        order = np.lexsort((all_rows, -all_scores))[:top]
        rows[query], best_scores[query], cells[query] = all_rows[order], all_scores[order], all_cells[order]
    return ExactRanking(rows, best_scores, cells)


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
    """Compare synthetic pictures with real ones.

    One half of the real pictures is the source of as many synthetic ones as the other half has; both get the same
    queries.

    Returns:
        For `real` and `synthetic`: quartiles of the similarity of a query with its best and its tenth picture, and
        `kmeans`, the share of the variance that 64 clusters leave unexplained, beside `kmeans_of_noise`, the same for
        normal noise of the same covariance; less than noise means clusters.
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
    synthetic = SyntheticPictures(maker, half, seed).descriptors(0, half)
    return {"pictures": half} | {
        name: _statistics(pictures, source.queries, seed)
        for name, pictures in (("real", real), ("synthetic", synthetic))
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


QUIET = 0.05
"""Share of the cores that other processes may use in a measurement that counts as quiet."""

VERSIONS = ("numpy", "faiss-cpu", "hnswlib", "pymilvus", "milvus-lite", "qdrant-client")


def memory() -> dict[str, int]:
    """Return the bytes of this process: `peak`, `resident`, and those `mapped` from files, which can be reclaimed.

    Without /proc (not Linux) only `peak` is known, which includes a parent's peak.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    sizes = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in lines
        if line.startswith(("VmHWM", "VmRSS", "RssFile"))
    }
    return {"peak": sizes["VmHWM"], "resident": sizes["VmRSS"], "mapped": sizes.get("RssFile", 0)}


@dataclass
class Watch:
    """Duration of some work, and the share of the machine's cores that other processes used meanwhile.

    Attributes:
        seconds: Wall time.
        others: Share in 0..1; None if unknown (not Linux).
    """

    seconds: float = 0.0
    others: float | None = None
    _start: float = field(default_factory=time.perf_counter)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON, with `quiet`: whether others left the machine alone."""
        return {
            "seconds": self.seconds,
            "others": self.others,
            "quiet": None if self.others is None else self.others <= QUIET,
        }


@contextmanager
def watched() -> Iterator[Watch]:
    """Time the body of a `with` statement."""
    watch, before, own = Watch(), _busy(), sum(os.times()[:4])
    yield watch
    watch.seconds = time.perf_counter() - watch._start
    after = _busy()
    if before is not None and after is not None and after[1] > before[1]:
        ticks = os.sysconf("SC_CLK_TCK")
        mine = (sum(os.times()[:4]) - own) * ticks
        watch.others = max(0.0, (after[0] - before[0] - mine) / (after[1] - before[1]))


def _busy() -> tuple[int, int] | None:
    """Return (busy ticks, all ticks) of all cores since the machine started."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(value) for value in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def uncached(folder: Path) -> None:
    """Drop a folder's files from the page cache, so that they are next read from disk.

    Does nothing on systems without posix_fadvise, where first queries are faster than on a cold cache.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]
"""A query (d,) -> (K,) numbers of patches, best first."""


def latencies(search: Search, queries: NDArray[np.float32], least_s: float = 2.0) -> dict[str, Any]:
    """Measure milliseconds per query: one warm-up round, then rounds for at least `least_s` seconds.

    Returns:
        `p50_ms`, `p95_ms`, and `timing` (`Watch.as_dict`).
    """
    for query in queries:
        search(query)
    seconds: list[float] = []
    with watched() as watch:
        while sum(seconds) < least_s or len(seconds) < len(queries):
            for query in queries:
                start = time.perf_counter()
                search(query)
                seconds.append(time.perf_counter() - start)
                if sum(seconds) >= least_s and len(seconds) >= len(queries):
                    break
    p50, p95 = (1000 * np.quantile(seconds, [0.5, 0.95])).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "timing": watch.as_dict()}


def cold_latencies(search: Search, queries: NDArray[np.float32], count: int = 20) -> dict[str, float]:
    """Measure milliseconds of the first query of a process, and the median of the first `count` different ones."""
    seconds = []
    for query in queries[:count]:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return {"first_ms": 1000 * seconds[0], "cold_ms": 1000 * float(np.median(seconds))}


def quality_of(
    answers: Sequence[NDArray[np.int64]], exact: ExactRanking, planted: Planted, per_picture: int
) -> dict[str, float]:
    """Measure the quality of search results.

    Args:
        answers: For each query, numbers of patches, best first.
        exact: The exact results.
        planted: The positives.
        per_picture: Patches per picture.

    Returns:
        `recall@1`, the share of queries whose first picture is a positive; `recall@10`, the share of the positives (10
        at most) among the first ten; `of_exact`, the latter relative to exact search; `overlap`, the share of the exact
        first ten pictures among the results; `cells`, the share of those whose winning patch is the same; `pictures`,
        the number of different pictures among ten.
    """
    at1, at10, overlap, same, common, different = [], [], [], 0, 0, []
    wanted = exact.rows.shape[1]
    for query, patches in enumerate(answers):
        rows, cells = np.divmod(patches[:wanted], per_picture)
        true = planted.rows[planted.true[query]]
        at1.append(bool(np.isin(rows[:1], true).any()))
        at10.append(_recall(rows, true))
        theirs = dict(zip(exact.rows[query].tolist(), exact.cells[query].tolist(), strict=True))
        mine = dict(zip(rows[::-1].tolist(), cells[::-1].tolist(), strict=True))
        both = mine.keys() & theirs.keys() - {-1}
        overlap.append(len(both) / max(1, int((exact.rows[query] >= 0).sum())))
        same, common = same + sum(mine[row] == theirs[row] for row in both), common + len(both)
        different.append(len(mine))
    exactly = float(np.mean([_recall(exact.rows[q], planted.rows[planted.true[q]]) for q in range(len(answers))]))
    return {
        "recall@1": float(np.mean(at1)),
        "recall@10": float(np.mean(at10)),
        "of_exact": float(np.mean(at10)) / exactly if exactly else float("nan"),
        "overlap": float(np.mean(overlap)),
        "cells": same / common if common else float("nan"),
        "pictures": float(np.mean(different)),
    }


def _recall(rows: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Return the share of the positives that are among these pictures, of as many as could be."""
    return int(np.isin(true, rows).sum()) / max(1, min(len(rows), len(true)))


def machine() -> dict[str, Any]:
    """Describe the machine, and the versions of the libraries."""
    versions = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "memory_gb": round(int((_first("/proc/meminfo", "MemTotal") or "0").split()[0]) / 1e6, 1) or None,
        "versions": versions,
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _first(path: str, name: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(name)), None)
    except OSError:
        return None
