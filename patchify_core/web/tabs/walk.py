"""The tab “How it works”: the method step by step on a visitor's query, an exercise, and the plan of a lesson."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import gradio as gr

from patchify_core.demo import walk
from patchify_core.demo.gallery_info import stored_answers
from patchify_core.demo.lesson import Lesson, exercise, lesson, task_walk, teaching_index
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.walk import EXERCISE, PLAN, STEPS, ExerciseTask, Walk, WalkChoice
from patchify_core.errors import PatchifyError
from patchify_core.files import ASSETS
from patchify_core.web.events import event_value, warn
from patchify_core.web.tabs import QUIET, html
from patchify_core.web.views.handout import handout
from patchify_core.web.views.walk import plan_page
from patchify_core.web.views.walk import walk as render_walk
from patchify_core.web.visits import Visits, file_url

WAIT = '<p class="pf-wait wk-wait" role="status">Preparing the steps …</p>'


def build_walk_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Make the components of the tab; nothing is computed until it is first opened.

    Args:
        visits: The visitors' actions.
        state: Holds a visitor's `UserQuery`.
        tab: The tab.
    """
    actions = WalkActions(visits)
    walk_state = gr.State(None, time_to_live=visits.settings.forget_s * 2)
    shown = html(WAIT, "pf-walk", "walk.js")
    paper = html("", "pf-paper", "class.js", html_template="<i></i>")
    quiet: dict[str, Any] = {"concurrency_id": "walk", "concurrency_limit": 2, **QUIET}
    tab.select(actions.open, [state, walk_state], [walk_state, shown], **quiet)
    shown.choose(actions.change, [state, walk_state], [walk_state, shown], **quiet)
    paper.paper(actions.print_page, [state, walk_state], paper, **quiet)


@dataclass(frozen=True, eq=False)
class WalkState:
    """The walk that a visitor's page shows.

    Attributes:
        source: The visitor's query as the search tab has it; None for that of a page just opened.
        base: The index that it searches; it changes when more of the visitor's own pictures are indexed.
        query: The same query, described for the index of the walk.
        choice: The visitor's options.
    """

    source: UserQuery | None
    base: str
    query: UserQuery
    choice: WalkChoice


class WalkActions:
    """The visitors' actions on the tab.

    Args:
        visits: The actions on the search tab.
    """

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._turns = itertools.count(1)

    @cached_property
    def _tasks(self) -> tuple[ExerciseTask, ...]:
        """The exercise, the same for all visitors."""
        return exercise(self._visits.showcase, teaching_index(self._visits.showcase))

    @cached_property
    def _lesson(self) -> Lesson:
        showcase = self._visits.showcase
        return lesson(showcase, stored_answers(showcase.folder), self._tasks)

    def open(self, query: UserQuery | None, state: WalkState | None) -> list[Any]:
        """Show the walk of the visitor's query, from its first step if it is a new one: the tab was opened."""
        try:
            base = self._base(query)
            if state is not None and _is_of(state, query, base):
                return [gr.skip(), gr.skip()]
            return self._shown(query, base, WalkChoice(), None)
        except PatchifyError as error:
            warn(str(error))
            return [None, f'<p class="pf-wait wk-wait">{escape(str(error))}</p>']

    def change(self, query: UserQuery | None, state: WalkState | None, event: gr.EventData) -> list[Any]:
        """Show another part, task, index, level, box, result or pair of look-alikes; after a refusal change nothing."""
        try:
            base, before, last = self._before(query, state)
            try:
                return self._shown(query, base, self._choice(base, before, event), last)
            except PatchifyError as error:
                warn(str(error))
                return self._shown(query, base, before, last)
        except PatchifyError as error:
            warn(str(error))
            return [gr.skip(), gr.skip()]

    def print_page(self, query: UserQuery | None, state: WalkState | None, event: gr.EventData) -> Any:
        """Return a page to print: the handout of the walk's query, or the plan of the lesson.

        Returns:
            JSON for the script: `turn`, a new number each time, and `html`, which is missing after a refusal.
        """
        reply: dict[str, Any] = {"turn": next(self._turns)}
        try:
            if event_value(event, "what") == PLAN:
                reply["html"] = plan_page(self._lesson)
            else:
                base, choice, last = self._before(query, state)
                shown = self._task(choice.task) if choice.part == EXERCISE else self._walk(base, choice, last)[1]
                reply["html"] = handout(self._visits.at(base), shown)
        except PatchifyError as error:
            warn(str(error))
        return json.dumps(reply, ensure_ascii=False)

    def _before(
        self, query: UserQuery | None, state: WalkState | None
    ) -> tuple[UserQuery, WalkChoice, WalkState | None]:
        """Return the query, the options, and the state if it belongs to this query.

        Raises:
            PatchifyError: If the query has expired.
        """
        if query is None and state is not None and state.source is not None:
            raise PatchifyError("The server no longer has your query: choose an example or reload the page.")
        base = self._base(query)
        last = state if state is not None and _is_of(state, query, base) else None
        return base, WalkChoice() if last is None else last.choice, last

    def _base(self, query: UserQuery | None) -> UserQuery:
        """Return the query for the current index of the visitor's own pictures; see `Visits.renewed`."""
        return self._visits.showcase.first() if query is None else self._visits.renewed(query)

    def _choice(self, base: UserQuery, before: WalkChoice, event: gr.EventData) -> WalkChoice:
        """Return the options, changed as the browser says.

        Raises:
            PatchifyError: If the page does not offer that.
        """
        showcase = self._visits.at(base)
        what, value = event_value(event, "what"), event_value(event, "value")
        if what == "part" and value in (STEPS, EXERCISE, PLAN):
            return replace(before, part=value)
        if what == "task" and type(value) is int:
            return replace(before, part=EXERCISE, task=value)
        if what == "engine":
            return walk.fitting(showcase, before, showcase.indexes.choice(value).name)
        if what == "way" and isinstance(value, str):
            return replace(before, box_method=value)
        if what == "level" and type(value) is int:
            return replace(before, level=value)
        if what == "image" and type(value) is int:
            return replace(before, image=value)
        if what == "pair" and type(value) is int:
            instance = event_value(event, "asked")
            return replace(before, pair=(value, instance if type(instance) is int else None))
        raise PatchifyError("The page sent an unknown option: reload it.")

    def _task(self, number: int) -> Walk:
        """Return the walk of one task of the exercise."""
        if not self._tasks:
            raise PatchifyError("This gallery has no pictures for an exercise: its queries find no patch of a picture.")
        return task_walk(self._visits.showcase, self._tasks, number, teaching_index(self._visits.showcase))

    def _walk(self, base: UserQuery, choice: WalkChoice, last: WalkState | None) -> tuple[UserQuery, Walk]:
        """Return the query, described for the chosen index, and its walk."""
        showcase = self._visits.at(base)
        # Encode it again only if necessary: that is slow, and the query caches its rankings.
        if last is not None and last.query.index_name == (choice.index_name or base.index_name):
            query = last.query
        else:
            query = walk.described_for(showcase, base, choice.index_name)
        return query, walk.walk(showcase, query, choice)

    def _shown(
        self, source: UserQuery | None, base: UserQuery, choice: WalkChoice, last: WalkState | None
    ) -> list[Any]:
        """Return the new state and the HTML of the tab.

        Args:
            source: The query as the search tab has it.
            base: See `_base`.
            choice: The options.
            last: The state until now, if it belongs to this query.
        """
        plan = None
        if choice.part == STEPS or last is None:
            query, steps = self._walk(base, choice, last)
            # Stay with this picture, even if another level ranks it lower.
            choice = replace(choice, image=steps.look.image.id)
        else:
            query = last.query
        if choice.part == EXERCISE:
            steps = self._task(choice.task)
        elif choice.part == PLAN:
            plan = self._lesson
            steps = plan.shown
        notebook = file_url(ASSETS / "patchify.ipynb")
        return [
            WalkState(source, base.index_name, query, choice),
            render_walk(steps, file_url, notebook, next(self._turns), plan),
        ]


def _is_of(state: WalkState, query: UserQuery | None, base: UserQuery) -> bool:
    return state.source is query and state.base == base.index_name
