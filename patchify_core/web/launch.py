"""Starts the page's server, keeps it running, and stops it."""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from patchify_core.demo.gallery_info import gallery_titles
from patchify_core.demo.memory import limit_arenas, release_memory
from patchify_core.demo.server_folders import ServerFolders
from patchify_core.demo.settings import PageSettings, QueueSettings, ServerSettings
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import ASSETS
from patchify_core.web.front import Front, GalleryLink
from patchify_core.web.logs import install as install_log
from patchify_core.web.paths import hide
from patchify_core.web.serving import serve_front, serve_gradio

if TYPE_CHECKING:
    import gradio as gr

    from patchify_core.demo.example_gallery import ExampleGallery
    from patchify_core.web.guarded import GuardedBlocks

STYLES = ("style.css", "box.css", "walk.css", "own.css", "share.css", "evaluation.css")
"""Style sheets: one shared by all tabs, then one per part."""

SCRIPTS = ("frame.js", "box.js")
"""Scripts of the whole page; the others belong to one part each."""

UNTIL_STYLED = """
@keyframes pf-shown { to { visibility: visible } }
.gradio-container main { visibility: hidden; animation: pf-shown 0s 4s forwards }
"""
"""Hides the page at first: Gradio shows its parts as they arrive, some before their styles, so that they would jump.
The style sheets show it when everything important is there; at the latest it is visible after some seconds."""

PREPARE_AFTER_S = 2.0
"""Seconds after which the examples are prepared, so that the page itself comes first."""

PREPARE_PAUSE_S = 0.2
"""Seconds between two checks for visitors."""

QUIET_S = 3.0
"""Seconds without a request after which preparing the examples goes on."""

SWITCH_S = 0.0005
"""Switch interval of Python's threads during imports. With the default, ten times as long, the first page would be
slow, because each of its pictures waits for several turns."""

REST_S = 30.0
"""Seconds without a request after which cached feature maps are released."""

LOOK_S = 1.0
"""Seconds between two checks whether memory can be released."""

END_S = 5.0
"""Seconds for computations to end when the server stops."""

INTERRUPTED, TERMINATED = 0, 128 + 15
"""Exit codes after Ctrl-C and after SIGTERM."""

IGNORED = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}

log = logging.getLogger(__name__)


def launch(
    host: str | None = None,
    port: int | None = None,
    folder: Path | None = None,
    mcp: bool | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Serve the page until it is interrupted. Arguments that are None come from the environment (`settings.VARIABLES`).

    Args:
        host: Address to listen on.
        port: Port to listen on.
        folder: The gallery with its queries and indexes; by default those of PATCHIFY_GALLERY.
        mcp: Whether programs may use the API as tools over the Model Context Protocol.
        environ: The environment variables.

    Returns:
        The exit code; `leave` ends the process with it.

    Raises:
        PatchifyError: If the port is invalid or taken, the gallery and its index do not fit, a variable is invalid, or
            the package for `mcp` is missing.
    """
    server = ServerSettings.from_environment(environ)
    settings, limits = PageSettings.from_environment(environ), QueueSettings.from_environment(environ)
    host, port = host or server.host, server.port if port is None else port
    folders = server.galleries if folder is None else (folder,)
    mcp = server.mcp if mcp is None else mcp
    if not 0 < port < 65536:
        raise PatchifyError(f"There is no port {port}: choose a --port from 1 to 65535.")
    hosts = {name.lower() for name in (*server.hosts, host, socket.gethostname(), f"{socket.gethostname()}.local")}
    server = replace(server, hosts=tuple(hosts), host=host, port=port)
    hide(*folders)
    install_log()
    limit_arenas()
    server_folders = ServerFolders.create()  # before gradio is imported, which reads the folder of uploads
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # likewise; the page calls no other host
    closing, code = threading.Event(), INTERRUPTED
    pages: list[GuardedBlocks] = []
    own = running = None
    switch_interval = sys.getswitchinterval()
    handlers = _signals({signal.SIGTERM: _terminated})  # sent by service managers: delete visitors' pictures first
    try:
        choices = gallery_titles(folders)
        paths = ["", *(f"/gallery/{name}" for name in list(choices)[1:])]

        def links(here: str) -> list[GalleryLink]:
            titled = zip(choices.values(), paths, strict=True)
            return [(title, f"{server.root_path}{path}/", path == here) for title, path in titled]

        fronts = {
            path: Front(one, f"{server.root_path}{path}", server.code, links(path))
            for path, one in zip(paths, folders, strict=True)
        }
        running = serve_front(fronts, server, settings, mcp)  # with the first page, while the rest is imported
        sys.setswitchinterval(SWITCH_S)
        print(f"Patchify is at {running.address}", flush=True)
        with ThreadPoolExecutor(1, thread_name_prefix="patchify-open") as worker:
            opened = worker.submit(_open, folders)  # imports torch meanwhile
            import gradio  # noqa: F401

            if mcp:
                offer_tools()
            from patchify_core.demo.own.registry import Registry
            from patchify_core.demo.paper import Paper, paper_index
            from patchify_core.web.own_pictures import own_routes
            from patchify_core.web.page import build
            from patchify_core.web.routes import refusals, routes
            from patchify_core.web.uploads import keep_uploads_apart

            galleries = opened.result()
        sys.setswitchinterval(switch_interval)
        own = Registry(galleries[0], settings, folders=server_folders)
        keep_uploads_apart(own.storage)

        def busy() -> bool:
            return any(page.quiet_s() < QUIET_S for page in pages)

        between = (tuple(zip(galleries, fronts.values(), strict=True)), closing, busy)
        shared = own_routes(own)  # once: its limits are for all galleries together
        head = f"<style>{UNTIL_STYLED}</style>{''.join(map(_script, SCRIPTS))}"
        for gallery, front in between[0]:
            front.paper, front.ready = None if paper_index(gallery) is None else Paper(gallery), True
        for number, (path, showcase) in enumerate(zip(paths, galleries, strict=True)):
            page = build(showcase, settings, own=own, galleries=links(path))
            page.guard(limits)
            pages.append(page)
            ours = [*routes(showcase, page), *shared]
            serve_gradio(running, ours, settings.forget_s, number)
            page.launch(
                server_name=host,
                server_port=port,
                css_paths=[ASSETS / name for name in STYLES],
                head=head,
                theme=theme(),
                favicon_path=ASSETS / "logo.svg",
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                max_file_size=f"{settings.upload_mb}mb",
                share=False,
                ssr_mode=False,
                root_path=f"{server.root_path}{path}" or None,
                state_session_capacity=limits.visits,
                mcp_server=mcp and not path,
                pwa=False,
                # Before Gradio's own, which take every address.
                app_kwargs={"routes": ours, "exception_handlers": refusals()},
                prevent_thread_lock=True,
                quiet=True,
            )
        threading.Thread(target=_between, args=between, name="patchify-between", daemon=True).start()
        while not closing.wait(LOOK_S):  # on Windows a wait without an end cannot be interrupted
            pass
    except KeyboardInterrupt as interrupt:
        code = interrupt.args[0] if interrupt.args else INTERRUPTED
    except OSError as error:
        raise PatchifyError(
            f"The page cannot be served at {host}:{port}, because the port is taken or the address does not belong to "
            "this machine: choose another --port or --host."
        ) from error
    finally:
        _signals(IGNORED)  # a second signal does not interrupt the deletion of visitors' pictures
        closing.set()
        for page in pages:
            page.close(verbose=False)
        if running is not None:
            running.close()
        if own is not None:
            own.close()
        server_folders.close()
        _signals(handlers)
    return code


def leave(code: int) -> NoReturn:
    """End the process at once.

    Python's normal exit destroys threads that are computing in torch and FAISS, which aborts the process (SIGABRT) in
    about every third try. Visitors' files were deleted when the server stopped.

    Args:
        code: The exit code.
    """
    _signals(IGNORED)
    end = time.monotonic() + END_S
    for thread in threading.enumerate():
        if thread.name.startswith("patchify-") and thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone
            stream.flush()
    os._exit(code)


def _script(name: str) -> str:
    return f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>"


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt(TERMINATED)


def _signals(handlers: dict[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Set handlers of signals and return the old ones; do nothing outside the main thread, where it is impossible."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number, handler in handlers.items()}


def _open(folders: Sequence[Path]) -> list[ExampleGallery]:
    """Open the galleries, which share their encoders, and compute the first view of each."""
    from patchify_core.demo.example_gallery import ExampleGallery

    galleries: list[ExampleGallery] = []
    for folder in folders:
        galleries.append(ExampleGallery(folder, beside=galleries[0] if galleries else None))
        if not galleries[-1].examples:
            raise PatchifyError(
                f"{folder} marks no picture as a query, and the page begins with one: give some "
                '"split": "query", as in sample_db/annotations.json.'
            )
        try:
            galleries[-1].prepare(examples=1, workers=2)
        except IndexFolderError as error:  # a feature map is damaged: the page says so when it is needed
            log.warning("The first example could not be prepared: %s", error)
    return galleries


Shown = Sequence[tuple["ExampleGallery", Front]]
"""The galleries, each with its first page."""


def _between(shown: Shown, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """Prepare examples and release memory while there are no requests."""
    preparing = (shown, closing, busy)
    threading.Thread(target=_prepare, args=preparing, name="patchify-prepare", daemon=True).start()
    used, released, rested = time.monotonic(), False, False
    while not closing.wait(LOOK_S):
        if busy():
            used, released, rested = time.monotonic(), False, False
        elif not released:
            gc.collect()
            release_memory()
            released = True
        elif not rested and time.monotonic() - used >= REST_S:
            for gallery, _ in shown:
                gallery.indexes.free_maps()
            release_memory()
            rested = True


def _prepare(shown: Shown, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """Answer the examples while there are no requests, and compute the answers of first pages that have none stored.

    Args:
        shown: The galleries with their first pages.
        closing: Set when the server stops.
        busy: Whether there are requests, which come first.
    """

    def stop() -> bool:
        while busy() and not closing.is_set():
            closing.wait(PREPARE_PAUSE_S)
        return closing.is_set()

    if closing.wait(PREPARE_AFTER_S):
        return
    for gallery, front in shown:
        try:
            if front.document is None and front.paper is not None and gallery.examples:
                front.document = front.paper.document(lambda done, total: None if not stop() else sys.exit())
            gallery.prepare(stop=stop)
        except PatchifyError as error:  # the page says so when they are needed
            log.warning("The examples could not be prepared: %s", error)


def theme() -> gr.themes.Base:
    """Return Gradio's plain theme with system fonts, so that none is fetched from another host."""
    import gradio as gr

    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(font=list(system), font_mono=list(mono), primary_hue="blue", neutral_hue="stone")


INSTALL = 'pip install "gradio[mcp]==6.31.0"'
"""Command that installs the MCP server; requirements.txt contains it too."""


def offer_tools() -> None:
    """Make Gradio's MCP server answer in JSON; must be called before the launch with `mcp_server=True`.

    Gradio returns a tool's answer as a Python literal (`{'box': None}`), which is not JSON.

    Raises:
        PatchifyError: If the `mcp` package is not installed; Gradio would silently start without the MCP server.
    """
    if importlib.util.find_spec("mcp") is None:
        raise PatchifyError(f"The MCP server needs the package mcp, which is not installed: run {INSTALL}.")
    import gradio.mcp

    class JsonServer(gradio.mcp.GradioMCPServer):
        """Gradio's server, with answers in JSON, and tools only."""

        def create_mcp_server(self) -> Any:
            """Remove all but tools; Gradio answers `prompts/get` for any name by calling its last tool."""
            server = super().create_mcp_server()
            offered = (self.types.ListToolsRequest, self.types.CallToolRequest, self.types.PingRequest)
            for request in set(server.request_handlers) - set(offered):
                del server.request_handlers[request]
            return server

        def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
            """Encode lists and objects as JSON; leave the rest to Gradio."""
            return super().postprocess_output_data([_as_json(value) for value in data], root_url)

    gradio.mcp.GradioMCPServer = JsonServer  # type: ignore[misc]  # where Gradio's launch looks for it


def _as_json(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
