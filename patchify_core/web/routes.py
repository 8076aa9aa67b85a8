"""Addresses of the page's server that are not Gradio's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from patchify_core.errors import PatchifyError
from patchify_core.version import __version__
from patchify_core.web.served import ADDRESS, file_at

if TYPE_CHECKING:
    import gradio as gr

    from patchify_core.demo.example_gallery import ExampleGallery


def routes(showcase: ExampleGallery, page: gr.Blocks) -> list[Route]:
    """The addresses, each with what answers it.

    Args:
        showcase: the bundled gallery.
        page: whose queue searches go through.
    """
    started = time.monotonic()

    async def health(request: Request) -> JSONResponse:
        """Whether searches can be answered, for whoever watches the server: 200, or 503 and why not.

        It runs between the requests, not among the searches, and looks only at what is known already.
        """
        queue = page._queue
        trouble = why_not(showcase, queue.stopped)
        waiting = [event for one in queue.event_queue_per_concurrency_id.values() for event in one.queue]
        said = {
            "status": "ok" if trouble is None else "unavailable",
            "version": __version__,
            "pictures": len(showcase.gallery.images),
            "indexes": list(showcase.indexes.choices),
            "examples": len(showcase.examples),
            "prepared": len(showcase.prepared),
            "uptime_s": round(time.monotonic() - started, 1),
            "running": queue.get_active_worker_count(),
            "waiting": len(waiting),
            "longest_wait_s": round(max((time.monotonic() - event.enqueue_time for event in waiting), default=0.0), 1),
        }
        if trouble is not None:
            said["reason"] = trouble
        return JSONResponse(said, 200 if trouble is None else 503, headers={"Cache-Control": "no-store"})

    @cache
    def printable() -> str:
        from patchify_core.web.handout import handout

        return handout(showcase)

    def hand_out(request: Request) -> Response:
        """The printable page; made when it is first asked for."""
        try:
            return HTMLResponse(printable())
        except PatchifyError as error:
            return PlainTextResponse(str(error), 503)

    def show_file(request: Request) -> Response:
        """A picture of the gallery, or a file that comes with the page; takes the place of Gradio's own route."""
        path = file_at(showcase.folder, str(request.path_params["name"]))
        if path is None:
            return JSONResponse({"detail": "There is no such file: reload the page."}, 404)
        return FileResponse(path, content_disposition_type="inline", headers={"Cache-Control": "max-age=60"})

    def manifest(request: Request) -> Response:
        """What a browser that installs the page shows; Gradio's names an address that draws icons of any size."""
        icon = {"src": "favicon.ico", "sizes": "any", "type": "image/svg+xml"}
        said = {"name": page.title, "icons": [icon], "start_url": "./", "display": "standalone"}
        return JSONResponse(said, media_type="application/manifest+json")

    return [
        Route("/health", health),
        Route("/handout", hand_out),
        Route("/manifest.json", manifest),
        Route(f"/{ADDRESS}{{name:path}}", show_file),
    ]


def refusals() -> dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    """What answers where Gradio raises; it would log a traceback, or answer with what the request said."""
    from fastapi.exceptions import RequestValidationError
    from gradio.route_utils import FnIndexInferError

    return {**dict.fromkeys((FnIndexInferError, KeyError, TypeError), misnamed), RequestValidationError: misshapen}


async def misshapen(request: Request, error: Exception) -> JSONResponse:
    """What is answered to a request that lacks something, or has it in the wrong type."""
    return JSONResponse({"detail": "The request does not fit this address: see the API under /gradio_api/info."}, 422)


async def misnamed(request: Request, error: Exception) -> JSONResponse:
    """What a program is told that names an endpoint or an argument wrongly; Gradio would only log a traceback.

    Raises:
        Exception: the same error, where it is about anything else than a call.
    """
    if "page" in request.query_params:  # Gradio 6.31.0 looks it up as it is
        return JSONResponse({"detail": "There is no such page: open the address without what follows ?."}, 404)
    if not request.url.path.startswith("/gradio_api/call/"):
        raise error
    return JSONResponse({"detail": "There is no such function or argument: see the API under /gradio_api/info."}, 404)


def why_not(showcase: ExampleGallery, stopped: bool) -> str | None:
    """Why no search can be answered, in one sentence; None if it can.

    Args:
        showcase: the bundled gallery.
        stopped: whether the queue has ended.
    """
    if stopped:
        return "The queue has ended: start the server again."
    if not showcase.indexes.is_loaded(showcase.indexes.first):
        return "The encoder is not loaded: see the server's log."
    if not showcase.gallery.images[0].path.is_file():
        return f"The gallery's pictures are gone from {showcase.folder.name}: put them back."
    return None
