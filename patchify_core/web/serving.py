"""The server: our gate with the first page at once, and Gradio behind it as soon as it is loaded.

Gradio 6.31.0 configures uvicorn in `http_server.start_server` and lets nobody say how: without a limit of connections
or of their time, and with X-Forwarded-For believed from the loopback interface.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import uvicorn
from starlette.routing import Route

from patchify_core.demo.settings import PageSettings, ServerSettings
from patchify_core.web.bodies import Receive
from patchify_core.web.connections import configured
from patchify_core.web.front import Front
from patchify_core.web.gate import Gate, Scope, Send, lifespan

START_S = 10.0
"""Seconds in which the server listens, or something is wrong with this machine."""


class Gates:
    """The gates of a server's galleries: the first at its own address, the others below it.

    Args:
        first: of the gallery that the server's own address shows.
        others: path below the server's, such as /gallery/town -> its gate.
        root_path: of the server.
    """

    def __init__(self, first: Gate, others: Mapping[str, Gate], root_path: str = "") -> None:
        """Opens nothing yet."""
        self.first, self.others, self._root = first, others, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on to the gate that it is for."""
        if scope["type"] == "lifespan":
            await lifespan([gate.app for gate in (self.first, *self.others.values())], receive, send)
            return
        path = str(scope.get("path", ""))
        below = path.removeprefix(self._root) if self._root and path.startswith(f"{self._root}/") else path
        for at, gate in self.others.items():
            if below == at or below.startswith(f"{at}/"):
                scope = {**scope, "path": below[len(at) :] or "/"}
                scope["raw_path"] = quote(scope["path"]).encode()
                await gate(scope, receive, send)
                return
        await self.first(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn in a thread of its own, with the methods that Gradio ends its server with.

    Args:
        gates: what answers.
        host: address to listen on.
        port: port to listen on.

    Raises:
        OSError: if the port is taken, or the address is not this machine's.
    """

    def __init__(self, gates: Gates, host: str, port: int) -> None:
        """Starts it; the first page is answered when this returns."""
        host = host.strip("[]")
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.create_server((host, port), family=family):
            pass
        self.gates = [gates.first, *gates.others.values()]
        self.paths = ["", *gates.others]
        local = "localhost" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.address = f"http://{local}:{port}/"
        super().__init__(configured(gates, host, port))
        self.thread = threading.Thread(target=self.run, daemon=True, name="server")
        self.thread.start()
        until = time.monotonic() + START_S
        while not self.started:
            if time.monotonic() > until or not self.thread.is_alive():
                raise OSError(f"the server at {self.address} did not start")
            time.sleep(1e-3)

    def install_signal_handlers(self) -> None:
        """Leaves signals to `launch`."""

    def close(self) -> None:
        """Ends it."""
        self.should_exit = True
        self.thread.join(timeout=5)


def serve_front(fronts: Mapping[str, Front], server: ServerSettings, settings: PageSettings, tools: bool) -> Server:
    """Starts the server with the first page; whatever else is asked waits for Gradio.

    Args:
        fronts: path below the server's -> the first page over a gallery; the first is at the server's own address.
        server: where, and names and proxies of the server.
        settings: of the page.
        tools: whether the MCP server is offered.

    Raises:
        OSError: if the port is taken, or the address is not this machine's.
    """

    def gate(path: str, front: Front) -> Gate:
        below = replace(server, root_path=f"{server.root_path}{path}")
        return Gate(None, (), below, settings, tools and not path, front.routes())

    gates = {path: gate(path, front) for path, front in fronts.items()}
    first = gates.pop(next(iter(gates)))
    return Server(Gates(first, gates, server.root_path), server.host, server.port)


def serve_gradio(server: Server, ours: Iterable[Route], forget_s: float, number: int = 0) -> None:
    """Puts what `Blocks.launch` serves next behind a server that runs already, with visits that a flood cannot end.

    Args:
        server: that runs.
        number: of the gallery whose page it is.
        ours: our own routes in Gradio's application.
        forget_s: seconds without a request after which a visit is forgotten before any other.
    """
    import gradio.http_server

    from patchify_core.web.states import FairStates

    def start(app: Any, server_name: str, server_port: int, **unused: Any) -> tuple[str, int, str, Any]:
        app.state_holder = FairStates(forget_s)
        app.state_holder.set_blocks(app.blocks)
        server.gates[number].open(app, ours)
        return server_name, server_port, f"{server.address[:-1]}{server.paths[number]}/", server

    gradio.http_server.start_server = start  # type: ignore[assignment]  # where Gradio's launch looks for it
