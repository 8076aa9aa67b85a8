"""The page where it is opened: on a Space, inside another site, by an address of a classroom's network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browsing import CHROMIUM, FLAGS, WITHOUT, file_server, first_row, send, served, wait_for_new_results

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)

SPACE = "me-demo.hf.space"
ON_A_SPACE = {"SPACE_ID": "me/demo", "SPACE_HOST": SPACE, "SYSTEM": "spaces"}


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Iterator[int]:
    """The port of a server that takes itself for a Space."""
    with served(["app.py"], tmp_path_factory.mktemp("space"), environment=ON_A_SPACE) as (url, log):
        yield int(url.rstrip("/").rsplit(":", 1)[1])
        assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium for which the Space's name, and a stranger's, lead to this machine."""
    from playwright.sync_api import sync_playwright

    rules = f"--host-resolver-rules=MAP {SPACE} 127.0.0.1, MAP evil.example 127.0.0.1, MAP site.example 127.0.0.1"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules])
        yield found
        found.close()


@pytest.fixture
def site(tmp_path, space) -> Iterator[str]:
    """Another site, whose page shows the Space in a frame."""
    frame = f'<iframe src="http://{SPACE}:{space}/photos" width=1200 height=900></iframe>'
    (tmp_path / "index.html").write_text(frame, encoding="utf-8")
    with file_server(tmp_path) as port:
        yield f"http://site.example:{port}/"


def works(page: Any, picture: Path) -> None:
    """Results are there, an example can be searched, and a picture uploaded."""
    page.wait_for_selector(".pf-card img")
    page.wait_for_function("() => [...document.querySelectorAll('.pf-card img')].every(i => i.naturalWidth > 0)")
    page.wait_for_function("() => document.querySelector('#pf-results .pf-open') !== null")
    before = first_row(page)
    page.locator(".pf-example").nth(5).click()
    wait_for_new_results(page, before)
    before = first_row(page)
    send(page, "own.jpg", picture.read_bytes())
    wait_for_new_results(page, before)


PICTURE = Path(__file__).parents[2] / "sample_db" / "queries" / "C051.jpg"


def test_a_space_works_by_its_own_name(browser, space):
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{SPACE}:{space}/photos")
    works(page, PICTURE)
    context.close()


def test_the_page_works_inside_another_sites(browser, space, site):
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.goto(site)
    page.wait_for_selector("iframe")
    frame = page.frames[1]
    works(frame, PICTURE)
    context.close()


def test_a_name_that_a_stranger_leads_here_shows_nothing(browser, space):
    context = browser.new_context()
    page = context.new_page()
    answer = page.goto(f"http://evil.example:{space}/")
    assert answer.status == 403 and "PATCHIFY_HOSTS" in page.content() and page.locator(".pf-card").count() == 0
    context.close()


def test_another_sites_script_reads_nothing_from_a_local_server(browser, space, site):
    context = browser.new_context()
    page = context.new_page()
    page.goto(site)
    ask = "url => fetch(url, {credentials: 'include'}).then(r => r.text(), () => 'refused')"
    assert page.evaluate(ask, f"http://127.0.0.1:{space}/config") == "refused"
    assert page.evaluate(ask, f"http://{SPACE}:{space}/config") == "refused"  # with credentials; without, it is public
    plain = "url => fetch(url, {credentials: 'omit'}).then(r => r.status, () => 'refused')"
    assert page.evaluate(plain, f"http://{SPACE}:{space}/config") == 200
    context.close()


def own_picture_url() -> str | None:
    """This machine's address in its network, if it has one; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return None if found.startswith("127.") else found


def test_a_class_opens_it_by_the_address_of_the_teachers_machine(browser, space):
    address = own_picture_url()
    if address is None:
        pytest.skip("this machine is in no network")
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"http://{address}:{space}/photos")
    works(page, PICTURE)
    context.close()
