"""A look into one result: every set of patches with the similarity of each, and the points that agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.answers import Detail
from patchify_core.demo.locating import BOXES, MAP, SOFT, WINNING
from patchify_core.demo.questions import Question
from patchify_core.demo.reranking import NAMES
from patchify_core.imaging.boxes import iou
from patchify_core.web.views.heat import OPACITY, heat
from patchify_core.web.views.html import FileUrl, render
from patchify_core.web.views.pair import pair

NUMBERED = 12
"""Boxes that lie anywhere, and over each other, say their similarity only if there are no more of them than this."""


@dataclass(frozen=True, eq=False)
class _Cell:
    """A patch: its box (xyxy pixels), its similarity, and that as a share of what this picture's patches reach."""

    box: NDArray
    score: float
    share: float
    winner: bool


@dataclass(frozen=True, eq=False)
class _Stage:
    """Patches of one grid, or of one kind: whether they are a grid, and whether each says its similarity."""

    title: str
    gridded: bool
    numbered: bool
    cells: list[_Cell]

    @property
    def best(self) -> float:
        return max(cell.score for cell in self.cells)


def detail(found: Detail, size: tuple[int, int, Path], question: Question, url: FileUrl) -> str:
    """The large view; `size` is width, height and file of the gallery picture."""
    result, (width, height, path) = found.result, size
    match, checked, scores = result.match, result.match.verification, found.explanation.scores
    winning = stages.stage_of(found.stages, match.patch)
    annotated = len(result.annotated) > 0
    tabs = [(str(n), stages.title(found.stages, n)) for n in range(1, len(found.stages) + 1)]
    layers = [("cells", "similarities"), *([("true", "annotated")] if annotated else [])]
    if found.places is not None:
        tabs.append(("map", "similarity map"))
        layers.append(("patch", "winning patch"))
    if checked is not None:
        tabs.append(("points", "matching points"))
        layers.append(("lines", "lines"))
    if checked is not None and checked.inliers:
        shown = "points"
    else:
        shown = "map" if found.places is not None and found.way == MAP else str(winning)
    kinds = [("win", _box_in_words(found))]
    kinds += [("oth", "further object")] * bool(len(match.others)) + [("pat", "winning patch")] * result.moved
    kinds += [("tru", "annotated box")] * annotated
    gridded = stages.grid_of(found.stages[winning - 1])
    return render(
        "detail",
        result=result,
        match=match,
        checked=checked,
        question=question,
        width=width,
        height=height,
        path=path,
        url=url,
        way=found.way,
        WINNING=WINNING,
        SOFT=SOFT,
        opacity=OPACITY,
        results_shown=found.results_shown,
        shown=shown,
        tabs=tabs,
        layers=layers,
        kinds=kinds,
        stages=_stages(found),
        heat=None if found.places is None else heat(found.places, f"gallery picture {match.image_id}"),
        points=None if checked is None else pair(checked, question, width, height),
        winning_box=found.explanation.boxes[match.patch],
        where=_where(found, winning),
        cosine=float(scores[match.patch]),
        whole=float(scores[0]) if gridded != 1 and found.stages[0].patches == 1 else None,
        box_name=_box_in_words(found),
        winning_iou=float(iou(result.cell, result.annotated).max()) if annotated else None,
        method="" if checked is None else NAMES.get(checked.method, checked.method).partition(",")[0],
    )


def _box_in_words(found: Detail) -> str:
    """What the box that is judged is called."""
    if found.result.by_points:
        return "box by the points"
    if not found.result.moved:
        return "winning patch"
    return BOXES[found.way]


def _stages(found: Detail) -> list[_Stage]:
    """The boxes of every stage; the script shows those of one."""
    scores, boxes = found.explanation.scores, found.explanation.boxes
    low, high = float(scores.min()), float(scores.max())
    listed = []
    for number, stage in enumerate(found.stages, 1):
        patches = range(stages.patches_before(found.stages, number), stage.patches)
        gridded = stages.grid_of(stage) is not None
        cells = [
            _Cell(
                boxes[patch],
                float(scores[patch]),
                (float(scores[patch]) - low) / (high - low) if high > low else 1.0,
                patch == found.result.match.patch,
            )
            for patch in patches
        ]
        listed.append(_Stage(stages.title(found.stages, number), gridded, gridded or len(cells) <= NUMBERED, cells))
    return listed


def _where(found: Detail, number: int) -> str:
    """Which patch won, in words; `number` is that of its stage."""
    grid = stages.grid_of(found.stages[number - 1])
    within = found.result.match.patch - stages.patches_before(found.stages, number)
    name = stages.title(found.stages, number)
    if grid == 1:
        return "the whole picture"
    if grid is None:
        return f"patch {within + 1} of {name}"
    row, column = divmod(within, grid)
    return f"row {row + 1}, column {column + 1} of the {name}"
