"""`serve`: start the demo page."""

from __future__ import annotations

import argparse
import os

HELP = "start the demo page (the same as python app.py)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port (default 7860)")
    parser.add_argument("--mcp", action="store_true", default=None, help="also serve the API as MCP tools")


def run(arguments: argparse.Namespace) -> int:
    """Serve the demo page until it is stopped, then end the process."""
    # Must be set before numpy and FAISS are imported. A search uses one thread, and waiting OpenBLAS threads make
    # training a codebook in the Compression tab three times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from patchify_core.web.launch import launch, leave

    leave(launch(arguments.host, arguments.port, mcp=arguments.mcp))
