"""What a visitor waits for: the page after `python app.py`, an example, an uploaded 12-megapixel photo, other boxes."""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from patchify_core.bench import in_turn, print_table
from patchify_core.bench.serve import SETTLE_S, START_LIMIT_S, resident_mb, started_server
from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB
from patchify_core.imaging.pictures import read_picture

RUNS = 7


def measure() -> dict[str, Any]:
    """Print seconds on the server, and return them with the ratio to the bare forward pass of one crop."""
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
    rows.append(("the first page, whole, after `python app.py`", f"{start_up.first_s:.1f} s", ""))
    rows.append(("the page for photos after `python app.py`", f"{start_up.photos_s:.1f} s", ""))
    if start_up.idle_mb is not None:
        rows.append(("the server's memory when it has nothing to do", f"{start_up.idle_mb:,.0f} MB", ""))
    rows += [(name, f"{1000 * value:.0f} ms", f"{value / bare:.1f} x") for name, value in seconds.items()]
    print_table("What a visitor waits for, on the server", rows)
    return {"start_up": asdict(start_up), "seconds": seconds}


@dataclass(frozen=True)
class _Start:
    """Seconds from starting `app.py` until each page is served; the server's megabytes when it has nothing to do."""

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

        def is_prepared(said: bytes) -> bool:
            health = json.loads(said)
            return bool(health["prepared"] == health["examples"])

        first, photos = until("", lambda html: b'id="data"' in html), until("photos", lambda html: b"pf-card" in html)
        until("health", is_prepared)
        time.sleep(REST_S + SETTLE_S)
        return _Start(first, photos, resident_mb(process))
