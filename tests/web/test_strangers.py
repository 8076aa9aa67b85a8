"""The page's real server under a stranger: what it refuses, what it says of itself, what it logs, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from patchify_core.files import ROOT
from tests.browsing import served

MARK = "strangers-own-bytes"
JSON = {"Content-Type": "application/json"}
JOIN = "gradio_api/queue/join"
LIST = "gradio_api/call/list_gallery"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("server")
    with served(["app.py", "--mcp"], folder, folder / "neutral") as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_logged(server) -> Iterator[None]:
    yield
    log = server[1].read_text()
    assert "Traceback" not in log and MARK not in log and "Error" not in log


@pytest.fixture(scope="module")
def client(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server[0], timeout=30) as client:
        yield client


def refused(answer: httpx.Response) -> str:
    """The sentence of a refusal."""
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    said = answer.text
    if answer.headers["content-type"].startswith("application/json"):
        said = answer.json()["detail"]
    assert isinstance(said, str) and said.endswith(".") and "\n" not in said and MARK not in said
    return said


def test_addresses_of_others_are_not_fetched_for_anybody(client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        target = f"127.0.0.1:{port}/{MARK}"
        file = {"meta": {"_type": "gradio.FileData"}}
        for address in (
            f"gradio_api/file=http://{target}",
            f"gradio_api/file=HTTP://{target}",
            f"gradio_api/file=http%3A%2F%2F{target}",
            f"gradio_api/file=http%253A%252F%252F{target}",
            f"gradio_api/file=//{target}",
            f"gradio_api/file=\\\\{target}",
            f"gradio_api/file/http://{target}",
            f"gradio_api/proxy=http://{target}",
            f"proxy=http://{target}",
        ):
            for method in ("GET", "HEAD", "POST"):
                assert client.request(method, address).status_code in (404, 405), address
        for picture in (
            {"path": f"http://{target}", **file},
            {"path": f"HTTP://{target}", **file},
            {"path": f"//{target}", **file},
            {"path": f"http:/{target}", **file},
            {"path": "x", "url": f"http://{target}", **file},
            {"path": None, "url": f"http://{target}", **file},
            {"url": f"http://{target}"},
            {"picture": [{"path": f"http://{target}", **file}]},
            f"http://{target}",
        ):
            number = client.post(
                "gradio_api/call/search_by_picture", json={"data": [picture, None, 1, None, None, None, None]}
            )
            said = client.get(f"gradio_api/call/search_by_picture/{number.json()['event_id']}").text
            assert "event: error" in said and MARK not in said
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            listener.accept()


ODD = [
    ("POST", JOIN, b""),
    ("POST", JOIN, b"{" + MARK.encode()),
    ("POST", JOIN, b"[]"),
    ("POST", JOIN, b"null"),
    ("POST", JOIN, b'"' + MARK.encode() + b'"'),
    ("POST", JOIN, b"\xff\xfe\x00"),
    ("POST", JOIN, b"{}"),
    ("POST", JOIN, b'{"data": 5}'),
    ("POST", JOIN, b'{"data": []}'),
    ("POST", JOIN, b'{"data": [], "session_hash": 5}'),
    ("POST", JOIN, b'{"data": [], "session_hash": [], "fn_index": 0}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a", "fn_index": "' + MARK.encode() + b'"}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a", "fn_index": 99999}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a", "fn_index": -1}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a", "fn_index": 1e99}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a"}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "../a", "fn_index": 0}'),
    ("POST", JOIN, b'{"data": [], "session_hash": "a", "fn_index": 0, "trigger_id": "x"}'),
    ("POST", JOIN, b"[" * 100_000),
    ("POST", JOIN, b"[" + b"[]," * 1_000_000 + b"1]"),
    ("POST", LIST, b'{"data": {}}'),
    ("POST", LIST, b"{}"),
    ("POST", "gradio_api/call/nothing", b'{"data": []}'),
    ("POST", "gradio_api/call/v2/nothing", b"{}"),
    ("POST", "gradio_api/call/v2/list_gallery", b"[]"),
    ("POST", "gradio_api/call/v2/search_by_words", b'{"' + MARK.encode() + b'": 1}'),
    ("POST", "gradio_api/cancel", b"{}"),
    ("POST", "gradio_api/reset", b"{}"),
    ("POST", "gradio_api/upload", b"{}"),
    ("GET", "gradio_api/queue/data", b""),
    ("GET", "gradio_api/upload_progress", b""),
    ("GET", "assets/" + MARK, b""),
    ("GET", "static/%00", b""),
    ("GET", "gradio_api/file=gallery/" + MARK, b""),
    ("GET", "gradio_api/file=gallery/%ff%00", b""),
    ("GET", "own/" + MARK, b""),
    ("GET", "%f0%28%8c%28", b""),
    ("GET", f"photos?page={MARK}", b""),
    ("GET", MARK, b""),
    ("OPTIONS", "", b""),
    ("TRACE", "", b""),
    ("PUT", JOIN, b"{}"),
    ("HEAD", JOIN, b""),
]


@pytest.mark.parametrize(("method", "path", "body"), ODD, ids=range(len(ODD)))
def test_odd_requests_are_answered_in_a_sentence(client, method, path, body):
    answer = client.request(method, path, content=body, headers=JSON)
    if method == "HEAD":
        assert answer.status_code == 405
    elif path.startswith("own/"):  # our own: it has an error of its own
        assert answer.status_code == 404 and answer.json()["error"].endswith(".")
    elif path.startswith("assets/"):
        assert answer.status_code == 404
    else:
        refused(answer)


FORM = b'--x\r\nContent-Disposition: form-data; name="files"%s\r\n\r\nabc\r\n--x--\r\n'


@pytest.mark.parametrize(
    "body",
    [b"", b"--x", b"--x\r\n\r\n", FORM % b"", FORM % b"; filename*=utf-16x", b"--x\r\n" + b"A: b\r\n" * 5000],
    ids=range(6),
)
@pytest.mark.parametrize("query", ["", "?upload_id=abc"])
def test_odd_uploads_are_refused_and_leave_nothing(client, server, body, query):
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    many = FORM.replace(b"--x--\r\n", b"") % b'; filename="a.jpg"'
    for content in (body, many * 20 + b"--x--\r\n"):
        answer = client.post(f"gradio_api/upload{query}", content=content, headers=form)
        if answer.status_code == 200:
            assert answer.json() == []
        else:
            assert 400 <= answer.status_code < 500 and "\n" not in answer.text
    assert not [path for path in (server[1].parent / "neutral").rglob("*") if path.is_file()]


NAMED = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a.jpg"\r\n\r\nabc\r\n'


@pytest.mark.parametrize(
    "body",
    [
        NAMED % b"files",
        NAMED % b"files" + b"--x",
        NAMED % b"picture" + b"--x--\r\n",
        NAMED % b"files" + NAMED % b"other" + b"--x--\r\n",
        b"--x--\r\n",
        b"z" * 200,
    ],
    ids=range(6),
)
def test_a_form_without_an_end_or_with_other_fields_is_refused_and_leaves_nothing(client, server, body):
    answer = client.post("gradio_api/upload", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 400 and refused(answer) and not left(server)


@pytest.mark.parametrize("boundary", ["x" * 5000, "", '"', "\xff", MARK * 50])
def test_odd_boundaries_are_refused(client, server, boundary):
    form = {"Content-Type": b"multipart/form-data; boundary=" + boundary.encode("latin-1")}
    for body in (b"", FORM % b'; filename="a.jpg"'):
        assert refused(client.post("gradio_api/upload", content=body, headers=form)) and not left(server)


def test_whoever_hangs_up_while_answers_stream_is_not_in_the_log(server, client):
    host, port = server[0].removeprefix("http://").strip("/").split(":")
    for session in ("hangs", "up"):
        client.post(JOIN, json={"data": [], "fn_index": 0, "session_hash": session})
        with socket.create_connection((host, int(port))) as one:
            head = f"GET /gradio_api/queue/data?session_hash={session} HTTP/1.1\r\nHost: {host}\r\n\r\n"
            one.sendall(head.encode())
            one.recv(10)
    time.sleep(0.5)
    assert "queue/data" not in server[1].read_text()


EVENTS = [{"path": MARK * 3000}, {"path": "\0"}, {"path": MARK, "meta": {"_type": "gradio.FileData"}}, MARK, 5, [[]]]


@pytest.mark.parametrize("event", EVENTS, ids=range(len(EVENTS)))
def test_odd_events_of_every_function_are_answered(client, event):
    for number, dependency in enumerate(client.get("config").json()["dependencies"]):
        values = {
            "data": [None] * len(dependency["inputs"]),
            "fn_index": dependency["id"],
            "session_hash": f"e{number}",
        }
        asked = client.post(JOIN, json=values | {"event_data": event, "trigger_id": None})
        if asked.status_code == 200:
            with client.stream("GET", f"gradio_api/queue/data?session_hash=e{number}") as answer:
                for line in answer.iter_lines():
                    assert MARK not in line and "Traceback" not in line
                    if "process_completed" in line:
                        break


def test_an_event_is_not_large(client):
    values = {"data": [], "fn_index": 0, "session_hash": "a", "event_data": {"path": MARK * 5000}}
    assert "event_data" in refused(client.post(JOIN, json=values))


# Tools --------------------------------------------------------------------------------------------------------

MCP = {"Accept": "application/json, text/event-stream", **JSON}


def tool(client: httpx.Client, method: str, _headers: dict[Any, Any] = {}, **params: Any) -> str:  # noqa: B006
    """What the MCP server answers."""
    said = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return client.post("gradio_api/mcp/", json=said, headers=MCP | _headers).text


def test_strangers_cannot_write_the_log_by_way_of_tools(client, server):
    before = len(server[1].read_bytes())
    lie = f"{MARK}\nROOT LOGGED IN"
    for _ in range(3):
        client.post("gradio_api/mcp/messages/", params={"session_id": lie}, json={})
        client.post("gradio_api/mcp/messages/", params={"session_id": "0" * 32}, json={})
        client.post("gradio_api/mcp/messages/", content=MARK)
        tool(client, lie)
        tool(client, MARK * 100_000)
        tool(client, "tools/call", name=lie, arguments={})
        tool(client, "tools/call", name="list_gallery", arguments={lie: 1})
        tool(client, "tools/call", name="search_by_words", arguments={"words": 5, MARK: MARK})
        tool(client, "tools/call", {"Cookie": b"a=\xff"}, name="list_gallery", arguments=[])
        client.post("gradio_api/mcp/", content=b"{" + MARK.encode(), headers=MCP)
        client.post("gradio_api/mcp/", json={"jsonrpc": "2.0", "method": f"notifications/{lie}"}, headers=MCP)
        client.post("gradio_api/mcp/", json={"jsonrpc": "2.0", "id": lie, "result": {}}, headers=MCP)
        client.post("gradio_api/mcp/", json={}, headers=MCP | {"mcp-session-id": MARK, "mcp-protocol-version": MARK})
    written = server[1].read_bytes()[before:].decode()
    assert MARK not in written and "ROOT" not in written
    assert len(written) < 3000 and all(len(line) <= 2000 for line in written.splitlines())


def test_a_tool_answers_whatever_the_clients_headers_are(client):
    said = tool(client, "tools/call", {"Cookie": b"a=\xff", "X-Strange": b"\xe9"}, name="list_gallery", arguments={})
    assert "pictures" in said and "codec" not in said


def test_there_are_tools_and_nothing_else(client):
    for method in ("prompts/list", "prompts/get", "resources/list", "resources/read", "resources/templates/list"):
        assert '"error"' in tool(client, method, name=MARK, uri="x://y"), method
    opened = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    said = tool(client, "initialize", **opened)
    assert '"tools"' in said and '"prompts"' not in said and '"resources"' not in said


def test_an_upload_that_is_cut_leaves_nothing(server):
    host, port = server[0].removeprefix("http://").strip("/").split(":")
    head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n"
    form = 'Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\nContent-Disposition: form-data; name="files"; '
    with socket.create_connection((host, int(port))) as one:
        one.sendall(f'{head}{form}filename="a.jpg"\r\n\r\n'.encode() + b"x" * 50_000)
        end = time.monotonic() + 60
        while not left(server) and time.monotonic() < end:
            time.sleep(0.02)
    while left(server) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left(server)


def left(server: tuple[str, Path]) -> list[Path]:
    return [path for path in (server[1].parent / "neutral").rglob("*") if path.is_file()]


def test_no_answer_says_where_things_are_on_this_machine(client, server):
    said = {
        path: client.get(path).text for path in ("", "config", "gradio_api/info", "gradio_api/openapi.json", "health")
    }
    said["mcp"] = client.get("gradio_api/mcp/schema").text
    for name, values in (
        ("search_by_example", [193, None, 3, None, None, None, None]),
        ("explain_match", [1, 193, None, None, None, None, None]),
        ("list_gallery", []),
        ("search_by_picture", [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, None, 1, *[None] * 4]),
    ):
        number = client.post(f"gradio_api/call/{name}", json={"data": values}).json()["event_id"]
        said[name] = client.get(f"gradio_api/call/{name}/{number}").text
    said |= {
        f"{method} {path}": client.request(method, path, content=body, headers=JSON).text for method, path, body in ODD
    }
    hidden = [str(ROOT), ROOT.as_posix(), sys.prefix, str(Path.home()), str(server[1].parent), "site-packages"]
    for what, text in said.items():
        for place in hidden:
            if len(place) > 2:
                assert place not in text and json.dumps(place)[1:-1] not in text, what
    assert "gallery/" in said["search_by_example"] and "event: complete" in said["search_by_example"]


def test_a_part_of_a_file_is_answered_without_the_requests_headers(client):
    answer = client.get("gradio_api/file=assets/logo.svg", headers={"Range": "bytes=0-9", "X-Stranger": MARK})
    assert answer.status_code == 206 and len(answer.content) == 10
    assert MARK not in str(answer.headers) and "cookie" not in answer.headers
    assert client.get("gradio_api/file=assets/logo.svg", headers={"Range": "bytes=9999999-"}).status_code == 416
    assert client.get("gradio_api/file=assets/logo.svg", headers={"Range": f"bytes={MARK}"}).status_code in (200, 400)


def test_other_names_are_refused_and_those_of_a_network_are_not(client):
    for host in ("evil.example", "127.0.0.1.evil.example"):
        assert "PATCHIFY_HOSTS" in refused(client.get("", headers={"Host": host}))
        assert client.get("health", headers={"Host": host}).status_code == 403
    for host in (
        "192.168.1.20:7860",
        "[fd00::1]:7860",
        "10.0.0.5",
        socket.gethostname(),
        f"{socket.gethostname()}.local",
    ):
        assert client.get("config", headers={"Host": host}).status_code == 200


def test_no_foreign_page_gets_credentials(client):
    for host in ({}, {"Host": "192.168.1.20"}, {"Host": "8.8.8.8"}):
        for path in ("", "config", "nothing"):
            headers = client.get(path, headers={"Origin": "https://evil.example", **host}).headers
            assert "access-control-allow-credentials" not in headers
            assert headers.get("access-control-allow-origin") in (None, "*")


# How it ends --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM that a process can answer")
@pytest.mark.parametrize("twice", [False, True, False])
def test_the_server_ends_as_it_is_told_to_while_it_computes(tmp_path, twice):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = tmp_path / "log.txt"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port)],
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "neutral")},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        assert wait_for(process, url), log.read_text()
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/abc", timeout=30) as heart:  # an open page
            next(heart.iter_raw())
            httpx.post(
                f"{url}/gradio_api/call/evaluate_index", json={"data": [None, None, None, None, False]}, timeout=30
            )
            process.send_signal(signal.SIGTERM)
            if twice:
                process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 143), log.read_text()
    finally:
        process.kill()
    assert "Traceback" not in log.read_text() and "terminate called" not in log.read_text()


def wait_for(process: subprocess.Popen[bytes], url: str) -> Any:
    """Whether the server answers; it has two minutes."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/health", timeout=10).status_code == 200:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    return False
