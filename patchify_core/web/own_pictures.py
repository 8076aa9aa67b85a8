"""The server's addresses for a visitor's own pictures; assets/own.js calls them.

Whoever knows the token is let in; it is made anew for each visitor, and stays in their browser and in this process.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from patchify_core.demo.decoding import DECODER_POOL, predicted_memory
from patchify_core.demo.own.collection import MEGABYTE
from patchify_core.demo.own.gallery import pictures_gone
from patchify_core.demo.own.index_archive import is_index
from patchify_core.demo.own.phone import propose_box, rankings
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.own.visitor import INCOMING
from patchify_core.demo.queueing import BoundedQueue, Slots, fair_queue
from patchify_core.errors import PatchifyError
from patchify_core.imaging.archives import is_archive
from patchify_core.imaging.file_types import other_archive_type
from patchify_core.imaging.pictures import read_reduced
from patchify_core.web.callers import caller_group
from patchify_core.web.pace import Download, paced
from patchify_core.web.places import without_places

UPLOADS = 6
"""Files of one visitor that may be on their way at once; the page sends three, and there may be two tabs."""

DOWNLOADS, DOWNLOADS_OF_ONE = 60, 2
"""Indexes that are sent at a time, in all and of one visitor."""

UNPACKED, READ = (2, 1), (4, 2)
"""Archives that are unpacked at a time, and single pictures that are taken: in all and of one address."""

ASKED, ASKED_OF_ONE, ANSWERED = 60, 30, (2, 1)
"""Requests for a box or a ranking that may wait, in all and of one address, and that are answered at a time."""

SIDES = (160, 1024)
"""Longer sides in pixels at which a picture is shown."""

T = TypeVar("T")

_PRIVATE = {"Cache-Control": "private, max-age=900", "X-Content-Type-Options": "nosniff"}
_MOST_JSON = 20_000


def own_routes(registry: Registry) -> list[Route]:
    """The addresses, each with what answers it.

    Args:
        registry: all visitors' collections.
    """
    unpacking, reading = fair_queue(*UNPACKED), fair_queue(*READ)
    downloads, answering = Slots(DOWNLOADS, DOWNLOADS_OF_ONE), BoundedQueue(ANSWERED, (ASKED, ASKED_OF_ONE))

    def answered(handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Refusals become one sentence; strangers' pages are not answered."""

        async def answer(request: Request) -> Response:
            if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return JSONResponse({"error": "Only the page itself may ask for this."}, 403)
            try:
                return await handler(request)
            except PatchifyError as error:
                known = request.path_params.get("token") in registry.tokens
                return JSONResponse(
                    {"error": without_places(str(error))}, 400 if known or "token" not in request.path_params else 404
                )
            except ClientDisconnect:  # the visitor has left in the middle
                return Response(status_code=400)

        return answer

    def token(request: Request) -> str:
        return str(request.path_params["token"])

    async def begin(request: Request) -> Response:
        return JSONResponse({"token": await run_in_threadpool(registry.create, caller_group(request))})

    async def status(request: Request) -> Response:
        tab = request.query_params.get("tab", "")
        visitor = registry.open_tab(token(request), tab) if tab else registry.visitor(token(request))
        return JSONResponse(visitor.status())

    async def pictures(request: Request) -> Response:
        rows = registry.visitor(token(request)).collection.pictures
        return JSONResponse([{"id": p.id, "name": p.name, "width": p.width, "height": p.height} for p in rows])

    async def take(request: Request) -> Response:
        visitor = registry.visitor(token(request))
        if visitor.uploads >= UPLOADS:
            raise PatchifyError(f"Send at most {UPLOADS} files at a time: wait until one has arrived.")
        collection, settings = visitor.collection, registry.settings
        visitor.uploads += 1
        size = 0
        name = request.query_params.get("name", "picture")
        path = collection.folder / f"{INCOMING}{secrets.token_hex(8)}"
        try:
            head = b""
            with open(path, "wb") as file:
                async for chunk in paced(request):
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
            turns = unpacking if is_archive(head) else reading  # a picture waits behind no archive
            async with turns.turn(caller_group(request)):
                return JSONResponse(await run_in_threadpool(_taken, visitor, path, name, head))
        except OSError as error:
            raise PatchifyError("The server could not keep that file: try again later.") from error
        finally:
            path.unlink(missing_ok=True)
            visitor.uploads -= 1
            visitor.incoming -= size

    async def start(request: Request) -> Response:
        visitor = registry.visitor(token(request))
        visitor.indexer.start()
        return JSONResponse(visitor.status())

    async def cancel(request: Request) -> Response:
        visitor = registry.visitor(token(request))
        visitor.indexer.cancel()
        return JSONResponse(visitor.status())

    async def in_turn(request: Request, work: Callable[..., T], key: str) -> T:
        """Lets the network work on one of the visitor's pictures."""
        visitor, sent, address = registry.visitor(token(request)), await _json(request), caller_group(request)
        async with answering.turn(address):
            return await run_in_threadpool(work, visitor, str(sent.get("picture")), sent.get(key), address)

    async def tap(request: Request) -> Response:
        return JSONResponse({"box": await in_turn(request, propose_box, "point")})

    async def search(request: Request) -> Response:
        return JSONResponse(await in_turn(request, rankings, "box"))

    async def mark(request: Request) -> Response:
        visitor, sent = registry.visitor(token(request)), await _json(request)
        name = str(sent.get("picture"))
        if sent.get("box") is None:
            visitor.remove_box(name, sent.get("object"))
        else:
            visitor.add_box(name, sent.get("object"), sent.get("box"))
        return JSONResponse(visitor.status())

    async def score(request: Request) -> Response:
        visitor = registry.visitor(token(request))
        visitor.start_score()
        return JSONResponse(visitor.status())

    async def delete(request: Request) -> Response:
        await run_in_threadpool(registry.delete, token(request))
        return JSONResponse({})

    async def leave(request: Request) -> Response:
        registry.close_tab(token(request), request.query_params.get("tab", ""))
        return JSONResponse({})

    async def picture(request: Request) -> Response:
        found = registry.visitor(token(request)).collection.named(str(request.path_params["name"]))
        side = SIDES[0] if request.query_params.get("side") == str(SIDES[0]) else SIDES[1]
        small = registry.visitor(token(request)).collection.folder / "small" / f"{found.id}-{side}.jpg"
        data = await run_in_threadpool(_shown, found.path, small, side, caller_group(request))
        return Response(data, media_type="image/jpeg", headers=_PRIVATE)

    async def archive(request: Request) -> Response:
        visitor, one = registry.visitor(token(request)), token(request)
        if not downloads.acquire(one):
            raise PatchifyError("Your index is on its way already, or too many are: wait until one has arrived.")
        try:
            length, pieces = await run_in_threadpool(visitor.archive)
        except BaseException:
            downloads.release(one)
            raise
        name = 'attachment; filename="patchify-index.zip"'
        headers = {"Content-Disposition": name, "Content-Length": str(length), **_PRIVATE}
        return Download(pieces, lambda: downloads.release(one), media_type="application/zip", headers=headers)

    async def annotations(request: Request) -> Response:
        data = registry.visitor(token(request)).annotations()
        name = 'attachment; filename="annotations.json"'
        return Response(data, media_type="application/json", headers={"Content-Disposition": name, **_PRIVATE})

    base = "/own/{token}"
    return [
        Route("/own", answered(begin), methods=["POST"]),
        Route(base, answered(status), methods=["GET"]),
        Route(f"{base}/pictures", answered(pictures), methods=["GET"]),
        Route(f"{base}/files", answered(take), methods=["POST"]),
        Route(f"{base}/index", answered(start), methods=["POST"]),
        Route(f"{base}/cancel", answered(cancel), methods=["POST"]),
        Route(f"{base}/tap", answered(tap), methods=["POST"]),
        Route(f"{base}/search", answered(search), methods=["POST"]),
        Route(f"{base}/marks", answered(mark), methods=["POST"]),
        Route(f"{base}/score", answered(score), methods=["POST"]),
        Route(f"{base}/delete", answered(delete), methods=["POST"]),
        Route(f"{base}/leave", answered(leave), methods=["POST"]),
        Route(f"{base}/index.zip", answered(archive), methods=["GET"]),
        Route(f"{base}/annotations.json", answered(annotations), methods=["GET"]),
        Route(f"{base}/picture/{{name:path}}", answered(picture), methods=["GET"]),
    ]


def _taken(visitor: Any, path: Path, name: str, head: bytes) -> dict[str, Any]:
    """A file that has arrived: an index that comes back, an archive of pictures, or a picture."""
    if is_archive(head):
        if is_index(path):
            return {"known": visitor.restore(path), "boxes": len(visitor.restored_boxes), "added": 0}
        return {"added": visitor.collection.add_archive(path)}
    data = path.read_bytes()
    refusal, there = visitor.collection.try_add(name, data), visitor.collection.same(data)
    # What was there before is refused, and is there under a name of its own.
    return {"added": int(refusal is None), "refused": refusal, "name": None if there is None else there.name}


_drawing: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
"""A lock for each picture that is being drawn, so that those who ask for it at once have it drawn once."""


def _shown(path: Path, small: Path, side: int, address: str = "") -> bytes:
    """The picture as it is shown, drawn when it is first asked for.

    Raises:
        PatchifyError: if it was deleted meanwhile, or cannot be drawn.
    """
    lock = _drawing.setdefault(small, threading.Lock())
    try:
        with lock:
            if small.exists():
                return small.read_bytes()
            data = DECODER_POOL.run(lambda: _jpeg(path, side), address, needs=predicted_memory(path))
            write_whole(small, data)
    except OSError as error:
        raise pictures_gone() from error
    return data


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that nobody sees in part: under another name in the same folder, which is made, then in its place.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _jpeg(path: Path, side: int) -> bytes:
    """The picture upright, no larger than `side`, whatever kind of file it is."""
    import io

    picture = read_reduced(path, side).picture
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


async def _json(request: Request) -> dict[str, Any]:
    """What a page sent.

    Raises:
        PatchifyError: if it is not what the page sends.
    """
    import json

    data = b""
    async for chunk in paced(request):
        data += chunk
        if len(data) > _MOST_JSON:
            raise PatchifyError("The page sent too much: reload it.")
    try:
        sent = json.loads(data)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise PatchifyError("The page sent something that is not understood: reload it.")
    return sent
