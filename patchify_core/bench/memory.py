"""Peak memory of indexing: a folder and one ten times as large, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.bench import print_table
from patchify_core.errors import PatchifyError

SIZES, PICTURE = (100, 1000), (640, 480)

_BUILD = """
import resource, sys
from patchify_core import Pyramid, build_index, load_encoder, read_gallery
report = build_index(read_gallery(sys.argv[1]), sys.argv[2], load_encoder(), Pyramid(1))
unit = 1 if sys.platform == "darwin" else 1024   # macOS counts bytes, Linux kilobytes
print(report.images, report.images_per_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def measure() -> dict[str, Any]:
    """Print peak memory and speed for both sizes, and return them.

    Raises:
        PatchifyError: on Windows, whose Python has no way to ask for a process's peak memory.
    """
    if sys.platform == "win32":
        raise PatchifyError("Peak memory cannot be measured on Windows: run this benchmark on Linux or macOS.")
    rows = [("pictures", "their pixels", "peak memory", "pictures/s")]
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="patchify-") as temporary:
        for size in SIZES:
            folder = Path(temporary) / f"pictures-{size}"
            _make_pictures(folder, size)
            command = [sys.executable, "-c", _BUILD, str(folder), str(Path(temporary) / f"index-{size}")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            images, rate, peak = done.stdout.split()
            pixels = size * PICTURE[0] * PICTURE[1] * 3
            numbers[images] = {"peak_bytes": int(peak), "pixel_bytes": pixels, "images_per_s": float(rate)}
            rows.append((images, f"{pixels / 1e6:.0f} MB", f"{int(peak) / 1e6:.0f} MB", f"{float(rate):.1f}"))
    peaks = [entry["peak_bytes"] for entry in numbers.values()]
    numbers["ratio"] = peaks[1] / peaks[0]
    print_table("Indexing, pyramid:1, generated 640x480 pictures", rows)
    print(f"  ten times the pictures take {numbers['ratio']:.2f} times the memory")
    return numbers


def _make_pictures(folder: Path, count: int) -> None:
    """Different pictures, so that none is taken for one that is known already."""
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        small = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize(PICTURE).save(folder / f"{number:05d}.jpg", quality=80)
