"""Starts the page's server."""

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
"""The page's looks: one file for what all tabs share, then one a part."""

SCRIPTS = ("frame.js", "box.js")
"""Scripts that the page begins with; the others belong to one part each."""

UNTIL_STYLED = """
@keyframes pf-shown { to { visibility: visible } }
.gradio-container main { visibility: hidden; animation: pf-shown 0s 4s forwards }
"""
"""What the page begins with: Gradio shows its parts as they come, some before their styles, and that would be seen to
jump. The styles say when all that matters is there; should it never be, the page is visible after some seconds."""

PREPARE_AFTER_S = 2.0
"""Seconds after which the examples are prepared: the page itself comes first."""

PREPARE_PAUSE_S = 0.2
"""Seconds between two looks at whether visitors are there."""

QUIET_S = 3.0
"""Seconds for which nobody must have asked anything before the examples are prepared further."""

SWITCH_S = 0.0005
"""Seconds after which imports let the thread of the first page compute; Python's usual ten times as many would be felt
there, because each picture waits for several turns."""

REST_S = 30.0
"""Seconds for which nobody must have asked anything before maps that stay ready for the next search are let go of."""

LOOK_S = 1.0
"""Seconds between two looks at whether memory can be given back."""

END_S = 5.0
"""Seconds that what is being computed gets to end when the server does."""

INTERRUPTED, TERMINATED = 0, 128 + 15
"""Exit codes of a server that ended as it was told to, with Ctrl-C and by SIGTERM."""

IGNORED = {signal.SIGINT: signal.SIG_IGN, signal.SIGTERM: signal.SIG_IGN}

log = logging.getLogger(__name__)


def launch(
    host: str | None = None,
    port: int | None = None,
    folder: Path | None = None,
    mcp: bool | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Serves the page until it is interrupted. What is None is as the environment says (`settings.VARIABLES`).

    Args:
        host: address to listen on.
        port: port to listen on.
        folder: the gallery with its queries and indexes; by default those of PATCHIFY_GALLERY.
        mcp: whether programs may use the page's API as tools over the Model Context Protocol.
        environ: where the variables are.

    Returns:
        The exit code; `leave` ends the process with it.

    Raises:
        PatchifyError: if there is no such port, it is taken, the gallery and its index do not fit, a variable says
            something that does not do, or the package for `mcp` is missing.
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
    server_folders = ServerFolders.create()  # before gradio is imported, which reads where uploads go
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; the page calls no other host
    closing, code = threading.Event(), INTERRUPTED
    pages: list[GuardedBlocks] = []
    own = running = None
    usual = sys.getswitchinterval()
    before = _signals({signal.SIGTERM: _terminated})  # from a service manager: visitors' pictures are deleted first
    try:
        choices = gallery_titles(folders)
        paths = ["", *(f"/gallery/{name}" for name in list(choices)[1:])]

        def switch(here: str) -> list[GalleryLink]:
            shown = zip(choices.values(), paths, strict=True)
            return [(title, f"{server.root_path}{path}/", path == here) for title, path in shown]

        fronts = {
            path: Front(one, f"{server.root_path}{path}", server.code, switch(path))
            for path, one in zip(paths, folders, strict=True)
        }
        running = serve_front(fronts, server, settings, mcp)  # the first page is there while all the rest is imported
        sys.setswitchinterval(SWITCH_S)
        print(f"Patchify is at {running.address}", flush=True)
        with ThreadPoolExecutor(1, thread_name_prefix="patchify-open") as worker:
            opened = worker.submit(_open, folders)  # torch is imported meanwhile
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
        sys.setswitchinterval(usual)
        own = Registry(galleries[0], settings, folders=server_folders)
        keep_uploads_apart(own.storage)

        def busy() -> bool:
            return any(page.quiet_s() < QUIET_S for page in pages)

        between = (tuple(zip(galleries, fronts.values(), strict=True)), closing, busy)
        theirs = own_routes(own)  # once: what visitors may do at a time is bounded for all galleries together
        head = f"<style>{UNTIL_STYLED}</style>{''.join(map(_script, SCRIPTS))}"
        for gallery, front in between[0]:
            front.paper, front.ready = None if paper_index(gallery) is None else Paper(gallery), True
        for number, (path, showcase) in enumerate(zip(paths, galleries, strict=True)):
            page = build(showcase, settings, own=own, galleries=switch(path))
            page.guard(limits)
            pages.append(page)
            ours = [*routes(showcase, page), *theirs]
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
            f"The page cannot be served at {host}:{port}, because something else is there or the address is not of "
            "this machine: choose another --port or --host."
        ) from error
    finally:
        _signals(IGNORED)  # whoever asks twice does not interrupt the deletion of what visitors sent
        closing.set()
        for page in pages:
            page.close(verbose=False)
        if running is not None:
            running.close()
        if own is not None:
            own.close()
        server_folders.close()
        _signals(before)
    return code


def leave(code: int) -> NoReturn:
    """Ends the process, now.

    Python's own end takes threads apart that compute in torch and FAISS at that moment, which aborts it (SIGABRT) in
    about every third try. Everything that must not stay was deleted when the server was closed.

    Args:
        code: the exit code.
    """
    _signals(IGNORED)
    end = time.monotonic() + END_S
    for thread in threading.enumerate():
        if thread.name.startswith("patchify-") and thread is not threading.current_thread():
            thread.join(max(0.0, end - time.monotonic()))
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def _script(name: str) -> str:
    return f"<script>{(ASSETS / name).read_text(encoding='utf-8')}</script>"


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt(TERMINATED)


def _signals(handlers: dict[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Sets handlers of signals and returns those before; elsewhere than in the main thread nothing can be set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number, handler in handlers.items()}


def _open(folders: Sequence[Path]) -> list[ExampleGallery]:
    """The galleries, each with what its first view shows found already; they share their encoders."""
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
        except IndexFolderError as error:  # a map is damaged: the page says so to whoever asks
            log.warning("The first example could not be prepared: %s", error)
    return galleries


Shown = Sequence[tuple["ExampleGallery", Front]]
"""The galleries, each with its first page."""


def _between(shown: Shown, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """What is done while nobody asks anything: examples are prepared, and memory that visits needed is given back."""
    preparing = (shown, closing, busy)  # which takes long where visitors come and go
    threading.Thread(target=_prepare, args=preparing, name="patchify-prepare", daemon=True).start()
    used, rested = time.monotonic(), False
    given = False
    while not closing.wait(LOOK_S):
        if busy():
            used, rested, given = time.monotonic(), False, False
        elif not given:
            gc.collect()
            release_memory()
            given = True
        elif not rested and time.monotonic() - used >= REST_S:
            for gallery, _ in shown:
                gallery.indexes.rest()
            release_memory()
            rested = True


def _prepare(shown: Shown, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """Answers the examples while nobody asks anything; whoever asks for one sooner waits a bit longer.

    Args:
        shown: the answers of a first page are computed here where none lie beside its gallery.
        closing: set when the server ends.
        busy: whether visitors are asking: they come first.
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
        except PatchifyError as error:  # a visitor who asks will be told
            log.warning("The examples could not be prepared: %s", error)


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the system's own fonts, so that no font is fetched from anywhere."""
    import gradio as gr

    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(font=list(system), font_mono=list(mono), primary_hue="blue", neutral_hue="stone")


INSTALL = 'pip install "gradio[mcp]==6.31.0"'
"""Installs what the server needs; requirements.txt does too."""


def offer_tools() -> None:
    """Makes Gradio's MCP server answer in JSON; called before the launch with `mcp_server=True`.

    Gradio gives a tool's answer as Python writes it (`{'box': None}`), which no JSON reader takes.

    Raises:
        PatchifyError: if the `mcp` package is not installed. (Gradio would start without the server and say nothing.)
    """
    if importlib.util.find_spec("mcp") is None:
        raise PatchifyError(f"The MCP server needs the package mcp, which is not installed: run {INSTALL}.")
    import gradio.mcp

    class JsonServer(gradio.mcp.GradioMCPServer):
        """Gradio's, apart from how answers are written, and without what the page does not offer."""

        def create_mcp_server(self) -> Any:
            """Tools alone; Gradio answers `prompts/get` for any name with its last tool, asked as the server itself."""
            server = super().create_mcp_server()
            offered = (self.types.ListToolsRequest, self.types.CallToolRequest, self.types.PingRequest)
            for request in set(server.request_handlers) - set(offered):
                del server.request_handlers[request]
            return server

        def postprocess_output_data(self, data: Any, root_url: str) -> list[Any]:
            """Lists and objects as JSON; the rest as Gradio does it."""
            return super().postprocess_output_data([_as_json(value) for value in data], root_url)

    gradio.mcp.GradioMCPServer = JsonServer  # type: ignore[misc]  # where Gradio's launch looks for it


def _as_json(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value
