"""The Evaluation and Compression tabs in a real Chromium, over the bundled gallery and study files that are known."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchify_core.evaluation.study.experiments import STUDIES
from patchify_core.gallery import read_coco
from tests.browsing import CHROMIUM, ROOT, WITHOUT, choose, elsewhere, first_row, served, visit, wait_for_new_results
from tests.study_files import write_studies

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    write_studies(folder, read_coco(ROOT / "sample_db"))
    return folder


@pytest.fixture(scope="module")
def server(files, tmp_path_factory) -> Iterator[str]:
    with served(["-m", "tests.tabs_server", str(files)], tmp_path_factory.mktemp("server")) as (url, _):
        yield f"{url}photos"


@pytest.fixture
def page(server, browser):
    with visit(browser, server) as page:
        yield page


def open_evaluation(page) -> None:
    page.get_by_role("tab", name="Evaluation").click()
    page.locator(".pf-look").wait_for()


def open_compression(page) -> None:
    page.get_by_role("tab", name="Compression").click()
    page.get_by_text("Ready:").wait_for(timeout=60_000)


def shown(page, column: str) -> list[str]:
    cells = page.locator(f".pf-trials tbody tr:not([hidden]) {column}")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.v)")


# Evaluation -------------------------------------------------------------------------------------------------


def test_sorted_by_keyboard_and_by_pointer(page) -> None:
    assert page.locator(".pf-trials").count() == 0  # the first view waits for nothing of this
    open_evaluation(page)
    edge = page.locator(".pf-lab .pf-scroll").bounding_box()  # both scores are seen without scrolling sideways
    for column in ("map", "locscore"):
        rect = page.locator(f"th[data-column={column}]").bounding_box()
        assert rect["x"] + rect["width"] < edge["x"] + edge["width"]
    head = page.locator("th[data-column=map]")
    assert head.get_attribute("aria-sort") == "descending"
    values = [float(v) for v in shown(page, ".is-map")]
    assert len(values) == 6 and values == sorted(values, reverse=True)
    assert float(page.locator("td.is-map.is-best").get_attribute("data-v")) == values[0]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(v) for v in shown(page, ".is-map")] == sorted(values)
    assert page.evaluate("() => document.activeElement.closest('th').dataset.column") == "map"
    page.locator("th[data-column=encoder] button").click()
    assert shown(page, ".is-encoder") == ["effnet-lite0"] * 5 + ["effnet-lite1"]
    assert head.get_attribute("aria-sort") == "none"
    # The charts have the same rows in the same order, and a line where the baseline is.
    bars = page.locator(".pf-hchart").first.locator(".pf-hbar b").all_inner_texts()
    assert bars == [f"{float(v):.3f}" for v in shown(page, ".is-map")]
    assert page.locator(".pf-hbar s").count() == 12
    assert "0.300" in page.locator(".pf-hchart .pf-note").first.inner_text()


def test_filtered_by_experiment_by_words_and_by_gallery(page) -> None:
    open_evaluation(page)
    page.locator("[data-filter=study]").select_option("encoders")
    assert page.locator(".pf-count").inner_text() == "3 of 6 configurations"
    assert page.locator("[data-filter=study] option").all_inner_texts() == ["all", "Encoders", "Compression"]
    page.locator("[data-filter=words]").fill("LITE1")
    assert shown(page, ".is-encoder") == ["effnet-lite1"]
    page.locator("[data-filter=words]").fill("no such thing")
    page.get_by_text("No configuration matches").wait_for()
    assert page.locator(".pf-hbar").count() == 0
    page.locator("[data-filter=words]").fill("")
    page.locator("[data-filter=study]").select_option("")
    page.locator(".pf-lab .pf-seg").get_by_text("elsewhere", exact=False).first.click()
    page.get_by_text("pictures of elsewhere are not shipped").wait_for()
    assert page.locator(".pf-count").inner_text() == "6 of 6 configurations"
    assert page.locator(".pf-look .pf-failure").count() == 0
    assert "<b>car</b>" in page.locator(".pf-objects").inner_text()


def test_row_is_looked_into_and_compared(page) -> None:
    open_evaluation(page)
    assert "better" in page.locator(".pf-versus").inner_text()  # than its global baseline
    pick = page.locator(".pf-pick[aria-label*='PQ16x4']:visible")
    pick.focus()
    page.keyboard.press("Enter")
    page.locator(".pf-look h2", has_text="coded in 8 bytes").wait_for()
    assert pick.get_attribute("aria-pressed") == "true"
    assert page.locator(".pf-pick[aria-pressed=true]").count() == 1
    assert "seeds averaged" in page.locator(".pf-numbers").inner_text()
    other = "Grids up to 4×4 · 128 numbers, coded in 64 bytes · uniform codebook · effnet-lite0"
    page.locator("[data-do=compare]").select_option(label=other)
    page.get_by_text("Both have the same mAP").wait_for()  # the test's files give both the same numbers
    assert page.evaluate("() => document.activeElement.dataset.do") == "compare"
    # It is still there when the tab is opened again.
    page.get_by_role("tab", name="Search").click()
    page.get_by_role("tab", name="Evaluation").click()
    page.wait_for_timeout(500)
    assert "coded in 8 bytes" in page.locator(".pf-look h2").inner_text()
    scores = [float(v) for v in page.locator(".pf-objects td:nth-child(2) .pf-val").all_inner_texts()]
    assert len(scores) == 36 and scores == sorted(scores)


def test_failures_of_a_configuration_are_shown_as_pictures(page) -> None:
    open_evaluation(page)
    failure = page.locator(".pf-look .pf-failure").nth(1)
    failure.scroll_into_view_if_needed()
    page.wait_for_function("() => document.querySelectorAll('.pf-look .pf-failure img')[3].naturalWidth > 0")
    assert re.search(r"contains|correct|match", failure.inner_text())
    assert failure.locator(".pf-box").count() == 2


def test_table_and_files_are_downloaded_and_what_is_missing_is_said(page, files, tmp_path) -> None:
    open_evaluation(page)
    said = page.locator(".pf-sources .is-missing").all_inner_texts()
    assert len(said) == len(STUDIES) - 2  # `write_studies` writes two of them
    assert "study regions sample_db --json assets/study/regions.json" in said[0]
    assert "was not written by" in said[1]
    page.get_by_text("What could not be measured").click()
    assert "Too few patches to train on." in page.locator(".pf-sources").inner_text()
    page.locator("[data-filter=study]").select_option("compression")
    with page.expect_download() as download:
        page.get_by_role("button", name="Table as CSV").click()
    download.value.save_as(tmp_path / "table.csv")
    assert download.value.suggested_filename == "patchify-sample_db.csv"
    rows = list(csv.DictReader(open(tmp_path / "table.csv", newline="")))
    assert [row["kept"] for row in rows] == shown(page, ".is-kept")
    assert {row["kept"] for row in rows} == {"Flat", "PCAH128,PQ64", "PCAH128,PQ64x4", "PCAH128,PQ16x4"}
    assert [row["map"] for row in rows] == shown(page, ".is-map")
    with page.expect_download() as download:
        page.get_by_role("link", name="compression.json").click()
    download.value.save_as(tmp_path / "file.json")
    assert json.loads((tmp_path / "file.json").read_text()) == json.loads((files / "compression.json").read_text())


# Compression ------------------------------------------------------------------------------------------------


def test_size_changes_results_charts_and_arithmetic(page) -> None:
    before = first_row(page)
    choose(page, "#pf-encoder", "Paper: every patch encoded separately")
    wait_for_new_results(page, before)
    before = first_row(page)
    page.locator(".pf-example").nth(7).click()
    wait_for_new_results(page, before)
    name = page.locator(".pf-query-img").get_attribute("alt").removeprefix("Query: ")
    ap = page.locator(".pf-num").first.inner_text()
    order = [int(v) for v in page.locator(".pf-open").evaluate_all("cards => cards.map(c => c.dataset.open)")]
    open_compression(page)
    effect = page.locator(".pf-effect")
    assert f"Your query: {name}" in effect.inner_text()
    assert f"AP {ap}" in effect.inner_text()  # what was shipped is what the Search tab searches
    minis = page.locator(".pf-minis").first.locator(".pf-mini").evaluate_all("all => all.map(m => +m.dataset.image)")
    assert minis == order
    assert "10,000,000 × 30 × 32 B" in page.locator(".pf-millions").inner_text()
    text, marks = effect.inner_text(), page.locator(".pf-mark").first.get_attribute("x1")
    page.locator("input[name=pf-bytes]:checked").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.get_by_text("Ready: 8 bytes").wait_for(timeout=60_000)
    assert effect.inner_text() != text
    assert page.locator(".pf-mark").first.get_attribute("x1") != marks
    assert "10,000,000 × 30 × 8 B" in page.locator(".pf-millions").inner_text()
    assert page.evaluate("() => document.activeElement.name") == "pf-bytes"
    # Exact: nothing changes, and there is no codebook to choose.
    page.get_by_text("5,120", exact=True).first.click()
    page.get_by_text("Ready: 5,120 bytes per patch.").wait_for(timeout=60_000)
    assert "same, in the same order" in effect.inner_text()
    assert page.locator(".is-books").evaluate("books => books.disabled")


def test_the_first_index_is_coded_already_so_the_papers_is_tried_on(page) -> None:
    open_compression(page)
    assert "bytes per patch (Paper: every patch encoded separately)" in page.locator(".pf-effect").inner_text()
    assert page.get_by_text("5,120", exact=True).first.is_visible()


def test_codebook_that_cannot_be_trained_is_one_sentence(page) -> None:
    open_compression(page)
    page.locator(".is-books").get_by_text("global").click()
    page.get_by_text("Ready: 32 bytes per patch, global codebook").wait_for(timeout=60_000)
    page.locator(".is-sizes").get_by_text("64", exact=True).click()
    page.get_by_text(re.compile("needs at least 256 patches to train on")).wait_for(timeout=20_000)
    page.locator(".is-sizes").get_by_text("16", exact=True).click()
    page.get_by_text("Ready: 16 bytes per patch, global codebook").wait_for(timeout=60_000)


def test_training_is_cancelled_and_others_search_meanwhile(page, browser, server) -> None:
    open_compression(page)
    page.locator(".is-sizes").get_by_text("64", exact=True).click()  # the slowest
    page.get_by_role("button", name="Cancel").click(timeout=20_000)
    page.get_by_text("The training was cancelled. Still shown: 32 bytes").wait_for()
    assert page.locator("input[name=pf-bytes]:checked").get_attribute("value") == "PCAH128,PQ64x4"
    assert page.locator(".pf-effect h4").nth(1).inner_text() == "32 bytes per patch, uniform codebook"
    with visit(browser, server) as other:  # what FAISS has begun goes on for some seconds, beside the searches
        before = first_row(other)
        other.locator(".pf-example").nth(3).click()
        wait_for_new_results(other, before)


def test_phone_dark_and_no_request_leaves(browser, server) -> None:
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
    with visit(browser, server, **options) as page:
        open_evaluation(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert page.locator(".pf-trials td.is-locscore:visible").first.bounding_box()["x"] < 340
        open_compression(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
        assert elsewhere(page.requests, server) == []
