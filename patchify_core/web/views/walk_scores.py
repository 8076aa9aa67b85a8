"""The last steps of the walk: all pictures ranked, LocScore as arithmetic, and look-alikes side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from patchify_core.demo.answers import Answer, Result
from patchify_core.demo.lookalikes import Pair, Side
from patchify_core.demo.walk import WORKED, Standing, Walk, worked_example
from patchify_core.evaluation.metrics import HitRow, QueryScore
from patchify_core.regions import Stage
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import WORDS, FileUrl, overlap, place, signed, verdict_text

# Step 5 -----------------------------------------------------------------------------------------------------


def ranking_step(shown: Walk, url: FileUrl) -> str:
    """The first pictures with their scores as bars, where the right ones stand, and the same for whole pictures."""
    title = "whole pictures" if shown.level == 1 and shown.whole else f"best of {_patches(shown.stages, shown.level)}"
    sides = f'<div class="wk-col"><h4>Each picture by its {escape(title)}{_ap(shown.answer)}</h4>{_list(shown.answer, shown, url)}</div>'
    button = ""
    if shown.whole is not None and shown.level > 1:
        sides += (
            f'<div class="wk-col wk-global" hidden><h4>Each picture as a whole, without patches{_ap(shown.whole)}</h4>'
            f"{_list(shown.whole, shown, url)}</div>"
        )
        button = (
            '<button type="button" class="pf-btn ghost" data-do="side" aria-pressed="false">'
            "Side by side with whole pictures</button>"
        )
    return (
        f'<div class="wk-head"><h3>All pictures are ranked by their best patch</h3>{button}</div>'
        f'<p class="wk-say">This is done for each of the {shown.answer.pictures:,} pictures, and the highest maximum comes first. '
        f"{_positives_in_words(shown.standing)}</p>{_where_positives_stand(shown.standing)}"
        f'<div class="wk-cols">{sides}</div>'
    )


def _patches(found: tuple[Stage, ...], level: int) -> str:
    patches = found[level - 1].patches
    return f"{patches} patches" if patches > 1 else "one patch"


def _ap(answer: Answer) -> str:
    if answer.score is None:
        return ""
    locscore = "" if answer.score.locscore is None else f" · LocScore {answer.score.locscore:.3f}"
    return f' <small class="wk-ap">AP {answer.score.ap:.3f}{locscore}</small>'


def _list(answer: Answer, shown: Walk, url: FileUrl) -> str:
    wrong = next((result.rank for result in answer.results if result.verdict == "wrong"), None)
    rows = "".join(_ranked(result, result.rank == wrong, shown, url) for result in answer.results)
    return f'<ol class="wk-ranks">{rows}</ol>'


def _ranked(result: Result, is_first_wrong: bool, shown: Walk, url: FileUrl) -> str:
    image = shown.images[result.match.image_id]
    share = 100 * min(1.0, max(0.0, result.match.score))
    said = "first wrong object" if is_first_wrong else verdict_text(result)
    return (
        f'<li class="v-{result.verdict}{" is-first-wrong" if is_first_wrong else ""}"><span class="wk-no">{result.rank}</span>'
        f'<span class="pf-pic wk-mini" style="aspect-ratio:{image.width}/{image.height}"><img src="{escape(url(image.path))}" alt="">'
        f'<span class="pf-box" style="{place(result.match.box, image.width, image.height)}"></span></span>'
        f'<span class="wk-track"><i style="width:{share:.2f}%"></i></span><b>{signed(result.match.score)}</b>'
        f'<span class="wk-verd"><span aria-hidden="true">{WORDS[result.verdict][0]}</span> {escape(said)}</span></li>'
    )


def _positives_in_words(standing: Standing | None) -> str:
    if standing is None:
        return "The object is not known, so the results are not judged."
    ranks = ", ".join(str(line.row.rank) for line in standing.lines)
    wrong = (
        "No picture is wrong."
        if standing.first_wrong is None
        else (
            f"The first wrong one is at rank <b>{standing.first_wrong.rank}</b> with {signed(standing.first_wrong.match.score)}."
        )
    )
    missing = standing.score.positives - len(standing.lines)
    lost = f" {missing} more contain it and were not found." if missing else ""
    return f"The pictures that contain the object are at rank <b>{ranks or '–'}</b>.{lost} {wrong}"


def _where_positives_stand(standing: Standing | None) -> str:
    """Every rank as a line, those of positives in colour."""
    if standing is None:
        return ""
    total = standing.counted
    hits = "".join(
        f'<i class="v-{line.result.verdict}" style="left:{100 * (line.row.rank - 1) / total:.3f}%;width:max(3px,{100 / total:.3f}%)"></i>'
        for line in standing.lines
    )
    return (
        f'<div class="wk-line" role="img" aria-label="Ranks of the {standing.score.positives} pictures that contain the object, of {total}">'
        f"<span>1</span><div>{hits}</div><span>{total}</span></div>"
    )


# Step 6 -----------------------------------------------------------------------------------------------------


def locscore_step(shown: Walk, url: FileUrl) -> str:
    """LocScore line by line: of the visitor's own question, and of the worked example."""
    own = _own_arithmetic(shown, url)
    tabs = [("own", "Your query"), ("worked", "A worked example")]
    which = "own" if shown.standing is not None else "worked"
    buttons = "".join(
        f'<button type="button" class="pf-tab" data-sum="{name}" aria-pressed="{str(name == which).lower()}">{label}</button>'
        for name, label in tabs
    )
    return (
        "<h3>LocScore: was it found, and was it found in the right place?</h3>"
        '<p class="wk-say">Go down the ranking. At each picture that contains the object, multiply the share of correct pictures so far '
        "(<b>precision</b>) by how well the box fits (<b>IoU</b>: overlap ÷ union). Add up, and divide by the number of "
        "pictures that contain it.</p>"
        f'<div class="wk-sums"><div class="wk-grids" role="group" aria-label="Whose arithmetic">{buttons}</div>{_ways(shown)}</div>'
        f'<div data-sum-of="own"{"" if which == "own" else " hidden"}>{own}</div>'
        f'<div data-sum-of="worked"{"" if which == "worked" else " hidden"}>{worked()}</div>'
    )


def _ways(shown: Walk) -> str:
    if shown.standing is None or len(shown.ways) < 2:
        return ""
    options = "".join(
        f'<option value="{name}"{" selected" if name == shown.way else ""}>{escape(label)}</option>'
        for name, label in shown.ways
    )
    return f'<label class="pf-field wk-way"><span>Box</span><select data-do="way">{options}</select></label>'


def _own_arithmetic(shown: Walk, url: FileUrl) -> str:
    standing = shown.standing
    if standing is None:
        why = (
            "The object is not known. Choose it in the Search tab under “Which object is it?” to see its arithmetic here."
            if shown.name is None
            else f"No picture of the gallery is annotated with {escape(shown.name)}, so there is nothing to add up."
        )
        return f'<p class="wk-missing">{why} The worked example shows how it is done.</p>'
    pictures = []
    for line in standing.lines:
        image = shown.images[line.result.match.image_id]
        true = "".join(
            f'<span class="pf-true" style="{place(box, image.width, image.height)}"></span>'
            for box in line.result.annotated
        )
        pictures.append(
            f'<span class="pf-pic wk-mini v-{line.result.verdict}" style="aspect-ratio:{image.width}/{image.height}">'
            f'<img src="{escape(url(image.path))}" alt="Gallery picture {image.id}" loading="lazy">{true}'
            f'<span class="pf-box" style="{place(line.result.match.box, image.width, image.height)}"></span></span>'
        )
    left = ""
    if standing.left_out:
        left = f" {standing.left_out} of the gallery’s pictures {'is' if standing.left_out == 1 else 'are'} not counted (the query itself, or the object is hardly visible); ranks leave them out."
    return sums(standing.score, pictures) + (
        f'<p class="wk-say">The Search tab shows this number for the same patches and boxes.{left}</p>'
    )


def worked() -> str:
    """The worked example, by the same calls as every other score."""
    positives, hits = WORKED
    said = " and ".join(f"rank {rank} with IoU {iou:g}" for rank, iou in hits.items())
    return (
        f'<p class="wk-say">{positives} pictures contain the object. {len(hits)} of them were found: at {said}. '
        f"The other {positives - len(hits)} was not found and adds nothing.</p>{sums(worked_example(), [])}"
    )


def sums(score: QueryScore, pictures: Sequence[str]) -> str:
    """The arithmetic as a table: a row a positive, then the sums.

    Args:
        score: its rows.
        pictures: a picture a row, or none at all.
    """
    rows = score.rows()
    body = "".join(
        f'<tr><th scope="row" class="is-num">{row.rank}</th>{f"<td>{pictures[n]}</td>" if pictures else ""}'
        f'<td class="wk-yes wk-holds"><span aria-hidden="true">✓</span> yes</td>{_numbers(row, n + 1)}</tr>'
        for n, row in enumerate(rows)
    )
    missing = score.positives - len(rows)
    if missing:
        body += (
            f'<tr class="wk-lost"><th scope="row" class="is-num">–</th>{"<td>–</td>" if pictures else ""}<td class="wk-holds">yes</td>'
            f'<td class="is-num">{missing} never found</td><td></td><td class="is-num">0</td><td></td><td></td></tr>'
        )
    # The column that says who holds it gives way on a phone, and with it one cell of these rows.
    label = f'<th scope="row" colspan="{3 if pictures else 2}">'
    gap = '<td class="wk-holds"></td><td></td><td></td>'
    picture = '<th scope="col">Picture</th>' if pictures else ""
    return (
        '<div class="wk-scroll" tabindex="0" role="group" aria-label="LocScore line by line"><table class="pf-tbl wk-table"><thead><tr>'
        f'<th scope="col" class="is-num">Rank</th>{picture}<th scope="col" class="wk-holds">Contains it?</th>'
        '<th scope="col" class="is-num">Precision <small>correct so far ÷ rank</small></th><th scope="col" class="is-num">IoU <small>of the box</small></th>'
        f'<th scope="col" class="is-num">Adds <small>precision × IoU ÷ {score.divisor}</small></th><th scope="col" class="is-num">Sum so far</th>'
        '<td class="wk-barhead" aria-hidden="true"><span>0</span><span>1</span></td></tr></thead>'
        f"<tbody>{body}</tbody><tfoot>"
        f'<tr>{label}LocScore</th>{gap}<td class="is-num"><b class="wk-total">{_three(score.locscore)}</b></td><td></td></tr>'
        f'<tr>{label}AP <small>the same without the IoU</small></th>{gap}<td class="is-num"><b class="wk-total-ap">{score.ap:.3f}</b></td>{_ap_bar(score)}</tr>'
        "</tfoot></table></div>"
    )


def _numbers(row: HitRow, found: int) -> str:
    if math.isnan(row.iou):
        return f'<td class="is-num">{found}/{row.rank}<span class="wk-dec"> = {row.precision:.3f}</span></td><td class="is-num">no box</td><td></td><td></td><td></td>'
    return (
        f'<td class="is-num">{found}/{row.rank}<span class="wk-dec"> = {row.precision:.3f}</span></td><td class="is-num">{overlap(row.iou, 3)}</td>'
        f'<td class="is-num" data-v="{row.contribution!r}">{row.contribution:.3f}</td><td class="is-num" data-v="{row.running!r}">'
        f"<b>{_three(row.running)}</b></td>{_sum_bar(row)}"
    )


def _ap_bar(score: QueryScore) -> str:
    return f'<td class="wk-sumbar" aria-hidden="true"><span><i style="width:{100 * score.ap:.2f}%"></i></span></td>'


def _sum_bar(row: HitRow) -> str:
    """The sum so far, from 0 to 1, with what this row adds at its end."""
    before = 100 * (row.running - row.contribution)
    return (
        f'<td class="wk-sumbar" aria-hidden="true"><span><i style="width:{before:.2f}%"></i>'
        f'<i class="new" style="left:{before:.2f}%;width:{100 * row.contribution:.2f}%"></i></span></td>'
    )


def _three(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


# Look-alikes ------------------------------------------------------------------------------------------------


def pair_step(pair: Pair, level: int, found: tuple[Stage, ...], url: FileUrl) -> str:
    """The query object and its look-alike, each in its best picture."""
    names = {instance: name for instance, name, _ in pair.among.members}
    asked = "".join(
        f'<button type="button" class="pf-tab" data-set="{pair.number}" data-asked="{instance}" '
        f'aria-pressed="{str(instance == pair.asked).lower()}">{escape(name)}</button>'
        for instance, name in names.items()
    )
    title = _patches(found, level)
    return (
        f"<h3>{escape(pair.among.title)}: can it tell them apart?</h3>"
        '<p class="wk-say">They look alike, so a wrong picture comes close. Choose one as the query; beside it are the best picture '
        "that contains it, and the best one that shows only a look-alike.</p>"
        f'<div class="wk-sums"><div class="wk-grids" role="group" aria-label="Query object">{asked}</div>'
        f'<button type="button" class="pf-btn ghost" data-search="{pair.question.example}">Use this query in Search</button></div>'
        f'<div class="wk-pair"><figure class="wk-pairquery"><figcaption><b>Query</b> {escape(names[pair.asked])}</figcaption>{query_crop(pair.question, url)}</figure>'
        f"{_side(pair.right, 'v-right', '✓', 'the same object', title, url)}{_side(pair.other, 'v-wrong', '✕', 'a look-alike', title, url)}</div>{_margin(pair)}"
    )


def _side(side: Side | None, kind: str, sign: str, what: str, patches: str, url: FileUrl) -> str:
    if side is None:
        return f'<figure class="{kind}"><figcaption>No picture shows {what} alone.</figcaption></figure>'
    image = side.image
    whole = "" if side.whole is None else f"<div><dt>Whole picture</dt><dd>{signed(side.whole)}</dd></div>"
    return (
        f'<figure class="wk-pairside {kind}"><figcaption><b class="wk-verdict"><span aria-hidden="true">{sign}</span> {what}</b> {escape(", ".join(side.shows))}, rank {side.rank}</figcaption>'
        f'<span class="pf-pic" style="--ratio:{image.width / image.height:.5f};aspect-ratio:{image.width}/{image.height}"><img src="{escape(url(image.path))}" alt="Gallery picture {image.id}">'
        f'<span class="pf-box" style="{place(side.match.box, image.width, image.height)}"></span></span>'
        f'<dl class="wk-facts"><div><dt>Best of {patches}</dt><dd>{signed(side.match.score)}</dd></div>{whole}</dl></figure>'
    )


def _margin(pair: Pair) -> str:
    if pair.right is None or pair.other is None:
        return ""
    by_patch = pair.right.match.score - pair.other.match.score
    text = f"With patches the correct picture is <b>{abs(by_patch):.3f} {'ahead' if by_patch > 0 else 'behind'}</b>."
    if pair.right.whole is not None and pair.other.whole is not None:
        by_whole = pair.right.whole - pair.other.whole
        text += (
            f" The same two pictures compared as wholes: {abs(by_whole):.3f} {'ahead' if by_whole > 0 else 'behind'}."
        )
    return f'<p class="wk-say">{text}</p>'
