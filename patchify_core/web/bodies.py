"""What a request sends: no more, no deeper and no slower than it may, found out before anything is made of it."""

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
SMALL = 64 * KILOBYTE
"""Bytes of JSON without a picture in it."""

VALUES = 100_000
"""Values that one JSON text may have; each takes a hundred bytes of memory, whatever it takes to write it."""

DEEPEST = 32
"""How deep its lists and objects may be nested."""

PACE_S, STALL_S, SLOWEST = 30.0, 15.0, 2_000
"""In each PACE_S seconds SLOWEST bytes per second must come, or the rest of the body; nothing for STALL_S ends it."""

CALL_S = 300.0
"""Seconds that a body may take that is kept in memory until it is whole. What comes must keep the pace for that too: a
body that has almost come and then trickles ends sooner."""

TOGETHER, OF_ONE = 8, 4
"""Bodies of the largest size that are kept in memory while they arrive, of all callers and of one; of each body the
first `SMALL` bytes do not count."""

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Refused(Exception):
    """A request that is refused.

    Attributes:
        status: of the answer.
        sentence: the answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Sizes:
    """Most bytes of each kind of body (`used.Use.body`).

    Attributes:
        json: of a few values.
        call: of a call: a picture as a data: address, a third longer than its bytes, and a megabyte of other values.
        upload: of an upload as a form: one picture and what the form adds.
        own: of a file that is sent to a visitor's own pictures.
    """

    json: int
    call: int
    upload: int
    own: int
    nothing: int = 0

    @classmethod
    def of(cls, settings: PageSettings) -> Sizes:
        """As the settings of the page say."""
        picture = settings.upload_mb << 20
        return cls(SMALL, picture * 4 // 3 + MEGABYTE, picture + SMALL, (settings.archive_mb << 20) + MEGABYTE)


class Body:
    """A body that is on its way, as an ASGI application receives it.

    Args:
        receive: where it comes from.
        most: bytes that it may have.
        longest_s: seconds that it may take at most, however much comes.

    Attributes:
        received: bytes so far.
        refused: why it was given up, if it was; whoever reads it then sees that the client has gone.
    """

    def __init__(self, receive: Receive, most: int, longest_s: float = math.inf) -> None:
        self._receive, self._most, self._longest = receive, most, longest_s
        self._start, self._done = time.monotonic(), False
        self._pending: asyncio.Future[Message] | None = None
        self.received, self.refused = 0, None  # type: int, Refused | None
        self._expect()

    async def __call__(self) -> Message:
        """The next piece."""
        if self._done:
            return await self._receive()
        if self.refused is not None:
            return {"type": "http.disconnect"}
        late = min(self._due, self._start + self._longest) - time.monotonic()
        self._pending = pending = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({pending}, timeout=max(0.01, min(STALL_S, late)))
        finally:
            pending.cancel()  # if it has not come
        if self.refused is None and not pending.done():
            self.refused = Refused(
                408, "The request stopped or is too slow: check your connection, then send it again."
            )
        if self.refused is not None:
            return {"type": "http.disconnect"}
        message = pending.result()
        self.received += len(message.get("body", b""))
        if self.received >= self._owed:
            self._expect()
        if self.received > self._most:
            self.refused = Refused(413, f"That is larger than this server takes here, which is {_size(self._most)}.")
            return {"type": "http.disconnect"}
        self._done = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def give_up(self, refused: Refused) -> None:
        """Ends the wait for the next piece."""
        self.refused = refused
        if self._pending is not None:
            self._pending.cancel()

    def _expect(self) -> None:
        """Sets what must have come by when."""
        self._due = time.monotonic() + PACE_S
        self._owed = self.received + PACE_S * max(SLOWEST, self.received / self._longest)


class Reader:
    """Reads the JSON of all callers into memory, within one budget that what is small does not need.

    When too much is on its way, a body of the caller ends of whom most is held.

    Args:
        most: bytes of the largest body.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._callers: dict[Body, str] = {}

    async def read(self, body: Body) -> bytes | None:
        """All of a body; None if its sender has left.

        Raises:
            Refused: if it is too large or too slow, or too much is on its way already.
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
        """Gives bodies up, the newest first, of the caller of whom most is held, until all is within the budget."""
        sizes = {body: _counted(body) for body in self._callers if _counted(body)}
        held: Counter[str] = Counter()
        for body, size in sizes.items():
            held[self._callers[body]] += size
        while held and (held.total() > TOGETHER * self._most or max(held.values()) > OF_ONE * self._most):
            largest = max(held, key=lambda one: held[one])
            newest = [body for body in sizes if self._callers[body] == largest][-1]
            newest.give_up(Refused(503, "The server is busy: send it again in a minute."))
            held[largest] -= sizes.pop(newest)


def checked_json(data: bytes) -> None:
    """Accepts what Gradio's own parser may be given.

    Raises:
        Refused: if it is no JSON, too deep, of too many values or with a long event, or names a session wrongly.
    """
    if sum(map(data.count, (b"[", b"{", b",", b":"))) > VALUES:
        raise Refused(413, f"The request has more than {VALUES:,} values: send fewer.")
    try:
        sent = json.loads(data)
        if _depth(sent) > DEEPEST:
            raise RecursionError
        if _SURROGATE.search(data):
            json.dumps(sent, ensure_ascii=False).encode()  # half a character can be read, but never be written again
    except RecursionError:
        raise Refused(413, f"The request is nested deeper than {DEEPEST} lists: send it flatter.") from None
    except ValueError:
        raise Refused(400, "The request is not JSON that can be read: see the API under /gradio_api/info.") from None
    if isinstance(sent, dict):
        if len(data) > SMALL and len(json.dumps(sent.get("event_data"))) > SMALL:
            raise Refused(413, f"event_data is larger than this server takes, which is {_size(SMALL)}.")
        for name in ("session_hash", "event_id"):
            value = sent.get(name)
            if isinstance(value, str) and not _NAME.fullmatch(value):
                raise Refused(400, f"{name} must be up to 64 letters, digits, dots and dashes.")


def _counted(body: Body) -> int:
    """Bytes of a body that count: those beyond what every body may have."""
    return 0 if body.refused is not None else max(0, body.received - SMALL)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted no further than is needed."""
    depth, level = 0, [value]
    while depth <= DEEPEST and (holders := [one for one in level if isinstance(one, (dict, list))]):
        depth += 1
        level = [inner for one in holders for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _size(count: int) -> str:
    return f"{count // MEGABYTE} MB" if count >= MEGABYTE else f"{count // KILOBYTE} kB"
