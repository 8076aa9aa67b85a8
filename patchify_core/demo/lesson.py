"""A lesson of 45 minutes on the gallery that the page shows: the numbers that its plan says, each computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchify_core.demo.examples import ExampleGallery
from patchify_core.demo.exercise import ExerciseTask, exercise
from patchify_core.demo.links import Link
from patchify_core.demo.locating import WINNING
from patchify_core.demo.paper import paper_index
from patchify_core.demo.story import SizeBand, bands
from patchify_core.demo.walk import Walk, WalkChoice, walk, worked_example
from patchify_core.evaluation.metrics import QueryScore

FLOAT = 4
"""Bytes of a number of a descriptor that is not compressed."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What the plan is about.

    Attributes:
        shown: the walk of the query that the lesson follows: that of the first page.
        tasks: of the exercise.
        smallest: scores of the smallest objects; None where sizes are not known.
        worked: the worked example's score.
    """

    shown: Walk
    tasks: tuple[ExerciseTask, ...]
    smallest: SizeBand | None
    worked: QueryScore

    @property
    def link(self) -> Link:
        """What opens the page with that query."""
        question, levels = self.shown.question, len(self.shown.stages)
        return Link(example=question.example, index=question.engine, level=levels, boxes=WINNING, tab="how-it-works")

    @property
    def whole_kb(self) -> float:
        """Size of a picture's one descriptor without patches, in kB."""
        return FLOAT * len(self.shown.question.descriptor) / 1000

    @property
    def patches_kb(self) -> float:
        """Size of the descriptors of all its patches, in kB."""
        return self.whole_kb * self.shown.stages[-1].patches


def teaching_engine(showcase: ExampleGallery) -> str:
    """Name of the index that a class is taught with: the paper's method if the gallery has it."""
    return paper_index(showcase) or showcase.shelf.first


def lesson(
    showcase: ExampleGallery, document: Mapping[str, Any] | None, tasks: Sequence[ExerciseTask] | None = None
) -> Lesson:
    """The lesson of a gallery.

    Args:
        showcase: the gallery.
        document: the answers beside it (`prepared`), whose first query and sizes are taken, or None.
        tasks: those of the exercise; made here if None.

    Raises:
        PatchifyError: if its encoder cannot be had.
    """
    engine = teaching_engine(showcase)
    query = showcase.examples[0].id if document is None else document["first"]
    sizes = [] if document is None else bands(document)
    return Lesson(
        walk(showcase, showcase.example(query, engine), WalkChoice(engine)),
        tuple(exercise(showcase, engine) if tasks is None else tasks),
        sizes[0] if sizes else None,
        worked_example(),
    )
