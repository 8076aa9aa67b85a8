"""What the tests of the gate share: something behind it, and one request by ASGI."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.gate import Gate

JOIN = "/gradio_api/queue/join"
JSON = [(b"content-type", b"application/json")]
SIZES = PageSettings(upload_mb=1, archive_mb=1)


class Inner:
    """What stands behind the gate, and notes what reaches it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.answer: Any = PlainTextResponse("inside")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        if scope["method"] == "POST":
            self.bodies.append(await Request(scope, receive).body())
        if isinstance(self.answer, Exception):
            raise self.answer
        await self.answer(scope, receive, send)


def asked(
    app: Any,
    method: str,
    path: str,
    body: bytes | list[bytes] = b"",
    headers: list[tuple[bytes, bytes]] = [],  # noqa: B006
    peer: str = "127.0.0.1",
    host: bytes = b"localhost:7860",
    query: bytes = b"",
) -> tuple[int, Any, dict[str, str]]:
    """One request by ASGI: status, what was said, and the headers of the answer. A body in pieces never ends."""
    pieces = [body] if isinstance(body, bytes) else body
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "query_string": query,
        "scheme": "http",
        "http_version": "1.1",
        "server": ("127.0.0.1", 7860),
        "client": (peer, 5),
        "headers": [(b"host", host), *headers],
    }
    queue = [{"type": "http.request", "body": one, "more_body": not isinstance(body, bytes)} for one in pieces]

    async def receive() -> Any:
        if queue:
            return queue.pop(0)
        await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    text = b"".join(one.get("body", b"") for one in sent[1:])
    said = dict((name.decode(), value.decode()) for name, value in start["headers"])
    is_json = said.get("content-type", "").startswith("application/json")
    return start["status"], json.loads(text) if is_json else text.decode(), said


def sentence(said: Any) -> str:
    text = said["detail"]
    assert text.endswith(".") and "\n" not in text and "Error" not in text and said["error"] == text
    return str(text)


def gate(inner: Any, tools: bool = False, ours: Any = (), **server: Any) -> Gate:
    made = Gate(ServerSettings(**server), SIZES, tools)
    made.open(inner, ours)
    return made
