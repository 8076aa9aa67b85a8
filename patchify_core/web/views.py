"""Words what `showcase` answers as HTML.

Every text that is not ours is escaped. Boxes are drawn in percent of the picture, so they fit it at any size and
stay sharp on any screen.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.metrics import QueryScore
from patchify_core.regions import level_of, patches_up_to
from patchify_core.web import showcase
from patchify_core.web.showcase import Answer, Detail, Question, Result

FileUrl = Callable[[Path], str]

LEVEL_NAMES = {1: "whole picture", 2: "2×2 grid", 3: "3×3 grid", 4: "4×4 grid", 5: "5×5 grid", 6: "6×6 grid"}
WORDS = {
    showcase.RIGHT: ("✓", "found, box right"),
    showcase.OFF: ("≈", "found, box off"),
    showcase.WRONG: ("✕", "another object"),
    showcase.IGNORED: ("–", "hardly visible, not counted"),
    showcase.ITSELF: ("=", "the query itself"),
    showcase.UNKNOWN: ("?", "not scored"),
}


def place(box: NDArray[np.float64], width: int, height: int) -> str:
    """CSS that lays an element over `box` (xyxy pixels) of a picture of width x height pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return (
        f"left:{100 * x1 / width:.3f}%;top:{100 * y1 / height:.3f}%;"
        f"width:{100 * (x2 - x1) / width:.3f}%;height:{100 * (y2 - y1) / height:.3f}%"
    )


def verdict_text(result: Result) -> str:
    """The verdict in words, with the IoU where there is one."""
    word = WORDS[result.verdict][1]
    return word if result.iou is None else f"{word} · IoU {result.iou:.2f}"


# The query ------------------------------------------------------------------------------------------------


def query(question: Question, url: FileUrl) -> str:
    """The query picture with its box, which the script of the page lets the visitor draw, move and resize."""
    source = url(question.path) if question.path is not None else _as_data_url(question.display or b"")
    whole = question.box is None
    box = np.array([0, 0, question.width, question.height], float) if question.box is None else question.box
    corners = ",".join(f"{value:.1f}" for value in box)
    label = "Query box. Arrow keys move it, Shift and arrow keys resize it, Home selects the whole picture."
    return (
        f'<div class="pf-stage-wrap"><div class="pf-stage" data-picture="{escape(question.key)}" '
        f'data-width="{question.width}" data-height="{question.height}" '
        f'style="--ratio:{question.width / question.height:.5f}">'
        f'<img class="pf-query-img" src="{escape(source)}" alt="Query: {escape(question.name)}" draggable="false">'
        f'<div class="pf-box pf-query-box{" is-whole" if whole else ""}" tabindex="0" role="application" '
        f'aria-label="{label}" data-box="{corners}" style="{place(box, question.width, question.height)}">'
        '<i class="h nw"></i><i class="h ne"></i><i class="h sw"></i><i class="h se"></i></div>'
        "</div></div>"
        '<div class="pf-camera" hidden><video playsinline muted></video>'
        '<div><button type="button" class="pf-btn" data-do="shoot">Take picture</button>'
        '<button type="button" class="pf-btn ghost" data-do="stop">Cancel</button></div></div>'
        '<p class="pf-hint">Drag a box round <b>one object</b>. Results follow.</p>'
        '<div class="pf-tools">'
        '<button type="button" class="pf-btn" data-do="upload">Upload</button>'
        '<button type="button" class="pf-btn ghost" data-do="paste">Paste</button>'
        '<button type="button" class="pf-btn ghost" data-do="camera">Camera</button>'
        f'<button type="button" class="pf-btn ghost" data-do="whole"{" disabled" if whole else ""}>Whole picture</button>'
        '<input type="file" accept="image/*" hidden aria-label="Upload a picture" tabindex="-1">'
        "</div>"
    )


def _as_data_url(jpeg: bytes) -> str:
    """A picture inside the page: a visitor's never becomes a file that others could ask for."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def examples(items: Sequence[tuple[int, str, Path]], chosen: int | None, url: FileUrl) -> str:
    """Thumbnails of the bundled queries; items are (query id, name, file)."""
    buttons = "".join(
        f'<button type="button" class="pf-example" data-example="{query_id}" title="{escape(name)}" '
        f'aria-pressed="{str(query_id == chosen).lower()}">'
        f'<img src="{escape(url(path))}" alt="{escape(name)}" loading="lazy" width="64" height="48"></button>'
        for query_id, name, path in items
    )
    return f'<div class="pf-examples" role="group" aria-label="Example queries">{buttons}</div>'


# The results ----------------------------------------------------------------------------------------------


def cards(answer: Answer, sizes: Callable[[int], tuple[int, int, Path]], url: FileUrl) -> str:
    """The result cards; `sizes` gives width, height and file of a gallery picture."""
    items = []
    for result in answer.results:
        match = result.match
        width, height, path = sizes(match.image_id)
        icon, word = WORDS[result.verdict]
        text = verdict_text(result)
        overlap = "" if result.iou is None else f"IoU {result.iou:.2f}"
        items.append(
            f'<li class="pf-card v-{result.verdict}"><button type="button" class="pf-open" data-open="{match.image_id}" '
            f'aria-label="Rank {result.rank}, similarity {match.score:.3f}, {escape(text)}. Look into it.">'
            f'<span class="pf-pic" style="aspect-ratio:{width}/{height}">'
            f'<img src="{escape(url(path))}" alt="" width="{width}" height="{height}">'
            f'<span class="pf-box" style="{place(match.box, width, height)}"></span>'
            f'<span class="pf-rank">{result.rank}</span></span>'
            f'<span class="pf-cap"><span class="pf-score">{match.score:.3f}</span><span class="pf-iou">{overlap}</span>'
            f'<span class="pf-verdict"><b aria-hidden="true">{icon}</b> {escape(word)}</span></span></button>'
            f'<button type="button" class="pf-again" data-again="{match.image_id}" '
            f'title="Search with this picture" aria-label="Search with result {result.rank}">⌕</button></li>'
        )
    return f'<ol class="pf-cards" aria-label="Results, best first">{"".join(items)}</ol>'


def strip(answer: Answer, object_name: str | None) -> str:
    """AP and LocScore of this query, for the grid and for whole pictures, or what is needed to have them."""
    shown = len(answer.results)
    if answer.score is None or answer.baseline is None:
        note = (
            "No score: this object has no annotated gallery picture."
            if object_name
            else "<b>Not scored.</b> If your picture shows one of the bundled objects, choose it under "
            "“Which object is it?” and AP and LocScore appear here."
        )
        return (
            f'<div class="pf-strip is-empty"><p>{note}</p>'
            f"<p class='pf-sum' role='status'>First {shown} of {answer.pictures} gallery pictures.</p>{_what_is_locscore()}</div>"
        )
    ceiling = answer.ceiling or 0.0
    rows = _score_row(f"Patchify <small>{grid_name(answer.level)}</small>", answer.score, ceiling, "ours")
    rows += _score_row("Global baseline <small>whole pictures</small>", answer.baseline, None, "base")
    return (
        f'<div class="pf-strip"><table><caption class="pf-sr">Scores of this query</caption><thead><tr>'
        f'<td></td><th scope="col">AP <small>ranked first?</small></th>'
        f'<th scope="col">LocScore <small>and boxed right?</small></th></tr></thead><tbody>{rows}</tbody></table>'
        f'<div class="pf-side"><p class="pf-sum" role="status"><b>{answer.found}</b> of the first {shown} hold the '
        f"{escape(object_name or 'object')}; {answer.score.positives} of all {answer.pictures} do.</p>"
        f'<p class="pf-sum">Best LocScore this grid allows: <b>{ceiling:.2f}</b></p>{_what_is_locscore()}</div></div>'
    )


def grid_name(level: int) -> str:
    """The paper's name of a pyramid, e.g. `L3, 30 patches`."""
    patches = patches_up_to(level)
    return f"L{level - 1}, {patches} patch{'es' if patches > 1 else ''} each"


def _score_row(name: str, score: QueryScore, ceiling: float | None, kind: str) -> str:
    locscore = score.locscore or 0.0
    mark = "" if ceiling is None else f'<i class="pf-ceil" style="left:{100 * ceiling:.1f}%"></i>'
    return (
        f'<tr class="{kind}"><th scope="row">{name}</th>'
        f'<td><span class="pf-num">{score.ap:.3f}</span>{_bar(score.ap, "")}</td>'
        f'<td><span class="pf-num">{locscore:.3f}</span>{_bar(locscore, mark)}</td></tr>'
    )


def _bar(value: float, mark: str) -> str:
    return f'<span class="pf-bar" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i>{mark}</span>'


def _what_is_locscore() -> str:
    return (
        '<details class="pf-what"><summary>What is LocScore?</summary><div>'
        "<p>Go down the ranking. At each picture that really holds the object, take the share of right pictures so far "
        "(<b>precision</b>) and multiply it by how well the box covers the object (<b>IoU</b>: overlap ÷ union, 0 to 1). "
        "Add these up and divide by the number of pictures that hold it.</p>"
        "<p>Without the IoU that is <b>AP</b>, average precision. So LocScore is AP that must also point at the right "
        "spot, and can never be larger than AP. A whole-picture method can only ever box the whole picture.</p>"
        "<p class='pf-eg'>3 pictures hold it; found at ranks 2 and 5 with IoU 0.6 and 0.3: "
        "AP = (½ + ⅖) ÷ 3 = 0.30, LocScore = (½ × 0.6 + ⅖ × 0.3) ÷ 3 = 0.14.</p></div></details>"
    )


# A look into one result -----------------------------------------------------------------------------------


def detail(found: Detail, size: tuple[int, int, Path], question: Question, url: FileUrl) -> str:
    """The large view: every grid with the similarity of every cell, the winning cell, the annotated box."""
    result, explanation = found.result, found.explanation
    width, height, path = size
    match = result.match
    level = level_of(match.patch)
    levels = range(1, level_of(len(explanation.scores) - 1) + 1)
    low, high = float(explanation.scores.min()), float(explanation.scores.max())
    cells = []
    for cell, (box, score) in enumerate(zip(explanation.boxes, explanation.scores, strict=True)):
        share = (float(score) - low) / (high - low) if high > low else 1.0
        winner = " is-winner" if cell == match.patch else ""
        cells.append(
            f'<span class="pf-cell{winner}" data-level="{level_of(cell)}" '
            f'style="{place(box, width, height)};--heat:{share:.3f}"><b>{score:.2f}</b></span>'
        )
    annotated = "".join(
        f'<span class="pf-true" style="{place(box, width, height)}"></span>' for box in result.annotated
    )
    tabs = "".join(
        f'<button type="button" class="pf-tab" data-level="{n}" aria-pressed="{str(n == level).lower()}">'
        f"{LEVEL_NAMES[n]}</button>"
        for n in levels
    )
    best = "".join(
        f"<li><span>{LEVEL_NAMES[n]}</span> <b>{_best_of_level(explanation.scores, n):.3f}</b></li>" for n in levels
    )
    return (
        f'<div class="pf-modal" role="dialog" aria-modal="true" aria-label="Result {result.rank} looked into" '
        f'data-show="{level}" data-image="{match.image_id}"><div class="pf-sheet v-{result.verdict}">'
        f'<div class="pf-big"><div class="pf-pic" style="--ratio:{width / height:.5f};aspect-ratio:{width}/{height}">'
        f'<img src="{escape(url(path))}" alt="Gallery picture {match.image_id}">'
        f'<div class="pf-cells">{"".join(cells)}</div>{annotated}'
        f'<span class="pf-box" style="{place(match.box, width, height)}"></span></div>'
        f'<div class="pf-tabs" role="group" aria-label="Grid to show">{tabs}'
        '<label><input type="checkbox" data-layer="cells" checked> similarities</label>'
        + ('<label><input type="checkbox" data-layer="true" checked> annotated box</label>' if annotated else "")
        + "</div></div>"
        f'<div class="pf-facts"><header><h2>Result {result.rank}</h2>'
        f'<button type="button" class="pf-btn ghost" data-step="-1" aria-label="Previous result"'
        f"{' disabled' if result.rank == 1 else ''}>‹</button>"
        f'<button type="button" class="pf-btn ghost" data-step="1" aria-label="Next result"'
        f"{' disabled' if result.rank == found.results_shown else ''}>›</button>"
        '<button type="button" class="pf-close" data-do="close" aria-label="Close">×</button></header>'
        f'<p class="pf-verdict"><b aria-hidden="true">{WORDS[result.verdict][0]}</b> {escape(verdict_text(result))}</p>'
        f"<p>{_why(result, explanation.scores)}</p>"
        f'<h3>Best cell of each grid</h3><ul class="pf-best">{best}</ul>'
        '<p class="pf-legend"><span class="k win"></span> winning cell '
        + ('<span class="k tru"></span> annotated box' if annotated else "")
        + "</p>"
        f'<div class="pf-tools"><button type="button" class="pf-btn" data-again="{match.image_id}">'
        "Search with this cell</button></div>"
        f'<p class="pf-file">{escape(match.file_name)}, {width}×{height}</p></div></div></div>'
    )


def _best_of_level(scores: NDArray[np.float32], level: int) -> float:
    return float(scores[patches_up_to(level - 1) if level > 1 else 0 : patches_up_to(level)].max())


def _why(result: Result, scores: NDArray[np.float32]) -> str:
    level, cell = level_of(result.match.patch), result.match.patch
    if level == 1:
        where = "the whole picture"
    else:
        row, column = divmod(cell - patches_up_to(level - 1), level)
        where = f"row {row + 1}, column {column + 1} of the {LEVEL_NAMES[level]}"
    text = f"The query is most similar to <b>{where}</b>: cosine similarity <b>{result.match.score:.3f}</b>."
    if level > 1:
        text += f" The whole picture alone would have had {scores[0]:.3f}."
    if result.iou is not None:
        text += f" That {'cell' if level > 1 else 'picture'} and the annotated box overlap with IoU {result.iou:.2f}."
    return text


# The page around it ---------------------------------------------------------------------------------------


def header(logo: str) -> str:
    """Name, promise, and the switch between light and dark."""
    return (
        f'<header class="pf-head"><img src="{escape(logo)}" alt="" width="34" height="34"><div><h1>Patchify</h1>'
        "<p>Show it <b>one object</b>; it finds the pictures that hold that very object, and <b>where</b>.</p></div>"
        '<nav><a href="#pf-how">How it works</a><a href="#pf-cite">Cite</a>'
        '<button type="button" class="pf-btn ghost" aria-label="Switch between light and dark" '
        "onclick=\"document.body.classList.toggle('dark')\">◐</button></nav></header>"
    )


def below() -> str:
    """What the method does, in three steps, and what the colours mean."""
    return (
        '<section class="pf-how" id="pf-how"><h2>How it works</h2><div class="pf-steps">'
        "<div><h3>1 · Cut</h3><p>Each gallery picture is cut into grids: 1×1, 2×2, 3×3 and 4×4 cells, 30 patches in all. "
        "A small object fills a small cell, so it is no longer drowned by the rest of the picture.</p></div>"
        "<div><h3>2 · Describe</h3><p>A frozen network, never trained on these objects, turns every patch, and the box "
        "that you draw, into a vector of length 1. Similar content gives similar vectors.</p></div>"
        "<div><h3>3 · Compare</h3><p>A picture scores as high as its <b>best</b> patch. Pictures are ranked by that "
        "score, and the winning patch says where the object is. Set the pyramid to <b>Global</b> to see what is lost "
        "without patches.</p></div></div>"
        '<ul class="pf-key" aria-label="What the colours mean">'
        '<li class="v-right"><b>✓ found, box right</b> the picture holds the object, and the box covers it with IoU ≥ 0.5</li>'
        '<li class="v-off"><b>≈ found, box off</b> the picture holds the object, but the winning cell covers it badly</li>'
        '<li class="v-wrong"><b>✕ another object</b> the picture does not hold the object</li>'
        '<li class="v-unknown"><b>? not scored</b> nobody has said what the object is</li></ul></section>'
    )


BIBTEX = """@inproceedings{choi2026patchwise,
  title     = {Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching},
  author    = {Choi and Lim and Hyeon-Woo and Ye-Bin and Jeong and Hwang and Oh},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2026},
  note      = {arXiv:2512.12610}
}"""


def footer(pictures: int, encoder: str) -> str:
    """Whose method, whose pictures, whose weights."""
    return (
        '<footer class="pf-foot" id="pf-cite"><div><h2>The paper</h2><p>Choi, Lim, Hyeon-Woo, Ye-Bin, Jeong, Hwang, Oh: '
        "<cite>Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level Matching</cite>, WACV 2026, "
        "arXiv 2512.12610. This is an independent implementation.</p>"
        f"<details><summary>BibTeX</summary><pre tabindex='0'>{escape(BIBTEX)}</pre></details></div>"
        f"<div><h2>The pictures</h2><p>The {pictures} gallery pictures and the queries are <b>renders</b> (Blender Cycles, "
        "CC BY 4.0, with the credits of sample_db/ATTRIBUTION.md), apart from 8 photographs. Their boxes are exact.</p></div>"
        f"<div><h2>The rest</h2><p>Encoder {escape(encoder)}: EfficientNet-Lite, ImageNet weights, Apache-2.0. Code: MIT. "
        "Your own pictures stay in this server's memory for your visit and are then forgotten; nothing is sent "
        "anywhere else.</p></div></footer>"
    )
