"""The page under load: every answer checked, waiting times, and the server's memory before and after.

`app.py` is started as a person starts it. Each visitor opens the page and then does what its browser does, with a
session of their own: examples are clicked, pictures uploaded, boxes drawn in them, results looked into, by the very
requests that the page's script sends (the page's functions are found in its own configuration, by the elements that
they belong to). Now and then a program of theirs asks the page's API. Between two of them a visitor looks at the page
for 5 to 10 seconds. What must be shown was computed before, in this process, so an answer that belongs to another
visitor's question is seen as one.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchify_core.bench import print_table
from patchify_core.bench.browser import ADDRESSES, Browser, Busy, Floods, address_of_visitor
from patchify_core.bench.crowd import make_crowd
from patchify_core.errors import PatchifyError
from patchify_core.files import ROOT, SAMPLE_DB

if TYPE_CHECKING:
    from patchify_core.web.visits import Visits

VISITORS, SECONDS = 20, 120
THINK_S = (5.0, 10.0)
"""A visitor looks at the page for a time between these."""

WISHES = {"example": 5, "upload": 2, "box": 2, "look": 1, "program": 1}
"""What visitors do, and how often."""

EXAMPLES, UPLOADS = 12, 8
"""Different examples that are clicked, and different pictures that are uploaded: several visitors send the same one."""

PROGRAM_TOP = 5
"""Pictures that a program asks for."""

START_LIMIT_S, SETTLE_S = 120.0, 5.0


@dataclass
class VisitOutcome:
    """What all visitors met.

    Attributes:
        seconds: of each kind of wish, how long each answer took.
        trouble: what went wrong, in words, and how often.
        mixed: answers that were not those of the question.
        busy: notices that the server is busy.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {wish: [] for wish in WISHES})
    trouble: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    busy: int = 0


@dataclass(frozen=True)
class Expected:
    """What the page must show.

    Attributes:
        examples: id of an example -> the cards of its answer.
        uploads: of each picture that is uploaded its bytes, its cards, a box in it, and the cards of that.
        order: id of an example -> the pictures found, best first.
        programs: id of an example -> the API's answer.
        pictures: how many the gallery has.
    """

    examples: dict[int, str]
    uploads: tuple[tuple[bytes, str, list[float], str], ...]
    order: dict[int, list[int]]
    programs: dict[int, list[dict[str, Any]]]
    pictures: int


def measure(
    visitors: int = VISITORS,
    seconds: float = SECONDS,
    flood: int = 0,
    pictures: int | None = None,
    flood_sessions: int = 0,
    flood_addresses: int = 0,
) -> dict[str, Any]:
    """Prints what visitors waited for and what the server needed, and returns the numbers.

    Args:
        visitors: how many there are at a time.
        seconds: how long they stay.
        flood: requests that one more client sends at once, in the middle.
        pictures: how many the gallery has (`crowd`); the bundled gallery alone by default.
        flood_sessions: requests of one address that each have a session of their own, from the middle on.
        flood_addresses: the same of twenty addresses together. In both visitors have addresses of their own.

    Raises:
        PatchifyError: if the server does not start, there is to be no visitor, no time or no such gallery, or this
            system has no further addresses.
    """
    floods = Floods(flood, flood_sessions, flood_addresses).checked()
    if visitors < 1 or not seconds > 0:
        raise PatchifyError("Give at least one visitor and some seconds: --visitors 20 --seconds 120.")
    with tempfile.TemporaryDirectory(prefix="patchify-") as folder:
        gallery = SAMPLE_DB
        if pictures is not None:
            gallery = Path(folder)
            make_crowd(SAMPLE_DB, gallery, pictures)
        return _measure(gallery, visitors, seconds, floods)


def _measure(gallery: Path, visitors: int, seconds: float, floods: Floods) -> dict[str, Any]:
    expected = expect(gallery)
    with running_server(gallery) as (url, process):
        asyncio.run(_warm(url, expected))
        _wait_until(url, process, lambda health: health["prepared"] == health["examples"])
        time.sleep(SETTLE_S)
        before = resident_mb(process)
        peak = PeakMemory(process)
        outcome, refused = asyncio.run(_visit(url, expected, visitors, seconds, floods, peak))
        time.sleep(SETTLE_S)
        after = resident_mb(process)
    numbers = _numbers(outcome, visitors, seconds) | {
        "pictures": expected.pictures,
        "flood": floods.at_once,
        "flood_refused": refused["at_once"],
        "flood_sessions": {"asked": floods.sessions, "refused": refused["sessions"]},
        "flood_addresses": {"asked": floods.addresses, "refused": refused["addresses"]},
        "memory_mb": {"before": before, "peak": peak.mb, "after": after},
    }
    _print(numbers)
    return numbers


def expect(gallery: Path = SAMPLE_DB) -> Expected:
    """Answers all queries of the visitors, without a server."""
    from patchify_core.demo import box_methods
    from patchify_core.demo.example_gallery import ExampleGallery
    from patchify_core.web.api import Endpoints
    from patchify_core.web.events import SearchRequest
    from patchify_core.web.visits import Visits

    showcase = ExampleGallery(gallery)
    visits = Visits(showcase)
    way, top, endpoints = box_methods.best_method(showcase.index), visits.settings.results, Endpoints(visits)

    def answered(question: Any) -> tuple[str, list[int]]:
        answer = visits.answer(SearchRequest(question, showcase.levels, top, None, way))
        return visits.cards(answer), [result.match.image_id for result in answer.results]

    examples, order, programs = {}, {}, {}
    for query in showcase.examples[:EXAMPLES]:
        examples[query.id], order[query.id] = answered(showcase.example(query.id))
        programs[query.id] = endpoints.search_by_example(query.id, top=PROGRAM_TOP)
    uploads = []
    for number in range(UPLOADS):
        data = _photo(visits, number)
        question = showcase.upload(data)
        box = [0.2 * question.width, 0.2 * question.height, 0.8 * question.width, 0.8 * question.height]
        cards = answered(question)[0]
        uploads.append((data, cards, box, answered(showcase.with_box(question, box))[0]))
    return Expected(examples, tuple(uploads), order, programs, len(showcase.gallery.images))


def _photo(visits: Visits, number: int) -> bytes:
    """A picture that nobody else uploads: a gallery picture, mirrored and enlarged to two megapixels."""
    import io

    from PIL import ImageOps

    from patchify_core.imaging.pictures import read_picture

    images = visits.showcase.gallery.images
    picture = ImageOps.mirror(read_picture(images[number * len(images) // UPLOADS].path)).resize((1632, 1224))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


@contextmanager
def running_server(gallery: Path = SAMPLE_DB) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address and process of a server that answers."""
    with started_server(gallery) as (url, process):
        _wait_until(url, process, lambda health: health.get("status") == "ok")
        yield url, process


@contextmanager
def started_server(gallery: Path = SAMPLE_DB) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`app.py` on a free port, with an upload folder of its own; it has only just been started."""
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


def _wait_until(url: str, process: subprocess.Popen[bytes], reached: Callable[[dict[str, Any]], bool]) -> None:
    """Waits for what the server says of itself."""
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


async def _warm(url: str, expected: Expected) -> None:
    """One visitor sees everything once, so that all is prepared and loaded; memory is compared from there on."""
    async with Browser(url) as browser:
        for example in expected.examples:
            await browser.send("pf-examples", "example", {"id": example})
        for data, _, box, _ in expected.uploads:
            await browser.send("pf-query", "picked", {"path": await browser.upload(data)})
            await browser.send("pf-query", "drawn", {"box": box, "picture": browser.picture()})


async def _visit(
    url: str, expected: Expected, visitors: int, seconds: float, floods: Floods, peak: PeakMemory
) -> tuple[VisitOutcome, dict[str, int]]:
    outcome, end = VisitOutcome(), time.monotonic() + seconds
    watch = asyncio.create_task(peak.watch())
    addresses = [address_of_visitor(number) if floods.by_address else None for number in range(visitors)]
    everybody = [_visitor(url, expected, outcome, number, end, at) for number, at in enumerate(addresses)]
    flooding = asyncio.create_task(floods.run(url, seconds / 2))
    await asyncio.gather(*everybody)
    refused = await flooding
    watch.cancel()
    return outcome, refused


async def _visitor(
    url: str, expected: Expected, outcome: VisitOutcome, number: int, end: float, address: str | None = None
) -> None:
    """One visit: a page is opened, and wishes follow until the time is over."""
    chance = random.Random(number)
    await asyncio.sleep(chance.uniform(0, THINK_S[1]))
    async with Browser(url, address) as browser:
        shown: tuple[str, int] | None = None  # the query on the page, which boxes and looks are about
        while time.monotonic() < end:
            wish = chance.choices(list(WISHES), list(WISHES.values()))[0]
            if wish == "box" and (shown is None or shown[0] != "upload"):
                wish = "upload"
            if wish == "look" and (shown is None or shown[0] != "example"):
                wish = "example"
            start = time.monotonic()
            try:
                right, shown = await _wish(browser, expected, wish, shown, chance)
                outcome.seconds[wish].append(time.monotonic() - start)
                outcome.mixed += not right
            except Busy:
                outcome.busy += 1
            except Exception as error:
                outcome.trouble[f"{wish}: {type(error).__name__}: {error}"[:200]] += 1
            await asyncio.sleep(chance.uniform(*THINK_S))


async def _wish(
    browser: Browser, expected: Expected, wish: str, shown: tuple[str, int] | None, chance: random.Random
) -> tuple[bool, tuple[str, int] | None]:
    """Does one thing; returns whether the page then showed what it must, and the query that it shows now."""
    if wish == "example":
        at = chance.choice(list(expected.examples))
        await browser.send("pf-examples", "example", {"id": at})
        return browser.html("pf-results") == expected.examples[at], ("example", at)
    if wish == "program":
        at = chance.choice(list(expected.programs))
        answer = await browser.ask("search_by_example", [at, None, PROGRAM_TOP, None, None, None, None])
        return answer == [expected.programs[at]], shown
    if wish == "upload":
        at = chance.randrange(len(expected.uploads))
        data, cards, _, _ = expected.uploads[at]
        await browser.send("pf-query", "picked", {"path": await browser.upload(data)})
        return browser.html("pf-results") == cards, ("upload", at)
    assert shown is not None
    if wish == "box":
        _, _, box, cards = expected.uploads[shown[1]]
        await browser.send("pf-query", "drawn", {"box": box, "picture": browser.picture()})
        return browser.html("pf-results") == cards, shown
    picture = chance.choice(expected.order[shown[1]])
    await browser.send("pf-results", "look", {"id": picture})
    return f'data-again="{picture}"' in browser.html("pf-detail"), shown


class PeakMemory:
    """The most memory that the server had, looked at four times a second."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.mb = process, resident_mb(process)

    async def watch(self) -> None:
        """Goes on looking until it is cancelled."""
        while True:
            now = resident_mb(self._process)
            if now is not None:
                self.mb = max(self.mb or 0.0, now)
            await asyncio.sleep(0.25)


def resident_mb(process: subprocess.Popen[bytes]) -> float | None:
    """Megabytes of memory that a process has; None where there is no /proc to tell."""
    try:
        fields = Path(f"/proc/{process.pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _numbers(outcome: VisitOutcome, visitors: int, seconds: float) -> dict[str, Any]:
    everything = [value for values in outcome.seconds.values() for value in values]
    return {
        "visitors": visitors,
        "seconds": seconds,
        "think_s": list(THINK_S),
        "answers": len(everything),
        "answers_per_s": len(everything) / seconds,
        "errors": sum(outcome.trouble.values()),
        "trouble": dict(outcome.trouble),
        "mixed": outcome.mixed,
        "busy": outcome.busy,
        "waits_s": {name: _waits(values) for name, values in {"all": everything, **outcome.seconds}.items()},
    }


def _waits(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p95, most = np.percentile(values, [50, 95, 100]).tolist()
    return {"p50": p50, "p95": p95, "max": most, "count": len(values)}


def _print(numbers: dict[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [("what a visitor did", "answers", "p50", "p95", "longest")]
    for name, waits in numbers["waits_s"].items():
        if waits is not None:
            rows.append((name, str(waits["count"]), *(f"{waits[key]:.2f} s" for key in ("p50", "p95", "max"))))
    low, high = numbers["think_s"]
    print_table(
        f"{numbers['pictures']:,} pictures; {numbers['visitors']} visitors for {numbers['seconds']:.0f} s, who look at "
        f"each answer for {low:.0f} to {high:.0f} s",
        rows,
    )
    print(
        f"  {numbers['answers_per_s']:.2f} answers/s, {numbers['errors']} errors, {numbers['mixed']} answers that were "
        f"not those of the question, {numbers['busy']} told that the server is busy"
    )
    for what, count in numbers["trouble"].items():
        print(f"    {count} x {what}")
    if numbers["flood"]:
        print(f"  one client asked {numbers['flood']} times at once: {numbers['flood_refused']} were told to wait")
    for name, where in (("flood_sessions", "one address"), ("flood_addresses", f"{ADDRESSES} addresses")):
        sent, refused = numbers[name]["asked"], numbers[name]["refused"]
        if sent:
            print(f"  {where} asked {sent} times, each as a new visitor: {refused} were told to wait")
    memory = numbers["memory_mb"]
    if memory["before"] is None:
        print("  the server's memory is not known here: this system has no /proc")
    else:
        print("  the server's memory: " + ", ".join(f"{value:.0f} MB {when}" for when, value in memory.items()))
