"""The server: our gate with the first page at once, and Gradio behind it as soon as it is loaded.

Each connection has a deadline for what it asks and for what it takes, and no address has them all. uvicorn 0.54 waits
for ever for the first request of a connection, for the end of its headers and for a client that does not read its
answer; and asyncio, once the process may open no further file, writes a traceback for each connection that it cannot
accept, many thousands a second. Gradio 6.31.0 configures uvicorn in `http_server.start_server` and lets nobody say how:
without a limit of connections or of their time, and with X-Forwarded-For believed from the loopback interface.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.bodies import Receive
from patchify_core.web.callers import group_of
from patchify_core.web.front import Front
from patchify_core.web.gate import Gate, Scope, Send, lifespan

HEAD_S = 15.0
"""Seconds in which the line and the headers of a request must have come, from when the connection is there or free."""

UNREAD_S = 30.0
"""Seconds in which a client must have taken what fills its connection."""

STOP_S = 3
"""Seconds that answers under way get when the server ends."""

MOST = 1000
"""Connections at once. A browser opens six."""

RESERVE = 256
"""Files that the process opens besides: pictures, indexes, uploads."""


class TimedConnection(H11Protocol):
    """A connection with deadlines. When there are too many, the address with the most of them loses one."""

    most = MOST
    """Connections at once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, or ends one."""
        super().connection_made(transport)
        self.group = group_of(self.client[0]) if self.client else ""
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.since = self.loop.time()
        self._expect_request()
        if len(self.connections) > self.most:
            # Several may come before one that was ended is forgotten: it makes room once, not for each of them.
            alive = [one for one in self.connections if isinstance(one, TimedConnection) and not one.is_ending]
            if len(alive) > self.most:
                _surplus(self, alive).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the deadlines."""
        super().connection_lost(exc)
        _cancel(self._head)
        _cancel(self._unread)

    @property
    def is_ending(self) -> bool:
        """Whether it is closed as soon as the loop comes to it."""
        return bool(self.transport.is_closing())

    @property
    def is_idle(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def handle_events(self) -> None:
        """As uvicorn's; a request that is whole meets its deadline."""
        super().handle_events()
        if self.is_idle:
            self._expect_request()
        else:
            _cancel(self._head)
            self._head = None

    def on_response_complete(self) -> None:
        """As uvicorn's; the next request gets a deadline."""
        super().on_response_complete()
        self.since = self.loop.time()
        if self.is_idle:
            self._expect_request()

    def pause_writing(self) -> None:
        """The client takes nothing at present."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_S, self.abort)

    def resume_writing(self) -> None:
        """The client takes what it is sent."""
        super().resume_writing()
        _cancel(self._unread)
        self._unread = None

    def abort(self) -> None:
        """Ends the connection at once, whatever is still to be sent."""
        self.transport.abort()

    def _expect_request(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_S, self.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _surplus(newest: TimedConnection, connections: list[TimedConnection]) -> TimedConnection:
    """Which connection ends: one of the address with the most of them, the one that has been idle for longest.

    Args:
        newest: the one that was one too many; it ends if its own address has as many as any, and none of them is idle.
        connections: all of them.
    """
    counts = Counter(one.group for one in connections)
    largest = max(counts, key=lambda group: (counts[group], group == newest.group))
    others = [one for one in connections if one.group == largest and one is not newest]
    idle = min((one for one in others if one.is_idle), key=lambda one: one.since, default=None)
    if idle is not None:
        return idle
    return newest if largest == newest.group else max(others, key=lambda one: one.since)


def room_for_connections() -> int:
    """Connections that there may be, after the process has been allowed more files where it can be."""
    if sys.platform == "win32":
        return MOST
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (MOST + RESERVE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (OSError, ValueError):  # the system allows no more
            pass
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - RESERVE, soft // 2))


def configured(app: Any, host: str, port: int) -> uvicorn.Config:
    """How uvicorn serves the page.

    Args:
        app: what answers.
        host: address to listen on.
        port: port to listen on.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("Limited", (TimedConnection,), {"most": room_for_connections()}),
        ws="none",
        log_level="warning",
        log_config=None,  # its lines go where all lines go (`logs`)
        access_log=False,
        proxy_headers=False,  # `gate` knows which proxies count
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_S,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a line of uvicorn's log is about this server and not about what some client did, or how it all ends."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):  # answers under way at the end
        return False
    return not record.getMessage().startswith(
        ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket", "ASGI callable returned", "Cancel ")
    )


START_S = 10.0
"""Seconds in which the server listens, or something is wrong with this machine."""


class Gates:
    """The gates of a server's galleries: the first at its own address, the others below it.

    Args:
        first: of the gallery that the server's own address shows.
        others: path below the server's, such as /gallery/town -> its gate.
        root_path: of the server.
    """

    def __init__(self, first: Gate, others: Mapping[str, Gate], root_path: str = "") -> None:
        self.first, self.others, self._root = first, others, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on to the gate that it is for."""
        if scope["type"] == "lifespan":
            await lifespan([gate.app for gate in (self.first, *self.others.values())], receive, send)
            return
        path = str(scope.get("path", ""))
        below = path.removeprefix(self._root) if self._root and path.startswith(f"{self._root}/") else path
        for at, gate in self.others.items():
            if below == at or below.startswith(f"{at}/"):
                scope = {**scope, "path": below[len(at) :] or "/"}
                scope["raw_path"] = quote(scope["path"]).encode()
                await gate(scope, receive, send)
                return
        await self.first(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn in a thread of its own, with the methods that Gradio ends its server with.

    Args:
        gates: what answers.
        host: address to listen on.
        port: port to listen on.

    Raises:
        OSError: if the port is taken, or the address is not this machine's.
    """

    def __init__(self, gates: Gates, host: str, port: int) -> None:
        host = host.strip("[]")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            pass
        self.gates = [gates.first, *gates.others.values()]
        self.paths = ["", *gates.others]
        local = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.address = f"http://{local}:{port}/"
        super().__init__(configured(gates, host, port))
        self.thread = threading.Thread(target=self.run, daemon=True, name="server")
        self.thread.start()
        until = time.monotonic() + START_S
        while not self.started:
            if time.monotonic() > until or not self.thread.is_alive():
                raise OSError(f"the server at {self.address} did not start")
            time.sleep(1e-3)

    def install_signal_handlers(self) -> None:
        """Leaves signals to `launch`."""

    def close(self) -> None:
        """Ends it."""
        self.should_exit = True
        self.thread.join(timeout=5)


def serve_front(fronts: Mapping[str, Front], server: ServerSettings, settings: PageSettings, tools: bool) -> Server:
    """Starts the server with the first page; whatever else is asked waits for Gradio.

    Args:
        fronts: path below the server's -> the first page over a gallery; the first is at the server's own address.
        server: where, and names and proxies of the server.
        settings: of the page.
        tools: whether the MCP server is offered.

    Raises:
        OSError: if the port is taken, or the address is not this machine's.
    """

    def gate(path: str, front: Front) -> Gate:
        below = replace(server, root_path=f"{server.root_path}{path}")
        return Gate(None, (), below, settings, tools and not path, front.routes())

    gates = {path: gate(path, front) for path, front in fronts.items()}
    first = gates.pop(next(iter(gates)))
    return Server(Gates(first, gates, server.root_path), server.host, server.port)


def serve_gradio(server: Server, ours: Iterable[Route], forget_s: float, number: int = 0) -> None:
    """Puts what `Blocks.launch` serves next behind a server that runs already, with visits that a flood cannot end.

    Args:
        server: that runs.
        number: of the gallery whose page it is.
        ours: our own routes in Gradio's application.
        forget_s: seconds without a request after which a visit is forgotten before any other.
    """
    import gradio.http_server

    from patchify_core.web.guarded import FairStates

    def start(app: Any, server_name: str, server_port: int, **unused: Any) -> tuple[str, int, str, Any]:
        app.state_holder = FairStates(forget_s)
        app.state_holder.set_blocks(app.blocks)
        server.gates[number].open(app, ours)
        return server_name, server_port, f"{server.address[:-1]}{server.paths[number]}/", server

    gradio.http_server.start_server = start  # type: ignore[assignment]  # where Gradio's launch looks for it
