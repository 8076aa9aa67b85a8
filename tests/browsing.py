"""What the tests in a real Chromium share: a server of the page, a browser, and a visitor's hands."""

from __future__ import annotations

import functools
import http.server
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-quic",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]
WITHOUT = "no Chromium on this machine: install it to test the page"


@contextmanager
def served(
    command: Sequence[str], folder: Path, uploads: Path | None = None, environment: dict[str, str] | None = None
) -> Iterator[tuple[str, Path]]:
    """Starts `python COMMAND --port PORT` on a free port and waits for its page; gives the address and the log.

    Args:
        command: what python is given.
        folder: an empty folder for the log.
        uploads: where the server puts what visitors send.
        environment: variables besides those of this process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    with open(log, "wb") as out:  # a file: a pipe that nobody empties would stop the server once it is full
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"GRADIO_TEMP_DIR": str(uploads or folder / "uploads"), "PYTHONUNBUFFERED": "1"}
            | (environment or {}),
        )
    url = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{url}health", timeout=5).close()  # not the first page alone: all of it
                break
            except OSError:
                time.sleep(0.2)
        yield url, log
    finally:
        process.terminate()
        process.wait(60)


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
"""A visit on a phone."""


@contextmanager
def file_server(folder: Path) -> Iterator[int]:
    """Serves a folder as any static host would; gives the port on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing is said."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # as long as everything else of Playwright waits
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A fresh visit, at 1280x800 unless told otherwise; anything that the page's own code throws fails the test."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}} | options)
    page = context.new_page()
    page.thrown, page.requests = [], []
    page.on("pageerror", lambda error: page.thrown.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(url)
    is_ready(page)
    yield page
    assert page.thrown == [], page.thrown
    context.close()


def is_ready(page: Any) -> None:
    """Waits until a click will be heard."""
    page.wait_for_selector(".pf-card img", state="attached")  # a link may open another tab before anyone looks
    page.wait_for_function("() => document.querySelector('#pf-results .pf-open') !== null")
    page.wait_for_selector("#pf-level[role=radiogroup]", state="attached")  # the scripts of the page have run


def is_quiet(page: Any) -> None:
    """Waits until the page has fetched what it fetches by itself."""
    before = -1
    while len(page.requests) != before:
        before = len(page.requests)
        page.wait_for_timeout(1500)


def elsewhere(requests: Sequence[str], url: str) -> list[str]:
    """The requests that went to another host than an address is of."""
    host = url.split("/")[2]
    return [one for one in requests if not one.startswith(("data:", "blob:")) and one.split("/")[2] != host]


def first_row(page: Any) -> str:
    return page.locator(".pf-cards").inner_text()


def wait_for_new_results(page: Any, before: str) -> None:
    page.wait_for_function(
        "(before) => document.querySelector('.pf-cards').innerText !== before", arg=before, timeout=20_000
    )


def choose(page: Any, dropdown: str, text: str) -> None:
    """Chooses an option of a dropdown, by a part of its text."""
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option").filter(has_text=text).first.click()


def send(page: Any, name: str, data: bytes) -> None:
    page.locator("#pf-query input[type=file]").set_input_files({"name": name, "mimeType": "image/jpeg", "buffer": data})


def jpeg(picture: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def notice(page: Any) -> str:
    toast = page.locator(".toast-body").first
    toast.wait_for()
    return toast.inner_text()
