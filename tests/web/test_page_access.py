"""Every tab for everybody: axe-core, the keyboard, calm, nothing that jumps, and no other host, in a real Chromium."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browsing import CHROMIUM, WITHOUT, elsewhere, first_row, visit, wait_for_new_results

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

MOST_SHIFT = 0.1
"""Largest layout shift that is still good: https://web.dev/articles/cls."""

WATCH_SHIFTS = """() => {
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.shifts += entry.value;
  }).observe({ type: 'layout-shift', buffered: true });
}"""

QUIET = """(calm) => new Promise((done) => {
  let timer = setTimeout(done, calm);
  const watcher = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, calm); });
  watcher.observe(document.body, { subtree: true, childList: true, characterData: true });
  setTimeout(done, 12000);
})"""

WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def settle(page: Any, calm: int = 700) -> None:
    """Waits until nothing has changed on the page for a while."""
    page.evaluate(QUIET, calm)


def faults(page: Any, where: str) -> list[str]:
    """What axe-core finds that is serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{where}: {one['id']}: {node['html'][:160]} {' '.join(check['message'] for check in node['any'])[:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")], ids=["wide", "phone"])
def test_every_tab_is_accessible_and_still(server, browser, size, scheme) -> None:
    """One visit through all of the page: no fault, no jump, no word to another host."""
    wrong: list[str] = []

    def jumped(where: str) -> None:
        moved = page.evaluate("() => { const sum = window.shifts; window.shifts = 0; return sum; }")
        if moved > MOST_SHIFT:
            wrong.append(f"{where}: the layout shifts by {moved:.3f}")

    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script(f"({WATCH_SHIFTS})()")
    page.goto(server)
    page.wait_for_selector(".pf-card img")
    settle(page)
    jumped("load")
    wrong += faults(page, "Search")
    before = first_row(page)
    page.locator(".pf-example").nth(3).click()
    wait_for_new_results(page, before)
    settle(page)
    jumped("another example")
    before = first_row(page)
    page.locator("#pf-level label").first.click()
    wait_for_new_results(page, before)
    settle(page)
    jumped("another level")
    page.locator(".pf-open").nth(1).click()
    page.locator(".pf-modal").wait_for()
    settle(page)
    wrong += faults(page, "large view")
    page.keyboard.press("Escape")
    page.locator(".pf-modal").wait_for(state="detached")
    page.get_by_text("Share", exact=True).click()
    wrong += faults(page, "Share")
    page.keyboard.press("Escape")
    tabs = page.get_by_role("tab")
    names = [tabs.nth(number).inner_text() for number in range(tabs.count())]
    assert names[0] == "Search" and len(names) >= 3
    for number, name in enumerate(names[1:], 1):
        page.evaluate("() => window.scrollTo(0, 0)")
        page.evaluate("() => { window.shifts = 0; }")
        tabs.nth(number).click()
        settle(page)
        jumped(name)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"], name
        wrong += faults(page, name)
    assert wrong == []
    assert elsewhere(asked, server) == []
    context.close()


@pytest.mark.parametrize(("size", "theme"), [(WIDE, "dark"), (PHONE, "light")], ids=["wide dark", "phone light"])
def test_embedded_page_is_accessible(server, browser, size, theme) -> None:
    with visit(browser, f"{server}?embed=1&theme={theme}", viewport=size) as page:
        settle(page)
        assert faults(page, "embedded") == []


def test_keyboard_goes_where_eyes_go(server, browser) -> None:
    with visit(browser, server) as page:
        order = []
        for _ in range(9):
            page.keyboard.press("Tab")
            order.append(page.evaluate("() => document.activeElement.textContent.trim().slice(0, 24)"))
        assert order[:4] == ["Skip to the results", "See the paper", "Use it on my photos", "Full tool"]
        assert "Cite" in order[4] and "Search" in order
        page.get_by_role("tab", name="Search").focus()
        page.keyboard.press("ArrowLeft")
        last = page.get_by_role("tab").last
        assert last.get_attribute("aria-selected") == "true"
        assert last.evaluate("tab => tab === document.activeElement")
        page.keyboard.press("Home")
        assert page.get_by_role("tab", name="Search").get_attribute("aria-selected") == "true"
        page.locator(".pf-skip").focus()
        assert page.locator(".pf-skip").bounding_box()["y"] >= 0  # it is seen when it is reached
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.activeElement.closest('#pf-results') !== null")
        assert page.url == server  # a link within the page does not load it again


def test_focus_is_always_seen(server, browser) -> None:
    """Tab through the first view: whatever has the focus has an outline, a ring or a caret."""
    with visit(browser, server) as page:
        bare = []
        for _ in range(30):
            page.keyboard.press("Tab")
            seen = page.evaluate(
                "() => { const one = document.activeElement;"
                " const ring = (node) => { const s = getComputedStyle(node);"
                "   return (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none'; };"
                " return [one.closest('[id]')?.id + ' ' + one.className,"
                "   ring(one) || one.matches('input:not([type=radio]), textarea') || ring(one.parentElement)]; }"
            )
            if not seen[1]:
                bare.append(seen[0])
        assert bare == []


def test_nothing_moves_for_those_who_want_it_still(server, browser) -> None:
    with visit(browser, server, reduced_motion="reduce") as page:
        before = first_row(page)
        page.locator(".pf-example").nth(2).click()
        wait_for_new_results(page, before)
        page.locator(".pf-open").first.click()
        page.locator(".pf-modal").wait_for()
        settle(page)
        moving = (
            "() => document.getAnimations().filter(a => a.playState === 'running' &&"
            " a.effect.getComputedTiming().duration > 10).map(a => a.animationName)"
        )
        assert page.evaluate(moving) == []
