"""Starts the Patchify demo page: `python app.py`, then open http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import sys

from patchify_core.cli import serve
from patchify_core.demo.settings import variables_help
from patchify_core.errors import PatchifyError


def main() -> int:
    """Parse the flags and serves the page; a refusal is one sentence on stderr."""
    parser = argparse.ArgumentParser(
        description="Patchify: find the pictures that contain an object, and where.",
        epilog=f"environment variables, where a flag does not say otherwise:\n{variables_help()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_options(parser)
    try:
        return serve.run(parser.parse_args())
    except PatchifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
