"""`bench`: speed and memory on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from patchify_core.commands.shared import check_writable
from patchify_core.errors import PatchifyError

SERVE = ("visitors", "seconds", "flood", "pictures")
"""Options that only `bench serve` has."""


def run(arguments: argparse.Namespace) -> int:
    """Runs one benchmark."""
    from patchify_core import bench as benchmarks

    options = {name: getattr(arguments, name) for name in SERVE if getattr(arguments, name) is not None}
    if options and arguments.what != "serve":
        raise PatchifyError(f"--{next(iter(options))} belongs to bench serve: leave it out.")
    if arguments.json:
        check_writable(Path(arguments.json))
    start = time.perf_counter()
    numbers: dict[str, Any] = benchmarks.run(arguments.what, **options)
    print(f"({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0
