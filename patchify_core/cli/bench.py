"""`bench`: speed and memory on this machine."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from patchify_core.bench import BENCHMARKS
from patchify_core.cli.options import flag, given
from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError

HELP = "measure speed and memory on this machine, as ratios against a peer"

SERVE = ("visitors", "seconds", "flood", "pictures", "flood_sessions", "flood_addresses")
SCALE = ("images", "others", "out", "memory", "peers", "seed", "rescore")
"""Options that only `bench serve` and only `bench scale` have."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options; those of one benchmark begin with its name."""
    parser.add_argument("what", choices=BENCHMARKS, help="what to measure")
    parser.add_argument("--json", metavar="FILE", help="write the numbers to FILE as JSON")
    parser.add_argument("--visitors", type=int, metavar="N", help="serve: how many at a time (default 20)")
    parser.add_argument("--seconds", type=float, metavar="S", help="serve: how long they stay (default 120)")
    parser.add_argument("--flood-sessions", type=int, metavar="N", help="serve: requests of new visitors, one address")
    parser.add_argument(
        "--flood-addresses", type=int, metavar="N", help="serve: requests of new visitors, 20 addresses"
    )
    parser.add_argument("--flood", type=int, metavar="N", help="serve: requests at once of one more (default 0)")
    parser.add_argument("--pictures", type=int, metavar="N", help="serve: in the gallery (default: those bundled)")
    parser.add_argument(
        "--images", type=int, nargs="+", metavar="N", help="scale: pictures of each collection (default 10000 100000)"
    )
    parser.add_argument(
        "--from",
        dest="others",
        nargs="+",
        metavar="FOLDER",
        help="scale: pictures, or an index of them, to make the collections of, beside the bundled gallery",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="scale: work folder; the same command goes on there (default bench-scale)"
    )
    parser.add_argument("--memory", type=float, metavar="GB", help="scale: what our search may take (default 16)")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scale: whether FAISS alone, hnswlib, Milvus Lite and Qdrant do the same (default: yes)",
    )
    parser.add_argument(
        "--rescore",
        metavar="FACTORY",
        help="scale: finer codes that our index gets once it was measured without (default SQ8); none for no such",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="scale: another collection of the same kind (default 0)")


def run(arguments: argparse.Namespace) -> int:
    """Run one benchmark."""
    from patchify_core import bench as benchmarks

    options: dict[str, Any] = {}
    for what, names in (("serve", SERVE), ("scale", SCALE)):
        values = given(arguments, *names)
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
