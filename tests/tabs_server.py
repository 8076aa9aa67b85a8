"""The page over the bundled gallery with study files of a test: `python -m tests.tabs_server FOLDER --port PORT`."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Serves the page until it is ended; FOLDER holds the study files."""
    parser = argparse.ArgumentParser()
    parser.add_argument("studies", type=Path)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()

    from patchify_core.demo import studies
    from patchify_core.web.launch import launch

    studies.FOLDER = arguments.studies
    launch(port=arguments.port)


if __name__ == "__main__":
    main()
