"""The Compression tab: choice of size, what it does to one visitor's results, to the whole gallery, and to millions."""

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
from patchify_core.web.views.html import FileUrl, Sizes, render
from patchify_core.web.views.trials import code, sources

LEGEND = 26
"""Pixels below a chart for the names of its lines."""

CHARTS = (("map", "mAP"), ("locscore", "LocScore"))
"""What is drawn, and its name."""


def controls(
    stops: Sequence[Stop], factory: str, codebooks: Sequence[str], codebook: str, dim: int, kept_as: str, turn: int = 0
) -> str:
    """The choice of bytes per patch and of codebook.

    Args:
        stops: the sizes, the largest first.
        factory: the chosen one's.
        codebooks: what a codec may be trained on.
        codebook: the chosen one.
        dim: numbers of a descriptor.
        kept_as: how the page keeps the descriptors that all this is made from.
        turn: a number that is new whenever the choice must be put back.
    """
    return render(
        "controls",
        stops=stops,
        factory=factory,
        codebooks=codebooks,
        codebook=codebook,
        dim=dim,
        kept_as=kept_as,
        turn=turn,
        learns=has_codebook,
        EXACT=EXACT,
    )


def training(text: str, cancellable: bool = False) -> str:
    """What is going on, with a button to stop it."""
    return render("training", text=text, cancellable=cancellable)


@dataclass(frozen=True, eq=False)
class Effect:
    """What a size does to one query.

    Attributes:
        name: of the query.
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


def effect(found: Effect, sizes: Sizes, url: FileUrl) -> str:
    """The first results before and after, one below the other, with what moved."""
    before, after = ([result.match.image_id for result in one.results] for one in (found.before, found.after))
    return render(
        "effect",
        found=found,
        sizes=sizes,
        url=url,
        kept=len(set(before) & set(after)),
        same=before == after,
        lost=lambda result: _lost(found.rank_after.get(result.match.image_id), len(after)),
        moved=lambda result: _moved(found.rank_before.get(result.match.image_id), result.rank),
    )


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
        problem=None if study else Markup(code(studies.problems["compression"])),
        measured=_measured(rows, stop, codebook),
        charts=charts,
        books=books,
        sources=Markup(sources(studies, url, ["compression"])),
        in_bytes=size_label,
        MEMORY=MEMORY,
    )


def _chart(title: str, patches: int, lines: Sequence[ChartLine], mark: float) -> list[Markup]:
    """A chart with the chosen size marked; none if the file has nothing of this kind."""
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
    """The chosen size on every dataset of the file."""
    measured = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        found = [
            row
            for row in rows
            if row["dataset"] == dataset
            and row["factory"] == stop.factory
            and row["rescore"] is None
            and (row["codebook"] == codebook or not has_codebook(stop.factory))
            and row["map"] is not None
        ]
        if found:
            places = [row["locscore"] for row in found if row["locscore"] is not None]
            mean = sum(places) / len(places) if places else None
            measured.append(_Measured(dataset, sum(row["map"] for row in found) / len(found), mean))
    return measured
