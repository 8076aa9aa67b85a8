"""The walk through the method: its frame and its first step; the others are in `walk_lab` and `walk_scores`.

Which step is shown, and all that happens under the pointer, is the script's (assets/walk.js): the numbers that it needs
stand in the data attributes.
"""

from __future__ import annotations

import json
from html import escape

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo import stages
from patchify_core.demo.walk import Walk
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import FileUrl, place, query_address, signed
from patchify_core.web.views.walk_lab import lab
from patchify_core.web.views.walk_scores import locscore_step, pair_step, ranking_step

STEPS = ("Query", "Grid", "Similarities", "Maximum", "Ranking", "LocScore")
"""Names of the steps."""


def walk(shown: Walk, url: FileUrl, handout: str, notebook: str, turn: int = 0) -> str:
    """The whole tab; `handout` and `notebook` are addresses, and `turn` makes it another text than the last one."""
    ends = [stage.patches for stage in shown.stages]
    look = shown.look
    what = f"“{escape(shown.name or shown.question.name)}”"
    title = "" if shown.pair is None else f'<h2 class="wk-other">{escape(shown.pair.among.title)}: look-alikes</h2>'
    pair = "" if shown.pair is None else _panel("7", pair_step(shown.pair, shown.level, shown.stages, url))
    return (
        f'<section class="pf-doc pf-walk" data-turn="{turn}" data-level="{shown.level}" data-image="{look.image.id}" '
        f"data-ends='{json.dumps(ends)}' data-winners='{json.dumps(look.winners)}' "
        f"data-scores='{json.dumps([float(score) for score in look.explanation.scores])}' "
        f'data-pair="{"" if shown.pair is None else shown.pair.number}">'
        f'<header class="wk-top"><div><h2 class="wk-own">How {what} is found</h2>{title}'
        '<p class="pf-lead wk-own">Your query, step by step, with the numbers of its search.</p></div>'
        f'<p class="wk-links"><a href="{escape(handout)}" target="_blank" rel="noopener">Handout (print)</a>'
        f'<a href="{escape(notebook)}" download="patchify.ipynb">Notebook: twenty lines of Python</a></p></header>'
        f"{_controls(shown)}{_stepper(shown)}"
        f'<div class="wk-panels">{_panel("1", _query_step(shown, url))}{_panel("2 3 4", lab(shown, url))}'
        f"{_panel('5', ranking_step(shown, url))}{_panel('6', locscore_step(shown, url))}{pair}</div></section>"
    )


def _panel(steps: str, inside: str) -> str:
    """What is shown at these steps."""
    return f'<div class="wk-panel" role="tabpanel" id="wk-panel-{steps[0]}" data-steps="{steps}" hidden>{inside}</div>'


def _stepper(shown: Walk) -> str:
    tabs = "".join(
        f'<button type="button" class="wk-tab" role="tab" id="wk-tab-{n}" data-step="{n}" aria-selected="false" '
        f'aria-controls="wk-panel-{2 if n in (2, 3, 4) else n}" tabindex="-1"><b>{n}</b> <span>{name}</span></button>'
        for n, name in enumerate((*STEPS, *(["Look-alikes"] if shown.pair else [])), 1)
    )
    return (
        f'<div class="wk-stepper"><div class="wk-tabs" role="tablist" aria-label="Steps">{tabs}</div>'
        '<div class="wk-turn"><button type="button" class="pf-btn ghost" data-go="-1">Back</button>'
        '<button type="button" class="pf-btn" data-go="1">Next</button></div></div>'
    )


def _controls(shown: Walk) -> str:
    levels = "".join(
        f'<label><input type="radio" name="wk-level" value="{n}"{" checked" if n == shown.level else ""}>'
        f"<span>{escape(stages.option(shown.stages, n))}</span></label>"
        for n in range(1, len(shown.stages) + 1)
    )
    engines = ""
    if len(shown.engines) > 1:
        options = "".join(
            f'<option value="{escape(name)}"{" selected" if name == shown.question.engine else ""}>{escape(label)}</option>'
            for name, label in shown.engines
        )
        engines = (
            f'<label class="pf-field wk-engine"><span>Method</span><select data-do="engine">{options}</select></label>'
        )
    alikes = "".join(
        f'<button type="button" class="pf-btn ghost" data-set="{number}">{escape(one.title)}</button>'
        for number, one in enumerate(shown.sets)
    )
    if alikes:
        alikes = f'<div class="wk-alikes" role="group" aria-label="Look-alikes"><span>Look-alikes, side by side</span><div>{alikes}</div></div>'
    return (
        f'<div class="wk-controls"><fieldset class="pf-seg wk-levels"><legend>Finest grid used</legend>'
        f"<div>{levels}</div></fieldset>{engines}{alikes}</div>"
    )


# Step 1 -----------------------------------------------------------------------------------------------------


def _query_step(shown: Walk, url: FileUrl) -> str:
    question, numbers = shown.question, shown.question.descriptor
    whole = ""
    if question.words is None and question.box is not None:
        ratio = question.width / question.height
        whole = (
            f'<figure><span class="pf-pic wk-whole" style="--ratio:{ratio:.5f};aspect-ratio:{question.width}/{question.height}">'
            f'<img src="{escape(query_address(question, url))}" alt="The query picture">'
            f'<span class="pf-box wk-asked" style="{place(question.box, question.width, question.height)}"></span></span>'
            "<figcaption>The picture, and the box around the object</figcaption></figure>"
            '<span class="wk-arrow" aria-hidden="true">→</span>'
        )
    cut = "The query" if question.words is not None else "The query: what is inside the box"
    first = ", ".join(signed(value) for value in numbers[:8].tolist())
    return (
        '<h3>The query becomes a list of numbers</h3><p class="wk-say">A neural network, trained on other '
        "pictures and not changed here, turns the query into numbers. Similar content gives similar numbers. "
        "This list is the query’s <b>descriptor</b>; nothing else of the query is used from here on.</p>"
        f'<div class="wk-flow">{whole}<figure>{query_crop(question, url)}<figcaption>{cut}</figcaption></figure>'
        '<span class="wk-arrow" aria-hidden="true">→</span>'
        f'<figure class="wk-numbers"><span class="wk-net">network</span>{_strip(numbers)}'
        f"<figcaption><b>{len(numbers):,} numbers</b>, each a bar: up is positive, down is negative. "
        f"The first are {first}, …</figcaption></figure></div>"
        f'<dl class="wk-facts"><div><dt>Dimension</dt><dd>{len(numbers):,}</dd></div>'
        f"<div><dt>Length</dt><dd>{float(np.linalg.norm(numbers)):.3f}</dd></div>"
        f"<div><dt>Smallest, largest</dt><dd>{signed(float(numbers.min()))} … {signed(float(numbers.max()))}</dd></div></dl>"
        '<p class="wk-say">Every descriptor has length <b>1</b> (the root of the sum of its squared numbers). '
        "To compare two descriptors, multiply them number by number and add up. The sum is their "
        "<b>cosine similarity</b>: 1 for the same direction, 0 for nothing in common.</p>"
    )


def _strip(numbers: NDArray[np.float32]) -> str:
    """The numbers as bars; one drawn unit is one number."""
    top = float(np.abs(numbers).max()) or 1.0
    ups = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(numbers.tolist()) if v > 0)
    downs = "".join(f"M{n + 0.5} 50V{50 - 48 * v / top:.2f}" for n, v in enumerate(numbers.tolist()) if v < 0)
    return (
        f'<svg class="wk-strip" viewBox="0 0 {len(numbers)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="The {len(numbers):,} numbers of the query’s descriptor as bars">'
        f'<path class="up" d="{ups}"/><path class="down" d="{downs}"/><path class="axis" d="M0 50H{len(numbers)}"/></svg>'
    )
