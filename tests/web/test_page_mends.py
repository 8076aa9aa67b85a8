"""What visitors stumbled over, in a real Chromium: slow lines, fingers, reloads, and what stays where it is."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from patchify_core.gallery import read_coco
from tests.browsing import (
    CHROMIUM,
    ROOT,
    WITHOUT,
    choose,
    first_row,
    jpeg,
    notice,
    send,
    visit,
    wait_for_new_results,
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


def photo() -> bytes:
    return jpeg(Image.open(read_coco(ROOT / "sample_db").queries[5].path).convert("RGB").resize((320, 240)))


class Barrier:
    """Holds requests to addresses of a pattern until it is opened."""

    def __init__(self, page, pattern: str) -> None:
        self.held: list[Any] = []
        self.opened = False
        page.route(pattern, self.take)

    def take(self, route) -> None:
        if self.opened:
            route.continue_()
        else:
            self.held.append(route)

    def open(self) -> None:
        self.opened = True
        for route in self.held:
            route.continue_()


def example(page, number: int) -> None:
    before = first_row(page)
    page.locator(".pf-example").nth(number).click()
    wait_for_new_results(page, before)


# Slow lines -------------------------------------------------------------------------------------------------


def test_boxes_wait_for_their_own_pictures(page) -> None:
    barrier = Barrier(page, "**/*gallery/*.jpg")
    example(page, 4)
    seen = (
        "() => [...document.querySelectorAll('.pf-card')].map(card => ["
        "card.querySelector('img').complete, getComputedStyle(card.querySelector('.pf-box')).opacity,"
        " getComputedStyle(card.querySelector('img')).opacity])"
    )
    page.wait_for_function("() => [...document.querySelectorAll('.pf-card img')].some(i => !i.complete)")
    cards = page.evaluate(seen)
    assert [complete for complete, _, _ in cards].count(False) >= 5  # some pictures are among both results
    for complete, box, picture in cards:
        assert (box, picture) == (("1", "1") if complete else ("0", "0"))
    barrier.open()
    page.wait_for_function("() => !document.querySelector('.is-loading')")
    assert page.evaluate(seen) == [[True, "1", "1"]] * 10


def test_upload_is_seen_before_it_is_answered_and_a_refused_one_goes(page) -> None:
    barrier = Barrier(page, "**/upload?**")
    before = first_row(page)
    send(page, "mine.jpg", photo())
    page.wait_for_function("() => document.querySelector('.pf-preview')?.naturalWidth === 320")
    assert page.locator(".pf-preview").is_visible()
    barrier.open()
    wait_for_new_results(page, before)
    page.locator(".pf-preview").wait_for(state="detached")
    send(page, "half.jpg", photo()[:5000])
    page.locator(".toast-body").first.wait_for()
    page.locator(".pf-preview").wait_for(state="detached")
    assert page.locator(".pf-query-img").get_attribute("alt") == "Query: your picture"


# Reload, links ----------------------------------------------------------------------------------------------


def test_the_address_follows_and_a_reload_shows_the_same(server, browser) -> None:
    with visit(browser, f"{server}?q=example-193&level=1&theme=light") as page:
        page.wait_for_function("() => !document.documentElement.classList.contains('pf-opening')")
        example(page, 3)
        chosen = page.locator(".pf-example").nth(3).get_attribute("data-example")
        page.wait_for_function(f"() => location.search.includes('q=example-{chosen}&')")
        assert "level=1" in page.url and "theme=light" in page.url and "q=example-193" not in page.url
        name = page.locator(".pf-query-img").get_attribute("alt")
        page.reload()
        page.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=name)
        page.locator("#pf-level label.selected", has_text="Global").wait_for()
        # Of a visitor's own picture the address says nothing, and the menu offers no link to it.
        before = first_row(page)
        send(page, "mine.jpg", photo())
        wait_for_new_results(page, before)
        page.wait_for_function("() => location.search === '?theme=light'")
        page.get_by_text("Share", exact=True).click()
        assert not page.get_by_role("button", name="Copy link").is_visible()
        assert "have no link" in page.locator("#pf-share").inner_text()


def test_back_takes_back_an_opened_result_and_then_the_query(server, browser) -> None:
    """And forward again; a grid or a number of results is not a step of its own."""
    with visit(browser, server) as page:
        first = page.locator(".pf-query-img").get_attribute("alt")
        example(page, 3)
        page.wait_for_function("() => location.search.includes('q=example-')")
        chosen = page.locator(".pf-query-img").get_attribute("alt")
        assert chosen != first
        before = first_row(page)
        page.locator("#pf-level label", has_text="Global").click()
        wait_for_new_results(page, before)
        page.wait_for_function("() => location.search.includes('level=1')")
        page.locator("#pf-results .pf-open").nth(1).click()
        page.wait_for_function("() => location.search.includes('look=')")
        page.go_back()
        page.locator(".pf-modal").wait_for(state="detached")
        assert "look=" not in page.url and "level=1" in page.url
        assert page.locator(".pf-query-img").get_attribute("alt") == chosen
        page.go_forward()
        page.locator(".pf-modal").wait_for()
        page.go_back()
        page.locator(".pf-modal").wait_for(state="detached")
        page.go_back()
        page.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=first)
        page.wait_for_timeout(800)  # the address is followed after a moment, which must be no step of its own
        page.go_forward()
        page.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=chosen)


def test_back_from_an_own_picture_returns_to_the_query_before(server, browser) -> None:
    with visit(browser, server) as page:
        example(page, 3)
        page.wait_for_function("() => location.search.includes('q=example-')")
        chosen, before = page.locator(".pf-query-img").get_attribute("alt"), first_row(page)
        send(page, "mine.jpg", photo())
        wait_for_new_results(page, before)
        page.wait_for_function("() => !location.search.includes('q=')")
        page.go_back()
        page.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=chosen)
        page.go_forward()
        assert "not one of this page" in notice(page)


def test_back_from_an_own_picture_on_a_page_just_opened_returns_to_its_example(server, browser) -> None:
    """Neither of the two has an address of its own."""
    with visit(browser, server) as page:
        first, before = page.locator(".pf-query-img").get_attribute("alt"), first_row(page)
        send(page, "mine.jpg", photo())
        wait_for_new_results(page, before)
        page.wait_for_function("() => history.state?.patchifyMine")
        page.go_back()
        page.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=first)


def test_back_and_back_again_on_a_slow_line_keep_the_way_forward(server, browser) -> None:
    """What the page on the way says of itself comes late, and is no step."""
    with visit(browser, server) as page:
        names = [page.locator(".pf-query-img").get_attribute("alt")]
        for number in (3, 4, 5):
            example(page, number)
            chosen = page.locator(".pf-example").nth(number).get_attribute("data-example")
            page.wait_for_function(f"() => location.search.includes('q=example-{chosen}&')")
            names.append(page.locator(".pf-query-img").get_attribute("alt"))
        network = page.context.new_cdp_session(page)
        network.send("Network.enable")
        slow = {"offline": False, "latency": 600, "downloadThroughput": -1, "uploadThroughput": -1}
        network.send("Network.emulateNetworkConditions", slow)
        page.go_back()
        page.wait_for_timeout(900)
        page.go_back()
        shown = "(name) => document.querySelector('.pf-query-img')?.alt === name"
        page.wait_for_function(shown, arg=names[1])
        page.wait_for_timeout(2500)
        for name in (names[2], names[3]):
            page.go_forward()
            page.wait_for_function(shown, arg=name)
            page.wait_for_timeout(2500)


def test_view_api_shows_the_api(page, server) -> None:
    page.goto(f"{server}?view=api")
    page.wait_for_url("**/gradio_api/openapi.json")
    assert "search_by_example" in page.content()


# Fingers and a small screen ---------------------------------------------------------------------------------


def on_picture(page, x: float, y: float) -> dict[str, float]:
    """A point of the window, given as shares of the query picture."""
    rect = page.locator(".pf-stage").bounding_box()
    return {"x": rect["x"] + x * rect["width"], "y": rect["y"] + y * rect["height"]}


def test_a_swipe_scrolls_and_a_finger_that_rests_draws(phone) -> None:
    box = phone.locator(".pf-query-box")
    before, results = box.get_attribute("data-box"), first_row(phone)
    hand = phone.context.new_cdp_session(phone)
    swipe = {"yDistance": -200, "speed": 1500, "gestureSourceType": "touch"}
    hand.send("Input.synthesizeScrollGesture", on_picture(phone, 0.45, 0.6) | swipe)
    phone.wait_for_timeout(600)  # a headless Chromium scrolls no page by touch; with this style others do
    assert phone.eval_on_selector(".pf-stage", "stage => getComputedStyle(stage).touchAction") == "pan-x pan-y"
    assert (box.get_attribute("data-box"), first_row(phone)) == (before, results)
    for kind, spots in (
        ("touchStart", [(0.02, 0.05)]),
        ("touchMove", [(0.1, 0.1)]),
        ("touchMove", [(0.2, 0.3)]),
        ("touchEnd", []),
    ):
        points = [on_picture(phone, *spot) for spot in spots]
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        phone.wait_for_timeout(600 if kind == "touchStart" else 50)
    wait_for_new_results(phone, results)
    width, height = (int(phone.locator(".pf-stage").get_attribute(f"data-{side}")) for side in ("width", "height"))
    drawn = [float(value) for value in box.get_attribute("data-box").split(",")]
    wanted = [0.02 * width, 0.05 * height, 0.2 * width, 0.3 * height]
    assert drawn == pytest.approx(wanted, abs=0.03 * width)


def test_scores_and_sharing_come_before_the_results_on_a_phone(phone) -> None:
    tops = phone.evaluate(
        "() => ['.pf-strip', '.pf-share summary', '.pf-card', '#pf-engines'].map(s =>"
        " document.querySelector(s).getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    phone.get_by_text("What is LocScore?").click()
    panel = phone.locator("#pf-strip .pf-what > div")
    rect = panel.bounding_box()
    on_top = "([x, y]) => document.elementFromPoint(x, y).closest('#pf-share') === null"
    label = phone.locator(".pf-share summary").bounding_box()
    middle = [label["x"] + label["width"] / 2, label["y"] + label["height"] / 2]
    covered = rect["y"] <= middle[1] <= rect["y"] + rect["height"]
    assert not covered or phone.evaluate(on_top, middle)


# What stays where it is -------------------------------------------------------------------------------------


def test_results_stay_where_they_are_when_the_scores_change(page) -> None:
    top = "() => document.querySelector('.pf-cards').getBoundingClientRect().top"
    before = page.evaluate(top)
    choose(page, "#pf-box-choice", "Winning patch")
    page.wait_for_function("() => !document.querySelector('.pf-card .pf-patch')")
    assert page.evaluate(top) == before
    choose(page, "#pf-rerank", "query expansion")
    page.locator(".pf-strip", has_text="Re-ranked").wait_for()
    assert page.evaluate(top) == before
    choose(page, "#pf-object", "I don't know")
    page.locator(".pf-strip", has_text="Not scored").wait_for()
    assert page.evaluate(top) == before


def test_typing_an_objects_name_replaces_the_one_that_stands_there(page) -> None:
    page.locator("#pf-level[role=radiogroup]").wait_for()  # the script that selects the name is there
    page.locator("#pf-object input").click()
    page.keyboard.type("moka")
    page.wait_for_function("() => document.querySelectorAll('[role=option]').length === 1")
    assert page.get_by_role("option").inner_text().strip().endswith("moka pot")


def test_what_the_method_does_and_whose_it_is_stand_on_the_first_tab_alone(page) -> None:
    for part in ("#pf-below", "#pf-foot"):
        page.locator(part).wait_for()
    page.get_by_role("tab", name="Your pictures").click()
    page.locator(".pf-drop").wait_for()
    assert not page.locator("#pf-below").is_visible() and not page.locator("#pf-foot").is_visible()
    page.get_by_role("link", name="Cite").click()
    page.locator("#pf-cite").wait_for()


def test_white_boxes_have_a_dark_rim(page) -> None:
    page.locator(".pf-open").first.click()
    page.locator(".pf-modal").wait_for()
    for kind in (".pf-cell", ".pf-true"):
        rim = page.eval_on_selector(kind, "node => getComputedStyle(node).boxShadow")
        assert "rgba(10, 16, 28" in rim, kind
