"""`serve`: the demo page."""

from __future__ import annotations

import argparse
import os

HELP = "start the demo page (the same as python app.py)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default 7860)")
    parser.add_argument("--mcp", action="store_true", default=None, help="serve the API as MCP tools too")


def run(arguments: argparse.Namespace) -> int:
    """Serve the demo page, and end the process with it."""
    # Read when numpy and FAISS are imported. A search takes one thread, and threads of OpenBLAS that wait for others
    # make a codebook of the Compression tab take three times as long.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from patchify_core.web.launch import launch, leave

    leave(launch(arguments.host, arguments.port, mcp=arguments.mcp))
