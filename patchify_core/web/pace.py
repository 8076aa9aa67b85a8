"""Requests and answers that take their time: a connection on which nothing moves is ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from patchify_core.errors import PatchifyError


@dataclass(frozen=True)
class Pace:
    """How slow a connection may be.

    Attributes:
        piece_s: seconds in which the next piece must come or go.
        least: bytes per second that must come on average.
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
