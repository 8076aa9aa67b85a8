"""`bench`: speed and memory on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError

SERVE = ("visitors", "seconds", "flood", "pictures", "flood_sessions", "flood_addresses")
SCALE = ("images", "others", "out", "memory", "peers", "seed", "rescore")
"""Options that only `bench serve` and only `bench scale` have."""


def run(arguments: argparse.Namespace) -> int:
    """Runs one benchmark."""
    from patchify_core import bench as benchmarks

    options: dict[str, Any] = {}
    for what, names in (("serve", SERVE), ("scale", SCALE)):
        given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
        if given and arguments.what != what:
            option = next(iter(given)).replace("others", "from").replace("_", "-")
            raise PatchifyError(f"--{option} belongs to bench {what}: leave it out.")
        options |= given
    if arguments.json:
        check_writable(Path(arguments.json))
    start = time.perf_counter()
    numbers: dict[str, Any] = benchmarks.run(arguments.what, **options)
    print(f"({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0
