"""The walk through the method: what each step shows, of a visitor's own query and one of its results.

Every number is one that the search has too: `ExampleGallery.answer`, `ranking`, `Patchify.explain`, `QueryScore.rows`.
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
"""Results that can be looked into, and bars of the ranking."""

STEPS, EXERCISE, PLAN = "steps", "exercise", "plan"
"""What the tab can show."""

WORKED = (3, {2: 0.6, 5: 0.3})
"""The worked example of docs/METHOD.md: pictures that contain the object, and rank -> IoU of those found."""


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


@dataclass(frozen=True)
class WalkChoice:
    """What a visitor has chosen for their walk; it is theirs and does not change their query.

    Attributes:
        index_name: name of the index; None for the query's own.
        level: number of the stage to search with; None for the index's last.
        box_method: how boxes are found (`box_methods`).
        image: id of the picture that is looked into; None for the first right one.
        pair: set of look-alikes and the object asked for; None for none.
        part: what the tab shows: the steps, the class's exercise, or the plan of a lesson.
        task: number of the exercise's task, from 0.
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
    """One picture looked into.

    Attributes:
        image: the gallery picture.
        result: its place and verdict, with its winning patch's box.
        explanation: the similarity of every patch that the index has of it.
        winners: the winning patch at each level, as `Patchify.explain` has it.
    """

    image: GalleryImage
    result: Result
    explanation: Explanation
    winners: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Line:
    """One line of LocScore's arithmetic: a positive, how many were found down to it, and what it adds."""

    row: HitRow
    found: int
    result: Result


@dataclass(frozen=True, eq=False)
class ScoreBreakdown:
    """How a ranking is scored, line by line.

    Attributes:
        score: the score that the Search tab shows for the same level and boxes.
        lines: a line for each positive in the ranking.
        counted: pictures that count: all but the query itself and others that are left out.
        left_out: pictures of the ranking that do not count.
        first_wrong: the best picture of another object, with its rank among those that count; None if there is none.
    """

    score: QueryScore
    lines: tuple[Line, ...]
    counted: int
    left_out: int
    first_wrong: Result | None


@dataclass(frozen=True, eq=False)
class Walk:
    """Everything that the steps show.

    Attributes:
        query: what is asked, described for the index that is walked through.
        name: the object's name; None if nobody said what it is.
        indexes: (name, label) of the indexes.
        box_methods: (name, label) of the ways to a box that this index allows.
        stages: the index's nested sets of patches.
        level: number of the stage that is searched with.
        box_method: how boxes are found.
        answer: what the Search tab answers with the same options.
        whole: the same for whole pictures alone; None if the index has none.
        look: the picture that is looked into.
        standing: the arithmetic; None if the object is unknown or on no picture.
        sets: look-alikes that the gallery has.
        pair: the look-alikes that were asked for, or None.
        images: gallery picture by id, of all that are named here.
        separate: whether each patch was encoded separately, as the paper does.
        tasks: those of the exercise, where it is shown.
        task: the task that is shown, from 0; None outside the exercise.
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
    """What the steps show.

    Args:
        showcase: where the query is answered.
        query: what is asked, described for the index that is chosen (see `described_for`).
        choice: what was chosen; a level that the index does not have means its last.

    Raises:
        PatchifyError: one sentence, if the index does not allow such boxes, or a picture or look-alike that was chosen
            is not there.
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
    """The same query, described for another index; the visitor's own stays what it is.

    Raises:
        PatchifyError: if there is no such index, or its encoder cannot be had or cannot be asked this.
    """
    if index_name is None or index_name == query.index_name:
        return query
    return showcase.with_index(query, showcase.indexes.choice(str(index_name)).name)


def fitting(showcase: ExampleGallery, choice: WalkChoice, index_name: str) -> WalkChoice:
    """The choice after another index was chosen: boxes that it does not allow become winning patches."""
    index = showcase.indexes.choice(index_name).index
    box_method = choice.box_method if is_possible(choice.box_method, index) else WINNING
    return WalkChoice(index_name, None, box_method, choice.image, choice.pair)


def made_up_score(positives: int, hits: Mapping[int, float]) -> QueryScore:
    """The score of a ranking that is made up for teaching, by `metrics.score_query`.

    Args:
        positives: pictures that contain the object.
        hits: rank, from 1, -> IoU of the box, of those that were found.

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
    """The worked example of docs/METHOD.md: AP 0.30, LocScore 0.14."""
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
