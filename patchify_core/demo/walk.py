"""The walk through the method: what each step shows of a visitor's own query and one of its results.

Every number is one that the search uses: `ExampleGallery.answer`, `ranking`, `Patchify.explain`, `QueryScore.rows`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from patchify_core.demo.box_methods import NAMES, WINNING, checked_method, has_maps, is_possible
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.lookalikes import LookAlikes, Pair, hard_pair, look_alikes
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import MATCHES, WRONG, Answer, Result
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.metrics import HitRow, QueryScore, score_query
from patchify_core.gallery.model import GalleryImage
from patchify_core.regions import Stage
from patchify_core.retrieval.ranking import Explanation

SHOWN = 10
"""Results that can be opened, and bars of the ranking."""

STEPS, EXERCISE, PLAN = "steps", "exercise", "plan"
"""Parts of the tab."""

WORKED = (3, {2: 0.6, 5: 0.3})
"""The worked example: number of pictures that contain the object, and rank -> IoU of those found."""


@dataclass(frozen=True)
class ExerciseTask:
    """One query and one picture that contains its object.

    Attributes:
        query: Id of the bundled query.
        name: Of its object.
        image: Id of the gallery picture.
        lead: Of the winning patch over the next one, in cosine similarity.
        label: `easy`, `medium` or `hard`.
    """

    query: int
    name: str
    image: int
    lead: float
    label: str


@dataclass(frozen=True)
class WalkChoice:
    """A visitor's options of the walk, which do not change their query.

    Attributes:
        index_name: Name of the index; None for the query's own.
        level: Number of the stage to search with; None for the index's last.
        box_method: How boxes are found (`box_methods`).
        image: Id of the picture that is opened; None for the first correct one.
        pair: Number of a set of look-alikes, and the object to search for; None for none.
        part: Of the tab: steps, exercise or plan of a lesson.
        task: Number of the task in the exercise, from 0.
    """

    index_name: str | None = None
    level: int | None = None
    box_method: str = WINNING
    image: int | None = None
    pair: tuple[int, int | None] | None = None
    part: str = STEPS
    task: int = 0


@dataclass(frozen=True, eq=False)
class Look:
    """One picture in detail.

    Attributes:
        image: The gallery picture.
        result: Its rank and verdict, with the box of its winning patch.
        explanation: The similarity of all its patches.
        winners: The winning patch at each level.
    """

    image: GalleryImage
    result: Result
    explanation: Explanation
    winners: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Line:
    """One line of the sum that gives LocScore: a positive, and the number of positives down to its rank."""

    row: HitRow
    found: int
    result: Result


@dataclass(frozen=True, eq=False)
class ScoreBreakdown:
    """The score of a ranking, line by line.

    Attributes:
        score: As on the Search tab with the same level and boxes.
        lines: One per positive in the ranking.
        counted: Number of pictures that count.
        left_out: Number of ranked pictures that do not count, such as the query itself.
        first_wrong: The best picture of another object, with its rank among those that count; None if there is none.
    """

    score: QueryScore
    lines: tuple[Line, ...]
    counted: int
    left_out: int
    first_wrong: Result | None


@dataclass(frozen=True, eq=False)
class Walk:
    """Content of the steps.

    Attributes:
        query: Described for the index of the walk.
        name: Of the object; None if unknown.
        indexes: (name, label) of the indexes.
        box_methods: (name, label) of those that this index allows.
        stages: The index's nested sets of patches.
        level: Number of the stage to search with.
        box_method: How boxes are found.
        answer: Of the Search tab with the same options.
        whole: The same for whole pictures; None if the index has none.
        look: The picture that is opened.
        standing: The score line by line; None if the object is unknown or in no picture.
        sets: Look-alikes of the gallery.
        pair: The look-alikes that are compared, or None.
        images: Gallery picture by id, for all results here.
        separate: Whether each patch is encoded separately, as in the paper.
        tasks: Of the exercise, where it is shown.
        task: Number of the task, from 0; None outside the exercise.
    """

    query: UserQuery
    name: str | None
    indexes: tuple[tuple[str, str], ...]
    box_methods: tuple[tuple[str, str], ...]
    stages: tuple[Stage, ...]
    level: int
    box_method: str
    answer: Answer
    whole: Answer | None
    look: Look
    standing: ScoreBreakdown | None
    sets: tuple[LookAlikes, ...]
    pair: Pair | None
    images: Mapping[int, GalleryImage]
    separate: bool
    tasks: tuple[ExerciseTask, ...] = ()
    task: int | None = None


def walk(showcase: ExampleGallery, query: UserQuery, choice: WalkChoice) -> Walk:
    """Compute the content of the steps.

    Args:
        showcase: The gallery.
        query: Described for the chosen index (see `described_for`).
        choice: The options; a level beyond the index's last means the last.

    Raises:
        PatchifyError: One sentence, if the index does not allow such boxes, or there is no such picture or look-alike.
    """
    engine = showcase.indexes.engine(query.index_name)
    index, levels = engine.index, showcase.levels_of(query.index_name)
    level = levels if choice.level is None else min(max(1, choice.level), levels)
    box_method = checked_method(choice.box_method, index)
    answer = showcase.answer(query, level, SHOWN, None, box_method)
    found = index.regions.stages
    whole = showcase.answer(query, 1, SHOWN) if found[0].patches == 1 else None
    standing = _standing(showcase, query, level, box_method, answer.score)
    named = [*answer.results, *(whole.results if whole else ())]
    if standing is not None:
        named += [line.result for line in standing.lines]
        named += [] if standing.first_wrong is None else [standing.first_wrong]
    return Walk(
        query=query,
        name=None if query.instance is None else showcase.gallery.name(query.instance),
        indexes=tuple((name, choice.label) for name, choice in showcase.indexes.choices.items()),
        box_methods=tuple((name, label) for name, label in NAMES.items() if is_possible(name, index)),
        stages=found,
        level=level,
        box_method=box_method,
        answer=answer,
        whole=whole,
        look=_look(showcase, query, level, choice.image),
        standing=standing,
        sets=look_alikes(showcase.gallery),
        pair=None if choice.pair is None else hard_pair(showcase, *choice.pair, query.index_name, level),
        images={one.match.image_id: showcase.gallery.image(one.match.image_id) for one in named},
        separate=not has_maps(index),
    )


def described_for(showcase: ExampleGallery, query: UserQuery, index_name: object) -> UserQuery:
    """Return the query for another index, or unchanged if `index_name` is None.

    Raises:
        PatchifyError: If there is no such index, or its encoder cannot be loaded or knows no words.
    """
    if index_name is None or index_name == query.index_name:
        return query
    return showcase.with_index(query, showcase.indexes.choice(str(index_name)).name)


def fitting(showcase: ExampleGallery, choice: WalkChoice, index_name: str) -> WalkChoice:
    """Return the options for another index: a box method that it does not allow becomes the winning patch."""
    index = showcase.indexes.choice(index_name).index
    box_method = choice.box_method if is_possible(choice.box_method, index) else WINNING
    return WalkChoice(index_name, None, box_method, choice.image, choice.pair)


def made_up_score(positives: int, hits: Mapping[int, float]) -> QueryScore:
    """Score an invented ranking for teaching, by `metrics.score_query`.

    Args:
        positives: Number of pictures that contain the object.
        hits: Rank, from 1, -> IoU of the box, for those that were found.

    Example:
        >>> score = made_up(3, {2: 0.6, 5: 0.3})
        >>> round(score.ap, 9), round(score.locscore, 9)
        (0.3, 0.14)
    """
    ranks = np.arange(1, max(hits) + 1)
    height = np.array([hits.get(rank, 1.0) for rank in ranks.tolist()])
    boxes = np.stack([np.zeros(len(ranks)), np.zeros(len(ranks)), np.ones(len(ranks)), height], 1)
    never_found = range(-1, -1 - (positives - len(hits)), -1)
    score = score_query(ranks, boxes, {image: np.array([[0.0, 0.0, 1.0, 1.0]]) for image in (*hits, *never_found)})
    assert score is not None
    return score


def worked_example() -> QueryScore:
    """Return the score of the worked example: AP 0.30, LocScore 0.14."""
    return made_up_score(*WORKED)


def _look(showcase: ExampleGallery, query: UserQuery, level: int, image_id: int | None) -> Look:
    ranking = showcase.ranking(query, level)
    results = (showcase.result(query, rank, match) for rank, match in enumerate(ranking, 1))
    if image_id is None:
        first = [next(results) for _ in range(min(SHOWN, len(ranking)))]
        by_verdict = [result for verdict in MATCHES for result in first if result.verdict == verdict]
        result = (by_verdict or first)[0]
    else:
        wanted = next((one for one in results if one.match.image_id == image_id), None)
        if wanted is None:
            raise PatchifyError("That picture is not in this gallery: choose one of those shown.")
        result = wanted
    engine, chosen = showcase.indexes.engine(query.index_name), result.match.image_id
    every = [engine.explain(query.descriptor, chosen, n) for n in range(1, len(engine.index.regions.stages) + 1)]
    return Look(showcase.gallery.image(chosen), result, every[-1], tuple(one.patch for one in every))


def _standing(
    showcase: ExampleGallery, query: UserQuery, level: int, box_method: str, score: QueryScore | None
) -> ScoreBreakdown | None:
    if score is None or query.instance is None:
        return None
    ranking = showcase.ranking(query, level)
    counted = showcase.judge.counted(query, ranking)
    positives = showcase.positives(query, score, level, None, box_method)
    lines = tuple(
        Line(row, found, result) for found, (row, result) in enumerate(zip(score.rows(), positives, strict=True), 1)
    )
    judged = (
        showcase.result(query, rank, match) for rank, match in enumerate(map(ranking.__getitem__, counted.tolist()), 1)
    )
    wrong = next((result for result in judged if result.verdict == WRONG), None)
    return ScoreBreakdown(score, lines, len(counted), len(ranking) - len(counted), wrong)
