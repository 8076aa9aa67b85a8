"""Takes the pictures of the page that the README shows: `python -m tests.screenshots`, from the project's folder.

The page is started on a free port with what the checkout holds, and the same visits give the same pictures. Needs
Chromium or Chrome and tests/requirements.txt.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.browsing import CHROMIUM, ROOT, WITHOUT, chromium, served

MOST_BYTES = 250_000
"""Of each picture: it is in everybody's clone."""

QUALITIES = (90, 86, 82, 78, 72, 66)
"""Of JPEG, the first that is small enough."""


@dataclass(frozen=True)
class Shot:
    """One picture of the page.

    Attributes:
        name: its file.
        size: width and height of the window.
        scheme: light or dark.
        address: what comes after the page's address.
        scale: pixels of the screen per pixel of the page.
        ready: waits until all that is to be seen is there.
    """

    name: str
    size: tuple[int, int]
    scheme: str = "light"
    address: str = ""
    scale: float = 1.0
    ready: Callable[[Any], None] = lambda page: None


def _first(page: Any) -> None:
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")


def _looked(page: Any) -> None:
    page.locator("dialog[open] .cell.best").wait_for()


def _photos(page: Any) -> None:
    page.wait_for_selector(".pf-card img")
    page.wait_for_function("() => !document.documentElement.classList.contains('pf-opening')")


SHOTS = (
    Shot("screenshot.jpg", (1280, 800), ready=_first),
    Shot("screenshot-dark.jpg", (1280, 800), "dark", "?q=example-197", ready=_first),
    Shot("screenshot-phone.jpg", (390, 844), scale=2.0, ready=_first),
    Shot("screenshot-large-view.jpg", (1280, 800), address="?open=73", ready=_looked),
    Shot("screenshot-photos.jpg", (1280, 800), address="photos", ready=_photos),
    Shot("preview.jpg", (1200, 630), ready=_first),
)


def take(browser: Any, url: str, shot: Shot) -> bytes:
    """One picture, as a JPEG of at most `MOST_BYTES`."""
    width, height = shot.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=shot.scheme,
        device_scale_factor=shot.scale,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url + shot.address)
    shot.ready(page)
    page.wait_for_timeout(1000)
    page.wait_for_function("() => [...document.images].every((image) => image.complete || image.loading === 'lazy')")
    page.evaluate("() => document.activeElement?.blur()")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    for quality in QUALITIES:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True, progressive=True)
        if stream.tell() <= MOST_BYTES:
            return stream.getvalue()
    raise SystemExit(f"{shot.name} is larger than {MOST_BYTES:,} bytes at the lowest quality: make its window smaller.")


def main() -> int:
    """Takes all of them; a file is written only if its picture is another one than before."""
    parser = argparse.ArgumentParser(description="Take the pictures of the page that the README shows.")
    parser.add_argument("--out", type=Path, default=ROOT / "assets", help="folder for them, by default assets")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        print(f"error: {WITHOUT}.", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(["app.py"], Path(folder)) as (url, _), chromium() as browser:
        for shot in SHOTS:
            data, path = take(browser, url, shot), arguments.out / shot.name
            same = path.exists() and path.read_bytes() == data
            if not same:
                path.write_bytes(data)
            print(f"{path.name}: {len(data):,} bytes{', as before' if same else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
