"""A 45-minute lesson on the gallery that the page shows: the numbers in its plan, and its exercise.

In the exercise a class guesses winning patches, in pictures from easy to hard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from patchify_core.demo.box_methods import WINNING
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.links import Link
from patchify_core.demo.overview import SizeBand, bands
from patchify_core.demo.paper import paper_index
from patchify_core.demo.results import MATCHES
from patchify_core.demo.walk import ExerciseTask, Walk, WalkChoice, walk, worked_example
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.metrics import QueryScore

TASKS = 6
"""Queries of the exercise, if the gallery has as many."""

LOOKED_AT = 10
"""First results of each query that can become a task."""

EXAMPLES = 60
"""Examples that are considered, the first ones of a larger gallery."""

CLEAR = 0.005
"""Smallest lead of a winning patch that a person can see."""

LABELS = ("easy", "medium", "hard")
"""Difficulties of the exercise's tasks."""

FLOAT = 4
"""Bytes per number of an uncompressed descriptor."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """The content of the plan.

    Attributes:
        shown: The walk through the lesson's query, which is that of the first page.
        tasks: Of the exercise.
        smallest: Scores of the smallest objects; None if sizes are unknown.
        worked: Score of the worked example.
    """

    shown: Walk
    tasks: tuple[ExerciseTask, ...]
    smallest: SizeBand | None
    worked: QueryScore

    @property
    def link(self) -> Link:
        """Link to that query."""
        query, levels = self.shown.query, len(self.shown.stages)
        return Link(example=query.example, index=query.index_name, level=levels, boxes=WINNING, tab="how-it-works")

    @property
    def whole_kb(self) -> float:
        """Size of a picture's descriptor without patches, in kB."""
        return FLOAT * len(self.shown.query.descriptor) / 1000

    @property
    def patches_kb(self) -> float:
        """Size of the descriptors of all its patches, in kB."""
        return self.whole_kb * self.shown.stages[-1].patches


def teaching_index(showcase: ExampleGallery) -> str:
    """Return the name of the index used for teaching: the paper's method if the gallery has it."""
    return paper_index(showcase) or showcase.indexes.first


def lesson(
    showcase: ExampleGallery, document: Mapping[str, Any] | None, tasks: Sequence[ExerciseTask] | None = None
) -> Lesson:
    """Return the lesson of a gallery.

    Args:
        showcase: The gallery.
        document: Its stored answers, whose first query and sizes are used, or None.
        tasks: Of the exercise; computed here if None.

    Raises:
        PatchifyError: If the encoder cannot be loaded.
    """
    index_name = teaching_index(showcase)
    query = showcase.examples[0].id if document is None else document["first"]
    sizes = [] if document is None else bands(document)
    return Lesson(
        walk(showcase, showcase.example(query, index_name), WalkChoice(index_name)),
        tuple(exercise(showcase, index_name) if tasks is None else tasks),
        sizes[0] if sizes else None,
        worked_example(),
    )


def exercise(showcase: ExampleGallery, index_name: str) -> tuple[ExerciseTask, ...]:
    """Choose tasks of different difficulty, the easiest first, each with its own query and picture.

    The difficulty is the winner's lead. Pictures that contain the object, and whose winner is not the whole picture,
    are sorted by it; the tasks are those nearest to equal steps from one end to the other.
    """
    patchify, level = showcase.indexes.engine(index_name), showcase.levels_of(index_name)
    candidates: list[tuple[float, int, int, str]] = []
    for example in showcase.examples[:EXAMPLES]:
        query = showcase.example(example.id, index_name)
        for rank, match in enumerate(showcase.ranking(query, level)[:LOOKED_AT], 1):
            if showcase.result(query, rank, match).verdict not in MATCHES or match.patch == 0:
                continue
            second, best = np.sort(patchify.explain(query.descriptor, match.image_id).scores)[-2:].tolist()
            if best - second >= CLEAR:
                candidates.append((best - second, example.id, match.image_id, query.name))
    candidates.sort(reverse=True)
    chosen: list[tuple[float, int, int, str]] = []
    for step in np.linspace(0, len(candidates) - 1, TASKS) if candidates else ():
        used = {value for one in chosen for value in (f"q{one[1]}", one[2])}
        free = [n for n, one in enumerate(candidates) if f"q{one[1]}" not in used and one[2] not in used]
        if free:
            chosen.append(candidates[min(free, key=lambda n: abs(n - step))])
    chosen.sort(reverse=True)
    return tuple(
        ExerciseTask(example, name, image, lead, LABELS[len(LABELS) * n // len(chosen)])
        for n, (lead, example, image, name) in enumerate(chosen)
    )


def task_walk(showcase: ExampleGallery, tasks: Sequence[ExerciseTask], number: int, index_name: str) -> Walk:
    """Return the walk through one task, with all patches; the visitor's own query does not change.

    Args:
        showcase: The gallery.
        tasks: Of `exercise`.
        number: Of the task, from 0.
        index_name: The index that the tasks were chosen with.

    Raises:
        PatchifyError: If there is no such task.
    """
    if not 0 <= number < len(tasks):
        raise PatchifyError("The exercise has no such query: choose one of those shown.")
    task = tasks[number]
    shown = walk(showcase, showcase.example(task.query, index_name), WalkChoice(index_name, image=task.image))
    return replace(shown, tasks=tuple(tasks), task=number)
