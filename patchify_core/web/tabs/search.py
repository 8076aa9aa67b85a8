"""The search tab, with a query on the left and its results on the right, and the tab of a visitor's own pictures.

Their actions are in `visits` and `own_pictures`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from patchify_core.web import views
from patchify_core.web.events import NO_RERANKING, Guard, warn_from_browser
from patchify_core.web.fair_queue import ENCODER
from patchify_core.web.front import GalleryLink
from patchify_core.web.tabs import PRIVATE, QUIET, html
from patchify_core.web.tabs.sharing import Sharing, share_menu
from patchify_core.web.visits import UNKNOWN_OBJECT, Visits, file_url


def build_search_tab(visits: Visits, tabs: Iterable[str] = (), galleries: Sequence[GalleryLink] = ()) -> gr.State:
    """Make the components of the tab, with the first example already searched.

    Args:
        visits: The visitors' actions.
        tabs: Titles of the other tabs, which a link may open.
        galleries: All galleries of the server; there is a choice only if there are several.

    Returns:
        The state that holds a visitor's `UserQuery`; None before the first query, and again once it has expired.
    """
    query, answer = visits.first_view()
    name, settings = visits.object_name(query), visits.settings
    indexes = visits.showcase.indexes
    # `started` stays in the browser, so that a query that has expired differs from one that was never made.
    state = gr.State(None, time_to_live=settings.forget_s * 2)
    started = gr.Checkbox(False, visible=False)
    with gr.Row(elem_id="pf-main"):
        with gr.Column(elem_id="pf-left", scale=0, min_width=340):
            if len(galleries) > 1:
                html(views.render("galleries", choices=galleries), "pf-galleries")
            query_view = html(views.query(query, file_url), "pf-query", "query.js")
            with gr.Row(elem_id="pf-say"):  # a row of its own, else it would be one form with the object's name
                words = gr.Textbox(
                    label="or describe it in words",
                    placeholder="a red kettle",
                    submit_btn=True,
                    visible=indexes.understands_text(indexes.first),
                    elem_id="pf-words",
                )
            named = gr.Dropdown(
                [UNKNOWN_OBJECT, *visits.objects],
                value=name,
                label="Which object is it? (for the score)",
                elem_id="pf-object",
            )
            thumbnails = views.examples(visits.examples, query.example, file_url)
            examples = html(thumbnails, "pf-examples", "examples.js")
        with gr.Column(elem_id="pf-right", min_width=320):
            with gr.Row(elem_id="pf-options"):
                level = gr.Radio(
                    visits.level_choices(), value=answer.level, label=visits.level_label(), elem_id="pf-level"
                )
                rerank = gr.Dropdown(
                    visits.rerank_choices(),
                    value=NO_RERANKING,
                    label="Re-ranking",
                    filterable=False,
                    min_width=150,
                    elem_id="pf-rerank",
                )
                top = gr.Radio(list(settings.result_choices), value=settings.results, label="Results", elem_id="pf-top")
            with gr.Row(elem_id="pf-engines"):
                engine = gr.Dropdown(
                    visits.engine_choices(),
                    value=indexes.first,
                    label="Method",
                    filterable=False,
                    visible=len(indexes.choices) > 1,
                    min_width=200,
                    elem_id="pf-encoder",
                )
                box = gr.Dropdown(
                    visits.box_choices(),
                    value=answer.box_method,
                    label="Box",
                    filterable=False,
                    min_width=200,
                    elem_id="pf-box-choice",
                )
                html(views.about(indexes.choices.values()), "pf-about")
            strip = html(views.strip(answer, name), "pf-strip", "options.js")
            share = share_menu()
            cards = html(visits.cards(answer), "pf-results", "results.js")
    status = html("", "pf-status", html_template='<div role="status">${value}</div>')
    detail = html("", "pf-detail", "detail.js")

    parts = {
        "question": state,
        "query": query_view,
        "examples": examples,
        "object": named,
        "strip": strip,
        "cards": cards,
        "detail": detail,
        "started": started,
        "engine": engine,
        "level": level,
        "words": words,
        "box": box,
        "rerank": rerank,
        "top": top,
        "status": status,
        "share": share,
    }
    everything = list(parts.values())
    request = [state, level, top, rerank, box, started]
    guard = Guard(query, visits.renewed, parts)
    # One queue for all searches, and nothing dropped: a visitor's answers come in the order of their queries
    # (`fair_queue.FairQueue`), so the page always ends with the last one.
    encode: dict[str, Any] = {
        "concurrency_id": ENCODER,
        "concurrency_limit": 1,
        "trigger_mode": "multiple",
        "show_progress": "minimal",
        "show_progress_on": cards,
        **PRIVATE,
    }
    aside: dict[str, Any] = {"concurrency_id": "look", "concurrency_limit": 1, **QUIET}
    loading: dict[str, Any] = {"concurrency_id": "loading", "concurrency_limit": 2, **QUIET}

    def on(event: Callable[..., Any], handler: Callable[..., Any], **options: Any) -> None:
        event(guard.event(handler, **options), request, everything, **encode)

    def change(event: Callable[..., Any], handler: Callable[..., Any], *more: Component, **options: Any) -> None:
        event(guard.values(handler, **options), [*request, *more], everything, **encode)

    on(examples.example, visits.pick_example, anew=True)
    on(query_view.picked, visits.take_upload, anew=True, otherwise=visits.keep_query)
    on(query_view.drawn, visits.draw_box)
    on(cards.again, visits.search_again)
    on(detail.again, visits.search_again)
    change(words.submit, visits.search_words, words, anew=True)
    for part in (cards, detail):
        part.look(guard.event(visits.look_into), request, detail, **aside)
    for option in (level, top):
        change(option.input, visits.change_options)
    # The `input` event of a dropdown fires again when it loses focus, its `select` does not.
    change(box.select, visits.change_box)
    change(rerank.select, visits.change_reranking)
    change(named.select, visits.name_object, named)
    # Loading has a queue of its own, so that others can go on searching; then the query waits in the usual one.
    announced = engine.select(guard.named(visits.announce_engine), engine, [engine, status], **aside)
    loaded = announced.then(visits.load_engine, engine, None, **loading)
    change(loaded.then, visits.use_engine, engine, otherwise=visits.keep_engine, elsewhere=True)
    # The share menu, and the link that the page was opened with: its encoder is loaded before the search.
    sharing = Sharing(visits, frozenset(title.lower().replace(" ", "-") for title in ("Search", *tabs)))
    address = gr.State("")
    share.make(guard.event(sharing.make), request, share, **aside)
    change(share.opened(sharing.load, None, address, **loading).then, sharing.open, address, anew=True)
    # Requests from the script of the tab with own pictures.
    own = html("", "pf-own-link", "own-link.js")
    on(own.search, visits.search_own, anew=True)
    own.known(visits.know_own, None, engine, **aside)
    query_view.refused(warn_from_browser, None, None, **QUIET)  # only a queued event can show a notice
    return state


def build_own_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Make the tab for a visitor's own pictures, whose script calls the addresses of `own_pictures`.

    Args:
        visits: The visitors' actions.
        state: Holds a visitor's `UserQuery`.
        tab: The tab.
    """
    html(views.render("own", settings=visits.settings, offered=visits.own is not None), "pf-own", "own.js")
