"""The class's exercise: guess the winning patch, in pictures from easy to hard as the similarities say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from patchify_core.demo.answers import MATCHES

if TYPE_CHECKING:
    from patchify_core.demo.examples import ExampleGallery

TASKS = 6
"""Queries of the exercise; fewer only if the gallery has fewer."""

LOOKED_AT = 10
"""Results of each query that a task may be about."""

EXAMPLES = 60
"""Examples that are looked at: of a larger gallery the first ones."""

CLEAR = 0.005
"""Smallest lead of a winning patch: with less there is nothing that a person could see."""

LABELS = ("easy", "medium", "hard")


@dataclass(frozen=True)
class ExerciseTask:
    """One query and one picture that contains its object.

    Attributes:
        query: id of the bundled query.
        name: of its object.
        image: id of the gallery picture.
        lead: how far the winning patch is ahead of the next one, in cosine similarity.
        label: one of `LABELS`.
    """

    query: int
    name: str
    image: int
    lead: float
    label: str


def exercise(showcase: ExampleGallery, engine: str) -> tuple[ExerciseTask, ...]:
    """Tasks of different difficulty, the easiest first; each of another query and another picture.

    The difficulty is the winner's lead. Pictures that contain the object, and whose winner is not the picture itself,
    are ordered by it; the tasks are those nearest to equal steps from one end to the other.

    Args:
        showcase: whose examples are asked.
        engine: name of the index.
    """
    patchify, level = showcase.shelf.engine(engine), showcase.levels_of(engine)
    found: list[tuple[float, int, int, str]] = []
    for query in showcase.examples[:EXAMPLES]:
        question = showcase.example(query.id, engine)
        for rank, match in enumerate(showcase.ranking(question, level)[:LOOKED_AT], 1):
            if showcase.result(question, rank, match).verdict not in MATCHES or match.patch == 0:
                continue
            second, best = np.sort(patchify.explain(question.descriptor, match.image_id).scores)[-2:].tolist()
            if best - second >= CLEAR:
                found.append((best - second, query.id, match.image_id, question.name))
    found.sort(reverse=True)
    chosen: list[tuple[float, int, int, str]] = []
    for step in np.linspace(0, len(found) - 1, TASKS) if found else ():
        used = {value for one in chosen for value in (f"q{one[1]}", one[2])}
        free = [n for n, one in enumerate(found) if f"q{one[1]}" not in used and one[2] not in used]
        if free:
            chosen.append(found[min(free, key=lambda n: abs(n - step))])
    chosen.sort(reverse=True)
    return tuple(
        ExerciseTask(query, name, image, lead, LABELS[len(LABELS) * n // len(chosen)])
        for n, (lead, query, image, name) in enumerate(chosen)
    )
