"""Benchmarks of speed and memory on this machine: `python -m patchify_core bench`.

Absolute times say more about the machine than about the code. Each measurement therefore includes a peer, usually the
plain way to do the same work, which takes turns with ours so that both see the same load.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

BENCHMARKS = {
    "encode": "indexing.measure_speed",
    "search": "search.measure_search",
    "rerank": "search.measure_rerank",
    "refine": "search.measure_refine",
    "page": "page.measure_waits",
    "serve": "serve.measure",
    "strain": "page.measure_strain",
    "memory": "indexing.measure_memory",
    "scale": "scale.measure",
}
"""Name on the command line -> the function of this package that measures it."""


def run(what: str, **options: Any) -> dict[str, Any]:
    """Run one benchmark, print its table and return its numbers; `options` are arguments of its function."""
    module, _, function = BENCHMARKS[what].partition(".")
    measure: Callable[..., dict[str, Any]] = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return measure(**options)


def in_turn(ways: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Return the median seconds of each way; the ways take turns, and their first round is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for counted in range(runs + 1):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Describe this machine in one line."""
    import torch

    threads = torch.get_num_threads()
    return (
        f"{platform.system()} {platform.machine()}, {threads} thread{'s' if threads != 1 else ''}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def print_table(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under a title; the first row is the header."""
    print(f"{title}\n({machine()})")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        print("  " + first[0].ljust(first[1]) + "".join(f"  {text.rjust(width)}" for text, width in others))
