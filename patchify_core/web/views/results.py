"""What is found: the result cards and the strip of scores above them."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

from patchify_core.demo import stages
from patchify_core.demo.answers import Answer, Result
from patchify_core.demo.locating import BOXES
from patchify_core.demo.reranking import NAMES as RERANKERS
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.web.views.html import WORDS, FileUrl, boxes, count, legend, overlap, signed, verdict_text


def cards(answer: Answer, sizes: Callable[[int], tuple[int, int, Path]], url: FileUrl) -> str:
    """The result cards; `sizes` gives width, height and file of a gallery picture."""
    items = "".join(_card(result, sizes(result.match.image_id), url) for result in answer.results)
    return f'<ol class="pf-cards" aria-label="Results, best first">{items}</ol>'


def _card(result: Result, size: tuple[int, int, Path], url: FileUrl) -> str:
    match, (width, height, path) = result.match, size
    icon, word = WORDS[result.verdict]
    fits = "" if result.iou is None else f"IoU {overlap(result.iou)}"
    agreed = "" if match.verification is None else count(match.verification.inliers, "inlier")
    said = f"Rank {result.rank}, score {signed(match.score)}, {verdict_text(result)}{', ' if agreed else ''}{agreed}"
    return (
        f'<li class="pf-card v-{result.verdict}"><button type="button" class="pf-open" data-open="{match.image_id}" '
        f'aria-label="{escape(said)}. Open it.">'
        f'<span class="pf-pic" style="aspect-ratio:{width}/{height}">'
        f'<img src="{escape(url(path))}" alt="" width="{width}" height="{height}">'
        f"{boxes(result, width, height)}"
        f'<span class="pf-rank">{result.rank}</span>'
        + (f'<span class="pf-inliers">{agreed}</span>' if agreed else "")
        + f'</span><span class="pf-cap"><span class="pf-score">{signed(match.score)}</span>'
        f'<span class="pf-iou">{fits}</span>'
        f'<span class="pf-verdict"><b aria-hidden="true">{icon}</b> {escape(word)}</span></span></button>'
        f'<button type="button" class="pf-again" data-again="{match.image_id}" '
        f'title="Search with this picture" aria-label="Search with result {result.rank}">⌕</button></li>'
    )


def strip(
    answer: Answer, object_name: str | None, in_words: bool = False, own: bool = False, private: bool = False
) -> str:
    """AP and LocScore of this query: as shown, before re-ranking, and for whole pictures; or what is needed for them.

    Args:
        answer: what was found.
        object_name: the object, if it is known.
        in_words: whether the query is words.
        own: whether the pictures are the visitor's own, of which only some have boxes.
        private: whether the query or the pictures are the visitor's own, so that no link leads to them.
    """
    shown, kind = len(answer.results), " data-private" if private else ""
    if answer.score is None:
        note = (
            f"No score yet: draw a box around {'it' if object_name else 'the object'} on at least two pictures under <b>Your pictures</b>."
            if own
            else "No score: no gallery picture is annotated with this object."
            if object_name
            else f"<b>Not scored.</b> If your {'words mean' if in_words else 'picture shows'} one of the bundled objects, choose it under "
            "“Which object is it?” to see AP and LocScore."
        )
        return (
            f'<div class="pf-strip is-empty"{kind}><p>{note}</p>'
            f"<p class='pf-sum' role='status'>Top {shown} of {answer.pictures:,} gallery pictures.</p>{_key(answer)}{_what_is_locscore()}</div>"
        )
    return (
        f'<div class="pf-strip"{kind}><table><caption class="pf-sr">Scores of this query</caption><thead><tr>'
        f'<td></td><th scope="col">AP <small>ranked first?</small></th>'
        f'<th scope="col">LocScore <small>and located correctly?</small></th></tr></thead><tbody>{_rows(answer)}</tbody></table>'
        f'<div class="pf-side"><p class="pf-sum" role="status"><b>{answer.found}</b> of the top {shown} contain the '
        f"{escape(object_name or 'object')} ({answer.score.positives} of {answer.pictures:,} pictures do).{_scored_at(answer)}{' Pictures without a box of it count as wrong.' if own else ''}{_unmoved(answer)}</p>"
        f'<p class="pf-sum">{_best_possible(answer)}</p>{_key(answer)}{_what_is_locscore()}</div></div>'
    )


def _rows(answer: Answer) -> str:
    """The rows of the table: as shown, with the winning patches' boxes, before re-ranking, and whole pictures."""
    assert answer.score is not None
    patches = f"<small>{escape(stages.summary(answer.stages, answer.level).removesuffix(' each'))}</small>"
    grid = f"Patchify {patches}"
    ceiling = answer.ceiling or 0.0
    if answer.reranker is None:
        if answer.winning is None:
            rows = _score_row(grid, answer.score, ceiling, "ours")
        else:
            # A refined box can be better than any patch.
            rows = _score_row(f"{BOXES[answer.way].capitalize()}es {patches}", answer.score, None, "ours")
            paper = " <small>as in the paper</small>" if answer.paper else ""
            rows += _score_row(f"Winning patches{paper}", answer.winning, ceiling, "plain")
    else:
        name = f"Re-ranked <small>by {escape(RERANKERS[answer.reranker])}</small>"
        rows = _score_row(name, answer.score, None, "ours")  # points can give better boxes than any patch
        if answer.winning is not None:
            rows += _score_row("Same ranking <small>not refined</small>", answer.winning, None, "plain")
        if answer.plain is not None:
            rows += _score_row(grid, answer.plain, ceiling if answer.winning is None else None, "plain")
    if answer.baseline is not None:
        rows += _score_row("Global baseline <small>whole pictures</small>", answer.baseline, None, "base")
    return rows


def _best_possible(answer: Answer) -> str:
    if answer.ceiling is None:
        return "No LocScore: some picture that contains the object has no annotated box."
    gridded = stages.grid_of(answer.stages[answer.level - 1]) is not None
    kind = "grid" if gridded and not answer.reranker else "patch"
    return f"Upper bound for {kind} boxes: <b>{answer.ceiling:.2f}</b>"


def _scored_at(answer: Answer) -> str:
    return f" Scores are of the first {answer.ranked:,}." if answer.ranked else ""


def _unmoved(answer: Answer) -> str:
    """Said where a re-ranker changed nothing, which else looks as if it had not run."""
    if not answer.unmoved or answer.reranker is None:
        return ""
    return f" Re-ranking by {escape(RERANKERS[answer.reranker])} left every picture at its rank."


def _key(answer: Answer) -> str:
    """Which box is which, where there are two kinds."""
    if not any(result.moved for result in answer.results):
        return ""
    points = any(result.by_points for result in answer.results)
    names = " or ".join(filter(None, (BOXES.get(answer.way, ""), "box by points" if points else "")))
    others = any(len(result.match.others) for result in answer.results)
    return legend([("win", names), *([("oth", "further object")] if others else []), ("pat", "winning patch")])


def _score_row(name: str, score: QueryScore, ceiling: float | None, kind: str) -> str:
    mark = "" if ceiling is None else f'<i class="pf-ceil" style="left:{100 * ceiling:.1f}%"></i>'
    located = (
        '<span class="pf-num" title="Some picture that contains the object has no annotated box.">–</span>'
        if score.locscore is None
        else f'<span class="pf-num">{score.locscore:.3f}</span>{_bar(score.locscore, mark)}'
    )
    return (
        f'<tr class="{kind}"><th scope="row">{name}</th>'
        f'<td><span class="pf-num">{score.ap:.3f}</span>{_bar(score.ap, "")}</td>'
        f"<td>{located}</td></tr>"
    )


def _bar(value: float, mark: str) -> str:
    return f'<span class="pf-bar" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i>{mark}</span>'


def _what_is_locscore() -> str:
    return (
        '<details class="pf-what"><summary>What is LocScore?</summary><div>'
        "<p>Go down the ranking. At each picture that contains the object, take the share of correct pictures so far "
        "(<b>precision</b>) and multiply it by how well the box covers the object (<b>IoU</b>: overlap ÷ union, 0 to 1). "
        "Add these up and divide by the number of pictures that contain it.</p>"
        "<p>Without the IoU that is <b>AP</b>, average precision. LocScore also requires the right "
        "place, so it is never larger than AP. Whole-picture search can only box the whole picture, and winning patches only "
        "cells of the grid; a refined box has no such limit.</p>"
        "<p class='pf-eg'>3 pictures contain it; found at ranks 2 and 5 with IoU 0.6 and 0.3: "
        "AP = (½ + ⅖) ÷ 3 = 0.30, LocScore = (½ × 0.6 + ⅖ × 0.3) ÷ 3 = 0.14.</p></div></details>"
    )
