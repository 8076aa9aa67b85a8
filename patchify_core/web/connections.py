"""The server's connections: each has a deadline for what it asks and for what it takes, and no address has them all.

uvicorn 0.54 waits for ever for the first request of a connection, for the end of its headers and for a client that does
not read its answer; and asyncio, once the process may open no further file, writes a traceback for each connection that
it cannot accept, many thousands a second.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from patchify_core.web.callers import group_of

HEAD_S = 15.0
"""Seconds in which the line and the headers of a request must have come, from when the connection is there or free."""

UNREAD_S = 60.0
"""Seconds in which a client must have taken what fills its connection."""

STOP_S = 3
"""Seconds that answers under way get when the server ends."""

MOST = 1000
"""Connections at once. A browser opens six."""

RESERVE = 256
"""Files that the process opens besides: pictures, indexes, uploads."""


class Connection(H11Protocol):
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
            _surplus(self, [one for one in self.connections if isinstance(one, Connection)]).abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the deadlines."""
        super().connection_lost(exc)
        _cancel(self._head)
        _cancel(self._unread)

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


def _surplus(newest: Connection, connections: list[Connection]) -> Connection:
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
        http=type("Limited", (Connection,), {"most": room_for_connections()}),
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
