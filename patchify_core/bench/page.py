"""The page: how long one visitor waits, and the server's memory under large and stalled uploads."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from patchify_core.bench import in_turn, print_table
from patchify_core.bench.browser import Browser
from patchify_core.bench.server import (
    SETTLE_S,
    START_LIMIT_S,
    PeakMemory,
    resident_mb,
    running_server,
    started_server,
)
from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB
from patchify_core.imaging.pictures import read_picture

RUNS = 7

VISITORS, STALLED = 60, 200
"""Visitors who each send the largest picture, and uploads that stop halfway."""

SIDE = 10_000
"""Side in pixels of the largest picture."""

LARGEST = 29_500_000
"""Bytes of a visitor's file; the page accepts 30 MB."""

RELEASE_S = 8.0
"""Seconds after which the server has released memory that it does not need."""


def measure_waits() -> dict[str, Any]:
    """Print times on the server, and return them; the peer is the forward pass of one crop."""
    start_up = _start_up()
    from patchify_core.demo import box_methods
    from patchify_core.demo.example_gallery import ExampleGallery
    from patchify_core.web import views
    from patchify_core.web.events import SearchRequest
    from patchify_core.web.visits import Visits, file_url

    showcase = ExampleGallery(SAMPLE_DB)
    page = Visits(showcase)
    box_method, top = box_methods.best_method(showcase.index), page.settings.results
    before = SearchRequest(showcase.first(), showcase.levels, top, None, box_method)
    first = showcase.gallery.queries[0]
    stream = io.BytesIO()
    read_picture(first.path).resize((4000, 3000)).save(stream, "JPEG", quality=92)
    photo = stream.getvalue()
    encoder = showcase.engine.encoder
    crop = encoder.prepare(read_picture(first.path), (0, 0, first.width, first.height))[None].copy()

    def example() -> None:
        showcase.forget_examples()  # as for a visitor who clicks it before it was prepared
        page.shown(showcase.example(first.id), before)

    def prepared() -> None:
        page.shown(showcase.example(first.id), before)

    def upload() -> None:
        page.shown(showcase.upload(photo), before)

    query = showcase.example(first.id)
    shown = showcase.ranking(query, showcase.levels)[:top]

    def refine() -> None:
        query.located.clear()
        box_methods.with_boxes(query, showcase.engine, shown, box_method, showcase.levels, box_methods.OBJECTS)

    def look() -> None:
        known = showcase.example(first.id)
        found = showcase.detail(known, shown[0].image_id, showcase.levels, top, box_method=box_method)
        views.detail(found, page.picture(shown[0].image_id), known, file_url)

    seconds = in_turn(
        {
            "example query, prepared: scored and worded": prepared,
            "example query, described, searched, boxed, scored and worded": example,
            "12-megapixel upload, the same but not scored": upload,
            f"boxes of the {top} shown results, up to {box_methods.OBJECTS} objects each": refine,
            "a result looked into, with its similarity map": look,
            "bare forward pass of one crop": lambda: encoder.encode(crop),
        },
        RUNS,
    )
    bare = seconds["bare forward pass of one crop"]
    rows = [("what", "time", "forward passes")]
    rows.append(("the first page after `python app.py`", f"{start_up.first_s:.1f} s", ""))
    rows.append(("the page for photos after `python app.py`", f"{start_up.photos_s:.1f} s", ""))
    if start_up.idle_mb is not None:
        rows.append(("the server's memory when it has nothing to do", f"{start_up.idle_mb:,.0f} MB", ""))
    rows += [(name, f"{1000 * value:.0f} ms", f"{value / bare:.1f} x") for name, value in seconds.items()]
    print_table("What a visitor waits for, on the server", rows)
    return {"start_up": asdict(start_up), "seconds": seconds}


@dataclass(frozen=True)
class _Start:
    """Seconds from starting `app.py` until each page is served, and the idle server's memory in megabytes."""

    first_s: float
    photos_s: float
    idle_mb: float | None


def _start_up() -> _Start:
    from patchify_core.web.launch import REST_S

    start = time.perf_counter()
    with started_server() as (url, process):

        def until(path: str, reached: Callable[[bytes], bool]) -> float:
            while time.perf_counter() - start < START_LIMIT_S and process.poll() is None:
                try:
                    with urllib.request.urlopen(f"{url}/{path}", timeout=START_LIMIT_S) as answer:
                        if reached(answer.read()):
                            return time.perf_counter() - start
                except OSError:
                    pass
                time.sleep(0.02)
            raise PatchifyError("The page did not start: run python app.py to see why.")

        def is_prepared(response: bytes) -> bool:
            health = json.loads(response)
            return bool(health["prepared"] == health["examples"])

        first, photos = until("", lambda html: b'id="data"' in html), until("photos", lambda html: b"pf-card" in html)
        until("health", is_prepared)
        time.sleep(REST_S + SETTLE_S)
        return _Start(first, photos, resident_mb(process))


# Strain ---------------------------------------------------------------------------------------------------


def measure_strain() -> dict[str, Any]:
    """Print the server's memory before, during (peak) and after each kind of strain; return it in megabytes."""
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
    await asyncio.sleep(RELEASE_S)
    before, peak, start = resident_mb(process), PeakMemory(process), time.monotonic()
    watch = asyncio.create_task(peak.watch())
    await strain()
    took = time.monotonic() - start
    await asyncio.sleep(RELEASE_S)
    watch.cancel()
    return {"before": before, "peak": peak.mb, "after": resident_mb(process), "seconds": took}


async def _upload(url: str, data: bytes) -> None:
    async with Browser(url) as browser:
        await browser.send("pf-query", "picked", {"path": await browser.upload(data)})


async def _visits(url: str, data: bytes) -> None:
    """Send the picture as many visitors, who all stay until the last one is answered."""
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
    """Stall many uploads after one megabyte of two.

    Raises:
        PatchifyError: If the next visitor is turned away.
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
    """Make a photo of nine megapixels of noise, padded to the largest file that the page accepts."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2_500, 3_600, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    return data[:LARGEST] + bytes(max(0, LARGEST - len(data)))
