"""Speed and memory on the machine at hand, always beside a peer in the same run: `python -m patchify_core bench`.

Absolute times say more about the machine than about the code, so each measurement also gives the ratio to the plain
way of doing the same work, taken in turn with ours so that both meet the same load.
"""

from __future__ import annotations

import importlib
from typing import Any

BENCHMARKS = ("encode", "search", "rerank", "refine", "page", "serve", "strain", "memory", "scale")


def run(what: str, **options: Any) -> dict[str, Any]:
    """Runs one benchmark, prints its table and returns its numbers; `options` are those of its `measure`."""
    numbers: dict[str, Any] = importlib.import_module(f"patchify_core.bench.{what}").measure(**options)
    return numbers
