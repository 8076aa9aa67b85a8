"""What the Evaluation tab shows first: what finer grids change, for objects of which size, and where they still fail.

Scores of the bundled gallery are those of the first page (`prepared`), of other sets those of the study files. A
failure is answered anew by the call that the search makes, so its card and the search that it opens cannot differ.
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
    """One set's scores against the finest grid.

    Attributes:
        dataset: its name.
        pictures: how many are searched.
        queries: how many are asked.
        grids: N of each level's finest grid, from 1.
        ap: mean AP at each level.
        locscore: mean LocScore at each level; None where the set has no annotated boxes.
        codec: factory string of the codes that were searched.
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
    """The objects of one size; sizes are shares of the picture.

    Attributes:
        low: smallest share, 0 to 1.
        high: what the share is below; None for no limit.
        positives: pictures that contain such an object, over all queries.
        queries: queries that have such pictures.
        ap: mean AP over them at each level.
        locscore: the same of LocScore.
    """

    low: float
    high: float | None
    positives: int
    queries: int
    ap: tuple[float, ...]
    locscore: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FailedQuery:
    """A query that went badly, as the search answers it.

    Attributes:
        query: the query, described for the index of the answer.
        answer: by the winning patches of all grids.
        first_hit: rank of the first picture that contains the object, among those that count; None if there is none.
        link: what opens that very search.
    """

    query: UserQuery
    answer: Answer
    first_hit: int | None
    link: Link

    @property
    def top(self) -> Result:
        """What came first."""
        return self.answer.results[0]


def curves(
    trials: Sequence[Trial],
    datasets: Mapping[str, Mapping[str, Any]],
    bundled: str,
    document: Mapping[str, Any] | None,
    codec: str,
) -> list[Curve]:
    """A curve for each set that was tried at several levels; the bundled gallery's first.

    Args:
        trials: of the study files.
        datasets: the sets of those files.
        bundled: name of the page's own gallery.
        document: the answers beside it (`prepared`), or None.
        codec: factory string of the index that they were made with.
    """
    found = []
    if document is not None:
        scores = document["overall"]
        locscore = tuple(one["locscore"] for one in scores)
        found.append(
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
        if (name == bundled and found) or len(levels) < 2:
            continue
        ap, located = ([one.mean.of(score) for _, one in levels] for score in ("map", "locscore"))
        found.append(
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
    return found


def _grid(trial: Trial) -> int:
    """N of the N x N grid that it goes up to, if it is the paper's method with the default encoder, exact; else 0."""
    default = Configuration()
    same = all(trial[name] == getattr(default, name) for name in ("encoder", "rescore", "rerank", "query", "refine"))
    name, _, grid = trial["regions"].partition(":")
    plain = same and trial["features"] == CROP and trial["factory"] == EXACT and name == "pyramid" and grid.isdigit()
    return int(grid) if plain else 0


def bands(document: Mapping[str, Any]) -> list[SizeBand]:
    """The scores by object size, the smallest objects first; sizes that no query has are left out."""
    limits = (0.0, *document["limits"], None)
    found = []
    for row, low, high in zip(document["sizes"], limits[:-1], limits[1:], strict=True):
        if row["positives"] and None not in row["levels"]:
            ap, locscore = (tuple(one[name] for one in row["levels"]) for name in ("map", "locscore"))
            found.append(SizeBand(low, high, row["positives"], row["queries"], ap, locscore))
    return found


def answers_index(document: Mapping[str, Any]) -> str:
    """Name of the index that the answers beside a gallery were made with."""
    return PurePosixPath(document["index"]).name


def failed_queries(gallery: ExampleGallery, document: Mapping[str, Any], count: int = 6) -> list[FailedQuery]:
    """The queries with the lowest AP at the finest grid, the worst first; never one whose AP is 1.

    Args:
        gallery: what is searched.
        document: the answers beside it (`prepared`).
        count: how many, at most.
    """
    scored = [(one["levels"][-1]["ap"], one["id"]) for one in document["examples"] if one["levels"]]
    worst = sorted((ap, example) for ap, example in scored if ap is not None and ap < 1)[:count]
    index_name = answers_index(document)
    level, found = len(document["levels"]), []
    for _, example in worst:
        query = gallery.example(example, index_name)
        answer = gallery.answer(query, level, SHOWN, None, WINNING)
        if answer.score is not None:
            ranks = answer.score.ranks
            link = Link(example=example, index=index_name, level=level, boxes=WINNING, top=SHOWN)
            found.append(FailedQuery(query, answer, int(ranks[0]) if len(ranks) else None, link))
    return found
