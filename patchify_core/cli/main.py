"""Parse the command line, run one command and return its exit code.

Exit codes: 0 done, 1 done but some pictures were skipped or have changed, 2 refused or failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from patchify_core.cli import (
    bench,
    calibrate,
    compare,
    embed,
    evaluate,
    index,
    reproduce,
    search,
    serve,
    showcase,
    study,
    tune,
    verify,
)
from patchify_core.errors import PatchifyError
from patchify_core.version import __version__

REFUSED, INTERRUPTED = 2, 130

COMMANDS: dict[str, ModuleType] = {
    "index": index,
    "embed": embed,
    "search": search,
    "tune": tune,
    "calibrate": calibrate,
    "verify": verify,
    "evaluate": evaluate,
    "compare": compare,
    "study": study,
    "reproduce": reproduce,
    "bench": bench,
    "serve": serve,
    "showcase": showcase,
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="python -m patchify_core",
        description="Patch-wise instance retrieval: find the pictures that contain an object, and where.",
        epilog="Exit codes: 0 done, 1 done but pictures were skipped or have changed, 2 refused (it says why), "
        "130 interrupted.",
    )
    root.add_argument("--version", action="version", version=f"patchify {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_options(commands.add_parser(name, help=module.HELP))
    return root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error is one sentence on stderr, never a traceback."""
    arguments = parser().parse_args(argv)
    command = COMMANDS[arguments.command]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal's encoding may lack a character of a file name
    # Encoders and Milvus read these settings from the environment.
    for option in ("device", "engine", "precision", "compile", "readers", "token"):
        if value := getattr(arguments, option, None):
            os.environ["MILVUS_TOKEN" if option == "token" else f"PATCHIFY_{option.upper()}"] = value
    try:
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        note = command.interruption_note(arguments) if hasattr(command, "interruption_note") else ""
        print(f"\ninterrupted{note}.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe, which is not a failure.
        _discard_stdout()
        return 0
    except OSError as error:
        name, why = error.filename or "The output", error.strerror or error
        print(f"error: {name} cannot be read or written ({why}): check its name and disk.", file=sys.stderr)
        _discard_stdout()
        return REFUSED


def _discard_stdout() -> None:
    """Redirect stdout to nowhere, so that Python does not fail to flush it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
