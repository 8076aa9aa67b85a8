"""Several galleries on one server: each with both pages of its own, and a way from one to another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from tests.browsing import CHROMIUM, ROOT, WITHOUT, first_row, served, visit, wait_for_new_results
from tests.page_server import write_gallery

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)


@pytest.fixture(scope="module")
def url(tmp_path_factory, sample_db, lite0) -> Iterator[str]:
    """The bundled gallery, one of textures, and the same without any box."""
    folder = tmp_path_factory.mktemp("galleries")
    boxed, bare = write_gallery(folder / "Rugs & quilts"), folder / "bare"
    build_index(read_coco(boxed), boxed / "index", lite0, parse_regions("pyramid:2"))
    shutil.copytree(boxed, bare)
    data = json.loads((bare / "annotations.json").read_text(encoding="utf-8"))
    for annotation in data["annotations"]:
        del annotation["bbox"]
    data["info"] = {"description": "Textures without boxes", "license": "CC0"}
    (bare / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
    several = os.pathsep.join(map(str, (sample_db, boxed, bare)))
    with served(["app.py"], folder, environment={"PATCHIFY_GALLERY": several}) as (address, log):
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}gallery/bare/health").close()  # the last that is opened
                break
            except urllib.error.HTTPError:
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield address
        assert "Traceback" not in log.read_text()


def first_page(url: str) -> str:
    """The first page of a gallery, once its answers are computed; until then its address leads to the other page."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        with urllib.request.urlopen(url) as answer:
            if answer.url == url:
                return str(answer.read().decode())
        time.sleep(0.5)
    raise AssertionError(f"{url} leads elsewhere")


def pictures_load(page: Any) -> None:
    page.wait_for_function(
        "() => [...document.querySelectorAll(':is(.pf-card, .card) img')].slice(0, 5)"
        ".every((image) => image.complete && image.naturalWidth)"
    )


def test_the_first_pages_lead_to_each_other(browser, url):
    assert "renders (Blender" in first_page(url) and "Textures without boxes; licence: CC0" in first_page(
        f"{url}gallery/bare/"
    )
    first_page(f"{url}gallery/rugs-quilts/")
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.goto(url)
    page.get_by_role("navigation", name="Gallery").get_by_text("Rugs & quilts").click()
    page.wait_for_url(f"{url}gallery/rugs-quilts/")
    page.wait_for_selector("html.drawn")
    assert page.locator("#query-name").inner_text() in ("rug", "quilt")
    assert page.locator("#levels button").all_inner_texts() == ["Global", "2×2"]
    pictures_load(page)
    assert "2×2: 5 patches in all" in page.locator("main").inner_text()
    page.locator("#cards-patches .open").first.click()
    page.locator("#look[open]").wait_for()
    page.go_back()
    page.get_by_role("navigation", name="Gallery").get_by_text("bare").click()
    page.wait_for_selector("html.drawn")
    assert not page.locator("#sizes").is_visible() and not page.locator(".sizebar").is_visible()
    assert page.locator("#cards-patches .card.right").count() == 3
    assert "✓ match" in page.locator("#cards-patches .verdict").first.inner_text()
    assert thrown == []
    context.close()


def test_a_box_around_something_else_is_searched_by_the_papers_method(browser, url):
    """Both rankings are of the new box; Back, reload and the address lead to what they did."""
    document = json.loads(urllib.request.urlopen(f"{url}paper/paper.json").read())
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    thrown: list[str] = []
    page.on("pageerror", lambda error: thrown.append(str(error)))
    page.goto(url)
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")

    def rows() -> list[list[int]]:
        return page.evaluate(
            "() => ['whole', 'patches'].map((row) => [...document.querySelectorAll(`#cards-${row} .card`)]"
            ".map((card) => Number(card.dataset.picture)))"
        )

    before, area = rows(), page.locator("#query").bounding_box()
    page.mouse.move(area["x"] + 8, area["y"] + 60)
    page.mouse.down()
    page.mouse.move(area["x"] + 40, area["y"] + 90)
    page.mouse.move(area["x"] + 70, area["y"] + 140)
    page.mouse.up()
    page.wait_for_function("() => location.search.includes('crop=') && !document.querySelector('.waiting')")
    page.wait_for_function(
        "(old) => document.querySelector('#cards-patches .card').dataset.picture !== old", arg=str(before[1][0])
    )
    box = parse_qs(urlsplit(page.url).query)["crop"][0]
    with urllib.request.urlopen(f"{url}paper/answer?q={document['first']}&box={box}") as answer:
        entry = json.loads(answer.read())["entry"]
    expected = [[one["picture"] for one in entry["levels"][at]["results"]] for at in (0, -1)]
    assert rows() == expected
    assert not entry["known"] and page.locator("#query-name").inner_text() == "what your box shows"
    assert "no score" in page.locator("#numbers-patches").inner_text()
    page.reload()
    page.wait_for_function("() => document.querySelectorAll('#cards-patches .fit.ready').length >= 4")
    assert rows() == expected
    page.get_by_role("button", name="Back to the object").click()
    page.wait_for_function("() => !location.search.includes('crop=')")
    assert rows() == before
    page.go_back()
    page.wait_for_function("() => location.search.includes('crop=')")
    assert rows() == expected
    page.locator(".pf-draw-box").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(old) => !decodeURIComponent(location.search).includes(old)", arg=box)
    assert "q=" not in page.url  # the arrow moved the box, and chose no other example
    assert thrown == []
    context.close()


def test_each_gallery_is_searched_on_its_own_page(browser, url):
    with visit(browser, f"{url}gallery/rugs-quilts/photos") as page:
        pictures_load(page)
        assert page.locator(".pf-example").count() == 2 and "of 8 pictures" in page.locator("#pf-strip").inner_text()
        assert all("gallery/rugs-quilts/" in one for one in page.requests if "file=gallery/" in one)
        before = first_row(page)
        page.locator(".pf-example").nth(1).click()
        wait_for_new_results(page, before)
        pictures_load(page)
        with page.expect_navigation():
            page.get_by_role("navigation", name="Gallery").get_by_text("Rendered scenes").click()
        page.wait_for_selector("#pf-level[role=radiogroup]", state="attached")
        assert page.url == f"{url}photos" and "of 164 pictures" in page.locator("#pf-strip").inner_text()


def test_an_address_opens_its_own_gallery(browser, url):
    with visit(browser, f"{url}gallery/rugs-quilts/photos?q=example-10&level=1") as page:
        page.wait_for_function("() => document.querySelector('#pf-object input').value === 'quilt'")
        assert page.locator("#pf-level input:checked").input_value() == "1"


def test_where_no_box_is_annotated_there_is_no_locscore_and_no_poor_box(browser, url):
    with visit(browser, f"{url}gallery/bare/photos") as page:
        strip = page.locator("#pf-strip").inner_text()
        assert "No LocScore" in strip and "0.000" not in strip
        said = page.locator(".pf-card .pf-verdict").all_inner_texts()
        assert any("no box annotated" in one for one in said) and not any("poor box" in one for one in said)
        page.locator(".pf-open").first.click()
        page.locator(".pf-sheet").wait_for()


def test_every_tab_of_a_gallery_without_boxes_opens(browser, url):
    for tab in ("how-it-works", "your-pictures", "evaluation", "compression"):
        with visit(browser, f"{url}gallery/bare/photos?tab={tab}") as page:
            page.wait_for_timeout(1500)
            assert page.locator(".toast-body").count() == 0, page.locator(".toast-body").first.inner_text()
            assert page.locator(f"#pf-tab-{tab}").is_visible()


def test_health_names_each_gallery(url):
    for below, pictures in (("", 164), ("gallery/bare/", 8)):
        with urllib.request.urlopen(f"{url}{below}health") as answer:
            assert json.loads(answer.read())["pictures"] == pictures


@pytest.mark.parametrize("lacks", ["an index", "queries"])
def test_a_gallery_that_does_not_fit_is_refused_in_one_sentence(tmp_path, sample_db, lite0, lacks):
    folder = write_gallery(tmp_path / "half")
    if lacks == "queries":
        data = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        data["images"] = [image for image in data["images"] if image["split"] == "gallery"]
        known = {image["id"] for image in data["images"]}
        data["annotations"] = [one for one in data["annotations"] if one["image_id"] in known]
        (folder / "annotations.json").write_text(json.dumps(data), encoding="utf-8")
        build_index(read_coco(folder), folder / "index", lite0, parse_regions("pyramid:1"))
    several = os.pathsep.join([str(sample_db), str(tmp_path / "half")])
    ended = subprocess.run(
        [sys.executable, "app.py", "--port", "54321"],
        cwd=ROOT, env=os.environ | {"PATCHIFY_GALLERY": several}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 2 and "half" in ended.stderr and len(ended.stderr.strip().splitlines()) == 1
