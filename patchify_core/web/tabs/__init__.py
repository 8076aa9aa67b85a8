"""The tabs of the page, one module each, and what they share: HTML components with a script, and options of events.

A tab is a function that makes its components; `page.MORE` lists those after the search tab.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from patchify_core.files import ASSETS

PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE}
"""Options of events that are no endpoints of the API, and of those that also show no progress and drop nothing."""


def html(value: str, elem_id: str, script: str | None = None, **options: Any) -> gr.HTML:
    """Make an HTML component without Gradio's frame around it.

    Args:
        value: What it shows at first.
        elem_id: For style sheets and tests.
        script: A file of `assets` that runs when it is loaded.
        options: Of `gr.HTML`.
    """
    code = None if script is None else (ASSETS / script).read_text(encoding="utf-8")
    return gr.HTML(
        value, elem_id=elem_id, js_on_load=code, container=False, padding=False, apply_default_css=False, **options
    )
