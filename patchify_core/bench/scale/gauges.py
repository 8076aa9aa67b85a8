"""Gauges of `bench scale`: memory of this process, what others did to the machine meanwhile, and what was found."""

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

from patchify_core.bench.scale.collection import Planted
from patchify_core.bench.scale.exact import ExactRanking

QUIET = 0.05
"""Share of the machine that others may take while times are taken that are worth quoting."""

VERSIONS = ("numpy", "faiss-cpu", "hnswlib", "pymilvus", "milvus-lite", "qdrant-client")


def memory() -> dict[str, int]:
    """Bytes of this process: `peak`, `resident` now, and of these `mapped` from files, which the system may take back.

    Where there is no /proc (not Linux) only `peak`, and what a parent's peak was counts too.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in lines
        if line.startswith(("VmHWM", "VmRSS", "RssFile"))
    }
    return {"peak": found["VmHWM"], "resident": found["VmRSS"], "mapped": found.get("RssFile", 0)}


@dataclass
class Watch:
    """Seconds of a piece of work, and the share of the machine's cores that others kept busy meanwhile.

    Attributes:
        seconds: wall time.
        others: 0..1; None where it is not known (not Linux).
    """

    seconds: float = 0.0
    others: float | None = None
    _start: float = field(default_factory=time.perf_counter)

    def as_dict(self) -> dict[str, Any]:
        """For a record."""
        return {
            "seconds": self.seconds,
            "others": self.others,
            "quiet": None if self.others is None else self.others <= QUIET,
        }


@contextmanager
def watched() -> Iterator[Watch]:
    """Times what is done inside."""
    watch, before, own = Watch(), _busy(), sum(os.times()[:4])
    yield watch
    watch.seconds = time.perf_counter() - watch._start
    after = _busy()
    if before is not None and after is not None and after[1] > before[1]:
        ticks = os.sysconf("SC_CLK_TCK")
        mine = (sum(os.times()[:4]) - own) * ticks
        watch.others = max(0.0, (after[0] - before[0] - mine) / (after[1] - before[1]))


def _busy() -> tuple[int, int] | None:
    """(ticks that all cores worked, ticks in all) since the machine started."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(value) for value in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def uncached(folder: Path) -> None:
    """Has the system forget what it keeps of these files in memory, so that the next reader gets them from the disk.

    Only where there is such a call (Linux); elsewhere first queries are warmer than they seem.
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
    """Milliseconds of one query at a time, each searched once before, then all for at least `least_s` seconds.

    Returns:
        `p50_ms`, `p95_ms`, and `timing`, how quiet the machine was.
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


def first_ones(search: Search, queries: NDArray[np.float32], count: int = 20) -> dict[str, float]:
    """Milliseconds of the first query of a process, and the median of the first `count`, none searched before."""
    seconds = []
    for query in queries[:count]:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    return {"first_ms": 1000 * seconds[0], "cold_ms": 1000 * float(np.median(seconds))}


def quality_of(
    answers: Sequence[NDArray[np.int64]], exact: ExactRanking, planted: Planted, per_picture: int
) -> dict[str, float]:
    """How good answers are.

    Args:
        answers: for each query, numbers of patches, best first.
        exact: the exact answers.
        planted: where the true ones are.
        per_picture: patches of a picture.

    Returns:
        `recall@1`, the share of queries whose first picture is a planted true one; `recall@10`, the share of their
        planted true pictures (of 10 at most) among the first ten; `of_exact`, the latter over exact search's own;
        `overlap`, the share of the exact first ten pictures that are found; `cells`, the share of pictures found in
        common whose winning patch is the same; `pictures`, different ones among ten.
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
    """The share of the true pictures that are among these, of as many as could be."""
    return int(np.isin(true, rows).sum()) / max(1, min(len(rows), len(true)))


def machine() -> dict[str, Any]:
    """What the numbers are measured on."""
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
