"""The tab “How it works”: the method in steps, on a visitor's own question. What the steps show is in `web.walk`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from patchify_core.errors import PatchifyError
from patchify_core.paths import ASSETS
from patchify_core.web import walk
from patchify_core.web.events import sent, warn
from patchify_core.web.questions import Question
from patchify_core.web.tabs.search import PLAIN, QUIET
from patchify_core.web.views.walk import walk as worded
from patchify_core.web.visits import Visits, file_url
from patchify_core.web.walk import Choice

WAIT = '<p class="pf-wait wk-wait" role="status">Putting the steps together …</p>'

HANDOUT = "handout"
"""Where the server has the handout (`routes`), from the page."""


def build_walk_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Makes the components of the tab; nothing is computed until it is first opened.

    Args:
        visits: what visitors can do.
        state: holds a visitor's `Question`.
        tab: what is opened.
    """
    walking = Walking(visits)
    held = gr.State(None, time_to_live=visits.settings.forget_s * 2)
    shown = gr.HTML(WAIT, elem_id="pf-walk", js_on_load=(ASSETS / "walk.js").read_text(encoding="utf-8"), **PLAIN)
    quiet: dict[str, Any] = {"concurrency_id": "walk", "concurrency_limit": 2, **QUIET}
    tab.select(walking.open, [state, held], [held, shown], **quiet)
    shown.choose(walking.change, [state, held], [held, shown], **quiet)


@dataclass(frozen=True, eq=False)
class Held:
    """What one visitor walks through.

    Attributes:
        asked: their own question; None for that of a page just opened.
        question: the same, described for the index that the walk is about.
        choice: what they chose.
    """

    asked: Question | None
    question: Question
    choice: Choice


class Walking:
    """What visitors do on the tab.

    Args:
        visits: what visitors can do.
    """

    def __init__(self, visits: Visits) -> None:
        """Computes nothing yet."""
        self._visits = visits
        self._turns = itertools.count(1)

    def open(self, question: Question | None, held: Held | None) -> list[Any]:
        """The tab was opened: the visitor's question, from its first step if it is a new one."""
        if held is not None and held.asked is question:
            return [gr.skip(), gr.skip()]
        try:
            return self._shown(question, Choice())
        except PatchifyError as error:
            warn(str(error))
            return [gr.skip(), gr.skip()]

    def change(self, question: Question | None, held: Held | None, event: gr.EventData) -> list[Any]:
        """Another index, level, box, result or pair of look-alikes; after a refusal all is as it was."""
        if question is None and held is not None and held.asked is not None:
            warn("The server no longer knows what you asked: choose an example under Search or reload the page.")
            return [gr.skip(), gr.skip()]
        before = held.choice if held is not None and held.asked is question else Choice()
        try:
            return self._shown(question, self._wanted(question, before, event), held)
        except PatchifyError as error:
            warn(str(error))
            return self._shown(question, before, held)

    def _wanted(self, question: Question | None, before: Choice, event: gr.EventData) -> Choice:
        """The choice with what the browser sent put in.

        Raises:
            PatchifyError: if it is not anything that the page offers.
        """
        showcase = self._visits.at(question)
        what, value = sent(event, "what"), sent(event, "value")
        if what == "engine":
            return walk.fitting(showcase, before, showcase.shelf.offer(value).name)
        if what == "way" and isinstance(value, str):
            return replace(before, way=value)
        if what == "level" and type(value) is int:
            return replace(before, level=value)
        if what == "image" and type(value) is int:
            return replace(before, image=value)
        if what == "pair" and type(value) is int:
            asked = sent(event, "asked")
            return replace(before, pair=(value, asked if type(asked) is int else None))
        raise PatchifyError("The page sent nothing that can be chosen: reload it.")

    def _shown(self, question: Question | None, choice: Choice, held: Held | None = None) -> list[Any]:
        """What is held from now on, and the tab."""
        showcase = self._visits.at(question)
        base = question or showcase.first()
        same = held is not None and held.asked is question
        # Described anew only if it has to be: an encoder takes its time, and rankings are kept with the question.
        if same and held is not None and held.question.engine == (choice.engine or base.engine):
            asked = held.question
        else:
            asked = walk.asked_of(showcase, base, choice.engine)
        steps = walk.walk(showcase, asked, choice)
        notebook = file_url(ASSETS / "patchify.ipynb")
        # The picture stays the same from here on, wherever another level ranks it.
        kept = replace(choice, image=steps.look.image.id)
        return [Held(question, asked, kept), worded(steps, file_url, HANDOUT, notebook, next(self._turns))]
