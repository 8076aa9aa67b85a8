"""web.serving: deadlines and shares of connections, on a loopback server with short deadlines."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from patchify_core.web import serving
from patchify_core.web.serving import _surplus, configured, room_for_connections

SOON_S = 0.4
"""Deadlines in these tests."""

LATE_S = 15.0
"""After this long a deadline that has not come is not coming."""

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = b"x" * 20_000_000


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """A page, a large file, and a stream that goes on until whoever reads it leaves."""
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = LARGE if scope["path"] == "/large" else b"hello"
    await send({"type": "http.response.body", "body": body, "more_body": False})


@contextmanager
def listening(most: int = 100) -> Iterator[tuple[int, uvicorn.Server]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = configured(answer, "127.0.0.1", port)
    config.http.most = most  # type: ignore[union-attr]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port, server
    server.should_exit = True
    thread.join(60)


@pytest.fixture
def short(monkeypatch) -> None:
    monkeypatch.setattr(serving, "HEAD_S", SOON_S)
    monkeypatch.setattr(serving, "UNREAD_S", SOON_S)


def connected(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=LATE_S, source_address=(source, 0))


def is_ended(one: socket.socket) -> bool:
    """Whether the server has ended it; waits for that."""
    try:
        while one.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: loc", REQUEST + b"GET / HTTP/1.1\r\n"])
def test_a_request_that_does_not_come_ends_the_connection(short, sent):
    with listening() as (port, _), closing(connected(port)) as one:
        one.sendall(sent)
        assert is_ended(one)


def test_a_head_that_trickles_ends_too(short):
    with listening() as (port, _), closing(connected(port)) as one:
        end, ended = time.monotonic() + LATE_S, False
        while time.monotonic() < end and not ended:
            try:
                one.sendall(b"X")
            except OSError:
                ended = True
            time.sleep(0.05)
        assert ended


def test_an_answer_may_take_longer_than_a_request_may(short):
    with listening() as (port, _), closing(connected(port)) as one:
        one.sendall(REQUEST.replace(b"/ ", b"/stream ", 1))
        found = b""
        while not found.endswith(b"begun\r\n") and (piece := one.recv(65536)):
            found += piece
        assert b"begun" in found
        time.sleep(3 * SOON_S)
        one.setblocking(False)
        with pytest.raises(BlockingIOError):  # nothing more, and no end
            one.recv(1)


def test_a_connection_is_used_again():
    with listening() as (port, _), closing(connected(port)) as one:
        for _ in range(3):
            one.sendall(REQUEST)
            found = b""
            while not found.endswith(b"0\r\n\r\n"):
                found += one.recv(65536)
            assert found.startswith(b"HTTP/1.1 200")


def test_who_does_not_read_what_was_asked_for_is_not_waited_for(short):
    with listening() as (port, server), closing(connected(port)) as one:
        one.sendall(REQUEST.replace(b"/ ", b"/large ", 1))
        end = time.monotonic() + LATE_S
        while server.server_state.connections or not server.server_state.total_requests:
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback")
def test_one_address_cannot_take_all_connections(monkeypatch):
    monkeypatch.setattr(serving, "HEAD_S", 600.0)  # none ends because it says nothing
    with listening(most=20) as (port, server):
        greedy = [connected(port, "127.0.0.9") for _ in range(19)]
        for one in greedy[:10]:
            one.sendall(REQUEST.replace(b"/ ", b"/stream ", 1))
            assert one.recv(100)
        for number in range(6):
            with closing(connected(port, f"127.0.0.{20 + number}")) as other:
                other.sendall(REQUEST)
                assert other.recv(65536).startswith(b"HTTP/1.1 200")
        more = [connected(port, "127.0.0.9") for _ in range(10)]
        with closing(connected(port, "127.0.0.9")) as own:
            own.sendall(REQUEST)
            assert own.recv(65536).startswith(b"HTTP/1.1 200")
        deadline = time.monotonic() + LATE_S
        while len(server.server_state.connections) > 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(server.server_state.connections) <= 20
        for one in [*greedy, *more]:
            one.close()


def fake(group: str, idle: bool, since: float = 0.0) -> Any:
    return SimpleNamespace(group=group, is_idle=idle, since=since)


def test_the_connection_that_was_idle_for_longest_ends_first_of_the_largest_address():
    busy, idle, later, other = fake("a", False, 1), fake("a", True, 2), fake("a", True, 3), fake("b", True, 4)
    assert _surplus(other, [busy, later, idle, other]) is idle
    assert _surplus(later, [busy, later, idle, other]) is idle  # who fills the server with nothing is in no one's way
    assert _surplus(other, [busy, newest := fake("a", False, 2), other]) is newest
    assert _surplus(other, [fake("a", True), other]) is other  # whoever has as many makes no room for more of theirs
    assert _surplus(busy, [busy, fake("a", False), other]) is busy


def test_there_is_room_for_more_files_than_connections():
    assert 16 <= room_for_connections() <= serving.MOST


def test_the_log_says_nothing_about_what_clients_do(caplog):
    caplog.set_level(logging.DEBUG)
    with listening() as (port, _):
        for sent in (b"\x00\x01nonsense\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n"):
            with closing(connected(port)) as one:
                one.sendall(sent)
                assert b"400" in one.recv(65536)
        with closing(connected(port)) as one:
            one.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"))
            assert one.recv(65536).startswith(b"HTTP/1.1 200")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [one for one in said if not one.startswith("Task was destroyed")] == []  # that is another test's


def test_the_log_still_says_what_is_wrong_with_the_server():
    def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
        trace = None if error is None else (type(error), error, None)
        return logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, message, (), trace)

    failed = "Exception in ASGI application"
    assert serving._is_ours(record(failed, ValueError())) and serving._is_ours(record("No such address"))
    assert not serving._is_ours(record(failed, asyncio.CancelledError()))


def test_nobody_says_who_they_are_but_the_gate_finds_out():
    config = configured(answer, "127.0.0.1", 1)
    assert config.proxy_headers is False and config.access_log is False
