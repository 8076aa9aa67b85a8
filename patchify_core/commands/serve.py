"""`serve`: the demo page."""

from __future__ import annotations

import argparse


def run(arguments: argparse.Namespace) -> int:
    """Starts the demo page."""
    from patchify_core.web.launch import launch

    launch(arguments.host, arguments.port, mcp=arguments.mcp)
    return 0
