"""The page in a real Chromium: what a visitor does, and what must then be on the screen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchify_core.gallery import read_coco
from tests.browsing import (
    CHROMIUM,
    ROOT,
    WITHOUT,
    choose,
    elsewhere,
    first_row,
    is_quiet,
    is_ready,
    jpeg,
    notice,
    send,
    wait_for_new_results,
)

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]


def query_box(page) -> list[float]:
    return [float(v) for v in page.locator(".pf-query-box").get_attribute("data-box").split(",")]


def stage_size(page) -> tuple[int, int]:
    stage = page.locator(".pf-stage")
    return int(stage.get_attribute("data-width")), int(stage.get_attribute("data-height"))


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drags from `start` to `end`, both as shares of the query picture."""
    rect = page.locator(".pf-stage").bounding_box()
    points = [(rect["x"] + x * rect["width"], rect["y"] + y * rect["height"]) for x, y in (start, end)]
    page.mouse.move(*points[0])
    page.mouse.down()
    page.mouse.move(*points[1], steps=6)
    page.mouse.up()


def query_file(name: str) -> Path:
    gallery = read_coco(ROOT / "sample_db")
    return next(q.path for q in gallery.queries if gallery.name(q.instance) == name)


def test_first_view_is_complete_without_scrolling(page) -> None:
    assert page.locator(".pf-card").count() == 10
    fits = page.evaluate(
        "() => [...document.querySelectorAll('.pf-card, .pf-strip, #pf-query, #pf-level, .pf-head')]"
        ".every(e => { const r = e.getBoundingClientRect(); return r.top >= 0 && r.bottom <= 800; })"
    )
    assert fits
    # Every result says its verdict in words, not by colour alone.
    words = page.locator(".pf-verdict").all_inner_texts()
    assert len(words) == 10
    assert all(re.search(r"match, good box|match, poor box|wrong object", w) for w in words)
    # Every picture has really arrived.
    page.wait_for_function("() => [...document.querySelectorAll('.pf-card img')].every(i => i.naturalWidth === 640)")


def test_no_request_leaves_the_machine(page, server) -> None:
    page.locator(".pf-example").nth(3).click()
    page.wait_for_timeout(1000)
    foreign = elsewhere(page.requests, server)
    assert foreign == []


def test_example_is_searched_and_scored(page) -> None:
    before = first_row(page)
    page.locator(".pf-example").nth(4).click()
    wait_for_new_results(page, before)
    assert page.locator(".pf-example").nth(4).get_attribute("aria-pressed") == "true"
    numbers = [float(v) for v in page.locator(".pf-num").all_inner_texts()]
    assert len(numbers) == 6
    ap, locscore, winning_ap, winning_locscore, base_ap, base_locscore = numbers
    assert 0 <= locscore <= ap <= 1
    assert winning_ap == ap and winning_locscore <= ap
    assert 0 <= base_locscore <= base_ap <= 1


def boxes_shown(page, kind: str) -> list[list[float]]:
    """Picture and xyxy in its pixels of one box of that kind on every card."""
    return page.evaluate(
        "(kind) => [...document.querySelectorAll('.pf-card')].map(card => {"
        " const p = card.querySelector('.pf-pic').getBoundingClientRect();"
        " const b = card.querySelector(kind).getBoundingClientRect();"
        " return [Number(card.querySelector('[data-open]').dataset.open), (b.left-p.left)/p.width*640,"
        " (b.top-p.top)/p.height*480, (b.right-p.left)/p.width*640, (b.bottom-p.top)/p.height*480]; })",
        kind,
    )


def test_boxes_lie_where_the_index_says(page) -> None:
    from patchify_core import Patchify

    gallery = read_coco(ROOT / "sample_db")
    name = page.locator(".pf-example").first.get_attribute("title")
    query = next(q for q in gallery.queries if gallery.name(q.instance) == name)
    engine = Patchify.open(ROOT / "sample_db" / "indexes" / "pooled")
    plain = engine.search(query.path, query.box, 10)
    refined = engine.search(query.path, query.box, 10, refine="map")
    for kind, matches in ((".pf-patch", plain), (".pf-box:not(.pf-other)", refined)):
        shown = boxes_shown(page, kind)
        assert [row[0] for row in shown] == [match.image_id for match in matches]
        # A card is some 160 px wide, so a screen pixel is four of the picture.
        np.testing.assert_allclose([row[1:] for row in shown], [match.box for match in matches], atol=4)
    choose(page, "#pf-box-choice", "Winning patch")
    page.wait_for_function("() => !document.querySelector('.pf-card .pf-patch')")
    shown = boxes_shown(page, ".pf-box")
    np.testing.assert_allclose([row[1:] for row in shown], [match.box for match in plain], atol=4)
    # The paper's own way, one pass per patch, has the same ranking as the index on the disk.
    before = first_row(page)
    choose(page, "#pf-encoder", "Paper: every patch encoded separately")
    wait_for_new_results(page, before)
    paper = Patchify.open(ROOT / "sample_db" / "index", engine.encoder).search(query.path, query.box, 10)
    shown = boxes_shown(page, ".pf-box")
    assert [row[0] for row in shown] == [match.image_id for match in paper]
    np.testing.assert_allclose([row[1:] for row in shown], [match.box for match in paper], atol=4)
    assert page.locator("#pf-box-choice input").input_value() == "Winning patch"


def test_box_is_chosen_scored_and_what_an_index_lacks_is_a_notice(page) -> None:
    refined = [float(v) for v in page.locator(".pf-num").all_inner_texts()]
    choose(page, "#pf-box-choice", "Soft")
    page.wait_for_function("() => document.querySelector('.pf-strip').innerText.includes('Soft boxes')")
    soft = [float(v) for v in page.locator(".pf-num").all_inner_texts()]
    assert soft[2:] == refined[2:] and soft[0] == refined[0]
    assert refined[1] > soft[1] > soft[3]  # LocScore: refined, soft, winning patches
    choose(page, "#pf-box-choice", "Refined")
    page.wait_for_function("() => document.querySelector('.pf-strip').innerText.includes('Refined boxes')")
    before = first_row(page)
    choose(page, "#pf-encoder", "Paper: every patch encoded separately")
    wait_for_new_results(page, before)
    page.wait_for_function("() => document.querySelector('#pf-box-choice input').value.startsWith('Soft')")
    choose(page, "#pf-box-choice", "Refined")
    assert "Fast: one pass per picture" in notice(page)
    page.wait_for_function("() => document.querySelector('#pf-box-choice input').value.startsWith('Soft')")
    before = first_row(page)
    choose(page, "#pf-encoder", "Fast: one pass per picture")
    wait_for_new_results(page, before)
    page.wait_for_function("() => document.querySelector('#pf-box-choice input').value.startsWith('Refined')")
    assert [float(v) for v in page.locator(".pf-num").all_inner_texts()] == refined


def test_similarity_map_fades_in_the_browser_alone(page) -> None:
    page.locator(".pf-open").nth(1).click()
    layer, slider = page.locator(".pf-heat"), page.locator("[data-do=opacity]")
    layer.wait_for()
    assert layer.evaluate("i => i.naturalWidth") == 240
    assert re.search(r"matches best .+, with 0\.\d\d", layer.get_attribute("alt"))
    cover = page.evaluate(
        "() => ['.pf-heat', '.pf-big .pf-pic'].map(s => document.querySelector(s).getBoundingClientRect().toJSON())"
    )
    assert cover[0] == cover[1]
    assert page.locator(".pf-cell:visible").count() == 0
    is_quiet(page)
    asked = len(page.requests)
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")  # moves the slider, not to another result
    assert page.get_by_role("heading", name="Result 2").is_visible()
    assert float(layer.evaluate("i => getComputedStyle(i).opacity")) == pytest.approx(0.5)
    assert len(page.requests) == asked
    page.get_by_label("winning patch").uncheck()
    assert not page.locator(".pf-big .pf-patch").is_visible()
    page.get_by_role("button", name="4×4 grid").click()
    assert not layer.is_visible() and not slider.is_visible()
    page.get_by_role("button", name="Next result").click()
    page.get_by_role("heading", name="Result 3").wait_for()
    assert float(layer.evaluate("i => getComputedStyle(i).opacity")) == pytest.approx(0.5)  # as it was left
    for _ in range(20):
        page.keyboard.press("Tab")
        assert page.evaluate("() => Boolean(document.activeElement.closest('.pf-modal'))")


def test_level_is_a_live_control(page) -> None:
    choose(page, "#pf-box-choice", "Winning patch")
    page.wait_for_function("() => !document.querySelector('.pf-card .pf-patch')")
    before = first_row(page)
    page.locator("#pf-level label", has_text="Global").click()
    wait_for_new_results(page, before)
    # By whole pictures, every box is the whole picture.
    assert page.evaluate(
        "() => [...document.querySelectorAll('.pf-card .pf-box')].every(b => b.style.width === '100%')"
    )
    numbers = page.locator(".pf-num").all_inner_texts()
    assert numbers[:2] == numbers[2:]
    before = first_row(page)
    page.locator("#pf-level label", has_text="L1").click()
    wait_for_new_results(page, before)
    assert set(page.locator(".pf-card .pf-box").evaluate_all("bs => bs.map(b => b.style.width)")) <= {"100%", "50%"}


def test_number_of_results(page) -> None:
    page.locator("#pf-top label", has_text="20").click()
    page.wait_for_function("() => document.querySelectorAll('.pf-card').length === 20")
    assert page.locator(".pf-rank").last.inner_text() == "20"


def test_drawn_box_is_searched_in_pixels_of_the_picture(page) -> None:
    before = first_row(page)
    drag(page, (0.02, 0.05), (0.12, 0.25))
    wait_for_new_results(page, before)
    width, height = stage_size(page)
    np.testing.assert_allclose(
        query_box(page), [0.02 * width, 0.05 * height, 0.12 * width, 0.25 * height], atol=0.01 * width
    )
    # Dragging the box itself moves it and keeps its size; what leaves the picture is stopped at its edge.
    before, old = first_row(page), query_box(page)
    drag(page, (0.07, 0.15), (0.57, 0.45))
    wait_for_new_results(page, before)
    moved = query_box(page)
    np.testing.assert_allclose([moved[2] - moved[0], moved[3] - moved[1]], [old[2] - old[0], old[3] - old[1]], atol=1)
    assert moved[0] - old[0] == pytest.approx(0.5 * width, abs=0.01 * width)
    before = first_row(page)
    page.get_by_role("button", name="Whole picture").click()
    wait_for_new_results(page, before)
    assert query_box(page) == [0, 0, width, height]
    # A click that draws nothing changes nothing.
    rect = page.locator(".pf-stage").bounding_box()
    page.mouse.click(rect["x"] + 20, rect["y"] + 20)
    page.wait_for_timeout(500)
    assert query_box(page) == [0, 0, width, height]


def test_box_by_keyboard(page) -> None:
    before, old = first_row(page), query_box(page)
    page.locator(".pf-query-box").focus()
    page.keyboard.press("ArrowLeft")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(600)
    wait_for_new_results(page, before)
    width, _ = stage_size(page)
    step = width / 40
    np.testing.assert_allclose(query_box(page), [old[0] - step, old[1], old[2] + 2 * step, old[3]], atol=0.2)


def test_phone_photo_with_exif_rotation(page) -> None:
    """A portrait photo that a phone stored lying down: shown upright, and the box means upright pixels."""
    upright = Image.open(query_file("soccer ball")).convert("RGB").crop((100, 0, 560, 480)).resize((1500, 2000))
    lying = upright.transpose(Image.Transpose.ROTATE_90)  # orientation 6 turns it back
    before = first_row(page)
    send(page, "phone.jpg", jpeg(lying, orientation=6))
    wait_for_new_results(page, before)
    assert stage_size(page) == (1500, 2000)
    rect = page.locator(".pf-stage").bounding_box()
    assert rect["width"] / rect["height"] == pytest.approx(0.75, abs=0.01)
    assert "Not scored" in page.locator(".pf-strip").inner_text()
    assert page.locator(".pf-card.v-unknown").count() == 10
    # The picture on the screen is upright: its top left corner has the colour of the upright picture's.
    shown = page.evaluate(
        "() => { const i = document.querySelector('.pf-query-img'); const c = document.createElement('canvas');"
        " c.width = 30; c.height = 40; const x = c.getContext('2d'); x.drawImage(i, 0, 0, 30, 40);"
        " return [...x.getImageData(0, 0, 30, 40).data].filter((_, n) => n % 4 < 3); }"
    )
    expected = np.asarray(upright.resize((30, 40)), float).ravel()
    assert np.abs(np.array(shown) - expected).mean() < 12
    # A box round the ball, in upright pixels, finds the ball first; said which object it is, it is scored.
    before = first_row(page)
    drag(page, (0.08, 0.08), (0.92, 0.9))
    wait_for_new_results(page, before)
    np.testing.assert_allclose(query_box(page), [120, 160, 1380, 1800], atol=20)
    before = first_row(page)
    page.locator("#pf-object input").click()
    page.get_by_role("option", name="soccer ball").click()
    wait_for_new_results(page, before)
    assert "match" in page.locator(".pf-verdict").first.inner_text()
    ap = float(page.locator(".pf-num").first.inner_text())
    assert ap > 0.5


def test_result_looked_into(page) -> None:
    page.locator(".pf-open").nth(1).click()
    modal = page.locator(".pf-modal")
    modal.wait_for()
    assert "Result 2" in modal.inner_text()
    # The numbers of all 30 cells are there; the winner has the largest, and it is the card's score.
    texts = page.locator(".pf-cell b").evaluate_all("bs => bs.map(b => b.textContent)")
    scores = [float(text.replace("−", "-")) for text in texts]
    assert len(scores) == 30
    winner = float(page.locator(".pf-cell.is-winner b").evaluate("b => b.textContent"))
    assert winner == max(scores)
    assert winner == pytest.approx(float(page.locator(".pf-score").nth(1).inner_text()), abs=0.006)
    page.get_by_role("button", name="4×4 grid").click()
    assert page.locator(".pf-cell:visible").count() == 16
    page.get_by_role("button", name="3×3 grid").click()
    assert page.locator(".pf-cell:visible").count() == 9
    assert page.locator(".pf-true").count() >= 1
    page.get_by_label("similarities").uncheck()
    assert page.locator(".pf-cell:visible").count() == 0
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="Result 3").wait_for()
    page.keyboard.press("Escape")
    modal.wait_for(state="detached")
    # Focus goes back to the card that the view showed last.
    assert page.evaluate("() => document.activeElement.closest('.pf-card').querySelector('.pf-rank').innerText") == "3"
    # It opens again after it was closed.
    page.locator(".pf-open").nth(2).click()
    page.get_by_role("heading", name="Result 3").wait_for()


def test_result_becomes_the_query_and_comes_first(page) -> None:
    wanted = page.locator(".pf-open").nth(2).get_attribute("data-open")
    before = first_row(page)
    page.locator(".pf-card").nth(2).hover()
    page.locator(".pf-again").nth(2).click()
    wait_for_new_results(page, before)
    assert page.locator(".pf-open").first.get_attribute("data-open") == wanted
    scores = [float(score) for score in page.locator(".pf-score").all_inner_texts()]
    assert scores[0] > 0.7 and scores[0] > scores[1]
    assert "the query itself" in page.locator(".pf-verdict").first.inner_text()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("notes.jpg", b"these are only words, not pixels\n" * 20, "picture"),
        ("empty.jpg", b"", "empty"),
        ("drawing.svg", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "SVG"),
        ("half.jpg", None, "cut short|truncated|incomplete|damaged"),
    ],
)
def test_bad_upload_is_a_notice_and_nothing_is_lost(page, name, data, says) -> None:
    if data is None:
        whole = jpeg(Image.open(query_file("toaster")).convert("RGB"))
        data = whole[: len(whole) // 2]
    before, box = first_row(page), query_box(page)
    send(page, name, data)
    toast = page.locator(".toast-body, [data-testid=toast-body]").first
    toast.wait_for()
    text = toast.inner_text()
    assert re.search(says, text, re.IGNORECASE), text
    assert "Traceback" not in text
    assert (first_row(page), query_box(page)) == (before, box)
    # The page still works.
    page.locator(".pf-example").nth(5).click()
    wait_for_new_results(page, before)


def test_two_visitors_do_not_meet(page, browser, server) -> None:
    other = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    other.goto(server)
    other.wait_for_selector(".pf-card img")
    theirs = first_row(other)
    before = first_row(page)
    send(page, "mine.jpg", jpeg(Image.open(query_file("hamburger")).convert("RGB")))
    wait_for_new_results(page, before)
    other.locator("#pf-top label", has_text="5").first.click()
    other.wait_for_function("() => document.querySelectorAll('.pf-card').length === 5")
    assert first_row(other) in theirs
    assert "data:image" not in other.locator("#pf-query").inner_html()
    other.context.close()


def test_phone_and_dark(browser, server) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, color_scheme="dark")
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector(".pf-card img")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert max(int(v) for v in re.findall(r"\d+", background)[:3]) < 60
    # A finger can look into a result.
    page.locator(".pf-open").first.tap()
    page.locator(".pf-modal").wait_for()
    assert page.evaluate("() => document.querySelector('.pf-sheet').getBoundingClientRect().width") <= 390
    context.close()


def test_locscore_is_explained_where_it_is_shown(page) -> None:
    page.get_by_text("What is LocScore?").click()
    text = page.locator(".pf-what:not(.pf-encoders) > div").inner_text()
    assert "precision" in text
    assert "0.14" in text
    box = page.locator(".pf-what:not(.pf-encoders) > div").bounding_box()
    assert box["y"] + box["height"] <= 800


def test_port_that_is_taken_is_one_sentence(server) -> None:
    port = server.rsplit(":", 1)[1].partition("/")[0]
    run = subprocess.run(
        [sys.executable, "app.py", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert run.returncode == 2
    assert "another --port" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("port", ["0", "65536", "99999999"])
def test_port_that_cannot_be_is_one_sentence(port) -> None:
    run = subprocess.run(
        [sys.executable, "app.py", "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 2
    assert run.stderr.startswith(f"error: There is no port {port}")


# Fast hands -----------------------------------------------------------------------------------------------


def test_the_last_of_many_fast_clicks_is_what_stays(page) -> None:
    for number in (2, 6, 4):
        page.locator(".pf-example").nth(number).click(no_wait_after=True)
    page.locator("#pf-level label", has_text="Global").click()
    name = page.locator(".pf-example").nth(4).get_attribute("title")
    page.wait_for_function("(name) => document.querySelector('.pf-query-img').alt === 'Query: ' + name", arg=name)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.pf-card .pf-patch')].every(b => b.style.width === '100%')"
    )
    page.wait_for_timeout(700)  # nothing older comes after
    assert page.locator(".pf-query-img").get_attribute("alt") == f"Query: {name}"
    assert page.locator("#pf-object input").input_value() == name
    assert "L0, 1 patch" in page.locator(".pf-strip").inner_text()


def test_the_last_click_stays_on_a_line_that_delays_the_one_before(page) -> None:
    page.add_init_script("""
        const plain = window.fetch.bind(window);
        window.fetch = async (what, options) => {
          const wait = String(what?.url ?? what).includes('/queue/join') ? window.delays?.shift() : 0;
          if (wait) await new Promise((done) => setTimeout(done, wait));
          return plain(what, options);
        };
    """)
    page.reload()
    is_ready(page)
    is_quiet(page)
    page.evaluate("() => { window.delays = [1000]; }")
    for number in (2, 6):
        page.locator(".pf-example").nth(number).click(no_wait_after=True)
    name = page.locator(".pf-example").nth(6).get_attribute("title")
    page.wait_for_function("(name) => document.querySelector('.pf-query-img').alt === 'Query: ' + name", arg=name)
    page.wait_for_timeout(1500)  # nothing older comes after
    assert page.locator(".pf-query-img").get_attribute("alt") == f"Query: {name}"


def test_answers_to_older_boxes_do_not_take_back_newer_ones(page) -> None:
    width, old = stage_size(page)[0], query_box(page)
    page.locator(".pf-query-box").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(390)  # just after the page has asked, before it is answered
    page.wait_for_timeout(2000)
    assert query_box(page)[0] - old[0] == pytest.approx(5 * width / 40, abs=0.5)


# Camera, clipboard, drop ----------------------------------------------------------------------------------


def test_camera_is_seen_as_long_as_it_is_on(page) -> None:
    live = "() => document.querySelector('.pf-camera video').srcObject.getTracks().some(t => t.readyState === 'live')"
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take picture").wait_for()
    before = first_row(page)
    page.locator(".pf-example").nth(5).click()
    wait_for_new_results(page, before)
    assert page.locator(".pf-camera").is_visible()
    assert page.evaluate(live)
    page.wait_for_function("() => document.querySelector('.pf-camera video').videoWidth > 0")
    before = first_row(page)
    page.get_by_role("button", name="Take picture").click()
    wait_for_new_results(page, before)
    assert page.locator(".pf-query-img").get_attribute("alt") == "Query: your picture"
    assert not page.locator(".pf-camera").is_visible()
    assert not page.evaluate(live)


def test_camera_that_is_not_there_is_a_notice(page) -> None:
    page.evaluate("() => { navigator.mediaDevices.getUserMedia = async () => { throw new Error('none'); }; }")
    page.get_by_role("button", name="Camera").click()
    assert "The camera cannot be used" in notice(page)


def test_file_dropped_anywhere_becomes_the_query(page) -> None:
    before = first_row(page)
    prevented = page.evaluate(
        "async () => { const c = document.createElement('canvas'); c.width = 90; c.height = 60;"
        " c.getContext('2d').fillRect(0, 0, 40, 40);"
        " const blob = await new Promise(done => c.toBlob(done, 'image/png')); const data = new DataTransfer();"
        " data.items.add(new File([blob], 'a.png', { type: 'image/png' }));"
        " return ['dragover', 'drop'].map(kind => !document.querySelector('.pf-foot').dispatchEvent("
        "new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }))); }"
    )
    assert prevented == [True, True]  # else the browser would leave the page for the file
    wait_for_new_results(page, before)
    assert stage_size(page) == (90, 60)


def test_upload_does_not_stay_on_the_disk(page, uploads) -> None:
    before = first_row(page)
    send(page, "gone-after-reading.jpg", jpeg(Image.open(query_file("radio")).convert("RGB")))
    wait_for_new_results(page, before)
    assert list(uploads.iterdir())  # it did come through here
    assert not list(uploads.rglob("gone-after-reading*"))


# Keyboard, and windows of every size ----------------------------------------------------------------------


def test_options_are_one_stop_each_with_arrow_keys_inside(page) -> None:
    before = first_row(page)
    page.locator("#pf-level input:checked").focus()
    page.keyboard.press("ArrowLeft")
    wait_for_new_results(page, before)
    assert page.locator("#pf-level label.selected").inner_text() == "L2 · 3×3"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('.block').id") == "pf-rerank"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.closest('fieldset').id") == "pf-top"
    assert page.get_by_role("radiogroup", name="Pyramid: finest grid").count() == 1


def test_focus_is_not_lost_when_the_view_searches(page) -> None:
    page.locator(".pf-open").nth(1).click()
    page.locator(".pf-modal").wait_for()
    before = first_row(page)
    page.get_by_role("button", name="Search with this box").focus()
    page.keyboard.press("Enter")
    wait_for_new_results(page, before)
    page.wait_for_function("() => document.activeElement.matches('.pf-open')")


@pytest.mark.parametrize("size", [(1366, 620), (1120, 800), (900, 700), (740, 900), (320, 640)])
def test_every_window_shows_all_of_it_in_its_shape(browser, server, size) -> None:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]})
    page = context.new_page()
    page.goto(server)
    page.wait_for_selector(".pf-card img")
    assert page.get_by_text("What is LocScore?").is_visible()
    beyond = page.evaluate(
        "() => [...document.querySelectorAll('#pf-main *')]"
        ".filter(e => !e.closest('.pf-examples, .pf-sr, .pf-stage, .pf-what'))"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className)"
    )
    assert beyond == []
    page.locator(".pf-open").first.click()
    page.locator(".pf-modal").wait_for()
    rect = page.locator(".pf-big .pf-pic").bounding_box()
    assert rect["width"] / rect["height"] == pytest.approx(4 / 3, abs=0.01)
    context.close()


# What a stranger may send ---------------------------------------------------------------------------------


def event(data: object):
    import gradio as gr

    return gr.EventData(None, data)


@pytest.mark.parametrize("data", [None, 5, [1], {}, {"id": None}, {"id": "7"}, {"id": [7]}, {"id": 1.5}])
def test_events_without_a_number_are_refused(data) -> None:
    from patchify_core.errors import PatchifyError
    from patchify_core.web.events import event_picture

    with pytest.raises(PatchifyError, match="no picture number"):
        event_picture(event(data))


@pytest.mark.parametrize("path", [None, 5, {"a": 1}, "", "/etc/hostname", "upload/../../x", "\0", "x" * 5000, "upload"])
def test_only_uploads_are_taken(path, tmp_path, monkeypatch) -> None:
    from patchify_core.errors import PictureError
    from patchify_core.web import uploads

    monkeypatch.setattr(uploads, "get_upload_folder", lambda: str(tmp_path / "upload"))
    (tmp_path / "upload").mkdir()
    (tmp_path / "x").write_bytes(b"not for the page")
    if isinstance(path, str) and path:
        path = str(tmp_path / path)
    with pytest.raises(PictureError, match="did not arrive"):
        uploads.take_upload(path)
    assert (tmp_path / "x").exists()


@pytest.mark.parametrize("box", ["abc", {"x": 1}, [], [[]], 0, [1, 2, 3], ["a"] * 4, [10**400, 1, 2, 3], [None] * 4])
def test_crafted_boxes_are_refused(box) -> None:
    from patchify_core.demo.example_gallery import ExampleGallery
    from patchify_core.demo.queries import UserQuery
    from patchify_core.demo.storage import StoredPicture
    from patchify_core.errors import BoxError

    query = UserQuery("a picture", 64, 48, None, None, np.zeros(4, np.float32), data=StoredPicture(b""))
    with pytest.raises(BoxError):
        ExampleGallery.with_box(None, query, box)  # type: ignore[arg-type]  # refused before anything is looked up


def test_forgotten_question_is_not_answered_with_another(monkeypatch) -> None:
    """The server forgets a visitor in the end; their page must not go on about the first example."""
    from patchify_core.web import events

    said: list[str] = []
    monkeypatch.setattr(events.gr, "Warning", lambda text, **_: said.append(text))
    nothing = events.gr.skip()
    guard = events.Guard("first", lambda query: query, {"level": "component"})
    handler = guard.values(lambda asked: [asked.query, asked.level, asked.expired])
    assert handler(None, 4, 10, "none", "patch", False) == ["first", 4, False]
    assert handler("mine", 4, 10, "none", "patch", True) == ["mine", 4, False]
    assert said == []
    assert handler(None, 4, 10, "none", "patch", True) == nothing
    assert "no longer has your query" in said[0]
    # An example or an upload asks anew, and what else was chosen is known to be forgotten too.
    anew = guard.values(lambda asked: [asked.query, asked.level, asked.expired], anew=True)
    assert anew(None, 4, 10, "none", "patch", True) == ["first", 4, True]
    # Options that the page does not have.
    assert handler("mine", None, 10, "none", "patch", True) == nothing
    # What must go back to what it was says so itself.
    back = guard.values(lambda asked: None, otherwise=lambda query: [query, "back"])
    assert back("mine", 4, 10, None, None, True) == ["mine", "back"]
    assert guard.values(lambda asked: {"level": asked.level})("mine", 4, 10, None, None, True) == {"component": 4}


def test_a_box_round_another_object_is_not_scored_as_the_old_one(page) -> None:
    before = first_row(page)
    drag(page, (0.02, 0.03), (0.15, 0.2))  # the cake's own box lies elsewhere
    wait_for_new_results(page, before)
    assert "Not scored" in page.locator(".pf-strip").inner_text()
    assert page.locator("#pf-object input").input_value() == "I don't know (no score)"


def test_one_photo_sent_by_two_visitors_at_once_reaches_both(page, browser, server) -> None:
    other = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    other.goto(server)
    other.wait_for_selector(".pf-card img")
    photo = jpeg(Image.open(query_file("gift box")).convert("RGB"))
    before = first_row(page)
    for one in (page, other):  # both uploads are on their way before either is answered
        send(one, "handout.jpg", photo)
    for one in (page, other):
        wait_for_new_results(one, before)
        assert "Not scored" in one.locator(".pf-strip").inner_text()
    other.context.close()
