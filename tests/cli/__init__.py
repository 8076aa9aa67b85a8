"""Tests of the command line: what it prints, what it returns, and one line for everything that it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DONE, SKIPPED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def process(*arguments, module="tests.tiny", **more):
    """`python -m patchify_core` with the tiny encoder, unless another module is asked for."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, **({"capture_output": True, "text": True} | more))
