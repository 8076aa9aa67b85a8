"""`serve`: the demo page."""

from __future__ import annotations

import argparse


def run(arguments: argparse.Namespace) -> int:
    """Serves the demo page, and ends the process with it."""
    from patchify_core.web.launch import launch, leave

    leave(launch(arguments.host, arguments.port, mcp=arguments.mcp))
