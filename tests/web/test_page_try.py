"""/try in a real Chromium, mostly as a phone: one photo, a tap, a few photos, two rankings."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from tests.browsing import CHROMIUM, WITHOUT, elsewhere, jpeg, served
from tests.page_server import write_gallery
from tests.tiny import TinyEncoder, picture
from tests.web.test_page_access import PHONE, QUIET, WATCH_SHIFTS, WIDE, faults

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

MOST_SHIFT = 0.05
TARGET = 44
"""Least height of what a finger shall hit, in CSS pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = write_gallery(tmp_path_factory.mktemp("try") / "set")
    build_index(read_coco(made), made / "index", TinyEncoder(), parse_regions("pyramid:3"))
    return made


@contextmanager
def serving(folder: Path, logs: Path, pause: str) -> Iterator[str]:
    command = ["-m", "tests.page_server", str(folder), "--pause", pause]
    with served(command, logs) as (url, log):
        yield f"{url}try"
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory) -> Iterator[str]:
    with serving(folder, tmp_path_factory.mktemp("server"), "0.005") as url:
        yield url


@contextmanager
def phone(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A visit of a phone, in which nothing may be thrown, no other host be asked and no address change."""
    usual: dict[str, Any] = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    context = browser.new_context(**usual | options)
    page = context.new_page()
    page.thrown, page.requests = [], []
    page.on("pageerror", lambda error: page.thrown.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.add_init_script(f"({WATCH_SHIFTS})()")
    page.goto(url)
    yield page
    assert page.thrown == [] and elsewhere(page.requests, url) == []
    context.close()


def scenes(folder: Path, names: str = "gallery") -> list[dict[str, Any]]:
    """The bundled pictures, as if they were the visitor's."""
    files = sorted((folder / names).iterdir())
    return [{"name": path.name, "mimeType": "image/png", "buffer": path.read_bytes()} for path in files]


def rug(folder: Path) -> list[dict[str, Any]]:
    """A photo of the rug, 200 x 160, the rug at 40, 35 and 120 x 90."""
    return [{"name": "rug.png", "mimeType": "image/png", "buffer": (folder / "queries" / "1.png").read_bytes()}]


def choose(page: Any, button: str, files: list[dict[str, Any]]) -> Any:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=button, exact=True).click()
    chooser.value.set_files(files)
    return chooser.value


def box_of(page: Any) -> list[float]:
    return [float(value) for value in page.locator(".pf-draw-box").get_attribute("data-box").split(",")]


def wait_for_box(page: Any) -> list[float]:
    page.wait_for_function("() => document.getElementById('hint').textContent.startsWith('Wrong object?')")
    return box_of(page)


def said(page: Any) -> str:
    return page.locator("#said").inner_text()


def wait_until(page: Any, words: str, seconds: float = 30) -> None:
    page.wait_for_function(
        "words => document.getElementById('said').textContent.includes(words)", arg=words, timeout=1000 * seconds
    )


def names(page: Any, lane: str) -> list[str]:
    return page.evaluate(f"() => [...document.querySelectorAll('#cards-{lane} .card')].map((one) => one.dataset.name)")


def query(page: Any, folder: Path) -> list[float]:
    """As far as the box around the rug."""
    choose(page, "Choose a photo", rug(folder))
    return wait_for_box(page)


def compared(page: Any, folder: Path, count: int = 5) -> None:
    """As far as the rankings."""
    query(page, folder)
    page.get_by_role("button", name="Looks right").click()
    choose(page, "Choose photos", scenes(folder)[:count])
    wait_until(page, f"All {count} photos searched")


def tap(page: Any, x: float, y: float) -> None:
    """Touches a place of the query picture, in its pixels (200 x 160)."""
    stage = page.locator("#stage").bounding_box()
    page.touchscreen.tap(stage["x"] + x / 200 * stage["width"], stage["y"] + y / 160 * stage["height"])


def small_targets(page: Any) -> list[str]:
    return page.evaluate(
        """least => [...document.querySelectorAll('button, a, .h')]
          .filter((one) => one.checkVisibility() && !one.closest('.skip'))
          .map((one) => [one.outerHTML.slice(0, 80), one.getBoundingClientRect()])
          .filter(([, box]) => box.height < least - 0.5 || box.width < least - 0.5)
          .map(([html, box]) => `${html} ${box.width} x ${box.height}`)""",
        TARGET,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_from_a_photo_to_both_rankings(browser, server, folder, scheme) -> None:
    """All steps on a phone, each free of axe's faults, of small targets and of jumps; the address stays as it is."""
    wrong: list[str] = []

    def check(where: str) -> None:
        page.evaluate(QUIET, 700)
        moved = page.evaluate("() => { const sum = window.shifts; window.shifts = 0; return sum; }")
        wrong.extend([f"{where}: the layout shifts by {moved:.3f}"] if moved > MOST_SHIFT else [])
        wrong.extend(f"{where}: {one}" for one in small_targets(page))
        wrong.extend(faults(page, f"{where}, {scheme}"))
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"], where

    with phone(browser, server, color_scheme=scheme) as page:
        check("photo")
        query(page, folder)
        check("tap")
        page.get_by_role("button", name="Looks right").click()
        check("photos")
        choose(page, "Choose photos", scenes(folder)[:5])
        wait_until(page, "All 5 photos searched")
        check("rankings")
        assert {*names(page, "whole")} == {*names(page, "patches")} and len(names(page, "whole")) == 5
        assert page.locator("#cards-patches .box").count() == 5 and page.locator("#cards-whole .box").count() == 0
        assert page.url == server and page.evaluate("() => history.length") == 2
        # Two columns beside each other, the query above them.
        whole, patches = (page.locator(f"#cards-{lane} .card").first.bounding_box() for lane in ("whole", "patches"))
        assert whole["y"] == patches["y"] and whole["x"] + whole["width"] <= patches["x"]
        page.evaluate("() => scrollTo(0, 600)")
        assert 0 <= page.locator("#thumb").bounding_box()["y"] < 20
        page.evaluate("() => scrollTo(0, 0)")
        # What contains the rug, marked in one ranking, is marked in the other, and counted.
        for name in ("0.jpg", "1.jpg", "2.jpg"):
            page.locator(f'#cards-whole [data-name="{name}"] .tick').click()
        for lane in ("whole", "patches"):
            first = len({"0.jpg", "1.jpg", "2.jpg"} & {*names(page, lane)[:3]})
            assert page.locator(f"#numbers-{lane}").inner_text() == f"{first} of 3 in the top 3"
            assert page.locator(f"#cards-{lane} .card.right").count() == 3
        page.locator("#cards-patches .open").first.click()
        page.locator("#one-said").wait_for()
        check("sheet")
        assert re.fullmatch(
            r"Whole image: similarity 0\.\d\d, rank \d\. Best patch \(\d×\d grid\): similarity \d\.\d\d, rank 1\.",
            page.locator("#one-said").inner_text(),
        )
        sheet = page.locator("#sheet").bounding_box()
        assert sheet["y"] + sheet["height"] == pytest.approx(PHONE["height"], abs=1) and sheet["x"] == 0
        assert page.locator("#scores tr").count() == 5
        page.locator("#scores .open").nth(3).click()
        assert "rank 4." in page.locator("#one-said").inner_text()
        page.go_back()  # closes the sheet, and nothing else
        page.wait_for_function("() => !document.getElementById('sheet').open")
        assert len(names(page, "patches")) == 5 and page.url == server
    assert not wrong, "\n".join(wrong)


def test_rankings_and_scores_are_those_of_the_server(browser, server, folder) -> None:
    with phone(browser, server) as page:
        answers: list[Any] = []
        page.on("response", lambda answer: answers.append(answer) if answer.url.endswith("/search") else None)
        compared(page, folder)
        found = answers[-1].json()
        assert found["indexed"] == found["total"] == 5
        for lane in ("whole", "patches"):
            assert names(page, lane) == found[lane]
        box = found["pictures"][found["patches"][0]]["box"]
        style = page.locator("#cards-patches .box").first.get_attribute("style")
        assert f"left: {100 * box[0]:.0f}" in style and f"top: {100 * box[1]:.0f}" in style
        shown = page.locator("#cards-patches .value").all_inner_texts()
        assert shown == [f"{max(found['pictures'][name]['levels']):.2f}" for name in found["patches"]]


def test_the_box_is_tapped_again_drawn_and_moved_by_finger_mouse_and_keys(browser, server, folder) -> None:
    with phone(browser, server) as page:
        first = query(page, folder)
        assert first[0] <= 100 <= first[2] and first[1] <= 80 <= first[3]  # proposed at the middle
        tap(page, 20, 20)
        page.wait_for_function(
            "before => document.querySelector('.pf-draw-box').dataset.box !== before",
            arg=",".join(f"{v:.1f}" for v in first),
        )
        second = wait_for_box(page)
        assert second[0] <= 20 <= second[2] and second[1] <= 20 <= second[3]
        # A corner is dragged by a finger.
        corner = page.locator(".pf-draw-box .se").bounding_box()
        x, y = corner["x"] + corner["width"] / 2, corner["y"] + corner["height"] / 2
        touch = page.context.new_cdp_session(page)
        for kind, points in (
            ("touchStart", [{"x": x, "y": y}]),
            ("touchMove", [{"x": x + 30, "y": y + 20}]),
            ("touchMove", [{"x": x + 60, "y": y + 40}]),
            ("touchEnd", []),
        ):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        third = box_of(page)
        assert third[:2] == second[:2] and third[2] > second[2] + 10 and third[3] > second[3] + 5
        page.wait_for_timeout(500)
        assert box_of(page) == third  # no tap was seen in it
        page.locator(".pf-draw-box").focus()
        page.keyboard.press("ArrowRight")
        assert box_of(page)[0] == pytest.approx(third[0] + 5, abs=0.2)
        page.keyboard.press("Home")
        assert box_of(page) == [0, 0, 200, 160]
        with page.expect_request(lambda request: request.url.endswith("/search")) as asked:
            page.get_by_role("button", name="Looks right").click()
            choose(page, "Choose photos", scenes(folder)[:2])
        assert json.loads(asked.value.post_data)["box"] is None
    with phone(browser, server, viewport=WIDE, has_touch=False, is_mobile=False) as page:
        assert page.get_by_role("button", name="Take a photo").count() == 0  # a computer photographs nothing
        query(page, folder)
        stage = page.locator("#stage").bounding_box()
        page.locator(".pf-draw-box").focus()
        page.keyboard.press("Home")
        page.mouse.move(stage["x"] + stage["width"] * 0.1, stage["y"] + stage["height"] * 0.1)
        page.mouse.down()
        page.mouse.move(stage["x"] + stage["width"] * 0.5, stage["y"] + stage["height"] * 0.6, steps=4)
        page.mouse.up()
        assert box_of(page) == pytest.approx([20, 16, 100, 96], abs=2)
        page.wait_for_timeout(400)
        assert box_of(page) == pytest.approx([20, 16, 100, 96], abs=2)  # a drawn box is no tap
        page.mouse.click(stage["x"] + stage["width"] * 0.9, stage["y"] + stage["height"] * 0.9)
        page.wait_for_function("() => document.querySelector('.pf-draw-box').dataset.box.split(',')[2] > 150")


def test_a_late_answer_to_an_earlier_tap_changes_nothing(browser, server, folder) -> None:
    with phone(browser, server) as page:
        query(page, folder)
        held: list[Any] = []
        page.route("**/tap", lambda route: route.continue_() if held else held.append(route))
        tap(page, 20, 20)
        while not held:
            page.wait_for_timeout(50)
        page.wait_for_timeout(200)
        tap(page, 180, 140)
        page.wait_for_function("() => document.querySelector('.pf-draw-box').dataset.box.split(',')[2] > 150")
        wait_for_box(page)
        later = box_of(page)
        assert len(held) == 1
        held[0].continue_()
        page.wait_for_timeout(800)
        assert box_of(page) == later


def test_the_camera_is_asked_for_and_photos_leave_small_and_without_location(browser, server, tmp_path) -> None:
    large = jpeg(picture(5, (2400, 1800)), orientation=6)
    assert b"Exif" in large
    with phone(browser, server) as page:
        page.evaluate(
            """() => {
              const plain = window.fetch;
              window.fetch = async (address, options) => {
                if (options?.body instanceof Blob) window.sent = [...new Uint8Array(await options.body.arrayBuffer())];
                return plain(address, options);
              };
            }"""
        )
        taken = choose(page, "Take a photo", [{"name": "IMG_1.jpg", "mimeType": "image/jpeg", "buffer": large}])
        assert taken.element.get_attribute("capture") == "environment" and not taken.is_multiple()
        page.wait_for_function("() => window.sent")
        sent = bytes(page.evaluate("() => window.sent"))
        assert b"Exif" not in sent and len(sent) < len(large)
        (tmp_path / "sent.jpg").write_bytes(sent)
        with Image.open(tmp_path / "sent.jpg") as image:
            assert image.size == (1200, 1600)  # upright, its longer side 1,600
        wait_for_box(page)
        page.get_by_role("button", name="Looks right").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose photos").click()
        assert chooser.value.is_multiple() and chooser.value.element.get_attribute("capture") is None


def test_files_that_are_no_photos_are_refused_in_a_sentence(browser, server, folder) -> None:
    bad = {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"}
    with phone(browser, server) as page:
        choose(page, "Choose a photo", [bad])
        page.locator("#notice").wait_for()
        assert page.locator("#notice").inner_text().startswith("notes.jpg: ") and "Traceback" not in page.content()
        assert page.locator("body").get_attribute("data-step") == "photo"
        query(page, folder)
        assert page.locator("#notice").is_hidden()
        page.get_by_role("button", name="Looks right").click()
        choose(page, "Choose photos", [scenes(folder)[0], bad, scenes(folder)[1]])
        wait_until(page, "All 2 photos searched")
        assert page.locator("#notice").inner_text().startswith("notes.jpg: ")
        # The same photo again is known, and no second one.
        choose(page, "Choose photos", scenes(folder)[:1])
        page.wait_for_timeout(500)
        wait_until(page, "All 2 photos searched")


def test_a_lost_session_and_one_that_is_not_there_yet(browser, server, folder) -> None:
    with phone(browser, server) as page:
        # The server has just been started: it says so, and the page tries again by itself.
        times: list[float] = []

        def starting(route: Any) -> None:
            times.append(time.monotonic())
            if len(times) < 3:
                route.fulfill(status=503, content_type="application/json", body='{"error": "The server is starting."}')
            else:
                route.continue_()

        page.route(re.compile("/own$"), starting)
        choose(page, "Choose a photo", rug(folder))
        page.locator("#notice", has_text="The server is starting.").wait_for()
        wait_for_box(page)
        assert len(times) == 3 and page.locator("#notice").is_hidden()
        # All is deleted meanwhile, as after half an hour.
        page.evaluate("() => fetch(`own/${localStorage.getItem('patchify-own')}/delete`, { method: 'POST' })")
        if page.locator("#stage").is_visible():  # or else what the page asks by itself has told it already
            tap(page, 20, 20)
        page.locator("#notice", has_text="Your photos are no longer on the server: take them again.").wait_for()
        assert page.locator("body").get_attribute("data-step") == "photo"
        assert page.evaluate("() => localStorage.getItem('patchify-own')") is None
        query(page, folder)  # and it goes on
        # No connection: one sentence, and the box stays.
        before = box_of(page)
        page.context.set_offline(True)
        tap(page, 20, 20)
        page.locator("#notice", has_text="check your connection").wait_for()
        page.context.set_offline(False)
        assert box_of(page) == before
        page.get_by_role("button", name="1 Photo").click()
        page.get_by_role("button", name="Delete them now").click()
        page.locator("#notice", has_text="Everything was deleted.").wait_for()


def test_reload_and_rotation_keep_everything(browser, server, folder) -> None:
    with phone(browser, server) as page:
        compared(page, folder, 3)
        page.locator('#cards-whole [data-name="1.jpg"] .tick').click()
        before = names(page, "patches")
        page.reload()  # as a browser does that the camera took the memory from
        wait_until(page, "All 3 photos searched")
        assert names(page, "patches") == before and page.url == server
        assert page.locator('#cards-patches [data-name="1.jpg"] .tick').get_attribute("aria-pressed") == "true"
        page.wait_for_function("() => [...document.querySelectorAll('.card img')].every((one) => one.naturalWidth > 0)")
        page.get_by_role("button", name="The object: change its box").click()
        box = box_of(page)
        for size in ({"width": 844, "height": 390}, PHONE):
            page.set_viewport_size(size)
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            page.wait_for_timeout(200)
            stage, drawn = page.locator("#stage").bounding_box(), page.locator(".pf-draw-box").bounding_box()
            assert (drawn["x"] - stage["x"]) / stage["width"] == pytest.approx(box[0] / 200, abs=0.01)
            assert drawn["height"] / stage["height"] == pytest.approx((box[3] - box[1]) / 160, abs=0.01)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]
            assert stage["height"] <= size["height"]


def test_the_full_tool_goes_on_with_the_same_pictures_and_box(browser, server, folder) -> None:
    with phone(browser, server, viewport=WIDE, has_touch=False, is_mobile=False) as page:
        compared(page, folder, 2)
        page.get_by_role("button", name="Scores").click()
        page.get_by_role("link", name="Open these in the full tool").click()
        page.locator(".pf-own-thumb").nth(2).wait_for(timeout=30_000)
        assert page.locator(".pf-own-thumb").count() == 3 and page.locator(".pf-own-thumb.is-marked").count() == 1


def test_rankings_grow_while_a_slow_server_indexes(browser, folder, tmp_path) -> None:
    """Half a second a photo: the first are ranked before the last is indexed."""
    with serving(folder, tmp_path, "0.5") as url, phone(browser, url) as page:
        page.evaluate(
            """() => {
              window.seen = [];
              new MutationObserver(() => window.seen.push(document.getElementById('said').textContent))
                .observe(document.getElementById('said'), { childList: true, characterData: true, subtree: true });
            }"""
        )
        compared(page, folder, 8)
        partly = [
            one for one in page.evaluate("() => window.seen") if re.fullmatch(r"[1-7] of [2-8] photos searched …", one)
        ]
        sent = [one for one in page.requests if "/search" in one]
        assert partly and len(sent) >= 2, page.evaluate("() => window.seen")
        assert len(names(page, "whole")) == 8
