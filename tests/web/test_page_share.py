"""Links, downloads and the page inside another page, in a real Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from patchify_core.gallery import read_coco
from tests.browsing import (
    CHROMIUM,
    ROOT,
    WITHOUT,
    choose,
    file_server,
    first_row,
    jpeg,
    notice,
    send,
    visit,
    wait_for_new_results,
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]
VISIT = {"permissions": ["clipboard-read", "clipboard-write"]}


def copied(page) -> str:
    return page.evaluate("() => navigator.clipboard.readText()")


def copy_link(page, button: str = "Copy link") -> str:
    page.evaluate("() => navigator.clipboard.writeText('')")
    page.get_by_text("Share", exact=True).click()
    page.get_by_role("button", name=button).click()
    page.locator(".pf-share-said", has_text="copied").wait_for()
    page.keyboard.press("Escape")
    return copied(page)


def shown(page, wanted: dict[str, object] | None = None) -> dict[str, object]:
    """What the page shows; where something is `wanted`, that has some seconds to come."""
    found = what_is_shown(page)
    for _ in range(50):  # Gradio puts one answer's parts on the page one after the other
        if wanted is None or found == wanted:
            break
        page.wait_for_timeout(300)
        found = what_is_shown(page)
    return found


def what_is_shown(page) -> dict[str, object]:
    """What a visitor sees: the query, every choice, every result with its box, the scores."""
    return page.evaluate(
        "() => ({ query: document.querySelector('.pf-query-img').alt,"
        " box: document.querySelector('.pf-query-box').dataset.box,"
        " level: document.querySelector('#pf-level label.selected').innerText,"
        " top: document.querySelector('#pf-top label.selected').innerText,"
        " fields: [...document.querySelectorAll('#pf-encoder input, #pf-box-choice input, #pf-rerank input,"
        " #pf-object input')].map(i => i.value),"
        " boxes: [...document.querySelectorAll('.pf-card .pf-box')].map(b => b.style.cssText),"
        " cards: document.querySelector('.pf-cards').innerText, strip: document.querySelector('.pf-strip').innerText })"
    )


def opened(browser, link: str, **options):
    """A visit that waits until the link is opened."""
    return visit(browser, link, **options)


def wait_until_opened(page) -> None:
    page.wait_for_function("() => !document.documentElement.classList.contains('pf-opening')")
    page.wait_for_timeout(300)


# Links ------------------------------------------------------------------------------------------------------


def test_link_reopens_query_options_and_result(page, browser) -> None:
    before = first_row(page)
    page.locator(".pf-example").nth(4).click()
    wait_for_new_results(page, before)
    before = first_row(page)
    page.locator(".pf-query-box").focus()
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_timeout(500)
    wait_for_new_results(page, before)
    before = first_row(page)
    page.locator("#pf-level label", has_text="L2").click()
    wait_for_new_results(page, before)
    choose(page, "#pf-box-choice", "Soft")
    page.locator(".pf-strip", has_text="Soft boxes").wait_for()
    page.locator("#pf-top label", has_text="20").click()
    page.wait_for_function("() => document.querySelectorAll('.pf-card').length === 20")
    choose(page, "#pf-rerank", "query expansion")
    page.locator(".pf-strip", has_text="Re-ranked").wait_for()
    link, seen = copy_link(page), shown(page)
    with opened(browser, link) as other:
        wait_until_opened(other)
        assert shown(other, seen) == seen
    # From the large view, the link opens that view.
    page.locator(".pf-open").nth(2).click()
    page.locator(".pf-modal").wait_for()
    page.locator(".pf-facts").get_by_role("button", name="Copy link").click()
    page.locator(".pf-facts .pf-share-said", has_text="copied").wait_for()
    facts = page.locator(".pf-facts > p").all_inner_texts()[:2]
    with opened(browser, copied(page)) as other:
        other.get_by_role("heading", name="Result 3").wait_for()
        assert other.locator(".pf-facts > p").all_inner_texts()[:2] == facts
        assert shown(other)["cards"] == seen["cards"]
        # Closed, the page goes on from there.
        other.keyboard.press("Escape")
        before = first_row(other)
        other.locator(".pf-example").nth(1).click()
        wait_for_new_results(other, before)


def test_link_reopens_a_result_that_asks_and_another_index(page, browser) -> None:
    before = first_row(page)
    choose(page, "#pf-encoder", "Paper: every patch encoded separately")
    wait_for_new_results(page, before)
    before = first_row(page)
    page.locator(".pf-card").nth(2).hover()
    page.locator(".pf-again").nth(2).click()
    wait_for_new_results(page, before)
    link, seen = copy_link(page), shown(page)
    assert parse_qs(urlsplit(link).query)["index"] == ["index"] and "q=picture-" in link and "look" not in link
    with opened(browser, link) as other:
        wait_until_opened(other)
        other.wait_for_function("(all) => document.querySelector('.pf-cards').innerText === all", arg=seen["cards"])
        again = shown(other)
        # The box that asks is written to a thousandth of a pixel; those that are found may move as little.
        boxes, boxes_seen = (
            np.array(re.findall(r"[\d.]+(?=%)", str(one.pop("boxes"))), float) for one in (again, seen)
        )
        np.testing.assert_allclose(boxes, boxes_seen, atol=0.05)
        assert again == seen
        assert "the query itself" in other.locator(".pf-verdict").first.inner_text()


def test_own_picture_has_no_link_but_downloads(page) -> None:
    before = first_row(page)
    photo = Image.open(next(read_coco(ROOT / "sample_db").queries[5].path for _ in "x")).convert("RGB")
    send(page, "mine.jpg", jpeg(photo.resize((320, 240))))
    wait_for_new_results(page, before)
    page.get_by_text("Share", exact=True).click()
    assert not page.get_by_role("button", name="Copy link").is_visible()  # what cannot be had is not offered
    assert "have no link" in page.locator("#pf-share").inner_text()
    with page.expect_download() as arriving:
        page.get_by_role("button", name="Vector (SVG)").click()
    svg = ET.parse(arriving.value.path()).getroot()
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}image"))) == 11


@pytest.mark.parametrize(
    ("query", "says", "cards"),
    [
        ("q=example-999999&top=5", "its query picture no longer exists", 5),
        ("q=picture-999999", "its query picture no longer exists", 10),
        ("look=999999", "not among the results", 10),
        ("level=77&top=5", "its level is not one of 1 to 4", 5),
        ("index=nonesuch&boxes=map&top=5", "no such method", 5),
        ("q=example-193&box=90000,1,90010,9&top=5", "outside the picture", 5),
        ("words=a+red+kettle", "its method cannot search with words", 10),
        ("q=<img src=x onerror=thrown()>&object=<script>thrown()</script>&tab=nowhere", "not one of this page", 10),
        ("q=" + "A" * 10_000, "too long", 10),
    ],
)
def test_what_is_wrong_with_a_link_is_one_notice(server, browser, query, says, cards) -> None:
    with opened(browser, f"{server}?{query}") as page:
        text = notice(page)
        assert says in text and "Part of this link does not work" in text
        assert page.locator(".toast-body").count() == 1
        assert page.locator(".toast-body img, .toast-body script").count() == 0
        wait_until_opened(page)
        assert page.locator(".pf-card").count() == cards
        assert page.locator(".pf-query-img").get_attribute("alt") == "Query: birthday cake"


def test_link_opens_a_tab_and_a_plain_page_asks_for_nothing(server, browser, page) -> None:
    asked = [url for url in page.requests if "queue/join" in url]
    assert asked == []  # the first view is there without a word to the server
    with opened(browser, f"{server}?q=example-193&tab=evaluation") as other:
        other.locator(".pf-trials").wait_for()
        assert other.get_by_role("tab", name="Evaluation").get_attribute("aria-selected") == "true"


def test_without_leave_to_write_the_clipboard_the_link_stands_selected(server, browser) -> None:
    with visit(browser, server) as page:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }")
        page.get_by_text("Share", exact=True).click()
        page.get_by_role("button", name="Copy link").click()
        page.locator(".pf-share-said", has_text="Ctrl+C").wait_for()
        assert page.evaluate("() => getSelection().toString()").startswith(f"{server}?q=example-")


# Files ------------------------------------------------------------------------------------------------------


def test_files_hold_what_is_shown(page) -> None:
    page.get_by_text("Share", exact=True).click()
    texts, names = {}, {}
    for kind, label in (("csv", "CSV"), ("json", "JSON"), ("svg", "Vector (SVG)"), ("png", "Picture (PNG)")):
        with page.expect_download() as arriving:
            page.get_by_role("button", name=label).click()
        names[kind], texts[kind] = arriving.value.suggested_filename, Path(arriving.value.path()).read_bytes()
        page.locator("#pf-share .pf-share-said", has_text="saved").wait_for()
    assert names == {kind: f"patchify-birthday-cake.{kind}" for kind in names}
    scores = page.locator(".pf-score").all_inner_texts()
    rows = list(csv.DictReader(io.StringIO(texts["csv"].decode("utf-8-sig"))))
    assert [f"{float(row['score']):.3f}" for row in rows] == scores
    data = json.loads(texts["json"])
    assert [f"{result['score']:.3f}" for result in data["results"]] == scores
    numbers = page.locator(".pf-num").all_inner_texts()
    assert f"{data['scores']['shown']['locscore']:.3f}" == numbers[1]
    assert data["index"]["encoder"] == "effnet-lite0" and data["question"]["object"] == "birthday cake"
    svg = ET.fromstring(texts["svg"])
    words = [node.text for node in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert set(scores) <= set(words) and "birthday cake" in words
    with Image.open(io.BytesIO(texts["png"])) as picture:
        assert picture.size == (1920, 1080)
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    green, paper = np.array([0x1F, 0xBF, 0x6B]), np.array([0xF7, 0xF6, 0xF3])
    assert (np.abs(pixels - green).max(1) < 3).sum() > 2000  # boxes that are right
    assert 0.1 < (np.abs(pixels - paper).max(1) < 3).mean() < 0.6  # the rest is pictures, which did arrive
    assert len(np.unique(pixels[::7], axis=0)) > 5000


def test_bibtex_is_copied(page) -> None:
    page.get_by_role("button", name="Copy BibTeX").click()
    page.get_by_text("Copied.", exact=True).wait_for()
    assert re.match(r"@inproceedings\{choi2026patchwise,\n  title ", copied(page))


# Inside another page ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def website(tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """Somebody else's website: a folder and its address."""
    folder = tmp_path_factory.mktemp("website")
    with file_server(folder) as port:
        yield folder, f"http://localhost:{port}/"


@pytest.mark.parametrize(("width", "columns"), [(900, 4), (390, 2)])
def test_embedded_in_a_website(page, browser, website, width, columns) -> None:
    before = first_row(page)
    page.locator(".pf-example").nth(3).click()
    wait_for_new_results(page, before)
    asked = shown(page)
    code = copy_link(page, "Copy embed code").replace('width="100%"', f'width="{width}"')
    folder, address = website
    (folder / "index.html").write_text(f"<!doctype html><title>Ours</title><body style='margin:0'>{code}")
    context = browser.new_context(viewport={"width": width, "height": 620}, color_scheme="light")
    outside = context.new_page()
    outside.goto(address)
    frame = outside.frame_locator("iframe")
    frame.locator(".pf-example[aria-pressed=true]").nth(0).wait_for()
    inner = outside.frames[1]
    inner.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=asked["query"])
    inner.wait_for_function("(cards) => document.querySelector('.pf-cards').innerText === cards", arg=asked["cards"])
    for gone in ("#pf-header", "#pf-foot", "#pf-below", "#pf-options", "#pf-strip", "[role=tablist]", ".pf-share"):
        assert not frame.locator(gone).first.is_visible(), gone
    assert inner.evaluate("() => document.documentElement.scrollWidth") <= width
    tops = [card["y"] for card in (frame.locator(".pf-card").nth(n).bounding_box() for n in range(6))]
    assert sum(abs(top - tops[0]) < 2 for top in tops) == columns
    # What is asked there goes along to the whole page.
    way_out = frame.get_by_role("link", name="Open in Patchify")
    frame.locator(".pf-example").nth(1).click()
    inner.wait_for_function("(cards) => document.querySelector('.pf-cards').innerText !== cards", arg=asked["cards"])
    name = inner.locator(".pf-query-img").get_attribute("alt")
    chosen = frame.locator(".pf-example").nth(1).get_attribute("data-example")
    inner.wait_for_function(f"() => location.search.includes('q=example-{chosen}&')")  # a moment later
    outside.wait_for_timeout(100)
    with context.expect_page() as opening:
        way_out.click()
    assert f"q=example-{chosen}&" in opening.value.url and "embed" not in opening.value.url
    opening.value.locator(".pf-head").wait_for()
    opening.value.wait_for_function("(name) => document.querySelector('.pf-query-img')?.alt === name", arg=name)
    context.close()


def test_theme_is_the_systems_until_chosen_and_then_kept(server, browser) -> None:
    dark = "() => document.body.classList.contains('dark')"
    context = browser.new_context(color_scheme="dark", viewport={"width": 1280, "height": 800})
    page = context.new_page()
    for address, expected in (("", True), ("?theme=light", False), ("", True)):
        page.goto(server + address)
        page.wait_for_selector(".pf-card img")
        assert page.evaluate(dark) is expected, address
    page.get_by_role("button", name="Switch between light and dark").click()
    assert not page.evaluate(dark)
    page.emulate_media(color_scheme="light")
    page.emulate_media(color_scheme="dark")
    assert not page.evaluate(dark)
    page.reload()
    page.wait_for_selector(".pf-card img")
    assert not page.evaluate(dark)
    context.close()
