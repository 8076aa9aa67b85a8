"""Limits of request bodies: their size, their pace, and the depth of JSON, checked before anything parses them."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from patchify_core.demo.settings import PageSettings
from patchify_core.web.callers import CALLER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

KILOBYTE, MEGABYTE = 1_000, 1_000_000
TOO_SLOW = "The request stopped or is too slow: check your connection, then send it again."

SMALL = 64 * KILOBYTE
"""Bytes of JSON without a picture in it, at most."""

VALUES = 100_000
"""Values in one JSON text, at most; each takes a hundred bytes of memory, however short it is."""

DEEPEST = 32
"""Nesting of its lists and objects, at most."""

PACE_S, STALL_S, SLOWEST = 30.0, 15.0, 2_000
"""In each PACE_S seconds SLOWEST bytes per second must arrive, or the rest of the body, and something every STALL_S."""

CALL_S = 300.0
"""Seconds for a body that is kept in memory until it is complete. It must keep the pace for that too: a body that has
almost arrived and then trickles ends sooner."""

TOGETHER, OF_ONE = 8, 4
"""Bodies of the largest size that fit into memory while they arrive, in total and per caller; the first `SMALL` bytes
of each body do not count."""

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Refused(Exception):
    """A request that is refused.

    Attributes:
        status: Of the answer.
        sentence: The answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Sizes:
    """Largest number of bytes of each kind of body (`allowed.Allowed.body`).

    Attributes:
        json: Of a few values.
        call: Of a call: a picture as a data: address, a third longer than its bytes, and a megabyte of other values.
        upload: Of an upload as a form: one picture and what the form adds.
        own: Of a file for a visitor's own pictures.
    """

    json: int
    call: int
    upload: int
    own: int
    nothing: int = 0

    @classmethod
    def of(cls, settings: PageSettings) -> Sizes:
        """Derive the limits from the settings of the page."""
        picture = settings.upload_mb << 20
        return cls(SMALL, picture * 4 // 3 + MEGABYTE, picture + SMALL, (settings.archive_mb << 20) + MEGABYTE)


class Body:
    """A `receive` of ASGI that limits size and pace of a body.

    Args:
        receive: The server's own.
        most: Bytes, at most.
        longest_s: Seconds, at most.

    Attributes:
        received: Bytes so far.
        refused: Why the body was given up, or None; its reader then sees a disconnected client.
    """

    def __init__(self, receive: Receive, most: int, longest_s: float = math.inf) -> None:
        self._receive, self._most, self._longest = receive, most, longest_s
        self._start, self._done = time.monotonic(), False
        self._pending: asyncio.Future[Message] | None = None
        self.received, self.refused = 0, None  # type: int, Refused | None
        self._expect()

    async def __call__(self) -> Message:
        """Return the next piece."""
        if self._done:
            return await self._receive()
        if self.refused is not None:
            return {"type": "http.disconnect"}
        late = min(self._due, self._start + self._longest) - time.monotonic()
        self._pending = pending = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({pending}, timeout=max(0.01, min(STALL_S, late)))
        finally:
            pending.cancel()
        if self.refused is None and not pending.done():
            self.refused = Refused(408, TOO_SLOW)
        if self.refused is not None:
            return {"type": "http.disconnect"}
        message = pending.result()
        self.received += len(message.get("body", b""))
        if self.received >= self._required:
            self._expect()
        if self.received > self._most:
            self.refused = Refused(413, f"That is larger than this server takes here, which is {_size(self._most)}.")
            return {"type": "http.disconnect"}
        self._done = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def give_up(self, refused: Refused) -> None:
        """Stop waiting for the next piece."""
        self.refused = refused
        if self._pending is not None:
            self._pending.cancel()

    def _expect(self) -> None:
        """Set how many bytes must have arrived, and by when."""
        self._due = time.monotonic() + PACE_S
        self._required = self.received + PACE_S * max(SLOWEST, self.received / self._longest)


class Reader:
    """Reads the JSON of all callers into memory, within one budget; small bodies do not count.

    If too much is arriving, the caller with the most bytes in memory loses a body.

    Args:
        most: Bytes of the largest body.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._callers: dict[Body, str] = {}

    async def read(self, body: Body) -> bytes | None:
        """Return a whole body; None if its sender has left.

        Raises:
            Refused: If it is too large or too slow, or too much is arriving already.
        """
        data, self._callers[body] = bytearray(), CALLER.get()
        try:
            while True:
                message = await body()
                self._keep_within()
                if body.refused is not None:
                    raise body.refused
                if message["type"] != "http.request":
                    return None
                data += message.get("body", b"")
                if not message.get("more_body", False):
                    return bytes(data)
        finally:
            del self._callers[body]

    def _keep_within(self) -> None:
        """Give up bodies, the newest of the caller with the most bytes first, until all are within the budget."""
        sizes = {body: _counted(body) for body in self._callers if _counted(body)}
        totals: Counter[str] = Counter()
        for body, size in sizes.items():
            totals[self._callers[body]] += size
        while totals and (totals.total() > TOGETHER * self._most or max(totals.values()) > OF_ONE * self._most):
            largest = max(totals, key=lambda caller: totals[caller])
            newest = [body for body in sizes if self._callers[body] == largest][-1]
            newest.give_up(Refused(503, "The server is busy: send it again in a minute."))
            totals[largest] -= sizes.pop(newest)


def checked_json(data: bytes) -> None:
    """Check JSON before Gradio parses it.

    Raises:
        Refused: If it is not JSON, too deep, has too many values or a long event, or its session has an invalid name.
    """
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > VALUES:
        raise Refused(413, f"The request has more than {VALUES:,} values: send fewer.")
    try:
        content = json.loads(data)
        if _depth(content) > DEEPEST:
            raise RecursionError
        if _SURROGATE.search(data):
            json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair can be read, but not written
    except RecursionError:
        raise Refused(413, f"The request is nested deeper than {DEEPEST} lists: send it flatter.") from None
    except ValueError:
        raise Refused(400, "The request is not JSON that can be read: see the API under /gradio_api/info.") from None
    if isinstance(content, dict):
        if len(data) > SMALL and len(json.dumps(content.get("event_data"))) > SMALL:
            raise Refused(413, f"event_data is larger than this server takes, which is {_size(SMALL)}.")
        for name in ("session_hash", "event_id"):
            value = content.get(name)
            if isinstance(value, str) and not _NAME.fullmatch(value):
                raise Refused(400, f"{name} must be up to 64 letters, digits, dots and dashes.")


def _counted(body: Body) -> int:
    """Return the bytes of a body that count towards the budget."""
    return 0 if body.refused is not None else max(0, body.received - SMALL)


def _depth(value: Any) -> int:
    """Return how deep lists and objects are nested, at most DEEPEST + 1."""
    depth, level = 0, [value]
    while depth <= DEEPEST and (holders := [one for one in level if isinstance(one, (dict, list))]):
        depth += 1
        level = [inner for one in holders for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _size(count: int) -> str:
    return f"{count // MEGABYTE} MB" if count >= MEGABYTE else f"{count // KILOBYTE} kB"
