"""Requests and answers that take their time: a connection on which nothing moves is ended."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from patchify_core.errors import PatchifyError


@dataclass(frozen=True)
class Pace:
    """How slow a connection may be.

    Attributes:
        piece_s: seconds in which the next piece must come or go.
        least: bytes a second that must come on average.
        grace_s: seconds after which the average counts.
    """

    piece_s: float = 15.0
    least: int = 4_000
    grace_s: float = 30.0


PACE = Pace()
STALLED = "The upload has stopped or is too slow: check your connection, then send the file again."


async def paced(request: Request, pace: Pace | None = None) -> AsyncIterator[bytes]:
    """The body of a request, piece by piece.

    Raises:
        PatchifyError: if nothing comes for a while, or too little.
        ClientDisconnect: if the visitor has left in the middle.
    """
    pace = pace or PACE
    stream, began, size = request.stream(), time.monotonic(), 0
    while True:
        try:
            piece = await asyncio.wait_for(stream.__anext__(), pace.piece_s)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise PatchifyError(STALLED) from None
        size += len(piece)
        took = time.monotonic() - began
        if took > pace.grace_s and size < took * pace.least:
            raise PatchifyError(STALLED)
        yield piece


class Slots:
    """So many at a time, and so many of one.

    Args:
        most: in all.
        of_one: of one visitor or address.
    """

    def __init__(self, most: int, of_one: int) -> None:
        """All are free. Used by the event loop alone."""
        self.most, self.of_one = most, of_one
        self._taken: Counter[str] = Counter()

    def take(self, one: str) -> bool:
        """Takes a slot, if there is one."""
        if self._taken[one] >= self.of_one or self._taken.total() >= self.most:
            return False
        self._taken[one] += 1
        return True

    def give(self, one: str) -> None:
        """Gives it back."""
        self._taken[one] -= 1
        self._taken += Counter()  # without those that have none


@dataclass(frozen=True, eq=False)
class Ticket:
    """Somebody's turn.

    Attributes:
        address: of whoever waits for it.
        needs: what it takes, in any unit.
        begun: done as soon as it has begun.
    """

    address: str
    needs: int = 0
    begun: Future[None] = field(default_factory=Future)


class AddressTurns:
    """Where some must wait, addresses take turns, however much each of them asks for. Safe to use from any thread.

    Args:
        fits: ticket, those that have begun -> whether it may begin now.
    """

    def __init__(self, fits: Callable[[Ticket, Collection[Ticket]], bool]) -> None:
        """Nobody waits."""
        self._fits, self._lock, self._numbers = fits, threading.Lock(), itertools.count()
        self._waiting: list[Ticket] = []
        self._begun: list[Ticket] = []
        self._order: dict[str, int] = {}  # address -> number of its coming, or of when it last had a turn

    def ask(self, address: str, needs: int = 0) -> Ticket:
        """Waits for a turn; whoever asks calls `end`, however it goes."""
        ticket = Ticket(address, needs)
        with self._lock:
            self._order.setdefault(address, next(self._numbers))
            self._waiting.append(ticket)
            self._begin()
        return ticket

    def end(self, ticket: Ticket) -> None:
        """Ends a turn, or the wait for one."""
        with self._lock:
            (self._begun if ticket in self._begun else self._waiting).remove(ticket)
            self._order[ticket.address] = next(self._numbers)
            if all(one.address != ticket.address for one in (*self._begun, *self._waiting)):
                del self._order[ticket.address]
            self._begin()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """A turn, waited for in the event loop."""
        ticket = self.ask(address)
        try:
            await asyncio.wrap_future(ticket.begun)
            yield
        finally:
            self.end(ticket)

    def _begin(self) -> None:
        def next_one() -> Ticket | None:
            ordered = sorted(self._waiting, key=lambda one: self._order[one.address])
            return next((one for one in ordered if self._fits(one, self._begun)), None)

        while ticket := next_one():
            self._waiting.remove(ticket)
            self._begun.append(ticket)
            self._order[ticket.address] = next(self._numbers)
            if ticket.begun.set_running_or_notify_cancel():  # else whoever waited has just given up, and will end it
                ticket.begun.set_result(None)


class Download(StreamingResponse):
    """An answer that is made while it is sent, so that it lies nowhere; it ends if nobody reads it.

    Args:
        pieces: what is sent.
        ended: called once, however it ends.
        pace: see `Pace`.
        options: those of `StreamingResponse`.
    """

    def __init__(
        self, pieces: Iterator[bytes], ended: Callable[[], None], pace: Pace | None = None, **options: Any
    ) -> None:
        """Sends nothing yet."""
        super().__init__(pieces, **options)
        self._pieces, self._ended, self._pace = pieces, ended, pace or PACE

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Sends it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
            self._ended()

    async def stream_response(self, send: Any) -> None:
        """As Starlette's; whoever takes no more is left."""

        async def in_time(message: Any) -> None:
            await asyncio.wait_for(send(message), self._pace.piece_s)

        try:
            await super().stream_response(in_time)
        except asyncio.TimeoutError:
            pass  # the server closes a connection whose answer is not whole
