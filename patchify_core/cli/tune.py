"""`tune`: finds out how many lists a search must visit, and keeps that in the index."""

from __future__ import annotations

import argparse

from patchify_core.cli.options import given
from patchify_core.cli.shared import report_done

HELP = "find out how many lists a search must visit for a wanted recall, and keep that in the index"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("index", metavar="INDEX", help="index folder with inverted lists")
    parser.add_argument("--recall", type=float, metavar="R", help="wanted share of the pictures that all lists give")
    parser.add_argument("--queries", type=int, metavar="N", help="held-out queries (default 100)")
    parser.add_argument("--json", action="store_true", help="print what was measured as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, keep the choice and say what it reaches."""
    from patchify_core.index.big.tune import tune

    tuned = tune(arguments.index, **given(arguments, "recall", "queries"))
    text = (
        f"{arguments.index}: a search visits {tuned.probes:,} of {tuned.lists:,} lists; that finds {tuned.recall:.3f} "
        f"of what all lists give ({tuned.queries} queries), in {tuned.ms:.1f} ms."
    )
    return report_done(arguments, tuned, text, index=arguments.index)
