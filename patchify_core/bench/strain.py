"""The server's memory under visitors who send as much as they may, and under uploads that stop in the middle."""

from __future__ import annotations

import asyncio
import io
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from patchify_core.bench import print_table
from patchify_core.bench.browser import Browser
from patchify_core.bench.serve import PeakMemory, resident_mb, running_server
from patchify_core.errors import PatchifyError

VISITORS, STALLED = 60, 200
"""Visitors who each send the largest picture, and uploads that stop."""

SIDE = 10_000
"""Pixels of a side of the largest picture."""

LARGEST = 29_500_000
"""Bytes of the file of a visitor; the page takes 30 MB."""

SETTLE_S = 8.0
"""Seconds after which memory that is not needed has been given back."""


def measure() -> dict[str, Any]:
    """Print the server's memory before, at most and after each kind of strain, and return it in megabytes."""
    numbers: dict[str, Any] = {}
    with running_server() as (url, process):
        for name, make in (("RGB JPEG", _jpeg), ("RGBA PNG", _png)):
            data = make()
            what = f"one upload of 100 megapixels, {name}, {len(data) / 1e6:.1f} MB"
            numbers[what] = asyncio.run(_watched(process, lambda data=data: _upload(url, data)))  # type: ignore[misc]
        photo = _heavy()
        what = f"{VISITORS} visitors with a query of {len(photo) / 1e6:.1f} MB each"
        numbers[what] = asyncio.run(_watched(process, lambda: _visits(url, photo)))
        what = f"{STALLED} uploads that stop, and one visitor more"
        numbers[what] = asyncio.run(_watched(process, lambda: _stalled(url)))
    rows: list[tuple[str, ...]] = [("strain", "before", "at most", "after", "took")]
    for what, memory in numbers.items():
        megabytes = (f"{memory[key]:.0f} MB" if memory[key] is not None else "?" for key in ("before", "peak", "after"))
        rows.append((what, *megabytes, f"{memory['seconds']:.0f} s"))
    print_table("The server's memory", rows)
    return numbers


async def _watched(process: subprocess.Popen[bytes], strain: Callable[[], Awaitable[Any]]) -> dict[str, float | None]:
    await asyncio.sleep(SETTLE_S)
    before, peak, start = resident_mb(process), PeakMemory(process), time.monotonic()
    watch = asyncio.create_task(peak.watch())
    await strain()
    took = time.monotonic() - start
    await asyncio.sleep(SETTLE_S)
    watch.cancel()
    return {"before": before, "peak": peak.mb, "after": resident_mb(process), "seconds": took}


async def _upload(url: str, data: bytes) -> None:
    async with Browser(url) as browser:
        await browser.send("pf-query", "picked", {"path": await browser.upload(data)})


async def _visits(url: str, data: bytes) -> None:
    """Everybody stays until the last one has been answered."""
    browsers = [Browser(url) for _ in range(VISITORS)]
    for browser in browsers:
        await browser.__aenter__()
    try:
        for browser in browsers:
            await browser.send("pf-query", "picked", {"path": await browser.upload(data)})
    finally:
        for browser in browsers:
            await browser.__aexit__(None, None, None)


async def _stalled(url: str) -> None:
    """Each has sent a megabyte of two.

    Raises:
        PatchifyError: if the visitor who comes then cannot begin.
    """
    import httpx

    host = urlsplit(url)
    writers = []
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        for _ in range(STALLED):
            token = (await http.post("/own")).json()["token"]
            _, writer = await asyncio.open_connection(host.hostname, host.port)
            head = (
                f"POST /own/{token}/files?name=a.png HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Length: 2000000\r\n\r\n"
            )
            writer.write(head.encode() + bytes(1_000_000))
            await writer.drain()
            writers.append(writer)
        answer = await http.post("/own")
        if answer.status_code != 200:
            raise PatchifyError(f"A visitor was turned away while uploads stalled: {answer.text[:200]}.")
    for writer in writers:
        writer.close()


def _jpeg() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "teal").save(stream, "JPEG")
    return stream.getvalue()


def _png() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGBA", (SIDE, SIDE), (0, 128, 128, 128)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _heavy() -> bytes:
    """A photo of ten megapixels that is noise, and therefore large, behind whose end there is more."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2_500, 3_600, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    return data[:LARGEST] + bytes(max(0, LARGEST - len(data)))
