"""The Compression tab: choice of code size, and its effect on one query, the whole gallery and huge galleries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from markupsafe import Markup

from patchify_core.demo.compression import EXACT, MEMORY, Size, Stop, has_codebook, size_label
from patchify_core.demo.results import Answer
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
from patchify_core.web.views.evaluation import sources
from patchify_core.web.views.html import FileUrl, Sizes, render

LEGEND = 26
"""Height of the legend below a chart, in pixels."""

CHARTS = (("map", "mAP"), ("locscore", "LocScore"))
"""(key, title) of the scores that are drawn."""


def controls(
    stops: Sequence[Stop], factory: str, codebooks: Sequence[str], codebook: str, dim: int, codec: str, turn: int = 0
) -> str:
    """Render the choice of bytes per patch and of codebook.

    Args:
        stops: The sizes, the largest first.
        factory: Of the chosen size.
        codebooks: What a codec can be trained on.
        codebook: The chosen one.
        dim: Dimension of a descriptor.
        codec: Of the stored descriptors that the codes are made from, in words.
        turn: A new number whenever the browser must reset the choice.
    """
    return render(
        "controls",
        stops=stops,
        factory=factory,
        codebooks=codebooks,
        codebook=codebook,
        dim=dim,
        codec=codec,
        turn=turn,
        learns=has_codebook,
        EXACT=EXACT,
    )


def training(text: str, cancellable: bool = False) -> str:
    """Render the state of the training, with a button to cancel it if there is something to cancel."""
    return render("training", text=text, cancellable=cancellable)


@dataclass(frozen=True, eq=False)
class Effect:
    """The effect of a code size on one query.

    Attributes:
        name: Of the query.
        size: The chosen size in words.
        codec: Of the stored descriptors, in words.
        before: The answer from the stored descriptors.
        after: The answer from the chosen codes.
        rank_before: Image id -> rank in the first ranking.
        rank_after: Image id -> rank in the second one.
    """

    name: str
    size: str
    codec: str
    before: Answer
    after: Answer
    rank_before: Mapping[int, int]
    rank_after: Mapping[int, int]


def effect(shown: Effect, sizes: Sizes, url: FileUrl) -> str:
    """Render the first results before and after, with the changes of rank."""
    before, after = ([result.match.image_id for result in one.results] for one in (shown.before, shown.after))
    return render(
        "effect",
        shown=shown,
        sizes=sizes,
        url=url,
        kept=len(set(before) & set(after)),
        same=before == after,
        lost=lambda result: _lost(shown.rank_after.get(result.match.image_id), len(after)),
        moved=lambda result: _moved(shown.rank_before.get(result.match.image_id), result.rank),
    )


def _lost(rank: int | None, shown: int) -> tuple[str, str, str]:
    """Return sign, words and CSS class for a result of the first ranking."""
    if rank is None:
        return "gone", "no longer found", "is-lost"
    return (f"→ {rank}", f"now at rank {rank}", "is-lost") if rank > shown else ("", "", "")


def _moved(before: int | None, rank: int) -> tuple[str, str, str]:
    """Return sign, words and CSS class for a result of the second ranking."""
    if before == rank:
        return "=", "same rank", "is-kept"
    if before is None:
        return "new", "was not found before", "is-new"
    return (
        (f"▲ {before - rank}", f"was {before}", "is-up")
        if before > rank
        else (f"▼ {rank - before}", f"was {before}", "is-down")
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
    """Render charts of the whole gallery with the chosen size marked, and the memory that large galleries need.

    Args:
        studies: The files.
        dataset: The one whose codebooks are compared.
        stop: The chosen size.
        codebook: The chosen codebook.
        patches: Per picture.
        sizes: (exact, chosen) for several numbers of pictures.
        url: Address of a shipped file.
    """
    rows: Sequence[Mapping[str, Any]] = ()
    charts: list[Markup] = []
    books: list[Markup] = []
    if (study := studies.found.get("compression")) is not None:
        rows, mark = study.rows, float(stop.bytes_per_patch * patches)
        numbers = {"datasets": study.datasets, "rows": rows}
        for name, title in CHARTS:
            charts += _chart(f"{title} and size", patches, by_dataset(numbers, name), mark)
            books += _chart(f"{title} on {dataset}, by codebook", patches, by_codebook(numbers, name, dataset), mark)
    return render(
        "gallery",
        stop=stop,
        codebook=codebook,
        learned=has_codebook(stop.factory),
        patches=patches,
        sizes=sizes,
        problem=None if study else studies.problems["compression"],
        measured=_measured(rows, stop, codebook),
        charts=charts,
        books=books,
        **sources(studies, url, ["compression"]),
        in_bytes=size_label,
        MEMORY=MEMORY,
    )


def _chart(title: str, patches: int, lines: Sequence[ChartLine], mark: float) -> list[Markup]:
    """Draw a chart with the chosen size marked; none if the file has no such numbers."""
    try:
        group = line_chart(title, f"bytes per picture ({patches} patches)", lines, mark=mark)
    except PatchifyError:
        return []
    spoken = "; ".join(point[2] for line in lines for point in line.points)
    return [Markup(svg([group, legend(lines, HEIGHT + 14)], WIDTH, HEIGHT + LEGEND, f"{title}: {spoken}"))]


class _Measured(NamedTuple):
    """Mean scores of the chosen size on one dataset."""

    dataset: str
    map: float
    locscore: float | None


def _measured(rows: Sequence[Mapping[str, Any]], stop: Stop, codebook: str) -> list[_Measured]:
    """Return the scores of the chosen size on every dataset of the file."""
    measured = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        matching = [
            row
            for row in rows
            if row["dataset"] == dataset
            and row["factory"] == stop.factory
            and row["rescore"] is None
            and (row["codebook"] == codebook or not has_codebook(stop.factory))
            and row["map"] is not None
        ]
        if matching:
            places = [row["locscore"] for row in matching if row["locscore"] is not None]
            mean = sum(places) / len(places) if places else None
            measured.append(_Measured(dataset, sum(row["map"] for row in matching) / len(matching), mean))
    return measured
