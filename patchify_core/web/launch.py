"""Starts the page's server."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from patchify_core.demo.home import Home
from patchify_core.demo.memory import few_arenas, give_back
from patchify_core.demo.settings import PageSettings, QueueSettings, ServerSettings
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import ASSETS
from patchify_core.web.front import Front
from patchify_core.web.logs import install as install_log
from patchify_core.web.places import hide
from patchify_core.web.serving import serve_front, serve_gradio

if TYPE_CHECKING:
    import gradio as gr

    from patchify_core.demo.examples import ExampleGallery

STYLES = ("style.css", "walk.css", "own.css", "share.css", "evaluation.css")
"""The page's looks: one file for what all tabs share, then one a part."""

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
        folder: the gallery with its queries and indexes; the bundled one by default.
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
    host, port, folder = host or server.host, server.port if port is None else port, folder or server.gallery
    mcp = server.mcp if mcp is None else mcp
    if not 0 < port < 65536:
        raise PatchifyError(f"There is no port {port}: choose a --port from 1 to 65535.")
    names = {name.lower() for name in (*server.hosts, host, socket.gethostname(), f"{socket.gethostname()}.local")}
    server = replace(server, hosts=tuple(names), host=host, port=port)
    hide(folder)
    install_log()
    few_arenas()
    home = Home.make()  # before gradio is imported, which reads where uploads go
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; the page calls no other host
    closing, code = threading.Event(), INTERRUPTED
    demo = own = running = None
    usual = sys.getswitchinterval()
    before = _signals({signal.SIGTERM: _terminated})  # from a service manager: visitors' pictures are deleted first
    try:
        front = Front(folder, server.root_path, server.code)
        running = serve_front(front, server, settings, mcp)  # the first page is there while all the rest is imported
        sys.setswitchinterval(SWITCH_S)
        print(f"Patchify is at {running.address}", flush=True)
        with ThreadPoolExecutor(1, thread_name_prefix="patchify-open") as worker:
            opened = worker.submit(_open, folder)  # torch is imported meanwhile
            import gradio  # noqa: F401

            if mcp:
                from patchify_core.web.tools import offer_tools

                offer_tools()
            from patchify_core.demo.own.registry import Registry
            from patchify_core.web.own_pictures import own_routes
            from patchify_core.web.page import build
            from patchify_core.web.routes import refusals, routes
            from patchify_core.web.uploads import keep_uploads_apart

            showcase = opened.result()
        sys.setswitchinterval(usual)
        own = Registry(showcase, settings, home=home)
        keep_uploads_apart(own.keeping)
        demo = page = build(showcase, settings, own=own)
        page.guard(limits)

        def busy() -> bool:
            return page.quiet_s() < QUIET_S

        between = (showcase, front, closing, busy)
        threading.Thread(target=_between, args=between, name="patchify-between", daemon=True).start()
        ours = [*routes(showcase, page), *own_routes(own)]
        serve_gradio(running, ours, settings.forget_s)
        page.launch(
            server_name=host,
            server_port=port,
            css_paths=[ASSETS / name for name in STYLES],
            head=f"<style>{UNTIL_STYLED}</style><script>{(ASSETS / 'frame.js').read_text(encoding='utf-8')}</script>",
            theme=theme(),
            favicon_path=ASSETS / "logo.svg",
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=f"{settings.upload_mb}mb",
            share=False,
            ssr_mode=False,
            root_path=server.root_path or None,
            state_session_capacity=limits.visits,
            mcp_server=mcp,
            pwa=False,
            # Before Gradio's own, which take every address.
            app_kwargs={"routes": ours, "exception_handlers": refusals()},
            prevent_thread_lock=True,
            quiet=True,
        )
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
        if demo is not None:
            demo.close(verbose=False)
        if running is not None:
            running.close()
        if own is not None:
            own.close()
        home.close()
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


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt(TERMINATED)


def _signals(handlers: dict[signal.Signals, Any]) -> dict[signal.Signals, Any]:
    """Sets handlers of signals and returns those before; elsewhere than in the main thread nothing can be set."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number, handler in handlers.items()}


def _open(folder: Path) -> ExampleGallery:
    """The gallery with what the first view shows found already."""
    from patchify_core.demo.examples import ExampleGallery

    showcase = ExampleGallery(folder)
    try:
        showcase.prepare(examples=1, workers=2)
    except IndexFolderError as error:  # a map is damaged: the page says so to whoever asks
        log.warning("The first example could not be prepared: %s", error)
    return showcase


def _between(showcase: ExampleGallery, front: Front, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """What is done while nobody asks anything: examples are prepared, and memory that visits needed is given back."""
    preparing = (showcase, front, closing, busy)  # which takes long where visitors come and go
    threading.Thread(target=_prepare, args=preparing, name="patchify-prepare", daemon=True).start()
    used, rested = time.monotonic(), False
    given = False
    while not closing.wait(LOOK_S):
        if busy():
            used, rested, given = time.monotonic(), False, False
        elif not given:
            gc.collect()
            give_back()
            given = True
        elif not rested and time.monotonic() - used >= REST_S:
            showcase.shelf.rest()
            give_back()
            rested = True


def _prepare(showcase: ExampleGallery, front: Front, closing: threading.Event, busy: Callable[[], bool]) -> None:
    """Answers the examples while nobody asks anything; whoever asks for one sooner waits a bit longer.

    Args:
        showcase: the bundled gallery.
        front: the first page; its answers are computed here where none lie beside the gallery.
        closing: set when the server ends.
        busy: whether visitors are asking: they come first.
    """

    def stop() -> bool:
        while busy() and not closing.is_set():
            closing.wait(PREPARE_PAUSE_S)
        return closing.is_set()

    if closing.wait(PREPARE_AFTER_S):
        return
    from patchify_core.demo.paper import Paper, paper_index

    try:
        if front.document is None and paper_index(showcase) is not None and showcase.examples:
            front.document = Paper(showcase).document(lambda done, total: None if not stop() else sys.exit())
        showcase.prepare(stop=stop)
    except PatchifyError as error:  # a visitor who asks will be told
        log.warning("The examples could not be prepared: %s", error)


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the system's own fonts, so that no font is fetched from anywhere."""
    import gradio as gr

    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(font=list(system), font_mono=list(mono), primary_hue="blue", neutral_hue="stone")
