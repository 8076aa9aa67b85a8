"""The addresses of Gradio's server that the gate lets through; it refuses all others.

Gradio 6.31.0 has some sixty addresses that this page does not need. Among them are a fetcher of any public address
(`file=http://...`), writers of visitors' inputs to the disk (`deep_link`) and editors of the program (`vibe-edit`).
Addresses that a later version adds are refused too until they are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import Route

GET = frozenset({"GET"})
POST = frozenset({"POST"})

_ID = r"[\w.-]{1,64}"
_FILE = r"(?:[\w@-][\w@.-]*/)*[\w@-][\w@.-]*"


@dataclass(frozen=True)
class Allowed:
    """One kind of address.

    Attributes:
        path: Pattern of the whole path, below the page's own.
        methods: Of requests.
        body: Of requests: `nothing`, a little `json`, the JSON of a `call` with a picture in it, one `upload`, or
            what our `own` routes read and limit themselves.
        tools: Whether it belongs to the MCP server.
    """

    path: re.Pattern[str]
    methods: frozenset[str]
    body: str = "nothing"
    tools: bool = False


def _gradio(path: str, methods: frozenset[str], body: str = "nothing", tools: bool = False) -> Allowed:
    return Allowed(re.compile(path, re.ASCII), methods, body, tools)


OF_GRADIO = (
    _gradio("/(?:photos)?", GET | {"HEAD"}),  # the page, Gradio's own start, health checks of hosts
    _gradio("/config", GET),  # gradio_client, a Space
    _gradio(r"/theme\.css", GET),
    _gradio(f"/(?:assets|static)/{_FILE}", GET),
    _gradio(r"/favicon\.ico", GET),
    _gradio(r"/robots\.txt", GET),
    _gradio("/gradio_api/startup-events", GET),  # Gradio's own start
    _gradio("/gradio_api/info", GET),  # gradio_client, README
    _gradio(r"/gradio_api/openapi\.json", GET),  # the page's footer, README
    _gradio(f"/gradio_api/heartbeat/{_ID}", GET),  # its end deletes the state of a session
    _gradio("/gradio_api/queue/join", POST, "call"),
    _gradio("/gradio_api/queue/data", GET),
    _gradio("/gradio_api/(?:cancel|reset)", POST, "json"),
    _gradio("/gradio_api/upload", POST, "upload"),  # the page, gradio_client, MCP clients
    _gradio("/gradio_api/upload_progress", GET),
    _gradio(rf"/gradio_api/call/(?:v2/)?{_ID}", POST, "call"),  # README's curl
    _gradio(rf"/gradio_api/call/(?:v2/)?{_ID}/{_ID}", GET),  # README's curl
    _gradio("/gradio_api/mcp(?:/|/http|/http/)?", GET | POST | {"DELETE"}, "call", tools=True),
    _gradio("/gradio_api/mcp/schema", GET, tools=True),
    _gradio("/gradio_api/mcp/sse", GET, tools=True),
    _gradio("/gradio_api/mcp/messages/", POST, "call", tools=True),
)
"""Addresses of Gradio's server."""


def of_routes(routes: Iterable[Route]) -> tuple[Allowed, ...]:
    """Return the addresses of our own routes."""
    return tuple(Allowed(route.path_regex, frozenset(route.methods or GET), "own") for route in routes)


def matching(addresses: Iterable[Allowed], path: str) -> tuple[Allowed, ...]:
    """Return the addresses that match a path."""
    return tuple(one for one in addresses if one.path.fullmatch(path))
