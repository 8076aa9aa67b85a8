"""The Evaluation tab's story in a real Chromium, over what the checkout ships."""

from __future__ import annotations

import itertools

import pytest

from patchify_core.demo.gallery_info import stored_answers
from patchify_core.retrieval.presence import calibration_path, read_calibration
from tests.browsing import CHROMIUM, ROOT, WITHOUT, elsewhere, visit

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


def open_story(page) -> None:
    page.get_by_role("tab", name="Evaluation").click()
    page.locator(".pf-story .ev-chart").first.wait_for()
    page.locator(".pf-look").wait_for()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1024, 768)])
def test_charts_are_in_the_first_view_and_say_what_the_table_says(server, browser, width, height) -> None:
    with visit(browser, server, viewport={"width": width, "height": height}) as page:
        open_story(page)
        charts = page.locator(".ev-chart")
        assert charts.count() == 3
        for number in range(3):
            box = charts.nth(number).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width and box["y"] + box["height"] <= height
        # The same numbers in words: for a screen reader, at the ends of the lines, and in the table.
        document = stored_answers(ROOT / "sample_db")
        first, last = document["overall"][0], document["overall"][-1]
        said = charts.first.get_by_role("img").get_attribute("aria-label")
        assert f"AP from {first['map']:.2f} (Global) to {last['map']:.2f}" in said
        assert charts.first.locator("text.label").all_text_contents()[0] == f"AP {last['map']:.2f}"
        page.get_by_text("These charts as a table").click()
        cells = page.locator(".ev-levels tr[data-set=sample_db][data-score=AP] td.is-num").all_inner_texts()
        assert cells == [f"{one['map']:.3f}" for one in document["overall"]]
        # Lines differ in more than colour.
        dashes = "(selector) => getComputedStyle(document.querySelector(selector)).strokeDasharray"
        assert len({page.evaluate(dashes, f".ev-chart {one}") for one in ("polyline.ap", "polyline.loc", ".base")}) == 3
        assert charts.first.locator("circle.ap").count() == charts.first.locator("rect.loc").count() == 4


def test_bars_are_as_long_as_their_numbers(server, browser) -> None:
    with visit(browser, server) as page:
        open_story(page)
        bars = page.locator(".ev-sizes .ev-bar")
        assert bars.count() == 8
        full = bars.first.evaluate("bar => bar.clientWidth - bar.querySelector('b').offsetWidth - 10")
        for bar in bars.all():
            value = float(bar.locator("b").inner_text().split()[-1])
            assert bar.locator("i").evaluate("i => i.offsetWidth") == pytest.approx(max(2, value * full), abs=3)


def test_every_card_opens_its_own_search(server, browser) -> None:
    """The configuration and the numbers of a card are those of the search that it opens."""
    with visit(browser, server) as page:
        open_story(page)
        cards = page.locator(".ev-failures .pf-failure")
        assert cards.count() == 6
        for number in (0, 5):
            card = cards.nth(number)
            name = card.locator("h3").inner_text()
            ap, locscore = (card.locator(part).inner_text() for part in (".ev-ap", ".ev-loc"))
            top = card.locator("figcaption").last.inner_text()
            card.get_by_role("link", name="in Search").click()
            page.locator(f".pf-query-img[alt='Query: {name}']").wait_for()
            page.wait_for_function("() => !document.documentElement.classList.contains('pf-opening')")
            page.locator("#pf-strip .ours .pf-num").first.wait_for()
            assert page.locator("#pf-strip .ours .pf-num").all_inner_texts() == [ap, locscore]
            assert "Paper: every patch encoded separately" in page.locator("#pf-encoder input").input_value()
            assert page.locator("#pf-box-choice input").input_value() == "Winning patch"
            assert page.locator("#pf-level label.selected").inner_text().startswith("L3")
            first = page.locator(".pf-card").first.inner_text()
            assert top.split("result, ")[1].split(":")[0] in first.replace("\n", " ")
            page.go_back()
            page.wait_for_selector("#pf-level[role=radiogroup]", state="attached")
            open_story(page)


def test_phone_stacks_the_charts_and_scrolls_down_only(server, browser) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}
    with visit(browser, server, **options) as page:
        open_story(page)
        edges = [chart.bounding_box() for chart in page.locator(".ev-chart").all()]
        assert all(below["y"] >= above["y"] + above["height"] for above, below in itertools.pairwise(edges))
        assert {round(edge["x"]) for edge in edges} == {round(edges[0]["x"])}
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert elsewhere(page.requests, server) == []


def test_old_link_opens_the_tab(server, browser) -> None:
    with visit(browser, f"{server}?tab=evaluation") as page:
        page.locator(".ev-chart").first.wait_for()
        page.locator(".pf-trials").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_reliability_is_drawn_and_told(server, browser, width, scheme) -> None:
    with visit(browser, server, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        assert page.get_by_role("status").filter(has_text="Likely here").is_visible()
        assert page.locator(".pf-cards > .pf-rest").inner_text() == "The rest probably does not contain it"
        open_story(page)
        drawn = page.locator(".ev-reliable")
        folders = ROOT / "sample_db/indexes/pooled", ROOT / "sample_db/index"
        known = [read_calibration(calibration_path(folder)) for folder in folders]
        assert drawn.count() == len(known)
        for number, one in enumerate(known):
            shown = drawn.nth(number)
            assert shown.locator("circle.ap").count() == len(one.learned.reliability["first"])
            assert shown.locator("rect.loc").count() == len(one.learned.reliability["later"])
            hits = f"{100 * one.learned.held_out['absent_hits'].share:.0f} %"
            assert hits in shown.locator("figcaption").inner_text()
            command = "patchify_core calibrate sample_db davis20 dreambooth30 --index"
            assert command in shown.locator("code").inner_text()
            box = shown.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
