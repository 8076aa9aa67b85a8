"""The page in a real Chromium over a small gallery: tabs, the choice of encoder, words, and points that agree."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browsing import (
    CHROMIUM,
    WITHOUT,
    choose,
    elsewhere,
    first_row,
    jpeg,
    notice,
    send,
    served,
    visit,
    wait_for_new_results,
)
from tests.page_server import blobs, write_gallery, write_indexes

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

WORDS = "#pf-words textarea, #pf-words input"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_gallery(tmp_path_factory.mktemp("gallery"))
    write_indexes(folder)
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    with served(["-m", "tests.page_server", str(folder), "--tabs"], tmp_path_factory.mktemp("server")) as running:
        yield f"{running[0]}photos", running[1]


def encoder_shown(page) -> str:
    return page.locator("#pf-encoder input").input_value()


def levels_shown(page) -> list[str]:
    return page.locator("#pf-level label").all_inner_texts()


def take_up(page, name: str, label: str) -> None:
    """Chooses an encoder and waits until the question was asked of its index."""
    choose(page, "#pf-encoder", label)
    page.locator(f".pf-stage-wrap[data-index='{name}']").wait_for()
    page.wait_for_function("() => !document.querySelector('#pf-encoder input').disabled")


# Tabs -----------------------------------------------------------------------------------------------------


def test_tabs_stand_beside_the_search_and_know_what_was_asked(page) -> None:
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Search", "Evaluation", "Compression"]
    assert page.get_by_role("tab", name="Search").get_attribute("aria-selected") == "true"
    page.get_by_role("tab", name="Evaluation").click()
    page.get_by_text("What the first tab says").wait_for()
    assert not page.locator("#pf-main").is_visible()
    page.get_by_role("tab", name="Compression").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function("() => document.querySelector('[role=tabpanel] textarea, input')")
    asked = page.get_by_label("Asked")
    expect(asked).to_have_value(re.compile("."))
    assert asked.input_value() == "nothing"
    page.get_by_role("tab", name="Search").click()
    before = first_row(page)
    page.locator(".pf-example").nth(1).click()
    wait_for_new_results(page, before)
    page.get_by_role("tab", name="Compression").click()
    page.get_by_role("button", name="Ask").click()
    page.wait_for_function("() => [...document.querySelectorAll('textarea, input')].some(e => e.value === 'quilt')")


@pytest.mark.parametrize("size", [(1280, 800), (1060, 800), (390, 844)])
def test_tabs_cover_nothing(browser, server, size) -> None:
    with visit(browser, server[0], viewport={"width": size[0], "height": size[1]}) as page:
        covered = page.evaluate(
            "() => { const tabs = [...document.querySelectorAll('[role=tab]')].map(t => t.getBoundingClientRect());"
            " const rest = [...document.querySelectorAll('.pf-head h1, .pf-head p, .pf-head nav, #pf-main')];"
            " return rest.filter(e => { const r = e.getBoundingClientRect(); return r.width && tabs.some(t =>"
            " t.left < r.right - 1 && r.left < t.right - 1 && t.top < r.bottom - 1 && r.top < t.bottom - 1); })"
            ".map(e => e.outerHTML.slice(0, 60)); }"
        )
        assert covered == []
        assert page.evaluate("() => document.documentElement.scrollWidth") <= size[0]


# Encoders -------------------------------------------------------------------------------------------------


def test_choice_names_encoder_dimension_and_licence_and_leaves_out_what_is_broken(page, server) -> None:
    page.locator("#pf-encoder input").click()
    options = page.get_by_role("option").all_inner_texts()
    assert len(options) == 5
    every = "very patch encoded separately (24-D)"
    assert f"Paper: e{every}" in [text.strip(" ✓\n") for text in options]
    assert any(re.search(rf"^\W*E{re.escape(every)} · sliding:\S+$", text) for text in options)
    assert any(text.endswith(f"E{every} · open_clip:page-clip/clip.pt · random:4,0") for text in options)
    assert "/tmp" not in " ".join(options)
    page.keyboard.press("Escape")
    said = [line for line in server[1].read_text().splitlines() if "leaves out the index" in line]
    assert len(said) == 1 and "broken" in said[0]
    page.get_by_text("What do these settings mean?").click()
    licences = page.locator(".pf-encoders td:last-child").all_inner_texts()
    assert len(licences) == 5 and "none" in licences
    assert "search with words" in page.locator(".pf-encoders > div").inner_text()


def test_question_is_asked_of_the_other_encoder_and_levels_are_its_own(page) -> None:
    before, query = first_row(page), page.locator(".pf-query-box").get_attribute("data-box")
    assert levels_shown(page) == ["Global", "L1 · 2×2", "L2 · 3×3"]
    take_up(page, "clip", "clip.pt")
    assert first_row(page) != before
    assert page.locator(".pf-query-box").get_attribute("data-box") == query
    assert levels_shown(page) == ["Global", "L1 · 2×2", "+ random:4,0"]
    assert page.locator("#pf-level label.selected").inner_text() == "+ random:4,0"
    # Its levels work, and a look into a result shows its patches.
    before = first_row(page)
    page.locator("#pf-level label", has_text="Global").click()
    wait_for_new_results(page, before)
    before = first_row(page)
    page.locator("#pf-level label", has_text="random").click()
    wait_for_new_results(page, before)
    page.locator(".pf-open").first.click()
    page.locator(".pf-modal").wait_for()
    assert page.get_by_role("button", name="random:4,0").count() == 1
    page.get_by_role("button", name="random:4,0").click()
    assert page.locator(".pf-cell:visible").count() == 4
    page.keyboard.press("Escape")
    # What comes next is asked of it too.
    before = first_row(page)
    page.locator(".pf-example").nth(1).click()
    wait_for_new_results(page, before)
    assert "clip.pt" in encoder_shown(page)
    # And back: the first answer again.
    take_up(page, "index", "Paper: every patch encoded separately (24-D)")
    before = first_row(page)
    page.locator(".pf-example").first.click()
    wait_for_new_results(page, before)
    assert levels_shown(page) == ["Global", "L1 · 2×2", "L2 · 3×3"]


def test_upload_and_its_box_go_along(page) -> None:
    before = first_row(page)
    send(page, "mine.jpg", jpeg(blobs(7, (300, 200))))
    wait_for_new_results(page, before)
    rect = page.locator(".pf-stage").bounding_box()
    before = first_row(page)
    page.mouse.move(rect["x"] + 20, rect["y"] + 20)
    page.mouse.down()
    page.mouse.move(rect["x"] + 120, rect["y"] + 90, steps=4)
    page.mouse.up()
    wait_for_new_results(page, before)
    box = page.locator(".pf-query-box").get_attribute("data-box")
    take_up(page, "clip", "clip.pt")
    assert page.locator(".pf-query-img").get_attribute("alt") == "Query: your picture"
    assert page.locator(".pf-query-box").get_attribute("data-box") == box


def test_index_of_windows_has_one_level_and_no_baseline(page) -> None:
    take_up(page, "windows", "sliding:")
    assert levels_shown(page) == ["sliding:0.5,0.5"]
    assert page.locator(".pf-num").count() == 4  # soft boxes and winning patches; no whole pictures, so no baseline
    page.locator(".pf-open").first.click()
    page.locator(".pf-modal").wait_for()
    assert page.locator(".pf-cell:visible").count() == 9
    assert "patch" in page.locator(".pf-facts").inner_text()


def test_encoder_that_cannot_be_had_is_a_notice_and_the_choice_goes_back(page) -> None:
    before, chosen = first_row(page), encoder_shown(page)
    choose(page, "#pf-encoder", "gone.pt")
    text = notice(page)
    assert "gone.pt" in text and "Traceback" not in text
    page.wait_for_function("() => !document.querySelector('#pf-encoder input').disabled")
    page.wait_for_function("(chosen) => document.querySelector('#pf-encoder input').value === chosen", arg=chosen)
    assert first_row(page) == before
    page.locator(".pf-example").nth(1).click()
    wait_for_new_results(page, before)


def test_others_search_on_while_an_encoder_is_loaded(page, browser, server, folder) -> None:
    choose(page, "#pf-encoder", "slow")
    page.get_by_text("Loading slow").wait_for()
    assert page.locator("#pf-encoder input").is_disabled()
    try:
        with visit(browser, server[0]) as other:
            before = first_row(other)
            other.locator(".pf-example").nth(1).click()
            wait_for_new_results(other, before)
        # So does the visitor who waits, with the encoder that was in use.
        before = first_row(page)
        page.locator(".pf-example").nth(1).click()
        wait_for_new_results(page, before)
        assert page.get_by_text("Loading slow").is_visible()
    finally:
        threading.Timer(0.1, (folder / "may-load").touch).start()
    page.wait_for_function("() => !document.querySelector('.pf-loading')")
    assert "· slow ·" in encoder_shown(page)
    assert levels_shown(page) == ["Global", "L1 · 2×2"]
    assert page.locator(".pf-query-img").get_attribute("alt") == "Query: quilt"


def test_choice_is_each_visitors_own(page, browser, server) -> None:
    take_up(page, "clip", "clip.pt")
    with visit(browser, server[0]) as other:
        assert encoder_shown(other) == "Paper: every patch encoded separately (24-D)"
        assert levels_shown(other) == ["Global", "L1 · 2×2", "L2 · 3×3"]
        before = first_row(other)
        other.locator(".pf-example").nth(1).click()
        wait_for_new_results(other, before)
        assert encoder_shown(other) == "Paper: every patch encoded separately (24-D)"


# Words ----------------------------------------------------------------------------------------------------


def ask_in_words(page, words: str) -> None:
    page.locator(WORDS).fill(words)
    page.locator(WORDS).press("Enter")


def test_words_are_asked_where_the_encoder_knows_them(page) -> None:
    assert page.locator(WORDS).count() == 0
    take_up(page, "clip", "clip.pt")
    assert page.locator(WORDS).is_visible()
    before = first_row(page)
    ask_in_words(page, "a <b>red</b> kettle")
    wait_for_new_results(page, before)
    assert "a <b>red</b> kettle" in page.locator(".pf-said").inner_text()
    assert page.locator(".pf-said b").count() == 0  # the visitor's text is text
    assert page.locator(".pf-stage").count() == 0
    assert "Not scored" in page.locator(".pf-strip").inner_text()
    # Said which object it is, it is scored.
    choose(page, "#pf-object", "quilt")
    page.locator(".pf-num").first.wait_for()
    # The levels, a look into a result and a search with it work as for pictures.
    before = first_row(page)
    page.locator("#pf-level label", has_text="Global").click()
    wait_for_new_results(page, before)
    page.locator(".pf-open").nth(1).click()
    page.locator(".pf-modal").wait_for()
    page.keyboard.press("Escape")
    wanted = page.locator(".pf-open").nth(1).get_attribute("data-open")
    page.locator(".pf-card").nth(1).hover()
    page.locator(".pf-again").nth(1).click()
    page.locator(".pf-stage").wait_for()
    page.wait_for_function("(id) => document.querySelector('.pf-open').dataset.open === id", arg=wanted, timeout=10_000)
    # A box can be drawn again.
    before = page.locator(".pf-query-box").get_attribute("data-box")
    page.locator(".pf-query-box").focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_function("(b) => document.querySelector('.pf-query-box').dataset.box !== b", arg=before)


@pytest.mark.parametrize(("words", "says"), [("", "no words"), ("   ", "no words"), ("kettle " * 1500, "10,500")])
def test_words_that_are_none_or_too_many_are_one_notice(page, words, says) -> None:
    take_up(page, "clip", "clip.pt")
    before = first_row(page)
    ask_in_words(page, words)
    assert says in notice(page)
    assert page.locator(".toast-body").count() == 1
    assert first_row(page) == before
    assert page.locator(".pf-stage").count() == 1


def test_words_do_not_go_along_to_an_encoder_of_pictures(page) -> None:
    take_up(page, "clip", "clip.pt")
    before = first_row(page)
    ask_in_words(page, "a kettle")
    wait_for_new_results(page, before)
    before, chosen = first_row(page), encoder_shown(page)
    choose(page, "#pf-encoder", "Paper: every patch encoded separately (24-D)")
    assert "pictures only" in notice(page)
    page.wait_for_function("() => !document.querySelector('#pf-encoder input').disabled")
    assert encoder_shown(page) == chosen
    assert first_row(page) == before
    assert "a kettle" in page.locator(".pf-said").inner_text()


# Re-ranking -----------------------------------------------------------------------------------------------


def test_points_that_agree_are_counted_drawn_and_scored(page) -> None:
    choose(page, "#pf-rerank", "SIFT")
    page.locator(".pf-inliers").first.wait_for()
    assert re.fullmatch(r"\d+ inliers?", page.locator(".pf-inliers").first.inner_text())
    inliers = int(page.locator(".pf-inliers").first.inner_text().split()[0])
    assert inliers >= 10
    assert (
        page.locator("#pf-strip tbody th").count() == 4
    )  # re-ranked, without soft boxes, before it, and whole pictures
    assert page.locator(".pf-num").count() == 8
    assert "soft box or box by points" in page.locator("#pf-strip .pf-legend").inner_text()
    page.locator(".pf-open").first.click()
    page.locator(".pf-modal").wait_for()
    assert f"{inliers} points" in page.locator(".pf-points figcaption").inner_text()
    lines = page.locator(".pf-pair .over line")
    assert lines.count() == min(inliers, 60)
    assert page.locator(".pf-pair svg").get_attribute("aria-label").startswith(f"{inliers} points")
    assert page.locator(".pf-pair img").evaluate_all("images => images.every(i => i.alt && i.naturalWidth)")
    # Lines end where the pictures are: starts on the query, ends on the result.
    inside = page.evaluate(
        "() => { const panes = [...document.querySelectorAll('.pf-pane')].map(p => p.getBoundingClientRect());"
        " return [...document.querySelectorAll('.pf-pair circle')].every((c, n) => {"
        " const r = c.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;"
        " return panes.some(p => x >= p.left - 1 && x <= p.right + 1 && y >= p.top - 1 && y <= p.bottom + 1); }); }"
    )
    assert inside
    page.get_by_label("lines").focus()
    page.keyboard.press("Space")
    assert not page.locator(".pf-pair svg").is_visible()
    page.get_by_role("button", name="3×3 grid").click()
    assert page.locator(".pf-cell:visible").count() == 9
    assert not page.locator(".pf-pair").is_visible()
    page.get_by_role("button", name="matching points").click()
    assert page.locator(".pf-pair").is_visible()
    page.keyboard.press("Escape")
    choose(page, "#pf-rerank", "none")
    page.wait_for_function("() => !document.querySelector('.pf-inliers')")
    assert page.locator(".pf-num").count() == 6


def test_points_need_a_picture(page) -> None:
    take_up(page, "clip", "clip.pt")
    before = first_row(page)
    ask_in_words(page, "a kettle")
    wait_for_new_results(page, before)
    before = first_row(page)
    choose(page, "#pf-rerank", "SIFT")
    assert "your query is words" in notice(page)
    page.wait_for_function("() => document.querySelector('#pf-rerank input').value === 'none'")
    assert first_row(page) == before


def test_no_request_leaves_the_machine(page, server) -> None:
    take_up(page, "clip", "clip.pt")
    before = first_row(page)
    ask_in_words(page, "a kettle")
    wait_for_new_results(page, before)
    assert elsewhere(page.requests, server[0]) == []
