"""Steps 2 to 4 of the walk, on one gallery picture: its patches, their similarities, and the maximum.

What is under the pointer, what wins at which level and what the class guesses is the script's (assets/walk.js).
"""

from __future__ import annotations

from html import escape

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.answers import Result
from patchify_core.demo.walk import Look, Walk
from patchify_core.regions import Stage
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import WORDS, FileUrl, count, place, signed, verdict_text

NUMBERED = 36
"""Patches of one set write their similarity on the picture only if there are no more of them than this."""

COLOURS = 7
"""Colours that the legend's gradient is made of."""

SEPARATELY = "Each patch is cut out and encoded separately, as if it were a picture of its own."
IN_ONE_PASS = "The network sees the whole picture once; a patch’s numbers are the mean of the features inside it."
"""How patches get their descriptors: as in the paper, and by the fast method."""


def lab(shown: Walk, url: FileUrl) -> str:
    """The picture with its patches on the left, and what is said of them on the right."""
    look = shown.look
    address = escape(url(look.image.path))
    width, height = look.image.width, look.image.height
    annotated = "".join(
        f'<span class="pf-true" style="{place(box, width, height)}"></span>' for box in look.result.annotated
    )
    return (
        f'<div class="wk-lab"><div class="wk-left">{_chooser(shown, url)}'
        f'<div class="pf-pic wk-stage" style="--ratio:{width / height:.5f};aspect-ratio:{width}/{height}">'
        f'<img src="{address}" alt="Gallery picture {look.image.id}">{_layers(shown.stages, look)}{annotated}'
        '<span class="wk-guessbox" hidden></span><span class="wk-winbox" hidden></span></div>'
        f"{_grids(shown.stages)}</div>"
        f'<div class="wk-side">{_words(shown)}{_cell_view(shown, address, url)}'
        f"{_bars(shown.stages, look)}{_guess()}</div></div>"
    )


def _chooser(shown: Walk, url: FileUrl) -> str:
    results, chosen = shown.answer.results, shown.look.image.id
    ids = [result.match.image_id for result in results]
    at = ids.index(chosen) if chosen in ids else len(ids)
    thumbs = "".join(_thumb(result, shown, url) for result in results)
    beyond = "" if chosen in ids else f'<span class="wk-beyond">rank {shown.look.result.rank}</span>'
    return (
        '<div class="wk-chooser" role="group" aria-label="Result shown">'
        f'<button type="button" class="pf-btn ghost" data-pick="{ids[max(0, at - 1)]}" data-way="prev" aria-label="Result before"'
        f"{' disabled' if at == 0 else ''}>‹</button>"
        f'<div class="wk-thumbs">{thumbs}</div>'
        f'<button type="button" class="pf-btn ghost" data-pick="{ids[min(len(ids) - 1, at + 1)]}" data-way="next" aria-label="Next result"'
        f"{' disabled' if at >= len(ids) - 1 else ''}>›</button>"
        f"{beyond}</div>"
    )


def _thumb(result: Result, shown: Walk, url: FileUrl) -> str:
    image = shown.images[result.match.image_id]
    said = f"Result {result.rank}, {verdict_text(result)}"
    return (
        f'<button type="button" class="wk-thumb v-{result.verdict}" data-pick="{image.id}" '
        f'aria-pressed="{str(image.id == shown.look.image.id).lower()}" aria-label="{escape(said)}" title="{escape(said)}">'
        f'<img src="{escape(url(image.path))}" alt="" width="64" height="48"><span>{result.rank}</span></button>'
    )


def _layers(found: tuple[Stage, ...], look: Look) -> str:
    """The patches of every stage as buttons, each stage in an element of its own; the script shows one of them."""
    scores, boxes = look.explanation.scores, look.explanation.boxes
    colours = _colours(scores)
    layers = []
    for number, stage in enumerate(found, 1):
        cells = range(stages.patches_before(found, number), stage.patches)
        grid = stages.grid_of(stage)
        numbered = grid is not None or len(cells) <= NUMBERED
        buttons = "".join(
            f'<button type="button" class="wk-cell" data-cell="{cell}" tabindex="-1" data-score="{signed(float(scores[cell]))}" '
            f'data-where="{escape(where(found, cell))}" data-box="{",".join(f"{v:.1f}" for v in boxes[cell])}" '
            f'style="{place(boxes[cell], look.image.width, look.image.height)};--c:{colours[cell]}">'
            f"{_label(float(scores[cell])) if numbered else ''}</button>"
            for cell in cells
        )
        kind = "" if grid is not None else " is-loose"
        layers.append(
            f'<div class="wk-layer{kind}" data-stage="{number}" data-grid="{grid or 0}" role="group" '
            f'aria-label="{escape(stages.title(found, number))}: arrow keys move from patch to patch" hidden>{buttons}</div>'
        )
    return "".join(layers)


def _label(score: float) -> str:
    return f"<b>{signed(score, 2)}</b>"


def where(found: tuple[Stage, ...], cell: int) -> str:
    """Where a patch lies, in words, e.g. `row 2, column 3 of the 4×4 grid`."""
    number = stages.stage_of(found, cell)
    grid = stages.grid_of(found[number - 1])
    within = cell - stages.patches_before(found, number)
    title = stages.title(found, number)
    if grid == 1:
        return title
    if grid is None:
        return f"patch {within + 1} of {title}"
    row, column = divmod(within, grid)
    return f"row {row + 1}, column {column + 1} of the {title}"


def _grids(found: tuple[Stage, ...]) -> str:
    buttons = "".join(
        f'<button type="button" class="pf-tab" data-grid-of="{n}" aria-pressed="false">{escape(stages.title(found, n))}</button>'
        for n in range(1, len(found) + 1)
    )
    return (
        f'<div class="wk-grids" role="group" aria-label="Grid shown">{buttons}'
        '<label class="wk-true"><input type="checkbox" data-do="true" checked> annotated box</label></div>'
    )


def _words(shown: Walk) -> str:
    """What is said beside the picture at each step."""
    look, sums = shown.look, []
    for number, stage in enumerate(shown.stages, 1):
        added = stage.patches - stages.patches_before(shown.stages, number)
        sums.append(
            f'<li data-stage-line="{number}"><b>{added}</b> <span>{escape(stages.title(shown.stages, number))}</span></li>'
        )
    annotated = "" if look.result.iou is None else " (annotated: dashed)"
    return (
        '<div data-say="2"><h3>Every gallery picture is cut into patches</h3><p class="wk-say">'
        f"{SEPARATELY if shown.separate else IN_ONE_PASS} A small object fills a small patch, so the rest of the picture no "
        "longer hides it.</p>"
        f'<ul class="wk-sum">{"".join(sums)}</ul>'
        '<p class="wk-say"><b data-fill="patches"></b> of this picture are used, and as many of every other one. '
        "This is done once, before any search.</p></div>"
        '<div data-say="3" hidden><h3>Each patch is compared with the query</h3><p class="wk-say">One number per patch: the '
        "cosine similarity of its descriptor and the query’s. Point at a patch, or move with the arrow keys.</p></div>"
        '<div data-say="4" hidden><h3>The best patch gives the picture its score</h3>'
        '<p class="wk-say wk-answer wk-explains">The maximum of <span data-fill="patches"></span> is '
        '<b class="wk-max" data-fill="max"></b>: <span data-fill="where"></span>. '
        "That number is the picture’s score, and that patch shows roughly where the object is.</p>"
        f'<p class="wk-say wk-answer v-{look.result.verdict}">Rank {look.result.rank} of {shown.answer.pictures:,}: '
        f'<b class="wk-verdict"><span aria-hidden="true">{WORDS[look.result.verdict][0]}</span> '
        f"{escape(verdict_text(look.result))}</b>{annotated}</p>"
        '<p class="wk-say wk-question">Which patch is most like the query? Look at the patches of every size, then '
        "<b>click the one that you think wins</b>.</p>"
        '<p class="wk-say wk-outcome" role="status" data-fill="outcome"></p></div>'
    )


def _cell_view(shown: Walk, address: str, url: FileUrl) -> str:
    """The query beside the patch under the pointer, which the script fills in."""
    return (
        '<div class="wk-view" aria-live="polite"><figure><figcaption>Query</figcaption>'
        f"{query_crop(shown.question, url)}</figure>"
        '<p class="wk-like"><span class="wk-big" data-fill="score">0.000</span><small>similarity</small></p>'
        '<figure><figcaption>Patch <span data-fill="under">under the pointer</span></figcaption>'
        f'<span class="wk-crop" data-fill="crop"><img src="{address}" alt="The patch" '
        f'data-width="{shown.look.image.width}" data-height="{shown.look.image.height}"></span></figure>'
        '<p class="wk-cellfacts"><b data-fill="cell-where"></b><br><span data-fill="cell-box"></span><br>'
        '<span data-fill="cell-place"></span></p></div>'
    )


def _bars(found: tuple[Stage, ...], look: Look) -> str:
    """All similarities beside each other, set by set: the maximum is the tallest bar."""
    scores = look.explanation.scores
    low, high = np.floor(10 * float(scores.min())) / 10, np.ceil(10 * float(scores.max())) / 10
    span = max(high - low, 1e-6)
    colours = _colours(scores)
    groups = "".join(
        f'<div class="wk-group" data-stage="{n}" style="flex-grow:{stage.patches - stages.patches_before(found, n) + 1}"><div>'
        + "".join(
            f'<i class="wk-bar" data-cell="{cell}" style="height:{max(2.0, 100 * (float(scores[cell]) - low) / span):.1f}%;--c:{colours[cell]}"></i>'
            for cell in range(stages.patches_before(found, n), stage.patches)
        )
        + f"</div><span>{escape(_short(found, n))}</span></div>"
        for n, stage in enumerate(found, 1)
    )
    gradient = ",".join(_colours(np.linspace(0, 1, COLOURS, dtype=np.float32)))
    return (
        f'<figure class="wk-bars"><figcaption><span>All {count(len(scores), "similarity").replace("similaritys", "similarities")} '
        "of this picture</span>"
        f'<span class="wk-range"><b>{signed(float(scores.min()), 2)}</b><i style="background:linear-gradient(90deg,{gradient})"></i>'
        f"<b>{signed(float(scores.max()), 2)}</b></span></figcaption>"
        f'<div class="wk-plot" aria-hidden="true"><span class="wk-axis"><i>{signed(high, 1)}</i><i>{signed(low, 1)}</i></span>{groups}</div></figure>'
    )


def _short(found: tuple[Stage, ...], number: int) -> str:
    grid = stages.grid_of(found[number - 1])
    return f"{grid}×{grid}" if grid else stages.title(found, number)


def _guess() -> str:
    return (
        '<div class="wk-guess"><button type="button" class="pf-btn" data-do="guess">Hide the answer and let the class guess</button>'
        '<button type="button" class="pf-btn ghost" data-do="reveal" hidden>Show the answer</button></div>'
    )


def _colours(values: NDArray[np.float32]) -> list[str]:
    """Viridis, from the smallest to the largest value: equal steps look equally large, to the colour-blind too."""
    import cv2

    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.ones_like(values)
    drawn = cv2.applyColorMap(np.rint(shares * 255).astype(np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in drawn.tolist()]
