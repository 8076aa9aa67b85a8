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

from patchify_core.web.callers import CALLER
from patchify_core.web.settings import PageSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

KILOBYTE, MEGABYTE = 1_000, 1_000_000
SMALL = 64 * KILOBYTE
"""Bytes of JSON without a picture in it."""

VALUES = 100_000
"""Values that one JSON text may have; each takes a hundred bytes of memory, whatever it takes to write it."""

DEEPEST = 32
"""How deep its lists and objects may be nested."""

FIRST_S, STALL_S, SLOWEST = 30.0, 15.0, 2_000
"""A body may take the first of seconds, and one more for each SLOWEST bytes that came; nothing for STALL_S ends it."""

CALL_S = 300.0
"""Seconds that a body may take that is kept in memory until it is whole."""

TOGETHER, OF_ONE = 8, 4
"""Bodies of the largest size that are kept in memory while they arrive, of all callers and of one."""

_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Refused(Exception):
    """A request that is refused.

    Attributes:
        status: of the answer.
        sentence: the answer.
    """

    def __init__(self, status: int, sentence: str) -> None:
        """The refusal as an answer."""
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
        """Nothing is received yet."""
        self._receive, self._most, self._longest = receive, most, longest_s
        self._start, self._done = time.monotonic(), False
        self.received, self.refused = 0, None  # type: int, Refused | None

    async def __call__(self) -> Message:
        """The next piece."""
        if self._done:
            return await self._receive()
        if self.refused is not None:
            return {"type": "http.disconnect"}
        late = self._start + min(FIRST_S + self.received / SLOWEST, self._longest) - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.01, min(STALL_S, late)))
        except asyncio.TimeoutError:
            self.refused = Refused(408, "The request did not arrive in time: send it again.")
            return {"type": "http.disconnect"}
        self.received += len(message.get("body", b""))
        if self.received > self._most:
            self.refused = Refused(413, f"That is larger than this server takes here, which is {_size(self._most)}.")
            return {"type": "http.disconnect"}
        self._done = message["type"] != "http.request" or not message.get("more_body", False)
        return message


class Reader:
    """Reads the JSON of all callers into memory, within one budget.

    Args:
        most: bytes of the largest body.
    """

    def __init__(self, most: int) -> None:
        """Nothing is being read."""
        self._most, self._held = most, Counter[str]()

    async def read(self, body: Body) -> bytes | None:
        """All of a body; None if its sender has left.

        Raises:
            Refused: if it is too large or too slow, or too much is on its way already.
        """
        data, caller = bytearray(), CALLER.get()
        try:
            while True:
                message = await body()
                if body.refused is not None:
                    raise body.refused
                if message["type"] != "http.request":
                    return None
                piece = message.get("body", b"")
                self._held[caller] += len(piece)
                data += piece
                if sum(self._held.values()) > TOGETHER * self._most or self._held[caller] > OF_ONE * self._most:
                    raise Refused(503, "The server is busy: send it again in a minute.")
                if not message.get("more_body", False):
                    return bytes(data)
        finally:
            self._held[caller] -= len(data)
            self._held += Counter()  # without callers of whom nothing is held


def checked_json(data: bytes) -> None:
    """Accepts what Gradio's own parser may be given.

    Raises:
        Refused: if it is no JSON, or too deep or of too many values, or names a session in no way that a page does.
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
        for name in ("session_hash", "event_id"):
            value = sent.get(name)
            if isinstance(value, str) and not _NAME.fullmatch(value):
                raise Refused(400, f"{name} must be up to 64 letters, digits, dots and dashes.")


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted no further than is needed."""
    depth, level = 0, [value]
    while depth <= DEEPEST and (holders := [one for one in level if isinstance(one, (dict, list))]):
        depth += 1
        level = [inner for one in holders for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _size(count: int) -> str:
    return f"{count // MEGABYTE} MB" if count >= MEGABYTE else f"{count // KILOBYTE} kB"
