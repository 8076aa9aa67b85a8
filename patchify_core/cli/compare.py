"""`compare`: test whether one evaluation is better than another."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError

HELP = "is one evaluation better than another? (paired bootstrap)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("a", metavar="A.json", help="result of evaluate --json")
    parser.add_argument("b", metavar="B.json", help="another one over the same dataset")
    parser.add_argument(
        "--level",
        metavar="N",
        help="level to compare; N,M for level N of A and level M of B (default: the finest)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the comparison as JSON to FILE, or print it instead of the text",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print one sentence per metric, or JSON."""
    from patchify_core.evaluation.compare import as_json, compare, read_run
    from patchify_core.evaluation.record import write_json

    level_a, level_b = _levels(arguments.level)
    if arguments.json not in (None, "-"):
        check_writable(Path(arguments.json))
    differences = compare(read_run(Path(arguments.a)), read_run(Path(arguments.b)), level_a, level_b)
    if arguments.json == "-":
        print(json.dumps(as_json(differences), indent=1))
        return 0
    print(f"A: {arguments.a}\nB: {arguments.b}")
    for difference in differences:
        print(difference.sentence())
    if arguments.json:
        write_json(Path(arguments.json), as_json(differences))
    return 0


def _levels(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    try:
        levels = [int(level) for level in text.split(",")]
        if len(levels) in (1, 2):
            return levels[0], levels[-1]
    except ValueError:
        pass
    raise PatchifyError(
        f"--level takes one number, or those of A and B separated by a comma, such as 1,4, not {text!r}."
    )
