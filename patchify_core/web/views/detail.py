"""A look into one result: every set of patches with the similarity of each, and the points that agree."""

from __future__ import annotations

from html import escape
from pathlib import Path

from patchify_core.web import stages
from patchify_core.web.answers import Detail
from patchify_core.web.questions import Question
from patchify_core.web.reranking import NAMES
from patchify_core.web.views import pair
from patchify_core.web.views.html import WORDS, FileUrl, place, verdict_text

NUMBERED = 12
"""Boxes that lie anywhere, and over each other, say their similarity only if there are no more of them than this."""


def detail(found: Detail, size: tuple[int, int, Path], question: Question, url: FileUrl) -> str:
    """The large view; `size` is width, height and file of the gallery picture."""
    result, (width, height, path) = found.result, size
    match, checked = result.match, result.match.verification
    winning = stages.stage_of(found.stages, match.patch)
    shown = "points" if checked is not None and checked.inliers else str(winning)
    annotated = "".join(
        f'<span class="pf-true" style="{place(box, width, height)}"></span>' for box in result.annotated
    )
    tabs = [(str(n), stages.title(found.stages, n)) for n in range(1, len(found.stages) + 1)]
    layers = [("cells", "similarities"), *([("true", "annotated box")] if annotated else [])]
    points = ""
    if checked is not None:
        tabs.append(("points", "matching points"))
        layers.append(("lines", "lines"))
        points = pair.points(found, size, question, url)
    kind = " is-refined" if _is_refined(found) else ""
    return (
        f'<div class="pf-modal{kind}" role="dialog" aria-modal="true" aria-label="Result {result.rank} looked into" '
        f'data-show="{shown}" data-image="{match.image_id}"><div class="pf-sheet v-{result.verdict}">'
        f'<div class="pf-big"><div class="pf-pic" style="--ratio:{width / height:.5f};aspect-ratio:{width}/{height}">'
        f'<img src="{escape(url(path))}" alt="Gallery picture {match.image_id}">'
        f"{_cells(found, width, height)}{annotated}"
        f'<span class="pf-box" style="{place(match.box, width, height)}"></span></div>{points}'
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
        + f"</div></div>{_facts(found, width, height, bool(annotated))}</div></div>"
    )


def _is_refined(found: Detail) -> bool:
    """Whether the points that agree gave the result a better box than its winning patch."""
    checked = found.result.match.verification
    return checked is not None and checked.box is not None


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
            text = f"<b>{scores[cell]:.2f}</b>" if winner or grid or len(cells) <= NUMBERED else ""
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
        f"<b>{scores[stages.patches_before(found.stages, n) : stage.patches].max():.3f}</b></li>"
        for n, stage in enumerate(found.stages, 1)
    )
    refined = _is_refined(found)
    return (
        f'<div class="pf-facts"><header><h2>Result {result.rank}</h2>'
        f'<button type="button" class="pf-btn ghost" data-step="-1" aria-label="Previous result"'
        f"{' disabled' if result.rank == 1 else ''}>‹</button>"
        f'<button type="button" class="pf-btn ghost" data-step="1" aria-label="Next result"'
        f"{' disabled' if result.rank == found.results_shown else ''}>›</button>"
        '<button type="button" class="pf-close" data-do="close" aria-label="Close">×</button></header>'
        f'<p class="pf-verdict"><b aria-hidden="true">{WORDS[result.verdict][0]}</b> {escape(verdict_text(result))}</p>'
        f"<p>{_why(found)}</p>{_agreement(found)}"
        f'<h3>Best of each</h3><ul class="pf-best">{best}</ul>'
        f'<p class="pf-legend"><span class="k win"></span> {"box by the points" if refined else "winning patch"} '
        + ('<span class="k pat"></span> winning patch ' if refined else "")
        + ('<span class="k tru"></span> annotated box' if annotated else "")
        + "</p>"
        f'<div class="pf-tools"><button type="button" class="pf-btn" data-again="{result.match.image_id}">'
        f"Search with this {'box' if refined else 'cell'}</button></div>"
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
    text = f"The query is most similar to <b>{where}</b>: cosine similarity <b>{scores[cell]:.3f}</b>."
    if grid != 1 and found.stages[0].patches == 1:
        text += f" The whole picture alone would have had {scores[0]:.3f}."
    if result.iou is not None:
        what = "The box by the points" if _is_refined(found) else f"That {'picture' if grid == 1 else 'patch'}"
        text += f" {what} and the annotated box overlap with IoU {result.iou:.2f}."
    return text


def _agreement(found: Detail) -> str:
    """How far the points of query and picture agree, in words."""
    match, checked = found.result.match, found.result.match.verification
    if checked is None:
        return ""
    method = NAMES.get(checked.method, checked.method).partition(",")[0]
    if not checked.inliers:
        return f"<p>{method}: {checked.matches} points found a partner, and <b>none agree</b> on one view.</p>"
    return (
        f"<p>{method}: <b>{checked.inliers}</b> of {checked.matches} matched points agree on one view of the "
        f"object. With them the score is <b>{match.score:.3f}</b>; by the encoder alone it was {checked.global_score:.3f}.</p>"
    )
