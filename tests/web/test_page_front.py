"""The first page in a real Chromium: the point in the first view, grids, sizes, a result looked into, the address."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from patchify_core.demo.gallery_info import stored_answers
from patchify_core.web.front import PARTS, write_showcase
from tests.browsing import CHROMIUM, WITHOUT
from tests.web.test_page_access import PHONE, QUIET, WATCH_SHIFTS, WIDE, faults

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

MOST_SHIFT = 0.05
PROJECTOR = {"width": 1024, "height": 768}


@pytest.fixture(scope="module")
def document(sample_db) -> dict[str, Any]:
    made = stored_answers(sample_db)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def site(document, sample_db, tmp_path_factory) -> Iterator[str]:
    """The page as a showcase on a plain file server: its script is the same as on a live one."""
    folder = tmp_path_factory.mktemp("site") / "below"
    write_showcase(document, sample_db, folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing is said."""

    handler = functools.partial(Quiet, directory=str(folder.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/below/"
    server.shutdown()
    server.server_close()


@contextmanager
def visiting(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A visit, in which nothing may be thrown and no other host be asked."""
    context = browser.new_context(**{"viewport": WIDE} | options)
    page = context.new_page()
    thrown: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")
    yield page
    assert thrown == []
    host = url.split("/")[2]
    assert [one for one in asked if one.split("/")[2] != host] == []
    context.close()


def entry_of(document: dict[str, Any], number: int | None = None) -> dict[str, Any]:
    return next(one for one in document["examples"] if one["id"] == (number or document["first"]))


def pictures(page: Any, row: str) -> list[int]:
    return page.evaluate(
        f"() => [...document.querySelectorAll('#cards-{row} .card')].map((one) => Number(one.dataset.picture))"
    )


def numbers(page: Any, row: str) -> tuple[int, str, str]:
    """Matches in the top 10, AP and LocScore as they are shown."""
    said = page.locator(f"#numbers-{row}").inner_text()
    found = re.fullmatch(r"\s*(\d+) (?:of (\d+) )?in the top 10 · AP ([\d.–]+) · LocScore ([\d.–]+)", said)
    assert found and (found[2] is None or int(found[1]) <= int(found[2])), said
    return int(found[1]), found[3], found[4]


def results(entry: dict[str, Any], level: int) -> list[int]:
    return [one["picture"] for one in entry["levels"][level - 1]["results"]]


@pytest.mark.parametrize("size", [WIDE, PROJECTOR, PHONE], ids=["wide", "projector", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_point_is_in_the_first_view(browser, site, document, size, scheme) -> None:
    """Claim, query, both rankings with their numbers: seen without scrolling, still, and free of axe's faults."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.add_init_script(f"({WATCH_SHIFTS})()")
    page.goto(site)
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")
    page.evaluate(QUIET, 500)
    assert page.evaluate("() => window.shifts") <= MOST_SHIFT
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
    claim = page.locator("h1").inner_text()
    assert claim == "Whole-image search misses small objects. Patches find them."
    for selector in ("h1", "#query", "#numbers-whole", "#numbers-patches", "#cards-patches .card:nth-child(2)"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= size["height"], selector
    assert page.locator("#cards-whole .card").first.bounding_box()["width"] >= 140
    entry = entry_of(document)
    for row, level in (("whole", 1), ("patches", 4)):
        known = entry["levels"][level - 1]
        shown = numbers(page, row)
        assert shown == (known["found"], f"{known['ap']:.2f}", f"{known['locscore']:.2f}")
        assert pictures(page, row) == results(entry, level)
    assert faults(page, f"first page, {scheme}, {size['width']}") == []
    context.close()


def test_every_grid_shows_its_own_ranking_and_numbers(browser, site, document) -> None:
    entry = entry_of(document)
    with visiting(browser, site) as page:
        for level in (1, 2, 3, 4):
            page.locator("#levels button").nth(level - 1).click()
            assert pictures(page, "patches") == results(entry, level)
            assert numbers(page, "patches")[1] == f"{entry['levels'][level - 1]['ap']:.2f}"
            assert ("level=" in page.url) == (level != 4)
        page.keyboard.press("2")
        assert pictures(page, "patches") == results(entry, 2)
        page.locator("#levels button").nth(1).focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("() => document.activeElement.dataset.level") == "3"
        assert pictures(page, "patches") == results(entry, 3) and pictures(page, "whole") == results(entry, 1)


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_cards_glide_to_their_new_ranks_unless_motion_is_unwanted(browser, site, motion) -> None:
    with visiting(browser, site, reduced_motion=motion) as page:
        page.locator("#levels button").first.click()
        moving = page.evaluate(
            "() => document.getAnimations().filter((one) => one.effect.target.matches('.card')).length"
        )
        assert (moving > 0) == (motion == "no-preference")


def test_boxes_are_not_drawn_before_their_pictures_are_there(browser, site) -> None:
    """On a slow connection a box over the picture before it, or over nothing, would be a false answer."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    held: list[Any] = []
    page.goto(site)
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")
    page.route("**/paper/gallery/*", lambda route: held.append(route))
    page.locator("#examples button").nth(7).click()
    page.wait_for_timeout(400)
    seen = page.evaluate(
        "() => [...document.querySelectorAll('.card .fit')].filter((fit) => !fit.querySelector('img').naturalWidth)"
        ".map((fit) => getComputedStyle(fit.querySelector('.box')).visibility)"
    )
    assert held and len(seen) >= 4 and set(seen) == {"hidden"}
    for route in held:
        route.continue_()
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")
    context.close()


def test_sizes_count_only_objects_of_theirs(browser, site, document) -> None:
    entry = entry_of(document)
    with visiting(browser, site) as page:
        slider = page.locator("#size")
        slider.focus()
        for step in range(1, len(document["sizes"]) + 1):
            page.keyboard.press("ArrowRight")
            size = len(document["sizes"]) + 1 - step  # from the largest objects to the smallest
            overall, band = document["sizes"][size - 1], entry["bands"][size - 1]
            said = page.locator("#size-said").inner_text()
            assert (
                f"{overall['levels'][0]['map']:.2f} whole" in said
                and f"{overall['levels'][3]['map']:.2f} patches" in said
            )
            if band is None:
                assert "in no picture at that size · AP –" in page.locator("#numbers-patches").inner_text()
            else:
                assert numbers(page, "patches")[1] == f"{band['levels'][3]['ap']:.2f}"
            low, high = [0, *document["limits"], 9][size - 1], [*document["limits"], 9][size - 1]
            inside = {row["picture"] for row in entry["positives"] if low <= row["share"] < high}
            every = {row["picture"] for row in entry["positives"]}
            dimmed = page.evaluate(
                "() => [...document.querySelectorAll('.card.out')].map((one) => Number(one.dataset.picture))"
            )
            assert set(dimmed) == every & {*results(entry, 1), *results(entry, 4)} - inside
            assert f"size={size}" in page.url
        bars = page.locator("#size-chart svg").get_attribute("aria-label")
        assert f"{document['sizes'][1]['levels'][3]['map']:.2f}" in bars


def test_a_result_is_looked_into_and_back_closes_it(browser, site, document) -> None:
    entry = entry_of(document)
    chosen = results(entry, 4)[1]
    patches = entry["patches"][str(chosen)]
    with visiting(browser, site) as page:
        page.locator("#cards-patches .open").nth(1).click()
        page.locator("dialog[open] .cell.best").wait_for()
        assert page.locator("#counter").inner_text() == f"{max(patches):.3f}"
        rows = page.locator("#look-levels tr").all_inner_texts()
        ranks = next(row["ranks"] for row in entry["positives"] if row["picture"] == chosen)
        for level, row, rank in zip(document["levels"], rows, ranks, strict=True):
            assert row.split("\t")[:3] == [level["name"], f"{max(patches[: level['patches']]):.3f}", str(rank)]
        assert f"from rank {ranks[0]} to rank {ranks[-1]}" in page.locator("#look-said").inner_text()
        assert f"open={chosen}" in page.url
        assert faults(page, "a result") == []
        page.go_back()
        page.locator("dialog[open]").wait_for(state="detached")
        assert "open=" not in page.url
        page.go_forward()
        page.locator("dialog[open]").wait_for()
        page.reload()
        page.locator("dialog[open] .cell.best").wait_for()
        page.keyboard.press("Escape")
        page.locator("dialog[open]").wait_for(state="detached")


def test_the_grids_come_in_turn_and_glow_by_similarity(browser, site, document) -> None:
    entry = entry_of(document)
    chosen = results(entry, 4)[1]
    patches = entry["patches"][str(chosen)]
    watch = (
        "() => { window.grids = new Set(); setInterval(() => {"
        " const cells = [...document.querySelectorAll('#look-pic .cell:not(.best)')];"
        " const glow = cells.map((one) => one.style.getPropertyValue('--glow'));"
        " if (cells.length) window.grids.add(JSON.stringify(glow)); }, 20); }"
    )
    with visiting(browser, site) as page:
        page.evaluate(watch)
        page.locator("#cards-patches .open").nth(1).click()
        page.locator("dialog[open] .cell.best").wait_for()
        seen = {len(json.loads(one)): json.loads(one) for one in page.evaluate("() => [...window.grids]")}
        assert sorted(seen) == [1, 4, 9, 16]
        order = sorted(range(16), key=lambda cell: float(seen[16][cell]))
        assert order[-1] == max(range(16), key=lambda cell: patches[14 + cell])
        page.evaluate("() => window.grids.clear()")
        page.get_by_role("button", name="Replay").click()
        page.wait_for_function("() => window.grids.size >= 4")
    with visiting(browser, site, reduced_motion="reduce") as page:
        page.evaluate(watch)
        page.locator("#cards-patches .open").nth(1).click()
        page.locator("dialog[open] .cell.best").wait_for()
        assert page.evaluate("() => window.grids.size") == 0  # the end at once
        assert page.evaluate("() => document.getAnimations().length") == 0


def test_the_address_holds_what_is_seen(browser, site, document) -> None:
    other = document["examples"][6]["id"]
    with visiting(browser, f"{site}?q=example-{other}&level=2&size=2") as page:
        page.wait_for_function("() => document.querySelectorAll('#examples button').length > 1")
        assert page.locator("#query-name").inner_text() == entry_of(document, other)["name"]
        assert pictures(page, "patches") == results(entry_of(document, other), 2)
        page.keyboard.press("ArrowRight")  # the next object
        following = document["examples"][7]["id"]
        assert f"q=example-{following}" in page.url and pictures(page, "patches") == results(
            entry_of(document, following), 2
        )
        page.go_back()
        page.wait_for_function(
            "(name) => document.querySelector('#query-name').innerText === name", arg=entry_of(document, other)["name"]
        )
    for wrong in ("q=example-1", "q=x&level=9&size=-1&open=1e9", "level=0&open=123456", "q=%3Cscript%3E"):
        with visiting(browser, f"{site}?{wrong}") as page:
            assert pictures(page, "patches") == results(entry_of(document), 4)
            assert page.locator("dialog[open]").count() == 0


def test_on_a_phone_everything_can_be_touched(browser, site) -> None:
    with visiting(browser, site, viewport=PHONE, has_touch=True) as page:
        small = page.evaluate(
            "() => [...document.querySelectorAll('button, header a, input')].filter((one) => one.checkVisibility())"
            ".map((one) => [one.innerText || one.id, one.getBoundingClientRect().height])"
            ".filter(([name, height]) => height < 40 && name !== 'size')"
        )
        assert small == []
        page.locator("#levels button").first.tap()
        page.locator("#cards-patches .open").first.tap()
        page.locator("dialog[open] .cell.best").wait_for()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]


def test_bibtex_is_copied_and_the_theme_kept(browser, site) -> None:
    with visiting(browser, site) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy BibTeX").click()
        page.locator("#cite-said", has_text="Copied").wait_for()
        assert "choi2026patchwise" in page.evaluate("() => navigator.clipboard.readText()")
        page.locator("[data-do=theme]").click()
        page.reload()
        assert page.evaluate("() => document.documentElement.classList.contains('dark')")


def test_its_parts_are_all_that_it_asks_for(browser, site) -> None:
    with visiting(browser, site) as page:
        page.wait_for_load_state("networkidle")
        asked = page.evaluate("() => performance.getEntriesByType('resource').map((one) => one.name)")
        below = [one.removeprefix(f"{site}paper/") for one in asked]
        assert all(one in (*PARTS, "paper.json") or re.match(r"(gallery|queries)/", one) for one in below)
