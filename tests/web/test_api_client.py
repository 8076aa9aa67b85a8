"""The page's API and its MCP server, asked by their real clients; API.md's examples among them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from patchify_core.cli.main import main
from patchify_core.files import ROOT, SAMPLE_DB
from patchify_core.gallery import read_coco
from tests.browsing import served

API = (ROOT / "patchify_core" / "web" / "API.md").read_text(encoding="utf-8")
NAMES = {
    "search_by_picture",
    "search_by_example",
    "search_by_words",
    "explain_match",
    "list_gallery",
    "evaluate_index",
}
PICTURE = SAMPLE_DB / "queries" / "C051.jpg"
BOX = [180.0, 60.0, 470.0, 420.0]
FILE = {"meta": {"_type": "gradio.FileData"}}


@pytest.fixture(scope="module")
def uploads(tmp_path_factory) -> Path:
    """Where the server puts uploads; empty at first, and after every test."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def server(uploads, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    with served(["app.py", "--mcp"], tmp_path_factory.mktemp("server"), uploads) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(uploads, server) -> Iterator[None]:
    """No upload stays on the disk, and nothing that a client does wrong is a traceback in the log."""
    yield
    assert [path for path in uploads.rglob("*") if path.is_file()] == []
    assert "Traceback" not in server[1].read_text()


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server[0], verbose=False)


def refusal(client: Client, name: str, **arguments: Any) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(**arguments, api_name=name)
    message = caught.value.message
    assert message.endswith(".") and "\n" not in message and "Error" not in message
    return message


def printed(*words: object) -> Any:
    """What the command line prints, in this process."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main([str(word) for word in words]) == 0
    return json.loads(out.getvalue())


def alike(found: Any, expected: Any) -> bool:
    """The same JSON, except that the last digits of a number may differ: here torch computes on several threads."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-4)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(alike(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize(("index", "refine"), [("index", "soft"), ("indexes/pooled", "map")])
def test_a_search_is_what_the_command_line_prints(client, index, refine):
    corners = ",".join(map(str, BOX))
    expected = printed("search", SAMPLE_DB / index, PICTURE, "--box", corners, "--refine", refine, "--json")
    found = client.predict(
        handle_file(PICTURE), BOX, index=Path(index).name, refine=refine, api_name="/search_by_picture"
    )
    places = [SAMPLE_DB / one["file"] for one in found]  # the page says nothing of where its gallery is
    assert [str(place) for place in places] == [one["file"] for one in expected]
    assert all(0 <= one["probability"] <= 1 and one["verdict"] for one in found)
    assert len(found) == 10 and alike(
        found, [one | {"file": two["file"]} for one, two in zip(expected, found, strict=True)]
    )


def test_only_what_is_documented_can_be_called(client, server):
    described = client.view_api(return_format="dict")
    assert {name.strip("/") for name in described["named_endpoints"]} == NAMES
    assert described["unnamed_endpoints"] == {}
    picture = described["named_endpoints"]["/search_by_picture"]
    assert [one["parameter_name"] for one in picture["parameters"]] == [
        "picture",
        "box",
        "top",
        "level",
        "index",
        "refine",
        "rerank",
    ]
    schema = httpx.get(f"{server[0]}gradio_api/openapi.json", timeout=30).json()
    paths = {path.rsplit("/", 1)[1] for path in schema["paths"] if "/call/" in path or "/run/" in path}
    assert paths - {"{event_id}"} <= NAMES and NAMES <= {path.rsplit("/", 1)[1] for path in schema["paths"]} | paths


def test_refusals_reach_the_client_as_sentences(client, tmp_path):
    picture = handle_file(PICTURE)
    (tmp_path / "notes.txt").write_text("no picture")
    for arguments, word in (
        ({"level": 99}, "levels 1 to 4"),
        ({"top": 100_000}, "top must be from 1 to 200"),
        ({"box": [1, 2, 3]}, "four numbers"),
        ({"box": [9000, 0, 9999, 9]}, "outside"),
        ({"index": "nope"}, "no index"),
        ({"picture": handle_file(tmp_path / "notes.txt")}, "not a picture"),
        ({"picture": handle_file("https://example.org/x.jpg")}, "fetches nothing"),
        ({"picture": None}, "uploaded file"),
    ):
        assert word in refusal(client, "/search_by_picture", **({"picture": picture} | arguments))
    assert "pictures only" in refusal(client, "/search_by_words", words="a red kettle")
    assert "no example" in refusal(client, "/search_by_example", example=-1)


def called(url: str, name: str, text: str) -> tuple[str, Any]:
    """An endpoint asked by bare HTTP, with any text as JSON; the event's name and what it carries."""
    address = f"{url}gradio_api/call/{name}"
    answer = httpx.post(address, content=text, headers={"Content-Type": "application/json"}, timeout=30)
    if answer.status_code != 200:
        return str(answer.status_code), answer.json()
    with httpx.stream("GET", f"{address}/{answer.json()['event_id']}", timeout=60) as stream:
        event, data = stream.read().decode().strip().split("\n")[-2:]
    return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_what_no_client_would_send_is_refused_too(server, uploads):
    rest = ", null, 10, null, null, null, null]}"
    for picture in ({"path": "/etc/passwd", **FILE}, {"path": f"{uploads}/../secret", **FILE}, {"path": 5, **FILE}):
        event, said = called(server[0], "search_by_picture", f'{{"data": [{json.dumps(picture)}{rest}')
        assert event == "error" and "did not arrive" in said["error"]
    address = "data:image/jpeg;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    not_a_number = f'{{"data": ["{address}", [1, 2, 3, NaN], 10, null, null, null, null]}}'
    assert "four finite numbers" in called(server[0], "search_by_picture", not_a_number)[1]["error"]
    assert "does not fit" in called(server[0], "search_by_picture", '{"data": ["x"]}')[1]["error"]
    assert called(server[0], "nothing", '{"data": []}')[0] == "404"
    assert called(server[0], "v2/nothing", "{}")[0] == "404"
    assert called(server[0], "v2/search_by_words", '{"wrong": 1}')[0] == "404"
    assert httpx.post(f"{server[0]}gradio_api/run/list_gallery", json={"data": []}).status_code == 404
    joined = httpx.post(
        f"{server[0]}gradio_api/queue/join", json={"data": [], "fn_index": 9999, "session_hash": "x"}, timeout=30
    )
    assert joined.status_code == 400 and "no such function" in joined.json()["detail"]


def test_two_who_send_the_same_picture_at_once_are_both_answered(server):
    clients = [Client(server[0], verbose=False) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(one.predict, handle_file(PICTURE), top=3, api_name="/search_by_picture") for one in clients
        ]
        answers = [one.result() for one in asked]
    assert answers[0] and answers[0] == answers[1] == answers[2]


def test_health_answers_while_searches_run(server, client):
    jobs = [client.submit(handle_file(PICTURE), refine="map", api_name="/search_by_picture") for _ in range(3)]
    waited = []
    while not all(job.done() for job in jobs):
        answer = httpx.get(f"{server[0]}health", timeout=10)
        waited.append(answer.elapsed.total_seconds())
        assert answer.status_code == 200 and answer.json()["status"] == "ok"
    assert waited and sorted(waited)[len(waited) // 2] < 0.5
    assert [len(job.result()) for job in jobs] == [10, 10, 10]


# API.md's examples ------------------------------------------------------------------------------------------


def example(name: str) -> str:
    """A code block of API.md, between its markers."""
    found = re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```\n<!-- /{name} -->", API, re.S)
    assert found is not None
    return found[1]


def at(server: tuple[str, Path], text: str) -> str:
    assert "http://127.0.0.1:7860/" in text
    return text.replace("http://127.0.0.1:7860/", server[0])


def test_readmes_client(server, tmp_path, monkeypatch, capsys):
    shutil.copy(PICTURE, tmp_path / "query.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(at(server, example("gradio_client")), "API.md", "exec"), {})
    *matches, score = capsys.readouterr().out.strip().split("\n")[-6:]
    assert len(matches) == 5 and all(" gallery/" in line for line in matches)
    assert 0.84 < float(score) < 0.86  # the table of study features: 0.848


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="no curl or bash here")
def test_readmes_curl(server):
    said = subprocess.run(["bash", "-c", at(server, example("curl"))], capture_output=True, text=True, check=True)
    event, data = said.stdout.strip().split("\n")[-2:]
    assert event == "event: complete" and len(json.loads(data.removeprefix("data: "))[0]) == 5


def test_readmes_tools(server):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    url = json.loads(at(server, example("mcp")))["mcpServers"]["patchify"]["url"]
    query = read_coco(SAMPLE_DB).queries[0]
    address = "data:image/jpeg;base64," + base64.b64encode(query.path.read_bytes()).decode()
    box = query.box.tolist()

    async def ask() -> None:
        async with streamable_http_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert set(tools) == NAMES
            for tool in tools.values():
                assert tool.description and "Returns:" in tool.description
                assert all(one.get("description") for one in tool.inputSchema["properties"].values()), tool.name

            async def call(name: str, **arguments: Any) -> Any:
                found = await session.call_tool(name, arguments)
                text = found.content[0].text
                return text if found.isError else json.loads(text)

            by_example = await call("search_by_example", example=query.id, top=3)
            assert await call("search_by_picture", picture=address, box=box, top=3) == by_example
            why = await call("explain_match", image_id=by_example[0]["image_id"], example=query.id)
            assert why["score"] == by_example[0]["score"]
            assert (await call("list_gallery"))["pictures"] == 164
            assert (await call("evaluate_index", levels=[1]))["queries"] == 36
            assert await call("search_by_example", example=query.id, top=0) == "top must be from 1 to 200, not 0."
            assert "fetches nothing" in await call("search_by_picture", picture="https://example.org/x.jpg")
            assert "fetches nothing" in await call("search_by_picture", picture="/etc/passwd")

    asyncio.run(ask())


def test_without_the_package_there_is_one_sentence(monkeypatch, refused):
    import importlib.util

    from patchify_core.web.launch import offer_tools

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mcp" else real(name, *rest))
    assert 'pip install "gradio[mcp]' in refused(offer_tools)


def test_a_photo_turned_by_its_metadata_is_searched_upright(client, tmp_path):
    picture = Image.open(PICTURE)
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(turned, quality=95, exif=exif)
    found = client.predict(handle_file(turned), BOX, top=3, api_name="/search_by_picture")
    straight = client.predict(handle_file(PICTURE), BOX, top=3, api_name="/search_by_picture")
    assert [one["image_id"] for one in found] == [one["image_id"] for one in straight]
