"""The handout as HTML: black on white, sizes in millimetres, one A4 page when printed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from patchify_core.demo import stages
from patchify_core.demo.answers import Result
from patchify_core.demo.judging import RIGHT_IOU
from patchify_core.demo.walk import Walk, made_up
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import WORDS, FileUrl, overlap, place, signed

ROWS = 8
"""Lines of arithmetic and of the ranking that fit; what comes after them is summed up."""

STYLE = """
@page { size: A4; margin: 11mm 13mm; }
* { box-sizing: border-box; }
html { background: #fff; }
body { font: 9.4pt/1.36 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; color: #1c2430; margin: 0 auto; max-width: 184mm;
  -webkit-print-color-adjust: exact; print-color-adjust: exact; }
@media screen { body { padding: 11mm 0; } }
@media screen and (max-width: 720px) { body { padding: 5mm; } .steps, .real, .foot { display: block !important; } }
header { display: flex; justify-content: space-between; align-items: baseline; border-bottom: .6mm solid #1c2430; padding-bottom: 1.5mm; }
h1 { font-size: 17pt; margin: 0; letter-spacing: -.02em; line-height: 1.1; } header p { margin: 0; color: #566173; }
h2 { font-size: 11.5pt; margin: 3.4mm 0 1.2mm; } h3 { font-size: 9.6pt; margin: 0 0 .6mm; } p { margin: 0 0 1.2mm; }
.steps { display: grid; grid-template-columns: repeat(4, 1fr); gap: 5mm; } .steps p { margin: 0; }
.real { display: grid; grid-template-columns: 62mm 1fr; gap: 5mm; align-items: start; } .ranks { display: grid; grid-template-columns: repeat(8, 1fr); gap: 1.6mm; list-style: none; margin: 0; padding: 0; }
.ranks li { font-size: 7.6pt; line-height: 1.25; text-align: center; border-bottom: .8mm solid #b9c2d0; padding-bottom: .6mm; } .ranks .v-right { border-color: #1fbf6b; } .ranks .v-off { border-color: #ffab1f; } .ranks .v-wrong { border-color: #ff5252; }
.pic { position: relative; display: block; overflow: hidden; border-radius: 1mm; } .pic img { display: block; width: 100%; height: 100%; }
.cell { position: absolute; border: .2mm solid #fff; display: grid; place-items: center; } .cell b { font-size: 7.6pt; line-height: 1.2; background: rgba(14, 20, 32, .78); color: #fff; border-radius: .8mm; padding: 0 1mm; }
.cell.win { border: .9mm solid #ffb224; } .cell.win b { background: #ffb224; color: #1c1300; } .box { position: absolute; border: .5mm solid #ffb224; }
.wk-crop { position: relative; display: block; overflow: hidden; border-radius: 1mm; aspect-ratio: var(--ratio); width: min(100%, calc(32mm * var(--ratio))); } .wk-crop img { position: absolute; max-width: none; }
.wk-said q { font-size: 12pt; font-weight: 650; }
small, figcaption, .small { font-size: 8pt; color: #566173; line-height: 1.3; } figure { margin: 0; } figcaption { margin-top: .8mm; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; } th, td { border-bottom: .2mm solid #c9c5bb; padding: .55mm 1.6mm; text-align: right; font-weight: 400; }
thead th { font-size: 8pt; color: #566173; font-weight: 600; } tfoot td, tfoot th { font-weight: 700; border-bottom: 0; border-top: .4mm solid #1c2430; }
.foot { display: grid; grid-template-columns: 1fr 1fr; gap: 8mm; align-items: start; } .blanks td { height: 6.6mm; } .blanks td:empty { background: #f4f2ec; border-left: .6mm solid #fff; }
.answer { transform: rotate(180deg); font-size: 7.4pt; color: #566173; margin: 3mm 0 0; } .by { font-size: 7.4pt; color: #566173; margin: 2.4mm 0 0; border-top: .2mm solid #c9c5bb; padding-top: 1.2mm; }
"""


def handout_page(shown: Walk, url: FileUrl, small: FileUrl, exercise: tuple[int, Mapping[int, float]]) -> str:
    """The page.

    Args:
        shown: the walk of the query that it shows.
        url: gives a picture's address.
        small: the same for a thumbnail.
        exercise: pictures that contain the object, and rank -> IoU of those that were found.
    """
    name = escape(shown.name or shown.question.name)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Patchify: handout</title><style>{STYLE}</style></head><body><header><h1>Find an object, and where it is</h1><p>Patchify · handout</p></header>"
        f"<main>{_method(shown)}<h2>One real query: {name}</h2>{_query(shown, url)}{_ranking(shown, small)}"
        f'<div class="foot"><section>{_locscore(shown)}</section><section>{_exercise(*exercise)}</section></div>'
        f"{_answer(*exercise)}</main>{_by(shown)}</body></html>"
    )


def _method(shown: Walk) -> str:
    last = shown.stages[-1]
    grids = all(stages.grid_of(stage) for stage in shown.stages)
    cut = " + ".join(
        str(stage.patches - stages.patches_before(shown.stages, n)) for n, stage in enumerate(shown.stages, 1)
    )
    how = "cut into grids, from the whole picture down" if grids else "cut into patches"
    steps = (
        ("1 · Cut", f"Each gallery picture is {how}: {cut} = {last.patches} patches."),
        (
            "2 · Describe",
            f"A frozen network turns every patch, and the query, into {len(shown.question.descriptor):,} numbers of length 1.",
        ),
        (
            "3 · Compare",
            "Query times patch, number by number, summed: the cosine similarity. A picture’s score is that of its best patch.",
        ),
        ("4 · Rank", "Highest score first. The winning patch shows roughly where the object is."),
    )
    return (
        '<h2>The method in four steps</h2><div class="steps">'
        + "".join(f"<div><h3>{title}</h3><p>{escape(text)}</p></div>" for title, text in steps)
        + "</div>"
    )


def _query(shown: Walk, url: FileUrl) -> str:
    look = shown.look
    width, height = look.image.width, look.image.height
    winner = look.winners[shown.level - 1]
    number = stages.stage_of(shown.stages, winner)
    scores, boxes = look.explanation.scores, look.explanation.boxes
    cells = "".join(
        f'<span class="cell{" win" if cell == winner else ""}" style="{place(boxes[cell], width, height)}"><b>{signed(float(scores[cell]), 2)}</b></span>'
        for cell in range(stages.patches_before(shown.stages, number), shown.stages[number - 1].patches)
    )
    title = escape(stages.title(shown.stages, number))
    best = ", ".join(
        f"{escape(stages.title(shown.stages, n))} {signed(float(scores[stages.patches_before(shown.stages, n) : stage.patches].max()))}"
        for n, stage in enumerate(shown.stages, 1)
    )
    iou = look.result.iou
    fits = "" if iou is None else f" It overlaps the annotated box with IoU {overlap(iou)}."
    return (
        f'<div class="real"><div><figure>{query_crop(shown.question, url)}<figcaption>The query</figcaption></figure>'
        f'<p style="margin-top:2mm">Gallery picture {look.image.id}, rank {look.result.rank}. The best patch of each set: {best}.</p>'
        f"<p>The maximum, <b>{signed(float(scores[winner]))}</b>, is the score.{fits}</p></div>"
        f'<figure><span class="pic" style="aspect-ratio:{width}/{height};width:min(100%,calc(57mm*{width / height:.4f}))">'
        f'<img src="{escape(url(look.image.path))}" alt="Gallery picture {look.image.id}">{cells}</span>'
        f"<figcaption>The similarity of every patch of the {title}; the best one is framed.</figcaption></figure></div>"
    )


def _ranking(shown: Walk, url: FileUrl) -> str:
    def item(result: Result) -> str:
        image = shown.images[result.match.image_id]
        sign = WORDS[result.verdict][0]
        return (
            f'<li class="v-{result.verdict}"><span class="pic" style="aspect-ratio:{image.width}/{image.height}"><img src="{escape(url(image.path))}" alt="">'
            f'<span class="box" style="{place(result.match.box, image.width, image.height)}"></span></span>{result.rank} · <b>{signed(result.match.score)}</b> {sign}</li>'
        )

    items = "".join(item(result) for result in shown.answer.results[:ROWS])
    return (
        f"<h2>The ranking <small>of {shown.answer.pictures:,} pictures: ✓ match, good box (IoU ≥ {RIGHT_IOU:g}) · ≈ match, poor box · ✕ wrong object</small></h2>"
        f'<ol class="ranks">{items}</ol>'
    )


HEAD = "<thead><tr><th>Rank</th><th>Precision</th><th>IoU</th><th>Adds</th><th>Sum</th></tr></thead>"


def _locscore(shown: Walk) -> str:
    if shown.standing is None or shown.standing.score.locscore is None:
        return "<h2>LocScore</h2><p>The pictures of this object have no annotated boxes, so there is no LocScore.</p>"
    score = shown.standing.score
    lines = shown.standing.lines
    body = "".join(
        f"<tr><td>{line.row.rank}</td><td>{line.found}/{line.row.rank} = {line.row.precision:.3f}</td><td>{overlap(line.row.iou, 3)}</td>"
        f"<td>{line.row.contribution:.3f}</td><td>{line.row.running:.3f}</td></tr>"
        for line in lines[:ROWS]
    )
    if len(lines) > ROWS:
        rest = lines[-1].row.running - lines[ROWS - 1].row.running
        body += f"<tr><td>…</td><td colspan='2'>{len(lines) - ROWS} more</td><td>{rest:.3f}</td><td>{score.locscore:.3f}</td></tr>"
    return (
        f"<h2>LocScore: located correctly?</h2><p>{score.positives} pictures contain it. Each one found adds precision × IoU ÷ {score.divisor}.</p>"
        f"<table>{HEAD}<tbody>{body}</tbody><tfoot><tr><th colspan='4'>LocScore</th><td>{score.locscore:.3f}</td></tr></tfoot></table>"
        f'<p class="small" style="margin-top:1mm">Without the IoU the same sum is AP, average precision: {score.ap:.3f}.</p>'
    )


def _exercise(positives: int, hits: Mapping[int, float]) -> str:
    score = made_up(positives, hits)
    body = "".join(
        f"<tr><td>{row.rank}</td><td></td><td>{row.iou:.1f}</td><td></td><td></td></tr>" for row in score.rows()
    )
    ranks, lost = ", ".join(str(rank) for rank in hits), positives - len(hits)
    never = f"; {lost} not found" if lost else ""
    return (
        f"<h2>Your turn</h2><p>{positives} pictures contain an object. Found: ranks {ranks}{never}. Fill in the rest.</p>"
        f'<table class="blanks">{HEAD}<tbody>{body}</tbody><tfoot><tr><th colspan="4">LocScore</th><td></td></tr></tfoot></table>'
        '<p style="margin-top:1.4mm">And what would it be if every box were exact? <span class="small">(IoU = 1)</span></p>'
    )


def _answer(positives: int, hits: Mapping[int, float]) -> str:
    score: QueryScore = made_up(positives, hits)
    adds = " + ".join(f"{row.precision:.3f} × {row.iou:g}" for row in score.rows())
    return f'<p class="answer">Answer: ({adds}) ÷ {score.divisor} = {score.locscore:.3f}. With exact boxes it is AP, {score.ap:.3f}.</p>'


def _by(shown: Walk) -> str:
    return (
        '<p class="by">Method: Choi, Lim, Hyeon-Woo, Ye-Bin, Jeong, Hwang, Oh: Patch-wise Retrieval: A Bag of Practical Techniques for Instance-level '
        "Matching, WACV 2026, arXiv 2512.12610; an independent implementation. Numbers: method “"
        f"{escape(dict(shown.engines)[shown.question.engine])}”. Pictures: see the gallery’s ATTRIBUTION.md.</p>"
    )
