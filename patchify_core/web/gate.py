"""The gate in front of Gradio's server: checks the address, the sender and the size of every request.

It protects against these behaviours of Gradio 6.31.0: addresses that the page does not need (`allowed`); bodies that
are parsed whatever their size and depth; requests that end in a traceback and `Internal Server Error`; an answer to any
Origin that lets its page send credentials (CustomCORSMiddleware, unless the Host is the loopback).
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import traceback
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.allowed import OF_GRADIO, Allowed, matching, of_routes
from patchify_core.web.bodies import CALL_S, SMALL, Body, Message, Reader, Receive, Refused, Sizes, checked_json
from patchify_core.web.callers import CALLER, caller_of, group_of, host_in, is_local_host, is_own_host, is_trusted
from patchify_core.web.logs import is_first

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_QUERY = 16_000
"""Bytes after the question mark of an address; links to a search have a few hundred."""

MOST_HEADERS, LONGEST_HEADERS = 100, 32_000
"""Number of headers, and bytes of all of them; browsers send a fifth."""

CALLER_HEADER = b"x-patchify-caller"
"""Header in which the MCP server, which calls this server as a client, passes on the address of its own client."""

TOOL_HEADERS = (b"host", b"accept", b"content-type", b"content-length", b"last-event-id")
"""Headers of an MCP client that are passed on, besides those of the protocol and of proxies. Gradio sends them to its
own server, and must be able to encode them in ASCII."""

FORWARDED = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"x-real-ip", b"x-forwarded-prefix")
"""Headers that only a proxy may set."""

NOT_FOUND = "There is nothing at this address: the page is at /, its API is described at /gradio_api/info."
UNKNOWN_HOST = "This server does not answer to that name: open it by its address, or name the host in PATCHIFY_HOSTS."
STARTING = "The server is starting: try again in a few seconds."
FAILED = "The server could not answer that: try again, or reload the page."

LATE = re.compile(
    r"/(?:health|handout|manifest\.json|own(?:/.*)?|gradio_api/file=(?:gallery|queries|assets|study)/.*)$"
)
"""Our own addresses that exist only once the application is loaded."""

START_S = 120.0
"""Seconds that a request waits for the application."""

log = logging.getLogger(__name__)


class Gate:
    """An ASGI application in front of Gradio's, which `open` adds; until then requests to it wait.

    Args:
        server: Host names and proxies of the server.
        settings: Limits of bodies.
        tools: Whether there is an MCP server.
        front: Routes that are answered here, without the application.
    """

    def __init__(
        self, server: ServerSettings, settings: PageSettings, tools: bool = False, front: Sequence[Route] = ()
    ) -> None:
        self._server, self._opened = server, Future()  # type: ServerSettings, Future[App]
        self._of_gradio = tuple(one for one in OF_GRADIO if tools or not one.tools)
        self._front, self._of_front = Starlette(routes=list(front)), of_routes(front)
        self.addresses = (*self._of_front, *self._of_gradio)
        self._sizes = Sizes.of(settings)
        self._reader = Reader(self._sizes.call)
        self._secret = secrets.token_hex(16)

    def open(self, app: App, routes: Iterable[Route]) -> None:
        """Add the application and our own routes in it; may be called from any thread."""
        self.addresses = (*self._of_front, *of_routes(routes), *self._of_gradio)
        self._opened.set_result(app)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, once it is there."""
        try:
            app = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._opened)), START_S)
        except asyncio.TimeoutError:
            raise Refused(503, STARTING) from None
        await app(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse a request, or have it answered."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def address_of(self, method: str, path: str) -> Allowed:
        """Return the address that a request is for.

        Raises:
            Refused: If there is none.
        """
        addresses = matching(self.addresses, path)
        if not addresses and not self._opened.done() and LATE.match(path):
            raise Refused(503, STARTING)
        if not addresses:
            raise Refused(404, NOT_FOUND)
        address = next((one for one in addresses if method in one.methods), None)
        if address is None:
            methods = ", ".join(sorted(frozenset().union(*(one.methods for one in addresses))))
            raise Refused(405, f"This address answers {methods} only.")
        return address

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = None
        try:
            self._identify(scope)
            headers = Headers(scope=scope)
            origin = _allowed_origin(headers)
            path = self._path(scope["path"])
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                self.address_of(headers["access-control-request-method"], path)
                await _preflight(origin)(scope, receive, send)
                return
            address = self.address_of(scope["method"], path)
            if len(scope["query_string"]) > LONGEST_QUERY:
                raise Refused(414, "The address is too long: leave out what follows the question mark.")
            if headers.get("content-encoding", "identity") != "identity":
                raise Refused(415, "Send the request as it is, without a Content-Encoding.")
            reply = Reply(send, origin)
            try:
                await self._forward(scope, receive, reply, address)
            except Refused:
                raise
            except Exception as error:  # Gradio's own code fails on some requests
                _log_failure(address, error)
            await reply.end(Refused(500, FAILED))
        except Refused as refused:
            await _refuse(refused, origin, scope, receive, send)

    def _identify(self, scope: Scope) -> None:
        """Set the client to the real sender, and delete headers that only a proxy may set if none set them.

        Raises:
            Refused: If the request is for another host name.
        """
        peer, port = scope.get("client") or ("", 0)
        raw, proxies = scope["headers"], self._server.proxies
        if len(raw) > MOST_HEADERS or sum(len(name) + len(value) for name, value in raw) > LONGEST_HEADERS:
            raise Refused(431, f"The request has more than {MOST_HEADERS} headers, or more than 32 kB of them.")
        of_tools = [value.decode("latin-1") for name, value in raw if name == CALLER_HEADER]
        if is_trusted(peer, proxies):
            headers = Headers(scope=scope)
            caller = caller_of(peer, headers.getlist("x-forwarded-for"), proxies)
            scope["scheme"] = "https" if headers.get("x-forwarded-proto", "").startswith("https") else scope["scheme"]
            hosts = [*headers.getlist("host"), *headers.getlist("x-forwarded-host")[:1]]
            raw = [pair for pair in raw if pair[0] not in (CALLER_HEADER, b"x-gradio-server")]
        else:
            caller = peer
            hosts = Headers(scope=scope).getlist("host")
            raw = [pair for pair in raw if pair[0] not in (CALLER_HEADER, b"x-gradio-server", *FORWARDED)]
        secret, _, passed_on = of_tools[0].partition(":") if of_tools else ("", "", "")
        if secrets.compare_digest(secret.encode(), self._secret.encode()):
            caller, scope["patchify_tool"] = passed_on, True
        if not hosts or not all(is_own_host(host.split(",")[0], self._server.hosts) for host in hosts):
            raise Refused(403, UNKNOWN_HOST)
        scope["client"], scope["headers"] = (caller, port), raw
        CALLER.set(group_of(caller))

    def _path(self, path: str) -> str:
        """Return the path below the page's own."""
        root = self._server.root_path
        return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path

    async def _forward(self, scope: Scope, receive: Receive, reply: Reply, address: Allowed) -> None:
        """Let Gradio or one of our own routes answer; JSON is read and checked before, other bodies are limited."""
        if address.tools:
            caller = f"{self._secret}:{scope['client'][0]}".encode("latin-1")
            scope["headers"] = [*filter(_is_for_tools, scope["headers"]), (CALLER_HEADER, caller)]
        if address in self._of_front:
            await self._front({**scope, "path": self._path(scope["path"])}, receive, reply)
            return
        if self._path(scope["path"]) == "/photos":  # Gradio's own page exists only at its root
            scope["path"] = f"{self._server.root_path}/"
            scope["raw_path"] = scope["path"].encode()
        if scope["method"] != "POST":
            await self.app(scope, receive, reply)
            return
        most = getattr(self._sizes, address.body)
        if address.body in ("json", "call"):
            data = await self._reader.read(Body(receive, most, CALL_S))
            if data is None:
                reply.client_left = True
                return
            if len(data) > SMALL:
                await run_in_threadpool(checked_json, data)
            else:
                checked_json(data)
            scope["patchify_bytes"] = len(data)
            await self.app(scope, _replayed(data, receive), reply)
            return
        reply.body = Body(receive, most)
        await self.app(scope, reply.body, reply)


class Reply:
    """The answer to one request, on its way to the client.

    Args:
        send: To the client.
        origin: The foreign page that may read it, or None.

    Attributes:
        body: Of the request, if it is read while it is answered.
        client_left: Whether nobody is there any more to read the answer.
    """

    def __init__(self, send: Send, origin: str | None) -> None:
        self._send, self._origin = send, origin
        self._begun, self._ended, self._has_length, self._dropped = False, False, False, False
        self.body: Body | None = None
        self.client_left = False

    async def __call__(self, message: Message) -> None:
        """Send a part."""
        if message["type"] == "http.response.start":
            if message["status"] == 500 or (self.body is not None and self.body.refused is not None):
                self._dropped = True  # `end` sends a refusal instead
                return
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
            headers.setdefault("X-Content-Type-Options", "nosniff")
            self._begun, self._has_length = True, "content-length" in headers
        if self._dropped:
            return
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def end(self, otherwise: Refused) -> None:
        """End an answer that has begun.

        Raises:
            Refused: If none has.
        """
        if self._begun and not self._ended and not self._has_length:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if not self._begun and not self.client_left:
            raise (self.body and self.body.refused) or otherwise


def _replayed(data: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then the messages after it."""
    pending: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _is_for_tools(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return value.isascii() and (name in TOOL_HEADERS or name.startswith((b"mcp-", b"x-forwarded-")))


def _allowed_origin(headers: Headers) -> str | None:
    """Return `*` if any site may read the answer, None if only our own page may.

    A foreign page must not read through its visitor's browser what only the visitor's network can reach.
    """
    origin = headers.get("origin")
    if origin is None or (is_local_host(headers.get("host", "")) and not _is_same_machine(origin)):
        return None
    return "*"


def _is_same_machine(origin: str) -> bool:
    return host_in(origin.partition("://")[2]) in ("localhost", "127.0.0.1", "[::1]")


def _preflight(origin: str | None) -> Response:
    allowed = {} if origin is None else {"Access-Control-Allow-Origin": origin}
    methods = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": "*"}
    return Response(status_code=204, headers=allowed | methods | {"Access-Control-Max-Age": "600"})


async def _refuse(refused: Refused, origin: str | None, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Connection": "close"} if scope["method"] not in ("GET", "HEAD") else {}
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
    content = {"detail": refused.sentence, "error": refused.sentence}
    await JSONResponse(content, refused.status, headers=headers)(scope, receive, send)


def _log_failure(address: Allowed, error: BaseException) -> None:
    """Log where the program failed, without the error's message, which may quote the request."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, (ClientDisconnect, HTTPException, CancelledError)):  # the client left, or was refused
        return
    where = traceback.extract_tb(error.__traceback__)[-1]
    fault = (address.path.pattern, type(error).__name__, f"{Path(where.filename).name}:{where.lineno}")
    if is_first(fault):
        log.warning("A request to %s failed: %s at %s", *fault)
