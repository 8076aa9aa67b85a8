"""The tab “How it works” as HTML: the steps, the class's exercise, and the plan of a lesson.

Which step is shown, and all that happens under the pointer, is the script's (assets/walk.js): the numbers that it needs
stand in the data attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo.lesson import Lesson
from patchify_core.demo.walk import EXERCISE, PLAN, STEPS, Walk
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import FileUrl, query_address, rendered
from patchify_core.web.views.walk_lab import layers_of, where
from patchify_core.web.views.walk_scores import locscore_step, pair_step, ranking_step

NAMES = ("Query", "Grid", "Similarities", "Maximum", "Ranking", "LocScore")
"""Names of the steps."""


@dataclass(frozen=True)
class Strip:
    """A descriptor as bars: their paths, one drawn unit a number, and what is said of the numbers."""

    count: int
    ups: str
    downs: str
    first: tuple[float, ...]
    length: float
    smallest: float
    largest: float


def walk(shown: Walk, url: FileUrl, notebook: str, turn: int = 0, lesson: Lesson | None = None) -> Markup:
    """The whole tab.

    Args:
        shown: what is walked through; a task of the exercise if it has one.
        url: address of a picture.
        notebook: address of the notebook.
        turn: makes it another text than the last one.
        lesson: the plan, where that is shown.
    """
    part = PLAN if lesson is not None else EXERCISE if shown.task is not None else STEPS
    layers, bars = layers_of(shown.stages, shown.look)
    query = shown.query
    steps = part == STEPS
    return rendered(
        "walk.html",
        shown=shown,
        shown_part=part,
        look=shown.look,
        turn=turn,
        notebook=notebook,
        ends=[stage.patches for stage in shown.stages],
        scores=[float(score) for score in shown.look.explanation.scores],
        steps=(*NAMES, *(["Look-alikes"] if shown.pair else [])),
        layers=layers,
        bars=bars,
        crop=Markup(query_crop(query, url)),
        address="" if query.words is not None else query_address(query, url),
        strip=_strip(query.descriptor),
        url=url,
        ranking=ranking_step(shown, url) if steps else "",
        locscore=locscore_step(shown, url) if steps else "",
        pair=pair_step(shown.pair, shown.level, shown.stages, url) if steps and shown.pair else "",
        lesson=lesson,
        where=where,
    )


def plan_page(lesson: Lesson) -> Markup:
    """The plan of the lesson as a page of its own, to be printed: one A4 page."""
    return rendered("plan_page.html", lesson=lesson, where=where)


def _strip(numbers: NDArray[np.float32]) -> Strip:
    top = float(np.abs(numbers).max()) or 1.0
    ups = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(numbers.tolist()) if v > 0)
    downs = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(numbers.tolist()) if v < 0)
    first, length = tuple(numbers[:8].tolist()), float(np.linalg.norm(numbers))
    return Strip(len(numbers), ups, downs, first, length, float(numbers.min()), float(numbers.max()))
