"""The start of the Evaluation tab: what finer grids gain, for objects of which size, and which queries still fail.

Scores of the bundled gallery are its stored answers (`gallery_info`); those of other datasets are in the study files.
Failed queries are searched again with the call that the Search tab makes, so a card agrees with the search it opens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from patchify_core.demo.box_methods import WINNING
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.links import Link
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import Answer, Result
from patchify_core.demo.trials import EXACT, Trial
from patchify_core.evaluation.study.experiments import Configuration
from patchify_core.features.extract import CROP

SHOWN = 10
"""Results of the search that a card opens."""


@dataclass(frozen=True)
class Curve:
    """Scores of one dataset against the finest grid.

    Attributes:
        dataset: Name.
        pictures: Number of gallery pictures.
        queries: Number of queries.
        grids: N of each level's finest grid, from 1.
        ap: Mean AP at each level.
        locscore: Mean LocScore at each level; None without annotated boxes.
        codec: Factory string of the codes searched.
    """

    dataset: str
    pictures: int
    queries: int
    grids: tuple[int, ...]
    ap: tuple[float, ...]
    locscore: tuple[float, ...] | None
    codec: str


@dataclass(frozen=True)
class SizeBand:
    """Scores for objects of one size, as a share of the picture.

    Attributes:
        low: Smallest share, 0 to 1.
        high: Upper limit of the share, exclusive; None for no limit.
        positives: Pictures that contain such an object, over all queries.
        queries: Queries with such pictures.
        ap: Their mean AP at each level.
        locscore: Their mean LocScore at each level.
    """

    low: float
    high: float | None
    positives: int
    queries: int
    ap: tuple[float, ...]
    locscore: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FailedQuery:
    """A query with a low AP.

    Attributes:
        query: Described for the index of the answer.
        answer: By the winning patches of all grids.
        first_hit: Rank of the first picture that contains the object, among those that count; None if there is none.
        link: To this search.
    """

    query: UserQuery
    answer: Answer
    first_hit: int | None
    link: Link

    @property
    def top(self) -> Result:
        """The first result."""
        return self.answer.results[0]


def curves(
    trials: Sequence[Trial],
    datasets: Mapping[str, Mapping[str, Any]],
    bundled: str,
    document: Mapping[str, Any] | None,
    codec: str,
) -> list[Curve]:
    """Return a curve for each dataset with several levels, the bundled gallery's first.

    Args:
        trials: Of the study files.
        datasets: Of those files.
        bundled: Name of the page's own gallery.
        document: Its stored answers, or None.
        codec: Factory string of the index of those answers.
    """
    result = []
    if document is not None:
        scores = document["overall"]
        locscore = tuple(one["locscore"] for one in scores)
        result.append(
            Curve(
                bundled,
                document["gallery"],
                scores[0]["queries"],
                tuple(level["grid"] for level in document["levels"]),
                tuple(one["map"] for one in scores),
                None if None in locscore else locscore,
                codec,
            )
        )
    for name, dataset in datasets.items():
        levels = sorted(
            ((_grid(one), one) for one in trials if one["dataset"] == name and _grid(one)), key=itemgetter(0)
        )
        if (name == bundled and result) or len(levels) < 2:
            continue
        ap, located = ([one.mean.of(score) for _, one in levels] for score in ("map", "locscore"))
        result.append(
            Curve(
                name,
                dataset["pictures"],
                len(dataset["queries"]),
                tuple(grid for grid, _ in levels),
                tuple(value or 0.0 for value in ap),
                None if None in located else tuple(value or 0.0 for value in located),
                EXACT,
            )
        )
    return result


def _grid(trial: Trial) -> int:
    """Return N of the finest N x N grid of an exact trial of the paper's method with the default encoder; else 0."""
    default = Configuration()
    same = all(trial[name] == getattr(default, name) for name in ("encoder", "rescore", "rerank", "query", "refine"))
    name, _, grid = trial["regions"].partition(":")
    plain = same and trial["features"] == CROP and trial["factory"] == EXACT and name == "pyramid" and grid.isdigit()
    return int(grid) if plain else 0


def bands(document: Mapping[str, Any]) -> list[SizeBand]:
    """Return the scores by object size, the smallest first, without sizes that no query has."""
    limits = (0.0, *document["limits"], None)
    result = []
    for row, low, high in zip(document["sizes"], limits[:-1], limits[1:], strict=True):
        if row["positives"] and None not in row["levels"]:
            ap, locscore = (tuple(one[name] for one in row["levels"]) for name in ("map", "locscore"))
            result.append(SizeBand(low, high, row["positives"], row["queries"], ap, locscore))
    return result


def answers_index(document: Mapping[str, Any]) -> str:
    """Return the name of the index that the stored answers were computed with."""
    return PurePosixPath(document["index"]).name


def failed_queries(gallery: ExampleGallery, document: Mapping[str, Any], count: int = 6) -> list[FailedQuery]:
    """Return at most `count` queries with the lowest AP at the finest grid, the worst first; never one with AP 1.

    `document` are the gallery's stored answers.
    """
    scored = [(one["levels"][-1]["ap"], one["id"]) for one in document["examples"] if one["levels"]]
    worst = sorted((ap, example) for ap, example in scored if ap is not None and ap < 1)[:count]
    index_name = answers_index(document)
    level, result = len(document["levels"]), []
    for _, example in worst:
        query = gallery.example(example, index_name)
        answer = gallery.answer(query, level, SHOWN, None, WINNING)
        if answer.score is not None:
            ranks = answer.score.ranks
            link = Link(example=example, index=index_name, level=level, boxes=WINNING, top=SHOWN)
            result.append(FailedQuery(query, answer, int(ranks[0]) if len(ranks) else None, link))
    return result
