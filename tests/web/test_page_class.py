"""What a class is given, in a real Chromium: the guess, the exercise, the full screen, pages to print."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from patchify_core import Patchify
from patchify_core.gallery import read_coco
from tests.browsing import CHROMIUM, ROOT, WITHOUT, first_row, jpeg, send, visit, wait_for_new_results
from tests.page_server import blobs
from tests.walking import cell, data, looked_at, open_walk, part, signed, turned
from tests.web.test_page_access import faults

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


def winner(page) -> int:
    return data(page, "winners")[int(page.locator(".pf-walk").get_attribute("data-level")) - 1]


def show_grid_of(page, patch: int) -> None:
    stage = next(n for n, end in enumerate(data(page, "ends"), 1) if patch < end)
    page.locator(f"[data-grid-of='{stage}']").click()


def nothing_given_away(page) -> None:
    """Neither what is seen nor what a screen reader says of a patch has a similarity, or tells the winner."""
    panel = page.locator(".wk-panel:visible")
    assert not re.search(r"[01]\.\d\d", panel.inner_text())
    assert "similarity" not in cell(page, winner(page)).get_attribute("aria-label")
    assert page.locator(".wk-bars").is_hidden() and page.locator(".wk-winbox").is_hidden()
    assert page.locator(".is-winner").count() == 0


def test_class_guesses_with_hints_and_nothing_is_given_away(page) -> None:
    open_walk(page, 2)
    nothing_given_away(page)  # before anybody guesses, too
    page.get_by_role("button", name="Let the class guess").click()
    nothing_given_away(page)
    for step in (3, 4, 5, 6):  # they would tell
        assert page.locator(f".wk-tab[data-step='{step}']").is_disabled()
    assert page.get_by_role("button", name="Next", exact=True).is_disabled()
    best, scores = winner(page), data(page, "scores")
    said = page.locator(".wk-outcome")
    wrong = [number for number in (14, 15, 16, 17) if number != best][:3]
    page.get_by_role("button", name="4×4 grid", exact=True).click()
    cell(page, wrong[0]).click()
    assert f"its similarity is {signed(scores[wrong[0]])}; the best patch’s is higher." in said.inner_text()
    assert "grid" not in said.inner_text() and page.locator(".wk-winbox").is_hidden()
    assert cell(page, wrong[0]).locator("b").is_visible()  # its number, and no other one
    assert page.locator(".wk-cell b:visible").count() == 1
    cell(page, wrong[1]).click()
    assert re.search(r"size of the patch is right|a patch of the", said.inner_text())
    cell(page, wrong[2]).click()
    assert re.search(r"further|same middle", said.inner_text())
    assert page.locator(".wk-winbox").is_hidden() and page.locator(".is-winner").count() == 0
    show_grid_of(page, best)
    cell(page, best).focus()
    page.keyboard.press("Enter")
    assert said.inner_text() == "✓ Right, after 3 wrong guesses."
    assert page.locator(".wk-winbox").is_visible()
    assert page.locator(".wk-tab[aria-selected=true]").get_attribute("data-step") == "4"
    assert page.locator(".wk-tab[data-step='6']").is_enabled()
    # On the next picture the answer is hidden again, and comes when it is asked for.
    turned(page, lambda: page.get_by_role("button", name="Next result").click())
    nothing_given_away(page)
    page.get_by_role("button", name="Show the answer").click()
    assert page.locator(".wk-winbox").is_visible()
    page.get_by_role("button", name="Guess again").click()
    nothing_given_away(page)


def test_exercise_has_several_queries_and_counts_what_was_guessed(page) -> None:
    open_walk(page)
    part(page, "exercise")
    chips = page.locator(".wk-task")
    assert chips.count() >= 5
    assert {label.split()[1] for label in chips.all_inner_texts()} == {"easy", "medium", "hard"}
    nothing_given_away(page)
    best = winner(page)
    show_grid_of(page, best)
    cell(page, best).click()
    assert page.locator(".wk-outcome").inner_text() == "✓ Right at once."
    assert page.locator(".wk-solved").inner_text() == f"1 of {chips.count()} guessed"
    # The numbers are the library's for that query and picture.
    engine, gallery = Patchify.open(ROOT / "sample_db" / "index"), read_coco(ROOT / "sample_db")
    name = re.search("“(.*)”", page.locator(".wk-question h3").text_content())[1]
    query = next(q for q in gallery.queries if gallery.name(q.instance) == name)
    why = engine.explain(engine.describe_query(query.path, query.box), looked_at(page))
    assert data(page, "scores") == pytest.approx([float(score) for score in why.scores], abs=1e-6)
    lead = float(why.scores.max()) - sorted(float(score) for score in why.scores)[-2]
    assert f"The next best patch is {lead:.3f} behind." in page.locator(".wk-panel").inner_text()
    turned(page, lambda: page.get_by_role("button", name="Next query").click())
    nothing_given_away(page)
    page.get_by_role("button", name="Show the answer").click()
    assert page.locator(".wk-winbox").is_visible()
    assert page.locator(".wk-solved").inner_text() == f"1 of {chips.count()} guessed"  # shown is not guessed
    turned(page, lambda: chips.last.click())
    assert page.get_by_role("button", name="Next query").is_disabled()
    # The visitor's own query is where it was.
    part(page, "steps")
    page.get_by_role("heading", name="How “birthday cake” is found").wait_for()


def test_full_screen_has_large_letters_and_a_presenters_keys(page) -> None:
    open_walk(page, 2)
    size = "() => parseFloat(getComputedStyle(document.querySelector('.wk-say:not([hidden])')).fontSize)"
    before, keys = page.evaluate(size), page.locator(".wk-keys")
    assert keys.is_hidden()
    page.get_by_role("button", name="Full screen").click()
    keys.wait_for()
    assert page.evaluate(size) >= 1.3 * before
    area = page.locator("#pf-walk").bounding_box()
    assert (area["x"], area["y"], area["width"]) == (0, 0, page.evaluate("() => innerWidth"))
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    step = page.locator(".wk-tab[aria-selected=true]")
    for key, number in (("ArrowRight", 3), ("PageDown", 4), ("ArrowRight", 5), ("ArrowLeft", 4), ("PageUp", 3)):
        page.keyboard.press(key)
        expect(step).to_have_attribute("data-step", str(number))
    page.keyboard.press("2")
    assert page.locator("[data-grid-of='2']").get_attribute("aria-pressed") == "true"
    image = looked_at(page)
    turned(page, lambda: page.keyboard.press("ArrowDown"))
    assert looked_at(page) != image and keys.is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("g")
    nothing_given_away(page)
    page.keyboard.press("ArrowRight")
    expect(step).to_have_attribute("data-step", "2")  # not before it is guessed or shown
    page.keyboard.press("s")
    expect(step).to_have_attribute("data-step", "4")
    page.keyboard.press("Escape")
    expect(keys).to_be_hidden()
    assert page.get_by_role("tab", name="Search").is_visible()
    # In the exercise the arrows turn the queries.
    part(page, "exercise")
    page.get_by_role("button", name="Full screen").click()
    turned(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.locator(".wk-task[aria-pressed=true] b").inner_text() == "2"
    page.get_by_role("button", name="Leave full screen").click()
    expect(keys).to_be_hidden()


def test_plan_is_on_the_page_and_on_one_printed_page(page) -> None:
    open_walk(page)
    part(page, "plan")
    rows = page.locator(".wk-plantable tbody tr")
    assert rows.first.locator("th").inner_text().startswith("0–") and rows.last.locator("th").inner_text().endswith(
        "–45"
    )
    paper = printed(page, "Print the plan")
    assert paper.locator("tbody tr").count() == rows.count()
    assert paper.locator("tbody").inner_text() == page.locator(".wk-plantable tbody").inner_text()
    one_page(paper)
    paper.close()
    page.get_by_role("link", name="Open this query").click()
    page.locator(".wk-tab[aria-selected=true]").wait_for()
    assert data(page, "ends") == [1, 5, 14, 30]


def printed(page, name: str):
    """The window that a button opens, with its page; the browser was asked to print it."""
    page.context.add_init_script("window.print = () => { window.asked = true; }")  # there is nobody to choose a printer
    with page.context.expect_page() as opened:
        page.get_by_role("button", name=name).click()
    paper = opened.value
    paper.locator("h1").wait_for()
    paper.wait_for_function("() => window.asked")
    return paper


def one_page(paper) -> None:
    """It is one A4 page when it is printed."""
    assert paper.evaluate("() => [...document.images].every(image => image.naturalWidth > 0)")
    made = paper.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", made)) == 1
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", made)
    assert (float(box[1]), float(box[2])) == (pytest.approx(595.3, abs=1), pytest.approx(841.9, abs=1))  # A4 in points


@pytest.mark.parametrize("example", [0, 7, 20])
def test_handout_is_one_page_of_the_query_at_hand(page, example) -> None:
    before = first_row(page)
    if example:
        page.locator(".pf-example").nth(example).click()
        wait_for_new_results(page, before)
    name = page.locator(".pf-query-img").get_attribute("alt").removeprefix("Query: ")
    open_walk(page, 6)
    total = page.locator(".wk-total:visible").inner_text()
    paper = printed(page, "Print handout")
    assert paper.get_by_role("heading", name=f"One real query: {name}").count() == 1
    assert paper.locator("tfoot td").first.inner_text() == total
    one_page(paper)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_parts_for_a_class_are_accessible(browser, server, scheme) -> None:
    with visit(browser, server, color_scheme=scheme) as page:
        open_walk(page, 2)
        page.get_by_role("button", name="Let the class guess").click()
        cell(page, 14 if winner(page) != 14 else 15).click()
        wrong = faults(page, "guess")
        part(page, "exercise")
        wrong += faults(page, "exercise")
        page.get_by_role("button", name="Full screen").click()
        page.locator(".wk-keys").wait_for()
        wrong += faults(page, "full screen")
        page.get_by_role("button", name="Show the answer").click()
        wrong += faults(page, "answer")
        page.get_by_role("button", name="Leave full screen").click()
        part(page, "plan")
        wrong += faults(page, "plan")
        assert wrong == [], "\n".join(wrong)


def test_handout_of_an_own_picture_is_one_page_too(page) -> None:
    before = first_row(page)
    send(page, "mine.jpg", jpeg(blobs(7, (300, 500))))
    wait_for_new_results(page, before)
    open_walk(page)
    paper = printed(page, "Print handout")
    assert "nothing to add up" in paper.locator("main").inner_text()
    one_page(paper)


def test_first_handout_has_an_address_as_ever(browser, server) -> None:
    paper = browser.new_page()
    paper.goto(server.replace("photos", "handout"))
    assert paper.get_by_role("heading", name="One real query: birthday cake").count() == 1
    one_page(paper)
    paper.close()
