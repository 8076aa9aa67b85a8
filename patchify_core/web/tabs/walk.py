"""The tab “How it works”: the method in steps on a visitor's own query, an exercise, and the plan of a lesson."""

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
from patchify_core.web.events import sent, warn
from patchify_core.web.handout import handout
from patchify_core.web.tabs.parts import PLAIN, QUIET
from patchify_core.web.views.walk import plan_page
from patchify_core.web.views.walk import walk as worded
from patchify_core.web.visits import Visits, file_url

WAIT = '<p class="pf-wait wk-wait" role="status">Preparing the steps …</p>'


def build_walk_tab(visits: Visits, state: gr.State, tab: gr.Tab) -> None:
    """Makes the components of the tab; nothing is computed until it is first opened.

    Args:
        visits: what visitors can do.
        state: holds a visitor's `UserQuery`.
        tab: what is opened.
    """
    walking = Walking(visits)
    held = gr.State(None, time_to_live=visits.settings.forget_s * 2)
    shown = gr.HTML(WAIT, elem_id="pf-walk", js_on_load=_script("walk.js"), **PLAIN)
    paper = gr.HTML("", elem_id="pf-paper", html_template="<i></i>", js_on_load=_script("class.js"), **PLAIN)
    quiet: dict[str, Any] = {"concurrency_id": "walk", "concurrency_limit": 2, **QUIET}
    tab.select(walking.open, [state, held], [held, shown], **quiet)
    shown.choose(walking.change, [state, held], [held, shown], **quiet)
    paper.paper(walking.printed, [state, held], paper, **quiet)


@dataclass(frozen=True, eq=False)
class Walker:
    """What one visitor walks through.

    Attributes:
        asked: their own query as their state has it; None for that of a page just opened.
        base: the index that it asks now; another one where more of their own pictures are indexed since.
        query: the same query, described for the index that the walk is about.
        choice: what they chose.
    """

    asked: UserQuery | None
    base: str
    query: UserQuery
    choice: WalkChoice


class Walking:
    """What visitors do on the tab.

    Args:
        visits: what visitors can do.
    """

    def __init__(self, visits: Visits) -> None:
        self._visits = visits
        self._turns = itertools.count(1)

    @cached_property
    def _tasks(self) -> tuple[ExerciseTask, ...]:
        """The exercise, which is the same for all visitors."""
        return exercise(self._visits.showcase, teaching_index(self._visits.showcase))

    @cached_property
    def _lesson(self) -> Lesson:
        showcase = self._visits.showcase
        return lesson(showcase, stored_answers(showcase.folder), self._tasks)

    def open(self, query: UserQuery | None, held: Walker | None) -> list[Any]:
        """The tab was opened: the visitor's query, from its first step if it is a new one."""
        try:
            base = self._base(query)
            if held is not None and _is_of(held, query, base):
                return [gr.skip(), gr.skip()]
            return self._shown(query, base, WalkChoice(), None)
        except PatchifyError as error:
            warn(str(error))
            return [None, f'<p class="pf-wait wk-wait">{escape(str(error))}</p>']

    def change(self, query: UserQuery | None, held: Walker | None, event: gr.EventData) -> list[Any]:
        """Another part, task, index, level, box, result or pair of look-alikes; after a refusal all is as it was."""
        try:
            base, before, last = self._before(query, held)
            try:
                return self._shown(query, base, self._wanted(base, before, event), last)
            except PatchifyError as error:
                warn(str(error))
                return self._shown(query, base, before, last)
        except PatchifyError as error:
            warn(str(error))
            return [gr.skip(), gr.skip()]

    def printed(self, query: UserQuery | None, held: Walker | None, event: gr.EventData) -> Any:
        """A page to print: the handout of the query that is walked through, or the plan of the lesson.

        Returns:
            JSON for the script: a number that is never the same, and the page; without it after a refusal.
        """
        said: dict[str, Any] = {"turn": next(self._turns)}
        try:
            if sent(event, "what") == PLAN:
                said["html"] = plan_page(self._lesson)
            else:
                base, choice, last = self._before(query, held)
                shown = self._task(choice.task) if choice.part == EXERCISE else self._walk(base, choice, last)[1]
                said["html"] = handout(self._visits.at(base), shown)
        except PatchifyError as error:
            warn(str(error))
        return json.dumps(said, ensure_ascii=False)

    def _before(self, query: UserQuery | None, held: Walker | None) -> tuple[UserQuery, WalkChoice, Walker | None]:
        """What is asked, what was chosen, and what was held, if that is of the same query.

        Raises:
            PatchifyError: if the server does not know the query any more.
        """
        if query is None and held is not None and held.asked is not None:
            raise PatchifyError("The server no longer has your query: choose an example or reload the page.")
        base = self._base(query)
        last = held if held is not None and _is_of(held, query, base) else None
        return base, WalkChoice() if last is None else last.choice, last

    def _base(self, query: UserQuery | None) -> UserQuery:
        """What is asked, of the visitor's own pictures as they are now; see `Visits.renewed`."""
        return self._visits.showcase.first() if query is None else self._visits.renewed(query)

    def _wanted(self, base: UserQuery, before: WalkChoice, event: gr.EventData) -> WalkChoice:
        """The choice with what the browser sent put in.

        Raises:
            PatchifyError: if it is not anything that the page offers.
        """
        showcase = self._visits.at(base)
        what, value = sent(event, "what"), sent(event, "value")
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
            asked = sent(event, "asked")
            return replace(before, pair=(value, asked if type(asked) is int else None))
        raise PatchifyError("The page sent nothing that can be chosen: reload it.")

    def _task(self, number: int) -> Walk:
        """One task of the exercise."""
        if not self._tasks:
            raise PatchifyError("This gallery has no pictures for an exercise: its queries find no patch of a picture.")
        return task_walk(self._visits.showcase, self._tasks, number, teaching_index(self._visits.showcase))

    def _walk(self, base: UserQuery, choice: WalkChoice, last: Walker | None) -> tuple[UserQuery, Walk]:
        """The query as the chosen index has it, and its walk."""
        showcase = self._visits.at(base)
        # Described anew only if it has to be: an encoder takes its time, and rankings are kept with the query.
        if last is not None and last.query.index_name == (choice.index_name or base.index_name):
            asked = last.query
        else:
            asked = walk.described_for(showcase, base, choice.index_name)
        return asked, walk.walk(showcase, asked, choice)

    def _shown(self, query: UserQuery | None, base: UserQuery, choice: WalkChoice, last: Walker | None) -> list[Any]:
        """What is held from now on, and the tab.

        Args:
            query: as the visitor's state has it.
            base: see `_base`.
            choice: what was chosen.
            last: what was held until now, if it is of the same query.
        """
        plan = None
        if choice.part == STEPS or last is None:
            asked, steps = self._walk(base, choice, last)
            # The picture stays the same from here on, wherever another level ranks it.
            choice = replace(choice, image=steps.look.image.id)
        else:
            asked = last.query
        if choice.part == EXERCISE:
            steps = self._task(choice.task)
        elif choice.part == PLAN:
            plan = self._lesson
            steps = plan.shown
        notebook = file_url(ASSETS / "patchify.ipynb")
        return [
            Walker(query, base.index_name, asked, choice),
            worded(steps, file_url, notebook, next(self._turns), plan),
        ]


def _is_of(held: Walker, query: UserQuery | None, base: UserQuery) -> bool:
    return held.asked is query and held.base == base.index_name


def _script(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
