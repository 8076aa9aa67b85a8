"""What all tabs are made of: pieces of HTML with a script, and how quietly their events are answered."""

from __future__ import annotations

from typing import Any

import gradio as gr

from patchify_core.files import ASSETS

PLAIN: dict[str, Any] = {"container": False, "padding": False, "apply_default_css": False}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE}


def html(value: str, elem_id: str, script: str | None = None, **options: Any) -> gr.HTML:
    """HTML without Gradio's frame around it.

    Args:
        value: what it shows at first.
        elem_id: what style sheets and tests find it by.
        script: a file of `assets` that brings it to life.
        options: of `gr.HTML`.
    """
    code = None if script is None else (ASSETS / script).read_text(encoding="utf-8")
    return gr.HTML(value, elem_id=elem_id, js_on_load=code, **PLAIN, **options)
