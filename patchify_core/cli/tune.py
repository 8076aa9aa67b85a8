"""`tune`: find out how many lists a search must visit, and store the number in the index."""

from __future__ import annotations

import argparse

from patchify_core.cli.options import specified
from patchify_core.cli.shared import print_report

HELP = "find out how many lists a search must visit for a recall, and store the number in the index"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("index", metavar="INDEX", help="index folder with inverted lists")
    parser.add_argument("--recall", type=float, metavar="R", help="share of the results of all lists to reach")
    parser.add_argument("--queries", type=int, metavar="N", help="held-out queries (default 100)")
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure, store the choice and print its recall."""
    from patchify_core.index.big.tune import tune

    tuned = tune(arguments.index, **specified(arguments, "recall", "queries"))
    text = (
        f"{arguments.index}: a search visits {tuned.probes:,} of {tuned.lists:,} lists; that finds {tuned.recall:.3f} "
        f"of what all lists give ({tuned.queries} queries), in {tuned.ms:.1f} ms."
    )
    return print_report(arguments, tuned, text, index=arguments.index)
