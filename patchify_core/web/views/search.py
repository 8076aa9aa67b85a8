"""The search tab: the query, the examples, help for the options, the scores and the result cards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchify_core.demo import stages
from patchify_core.demo.box_methods import BOXES, has_maps
from patchify_core.demo.indexes import IndexChoice, public_spec
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.reranking import NAMES as RERANKERS
from patchify_core.demo.results import Answer
from patchify_core.demo.stages import patches_label
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.web.views.html import FileUrl, Sizes, render


def query(query: UserQuery, url: FileUrl, turn: int = 0) -> str:
    """Render the query picture with its box, which the page's script lets the visitor edit; or the words of the query.

    `turn` makes the text differ from the last one, so that the script notices an upload that was refused.
    """
    box = np.array([0, 0, query.width, query.height], float) if query.box is None else query.box
    corners = ",".join(f"{value:.1f}" for value in box)
    return render("query", query=query, url=url, turn=turn, box=box, corners=corners)


def examples(items: Sequence[tuple[int, str, Path]], chosen: int | None, url: FileUrl) -> str:
    """Render thumbnails of example queries; items are (query id, name, file)."""
    return render("examples", items=items, chosen=chosen, url=url)


def loading(offer: IndexChoice, ready: bool) -> str:
    """Render the line that is shown while an encoder is being loaded."""
    return render("loading", spec=public_spec(offer.index.encoder), ready=ready)


def about(offers: Iterable[IndexChoice]) -> str:
    """Render the help for the choices of method and box."""
    return render(
        "about",
        terms=TERMS,
        indexes=[offer.index for offer in offers],
        public_spec=public_spec,
        patches_label=patches_label,
        has_maps=has_maps,
    )


TERMS = (
    ("Paper", "Every patch is cut out and encoded separately: 30 passes of the network per picture."),
    ("Fast", "The network sees the whole picture once; patches are read from its feature map. Much faster."),
    ("Winning patch", "The box of the most similar patch: it shows roughly, not exactly, where."),
    ("Soft box", "The mean of all patches’ boxes; better matches count more."),
    ("Refined box", "Boxes of every size and position are compared; the best box is then aligned with visible edges."),
)
"""Terms in the choices, each explained in a sentence."""


def cards(answer: Answer, sizes: Sizes, url: FileUrl) -> str:
    """Render the result cards."""
    return render("cards", answer=answer, sizes=sizes, url=url)


def strip(
    answer: Answer, object_name: str | None, in_words: bool = False, own: bool = False, private: bool = False
) -> str:
    """Render AP and LocScore of a query: as shown, before re-ranking, and for whole pictures; or what they need.

    Args:
        answer: The results.
        object_name: The object, if it is known.
        in_words: Whether the query is words.
        own: Whether the pictures are the visitor's own, of which only some have boxes.
        private: Whether the query or the pictures are the visitor's own, so that no link can show them to others.
    """
    gridded = stages.grid_of(answer.stages[answer.level - 1]) is not None
    return render(
        "strip",
        answer=answer,
        name=object_name,
        in_words=in_words,
        own=own,
        private=private,
        rows=_rows(answer),
        key=_key(answer),
        bounded="grid" if gridded and not answer.reranker else "patch",
        reranker=RERANKERS[answer.reranker] if answer.reranker else "",
    )


class _Row(NamedTuple):
    """Scores of one method; `ceiling` is the best LocScore that its boxes allow, if they are limited to patches."""

    name: str
    note: str
    score: QueryScore
    ceiling: float | None
    kind: str


def _rows(answer: Answer) -> list[_Row]:
    """Return the scores as shown, with the winning patches' boxes, before re-ranking, and for whole pictures."""
    if answer.score is None:
        return []
    patches = stages.summary(answer.stages, answer.level).removesuffix(" each")
    ceiling = answer.ceiling
    rows = []
    if answer.reranker is not None:  # points can give better boxes than any patch
        rows.append(_Row("Re-ranked", f"by {RERANKERS[answer.reranker]}", answer.score, None, "ours"))
        if answer.winning is not None:
            rows.append(_Row("Same ranking", "not refined", answer.winning, None, "plain"))
        if answer.plain is not None:
            rows.append(_Row("Patchify", patches, answer.plain, ceiling if answer.winning is None else None, "plain"))
    elif answer.winning is None:
        rows.append(_Row("Patchify", patches, answer.score, ceiling, "ours"))
    else:  # a refined box can be better than any patch
        rows.append(_Row(f"{BOXES[answer.box_method].capitalize()}es", patches, answer.score, None, "ours"))
        paper = "as in the paper" if answer.paper else ""
        rows.append(_Row("Winning patches", paper, answer.winning, ceiling, "plain"))
    if answer.baseline is not None:
        rows.append(_Row("Global baseline", "whole pictures", answer.baseline, None, "base"))
    return rows


def _key(answer: Answer) -> list[tuple[str, str]]:
    """Return the legend of the boxes, if there are two kinds."""
    if not any(result.moved for result in answer.results):
        return []
    points = any(result.by_points for result in answer.results)
    names = " or ".join(filter(None, (BOXES.get(answer.box_method, ""), "box by points" if points else "")))
    others = any(len(result.match.others) for result in answer.results)
    return [("win", names), *([("oth", "further object")] if others else []), ("pat", "winning patch")]
