"""A forged index folder with valid digests leads to an error or a search, never to a crash."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.foreign_indexes import KINDS

MEMORY = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
sys.argv = ["foreign_indexes", *sys.argv[1:]]
runpy.run_module("tests.foreign_indexes", run_name="__main__")
"""
"""Four gigabytes of addresses are plenty for an index of 20 kB; what asks for more ends there."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_faiss_can_crash_a_search(kind, tmp_path) -> None:
    start = ["-c", MEMORY] if sys.platform == "linux" else ["-m", "tests.foreign_indexes"]
    command = [sys.executable, *start, str(tmp_path / "idx"), kind]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0 and lines[-1] == "all done", (ran.returncode, lines[-1:], ran.stderr[-2000:])
    refused = [line for line in lines if line.endswith(": refused")]
    assert len(lines) > 200 and len(refused) > 100
    # Whatever is about a length is refused, and not searched by chance.
    lengths = [line for line in lines if ".faiss array" in line and (" of " in line or "cut" in line or "more" in line)]
    assert lengths and all(line in refused for line in lengths)
