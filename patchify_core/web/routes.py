"""Addresses of the page's server that are not Gradio's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

if TYPE_CHECKING:
    from patchify_core.web.showcase import Showcase


def routes(showcase: Showcase) -> list[Route]:
    """The addresses, each with what answers it.

    Args:
        showcase: the bundled gallery.
    """

    def health(request: Request) -> JSONResponse:
        """Whether searches can be answered, for whoever watches the server."""
        return JSONResponse({"status": "ok", "pictures": len(showcase.gallery.images)})

    return [Route("/health", health)]
