"""One configuration looked into: its scores, how it compares, its objects, and its worst failures as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.answers import WRONG
from patchify_core.demo.trials import Failure, Part, Trial
from patchify_core.evaluation.compare import DEFAULTS, Difference
from patchify_core.web.views.html import WORDS, FileUrl, overlap, place


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture with a box: its size in pixels, its file, the box (4,) xyxy or None, and what it contains."""

    width: int
    height: int
    path: Path
    box: NDArray[np.float64] | None
    holds: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ShownFailure:
    """A failure with its pictures.

    Attributes:
        failure: the numbers.
        query: the query picture with its box.
        first: the gallery picture that came first; None if that is not known.
        verdict: one of `answers`: RIGHT, OFF or WRONG.
        iou: of its box with the annotated one, where it is right and annotated.
    """

    failure: Failure
    query: Shown
    first: Shown | None
    verdict: str
    iou: float | None


def trial(
    chosen: Trial,
    others: Sequence[Trial],
    other: Trial | None,
    differences: Sequence[Difference],
    parts: Sequence[Part],
    worst: Sequence[ShownFailure] | str,
    url: FileUrl,
) -> str:
    """The panel below the table.

    Args:
        chosen: what is looked into.
        others: what it may be compared with.
        other: what it is compared with, or None.
        differences: of `chosen` to `other` (B and A).
        parts: its objects.
        worst: its failures, or a sentence why they are not shown.
        url: address of a bundled picture.
    """
    options = "".join(
        f'<option value="{one.id}"{" selected" if other is not None and one.id == other.id else ""}>'
        f"{escape(one.label)}{' (global baseline)' if one.baseline else ''}</option>"
        for one in others
    )
    shown = (
        f"<p class='pf-note'>{escape(worst)}</p>"
        if isinstance(worst, str)
        else f'<ol class="pf-failures">{"".join(_failure(one, url) for one in worst)}</ol>'
        if worst
        else "<p class='pf-note'>No query failed: every AP is 1.</p>"
    )
    return (
        f'<section class="pf-doc pf-look" data-id="{chosen.id}" aria-label="The chosen configuration">'
        f"<h2>{escape(chosen.label)}</h2>{_numbers(chosen)}"
        f'<div class="pf-versus"><label class="pf-field is-wide"><span>Compared with</span>'
        f'<select data-do="compare">{options}</select></label>'
        f'<div role="status">{_compared(chosen, other, differences)}</div></div>'
        f"<h3>Worst failures</h3>{shown}"
        f"<h3>Object by object <small>the hardest first</small></h3>{_objects(parts)}</section>"
    )


def _numbers(chosen: Trial) -> str:
    wanted = (
        ("map", "mAP"),
        ("locscore", "LocScore"),
        ("mean_iou", "mean IoU"),
        ("recall@1", "top-1 correct"),
    )
    parts = []
    for name, title in wanted:
        if any(name not in row for row in chosen.mean.rows) or chosen.mean.of(name) is None:
            continue
        spread = f" <small>± {chosen.mean.spread(name) / 2:.3f}</small>" if chosen.seeds > 1 else ""
        parts.append(f"<div><dt>{title}</dt><dd>{chosen.mean.of(name):.3f}{spread}</dd></div>")
    parts.append(f"<div><dt>bytes per patch</dt><dd>{chosen['bytes_per_patch']:,}</dd></div>")
    parts.append(f"<div><dt>patches per picture</dt><dd>{chosen['patches']:,}</dd></div>")
    seeds = f"<div><dt>seeds averaged</dt><dd>{chosen.seeds}</dd></div>" if chosen.seeds > 1 else ""
    return f'<dl class="pf-numbers">{"".join(parts)}{seeds}</dl>'


def _compared(chosen: Trial, other: Trial | None, differences: Sequence[Difference]) -> str:
    if other is None or other.id == chosen.id:
        return "<p>Choose another configuration to compare this one with.</p>"
    return "".join(f"<p>{difference_in_words(difference)}</p>" for difference in differences) or (
        "<p>The two have no query with a score in common.</p>"
    )


def difference_in_words(found: Difference) -> str:
    """Whether the configuration looked into (B) is better than the other one (A), in a sentence."""
    interval = (
        f"{DEFAULTS.confidence:g} % interval {_signed(found.low)} to {_signed(found.high)}, {found.queries} queries"
    )
    numbers = f"<b>{_signed(found.difference)} {found.metric}</b> ({found.a:.3f} → {found.b:.3f}; {interval})"
    if found.low > 0:
        return f"This one is <b>better</b>: {numbers}."
    if found.high < 0:
        return f"This one is <b>worse</b>: {numbers}."
    if found.low == found.high == 0:
        return f"Both have the same {found.metric} for every query."
    return f"These queries show no difference: {numbers}."


def _signed(value: float) -> str:
    return f"{value:+.3f}" if round(value, 3) else "0.000"


def _objects(parts: Sequence[Part]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(part.name)}{f" <small>×{part.queries}</small>" if part.queries > 1 else ""}</th>'
        f"{_bar(part.ap, '')}{_bar(part.ls, ' is-loc')}</tr>"
        for part in parts
    )
    return (
        '<div class="pf-scroll is-objects" tabindex="0" role="region" aria-label="Scores of every object"><table '
        'class="pf-tbl pf-objects"><thead><tr><th scope="col">Object</th><th scope="col">AP</th><th scope="col">LocScore</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _bar(value: float | None, kind: str) -> str:
    if value is None:
        return "<td>–</td>"
    return (
        f'<td><span class="pf-meter{kind}"><i style="width:{100 * value:.1f}%"></i></span> <span class="pf-val">'
        f"{value:.3f}</span></td>"
    )


def _failure(one: ShownFailure, url: FileUrl) -> str:
    failure = one.failure
    name = escape(failure.name)
    rank = (
        "no picture that contains it was found"
        if failure.first_hit is None
        else "rank <b>1</b> is correct; the other matches come late"
        if failure.first_hit == 1
        else f"the first correct one is at rank <b>{failure.first_hit}</b>"
    )
    return (
        f'<li class="pf-failure v-{one.verdict}"><h4>{name} <span>AP {failure.ap:.3f}</span></h4>'
        f'<div class="pf-duo"><figure>{_picture(one.query, f"Query: {failure.name}", url, "pf-asked")}'
        f"<figcaption>Query</figcaption></figure>{_first(one, url)}</div>"
        f'<p>{rank[0].upper()}{rank[1:]}.</p><button type="button" class="pf-btn ghost" data-ask="{failure.query}" '
        f'aria-label="Open {name} in the Search tab">Open in Search</button></li>'
    )


def _first(one: ShownFailure, url: FileUrl) -> str:
    if one.first is None:
        return "<figure><figcaption>The top result is not in the file</figcaption></figure>"
    sign, said = WORDS[one.verdict]
    if one.verdict != WRONG:
        word = f"{sign} {said}" + ("" if one.iou is None else f", IoU {overlap(one.iou)}")
    else:
        holds = ", ".join(one.first.holds[:3]) + (" …" if len(one.first.holds) > 3 else "")
        word = f"{sign} contains {holds}" if holds else f"{sign} contains none of the objects"
    picture = _picture(one.first, f"Top result: {word[2:]}", url, "")
    return f"<figure>{picture}<figcaption>Top result: <b>{escape(word)}</b></figcaption></figure>"


def _picture(shown: Shown, alt: str, url: FileUrl, kind: str) -> str:
    box = "" if shown.box is None else place(shown.box, shown.width, shown.height)
    drawn = f'<span class="pf-box {kind}" style="{box}"></span>' if box else ""
    return (
        f'<span class="pf-pic" style="aspect-ratio:{shown.width}/{shown.height}"><img src="{escape(url(shown.path))}" '
        f'alt="{escape(alt)}" loading="lazy" width="{shown.width}" height="{shown.height}">{drawn}</span>'
    )
