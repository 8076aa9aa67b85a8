"""The tab for a visitor's own pictures. Its script calls `own.addresses`; searching them happens in the search tab."""

from __future__ import annotations

import gradio as gr

from patchify_core.files import ASSETS
from patchify_core.web import views
from patchify_core.web.tabs.search import PLAIN
from patchify_core.web.visits import Visits


def build_own_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Makes the tab; nothing is asked of the server before a visitor sends something.

    Args:
        visits: what visitors can do.
        state: holds a visitor's `Question`.
        tab: what is opened.
    """
    script = (ASSETS / "own.js").read_text(encoding="utf-8")
    gr.HTML(views.own(visits.settings, visits.own is not None), elem_id="pf-own", js_on_load=script, **PLAIN)
