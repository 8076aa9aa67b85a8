"""The search tab: a question on the left, its results on the right. What it does is in `visits`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from patchify_core.files import ASSETS
from patchify_core.web import views
from patchify_core.web.events import NO_RERANKING, Guard, say
from patchify_core.web.front import Choice
from patchify_core.web.guarded import ENCODER
from patchify_core.web.tabs.sharing import Sharing, share_menu
from patchify_core.web.visits import UNKNOWN_OBJECT, Visits, file_url

PLAIN: dict[str, Any] = {"container": False, "padding": False, "apply_default_css": False}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", **PRIVATE}


def build_search_tab(visits: Visits, tabs: Iterable[str] = (), galleries: Sequence[Choice] = ()) -> gr.State:
    """Makes the components of the tab, with the first example already searched.

    Args:
        visits: what visitors can do.
        tabs: titles of the other tabs, which a link may open.
        galleries: that the server shows; the choice among them is shown only if there are several.

    Returns:
        The state that holds a visitor's `Question`; None until something is asked, and again once it is forgotten.
    """
    question, answer = visits.first_view()
    name, settings = visits.object_name(question), visits.settings
    shelf = visits.showcase.shelf
    # `started` stays in the browser, so that a question that was forgotten is told from one that was never asked.
    state = gr.State(None, time_to_live=settings.forget_s * 2)
    started = gr.Checkbox(False, visible=False)
    with gr.Row(elem_id="pf-main"):
        with gr.Column(elem_id="pf-left", scale=0, min_width=340):
            if len(galleries) > 1:
                gr.HTML(views.galleries(galleries), elem_id="pf-galleries", **PLAIN)
            query = gr.HTML(
                views.query(question, file_url), elem_id="pf-query", js_on_load=_script("query.js"), **PLAIN
            )
            with gr.Row(elem_id="pf-say"):  # a row of its own, else it would be one form with the object's name
                words = gr.Textbox(
                    label="or describe it in words",
                    placeholder="a red kettle",
                    submit_btn=True,
                    visible=shelf.knows_words(shelf.first),
                    elem_id="pf-words",
                )
            named = gr.Dropdown(
                [UNKNOWN_OBJECT, *visits.objects],
                value=name,
                label="Which object is it? (for the score)",
                elem_id="pf-object",
            )
            examples = gr.HTML(
                views.examples(visits.examples, question.example, file_url),
                elem_id="pf-examples",
                js_on_load=_script("examples.js"),
                **PLAIN,
            )
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
                    value=shelf.first,
                    label="Method",
                    filterable=False,
                    visible=len(shelf.offers) > 1,
                    min_width=200,
                    elem_id="pf-encoder",
                )
                box = gr.Dropdown(
                    visits.box_choices(),
                    value=answer.way,
                    label="Box",
                    filterable=False,
                    min_width=200,
                    elem_id="pf-box-choice",
                )
                gr.HTML(views.about(shelf.offers.values()), elem_id="pf-about", **PLAIN)
            strip = gr.HTML(views.strip(answer, name), elem_id="pf-strip", js_on_load=_script("options.js"), **PLAIN)
            share = share_menu()
            cards = gr.HTML(visits.cards(answer), elem_id="pf-results", js_on_load=_script("results.js"), **PLAIN)
    status = gr.HTML("", elem_id="pf-status", html_template='<div role="status">${value}</div>', **PLAIN)
    detail = gr.HTML("", elem_id="pf-detail", js_on_load=_script("detail.js"), **PLAIN)

    parts = {
        "question": state,
        "query": query,
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
    asked = [state, level, top, rerank, box, started]
    guard = Guard(question, visits.renewed, parts)
    # One queue for all that asks, and nothing dropped: a visitor's answers come in the order of their questions
    # (`guarded.FairQueue`), so the last one is always what stays on the page.
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
        event(guard.event(handler, **options), asked, everything, **encode)

    def change(event: Callable[..., Any], handler: Callable[..., Any], *more: Component, **options: Any) -> None:
        event(guard.values(handler, **options), [*asked, *more], everything, **encode)

    on(examples.example, visits.pick_example, anew=True)
    on(query.picked, visits.take_upload, anew=True, otherwise=visits.keep_query)
    on(query.drawn, visits.draw_box)
    on(cards.again, visits.search_again)
    on(detail.again, visits.search_again)
    change(words.submit, visits.say_words, words, anew=True)
    for part in (cards, detail):
        part.look(guard.event(visits.look_into), asked, detail, **aside)
    for option in (level, top):
        change(option.input, visits.change_options)
    # Dropdowns: their `input` comes again when they are left, their `select` does not.
    change(box.select, visits.change_box)
    change(rerank.select, visits.change_reranking)
    change(named.select, visits.name_object, named)
    # Loading has a queue of its own, so that others go on searching; then the question waits its turn like all.
    announced = engine.select(guard.named(visits.announce_engine), engine, [engine, status], **aside)
    loaded = announced.then(visits.load_engine, engine, None, **loading)
    change(loaded.then, visits.use_engine, engine, otherwise=visits.keep_engine, elsewhere=True)
    # The menu's wishes, and an address that the page was opened with: its encoder is loaded before it is asked.
    sharing = Sharing(visits, frozenset(title.lower().replace(" ", "-") for title in ("Search", *tabs)))
    address = gr.State("")
    share.make(guard.event(sharing.make), asked, share, **aside)
    change(share.opened(sharing.load, None, address, **loading).then, sharing.open, address, anew=True)
    # What the script of another tab asks of this one.
    own = gr.HTML("", elem_id="pf-own-link", js_on_load=_script("own-link.js"), **PLAIN)
    on(own.search, visits.search_own, anew=True)
    own.known(visits.know_own, None, engine, **aside)
    query.refused(say, None, None, **QUIET)  # through the queue: without it, no notice reaches the page
    return state


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
