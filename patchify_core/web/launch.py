"""Starts the page's server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from patchify_core.errors import PatchifyError
from patchify_core.paths import ASSETS, SAMPLE_DB

if TYPE_CHECKING:
    import gradio as gr


def launch(host: str = "127.0.0.1", port: int = 7860, folder: Path = SAMPLE_DB) -> None:
    """Serves the page until it is interrupted.

    Args:
        host: address to listen on.
        port: port to listen on.
        folder: the gallery with its queries and indexes; the bundled one by default.

    Raises:
        PatchifyError: if there is no such port, it is taken, or the gallery and its index do not fit.
    """
    if not 0 < port < 65536:
        raise PatchifyError(f"There is no port {port}: choose a --port from 1 to 65535.")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; the page calls no other host
    import gradio as gr

    from patchify_core.web.page import build
    from patchify_core.web.showcase import Showcase
    from patchify_core.web.visits import PageSettings

    settings = PageSettings()
    showcase = Showcase(folder)
    gr.set_static_paths([ASSETS, folder / "gallery", folder / "queries"])
    demo = build(showcase, settings)
    demo.queue(max_size=64, default_concurrency_limit=2)
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            css_paths=[ASSETS / "style.css"],
            theme=theme(),
            favicon_path=ASSETS / "logo.svg",
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            max_file_size=f"{settings.upload_mb}mb",
            share=False,
            ssr_mode=False,
            state_session_capacity=64,
        )
    except OSError as error:
        raise PatchifyError(
            f"The page cannot be served at {host}:{port}, because something else is there or the address is not of "
            "this machine: choose another --port or --host."
        ) from error


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the system's own fonts, so that no font is fetched from anywhere."""
    import gradio as gr

    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(font=list(system), font_mono=list(mono), primary_hue="blue", neutral_hue="stone")
