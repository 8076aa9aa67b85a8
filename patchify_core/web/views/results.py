"""What is found: the result cards and the strip of scores above them."""

from __future__ import annotations

from typing import NamedTuple

from patchify_core.demo import stages
from patchify_core.demo.answers import Answer
from patchify_core.demo.locating import BOXES
from patchify_core.demo.reranking import NAMES as RERANKERS
from patchify_core.evaluation.metrics import QueryScore
from patchify_core.web.views.html import FileUrl, Sizes, render


def cards(answer: Answer, sizes: Sizes, url: FileUrl) -> str:
    """The result cards; `sizes` gives width, height and file of a gallery picture."""
    return render("cards", answer=answer, sizes=sizes, url=url)


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
    """Scores of one way to search; `ceiling` is the best LocScore that its boxes allow, where they are limited."""

    name: str
    note: str
    score: QueryScore
    ceiling: float | None
    kind: str


def _rows(answer: Answer) -> list[_Row]:
    """As shown, with the winning patches' boxes, before re-ranking, and whole pictures."""
    if answer.score is None:
        return []
    patches = stages.summary(answer.stages, answer.level).removesuffix(" each")
    ceiling = answer.ceiling or 0.0
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
        rows.append(_Row(f"{BOXES[answer.way].capitalize()}es", patches, answer.score, None, "ours"))
        paper = "as in the paper" if answer.paper else ""
        rows.append(_Row("Winning patches", paper, answer.winning, ceiling, "plain"))
    if answer.baseline is not None:
        rows.append(_Row("Global baseline", "whole pictures", answer.baseline, None, "base"))
    return rows


def _key(answer: Answer) -> list[tuple[str, str]]:
    """Which box is which, where there are two kinds."""
    if not any(result.moved for result in answer.results):
        return []
    points = any(result.by_points for result in answer.results)
    names = " or ".join(filter(None, (BOXES.get(answer.way, ""), "box by points" if points else "")))
    others = any(len(result.match.others) for result in answer.results)
    return [("win", names), *([("oth", "further object")] if others else []), ("pat", "winning patch")]
