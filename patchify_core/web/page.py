"""Builds the Gradio page: header, tabs, footer and API endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import gradio as gr

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import pictures_note
from patchify_core.demo.indexes import public_spec
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.settings import PageSettings
from patchify_core.files import ASSETS
from patchify_core.web.api import add_api
from patchify_core.web.front import BIBTEX, GalleryLink
from patchify_core.web.guarded import GuardedBlocks
from patchify_core.web.tabs import html
from patchify_core.web.tabs.compression import build_compression_tab
from patchify_core.web.tabs.evaluation import build_evaluation_tab
from patchify_core.web.tabs.search import build_own_tab, build_search_tab
from patchify_core.web.tabs.walk import build_walk_tab
from patchify_core.web.views import render
from patchify_core.web.visits import Visits, file_url

Build = Callable[[Visits, gr.State, gr.Tab], None]
"""Makes the components of a tab. Takes the visitors' actions, the state with a visitor's `UserQuery` (None at first,
which means `showcase.first()`), and the tab, whose `select` event says that it was opened."""

MORE: tuple[tuple[str, Build], ...] = (
    ("How it works", build_walk_tab),
    ("Your pictures", build_own_tab),
    ("Evaluation", build_evaluation_tab),
    ("Compression", build_compression_tab),
)
"""(title, function) of the tabs after the search tab."""


def build(
    showcase: ExampleGallery,
    settings: PageSettings | None = None,
    more: Sequence[tuple[str, Build]] | None = None,
    own: Registry | None = None,
    galleries: Sequence[GalleryLink] = (),
) -> GuardedBlocks:
    """Build the page, with the first example already searched.

    Args:
        showcase: The bundled gallery.
        settings: See `PageSettings`.
        more: Tabs after the search tab; `MORE` by default.
        own: visitors' own pictures; None if the page takes none.
        galleries: All galleries of the server.
    """
    visits, tabs = Visits(showcase, settings, own), MORE if more is None else more
    forget_s = visits.settings.forget_s
    with GuardedBlocks(
        title="Patchify: find an object, and where it is",
        delete_cache=(forget_s // 3, forget_s),
        analytics_enabled=False,
    ) as demo:
        html(render("header", logo=file_url(ASSETS / "logo.svg")), "pf-header")
        with gr.Tabs(elem_id="pf-tabs", elem_classes=[] if tabs else ["is-alone"], overflow_behavior="wrap"):
            with gr.Tab("Search", id="search", elem_id="pf-tab-search"):
                state = build_search_tab(visits, [title for title, _ in tabs], galleries)
                html(render("below"), "pf-below")
                encoder, note = public_spec(showcase.index.encoder), pictures_note(showcase.folder)
                html(render("footer", note=note, encoder=encoder, bibtex=BIBTEX), "pf-foot")
            for title, fill in tabs:
                name = title.lower().replace(" ", "-")
                with gr.Tab(title, id=name, elem_id=f"pf-tab-{name}") as tab:
                    fill(visits, state, tab)
        add_api(visits)
        demo.storage = visits.storage
        demo.unload(visits.leave)
    return demo
