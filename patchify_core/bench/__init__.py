"""Speed and memory on the machine at hand, always beside a peer in the same run: `python -m patchify_core bench`.

Absolute times say more about the machine than about the code, so each measurement also gives the ratio to the plain
way of doing the same work, taken in turn with ours so that both meet the same load.
"""

from __future__ import annotations

import importlib
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

BENCHMARKS = ("encode", "search", "rerank", "refine", "page", "serve", "strain", "memory", "scale")


def run(what: str, **options: Any) -> dict[str, Any]:
    """Run one benchmark, print its table and return its numbers; `options` are those of its `measure`."""
    numbers: dict[str, Any] = importlib.import_module(f"patchify_core.bench.{what}").measure(**options)
    return numbers


def in_turn(ways: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Median seconds of each way, after one run of each that is not counted; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for counted in range(runs + 1):
        for name, work in ways.items():
            start = time.perf_counter()
            work()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """What the numbers were measured on."""
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
