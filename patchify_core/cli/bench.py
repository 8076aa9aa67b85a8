"""`bench`: speed and memory on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from patchify_core.bench import BENCHMARKS
from patchify_core.cli.options import flag, specified
from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError

HELP = "measure speed and memory on this machine, as ratios against a peer"

SERVE = ("visitors", "seconds", "flood", "pictures", "flood_sessions", "flood_addresses")
SCALE = ("images", "others", "out", "memory", "peers", "seed", "rescore")
"""Options of `bench serve` and of `bench scale`."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options; the help of an option for one benchmark begins with its name."""
    parser.add_argument("what", choices=BENCHMARKS, help="what to measure")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE as JSON")
    parser.add_argument("--visitors", type=int, metavar="N", help="serve: simultaneous visitors (default 20)")
    parser.add_argument("--seconds", type=float, metavar="S", help="serve: duration of the visits (default 120)")
    parser.add_argument(
        "--flood-sessions", type=int, metavar="N", help="serve: requests of new visitors from one address"
    )
    parser.add_argument(
        "--flood-addresses", type=int, metavar="N", help="serve: requests of new visitors from 20 addresses"
    )
    parser.add_argument("--flood", type=int, metavar="N", help="serve: concurrent requests of one client (default 0)")
    parser.add_argument(
        "--pictures", type=int, metavar="N", help="serve: size of the gallery (default: the bundled one)"
    )
    parser.add_argument(
        "--images", type=int, nargs="+", metavar="N", help="scale: sizes of the collections (default 10000 100000)"
    )
    parser.add_argument(
        "--from",
        dest="others",
        nargs="+",
        metavar="FOLDER",
        help="scale: more pictures, or an index of them, from which collections are made",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="scale: work folder, from which the same command resumes (default bench-scale)"
    )
    parser.add_argument("--memory", type=float, metavar="GB", help="scale: memory budget of our search (default 16)")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scale: also measure FAISS alone, hnswlib, Milvus Lite and Qdrant (default: yes)",
    )
    parser.add_argument(
        "--rescore",
        metavar="FACTORY",
        help="scale: finer codes that are added to our index once it is measured without (default SQ8), or none",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="scale: seed of the collections (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark."""
    from patchify_core import bench as benchmarks

    options: dict[str, Any] = {}
    for what, names in (("serve", SERVE), ("scale", SCALE)):
        values = specified(arguments, *names)
        if values and arguments.what != what:
            option = flag(next(iter(values))).replace("others", "from")
            raise PatchifyError(f"{option} belongs to bench {what}: leave it out.")
        options |= values
    if arguments.json:
        check_writable(Path(arguments.json))
    start = time.perf_counter()
    numbers: dict[str, Any] = benchmarks.run(arguments.what, **options)
    print(f"({time.perf_counter() - start:.0f} s)", file=sys.stderr)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    return 0
