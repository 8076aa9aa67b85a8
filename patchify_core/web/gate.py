"""What every request passes before Gradio's server sees it: only what is used, from whom it says, in bounds.

Behaviours of Gradio 6.31.0 that this stands in front of: addresses that the page has no use for (`used`); bodies that
are parsed whatever their size and depth; requests that do not fit and end in a traceback and `Internal Server Error`;
an answer to any Origin that lets its page send credentials (CustomCORSMiddleware, unless the Host is the loopback).
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
from patchify_core.web.bodies import CALL_S, SMALL, Body, Message, Reader, Receive, Refused, Sizes, checked_json
from patchify_core.web.callers import CALLER, caller_of, group_of, host_in, is_local_host, is_own_host, is_trusted
from patchify_core.web.logs import is_first
from patchify_core.web.used import USED, Use, found_use, our_uses

Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LONGEST_QUERY = 16_000
"""Bytes after the question mark of an address; links to a search have a few hundred."""

MOST_HEADERS, LONGEST_HEADERS = 100, 32_000
"""Headers, and bytes of all of them; browsers send a fifth."""

HERE = b"x-patchify-caller"
"""Header in which the MCP server, which calls this one as a client, passes on who asked it."""

TOOL_HEADERS = (b"host", b"accept", b"content-type", b"content-length", b"last-event-id")
"""Headers of an MCP client that are passed on, besides those of the protocol and of proxies. Gradio sends what it gets
to its own server, in ASCII."""

FORWARDED = (b"x-forwarded-for", b"x-forwarded-host", b"forwarded", b"x-real-ip", b"x-forwarded-prefix")
"""Headers that only a proxy may set."""

GONE = "There is nothing at this address: the page is at /, its API is described at /gradio_api/info."
FOREIGN = "This server does not answer to that name: open it by its address, or name the host in PATCHIFY_HOSTS."
STARTING = "The server is starting: try again in a few seconds."
LATER = re.compile(
    r"/(?:health|handout|manifest\.json|own(?:/.*)?|gradio_api/file=(?:gallery|queries|assets|study)/.*)$"
)
"""Our own addresses that are there with the application."""

START_S = 120.0
"""Seconds that a request waits for the application."""

FAILED = "The server could not answer that: try again, or reload the page."


log = logging.getLogger(__name__)


class Gate:
    """An ASGI application in front of another, which may come later: what is asked of it until then waits.

    Args:
        app: Gradio's; None if `open` brings it.
        ours: our own routes in it.
        server: names and proxies of the server.
        settings: sizes of what may be sent.
        tools: whether the MCP server is offered.
        front: routes that are answered here, without the application.
    """

    def __init__(
        self,
        app: App | None,
        ours: Iterable[Route],
        server: ServerSettings,
        settings: PageSettings,
        tools: bool = False,
        front: Sequence[Route] = (),
    ) -> None:
        self._server, self._opened = server, Future()  # type: ServerSettings, Future[App]
        self._used = tuple(use for use in USED if tools or not use.tools)
        self._front, self._fronts = Starlette(routes=list(front)), our_uses(front)
        self.uses = (*self._fronts, *self._used)
        if app is not None:
            self.open(app, ours)
        self._sizes = Sizes.of(settings)
        self._reader = Reader(self._sizes.call)
        self._secret = secrets.token_hex(16)

    def open(self, app: App, ours: Iterable[Route]) -> None:
        """Brings the application, from any thread."""
        self.uses = (*self._fronts, *our_uses(ours), *self._used)
        self._opened.set_result(app)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, once it is there."""
        try:
            app = await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(self._opened)), START_S)
        except asyncio.TimeoutError:
            raise Refused(503, STARTING) from None
        await app(scope, receive, send)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] == "lifespan":
            await lifespan([self.app], receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._answer(scope, receive, send)

    def use_of(self, method: str, path: str) -> Use:
        """What a request is for.

        Raises:
            Refused: if it is nothing that is used.
        """
        uses = found_use(self.uses, path)
        if not uses and not self._opened.done() and LATER.match(path):
            raise Refused(503, STARTING)
        if not uses:
            raise Refused(404, GONE)
        use = next((use for use in uses if method in use.methods), None)
        if use is None:
            methods = ", ".join(sorted(frozenset().union(*(use.methods for use in uses))))
            raise Refused(405, f"This address answers {methods} only.")
        return use

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = None
        try:
            self._identify(scope)
            headers = Headers(scope=scope)
            origin = _allowed_origin(headers)
            path = self._path(scope["path"])
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                self.use_of(headers["access-control-request-method"], path)
                await _preflight(origin)(scope, receive, send)
                return
            use = self.use_of(scope["method"], path)
            if len(scope["query_string"]) > LONGEST_QUERY:
                raise Refused(414, "The address is too long: leave out what follows the question mark.")
            if headers.get("content-encoding", "identity") != "identity":
                raise Refused(415, "Send the request as it is, without a Content-Encoding.")
            given = OneReply(send, origin)
            try:
                await self._pass_on(scope, receive, given, use)
            except Refused:
                raise
            except Exception as error:  # whatever a stranger's request makes of Gradio's own code
                _note(use, error)
            await given.end(Refused(500, FAILED))
        except Refused as refused:
            await _refuse(refused, origin, scope, receive, send)

    def _identify(self, scope: Scope) -> None:
        """Finds out who asks, and by which name of the server; what only a proxy may say is deleted if none said it.

        Raises:
            Refused: if the name is not the server's.
        """
        peer, port = scope.get("client") or ("", 0)
        raw, proxies = scope["headers"], self._server.proxies
        if len(raw) > MOST_HEADERS or sum(len(name) + len(value) for name, value in raw) > LONGEST_HEADERS:
            raise Refused(431, f"The request has more than {MOST_HEADERS} headers, or more than 32 kB of them.")
        told = [value.decode("latin-1") for name, value in raw if name == HERE]
        if is_trusted(peer, proxies):
            headers = Headers(scope=scope)
            caller = caller_of(peer, headers.getlist("x-forwarded-for"), proxies)
            scope["scheme"] = "https" if headers.get("x-forwarded-proto", "").startswith("https") else scope["scheme"]
            hosts = [*headers.getlist("host"), *headers.getlist("x-forwarded-host")[:1]]
            raw = [pair for pair in raw if pair[0] not in (HERE, b"x-gradio-server")]
        else:
            caller = peer
            hosts = Headers(scope=scope).getlist("host")
            raw = [pair for pair in raw if pair[0] not in (HERE, b"x-gradio-server", *FORWARDED)]
        secret, _, passed_on = told[0].partition(":") if told else ("", "", "")
        if secrets.compare_digest(secret.encode(), self._secret.encode()):
            caller, scope["patchify_tool"] = passed_on, True
        if not hosts or not all(is_own_host(host.split(",")[0], self._server.hosts) for host in hosts):
            raise Refused(403, FOREIGN)
        scope["client"], scope["headers"] = (caller, port), raw
        CALLER.set(group_of(caller))

    def _path(self, path: str) -> str:
        """The path below the page's own."""
        root = self._server.root_path
        return path[len(root) :] or "/" if root and (path == root or path.startswith(f"{root}/")) else path

    async def _pass_on(self, scope: Scope, receive: Receive, given: OneReply, use: Use) -> None:
        """Lets Gradio or one of our own routes answer; a body has been read and looked at before, or is counted."""
        if use.tools:
            caller = f"{self._secret}:{scope['client'][0]}".encode("latin-1")
            scope["headers"] = [*filter(_is_for_tools, scope["headers"]), (HERE, caller)]
        if use in self._fronts:
            await self._front({**scope, "path": self._path(scope["path"])}, receive, given)
            return
        if self._path(scope["path"]) == "/photos":  # Gradio's own page knows no other address than its root
            scope["path"] = f"{self._server.root_path}/"
            scope["raw_path"] = scope["path"].encode()
        if scope["method"] != "POST":
            await self.app(scope, receive, given)
            return
        most = getattr(self._sizes, use.body)
        if use.body in ("json", "call"):
            body = Body(receive, most, CALL_S)
            data = await self._reader.read(body)
            if data is None:
                given.left = True
                return
            await (run_in_threadpool(checked_json, data) if len(data) > SMALL else _at_once(data))
            scope["patchify_bytes"] = len(data)
            await self.app(scope, _replayed(data, receive), given)
            return
        given.body = body = Body(receive, most)
        await self.app(scope, body, given)


async def lifespan(apps: Sequence[App], receive: Receive, send: Send) -> None:
    """Starts at once, whenever applications come; each is started when it is there, and ended with the server."""
    queues: list[asyncio.Queue[Message]] = [asyncio.Queue() for _ in apps]
    started = await receive()
    for messages in queues:
        messages.put_nowait(started)
    await send({"type": "lifespan.startup.complete"})

    async def unheard(message: Message) -> None:
        """Its answers change nothing any more."""

    below = [
        asyncio.create_task(_until_ended(app, messages, unheard)) for app, messages in zip(apps, queues, strict=True)
    ]
    ended = await receive()
    for messages, task in zip(queues, below, strict=True):
        messages.put_nowait(ended)
        if messages.qsize() == 2:  # it never came
            task.cancel()
    await asyncio.wait(below)
    await send({"type": "lifespan.shutdown.complete"})


async def _until_ended(app: App, messages: asyncio.Queue[Message], send: Send) -> None:
    while True:
        try:
            return await app({"type": "lifespan", "asgi": {"version": "3.0"}}, messages.get, send)
        except Refused:
            continue  # it is still being loaded


class OneReply:
    """What is sent in answer to one request.

    Args:
        send: to whoever asked.
        origin: the foreign page that may read it, if one may.

    Attributes:
        body: what the request sends, if it is read while it is answered.
        left: whether nobody is there any more to read the answer.
    """

    def __init__(self, send: Send, origin: str | None) -> None:
        self._send, self._origin = send, origin
        self._begun, self._ended, self._counted, self._dropped = False, False, False, False
        self.body: Body | None = None
        self.left = False

    async def __call__(self, message: Message) -> None:
        """Sends a part."""
        if message["type"] == "http.response.start":
            if message["status"] == 500 or self._given_up():  # a sentence comes in its place
                self._dropped = True
                return
            headers = MutableHeaders(scope=message)
            for name in [name for name in headers if name.startswith("access-control-")]:
                del headers[name]
            if self._origin is not None:
                headers["Access-Control-Allow-Origin"] = self._origin
            headers.setdefault("X-Content-Type-Options", "nosniff")
            self._begun, self._counted = True, "content-length" in headers
        if self._dropped:
            return
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def end(self, otherwise: Refused) -> None:
        """Ends what was begun.

        Raises:
            Refused: if nothing was.
        """
        if self._begun and not self._ended and not self._counted:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        if not self._begun and not self.left:
            raise (self.body and self.body.refused) or otherwise

    def _given_up(self) -> bool:
        return self.body is not None and self.body.refused is not None


async def _at_once(data: bytes) -> None:
    checked_json(data)


def _replayed(data: bytes, receive: Receive) -> Receive:
    """Receives a body that was read already, and then whatever follows it."""
    whole: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


def _is_for_tools(header: tuple[bytes, bytes]) -> bool:
    name, value = header
    return value.isascii() and (name in TOOL_HEADERS or name.startswith((b"mcp-", b"x-forwarded-")))


def _allowed_origin(headers: Headers) -> str | None:
    """`*` if any page may read the answer, as it can without this server's help; None if only our own may.

    A page elsewhere must not read through its visitor's browser what only the visitor's network can reach.
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
    said = {"detail": refused.sentence, "error": refused.sentence}
    await JSONResponse(said, refused.status, headers=headers)(scope, receive, send)


def _note(use: Use, error: BaseException) -> None:
    """Logs where the program failed, without anything that the request said: an error's own words may quote it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    if isinstance(error, (ClientDisconnect, HTTPException, CancelledError)):  # whoever asked has left, or was refused
        return
    where = traceback.extract_tb(error.__traceback__)[-1]
    fault = (use.path.pattern, type(error).__name__, f"{Path(where.filename).name}:{where.lineno}")
    if is_first(fault):
        log.warning("A request to %s failed: %s at %s", *fault)
