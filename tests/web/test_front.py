"""web.front, without a browser: the HTML, its parts, old addresses, and the folder of plain files."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from patchify_core.demo.gallery_info import FILE, stored_answers
from patchify_core.errors import PatchifyError
from patchify_core.web.front import DESCRIPTION, PARTS, TITLE, WAITING_OF_ONE, Front, page, sample, write_showcase


@pytest.fixture(scope="module")
def document(sample_db):
    return stored_answers(sample_db)


def client(folder: Path, root: str = "", code: str = "") -> TestClient:
    return TestClient(Starlette(routes=Front(folder, root, code).routes()), follow_redirects=False)


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def test_the_first_view_is_in_the_page(sample_db, document):
    answer = client(sample_db).get("/")
    assert answer.status_code == 200 and len(answer.content) < 60_000
    data = data_of(answer.text)
    assert [one["id"] for one in data["examples"]] == [document["first"]]
    assert data["examples"][0] == next(one for one in document["examples"] if one["id"] == document["first"])
    assert f"<title>{TITLE}</title>" in answer.text and f'"og:description" content="{DESCRIPTION}"' in answer.text
    assert 'og:image" content="http://testserver/paper/preview.jpg"' in answer.text
    assert "whole-image search misses small objects" in answer.text.lower()
    other = document["examples"][5]["id"]
    assert [one["id"] for one in data_of(client(sample_db).get(f"/?q=example-{other}").text)["examples"]] == [other]
    for unknown in ("example-0", "example-99999999", "nothing", "<script>"):
        shown = client(sample_db).get("/", params={"q": unknown})
        assert [one["id"] for one in data_of(shown.text)["examples"]] == [document["first"]]
        assert "<script>alert" not in shown.text


def test_what_a_gallery_is_called_cannot_leave_its_place(document):
    """Names are strangers' text in PATCHIFY_GALLERY: neither markup nor the end of the script."""
    evil = '</script><img src=x onerror="alert(1)">'
    first = document["examples"][0] | {"name": evil}
    html = page(document | {"examples": [first], "first": first["id"], "encoder": evil})
    assert evil not in html and "<img src=x" not in html
    assert data_of(html)["examples"][0]["name"] == evil


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("tab=evaluation", "tab=evaluation"),
        ("q=example-193&level=2&index=lite1", "q=example-193&level=2&index=lite1"),
        ("q=picture-12", "q=picture-12"),
        ("words=a+red+kettle", "words=a+red+kettle"),
        ("embed=1&theme=dark", "embed=1&theme=dark"),
    ],
)
def test_links_of_the_gradio_page_still_open_it(sample_db, asked, kept):
    answer = client(sample_db, "/patchify").get(f"/?{asked}")
    assert (answer.status_code, answer.headers["location"]) == (307, f"/patchify/photos?{kept}")


def test_the_other_galleries_can_be_chosen(sample_db):
    galleries = [("Rendered scenes", "/demo/", True), ("Mine & <yours>", "/demo/gallery/mine/", False)]
    html = TestClient(Starlette(routes=Front(sample_db, "/demo", galleries=galleries).routes())).get("/").text
    assert '<a href="/demo/" aria-current="page">Rendered scenes</a>' in html
    assert '<a href="/demo/gallery/mine/">Mine &amp; &lt;yours&gt;</a>' in html


def test_one_gallery_alone_offers_no_choice(sample_db):
    assert 'class="galleries"' not in client(sample_db).get("/").text


def test_a_gallery_without_boxes_has_no_sizes_and_no_locscore(document):
    """Its pictures are annotated by object alone."""
    bare = json.loads(json.dumps(document))
    for level in bare["overall"]:
        level["locscore"] = None
    for size in bare["sizes"]:
        size.update(positives=0, queries=0, levels=[None for _ in bare["levels"]])
    html = page(bare)
    assert 'id="sizes" aria-labelledby="sizes-title" hidden' in html and 'class="sizebar" hidden' in html
    assert "<td>–</td>" in html and "None" not in re.sub(r'<script type="application/json".*?</script>', "", html)


def test_parameters_that_hosts_add_change_nothing(sample_db):
    for asked in ("__theme=dark", "__sign=abc", "utm_source=x", "q=example-193&level=2&size=1&open=5"):
        assert client(sample_db).get(f"/?{asked}").status_code == 200


def test_a_gallery_without_answers_begins_with_the_gradio_page(tmp_path):
    answer = client(tmp_path).get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "/photos")
    assert client(tmp_path).get(f"/paper/{FILE}").status_code == 404
    assert client(tmp_path).get("/paper/film.webp?q=1&picture=1").status_code == 404


def test_its_parts_and_nothing_else_are_served(sample_db, document):
    front = client(sample_db)
    assert front.get(f"/paper/{FILE}").json() == document
    picture = next(iter(document["pictures"].values()))[0]
    for name in (*PARTS, picture, document["examples"][0]["picture"]):
        assert front.get(f"/paper/{name}").status_code == 200, name
    for name in ("style.css", "annotations.json", "gallery/../annotations.json", "gallery/", "index/meta.json", "x"):
        assert front.get(f"/paper/{name}").status_code == 404, name
    for name in ("..%2fannotations.json", "gallery%2f..%2f..%2fREADME.md", "assets/logo.svg", "study/scale.json"):
        assert front.get(f"/paper/{name}").status_code == 404, name


def test_a_film_can_be_saved_and_others_are_refused(sample_db, document):
    front, entry = client(sample_db), document["examples"][0]
    picture = next(iter(entry["patches"]))
    answer = front.get(f"/paper/film.webp?q={entry['id']}&picture={picture}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-disposition"] == f'attachment; filename="patchify-{entry["id"]}-{picture}.webp"'
    again = front.get(f"/paper/film.webp?q={entry['id']}&picture={picture}")
    assert again.content == answer.content
    for wrong in ("", f"q={entry['id']}", f"q={entry['id']}&picture=x", f"q=1&picture={picture}", "q=1&picture=-1"):
        assert front.get(f"/paper/film.webp?{wrong}").status_code == 404


def test_another_box_is_answered_once_the_gallery_is_there(sample_db, document):
    front, query = Front(sample_db), document["examples"][0]["id"]
    asked = TestClient(Starlette(routes=front.routes()))
    good = f"/paper/answer?q={query}&box=10,20.5,300,200"
    assert asked.get(good).status_code == 503 and "starting" in asked.get(good).json()["detail"]
    calls: list[tuple[int, object]] = []

    class Answers:
        def answer(self, number, box):
            calls.append((number, box))
            if number != query:
                raise PatchifyError("There is no such example: choose one of those shown.")
            return {"entry": {"id": number}, "pictures": {}}

    front.paper = Answers()
    for _ in range(3):
        assert asked.get(good).json() == {"entry": {"id": query}, "pictures": {}}
    assert asked.get(f"/paper/answer?q={query}&box=whole").status_code == 200
    assert calls == [(query, [10.0, 20.5, 300.0, 200.0]), (query, None)]  # what is asked again is kept
    boxes = ("", "1,2,3", "1,2,3,nan", "1e9,2,3,4", "1,2,3,-4", "1,2,3,4,5", "whole,")
    wrongs = [f"q={query}&box={box}" for box in boxes] + [f"q={q}&box=whole" for q in ("x", "-1", "9" * 400, "1", "")]
    for wrong in ("", f"q={query}", *wrongs):
        answer = asked.get(f"/paper/answer?{wrong}")
        assert answer.status_code == 404 and answer.json()["detail"].endswith("."), wrong


def test_boxes_that_wait_are_counted_whether_or_not_anybody_still_waits_for_them(sample_db, document, monkeypatch):
    """Who asks and leaves is computed all the same; so they are refused beyond a number, and others are answered."""
    front, query = Front(sample_db), document["examples"][0]["id"]
    monkeypatch.setattr("patchify_core.web.front.CALLER", caller := ContextVar("caller", default=""))
    going = threading.Event()

    class Slow:
        def answer(self, number, box):
            going.wait(60)
            return {}

    front.paper = Slow()
    route = next(route for route in front.routes() if route.path == "/paper/answer")

    async def ask(address: str, number: int) -> int:
        caller.set(address)
        query_string = f"q={query}&box={number},0,500,400".encode()
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": query_string}
        return (await route.endpoint(Request(scope))).status_code

    async def flood() -> list[int]:
        asked = [asyncio.create_task(ask("flood", number)) for number in range(200)]
        await asyncio.sleep(0.05)
        visitor = asyncio.create_task(ask("visitor", 999))
        await asyncio.sleep(0.05)
        going.set()
        return [await visitor, *await asyncio.gather(*asked)]

    visitor, *asked = asyncio.run(flood())
    assert visitor == 200 and asked.count(200) == WAITING_OF_ONE and asked.count(503) == 200 - WAITING_OF_ONE


def test_a_gallery_without_an_index_as_in_the_paper_says_so_and_not_that_it_starts(sample_db, document):
    front = Front(sample_db)
    front.ready = True
    answer = TestClient(Starlette(routes=front.routes())).get(f"/paper/answer?q={document['first']}&box=whole")
    assert answer.status_code == 404 and "no index as in the paper" in answer.json()["detail"]


def test_a_flood_of_boxes_lets_others_have_their_turn(sample_db, document, monkeypatch):
    """One address asks for twenty at once; another one that comes later waits for two of them at most."""
    front, query, done = Front(sample_db), document["examples"][0]["id"], []
    monkeypatch.setattr("patchify_core.web.front.CALLER", caller := ContextVar("caller", default=""))
    everybody_has_asked = threading.Event()

    class Slow:
        def answer(self, number, box):
            everybody_has_asked.wait(60)
            done.append(box[0])
            return {}

    front.paper = Slow()
    route = next(route for route in front.routes() if route.path == "/paper/answer")

    async def ask(address: str, number: int) -> int:
        caller.set(address)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [],
                 "query_string": f"q={query}&box={number},0,500,400".encode()}  # fmt: skip
        return (await route.endpoint(Request(scope))).status_code

    async def both() -> list[int]:
        flood = [asyncio.create_task(ask("flood", number)) for number in range(20)]
        await asyncio.sleep(0.02)
        visitor = asyncio.create_task(ask("visitor", 99))
        await asyncio.sleep(0.2)
        everybody_has_asked.set()
        return await asyncio.gather(visitor, *flood)

    assert set(asyncio.run(both())) == {200}
    assert done.index(99.0) <= 2 and len(done) == 21


def test_a_flood_of_films_takes_no_threads_from_others(sample_db, document, monkeypatch):
    """Each takes a fifth of a second: those too many are refused at once instead of waiting in a thread."""
    entry, going, may_end = document["examples"][0], threading.Semaphore(0), threading.Event()

    def slow(*arguments):
        going.release()
        may_end.wait(60)
        return b"film"

    monkeypatch.setattr("patchify_core.demo.animation.animate", slow)
    front = client(sample_db)
    addresses = [f"/paper/film.webp?q={entry['id']}&picture={picture}" for picture in list(entry["patches"])[:3]]
    with ThreadPoolExecutor(3) as pool, front:
        first = [pool.submit(front.get, address) for address in addresses[:2]]
        for _ in first:
            assert going.acquire(timeout=60)
        assert front.get(addresses[2]).status_code == 503
        may_end.set()
        assert [one.result().status_code for one in first] == [200, 200]
    assert front.get(addresses[2]).status_code == 200


def test_the_source_is_linked_where_somebody_says_where_it_is(sample_db):
    assert ">Code<" not in client(sample_db).get("/").text
    assert 'href="https://example.org/code">Code<' in client(sample_db, code="https://example.org/code").get("/").text


# The folder of plain files --------------------------------------------------------------------------------------


def test_a_showcase_holds_all_that_the_page_names(sample_db, document, tmp_path):
    out = tmp_path / "site"
    size = write_showcase(document, sample_db, out, url="https://example.org/patchify/")
    assert size == sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) <= 15_000_000
    html = (out / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="(paper/[^"]+)"', html):
        assert (out / name).is_file(), name
    assert 'og:image" content="https://example.org/patchify/paper/preview.jpg"' in html
    assert "photos" not in re.findall(r'href="([^"]*)"', html) and "Save animation" not in html
    assert json.loads((out / "paper" / FILE).read_text()) == document
    for name, _, _ in document["pictures"].values():
        assert (out / "paper" / name).read_bytes() == (sample_db / name).read_bytes()


def test_a_showcase_is_brought_up_to_date_and_nothing_else_is_touched(sample_db, document, tmp_path, refused):
    out = tmp_path / "site"
    write_showcase(document, sample_db, out)
    (out / "paper" / "gallery" / "gone.jpg").write_bytes(b"x")
    write_showcase(document, sample_db, out, live="https://example.org/live")
    assert not (out / "paper" / "gallery" / "gone.jpg").exists()
    html = (out / "index.html").read_text(encoding="utf-8")
    assert 'href="https://example.org/live/try">Use it on my photos' in html
    assert 'href="https://example.org/live/photos?q=example-' in html and 'href="try"' not in html
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    assert "holds something else" in refused(write_showcase, document, sample_db, other)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    assert "holds something else" in refused(write_showcase, document, sample_db, tmp_path / "file")


def test_a_showcase_that_cannot_be_written_says_so(sample_db, document, tmp_path, refused, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left on device" in refused(write_showcase, document, sample_db, tmp_path / "site")
    assert not (tmp_path / "site" / "index.html").exists()


def test_the_page_for_a_phone_is_there_without_gradio(sample_db, document):
    """Its example: three photographs with the object and two without, none of which says so by its place."""
    answer = client(sample_db, "/patchify").get("/try")
    assert answer.status_code == 200 and len(answer.content) < 20_000
    assert 'href="/patchify/photos?tab=your-pictures"' in answer.text
    given = json.loads(re.search(r'id="sample">(.*?)</script>', answer.text, re.S)[1])
    assert len(given["photos"]) == len(given["contain"]) == 5 and sum(given["contain"]) == 3
    entry = next(one for one in document["examples"] if one["picture"] == given["query"])
    pictures = document["pictures"]
    known = {str(row["picture"]) for row in entry["positives"]} & pictures.keys()
    assert [photo in {pictures[one][0] for one in known} for photo in given["photos"]] == given["contain"]
    for name in (given["query"], *given["photos"], "try.js", "try-rank.js", "try.css", "box.js", "box.css"):
        assert client(sample_db).get(f"/paper/{name}").status_code == 200, name


def test_the_page_for_a_phone_does_without_an_example(tmp_path):
    assert sample(None) == {} and sample({"examples": []}) == {}
    answer = client(tmp_path).get("/try")
    assert answer.status_code == 200 and "Use our example" not in answer.text


def test_a_showcase_has_no_page_that_needs_a_server(sample_db, document, tmp_path):
    write_showcase(document, sample_db, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith("try")]
    assert 'href="try"' not in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
