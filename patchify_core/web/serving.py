"""Gradio's server, started behind our gate, with connections that end and visits that a flood cannot end."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any

from starlette.routing import Route

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.connections import configured
from patchify_core.web.gate import Gate
from patchify_core.web.states import FairStates


def serve_through_gate(ours: Iterable[Route], server: ServerSettings, settings: PageSettings, tools: bool) -> None:
    """Puts the gate in front of what `Blocks.launch` serves next.

    Gradio 6.31.0 configures uvicorn in `http_server.start_server` and lets nobody say how: without a limit of
    connections or of their time, and with X-Forwarded-For believed from the loopback interface.

    Args:
        ours: our own routes in Gradio's application.
        server: names and proxies of the server.
        settings: of the page.
        tools: whether the MCP server is offered.
    """
    import gradio.http_server

    def start(app: Any, server_name: str, server_port: int, **unused: Any) -> tuple[str, int, str, Any]:
        """As Gradio's.

        Raises:
            OSError: if the port is taken or the address is not this machine's.
        """
        host = server_name.strip("[]")
        family = socket.getaddrinfo(host, server_port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, server_port), family=family):
            pass
        app.state_holder = FairStates(settings.forget_s)
        app.state_holder.set_blocks(app.blocks)
        gate = Gate(app, ours, server, settings, tools)
        config = configured(gate, host, server_port)
        running = gradio.http_server.Server(config)
        running.run_in_thread()
        local = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        return server_name, server_port, f"http://{local}:{server_port}/", running

    gradio.http_server.start_server = start  # type: ignore[assignment]  # where Gradio's launch looks for it
