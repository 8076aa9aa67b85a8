"""`tune`: finds out how many lists a search must visit, and keeps that in the index."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from patchify_core.index.big.tune import tune


def run(arguments: argparse.Namespace) -> int:
    """Measures, keeps the choice and says what it reaches."""
    found = tune(arguments.index, arguments.recall, arguments.queries)
    if arguments.json:
        print(json.dumps(asdict(found) | {"index": arguments.index}, indent=1))
        return 0
    print(
        f"{arguments.index}: a search visits {found.probes:,} of {found.lists:,} lists; that finds {found.recall:.3f} "
        f"of what all lists give ({found.queries} queries), in {found.ms:.1f} ms."
    )
    return 0
