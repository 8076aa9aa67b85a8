"""patchify_core.web.gate, used, bodies, callers and places: what strangers may ask, how much, and under which name."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from patchify_core.web import bodies, callers, places
from patchify_core.web.bodies import DEEPEST, Body, Reader, Refused, checked_json
from patchify_core.web.gate import Gate
from patchify_core.web.settings import PageSettings, ServerSettings
from patchify_core.web.used import found_use

JOIN = "/gradio_api/queue/join"
JSON = [(b"content-type", b"application/json")]
SIZES = PageSettings(upload_mb=1, archive_mb=1)


class Inner:
    """What stands behind the gate, and notes what reaches it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.answer: Any = PlainTextResponse("inside")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        if scope["method"] == "POST":
            self.bodies.append(await Request(scope, receive).body())
        if isinstance(self.answer, Exception):
            raise self.answer
        await self.answer(scope, receive, send)


@pytest.fixture
def inner() -> Inner:
    return Inner()


def asked(
    app: Any,
    method: str,
    path: str,
    body: bytes | list[bytes] = b"",
    headers: list[tuple[bytes, bytes]] = [],  # noqa: B006
    peer: str = "127.0.0.1",
    host: bytes = b"localhost:7860",
    query: bytes = b"",
) -> tuple[int, Any, dict[str, str]]:
    """One request by ASGI: status, what was said, and the headers of the answer. A body in pieces never ends."""
    pieces = [body] if isinstance(body, bytes) else body
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": query,
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 7860),
        "client": (peer, 5),
        "headers": [(b"host", host), *headers],
    }
    queue = [{"type": "http.request", "body": one, "more_body": not isinstance(body, bytes)} for one in pieces]

    async def receive() -> Any:
        if queue:
            return queue.pop(0)
        await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    text = b"".join(one.get("body", b"") for one in sent[1:])
    said = dict((name.decode(), value.decode()) for name, value in start["headers"])
    is_json = said.get("content-type", "").startswith("application/json")
    return start["status"], json.loads(text) if is_json else text.decode(), said


def sentence(said: Any) -> str:
    text = said["detail"]
    assert text.endswith(".") and "\n" not in text and "Error" not in text and said["error"] == text
    return str(text)


def gate(inner: Any, tools: bool = False, ours: Any = (), **server: Any) -> Gate:
    return Gate(inner, ours, ServerSettings(**server), SIZES, tools)


# Addresses ----------------------------------------------------------------------------------------------------

REFUSED = {
    "api", "app_id", "component_server", "custom_component", "deep_link", "dev", "file", "file=", "login",
    "login_check", "logout", "monitoring", "process_recording", "proxy=", "pwa_icon", "queue/status", "run",
    "run-history", "runs", "stream", "svelte", "token", "undo-vibe-edit", "user", "vibe-code",
    "vibe-edit", "vibe-starter-queries",
}  # fmt: skip
"""First parts of the addresses of Gradio 6.31.0 that nothing uses."""

ELSEWHERE = {"/gradio_api/theme.css", "/manifest.json", "/openapi.json"}
"""What Gradio and FastAPI have at an address that we answer ourselves, or at two of which one is used."""


def walked(routes: list[BaseRoute], before: str = "") -> Iterator[tuple[str, str]]:
    """(method, address) of all routes, also of mounted applications; parameters as they are in the pattern."""
    for route in routes:
        if isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", before + route.path
        elif isinstance(route, Mount):
            yield from walked(list(route.routes), before + route.path)
            if not route.routes:
                yield "ANY", before + route.path
        elif hasattr(route, "methods"):
            for method in route.methods or ("GET",):
                yield method, before + route.path
        else:  # what a later version has instead: whatever it is, it must be looked at
            inside = getattr(route, "original_router", None) or getattr(route, "router", None)
            if inside is not None:
                yield from walked(list(inside.routes), before + getattr(route, "prefix", ""))
            else:
                yield "UNKNOWN", repr(route)


@pytest.fixture(scope="module")
def gradios() -> list[tuple[str, str]]:
    """All that Gradio's own server answers, with its MCP server."""
    import gradio as gr
    from gradio.routes import App

    def echo(text: str) -> str:
        return text

    with gr.Blocks() as demo:
        gr.api(echo, api_name="echo")
    demo.footer_links, demo.run_history = [], True
    app = App.create_app(demo, mcp_server=True)
    return list(walked(list(app.routes)))


def filled(path: str) -> str:
    """An address that fits a route's pattern."""
    return re.sub(r"\{[^}]*\}", "a1", path)


def test_each_route_of_gradios_is_used_or_known_to_be_refused(gradios, inner):
    assert len(gradios) > 80, "the walk found too little of Gradio's routes"
    opened, strangers = gate(inner, tools=True), []
    for method, path in gradios:
        below = path.removeprefix("/gradio_api").strip("/")
        known = any(below == one or below.startswith((f"{one}/", f"{one}{{")) for one in REFUSED)
        if found_use(opened.uses, filled(path).rstrip("/") or "/") or path in ELSEWHERE:
            continue
        with pytest.raises(Refused):
            opened.use_of(method, filled(path))
        if not known:
            strangers.append((method, path))
    assert strangers == [], "routes of Gradio's that nobody has decided about: list them as used or as refused"


def test_what_is_refused_never_reaches_gradio(gradios, inner):
    for method, path in gradios:
        if method in ("WEBSOCKET", "ANY", "UNKNOWN"):
            continue
        try:
            gate(inner).use_of(method, filled(path))
        except Refused as refused:
            status, said, _ = asked(gate(inner), method, filled(path))
            assert status == refused.status and (method == "HEAD" or sentence(said))
    assert inner.seen == []


ODD = [
    "/gradio_api/file=http://example.org/x.jpg",
    "/gradio_api/file=HTTP://EXAMPLE.ORG/x.jpg",
    "/gradio_api/file=https://example.org",
    "/gradio_api/file=http%3A//example.org",
    "/gradio_api/file=//example.org/x",
    "/gradio_api/file=\\\\example.org\\x",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/proxy=https://a.hf.space/",
    "/gradio_api/deep_link",
    "/pwa_icon/100000",
    "/static/../routes.py",
    "/static/..\\routes.py",
    "/assets/a\0b",
    "/assets/.hidden",
    "//gradio_api/deep_link",
    "/gradio_api//deep_link",
    "/GRADIO_API/queue/data",
    "/gradio_api/mcp/",
    "/gradio_api/heartbeat/" + "x" * 65,
    "/gradio_api/call/a/b/c",
    "/gradio_api/call/ä",
    "/config/",
    "/gradio_api/upload\n",
    "",
    "*",
]


@pytest.mark.parametrize("path", ODD)
def test_an_open_proxy_or_an_oddly_written_address_is_nothing_here(inner, path):
    for method in ("GET", "HEAD", "POST"):
        status, said, _ = asked(gate(inner), method, path)
        assert status in (404, 405) and sentence(said)
    assert inner.seen == []


def test_websockets_are_refused_and_lifespans_pass(inner):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate(inner)({"type": "websocket", "path": JOIN}, None, send))
    assert sent[0]["type"] == "websocket.close" and inner.seen == []
    started: list[Any] = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope)

    asyncio.run(gate(lifespan)({"type": "lifespan"}, None, None))
    assert started


def test_methods_that_an_address_does_not_have_are_named(inner):
    for method in ("TRACE", "OPTIONS", "PUT", "POST", "DELETE", "FROB"):
        status, said, _ = asked(gate(inner), method, "/config")
        assert status == 405 and "GET only" in sentence(said)


def test_our_own_routes_and_the_page_below_a_path_pass(inner):
    ours = [Route("/own/{token}/picture/{name:path}", lambda request: None, methods=["GET"])]
    opened = gate(inner, ours=ours, root_path="/patchify")
    for path in ("/own/t/picture/a b/ü.jpg", "/patchify/own/t/picture/x", "/patchify/config", "/config", "/patchify"):
        assert asked(opened, "GET", path)[0] == 200
    assert asked(opened, "GET", "/patchify2/config")[0] == 404
    assert asked(gate(inner, tools=True), "GET", "/gradio_api/mcp/")[0] == 200


# Names and callers --------------------------------------------------------------------------------------------

NAMES = {"localhost", "127.0.0.1", "[::1]", "192.168.1.7", "8.8.8.8", "[fd00::1]", "a.localhost", "LOCALHOST"}


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("port", ["", ":7860"])
def test_addresses_and_the_loopback_are_answered_to(inner, name, port):
    assert asked(gate(inner), "GET", "/", host=f"{name}{port}".encode())[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"127.0.0.1.evil.example",
        b"localhost.evil.example:7860",
        b"a@127.0.0.1",
        b"",
        b"x y",
        b"2130706433",
    ],
)
def test_other_names_are_not_so_that_no_page_elsewhere_can_read_what_is_here(inner, host):
    status, said, _ = asked(gate(inner), "GET", "/", host=host)
    assert status == 403 and "PATCHIFY_HOSTS" in sentence(said) and inner.seen == []
    assert "evil" not in json.dumps(said)


def test_names_of_settings_and_of_a_space_are_answered_to(inner):
    named = gate(inner, hosts=("patchify.example.org", "*.lab.example"))
    assert asked(named, "GET", "/", host=b"Patchify.Example.org:443")[0] == 200
    assert asked(named, "GET", "/", host=b"a.lab.example")[0] == 200
    assert asked(named, "GET", "/", host=b"lab.example.evil")[0] == 403
    space = {"SPACE_ID": "me/demo", "SPACE_HOST": "me-demo.hf.space"}
    server = ServerSettings.from_environment(space)
    on_space = Gate(inner, (), server, SIZES)
    forwarded = [(b"x-forwarded-for", b"203.0.113.9, 10.0.0.9"), (b"x-forwarded-proto", b"https")]
    assert asked(on_space, "GET", "/", host=b"me-demo.hf.space", headers=forwarded, peer="10.1.2.3")[0] == 200
    assert inner.seen[-1]["client"][0] == "203.0.113.9" and inner.seen[-1]["scheme"] == "https"
    assert asked(on_space, "GET", "/", host=b"10.1.2.3:7860", peer="10.1.2.3")[0] == 200  # its health check
    assert asked(on_space, "GET", "/", host=b"evil.example", peer="10.1.2.3")[0] == 403
    assert ServerSettings.from_environment({"SPACE_HOST": "me-demo.hf.space"}).hosts == ()
    own = ServerSettings.from_environment(space | {"PATCHIFY_HOSTS": "a.example", "PATCHIFY_PROXIES": "10.0.0.1"})
    assert own.hosts == ("a.example", "*.hf.space", "me-demo.hf.space") and len(own.proxies) == 1


def test_only_a_proxy_that_is_configured_says_who_asks(inner):
    forwarded = [
        (b"x-forwarded-for", b"1.1.1.1, 198.51.100.7"),
        (b"x-forwarded-host", b"evil.example"),
        (b"x-gradio-server", b"http://evil.example"),
    ]
    for peer in ("127.0.0.1", "203.0.113.5"):
        assert asked(gate(inner), "GET", "/", headers=forwarded, peer=peer)[0] == 200
        assert inner.seen[-1]["client"][0] == peer
        assert not any(b"evil" in value for _, value in inner.seen[-1]["headers"])
    behind = gate(inner, proxies=callers.networks("127.0.0.1"), hosts=("patchify.example.org",))
    assert asked(behind, "GET", "/", headers=forwarded[:1])[0] == 200
    assert inner.seen[-1]["client"][0] == "198.51.100.7"  # not 1.1.1.1, which the stranger wrote
    assert asked(behind, "GET", "/", headers=forwarded)[0] == 403
    assert asked(behind, "GET", "/", headers=[(b"x-forwarded-host", b"patchify.example.org")])[0] == 200


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9, 1.2.3.4 , 10.0.0.2"], "1.2.3.4"),
        ("10.0.0.1", ["9.9.9.9", "1.2.3.4"], "1.2.3.4"),
        ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1"),
        ("10.0.0.1", ["1.2.3.4, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("8.8.8.8", ["1.2.3.4"], "8.8.8.8"),
        ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_caller_is_the_last_address_that_no_proxy_has(peer, forwarded, caller):
    assert callers.caller_of(peer, forwarded, callers.networks("10.0.0.0/8")) == caller


@given(st.lists(st.ip_addresses(), max_size=5), st.ip_addresses(v=4))
def test_whatever_a_stranger_claims_they_are_the_address_that_the_proxy_saw(claimed, real):
    proxies = callers.networks("10.0.0.0/8")
    if callers.is_trusted(str(real), proxies):
        return
    header = ", ".join(map(str, [*claimed, real]))
    assert callers.caller_of("10.0.0.1", [header], proxies) == str(real)


def test_addresses_of_one_network_of_the_sixth_version_are_one_caller():
    assert callers.group_of("2001:db8:1:2:aaaa::1") == callers.group_of("2001:db8:1:2:ffff:1:2:3")
    assert callers.group_of("2001:db8:1:2::1") != callers.group_of("2001:db8:1:3::1")
    assert callers.group_of("::ffff:1.2.3.4") == callers.group_of("1.2.3.4") == "1.2.3.4"
    assert callers.group_of("") == "" and callers.group_of("testclient") == "testclient"


def test_the_caller_is_known_while_a_request_is_handled(inner):
    told: list[str] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        told.append(callers.CALLER.get())
        await PlainTextResponse("")(scope, receive, send)

    asked(gate(answer), "GET", "/", peer="2001:db8:1:2:3::4")
    assert told == ["2001:db8:1:2::/64"] and callers.CALLER.get() == ""


def test_who_asks_by_a_tool_is_known_to_the_search_too(inner):
    opened = gate(inner, tools=True)
    assert asked(opened, "POST", "/gradio_api/mcp/", b"{}", JSON, peer="203.0.113.5")[0] == 200
    passed_on = [pair for pair in inner.seen[-1]["headers"] if pair[0] == b"x-patchify-caller"]
    asked(opened, "POST", JOIN, b"{}", [*JSON, *passed_on])  # as the MCP server does, from the loopback
    assert inner.seen[-1]["client"][0] == "203.0.113.5"
    for forged in (b":203.0.113.9", b"x:203.0.113.9", b"203.0.113.9", b""):
        asked(opened, "POST", JOIN, b"{}", [*JSON, (b"x-patchify-caller", forged)])
        assert inner.seen[-1]["client"][0] == "127.0.0.1"
        assert b"x-patchify-caller" not in dict(inner.seen[-1]["headers"])


# Foreign pages ------------------------------------------------------------------------------------------------


def cors(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control")}


@pytest.mark.parametrize("path", ["/config", "/nothing"])
def test_no_foreign_page_gets_credentials_or_reads_what_is_local(inner, path):
    reflected = {"Access-Control-Allow-Origin": "https://evil.example", "Access-Control-Allow-Credentials": "true"}
    inner.answer = PlainTextResponse("", headers=reflected)
    foreign = [(b"origin", b"https://evil.example")]
    for host in (b"localhost:7860", b"192.168.1.5:7860", b"[::1]"):
        assert cors(asked(gate(inner), "GET", path, headers=foreign, host=host)[2]) == {}
    public = asked(
        gate(inner, hosts=("patchify.example.org",)), "GET", path, headers=foreign, host=b"patchify.example.org"
    )
    assert cors(public[2]) == {"access-control-allow-origin": "*"}
    assert cors(asked(gate(inner), "GET", path, headers=[(b"origin", b"http://localhost:3000")])[2]) != {}
    assert cors(asked(gate(inner), "GET", path)[2]) == {}


def test_a_preflight_is_answered_without_the_requests_own_words(inner):
    asks = [(b"origin", b"https://evil.example"), (b"access-control-request-method", b"POST")]
    status, _, headers = asked(
        gate(inner), "OPTIONS", JOIN, headers=[*asks, (b"access-control-request-headers", b"x-evil")]
    )
    assert status == 204 and "access-control-allow-origin" not in headers and "evil" not in json.dumps(headers)
    status, _, headers = asked(gate(inner), "OPTIONS", JOIN, headers=asks, host=b"8.8.8.8")
    assert status == 204 and headers["access-control-allow-origin"] == "*" and "credentials" not in json.dumps(headers)
    assert asked(gate(inner), "OPTIONS", "/gradio_api/deep_link", headers=asks)[0] == 404


# Bodies -------------------------------------------------------------------------------------------------------


def call(**named: Any) -> bytes:
    return json.dumps({"data": [], "fn_index": 1, "session_hash": "abc"} | named).encode()


def test_a_body_is_passed_on_as_it_was_sent(inner):
    data = call(data=["ü", 1.5, None, {"a": [True]}, "data:image/png;base64," + "A" * 300_000])
    assert asked(gate(inner), "POST", JOIN, data, JSON)[0] == 200
    assert inner.bodies == [data] and inner.seen[0]["patchify_bytes"] == len(data)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe{}", 400),
        (b'{"data": ["\\ud800"]}', 400),
        (b'{"data": [' + b"9" * 6000 + b"]}", 400),
        (b"[" * 40 + b"]" * 40, 413),
        (b"[" * 50_000, 413),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 413),
        (b"[" + b"[]," * 60_000 + b"1]", 413),
        (b'{"data":["' + b"x" * 2_500_000 + b'"]}', 413),
        (call(session_hash="a b"), 400),
        (call(session_hash="x" * 65), 400),
        (call(session_hash=""), 400),
        (call(event_id="../x"), 400),
    ],
    ids=lambda value: value if isinstance(value, int) else value[:12].decode("latin-1"),
)
def test_what_is_no_json_or_too_much_of_it_is_refused_before_it_is_parsed(inner, data, status):
    for path in (JOIN, "/gradio_api/call/search_by_picture", "/gradio_api/call/v2/search_by_picture"):
        code, said, headers = asked(gate(inner), "POST", path, data, JSON)
        assert code == status and sentence(said) and headers["connection"] == "close"
    assert inner.seen == []


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=30,
    )
)
def test_whatever_json_a_page_can_send_is_accepted(value):
    try:
        sent = json.dumps({"data": [value]}, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a character, which no JSON can be written with
        return
    checked_json(sent)
    checked_json(json.dumps({"data": [value]}).encode())


def test_nesting_is_counted_in_what_is_said_and_not_in_brackets():
    checked_json(json.dumps({"data": ["[" * 5000]}).encode())
    checked_json(b"[" * DEEPEST + b"]" * DEEPEST)
    with pytest.raises(Refused):
        checked_json(b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1))


def test_each_kind_of_body_has_its_own_bound(inner):
    opened = gate(inner)
    for path, most in (("/gradio_api/cancel", 64_000), (JOIN, 2_398_101), ("/gradio_api/upload", 1_112_576)):
        pieces = [b" " * (most // 2)] * 3
        status, said, _ = asked(opened, "POST", path, pieces, JSON)
        assert status == 413 and "larger than this server takes" in sentence(said)


def test_a_length_that_is_claimed_is_not_believed(inner):
    headers = [*JSON, (b"content-length", b"2")]
    assert asked(gate(inner), "POST", "/gradio_api/cancel", b"[" + b" " * 70_000 + b"]", headers)[0] == 413


def test_compressed_bodies_are_refused(inner):
    status, said, _ = asked(gate(inner), "POST", JOIN, b"{}", [*JSON, (b"content-encoding", b"gzip")])
    assert status == 415 and sentence(said) and inner.seen == []


def test_long_addresses_and_many_headers_are_refused(inner):
    assert asked(gate(inner), "GET", "/", query=b"q=" + b"x" * 20_000)[0] == 414
    assert asked(gate(inner), "GET", "/", headers=[(b"x-%d" % n, b"1") for n in range(120)])[0] == 431
    assert asked(gate(inner), "GET", "/", headers=[(b"x", b"y" * 40_000)])[0] == 431
    assert asked(gate(inner), "GET", "/", query=b"q=" + b"x" * 1000)[0] == 200


@pytest.mark.parametrize("path", [JOIN, "/gradio_api/upload"])
def test_a_body_that_stops_on_its_way_ends(inner, monkeypatch, path):
    monkeypatch.setattr(bodies, "STALL_S", 0.05)
    status, said, _ = asked(gate(inner), "POST", path, [b"{"], JSON)
    assert status == 408 and "in time" in sentence(said)
    assert inner.bodies == []


def test_a_body_that_trickles_ends_too(monkeypatch):
    monkeypatch.setattr(bodies, "FIRST_S", 0.2)
    monkeypatch.setattr(bodies, "SLOWEST", 100)

    async def trickle() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> None:
        await Reader(10**6).read(Body(trickle, 10**6))

    start = time.monotonic()
    with pytest.raises(Refused) as caught:
        asyncio.run(read())
    assert caught.value.status == 408 and time.monotonic() - start < 10


def test_bodies_on_their_way_share_one_budget_that_is_given_back():
    reader = Reader(10)

    async def endless() -> Any:
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    async def several() -> None:
        with pytest.raises(Refused) as caught:
            await reader.read(Body(endless, 10**9))
        assert caught.value.status == 503

    asyncio.run(several())
    asyncio.run(several())
    assert reader._held == 0


def test_who_leaves_in_the_middle_gets_no_answer_and_reaches_nobody(inner):
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": JOIN,
        "query_string": b"",
        "scheme": "http",
        "client": ("::1", 1),
    }
    asyncio.run(gate(inner)(scope | {"headers": [(b"host", b"[::1]")]}, receive, send))
    assert sent == [] and inner.seen == []


# Faults -------------------------------------------------------------------------------------------------------


def test_a_fault_is_one_sentence_and_one_line_without_what_was_asked(inner, caplog):
    inner.answer = RuntimeError("the stranger's \x1b[31m bytes")
    caplog.set_level(logging.DEBUG)
    for _ in range(3):
        status, said, _ = asked(gate(inner), "GET", "/theme.css")
        assert status == 500 and sentence(said)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("patchify")]
    assert len(lines) == 1 and "RuntimeError" in lines[0] and "stranger" not in caplog.text
    assert "Traceback" not in caplog.text


def test_gradios_own_internal_server_error_is_not_what_is_said():
    async def broken(request: Request) -> None:
        raise ValueError("no")

    behind = Starlette(routes=[Route("/config", broken)])
    status, said, _ = asked(gate(behind), "GET", "/config")
    assert status == 500 and sentence(said)


def test_a_stream_that_fails_is_ended(inner):
    async def pieces() -> Any:
        yield b"first"
        raise RuntimeError("later")

    inner.answer = StreamingResponse(pieces())
    assert asked(gate(inner), "GET", "/gradio_api/queue/data")[:2] == (200, "first")


def test_answers_of_four_hundred_and_more_pass_as_they_are(inner):
    inner.answer = JSONResponse({"detail": "The server is busy."}, 503)
    assert asked(gate(inner), "POST", JOIN, call(), JSON)[:2] == (503, {"detail": "The server is busy."})


# Places -------------------------------------------------------------------------------------------------------


def test_sentences_say_nothing_of_where_files_are(tmp_path):
    folder = tmp_path / "some where" / "my.gallery"
    places.hide(folder)
    said = places.without_places(f"The picture {folder}/gallery/1.jpg is gone from {folder}: put it back.")
    assert said == "The picture gallery/1.jpg is gone from the folder: put it back."
    plain = "See /gradio_api/info, or send a picture of 3/4 MB."
    assert places.without_places(plain) == plain
