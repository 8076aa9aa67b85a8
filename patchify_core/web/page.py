"""Puts the page together: its head, its tabs, what the method does, and whose work it is."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.gallery_info import pictures_note
from patchify_core.demo.indexes import public_spec
from patchify_core.demo.own.registry import Registry
from patchify_core.demo.settings import PageSettings
from patchify_core.files import ASSETS
from patchify_core.web import views
from patchify_core.web.api import add_api
from patchify_core.web.front import GalleryLink
from patchify_core.web.guarded import GuardedBlocks
from patchify_core.web.tabs import MORE, Build
from patchify_core.web.tabs.parts import html
from patchify_core.web.tabs.search import build_search_tab
from patchify_core.web.visits import Visits, file_url


def build(
    showcase: ExampleGallery,
    settings: PageSettings | None = None,
    more: Sequence[tuple[str, Build]] = MORE,
    own: Registry | None = None,
    galleries: Sequence[GalleryLink] = (),
) -> GuardedBlocks:
    """The page, with the first example already searched.

    Args:
        showcase: the bundled gallery.
        settings: see `PageSettings`.
        more: (title, function) of the tabs after the search.
        own: visitors' own pictures; by default the page takes none.
        galleries: that the server shows, this one among them.
    """
    visits = Visits(showcase, settings, own)
    forget_s = visits.settings.forget_s
    with GuardedBlocks(
        title="Patchify: find an object, and where it is",
        delete_cache=(forget_s // 3, forget_s),
        analytics_enabled=False,
    ) as demo:
        html(views.header(file_url(ASSETS / "logo.svg")), "pf-header")
        with gr.Tabs(elem_id="pf-tabs", elem_classes=[] if more else ["is-alone"], overflow_behavior="wrap"):
            with gr.Tab("Search", id="search", elem_id="pf-tab-search"):
                state = build_search_tab(visits, [title for title, _ in more], galleries)
                html(views.below(), "pf-below")
                encoder = public_spec(showcase.index.encoder)
                html(views.footer(pictures_note(showcase.folder), encoder), "pf-foot")
            for title, fill in more:
                name = title.lower().replace(" ", "-")
                with gr.Tab(title, id=name, elem_id=f"pf-tab-{name}") as tab:
                    fill(visits, state, tab)
        add_api(visits)
        demo.storage = visits.storage
        demo.unload(visits.leave)
    return demo
