"""The addresses of Gradio's server that are used, and by whom; all others are refused (`gate`).

Gradio 6.31.0 opens some sixty addresses that this page needs nothing of. Among them are a fetcher of any public address
(`file=http://...`), writers of visitors' inputs to the disk (`deep_link`) and editors of the program (`vibe-edit`).
What a later version adds is refused too until it is listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.routing import Route

READ = frozenset({"GET"})
SEND = frozenset({"POST"})

_ID = r"[\w.-]{1,64}"
_FILE = r"(?:[\w@-][\w@.-]*/)*[\w@-][\w@.-]*"


@dataclass(frozen=True)
class Use:
    """One kind of address.

    Attributes:
        path: what the whole path matches, below the page's own.
        methods: of requests to it.
        by: who sends them.
        body: what they send: `nothing`, a little `json`, the JSON of a `call` with a picture in it, one `upload`,
            or what our `own` routes read and bound themselves.
        tools: whether it belongs to the MCP server.
    """

    path: re.Pattern[str]
    methods: frozenset[str]
    by: str
    body: str = "nothing"
    tools: bool = False


def _use(path: str, methods: frozenset[str], by: str, body: str = "nothing", tools: bool = False) -> Use:
    return Use(re.compile(path, re.ASCII), methods, by, body, tools)


USED = (
    _use("/(?:photos)?", READ | {"HEAD"}, "the page, Gradio's own start, health checks of hosts"),
    _use("/config", READ, "gradio_client, a Space"),
    _use(r"/theme\.css", READ, "the page"),
    _use(f"/(?:assets|static)/{_FILE}", READ, "the page"),
    _use(r"/favicon\.ico", READ, "browsers"),
    _use(r"/robots\.txt", READ, "crawlers"),
    _use("/gradio_api/startup-events", READ, "Gradio's own start"),
    _use("/gradio_api/info", READ, "gradio_client, README"),
    _use(r"/gradio_api/openapi\.json", READ, "the page's footer, README"),
    _use(f"/gradio_api/heartbeat/{_ID}", READ, "the page, gradio_client: its end deletes a session's state"),
    _use("/gradio_api/queue/join", SEND, "the page, gradio_client", "call"),
    _use("/gradio_api/queue/data", READ, "the page, gradio_client"),
    _use("/gradio_api/(?:cancel|reset)", SEND, "the page, gradio_client", "json"),
    _use("/gradio_api/upload", SEND, "the page, gradio_client, MCP clients", "upload"),
    _use("/gradio_api/upload_progress", READ, "the page"),
    _use(rf"/gradio_api/call/(?:v2/)?{_ID}", SEND, "README's curl", "call"),
    _use(rf"/gradio_api/call/(?:v2/)?{_ID}/{_ID}", READ, "README's curl"),
    _use("/gradio_api/mcp(?:/|/http|/http/)?", READ | SEND | {"DELETE"}, "MCP clients", "call", tools=True),
    _use("/gradio_api/mcp/schema", READ, "MCP clients, a Space", tools=True),
    _use("/gradio_api/mcp/sse", READ, "MCP clients", tools=True),
    _use("/gradio_api/mcp/messages/", SEND, "MCP clients", "call", tools=True),
)
"""What is used of Gradio."""


def our_uses(routes: Iterable[Route]) -> tuple[Use, ...]:
    """Our own routes as uses."""
    return tuple(Use(route.path_regex, frozenset(route.methods or READ), "the page", "own") for route in routes)


def found_use(uses: Iterable[Use], path: str) -> tuple[Use, ...]:
    """The uses that a path fits."""
    return tuple(use for use in uses if use.path.fullmatch(path))
