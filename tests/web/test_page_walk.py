"""The tab “How it works” and the handout in a real Chromium."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from patchify_core import Patchify
from patchify_core.gallery import read_coco
from tests.browsing import (
    CHROMIUM,
    ROOT,
    WITHOUT,
    choose,
    elsewhere,
    first_row,
    jpeg,
    send,
    visit,
    wait_for_new_results,
)
from tests.page_server import blobs
from tests.walking import cell, data, looked_at, open_walk, part, read, turned

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


def test_steps_are_walked_by_pointer_and_by_keyboard(page) -> None:
    assert page.locator(".pf-walk").count() == 0  # the first view waits for nothing of this
    open_walk(page)
    shown = page.locator(".wk-panel:visible h3:visible")
    assert "list of numbers" in shown.inner_text()
    assert page.locator(".wk-facts dd").nth(1).inner_text() == "1.000"
    titles = []
    for _ in range(5):
        page.get_by_role("button", name="Next", exact=True).click()
        titles.append(shown.inner_text())
    assert len(set(titles)) == 5
    assert page.get_by_role("button", name="Next", exact=True).is_disabled()
    page.locator(".wk-tab[aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")  # there is no further one, and it does not go round
    expect(page.locator(".wk-tab[aria-selected=true]")).to_have_attribute("data-step", "6")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".wk-tab[aria-selected=true]")).to_be_focused()
    assert page.get_by_role("tabpanel", name="2 Grid").count() == 1
    # Level by level: outlines without numbers.
    assert page.locator(".wk-cell:visible").count() == 16
    page.get_by_role("button", name="2×2 grid", exact=True).click()
    assert page.locator(".wk-cell:visible").count() == 4
    assert page.locator(".wk-cell b:visible").count() == 0
    # It is still there when the tab is opened again.
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("tab", name="How it works").click()
    page.wait_for_timeout(400)
    assert page.locator(".wk-cell:visible").count() == 4


def test_patch_under_the_pointer_and_under_the_keys_is_the_librarys(page) -> None:
    open_walk(page, 3)
    engine = Patchify.open(ROOT / "sample_db" / "indexes" / "pooled")
    gallery = read_coco(ROOT / "sample_db")
    query = next(q for q in gallery.queries if gallery.name(q.instance) == "birthday cake")
    why = engine.explain(engine.describe_query(query.path, query.box), looked_at(page))
    assert data(page, "scores") == pytest.approx([float(score) for score in why.scores], abs=1e-6)
    view = page.locator(".wk-view")
    for number in (14, 19, 29):
        cell(page, number).hover()
        assert read(page.locator("[data-fill=score]").inner_text()) == pytest.approx(
            float(why.scores[number]), abs=6e-4
        )
        row, column = divmod(number - 14, 4)
        assert f"row {row + 1}, column {column + 1} of the 4×4 grid" in view.inner_text()
        x1, y1, x2, y2 = (round(v) for v in why.boxes[number])
        assert f"x {x1} to {x2}, y {y1} to {y2} pixels" in view.inner_text()
        place = 1 + int((why.scores > why.scores[number]).sum())
        assert f"number {place} of 30 patches" in view.inner_text()
        # The crop shows that very part of the picture.
        part = page.evaluate(
            "() => { const image = document.querySelector('[data-fill=crop] img').getBoundingClientRect();"
            " const crop = document.querySelector('[data-fill=crop]').getBoundingClientRect();"
            " const across = (crop.left - image.left) / image.width, down = (crop.top - image.top) / image.height;"
            " return [640 * across, 480 * down, 640 * crop.width / image.width, 480 * crop.height / image.height]; }"
        )
        assert part == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2)
    cell(page, 19).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.dataset.cell") == "24"
    assert cell(page, 24).get_attribute("aria-label").startswith("row 3, column 3 of the 4×4 grid: similarity")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")  # the row ends
    assert page.evaluate("() => document.activeElement.dataset.cell") == "25"
    assert "row 3, column 4" in view.inner_text()
    # A bar leads to its patch, in whatever grid it is.
    page.locator(".wk-bar[data-cell='6']").hover()
    assert "row 1, column 2 of the 3×3 grid" in view.inner_text()
    assert cell(page, 6).is_visible()


def test_level_changes_the_winner_the_ranking_and_the_score(page) -> None:
    open_walk(page, 4)
    engine = Patchify.open(ROOT / "sample_db" / "indexes" / "pooled")
    gallery = read_coco(ROOT / "sample_db")
    query = next(q for q in gallery.queries if gallery.name(q.instance) == "birthday cake")
    described = engine.describe_query(query.path, query.box)
    image = looked_at(page)
    page.locator("[name=wk-level]:checked").focus()
    for level in (3, 2, 1):
        turned(page, lambda: page.keyboard.press("ArrowLeft"))
        why = engine.explain(described, image, level)
        assert looked_at(page) == image
        assert page.locator(".wk-cell.is-winner").get_attribute("data-cell") == str(why.patch)
        assert read(page.locator(".wk-max").inner_text()) == pytest.approx(float(why.scores.max()), abs=6e-4)
        ranked = engine.search_descriptor(described, None, level)
        rank = 1 + [match.image_id for match in ranked].index(image)
        assert f"Rank {rank} of 164" in page.locator(".wk-panel:visible").inner_text()
        assert page.evaluate("() => document.activeElement.name") == "wk-level"  # the focus stays
    assert page.locator("[data-grid-of='2']").is_disabled()
    page.locator(".wk-tab[data-step='5']").click()
    assert page.get_by_role("button", name="Side by side").count() == 0  # these are whole pictures already


def test_score_is_the_strips_for_the_same_patches_and_boxes(page) -> None:
    choose(page, "#pf-box-choice", "Winning patch")
    page.wait_for_function("() => !document.querySelector('.pf-card .pf-patch')")
    for level, label in ((4, "L3"), (3, "L2")):
        if level == 3:
            page.get_by_role("tab", name="Search").click()
            before = page.locator("#pf-strip").inner_text()
            page.locator("#pf-level label", has_text=label).click()
            page.wait_for_function("(b) => document.querySelector('#pf-strip').innerText !== b", arg=before)
        ap, locscore = page.locator("#pf-strip .ours .pf-num").all_inner_texts()
        open_walk(page, 6)
        if level == 3:
            turned(page, lambda: page.locator(".wk-levels label", has_text="L2").click())
        assert page.locator(".wk-total:visible").inner_text() == locscore
        assert page.locator(".wk-total-ap:visible").inner_text() == ap
        last = page.locator(".wk-table:visible tbody tr").last.locator("td[data-v]").last
        assert f"{float(last.get_attribute('data-v')):.3f}" == locscore
        added = page.locator(".wk-table:visible tbody tr td[data-v]:nth-last-child(3)")
        parts = [float(v) for v in added.evaluate_all("cells => cells.map(c => c.dataset.v)")]
        assert f"{sum(parts):.3f}" == locscore
    # Refined boxes: as the strip has them.
    page.get_by_role("tab", name="Search").click()
    choose(page, "#pf-box-choice", "Refined")
    page.locator(".pf-card .pf-patch").first.wait_for()
    locscore = page.locator("#pf-strip .ours .pf-num").nth(1).inner_text()
    page.get_by_role("tab", name="How it works").click()
    turned(page, lambda: page.locator("[data-do=way]").select_option("map"))
    assert page.locator(".wk-total:visible").inner_text() == locscore
    # The worked example is one click away.
    page.get_by_role("button", name="A worked example").click()
    assert page.locator(".wk-total:visible").inner_text() == "0.140"
    assert page.locator(".wk-total-ap:visible").inner_text() == "0.300"


def test_whole_pictures_stand_beside_the_patches(page) -> None:
    baseline = page.locator("#pf-strip .base .pf-num").all_inner_texts()
    open_walk(page, 5)
    assert page.locator(".wk-ranks:visible").count() == 1
    page.get_by_role("button", name="Side by side").click()
    assert page.locator(".wk-ranks:visible").count() == 2
    assert page.locator(".wk-global .wk-ap").inner_text() == f"AP {baseline[0]} · LocScore {baseline[1]}"
    ranks = page.locator(".wk-ranks").first
    scores = [float(v) for v in ranks.locator("li > b").all_inner_texts()]
    assert len(scores) == 10 and scores == sorted(scores, reverse=True)
    wrong = ranks.locator(".is-first-wrong .wk-no").inner_text()
    assert f"The first wrong one is at rank {wrong} " in page.locator(".wk-panel:visible").inner_text()


def test_look_alikes_are_one_click_away_and_the_question_stays(page) -> None:
    asked = page.locator(".pf-query-img").get_attribute("alt")
    open_walk(page)
    turned(page, lambda: page.get_by_role("button", name="The two blue pots").click())
    assert page.locator(".wk-pairside").count() == 2
    assert "can it tell them apart" in page.locator(".wk-panel:visible h3").inner_text()
    right, wrong = (read(side.locator("dd").first.inner_text()) for side in page.locator(".wk-pairside").all())
    text = page.locator(".wk-panel:visible").inner_text()
    assert re.search(rf"{abs(right - wrong):.2f}\d? {'ahead' if right > wrong else 'behind'}", text)
    page.locator(".wk-pairside img").last.evaluate("image => image.decode()")
    turned(page, lambda: page.get_by_role("button", name="blue vase").click())
    assert page.get_by_role("button", name="blue vase").get_attribute("aria-pressed") == "true"
    expect(page.get_by_role("button", name="blue vase")).to_be_focused()
    page.get_by_role("tab", name="Search").click()
    assert page.locator(".pf-query-img").get_attribute("alt") == asked
    page.get_by_role("tab", name="How it works").click()
    page.get_by_role("button", name="Use this query in Search").click()
    page.locator(".pf-query-img[alt='Query: blue vase']").wait_for()
    page.get_by_role("tab", name="How it works").click()
    page.get_by_role("heading", name="How “blue vase” is found").wait_for()


def test_another_index_is_walked_and_the_search_keeps_its_own(page) -> None:
    open_walk(page, 2)
    turned(page, lambda: page.locator("[data-do=engine]").select_option("salient"))
    assert data(page, "ends") == [1, 30]
    expect(page.locator("[data-do=engine]")).to_have_value("salient")
    page.locator(".wk-tab[data-step='3']").click()
    page.get_by_role("button", name="29 salient", exact=True).click()
    assert page.locator(".wk-cell:visible").count() == 29
    page.locator(".wk-bar[data-cell='9']").hover()
    assert "patch 9 of 29 salient" in page.locator(".wk-view").inner_text()
    page.get_by_role("tab", name="Search").click()
    assert "Fast: one pass per picture" in page.locator("#pf-encoder input").input_value()


def test_own_picture_is_walked_without_a_score(page) -> None:
    open_walk(page, 6)
    assert page.locator(".wk-total:visible").count() == 1
    page.get_by_role("tab", name="Search").click()
    before = first_row(page)
    send(page, "mine.jpg", jpeg(blobs(7, (300, 200))))
    wait_for_new_results(page, before)
    page.get_by_role("tab", name="How it works").click()
    page.get_by_role("heading", name="How “your picture” is found").wait_for()
    page.locator(".wk-tab[data-step='6']").click()
    assert page.locator(".wk-total:visible").inner_text() == "0.140"  # the worked example, and why
    page.get_by_role("button", name="Your query").click()
    assert "The object is not known" in page.locator(".wk-panel:visible").inner_text()
    page.locator(".wk-tab[data-step='4']").click()
    assert page.locator(".wk-winbox").is_visible()


def test_phone_has_no_sideways_scroll_and_nothing_jumps(browser, server) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}
    with visit(browser, server, **options) as page:
        page.evaluate(
            "() => { window.shift = 0; new PerformanceObserver(list => { for (const e of list.getEntries())"
            " if (!e.hadRecentInput) window.shift += e.value; }).observe({ type: 'layout-shift' }); }"
        )
        open_walk(page)
        for step in range(1, 7):
            page.locator(f".wk-tab[data-step='{step}']").click()
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        turned(page, lambda: page.get_by_role("button", name="The tea set").click())
        assert page.locator(".wk-top h2:visible").all_inner_texts() == ["The tea set: look-alikes"]
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert page.evaluate("() => window.shift") < 0.1
        for name in ("exercise", "plan"):
            part(page, name)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert elsewhere(page.requests, server) == []


def test_notebook_is_sent_and_the_search_leads_here(page, tmp_path) -> None:
    open_walk(page)
    with page.expect_download() as download:
        page.get_by_role("link", name="Notebook").click()
    download.value.save_as(tmp_path / "file.ipynb")
    assert download.value.suggested_filename == "patchify.ipynb"
    assert (tmp_path / "file.ipynb").read_bytes() == (ROOT / "assets" / "patchify.ipynb").read_bytes()
    # The short text below leads here too.
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("button", name="Walk through this search").click()
    assert page.locator(".pf-walk").is_visible()
