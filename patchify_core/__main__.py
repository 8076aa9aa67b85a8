"""The command line: `python -m patchify_core index | search | evaluate | bench | serve`.

Only argument parsing happens here, so that `--help` answers at once; the work is in `commands/`.
Exit codes: 0 done, 1 done but some pictures were skipped, 2 refused or failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from patchify_core.errors import PatchifyError

DEFAULT_ENCODER, DEFAULT_REGIONS, DEFAULT_FACTORY = "effnet-lite0", "pyramid:4", "Flat"
SKIPPED, REFUSED, INTERRUPTED = 1, 2, 130


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from patchify_core import __version__

    root = argparse.ArgumentParser(
        prog="python -m patchify_core",
        description="Patch-wise instance retrieval: find the pictures that hold an object, and where.",
        epilog="Exit codes: 0 done, 1 done but pictures were skipped, 2 refused (it says why), 130 interrupted.",
    )
    root.add_argument("--version", action="version", version=f"patchify {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    index = commands.add_parser("index", help="build or update an index of a dataset or a folder of pictures")
    index.add_argument("gallery", metavar="GALLERY", help="folder of pictures, or a dataset with annotations.json")
    index.add_argument("--out", required=True, metavar="INDEX", help="index folder to make or update")
    index.add_argument("--json", action="store_true", help="print what was done as JSON")
    _index_options(index)

    search = commands.add_parser("search", help="find the pictures that hold the query's object")
    search.add_argument("index", metavar="INDEX", help="index folder")
    search.add_argument("picture", nargs="?", metavar="PICTURE", help="query picture (or give --text)")
    search.add_argument("--text", metavar="WORDS", help="search with words instead; needs an index by open_clip")
    search.add_argument("--box", metavar="x1,y1,x2,y2", help="the object in the query, pixels of the upright picture")
    search.add_argument("--top", type=int, default=10, metavar="K", help="results (default 10)")
    search.add_argument("--level", type=int, metavar="N", help="finest grid to use, 1 = whole pictures (default: all)")
    search.add_argument("--draw", metavar="FILE", help="also draw the results, with their boxes, into a .jpg or .png")
    search.add_argument("--json", action="store_true", help="print JSON instead of a table")

    evaluate = commands.add_parser("evaluate", help="score a dataset: mAP, LocScore, recall@k for every pyramid level")
    evaluate.add_argument("dataset", metavar="DATASET", help="folder with annotations.json")
    evaluate.add_argument("--format", choices=["coco"], default="coco", help="layout of the dataset (default coco)")
    evaluate.add_argument(
        "--index", metavar="INDEX", help="keep the index here and reuse it (default: a temporary one)"
    )
    evaluate.add_argument("--cutoff", type=int, metavar="K", help="count only the first K ranks (AP@K, LocScore@K)")
    evaluate.add_argument("--json", metavar="FILE", help="write the numbers to FILE as JSON")
    _index_options(evaluate)

    bench = commands.add_parser("bench", help="measure speed and memory on this machine, as ratios against a peer")
    bench.add_argument("what", choices=["encode", "search", "page", "memory"], help="what to measure")
    bench.add_argument("--json", metavar="FILE", help="write the numbers to FILE as JSON")

    serve = commands.add_parser("serve", help="start the demo page (the same as python app.py)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, default=7860, help="port (default 7860)")
    return root


def _index_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--encoder",
        default=DEFAULT_ENCODER,
        metavar="SPEC",
        help="effnet-lite0 (default), effnet-lite1, effnet-lite2; open_clip:ARCH/TAG, open_clip:ARCH/FILE, timm:NAME "
        "(downloaded when first used), timm:NAME@FILE",
    )
    command.add_argument(
        "--regions", default=DEFAULT_REGIONS, metavar="SPEC", help="pyramid:N, N from 1 to 6 (default pyramid:4)"
    )
    command.add_argument("--features", choices=["crop"], default="crop", help="one forward pass a patch (default)")
    command.add_argument(
        "--factory", default=DEFAULT_FACTORY, metavar="FAISS", help="Flat (default, float32), SQfp16 or SQ8 codes"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; a refusal is one sentence on stderr, never a traceback."""
    arguments = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may not fit the terminal's encoding
    try:
        module = importlib.import_module(f"patchify_core.commands.{arguments.command}")
        code: int = module.run(arguments)
        sys.stdout.flush()
        return code
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        resumes = arguments.command == "index" or (arguments.command == "evaluate" and arguments.index)
        kept = ": finished work is kept; run the same command again to go on" if resumes else ""
        print(f"\ninterrupted{kept}.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: that is no failure, and there is nobody to tell.
        _give_up_stdout()
        return 0
    except OSError as error:
        name, why = error.filename or "The output", error.strerror or error
        print(f"error: {name} cannot be read or written ({why}): check its name and disk.", file=sys.stderr)
        _give_up_stdout()
        return REFUSED


def _give_up_stdout() -> None:
    """Keeps Python from complaining at exit of what it could not write."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
