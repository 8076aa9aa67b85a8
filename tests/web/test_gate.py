"""web.gate, used and callers: what strangers may ask, under which name, and who they are."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from patchify_core.demo.settings import ServerSettings, networks
from patchify_core.web import callers
from patchify_core.web.allowed import matching
from patchify_core.web.bodies import Refused
from patchify_core.web.gate import Gate
from patchify_core.web.serving import Gates
from tests.asgi import JOIN, JSON, SIZES, Inner, asked, gate, sentence


@pytest.fixture
def inner() -> Inner:
    return Inner()


# Addresses ----------------------------------------------------------------------------------------------------

REFUSED = {
    "api", "app_id", "component_server", "custom_component", "deep_link", "dev", "file", "file=", "login",
    "login_check", "logout", "monitoring", "process_recording", "proxy=", "pwa_icon", "queue/status", "run",
    "run-history", "runs", "stream", "svelte", "token", "undo-vibe-edit", "user", "vibe-code",
    "vibe-edit", "vibe-starter-queries",
}  # fmt: skip
"""First parts of the addresses of Gradio 6.31.0 that nothing uses."""

ELSEWHERE = {"/gradio_api/theme.css", "/manifest.json", "/openapi.json", "/gradio_api/mcp/messages"}
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
        if matching(opened.addresses, filled(path).rstrip("/") or "/") or path in ELSEWHERE:
            continue
        with pytest.raises(Refused):
            opened.address_of(method, filled(path))
        if not known:
            strangers.append((method, path))
    assert strangers == [], "routes of Gradio's that nobody has decided about: list them as used or as refused"


def test_what_is_refused_never_reaches_gradio(gradios, inner):
    for method, path in gradios:
        if method in ("WEBSOCKET", "ANY", "UNKNOWN"):
            continue
        try:
            gate(inner).address_of(method, filled(path))
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


@pytest.mark.parametrize("comes", ["before", "while it waits", "never"])
def test_the_server_starts_at_once_and_the_application_when_it_is_there(inner, comes):
    """`lifespan.startup` is answered before the application is there; it hears of the start and of the end later."""
    heard: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        for kind in ("startup", "shutdown"):
            heard.append((await receive())["type"])
            await send({"type": f"lifespan.{kind}.complete"})

    async def main() -> list[str]:
        late = Gate(ServerSettings(), SIZES)
        messages: asyncio.Queue[Any] = asyncio.Queue()
        said: asyncio.Queue[Any] = asyncio.Queue()
        if comes == "before":
            late.open(application, ())
        running = asyncio.create_task(Gates(late, {})({"type": "lifespan"}, messages.get, said.put))
        messages.put_nowait({"type": "lifespan.startup"})
        first = await asyncio.wait_for(said.get(), 60)
        if comes == "while it waits":
            threading.Thread(target=late.open, args=(application, ())).start()
        while comes != "never" and not heard:
            await asyncio.sleep(0.01)
        messages.put_nowait({"type": "lifespan.shutdown"})
        second = await asyncio.wait_for(said.get(), 60)
        await asyncio.wait_for(running, 60)
        return [first["type"], second["type"]]

    assert asyncio.run(main()) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert heard == ([] if comes == "never" else ["lifespan.startup", "lifespan.shutdown"])


def test_what_is_asked_before_the_application_is_there_waits_or_is_told(inner, monkeypatch):
    """The first page is answered; Gradio's addresses wait; others say that the server is starting."""
    front = [Route("/", lambda request: PlainTextResponse("first"))]
    late = Gate(ServerSettings(), SIZES, front=front)
    status, said, _ = asked(late, "GET", "/")
    assert (status, said) == (200, "first")
    status, said, _ = asked(late, "GET", "/health")
    assert status == 503 and "starting" in sentence(said)
    assert asked(late, "POST", "/own")[0] == 503  # a page that is quicker than the application tries again
    monkeypatch.setattr("patchify_core.web.gate.START_S", 0.05)
    status, said, _ = asked(late, "GET", "/config")
    assert status == 503 and "starting" in sentence(said)
    late.open(inner, [Route("/health", lambda request: None)])
    for path, seen in (("/config", "/config"), ("/health", "/health"), ("/photos", "/")):
        assert asked(late, "GET", path)[0] == 200 and inner.seen[-1]["path"] == seen
    assert asked(late, "GET", "/")[1] == "first"


def test_the_first_page_and_those_of_other_galleries_answer_below_a_path_whether_a_proxy_strips_it(inner):
    server = ServerSettings(root_path="/patchify")

    def gate_of(name: str, path: str) -> Gate:
        below = replace(server, root_path=f"/patchify{path}")
        made = Gate(below, SIZES, front=[Route("/", lambda request: PlainTextResponse(name))])
        made.open(inner, ())
        return made

    gates = Gates(gate_of("first", ""), {"/gallery/town": gate_of("town", "/gallery/town")}, "/patchify")
    for root in ("", "/patchify"):
        assert asked(gates, "GET", f"{root}/")[:2] == (200, "first")
        for path in ("/gallery/town/", "/gallery/town"):
            assert asked(gates, "GET", f"{root}{path}")[:2] == (200, "town")
        assert asked(gates, "GET", f"{root}/gallery/town/config")[0] == 200 and inner.seen[-1]["path"] == "/config"
        for path in ("/gallery/towns/", "/gallery/", "/gallery/town/nothing", "/gallery/town/../../x"):
            status, said, _ = asked(gates, "GET", f"{root}{path}")
            assert status == 404 and sentence(said)
    assert asked(gates, "GET", "/patchify")[:2] == (200, "first")


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
    on_space = Gate(server, SIZES)
    on_space.open(inner, ())
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
    behind = gate(inner, proxies=networks("127.0.0.1"), hosts=("patchify.example.org",))
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
    assert callers.caller_of(peer, forwarded, networks("10.0.0.0/8")) == caller


@given(st.lists(st.ip_addresses(), max_size=5), st.ip_addresses(v=4))
def test_whatever_a_stranger_claims_they_are_the_address_that_the_proxy_saw(claimed, real):
    proxies = networks("10.0.0.0/8")
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


def test_only_what_tools_need_of_a_clients_headers_is_passed_on(inner):
    sent = [(b"cookie", b"a=\xff"), (b"x-evil", b"1"), (b"mcp-protocol-version", b"2025-06-18"), (b"accept", b"\xe9")]
    assert asked(gate(inner, tools=True), "POST", "/gradio_api/mcp/", b"{}", [*JSON, *sent])[0] == 200
    passed_on = dict(inner.seen[-1]["headers"])
    assert set(passed_on) == {b"host", b"content-type", b"mcp-protocol-version", b"x-patchify-caller"}


def test_whoever_hangs_up_is_not_in_the_log(inner, caplog):
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        try:
            raise asyncio.CancelledError  # as the server's tasks are when the connection is lost
        except asyncio.CancelledError as error:
            raise RuntimeError("streaming") from error

    asked(gate(answer), "GET", "/gradio_api/queue/data")
    assert "failed" not in caplog.text


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
    assert asked(gate(inner), "POST", JOIN, b"{}", JSON)[:2] == (503, {"detail": "The server is busy."})
