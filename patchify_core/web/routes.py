"""Our own routes in Gradio's application: health, handout, manifest and files; and handlers of its errors."""

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
from patchify_core.web.paths import ADDRESS, file_at

if TYPE_CHECKING:
    import gradio as gr

    from patchify_core.demo.example_gallery import ExampleGallery


def routes(showcase: ExampleGallery, page: gr.Blocks) -> list[Route]:
    """Return the routes.

    Args:
        showcase: The bundled gallery.
        page: The Gradio page.
    """
    started = time.monotonic()

    async def health(request: Request) -> JSONResponse:
        """Say for monitoring whether searches can be answered: 200, or 503 and the reason.

        It does not wait in the queue of searches, and computes nothing.
        """
        queue = page._queue
        problem = problem_of(showcase, queue.stopped)
        waiting = [event for one in queue.event_queue_per_concurrency_id.values() for event in one.queue]
        report = {
            "status": "ok" if problem is None else "unavailable",
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
        if problem is not None:
            report["reason"] = problem
        return JSONResponse(report, 200 if problem is None else 503, headers={"Cache-Control": "no-store"})

    @cache
    def printable() -> str:
        from patchify_core.web.views.handout import handout

        return handout(showcase)

    def print_handout(request: Request) -> Response:
        """Return the printable page, which is made on the first request."""
        try:
            return HTMLResponse(printable())
        except PatchifyError as error:
            return PlainTextResponse(str(error), 503)

    def show_file(request: Request) -> Response:
        """Return a picture of the gallery or a file of the page, in place of Gradio's own route."""
        path = file_at(showcase.folder, str(request.path_params["name"]))
        if path is None:
            return JSONResponse({"detail": "There is no such file: reload the page."}, 404)
        return FileResponse(path, content_disposition_type="inline", headers={"Cache-Control": "max-age=60"})

    def manifest(request: Request) -> Response:
        """Return the web app manifest; Gradio's own names an address that draws icons of any size."""
        icon = {"src": "favicon.ico", "sizes": "any", "type": "image/svg+xml"}
        content = {"name": page.title, "icons": [icon], "start_url": "./", "display": "standalone"}
        return JSONResponse(content, media_type="application/manifest+json")

    return [
        Route("/health", health),
        Route("/handout", print_handout),
        Route("/manifest.json", manifest),
        Route(f"/{ADDRESS}{{name:path}}", show_file),
    ]


def refusals() -> dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
    """Return handlers of errors for which Gradio would log a traceback, or quote the request in the answer."""
    from fastapi.exceptions import RequestValidationError
    from gradio.route_utils import FnIndexInferError

    return {
        **dict.fromkeys((FnIndexInferError, KeyError, TypeError), unknown_name),
        RequestValidationError: invalid_request,
    }


async def invalid_request(request: Request, error: Exception) -> JSONResponse:
    """Answer a request with missing or mistyped fields."""
    return JSONResponse({"detail": "The request does not fit this address: see the API under /gradio_api/info."}, 422)


async def unknown_name(request: Request, error: Exception) -> JSONResponse:
    """Answer a program that names an unknown endpoint or argument.

    Raises:
        Exception: The same error, if it is about anything else than a call.
    """
    if "page" in request.query_params:  # Gradio 6.31.0 looks it up unchecked
        return JSONResponse({"detail": "There is no such page: open the address without what follows ?."}, 404)
    if not request.url.path.startswith("/gradio_api/call/"):
        raise error
    return JSONResponse({"detail": "There is no such function or argument: see the API under /gradio_api/info."}, 404)


def problem_of(showcase: ExampleGallery, stopped: bool) -> str | None:
    """Return in one sentence why no search can be answered; None if it can.

    Args:
        showcase: The bundled gallery.
        stopped: Whether the queue has ended.
    """
    if stopped:
        return "The queue has ended: start the server again."
    if not showcase.indexes.is_loaded(showcase.indexes.first):
        return "The encoder is not loaded: see the server's log."
    if not showcase.gallery.images[0].path.is_file():
        return f"The gallery's pictures are gone from {showcase.folder.name}: put them back."
    return None
