"""Starts the Patchify demo page: `python app.py`, then open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import os
import sys

from patchify_core.demo.settings import variables_in_words
from patchify_core.errors import PatchifyError


def main() -> int:
    """Parses the flags and serves the page; a refusal is one sentence on stderr."""
    parser = argparse.ArgumentParser(
        description="Patchify: find the pictures that contain an object, and where.",
        epilog=f"environment variables, where a flag does not say otherwise:\n{variables_in_words()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default 7860)")
    parser.add_argument("--mcp", action="store_true", default=None, help="serve the API as MCP tools too")
    arguments = parser.parse_args()
    # Read when numpy and FAISS are imported. A search takes one thread, and threads of OpenBLAS that wait for others
    # make a codebook of the Compression tab take three times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from patchify_core.web.launch import launch, leave

        leave(launch(arguments.host, arguments.port, mcp=arguments.mcp))
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
