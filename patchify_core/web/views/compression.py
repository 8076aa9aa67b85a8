"""The Compression tab: choice of size, what it does to one visitor's results, to the whole gallery, and to millions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from patchify_core.demo.answers import Answer, Result
from patchify_core.demo.codecs import EXACT, Stop, learns
from patchify_core.demo.sizes import MEMORY, Size, words
from patchify_core.demo.studies import Studies
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.chart import (
    HEIGHT,
    WIDTH,
    ChartLine,
    by_codebook,
    by_dataset,
    legend,
    line_chart,
    svg,
)
from patchify_core.web.views.html import WORDS, FileUrl, place, verdict_text
from patchify_core.web.views.trials import code, sources

LEGEND = 26
"""Pixels below a chart for the names of its lines."""


def controls(
    stops: Sequence[Stop], factory: str, codebooks: Sequence[str], codebook: str, dim: int, kept_as: str, turn: int = 0
) -> str:
    """The choice of bytes a patch and of codebook.

    Args:
        stops: the sizes, the largest first.
        factory: the chosen one's.
        codebooks: what a codec may be trained on.
        codebook: the chosen one.
        dim: numbers of a descriptor.
        kept_as: how the page keeps the descriptors that all this is made from.
        turn: a number that is new whenever the choice must be put back.
    """
    sizes = "".join(
        f'<label><input type="radio" name="pf-bytes" value="{escape(stop.factory)}" data-learns="{int(learns(stop.factory))}"'
        f"{' checked' if stop.factory == factory else ''}><span><b>{stop.bytes_per_patch:,}</b> "
        f"<small>{'exact' if stop.factory == EXACT else escape(stop.factory)}</small></span></label>"
        for stop in stops
    )
    books = "".join(
        f'<label><input type="radio" name="pf-book" value="{escape(name)}"{" checked" if name == codebook else ""}>'
        f"<span>{escape(name)}</span></label>"
        for name in codebooks
    )
    off = "" if learns(factory) else " disabled"
    return (
        f'<section class="pf-doc pf-lab" data-turn="{turn}"><h2>How small can it be?</h2>'
        f"<p class='pf-lead'>Every patch is {dim:,} numbers, {4 * dim:,} bytes. Choose fewer bytes to see the effect on "
        "your query, on the whole gallery, and on the size of a gallery of millions.</p>"
        f'<div class="pf-controls"><fieldset class="pf-seg is-sizes"><legend>Bytes per patch</legend><div>{sizes}</div></fieldset>'
        f'<fieldset class="pf-seg is-books"{off}><legend>Codebook trained on</legend><div>{books}</div></fieldset></div>'
        '<details class="pf-fold"><summary>What is a codebook?</summary><p>A descriptor is cut into short pieces, and each '
        "piece is replaced by the number of the most similar <b>word</b> of a learned list, the codebook. Its words depend on "
        "what it was trained on: <i>global</i> knows whole pictures alone, <i>uniform</i> any patches; the others choose "
        "patches that differ from each other or from what other pictures show. Sizes without a codebook (exact, SQ) have "
        "no such choice. <code>PCAH128</code>: the numbers are reduced to 128 first.</p>"
        f"<p>Computed live from this page’s stored descriptors ({escape(kept_as)}); the charts below are from the original "
        "float32 descriptors.</p></details></section>"
    )


def training(text: str, cancellable: bool = False) -> str:
    """What is going on, with a button to stop it."""
    button = '<button type="button" class="pf-btn ghost" data-do="cancel">Cancel</button>' if cancellable else ""
    turning = '<i aria-hidden="true"></i>' if cancellable else ""
    seconds = '<span class="pf-sec" aria-hidden="true"></span>' if cancellable else ""
    return f'<div class="pf-training">{turning}<p role="status">{escape(text)}</p>{seconds}{button}</div>'


@dataclass(frozen=True, eq=False)
class Effect:
    """What a size does to one question.

    Attributes:
        name: what is asked.
        size: the chosen size in words.
        kept_as: how the page ships the descriptors, in words.
        before: as the page answers it.
        after: with the chosen codes.
        rank_before: rank of every picture before.
        rank_after: and after.
    """

    name: str
    size: str
    kept_as: str
    before: Answer
    after: Answer
    rank_before: Mapping[int, int]
    rank_after: Mapping[int, int]


def effect(found: Effect, sizes: Callable[[int], tuple[int, int, Path]], url: FileUrl) -> str:
    """The first results before and after, one below the other, with what moved."""
    before, after = found.before.results, found.after.results
    first = {result.match.image_id for result in before}
    kept = sum(result.match.image_id in first for result in after)
    same = [result.match.image_id for result in before] == [result.match.image_id for result in after]
    summary = (
        f"The top {len(before)} are the <b>same, in the same order</b>."
        if same
        else f"<b>{kept}</b> of the top {len(before)} are still there."
    )
    old = "".join(
        _card(result, sizes, url, _lost(found.rank_after.get(result.match.image_id), len(after))) for result in before
    )
    new = "".join(
        _card(result, sizes, url, _moved(found.rank_before.get(result.match.image_id), result.rank)) for result in after
    )
    return (
        f'<section class="pf-doc pf-effect"><h3>Your query: {escape(found.name)}</h3>'
        f'<p class="pf-lead" role="status">{summary} {_scores(found)}</p>'
        f'<div class="pf-sides"><div><h4>Stored: {escape(found.kept_as)}</h4><ol class="pf-minis" aria-label="Results with the stored descriptors">{old}'
        f'</ol></div><div><h4>{escape(found.size)}</h4><ol class="pf-minis" aria-label="Results at the chosen size">{new}</ol>'
        "</div></div></section>"
    )


def _scores(found: Effect) -> str:
    a, b = found.before.score, found.after.score
    if a is None or b is None:
        return "Not scored: choose the object in the Search tab."
    text = f"AP {a.ap:.3f} → <b>{b.ap:.3f}</b>"
    if a.locscore is not None and b.locscore is not None:
        text += f", LocScore {a.locscore:.3f} → <b>{b.locscore:.3f}</b>"
    return text + "."


def _lost(rank: int | None, shown: int) -> tuple[str, str, str]:
    """Sign, words and class for a former result: is it still there?"""
    if rank is None:
        return "gone", "no longer found", "is-lost"
    return (f"→ {rank}", f"now at rank {rank}", "is-lost") if rank > shown else ("", "", "")


def _moved(before: int | None, rank: int) -> tuple[str, str, str]:
    if before == rank:
        return "=", "same rank", "is-kept"
    if before is None:
        return "new", "was not found before", "is-new"
    return (
        (f"▲ {before - rank}", f"was {before}", "is-up")
        if before > rank
        else (f"▼ {rank - before}", f"was {before}", "is-down")
    )


def _card(
    result: Result, sizes: Callable[[int], tuple[int, int, Path]], url: FileUrl, moved: tuple[str, str, str]
) -> str:
    width, height, path = sizes(result.match.image_id)
    sign, said, kind = moved
    icon = WORDS[result.verdict][0]
    label = f"Rank {result.rank}, {verdict_text(result)}{', ' + said if said else ''}"
    move = f'<span class="pf-move {kind}" title="{escape(said)}">{escape(sign)}</span>' if sign else ""
    return (
        f'<li class="pf-mini v-{result.verdict}" data-image="{result.match.image_id}" title="{escape(label)}">'
        f'<span class="pf-pic" style="aspect-ratio:{width}/{height}"><img src="{escape(url(path))}" alt="{escape(label)}" '
        f'loading="lazy" width="{width}" height="{height}"><span class="pf-box" '
        f'style="{place(result.match.box, width, height)}"></span><span class="pf-rank">{result.rank}</span></span>'
        f'<span class="pf-minicap" aria-hidden="true"><b>{icon}</b>{move}</span></li>'
    )


def gallery(
    studies: Studies,
    dataset: str,
    stop: Stop,
    codebook: str,
    patches: int,
    sizes: Sequence[tuple[Size, Size]],
    url: FileUrl,
) -> str:
    """Charts of the whole gallery with the chosen size marked, and what millions of pictures would take.

    Args:
        studies: the files.
        dataset: whose codebooks are compared.
        stop: the chosen size.
        codebook: the chosen codebook.
        patches: a picture.
        sizes: (exact, chosen) for some numbers of pictures.
        url: address of a shipped file.
    """
    return f'<section class="pf-doc pf-scale">{_charts(studies, dataset, stop, codebook, patches, url)}{_table(stop, patches, sizes)}</section>'


def _charts(studies: Studies, dataset: str, stop: Stop, codebook: str, patches: int, url: FileUrl) -> str:
    head = "<h3>The whole gallery</h3>"
    if "compression" not in studies.found:
        return f'{head}<p class="pf-note is-missing">{code(studies.problems["compression"])}</p>'
    study = studies.found["compression"]
    numbers = {"datasets": study.datasets, "rows": study.rows}
    mark = float(stop.bytes_per_patch * patches)
    where = f"bytes per picture ({patches} patches)"
    parts = [
        _chart(f"{title} and size", where, by_dataset(numbers, name), mark)
        for name, title in (("map", "mAP"), ("locscore", "LocScore"))
    ]
    books = [
        _chart(f"{title} on {dataset}, by codebook", where, by_codebook(numbers, name, dataset), mark)
        for name, title in (("map", "mAP"), ("locscore", "LocScore"))
    ]
    return (
        f'{head}<p class="pf-lead">{_measured(study.rows, stop, codebook)}</p><div class="pf-charts">{"".join(parts)}</div>'
        + (
            "<h3>What the codebook was trained on</h3><p class='pf-lead'>The same bytes and the same codec, with 16 words per piece; "
            f"only the training patches differ. Means over seeds.</p><div class='pf-charts'>{''.join(books)}</div>"
            if any(books)
            else ""
        )
        + sources(studies, url, ["compression"])
    )


def _chart(title: str, x_title: str, lines: Sequence[ChartLine], mark: float) -> str:
    try:
        group = line_chart(title, x_title, "", lines, mark=mark)
    except PatchifyError:  # nothing of this kind in the file
        return ""
    spoken = "; ".join(point[2] for line in lines for point in line.points)
    return f"<figure>{svg([group, legend(lines, HEIGHT + 14)], WIDTH, HEIGHT + LEGEND, f'{title}: {spoken}')}</figure>"


def _measured(rows: Sequence[Mapping[str, Any]], stop: Stop, codebook: str) -> str:
    """The chosen size on every dataset of the file, in a sentence."""
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        found = [
            row
            for row in rows
            if row["dataset"] == dataset
            and row["factory"] == stop.factory
            and row["rescore"] is None
            and (row["codebook"] == codebook or not learns(stop.factory))
            and row["map"] is not None
        ]
        if found:
            mean = sum(row["map"] for row in found) / len(found)
            loc = [row["locscore"] for row in found if row["locscore"] is not None]
            more = f", LocScore {sum(loc) / len(loc):.3f}" if loc else ""
            parts.append(f"{escape(dataset)} mAP <b>{mean:.3f}</b>{more}")
    size = f"At {stop.bytes_per_patch:,} bytes per patch ({escape(stop.factory)}{f', {escape(codebook)}' if learns(stop.factory) else ''})"
    if not parts:
        return f"{size} nothing was measured with this codebook; the dotted line shows the size only."
    return f"{size}: {'; '.join(parts)}. The dotted line is this size; the first two charts show codecs of up to 256 words per piece, trained on uniform patches."


def _table(stop: Stop, patches: int, sizes: Sequence[tuple[Size, Size]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{small.pictures:,} pictures</th><td>{_size(exact, patches)}</td><td class="ours">{_size(small, patches)}</td>'
        f"</tr>"
        for exact, small in sizes
    )
    exact_bytes = sizes[0][0].bytes_per_patch
    return (
        "<h3>Ten thousand, a million, ten million pictures</h3>"
        f"<p class='pf-lead'>Computed, not measured: pictures × {patches} patches × bytes per patch, plus what is learned once "
        f"(projection and codebook). ✓ fits in {words(MEMORY)} of memory, ✕ does not. File names, boxes and FAISS’s own lists "
        "come on top.</p>"
        '<div class="pf-scroll is-plain" tabindex="0" role="region" aria-label="Size of large galleries"><table class="pf-tbl pf-millions">'
        f'<thead><tr><th scope="col">Gallery</th><th scope="col">exact, {exact_bytes:,} B</th><th scope="col" class="ours">'
        f"chosen, {stop.bytes_per_patch:,} B</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _size(size: Size, patches: int) -> str:
    fits = "✓" if size.fits else "✕"
    said = "fits" if size.fits else "does not fit"
    more = f" + {words(size.overhead)}" if size.overhead else ""
    sum_ = f"<small>{size.pictures:,} × {patches} × {size.bytes_per_patch:,} B{more}</small>"
    return f'<span class="pf-fits {"is-yes" if size.fits else "is-no"}"><b>{words(size.total)}</b> <i aria-hidden="true">{fits}</i><span class="pf-sr"> {said} in {words(MEMORY)}</span></span>{sum_}'
