"""Starts the Patchify demo page: `python app.py`, then open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import os
import sys


def main() -> int:
    """Parses the flags and serves the page; a refusal is one sentence on stderr."""
    parser = argparse.ArgumentParser(description="Patchify: find the pictures that hold an object, and where.")
    parser.add_argument("--host", default=os.environ.get("PATCHIFY_HOST", "127.0.0.1"), help="default 127.0.0.1")
    parser.add_argument("--port", type=int, default=os.environ.get("PATCHIFY_PORT", "7860"), help="default 7860")
    arguments = parser.parse_args()

    from patchify_core.errors import PatchifyError
    from patchify_core.web.launch import launch

    try:
        launch(arguments.host, arguments.port)
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
