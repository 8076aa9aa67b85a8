"""A look into one result: every set of patches with the similarity of each, and the points that agree."""

from __future__ import annotations

from html import escape
from pathlib import Path

from patchify_core.demo import stages
from patchify_core.demo.answers import Detail
from patchify_core.demo.locating import BOXES, MAP, SOFT, WINNING
from patchify_core.demo.questions import Question
from patchify_core.demo.reranking import NAMES
from patchify_core.imaging.boxes import iou
from patchify_core.web.views import heat, pair
from patchify_core.web.views.html import WORDS, FileUrl, boxes, count, legend, overlap, place, signed, verdict_text

NUMBERED = 12
"""Boxes that lie anywhere, and over each other, say their similarity only if there are no more of them than this."""


def detail(found: Detail, size: tuple[int, int, Path], question: Question, url: FileUrl) -> str:
    """The large view; `size` is width, height and file of the gallery picture."""
    result, (width, height, path) = found.result, size
    match, checked = result.match, result.match.verification
    winning = stages.stage_of(found.stages, match.patch)
    if checked is not None and checked.inliers:
        shown = "points"
    else:
        shown = "map" if found.places is not None and found.way == MAP else str(winning)
    annotated = "".join(
        f'<span class="pf-true" style="{place(box, width, height)}"></span>' for box in result.annotated
    )
    tabs = [(str(n), stages.title(found.stages, n)) for n in range(1, len(found.stages) + 1)]
    layers = [("cells", "similarities"), *([("true", "annotated")] if annotated else [])]
    points = scale = heat_layer = ""
    if found.places is not None:
        tabs.append(("map", "similarity map"))
        layers.append(("patch", "winning patch"))
        scale = heat.legend(found.places)
        heat_layer = heat.layer(found.places, f"gallery picture {match.image_id}")
    if checked is not None:
        tabs.append(("points", "matching points"))
        layers.append(("lines", "lines"))
        points = pair.points(found, size, question, url)
    kind = " is-refined" if result.moved else ""
    return (
        f'<div class="pf-modal{kind}" role="dialog" aria-modal="true" aria-label="Result {result.rank}" '
        f'data-show="{shown}" data-image="{match.image_id}"><div class="pf-sheet v-{result.verdict}">'
        f'<div class="pf-big"><div class="pf-pic" style="--ratio:{width / height:.5f};aspect-ratio:{width}/{height}">'
        f'<img src="{escape(url(path))}" alt="Gallery picture {match.image_id}">'
        f"{heat_layer}{_cells(found, width, height)}{annotated}{boxes(result, width, height)}</div>{points}"
        f'<div class="pf-tabs" role="group" aria-label="What to show">'
        + "".join(
            f'<button type="button" class="pf-tab" data-level="{value}" aria-pressed="{str(value == shown).lower()}">'
            f"{escape(name)}</button>"
            for value, name in tabs
        )
        + "".join(
            f'<label class="pf-layer-{layer}"><input type="checkbox" data-layer="{layer}" checked> {name}</label>'
            for layer, name in layers
        )
        + f"</div>{scale}</div>{_facts(found, width, height, bool(annotated))}</div></div>"
    )


def _box_in_words(found: Detail) -> str:
    """What the box that is judged is called."""
    if found.result.by_points:
        return "box by the points"
    if not found.result.moved:
        return "winning patch"
    return BOXES[found.way]


def _cells(found: Detail, width: int, height: int) -> str:
    """The boxes of every stage, each stage in an element of its own; the script shows one of them."""
    scores, boxes = found.explanation.scores, found.explanation.boxes
    low, high = float(scores.min()), float(scores.max())
    groups = []
    for number, stage in enumerate(found.stages, 1):
        cells = range(stages.patches_before(found.stages, number), stage.patches)
        grid = stages.grid_of(stage) is not None
        spans = []
        for cell in cells:
            share = (float(scores[cell]) - low) / (high - low) if high > low else 1.0
            winner = cell == found.result.match.patch
            text = f"<b>{signed(float(scores[cell]), 2)}</b>" if winner or grid or len(cells) <= NUMBERED else ""
            spans.append(
                f'<span class="pf-cell{" is-winner" if winner else ""}" '
                f'style="{place(boxes[cell], width, height)};--heat:{share:.3f}">{text}</span>'
            )
        kind = "" if grid else " is-loose"
        groups.append(f'<div class="pf-cells{kind}" data-level="{number}">{"".join(spans)}</div>')
    return "".join(groups)


def _facts(found: Detail, width: int, height: int, annotated: bool) -> str:
    result, scores = found.result, found.explanation.scores
    best = "".join(
        f"<li><span>{escape(stages.title(found.stages, n))}</span> "
        f"<b>{signed(float(scores[stages.patches_before(found.stages, n) : stage.patches].max()))}</b></li>"
        for n, stage in enumerate(found.stages, 1)
    )
    moved = result.moved
    kinds = [("win", _box_in_words(found))]
    kinds += [("oth", "further object")] * bool(len(result.match.others)) + [("pat", "winning patch")] * moved
    kinds += [("tru", "annotated box")] * annotated
    return (
        f'<div class="pf-facts"><header><h2>Result {result.rank}</h2>'
        f'<button type="button" class="pf-btn ghost" data-step="-1" aria-label="Previous result"'
        f"{' disabled' if result.rank == 1 else ''}>‹</button>"
        f'<button type="button" class="pf-btn ghost" data-step="1" aria-label="Next result"'
        f"{' disabled' if result.rank == found.results_shown else ''}>›</button>"
        '<button type="button" class="pf-close" data-do="close" aria-label="Close">×</button></header>'
        f'<p class="pf-verdict"><b aria-hidden="true">{WORDS[result.verdict][0]}</b> {escape(verdict_text(result))}</p>'
        f"<p>{_why(found)}</p>{_how_found(found)}{_agreement(found)}"
        f'<h3>Best patch of each grid</h3><ul class="pf-best">{best}</ul>'
        f"{legend(kinds)}"
        f'<div class="pf-tools"><button type="button" class="pf-btn" data-again="{result.match.image_id}">'
        f"Search with this {'box' if moved else 'cell'}</button>"
        f'<button type="button" class="pf-btn ghost" data-export="link" data-look="{result.match.image_id}">Copy link</button></div>'
        '<input class="pf-share-text" type="text" readonly hidden aria-label="What was copied">'
        '<p class="pf-share-said" role="status" aria-live="polite"></p>'
        f'<p class="pf-file">{escape(result.match.file_name)}, {width}×{height}</p></div>'
    )


def _why(found: Detail) -> str:
    result, cell, scores = found.result, found.result.match.patch, found.explanation.scores
    number = stages.stage_of(found.stages, cell)
    grid = stages.grid_of(found.stages[number - 1])
    within = cell - stages.patches_before(found.stages, number)
    name = escape(stages.title(found.stages, number))
    if grid == 1:
        where = "the whole picture"
    elif grid is not None:
        row, column = divmod(within, grid)
        where = f"row {row + 1}, column {column + 1} of the {name}"
    else:
        where = f"patch {within + 1} of {name}"
    text = f"The query is most similar to <b>{where}</b>: cosine similarity <b>{signed(float(scores[cell]))}</b>."
    if grid != 1 and found.stages[0].patches == 1:
        text += f" The whole picture scores {signed(float(scores[0]))}."
    if result.iou is not None:
        same = f"That {'picture' if grid == 1 else 'patch'}"
        what = f"The {_box_in_words(found)}" if result.moved else same
        text += f" {what} and the annotated box overlap with IoU {overlap(result.iou)}"
        text += (
            f" (the winning patch: {overlap(float(iou(result.cell, result.annotated).max()))})."
            if result.moved
            else "."
        )
    return text


def _how_found(found: Detail) -> str:
    """One sentence about the box."""
    if found.result.by_points or found.way == WINNING:
        return ""
    if found.way == SOFT:
        return "<p>The <b>soft box</b> is the mean of all patches’ boxes; better matches count more.</p>"
    others = len(found.result.match.others)
    more = (
        f" {count(others, 'further place')} in this picture match{'' if others > 1 else 'es'} nearly as well."
        if others
        else ""
    )
    return (
        "<p>The <b>refined box</b> is the best match among boxes of every size and position; it is then aligned with visible "
        f"edges.{more}</p>"
    )


def _agreement(found: Detail) -> str:
    """How far the points of query and picture agree, in words."""
    match, checked = found.result.match, found.result.match.verification
    if checked is None:
        return ""
    method = NAMES.get(checked.method, checked.method).partition(",")[0]
    if not checked.inliers:
        return f"<p>{method}: {checked.matches} points matched, and <b>none agree</b> on one view.</p>"
    return (
        f"<p>{method}: <b>{checked.inliers}</b> of {checked.matches} matched points agree on one view of the "
        f"object. The score with them is <b>{signed(match.score)}</b>; without them it was {signed(checked.global_score)}.</p>"
    )
