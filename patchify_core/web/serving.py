"""The uvicorn server: the gate with the first page at once, and Gradio behind it as soon as it is loaded.

Each connection has deadlines for sending a request and for reading the answer, and no address can take all of them.
uvicorn 0.54 waits forever for the first request of a connection, for the end of its headers and for a client that does
not read its answer; and asyncio, once the process may open no more files, writes a traceback for each connection that
it cannot accept, many thousands a second. Gradio 6.31.0 configures uvicorn in `http_server.start_server` without
options: it limits neither the number of connections nor their time, and trusts X-Forwarded-For from the loopback.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.bodies import Message, Receive, Refused
from patchify_core.web.callers import group_of
from patchify_core.web.front import Front
from patchify_core.web.gate import App, Gate, Scope, Send

HEAD_S = 15.0
"""Seconds within which the headers of a request must have arrived, from when the connection is open or idle."""

UNREAD_S = 30.0
"""Seconds within which a client must have read what fills the buffers of its connection."""

STOP_S = 3
"""Seconds for unfinished answers when the server stops."""

MOST = 1000
"""Connections at once, at most. A browser opens six."""

RESERVE = 256
"""Open files kept for pictures, indexes and uploads."""


class TimedConnection(H11Protocol):
    """A connection with deadlines. If there are too many, the address with the most of them loses one."""

    most = MOST
    """Connections at once, at most."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; close one if there are too many."""
        super().connection_made(transport)
        self.group = group_of(self.client[0]) if self.client else ""
        self._head: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self.since = self.loop.time()
        self._expect_request()
        if len(self.connections) > self.most:
            # Several may open before a closed one is removed: it makes room once, not for each of them.
            alive = [one for one in self.connections if isinstance(one, TimedConnection) and not one.is_ending]
            if len(alive) > self.most:
                _surplus(self, alive).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        super().connection_lost(exc)
        _cancel(self._head)
        _cancel(self._unread)

    @property
    def is_ending(self) -> bool:
        """Whether it is about to be closed."""
        return bool(self.transport.is_closing())

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def handle_events(self) -> None:
        """Handle new data as uvicorn does; a complete request has met its deadline."""
        super().handle_events()
        if self.is_idle:
            self._expect_request()
        else:
            _cancel(self._head)
            self._head = None

    def on_response_complete(self) -> None:
        """End an answer as uvicorn does; the next request gets a deadline."""
        super().on_response_complete()
        self.since = self.loop.time()
        if self.is_idle:
            self._expect_request()

    def pause_writing(self) -> None:
        """Stop writing, because the client does not read; start its deadline."""
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(UNREAD_S, self.abort)

    def resume_writing(self) -> None:
        """Write again, because the client reads."""
        super().resume_writing()
        _cancel(self._unread)
        self._unread = None

    def abort(self) -> None:
        """Close the connection at once, without sending the rest."""
        self.transport.abort()

    def _expect_request(self) -> None:
        if self._head is None and not self.transport.is_closing():
            self._head = self.loop.call_later(HEAD_S, self.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _surplus(newest: TimedConnection, connections: list[TimedConnection]) -> TimedConnection:
    """Return the connection to close: of the address with the most of them, the one that has been idle longest.

    Args:
        newest: The one too many; it is the one if its address has as many as any and none of the others is idle.
        connections: All of them.
    """
    counts = Counter(one.group for one in connections)
    largest = max(counts, key=lambda group: (counts[group], group == newest.group))
    others = [one for one in connections if one.group == largest and one is not newest]
    idle = min((one for one in others if one.is_idle), key=lambda one: one.since, default=None)
    if idle is not None:
        return idle
    return newest if largest == newest.group else max(others, key=lambda one: one.since)


def room_for_connections() -> int:
    """Raise the process's limit of open files if possible, and return how many connections fit into it."""
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
    """Return uvicorn's configuration.

    Args:
        app: The ASGI application.
        host: Address to listen on.
        port: Port to listen on.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_ours)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=type("Limited", (TimedConnection,), {"most": room_for_connections()}),
        ws="none",
        log_level="warning",
        log_config=None,  # see `logs`
        access_log=False,
        proxy_headers=False,  # `gate` knows the trusted proxies
        server_header=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=STOP_S,
    )


def _is_ours(record: logging.LogRecord) -> bool:
    """Return whether a line of uvicorn's log is about this server, not about a client or the shutdown."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):  # unfinished answers at the end
        return False
    return not record.getMessage().startswith(
        ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket", "ASGI callable returned", "Cancel ")
    )


START_S = 10.0
"""Seconds within which the server must listen."""


class Gates:
    """The gates of a server's galleries: the first at the server's own address, the others below it.

    Args:
        first: The gate at the server's own address.
        others: Path below the server's, such as /gallery/town -> its gate.
        root_path: Of the server.
    """

    def __init__(self, first: Gate, others: Mapping[str, Gate], root_path: str = "") -> None:
        self.first, self.others, self._root = first, others, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to its gate."""
        if scope["type"] == "lifespan":
            await _lifespan([gate.app for gate in (self.first, *self.others.values())], receive, send)
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


async def _lifespan(apps: Sequence[App], receive: Receive, send: Send) -> None:
    """Report the startup at once; start each application when it is there, and end it with the server."""
    queues: list[asyncio.Queue[Message]] = [asyncio.Queue() for _ in apps]
    startup = await receive()
    for messages in queues:
        messages.put_nowait(startup)
    await send({"type": "lifespan.startup.complete"})
    tasks = [asyncio.create_task(_run_lifespan(app, messages)) for app, messages in zip(apps, queues, strict=True)]
    shutdown = await receive()
    for messages, task in zip(queues, tasks, strict=True):
        messages.put_nowait(shutdown)
        if messages.qsize() == 2:  # the application never came
            task.cancel()
    await asyncio.wait(tasks)
    await send({"type": "lifespan.shutdown.complete"})


async def _run_lifespan(app: App, messages: asyncio.Queue[Message]) -> None:
    async def ignore(message: Message) -> None:
        """Do nothing: the server has reported its startup already."""

    while True:
        try:
            return await app({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, ignore)
        except Refused:
            continue  # it is still being loaded


class Server(uvicorn.Server):
    """uvicorn in a thread of its own, with the methods by which Gradio stops its server.

    Args:
        gates: The application.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        OSError: If the port is taken, or the address is not this machine's.
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
        """Leave signals to `launch`."""

    def close(self) -> None:
        """Stop the server."""
        self.should_exit = True
        self.thread.join(timeout=5)


def serve_front(fronts: Mapping[str, Front], server: ServerSettings, settings: PageSettings, tools: bool) -> Server:
    """Start the server with the first pages; all other requests wait for Gradio.

    Args:
        fronts: Path below the server's -> the first page of a gallery; the first one is at the server's own address.
        server: Address, names and proxies of the server.
        settings: Of the page.
        tools: Whether there is an MCP server.

    Raises:
        OSError: If the port is taken, or the address is not this machine's.
    """

    def gate(path: str, front: Front) -> Gate:
        below = replace(server, root_path=f"{server.root_path}{path}")
        return Gate(below, settings, tools and not path, front.routes())

    gates = {path: gate(path, front) for path, front in fronts.items()}
    first = gates.pop(next(iter(gates)))
    return Server(Gates(first, gates, server.root_path), server.host, server.port)


def serve_gradio(server: Server, ours: Iterable[Route], forget_s: float, number: int = 0) -> None:
    """Have the next `Blocks.launch` use a running server instead of starting one.

    Args:
        server: The running server.
        ours: Our own routes in Gradio's application.
        forget_s: Seconds without a request after which a session is dropped before any other.
        number: Of the gallery whose page it is.
    """
    import gradio.http_server

    from patchify_core.web.fair_queue import FairStates

    def start(app: Any, server_name: str, server_port: int, **options: Any) -> tuple[str, int, str, Any]:
        app.state_holder = FairStates(forget_s)
        app.state_holder.set_blocks(app.blocks)
        server.gates[number].open(app, ours)
        return server_name, server_port, f"{server.address[:-1]}{server.paths[number]}/", server

    gradio.http_server.start_server = start  # type: ignore[assignment]  # where Gradio's launch looks for it
