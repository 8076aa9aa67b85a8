"""The page under load: response times, the correctness of every response, and the server's memory.

`app.py` runs in a process of its own. Each visitor opens the page and acts with a session of its own: clicks examples,
uploads pictures, draws boxes in them, opens results, and now and then calls the page's API, with the same requests as
the page's script (`browser`). Between two actions a visitor looks at the page for 5 to 10 seconds. The expected
responses are computed beforehand in this process, so that a response to another visitor's query is detected.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patchify_core.bench import print_table
from patchify_core.bench.browser import ADDRESSES, Browser, Busy, Floods, address_of_visitor
from patchify_core.bench.server import SETTLE_S, PeakMemory, make_gallery, resident_mb, running_server, wait_until
from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB

if TYPE_CHECKING:
    from patchify_core.web.visits import Visits

VISITORS, SECONDS = 20, 120
THINK_S = (5.0, 10.0)
"""Range of the time for which a visitor looks at the page."""

ACTIONS = {"example": 5, "upload": 2, "box": 2, "look": 1, "program": 1}
"""What visitors do, with relative frequencies."""

EXAMPLES, UPLOADS = 12, 8
"""Number of different examples and of different uploads; several visitors send the same ones."""

PROGRAM_TOP = 5
"""Results that an API call requests."""


@dataclass
class VisitOutcome:
    """The outcome of all visits.

    Attributes:
        seconds: Kind of action -> seconds that each response took.
        trouble: Message of an error -> how often it occurred.
        mixed: Number of responses that do not belong to the query.
        busy: Number of notices that the server is busy.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: {action: [] for action in ACTIONS})
    trouble: Counter[str] = field(default_factory=Counter)
    mixed: int = 0
    busy: int = 0


@dataclass(frozen=True)
class Expected:
    """The expected responses.

    Attributes:
        examples: Id of an example -> HTML of its results.
        uploads: For each uploaded picture its bytes, HTML of its results, a box in it, and HTML of the box's results.
        order: Id of an example -> ids of the resulting pictures, best first.
        programs: Id of an example -> the API's response.
        pictures: Number of pictures in the gallery.
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
    """Print response times and the server's memory, and return them.

    Args:
        visitors: Number of simultaneous visitors.
        seconds: Duration of their visits.
        flood: Concurrent requests of one more client, halfway through.
        pictures: Size of the gallery (`server.make_gallery`); by default the bundled gallery.
        flood_sessions: See `Floods.sessions`; visitors then have addresses of their own.
        flood_addresses: See `Floods.addresses`; visitors then have addresses of their own.

    Raises:
        PatchifyError: If the server does not start, a number makes no sense, or this system's loopback has a single
            address.
    """
    floods = Floods(flood, flood_sessions, flood_addresses).checked()
    if visitors < 1 or not seconds > 0:
        raise PatchifyError("Give at least one visitor and some seconds: --visitors 20 --seconds 120.")
    with tempfile.TemporaryDirectory(prefix="patchify-") as folder:
        gallery = SAMPLE_DB
        if pictures is not None:
            gallery = Path(folder)
            make_gallery(SAMPLE_DB, gallery, pictures)
        return _measure(gallery, visitors, seconds, floods)


def _measure(gallery: Path, visitors: int, seconds: float, floods: Floods) -> dict[str, Any]:
    expected = expect(gallery)
    with running_server(gallery) as (url, process):
        asyncio.run(_warm(url, expected))
        wait_until(url, process, lambda health: health["prepared"] == health["examples"])
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
    """Compute the responses to all queries of the visitors, without a server."""
    from patchify_core.demo import box_methods
    from patchify_core.demo.example_gallery import ExampleGallery
    from patchify_core.web.api import Endpoints
    from patchify_core.web.events import SearchRequest
    from patchify_core.web.visits import Visits

    showcase = ExampleGallery(gallery)
    visits = Visits(showcase)
    box_method, top, endpoints = box_methods.best_method(showcase.index), visits.settings.results, Endpoints(visits)

    def responses(query: Any) -> tuple[str, list[int]]:
        answer = visits.answer(SearchRequest(query, showcase.levels, top, None, box_method))
        return visits.cards(answer), [result.match.image_id for result in answer.results]

    examples, order, programs = {}, {}, {}
    for example in showcase.examples[:EXAMPLES]:
        examples[example.id], order[example.id] = responses(showcase.example(example.id))
        programs[example.id] = endpoints.search_by_example(example.id, top=PROGRAM_TOP)
    uploads = []
    for number in range(UPLOADS):
        data = _photo(visits, number)
        query = showcase.upload(data)
        box = [0.2 * query.width, 0.2 * query.height, 0.8 * query.width, 0.8 * query.height]
        cards = responses(query)[0]
        uploads.append((data, cards, box, responses(showcase.with_box(query, box))[0]))
    return Expected(examples, tuple(uploads), order, programs, len(showcase.gallery.images))


def _photo(visits: Visits, number: int) -> bytes:
    """Make a picture for upload: a gallery picture, mirrored and enlarged to two megapixels."""
    import io

    from PIL import ImageOps

    from patchify_core.imaging.pictures import read_picture

    images = visits.showcase.gallery.images
    picture = ImageOps.mirror(read_picture(images[number * len(images) // UPLOADS].path)).resize((1632, 1224))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


async def _warm(url: str, expected: Expected) -> None:
    """Send every query once, so that everything is cached and loaded before memory is measured."""
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
    """Visit once: open the page, and act until the time is over."""
    chance = random.Random(number)
    await asyncio.sleep(chance.uniform(0, THINK_S[1]))
    async with Browser(url, address) as browser:
        shown: tuple[str, int] | None = None  # the query on the page: kind and id
        while time.monotonic() < end:
            action = chance.choices(list(ACTIONS), list(ACTIONS.values()))[0]
            if action == "box" and (shown is None or shown[0] != "upload"):
                action = "upload"
            if action == "look" and (shown is None or shown[0] != "example"):
                action = "example"
            start = time.monotonic()
            try:
                right, shown = await _act(browser, expected, action, shown, chance)
                outcome.seconds[action].append(time.monotonic() - start)
                outcome.mixed += not right
            except Busy:
                outcome.busy += 1
            except Exception as error:
                outcome.trouble[f"{action}: {type(error).__name__}: {error}"[:200]] += 1
            await asyncio.sleep(chance.uniform(*THINK_S))


async def _act(
    browser: Browser, expected: Expected, action: str, shown: tuple[str, int] | None, chance: random.Random
) -> tuple[bool, tuple[str, int] | None]:
    """Do one action; return whether the response was as expected, and the query that the page shows now."""
    if action == "example":
        at = chance.choice(list(expected.examples))
        await browser.send("pf-examples", "example", {"id": at})
        return browser.html("pf-results") == expected.examples[at], ("example", at)
    if action == "program":
        at = chance.choice(list(expected.programs))
        answer = await browser.call("search_by_example", [at, None, PROGRAM_TOP, None, None, None, None])
        return answer == [expected.programs[at]], shown
    if action == "upload":
        at = chance.randrange(len(expected.uploads))
        data, cards, _, _ = expected.uploads[at]
        await browser.send("pf-query", "picked", {"path": await browser.upload(data)})
        return browser.html("pf-results") == cards, ("upload", at)
    assert shown is not None
    if action == "box":
        _, _, box, cards = expected.uploads[shown[1]]
        await browser.send("pf-query", "drawn", {"box": box, "picture": browser.picture()})
        return browser.html("pf-results") == cards, shown
    picture = chance.choice(expected.order[shown[1]])
    await browser.send("pf-results", "look", {"id": picture})
    return f'data-again="{picture}"' in browser.html("pf-detail"), shown


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
        f"not those of the query, {numbers['busy']} notices that the server is busy"
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
