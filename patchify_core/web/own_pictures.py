"""HTTP routes for a visitor's own pictures; assets/own.js calls them.

Access is by token: it is random, made for each visitor, and known only to their browser and this process.
"""

from __future__ import annotations

import io
import json
import secrets
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from patchify_core.demo.decoding import DECODER_POOL, predicted_memory
from patchify_core.demo.own.collection import MEGABYTE
from patchify_core.demo.own.gallery import pictures_gone
from patchify_core.demo.own.index_archive import is_index
from patchify_core.demo.own.phone import propose_box, rankings
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.own.visitor import INCOMING, Visitor
from patchify_core.demo.queueing import BoundedQueue, Slots, fair_queue
from patchify_core.errors import PatchifyError
from patchify_core.files import atomic
from patchify_core.imaging.archives import is_archive
from patchify_core.imaging.file_types import other_archive_type
from patchify_core.imaging.pictures import read_reduced
from patchify_core.web.callers import caller_group
from patchify_core.web.paths import without_folders

UPLOADS = 6
"""Files of one visitor that may be arriving at once; the page sends three, and there may be two tabs."""

DOWNLOADS, DOWNLOADS_OF_ONE = 60, 2
"""Indexes sent at a time, in total and per visitor."""

UNPACKED, READ = (2, 1), (4, 2)
"""Archives unpacked at a time, and single pictures stored: in total and per address."""

WAITING, WAITING_OF_ONE, ANSWERED = 60, 30, (2, 1)
"""Requests for a box or a ranking that may wait, in total and per address, and that are answered at a time."""

SIDES = (160, 1024)
"""Longer sides in pixels at which pictures are shown."""

MOST_JSON = 20_000
"""Bytes of a JSON body, at most."""

T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]

_PRIVATE = {"Cache-Control": "private, max-age=900", "X-Content-Type-Options": "nosniff"}


def own_routes(registry: Registry) -> list[Route]:
    """Return the routes.

    Args:
        registry: All visitors' collections.
    """
    unpacking, reading = fair_queue(*UNPACKED), fair_queue(*READ)
    downloads, answering = Slots(DOWNLOADS, DOWNLOADS_OF_ONE), BoundedQueue(ANSWERED, (WAITING, WAITING_OF_ONE))

    def route(path: str, handler: Handler, method: str = "POST") -> Route:
        """Make a route that refuses other sites' pages and turns errors into one sentence."""

        async def answer(request: Request) -> Response:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return JSONResponse({"error": "Only the page itself may ask for this."}, 403)
            try:
                return await handler(request)
            except PatchifyError as error:
                gone = "token" in request.path_params and token_of(request) not in registry.tokens
                return JSONResponse({"error": without_folders(str(error))}, 404 if gone else 400)
            except ClientDisconnect:
                return Response(status_code=400)

        return Route(path, answer, methods=[method])

    def token_of(request: Request) -> str:
        return str(request.path_params["token"])

    def visitor_of(request: Request) -> Visitor:
        return registry.visitor(token_of(request))

    def action(act: Callable[[Visitor], object]) -> Handler:
        """Do something with the visitor's collection, and answer with its status."""

        async def handler(request: Request) -> Response:
            visitor = visitor_of(request)
            act(visitor)
            return JSONResponse(visitor.status())

        return handler

    async def begin(request: Request) -> Response:
        return JSONResponse({"token": await run_in_threadpool(registry.create, caller_group(request))})

    async def status(request: Request) -> Response:
        tab = request.query_params.get("tab", "")
        visitor = registry.open_tab(token_of(request), tab) if tab else visitor_of(request)
        return JSONResponse(visitor.status())

    async def pictures(request: Request) -> Response:
        rows = visitor_of(request).collection.pictures
        return JSONResponse([{"id": p.id, "name": p.name, "width": p.width, "height": p.height} for p in rows])

    async def upload(request: Request) -> Response:
        visitor = visitor_of(request)
        if visitor.uploads >= UPLOADS:
            raise PatchifyError(f"Send at most {UPLOADS} files at a time: wait until one has arrived.")
        settings, name = registry.settings, request.query_params.get("name", "picture")
        path = visitor.collection.folder / f"{INCOMING}{secrets.token_hex(8)}"
        visitor.uploads += 1
        size, head = 0, b""
        try:
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    visitor.incoming += len(chunk)
                    if not head:
                        head = bytes(chunk[:512])
                        if kind := other_archive_type(head):
                            raise PatchifyError(f"{name} is {kind}: pack the pictures as a zip.")
                    most = settings.archive_mb if is_archive(head) else settings.upload_mb
                    if size > most * MEGABYTE:
                        raise PatchifyError(f"That file is larger than {most} MB: make it smaller.")
                    registry.check_upload(visitor)
                    await run_in_threadpool(file.write, chunk)
            turns = unpacking if is_archive(head) else reading  # a picture does not wait for archives
            async with turns.turn(caller_group(request)):
                return JSONResponse(await run_in_threadpool(_add, visitor, path, name, head))
        except OSError as error:
            raise PatchifyError("The server could not keep that file: try again later.") from error
        finally:
            path.unlink(missing_ok=True)
            visitor.uploads -= 1
            visitor.incoming -= size

    async def compute(request: Request, work: Callable[..., T], key: str) -> T:
        """Run the network on one of the visitor's pictures; addresses take turns."""
        visitor, body, address = visitor_of(request), await _json(request), caller_group(request)
        async with answering.turn(address):
            return await run_in_threadpool(work, visitor, str(body.get("picture")), body.get(key), address)

    async def tap(request: Request) -> Response:
        return JSONResponse({"box": await compute(request, propose_box, "point")})

    async def search(request: Request) -> Response:
        return JSONResponse(await compute(request, rankings, "box"))

    async def mark(request: Request) -> Response:
        visitor, body = visitor_of(request), await _json(request)
        name = str(body.get("picture"))
        if body.get("box") is None:
            visitor.remove_box(name, body.get("object"))
        else:
            visitor.add_box(name, body.get("object"), body.get("box"))
        return JSONResponse(visitor.status())

    async def delete(request: Request) -> Response:
        await run_in_threadpool(registry.delete, token_of(request))
        return JSONResponse({})

    async def leave(request: Request) -> Response:
        registry.close_tab(token_of(request), request.query_params.get("tab", ""))
        return JSONResponse({})

    async def picture(request: Request) -> Response:
        collection = visitor_of(request).collection
        entry = collection.named(str(request.path_params["name"]))
        side = SIDES[0] if request.query_params.get("side") == str(SIDES[0]) else SIDES[1]
        small = collection.folder / "small" / f"{entry.id}-{side}.jpg"
        data = await run_in_threadpool(_reduced, entry.path, small, side, caller_group(request))
        return Response(data, media_type="image/jpeg", headers=_PRIVATE)

    async def archive(request: Request) -> Response:
        visitor, token = visitor_of(request), token_of(request)
        if not downloads.acquire(token):
            raise PatchifyError("Your index is on its way already, or too many are: wait until one has arrived.")
        try:
            length, pieces = await run_in_threadpool(visitor.archive)
        except BaseException:
            downloads.release(token)
            raise
        headers = {**_attachment("patchify-index.zip"), "Content-Length": str(length)}
        return _Download(pieces, lambda: downloads.release(token), media_type="application/zip", headers=headers)

    async def annotations(request: Request) -> Response:
        data = visitor_of(request).annotations()
        return Response(data, media_type="application/json", headers=_attachment("annotations.json"))

    base = "/own/{token}"
    return [
        route("/own", begin),
        route(base, status, "GET"),
        route(f"{base}/pictures", pictures, "GET"),
        route(f"{base}/files", upload),
        route(f"{base}/index", action(lambda visitor: visitor.indexer.start())),
        route(f"{base}/cancel", action(lambda visitor: visitor.indexer.cancel())),
        route(f"{base}/tap", tap),
        route(f"{base}/search", search),
        route(f"{base}/marks", mark),
        route(f"{base}/score", action(lambda visitor: visitor.start_score())),
        route(f"{base}/delete", delete),
        route(f"{base}/leave", leave),
        route(f"{base}/index.zip", archive, "GET"),
        route(f"{base}/annotations.json", annotations, "GET"),
        route(f"{base}/picture/{{name:path}}", picture, "GET"),
    ]


class _Download(StreamingResponse):
    """An archive that is made while it is sent, so that there is no copy of it on the disk.

    Args:
        pieces: Of the archive.
        ended: Called once, however the download ends.
        options: Of `StreamingResponse`.
    """

    def __init__(self, pieces: Iterator[bytes], ended: Callable[[], None], **options: Any) -> None:
        super().__init__(pieces, **options)
        self._pieces, self._ended = pieces, ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send the archive."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()
            self._ended()


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"', **_PRIVATE}


def _add(visitor: Visitor, path: Path, name: str, head: bytes) -> dict[str, Any]:
    """Add an uploaded file: an index that the visitor downloaded here before, an archive of pictures, or a picture."""
    if is_archive(head):
        if is_index(path):
            return {"known": visitor.restore(path), "boxes": len(visitor.restored_boxes), "added": 0}
        return {"added": visitor.collection.add_archive(path)}
    data = path.read_bytes()
    refusal, same = visitor.collection.try_add(name, data), visitor.collection.same(data)
    # A picture that is there already is refused, with the name under which it is there.
    return {"added": int(refusal is None), "refused": refusal, "name": None if same is None else same.name}


_locks: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
"""A lock for each picture that is being reduced, so that it is reduced once for simultaneous requests."""


def _reduced(path: Path, small: Path, side: int, address: str = "") -> bytes:
    """Return the picture as a JPEG of at most `side` pixels, which is made on the first request and stored as `small`.

    Raises:
        PatchifyError: If the picture was deleted meanwhile, or cannot be decoded.
    """
    lock = _locks.setdefault(small, threading.Lock())
    try:
        with lock:
            if small.exists():
                return small.read_bytes()
            data = DECODER_POOL.run(lambda: _jpeg(path, side), address, needs=predicted_memory(path))
            small.parent.mkdir(exist_ok=True)
            with atomic(small) as file:
                file.write(data)
    except OSError as error:
        raise pictures_gone() from error
    return data


def _jpeg(path: Path, side: int) -> bytes:
    """Return the picture as an upright JPEG whose longer side is at most `side` pixels."""
    picture = read_reduced(path, side).picture
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


async def _json(request: Request) -> dict[str, Any]:
    """Return the JSON object that the page sent.

    Raises:
        PatchifyError: If it sent something else.
    """
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_JSON:
            raise PatchifyError("The page sent too much: reload it.")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise PatchifyError("The page sent something that is not understood: reload it.")
    return body
