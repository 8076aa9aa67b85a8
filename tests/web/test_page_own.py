"""A visitor's own pictures in a real Chromium, over a small gallery with an encoder that costs nothing."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from patchify_core.demo.own.gallery import PREFIX
from patchify_core.gallery import read_coco
from patchify_core.index.build import build_index
from patchify_core.regions import parse_regions
from tests.browsing import CHROMIUM, WITHOUT, choose, first_row, served, visit, wait_for_new_results
from tests.page_server import LEFT_S, write_gallery
from tests.tiny import TinyEncoder, picture, zipped

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)]

MANY = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path, Path]]:
    """A page whose visitors' pictures lie where the test can look: its address, that folder, and its gallery."""
    folder = write_gallery(tmp_path_factory.mktemp("own") / "set")
    build_index(read_coco(folder), folder / "index", TinyEncoder(), parse_regions("pyramid:3"))
    temporary = tmp_path_factory.mktemp("temporary")
    command = ["-m", "tests.page_server", str(folder), "--pause", "0.005"]
    with served(command, tmp_path_factory.mktemp("server"), environment={"TMPDIR": str(temporary)}) as (url, log):
        yield f"{url}photos", temporary, folder
        assert "Traceback" not in log.read_text()
    assert list(temporary.glob(f"{PREFIX}*")) == []  # the server was ended as a service manager ends it


@pytest.fixture
def page(server, browser):
    with visit(browser, server[0]) as page:
        page.get_by_role("tab", name="Your pictures").click()
        page.locator(".pf-drop").wait_for()
        yield page


def send(page, files: dict[str, bytes], kind: str = "files") -> None:
    page.locator(f'#pf-own [data-for="{kind}"]').set_input_files(
        [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files.items()]
    )


def said(page) -> str:
    return page.locator('#pf-own [data-is="said"]').inner_text()


def wait_until(page, words: str, seconds: float = 60) -> str:
    page.wait_for_function(
        "words => document.querySelector('#pf-own [data-is=said]').textContent.includes(words)",
        arg=words,
        timeout=1000 * seconds,
    )
    return said(page)


def wait_for_own(page, label: str) -> None:
    """Until the search shows what was found in the visitor's own pictures."""
    page.wait_for_function("l => document.querySelector('#pf-encoder input')?.value === l", arg=label, timeout=20_000)
    page.wait_for_function("() => document.querySelector('.pf-card img').getAttribute('src').startsWith('own/')")


def scenes(server) -> dict[str, bytes]:
    """The pictures of the bundled gallery, as if they were the visitor's."""
    gallery = read_coco(server[2])
    return {Path(image.file_name).name: image.path.read_bytes() for image in gallery.images}


def own_folder(server, token: str) -> Path:
    """Where one visitor's pictures lie; those of others who left are deleted when the server notices, not at once."""
    return next(server[1].glob(f"{PREFIX}*")) / token


def draw(page, box: tuple[float, float, float, float]) -> None:
    stage = page.locator(".pf-own-stage").bounding_box()
    x1, y1, x2, y2 = box
    page.mouse.move(stage["x"] + x1 * stage["width"], stage["y"] + y1 * stage["height"])
    page.mouse.down()
    page.mouse.move(stage["x"] + x2 * stage["width"], stage["y"] + y2 * stage["height"], steps=4)
    page.mouse.up()


def test_a_visit_with_own_pictures(page, server, tmp_path) -> None:
    send(page, scenes(server) | {"notes.txt": b"no picture"})
    wait_until(page, "All 8 pictures are searchable")
    assert page.locator(".pf-own-thumb").count() == 8
    assert "1 file was skipped" in page.locator(".pf-own-skipped summary").inner_text()
    # The rug lies on pictures 0, 1 and 2; the box of the first is its upper left part.
    for number, box in ((0, (0.01, 0.01, 0.37, 0.37)), (1, (0.5, 0.5, 0.87, 0.87))):
        page.locator(f'.pf-own-thumb[data-name="{number}.png"]').click()
        page.wait_for_function("n => document.querySelector('.pf-own-stage img').alt === n", arg=f"{number}.png")
        draw(page, box)
        page.locator('#pf-own [data-is="object"]').fill("rug")
        page.get_by_role("button", name="Save the box").click()
        page.locator(".pf-own-marks li", has_text="rug").wait_for()
    page.get_by_role("button", name="Score", exact=True).click()
    page.locator(".pf-own-score table").wait_for(timeout=30_000)
    cells = page.locator(".pf-own-score tbody tr").all_inner_texts()
    assert [cell.split("\t")[0] for cell in cells] == [
        "Whole pictures",
        "Patches, winning patch",
        "Patches, soft box",
    ]
    # The first one as the query, asked of all of them, with a score.
    page.locator('.pf-own-thumb[data-name="0.png"]').click()
    page.get_by_role("button", name="Search with this picture").click()
    wait_for_own(page, "your 8 pictures")
    assert page.locator("#pf-object input").input_value() == "rug"
    assert page.locator(".pf-num").count() >= 2 and "of 8 pictures" in page.locator("#pf-strip").inner_text()
    addresses = page.eval_on_selector_all(".pf-card img", "all => all.map(i => i.getAttribute('src'))")
    assert all(re.fullmatch(r"own/[\w-]{32}/picture/\d\.png", address) for address in addresses)
    page.wait_for_function("() => [...document.querySelectorAll('.pf-card img')].every(i => i.naturalWidth > 100)")
    page.locator(".pf-open").nth(1).click()
    page.locator(".pf-modal").wait_for()
    page.keyboard.press("Escape")
    # Back to the bundled gallery with the same picture, and an example of it again.
    before = first_row(page)
    choose(page, "#pf-encoder", "Paper")
    wait_for_new_results(page, before)
    assert page.eval_on_selector(".pf-card img", "i => i.getAttribute('src')").startswith("gradio_api/file=")
    assert page.locator(".pf-query-img").get_attribute("src").startswith("data:image/jpeg")
    # Both downloads.
    page.get_by_role("tab", name="Your pictures").click()
    for name in ("index", "boxes"):
        with page.expect_download() as download:
            page.locator(f'#pf-own [data-is="{name}"]').click()
        download.value.save_as(tmp_path / name)
    assert "meta.json" in zipfile.ZipFile(tmp_path / "index").namelist()
    assert json.loads((tmp_path / "boxes").read_text())["categories"] == [{"id": 1, "name": "rug"}]
    page.get_by_role("button", name="Delete everything").click()
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Delete everything").wait_for()
    page.wait_for_timeout(1500)  # the seconds are not counted any more
    assert page.locator(".pf-own-thumb").count() == 8
    token = page.evaluate("localStorage.getItem('patchify-own')")
    assert own_folder(server, token).is_dir()
    page.get_by_role("button", name="Delete everything").click()
    wait_until(page, "Everything was deleted")
    assert not own_folder(server, token).exists()
    # The index comes back, and its pictures.
    send(page, {"home.zip": (tmp_path / "index").read_bytes()}, "zip")
    page.locator(".pf-own-notice", has_text="Index restored, with 2 boxes. Now add its 8 pictures.").wait_for()
    send(page, {"again.zip": zipped(scenes(server))}, "zip")
    wait_until(page, "All 8 pictures are searchable")
    page.locator(".pf-own-thumb.is-marked").nth(1).wait_for()  # with the boxes that were drawn
    assert page.eval_on_selector_all(".is-marked", "all => all.map(t => t.title).sort()") == ["0.png", "1.png"]
    # A box that was drawn and not saved is searched with all the same.
    page.locator('.pf-own-thumb[data-name="2.png"]').click()
    page.wait_for_function("() => document.querySelector('.pf-own-stage img').alt === '2.png'")
    draw(page, (0.25, 0.25, 0.75, 0.75))
    page.get_by_role("button", name="Search with this picture").click()
    wait_for_own(page, "your 8 pictures")
    page.wait_for_function("() => document.querySelector('.pf-query-img').alt === 'Query: 2.png'")
    corners = [float(value) for value in page.locator(".pf-query-box").get_attribute("data-box").split(",")]
    assert corners == pytest.approx([80, 60, 240, 180], abs=4)


def test_a_thousand_cancelled_gone_on_with_and_gone(page, server) -> None:
    files = {}
    for seed in range(MANY):
        stream = io.BytesIO()
        picture(seed, (24, 18)).save(stream, "PNG")
        files[f"frames/{seed:04}.png"] = stream.getvalue()
    send(
        page,
        {"frames.zip": zipped(files | {"inner.zip": zipped({"a.png": b""}), "../up.png": files["frames/0000.png"]})},
        "zip",
    )
    wait_until(page, f"of {MANY} indexed")
    page.wait_for_function(
        "() => Number(document.querySelector('#pf-own [data-is=said]').textContent.match(/^(\\d+) of/)?.[1]) > 30"
    )
    page.get_by_role("button", name="Cancel").click()
    wait_until(page, "Cancelled.")
    done = int(re.search(r"(\d+) of", said(page))[1])
    assert 0 < done < MANY
    skipped = page.locator(".pf-own-skipped")
    skipped.locator("summary").click()
    assert "leads out of the archive" in skipped.inner_text() and "within the archive" in skipped.inner_text()
    page.get_by_role("button", name="Continue").click()
    wait_until(page, f"All {MANY:d} pictures are searchable", 120)
    # Loaded anew, they are still there; another visitor sees nothing of them.
    token = page.evaluate("localStorage.getItem('patchify-own')")
    page.reload()
    page.get_by_role("tab", name="Your pictures").click()
    wait_until(page, f"All {MANY:d} pictures")
    assert own_folder(server, token).is_dir()
    page.get_by_role("button", name="Delete everything").click()
    wait_until(page, "Everything was deleted")
    assert not own_folder(server, token).exists()


def test_nobody_else_sees_them_and_two_tabs_share_them(page, server, browser) -> None:
    send(page, {"a.png": scenes(server)["0.png"]})
    wait_until(page, "Your picture is searchable")
    second = page.context.new_page()
    second.goto(server[0])
    second.get_by_role("tab", name="Your pictures").click()
    wait_until(second, "Your picture is searchable")
    with visit(browser, server[0]) as stranger:
        stranger.get_by_role("tab", name="Your pictures").click()
        assert said(stranger) == "No pictures yet." and stranger.locator(".pf-own-thumb").count() == 0
        stranger.get_by_role("tab", name="Search").click()
        assert stranger.locator("#pf-encoder input").count() == 0  # there is no other index to choose
    send(second, {"b.png": scenes(server)["1.png"]})
    wait_until(second, "All 2 pictures are searchable")
    second.get_by_role("button", name="Delete everything").click()
    wait_until(second, "Everything was deleted")
    send(page, {"c.png": scenes(server)["2.png"]})  # this tab does not know yet
    page.locator(".pf-own-notice", has_text="no longer on the server").wait_for()
    second.close()


def test_pictures_deleted_while_they_are_searched_are_a_notice(page, server) -> None:
    send(page, {"a.png": scenes(server)["0.png"], "b.png": scenes(server)["1.png"]})
    wait_until(page, "All 2 pictures")
    page.get_by_role("button", name="Search them").click()
    wait_for_own(page, "your 2 pictures")
    page.get_by_role("tab", name="Your pictures").click()
    page.get_by_role("button", name="Delete everything").click()
    wait_until(page, "Everything was deleted")
    page.get_by_role("tab", name="Search").click()
    page.locator("#pf-top label", has_text="5").first.click()
    page.locator(".toast-body", has_text="no longer on the server").wait_for()
    page.get_by_role("tab", name="How it works").click()
    page.locator(".wk-wait", has_text="no longer on the server").wait_for()
    page.get_by_role("tab", name="Search").click()
    page.locator(".pf-example").first.click()  # one of theirs: the page begins anew
    page.wait_for_function("() => document.querySelector('.pf-card img').getAttribute('src').startsWith('gradio_api/')")
    assert page.locator(".pf-example").count() == 2


def test_keyboard_alone_draws_a_box(page, server) -> None:
    send(page, {"a.png": scenes(server)["0.png"]})
    wait_until(page, "Your picture")
    page.locator(".pf-own-thumb").press("Enter")
    page.locator('#pf-own [data-is="object"]').fill("rug")
    save = page.get_by_role("button", name="Save the box")
    save.press("Enter")  # there is no box yet: one is suggested
    box = page.locator(".pf-own .pf-draw-box")
    box.wait_for()
    before = box.get_attribute("style")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    assert box.get_attribute("style") != before
    save.press("Enter")
    page.locator(".pf-own-marks li", has_text="rug").wait_for()
    page.get_by_role("button", name="Remove the box of rug").press("Enter")
    page.wait_for_function("() => document.querySelectorAll('.pf-own-marks li').length === 0")


def test_a_dropped_folder_is_taken_whole(page, server) -> None:
    page.evaluate(
        """async ([one, two]) => {
          const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
          const file = (name, text) => new File([bytes(text)], name, { type: 'image/png' });
          const entry = (f) => ({ isFile: true, name: f.name, file: (ok) => ok(f) });
          let told = false;
          const folder = { isFile: false, name: 'day', createReader: () => ({ readEntries: (ok) => {
            ok(told ? [] : [entry(file('b.png', two))]); told = true; } }) };
          const event = new Event('drop', { bubbles: true, cancelable: true });
          event.dataTransfer = { types: ['Files'], files: [], items: [
            { webkitGetAsEntry: () => entry(file('a.png', one)) }, { webkitGetAsEntry: () => folder }] };
          document.querySelector('.pf-drop').dispatchEvent(event);
        }""",
        [base64.b64encode(scenes(server)[f"{n}.png"]).decode() for n in (3, 4)],
    )
    wait_until(page, "All 2 pictures")
    assert page.eval_on_selector_all(".pf-own-thumb", "all => all.map(t => t.title).sort()") == ["a.png", "day/b.png"]


def test_closing_the_page_does_not_undo_a_deletion(server, browser) -> None:
    with visit(browser, server[0]) as page:
        page.get_by_role("tab", name="Your pictures").click()
        send(page, {"a.png": scenes(server)["0.png"]})
        wait_until(page, "Your picture")
        token = page.evaluate("localStorage.getItem('patchify-own')")
        page.get_by_role("button", name="Delete everything").click()
        page.get_by_role("button", name="Undo").wait_for()
        page.close()
        deadline = time.monotonic() + LEFT_S - 1  # sooner than after a visit that just ends
        while own_folder(server, token).exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_leaving_deletes_everything(server, browser) -> None:
    with visit(browser, server[0]) as page:
        page.get_by_role("tab", name="Your pictures").click()
        send(page, {"a.png": scenes(server)["0.png"]})
        wait_until(page, "Your picture")
        token = page.evaluate("localStorage.getItem('patchify-own')")
        assert own_folder(server, token).is_dir()
        page.close()
        deadline = time.monotonic() + LEFT_S + 60
        while own_folder(server, token).exists():  # the test's server waits seconds, not a minute, for a return
            assert time.monotonic() < deadline
            time.sleep(0.2)
