"""The box on a picture (assets/box.js), on a page of its own: neither Gradio nor a server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from patchify_core.files import ASSETS
from tests.browsing import CHROMIUM, WITHOUT

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

PAGE = """<!doctype html><html lang="en"><title>t</title>
<style>{css} body {{ margin: 0 }} .pf-draw {{ width: 400px; height: 300px }}</style>
<main id="root"><div class="pf-draw"><img alt="" draggable="false"></div></main>"""
START = """() => { window.told = [];
  window.tool = window.patchifyBox(document.getElementById('root'), { changed: (...all) => window.told.push(all) });
  window.tool.open(800, 600); }"""


@pytest.fixture(params=[False, True], ids=["mouse", "finger"])
def page(browser, request) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 500, "height": 400}, has_touch=request.param)
    page = context.new_page()
    page.finger = request.param
    page.set_content(PAGE.format(css=(ASSETS / "box.css").read_text()))
    for _ in range(2):  # what is there twice works once
        page.add_script_tag(content=(ASSETS / "box.js").read_text())
    page.evaluate(START)
    yield page
    context.close()


def drag(page: Any, *spots: tuple[float, float], rest_ms: int = 400) -> None:
    """Presses at the first spot, in pixels of the window, and lets go at the last; a finger rests before it moves."""
    if not page.finger:
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot)
        return page.mouse.up()
    hand = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(spots):
        kind = "touchMove" if number else "touchStart"
        hand.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        page.wait_for_timeout(20 if number else rest_ms)
    hand.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    return None


def told(page: Any) -> list[Any]:
    return page.evaluate("() => window.told")


def test_a_box_is_drawn_moved_and_resized(page) -> None:
    assert page.locator(".pf-draw-box.is-whole").get_attribute("data-box") == "0.0,0.0,800.0,600.0"
    drag(page, (100, 100), (150, 150), (200, 160))
    assert told(page) == [[[200, 200, 400, 320], "pointer"]]
    drag(page, (150, 130), (160, 140), (170, 150))  # inside: it moves
    assert told(page)[-1] == [[240, 240, 440, 360], "pointer"]
    drag(page, (220, 180), (230, 190), (260, 210))  # the lower right corner: the upper left one stays
    assert told(page)[-1] == [[240, 240, 520, 420], "pointer"]
    drag(page, (170, 150), (250, 200), (800, 900))  # never out of the picture
    assert told(page)[-1] == [[520, 420, 800, 600], "pointer"]


def test_a_slip_changes_nothing(page) -> None:
    drag(page, (100, 100), (101, 102))
    drag(page, (100, 100), (160, 100), (200, 100))  # as thin as a line
    assert told(page) == []
    assert "is-whole" in page.locator(".pf-draw-box").get_attribute("class")


def test_a_finger_that_swipes_draws_nothing(page) -> None:
    if page.finger:
        drag(page, (100, 100), (100, 140), (100, 200), rest_ms=50)
        assert told(page) == []
    sides = page.locator(".pf-draw-box .h").evaluate_all(
        "all => all.map(one => { one.parentNode.classList.remove('is-whole'); return one.offsetWidth; })"
    )
    assert sides == [44 if page.finger else 22] * 4


def test_keys_move_and_resize_it_and_a_screen_reader_is_told(page) -> None:
    page.evaluate("() => window.tool.suggest()")
    assert page.evaluate("() => document.activeElement.matches('.pf-draw-box[role=application][aria-label]')")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert [box for box, _ in told(page)] == [[200, 150, 600, 450], [180, 150, 580, 450], [180, 150, 580, 465]]
    region = page.locator("[role=status]")
    page.wait_for_function("() => document.querySelector('[role=status]').textContent !== ''")
    assert region.inner_text() == "Box: 23 to 73 % from the left, 25 to 78 % from the top"
    for _ in range(60):
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("ArrowRight")
    assert told(page)[-1][0] == [400, 150, 800, 165]
    page.keyboard.press("Home")
    assert told(page)[-1] == [None, "whole"]


def test_a_stage_that_others_draw_anew_keeps_what_is_being_drawn(page) -> None:
    if page.finger:
        return
    anew = "(key) => { const s = document.querySelector('.pf-draw'); s.querySelector('.pf-draw-box').remove();"
    anew += " s.dataset.picture = key; window.tool.show([0, 0, 80, 60]); window.tool.redrawn(); }"
    page.evaluate("() => { document.querySelector('.pf-draw').dataset.picture = 'a'; }")
    page.mouse.move(100, 100)
    page.mouse.down()
    page.mouse.move(200, 200)
    page.evaluate(anew, "a")
    assert page.evaluate("() => window.tool.corners()") == [200, 200, 400, 400]
    page.evaluate(anew, "b")  # another picture: the old box does not belong to it
    page.mouse.up()
    assert page.evaluate("() => window.tool.corners()") == [0, 0, 80, 60]
    assert told(page) == []
