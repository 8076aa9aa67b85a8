"""A server to measure: `app.py` in a process of its own, its memory, and a gallery of any size to serve.

The large gallery is the bundled one among many pictures mixed from it. A mixed picture is a real file under another
name, so that a page can show it. Its descriptors lie between those of two bundled pictures, cell by cell, mirrored
along axes drawn for each thousand pictures: clusters of objects that are not among the bundled ones, whose true matches
still come first. Nothing goes through a network, so a hundred thousand pictures take half a minute and not hours.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.files import ROOT, SAMPLE_DB
from patchify_core.index.codec.codes import CodeSettings, encode_codes
from patchify_core.index.folder import write_index
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import Recipe

START_LIMIT_S, SETTLE_S = 120.0, 5.0
"""Longest start of the server, and the wait after which its memory is read."""

FACTORY = "small"
"""Codec of the mixed descriptors: a preset whose searches miss nothing."""

SHARE = (0.35, 0.65)
"""Range of the share that the first of the two pictures has in a mixed descriptor."""

CHUNK = 1000
"""Pictures mixed at a time, and in one folder."""


@contextmanager
def running_server(gallery: Path = SAMPLE_DB) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server and wait until it answers; yield its address and process."""
    with started_server(gallery) as (url, process):
        wait_until(url, process, lambda health: health.get("status") == "ok")
        yield url, process


@contextmanager
def started_server(gallery: Path = SAMPLE_DB) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start `app.py` on a free port with its own upload folder, without waiting; yield its address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="patchify-") as folder:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"GRADIO_TEMP_DIR": folder, "PATCHIFY_GALLERY": str(gallery)},
        )
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait(20)


def wait_until(url: str, process: subprocess.Popen[bytes], reached: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the server's health fulfils a condition; refuse if it does not start."""
    import httpx

    start = time.monotonic()
    while time.monotonic() - start < START_LIMIT_S and process.poll() is None:
        try:
            if reached(httpx.get(f"{url}/health", timeout=10).json()):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise PatchifyError("The page did not start: run python app.py to see why.")


class PeakMemory:
    """The peak memory of a server, sampled four times a second."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.mb = process, resident_mb(process)

    async def watch(self) -> None:
        """Sample until cancelled."""
        while True:
            now = resident_mb(self._process)
            if now is not None:
                self.mb = max(self.mb or 0.0, now)
            await asyncio.sleep(0.25)


def resident_mb(process: subprocess.Popen[bytes]) -> float | None:
    """Return the resident memory of a process in megabytes; None on systems without /proc."""
    try:
        fields = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# A large gallery ----------------------------------------------------------------------------------------------


def make_gallery(source: Path, folder: Path, pictures: int, seed: int = 0) -> None:
    """Write a gallery with queries, annotations and an index, as `app.py` serves it.

    Args:
        source: The bundled gallery.
        folder: An empty folder for it; pictures are hard links where the disk supports them, else copies.
        pictures: Number of pictures, including the bundled ones.
        seed: Seed of the mixing.

    Raises:
        PatchifyError: If `pictures` is less than the number of bundled ones.
    """
    index = PatchIndex.load(source / "index")
    real = len(index.images)
    if pictures < real:
        raise PatchifyError(f"Give at least --pictures {real}: so many are in the bundled gallery.")
    shutil.copytree(source / "queries", folder / "queries")
    listed = json.loads((source / "annotations.json").read_text(encoding="utf-8"))
    entries = {entry["id"]: entry for entry in listed["images"]}
    rows = np.random.default_rng(seed).integers(real, size=(pictures - real, 2))
    shares = np.random.default_rng(seed + 1).uniform(*SHARE, pictures - real).astype(np.float32)
    free = max(entries) + 1
    images = list(index.images)
    for number, row in enumerate(rows[:, 0].tolist()):
        of = index.images[row]
        name = f"gallery/mixed/{number // CHUNK:04}/{number:07}{Path(of.file_name).suffix}"
        images.append(replace(of, id=free + number, file_name=name))
        listed["images"].append(entries[of.id] | {"id": free + number, "file_name": name})
    for image, of in zip(images, [*index.images, *(index.images[row] for row in rows[:, 0].tolist())], strict=True):
        _link(source / of.file_name, folder / image.file_name)
    (folder / "annotations.json").write_text(json.dumps(listed), encoding="utf-8")
    (folder / "index").mkdir()
    write_index(_mixed_index(index, images, rows, shares, seed + 2), folder / "index", "..")


def _mixed_index(
    index: PatchIndex, images: list[IndexedImage], rows: NDArray[np.int64], shares: NDArray[np.float32], seed: int
) -> PatchIndex:
    """Project and encode the bundled descriptors, then the mixed ones."""
    real, settings = len(index.images), CodeSettings(FACTORY)
    codes = encode_codes(index.descriptors_of, real, index.regions, index.encoder.dim, settings)
    assert codes.projection is not None, "the codec projects"
    random, dim = np.random.default_rng(seed), codes.projection.dim
    bundled = np.stack([codes.projection(index.descriptors_of(row)) for row in range(real)])
    for start in range(0, len(rows), CHUNK):
        part, share = rows[start : start + CHUNK], shares[start : start + CHUNK, None, None]
        mixed = share * bundled[part[:, 0]] + (1 - share) * bundled[part[:, 1]]
        mixed *= random.choice(np.array([-1, 1], np.float32), dim)
        mixed /= np.linalg.norm(mixed, axis=2, keepdims=True)
        codes.codes.add(mixed.reshape(-1, dim))
    recipe = Recipe(index.encoder, index.regions, index.features).coded(settings)
    return PatchIndex(recipe, Pictures(images), codes)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
