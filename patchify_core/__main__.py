"""`python -m patchify_core COMMAND`, the same as the command `patchify` of an installation."""

from __future__ import annotations

import sys

from patchify_core.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
