"""The configurations that were tried, as the Evaluation tab shows them: seeds averaged, duplicates of files merged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.reranking import NAMES as RERANKERS
from patchify_core.demo.studies import Studies
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.compare import DEFAULTS, BootstrapSettings, Difference
from patchify_core.evaluation.compare import paired as paired_differences
from patchify_core.evaluation.results import Row
from patchify_core.evaluation.study.experiments import Configuration, Mean, without_seed
from patchify_core.features.extract import CROP

EXACT = "Flat"
GLOBAL = "pyramid:1"
"""Regions of the global baseline: the whole picture alone."""

KEYS = ("dataset", "encoder", "regions", "factory", "codebook", "rescore", "rerank", "features", "query", "refine")


@dataclass(frozen=True)
class Trial:
    """One configuration on one dataset.

    Attributes:
        id: a short name of it, the same as long as the configuration is.
        mean: its rows, one a seed.
        studies: the files that it is in.
        baseline: whether it is the global baseline of its encoder: whole pictures, exact, crop by crop, not re-ranked.
    """

    id: str
    mean: Mean
    studies: tuple[str, ...]
    baseline: bool

    def __getitem__(self, name: str) -> Any:
        """What its rows have in common; the seed of random regions is no part of their name."""
        value = self.mean[name]
        return without_seed(value) if name in ("regions", "indexed") else value

    @property
    def kept_as(self) -> str:
        """Factory string, with the finer codes if there are any."""
        return self["factory"] + (f" + {self['rescore']}" if self["rescore"] else "")

    @property
    def codebook(self) -> str | None:
        """What its codec was trained on; None where there is no codebook and nothing else was chosen."""
        matters = "PQ" in self["factory"] or self["codebook"] != Configuration.codebook
        return self["codebook"] if matters else None

    @property
    def features(self) -> str:
        """How descriptors are made, where it is not crop by crop, and how a query is, where that was chosen."""
        query = f"query {self['query']}" if self["query"] else ""
        return ", ".join(filter(None, (self["features"] if self["features"] != CROP else "", query)))

    @property
    def seeds(self) -> int:
        """How many rows are averaged."""
        return len(self.mean.rows)

    @property
    def label(self) -> str:
        """What tells it from the others of its dataset, in one line, as the command line writes it."""
        parts = [self["encoder"], self["regions"]]
        if self.kept_as != EXACT:
            parts.append(self.kept_as)
        if self.codebook:
            parts.append(f"{self.codebook} codebook")
        if self.features:
            parts.append(self.features)
        if self["refine"]:
            parts.append(f"{self['refine']} boxes")
        if self["rerank"]:
            parts.append(f"re-ranked by {self['rerank']}")
        return " · ".join(parts)

    @property
    def plain(self) -> dict[str, str]:
        """What tells it from the others in plain words, by the names of `KEYS`; empty where nothing was chosen."""
        finer, rerank, refine = self["rescore"], self["rerank"], self["refine"]
        pixels, query = self["features"].partition(":")[2], self["query"]
        return {
            "regions": plain_regions(self["regions"]),
            "encoder": self["encoder"],
            "factory": plain_codec(self["factory"]) + (f", then {plain_codec(finer)}" if finer else ""),
            "codebook": self.codebook or "",
            "features": "each patch" if self["features"] == CROP else f"one pass, {pixels} px",
            "query": f"query at {query.replace('picture', 'picture size')}" if query else "",
            "refine": {"soft": "soft", "map": "refined"}.get(refine, refine) or "",
            "rerank": " + ".join(map(_plain_reranker, rerank.split("+"))) if rerank else "",
        }

    @property
    def title(self) -> str:
        """As `label`, in plain words."""
        words = self.plain
        parts = [words["regions"]]
        parts += [words["features"]] if self["features"] != CROP else []
        parts += [words["query"]] if words["query"] else []
        parts += [words["factory"]] if self.kept_as != EXACT else []
        parts += [f"{words['codebook']} codebook"] if words["codebook"] else []
        parts += [f"{words['refine']} boxes"] if words["refine"] else []
        parts += [f"re-ranked: {words['rerank']}"] if words["rerank"] else []
        return " · ".join([*parts, words["encoder"]])

    def per_query(self, name: str) -> list[float | None]:
        """Mean over the seeds of a per-query list, `ap` or `ls`; None where a query has no such score."""
        columns = zip(*(row[name] for row in self.mean.rows), strict=True)
        return [None if any(value is None for value in column) else fmean(column) for column in columns]


def plain_regions(spec: str) -> str:
    """Regions in plain words; what is not known here stays as the command line writes it.

    Example:
        >>> plain_regions("pyramid:4"), plain_regions("pyramid:1+salient:29")
        ('Grids up to 4×4', 'Whole image + 29 salient regions')
    """
    words = []
    for part in spec.split("+"):
        name, _, rest = part.partition(":")
        first, *more = rest.split(",")
        if name == "pyramid":
            words.append("Whole image" if first == "1" else f"Grids up to {first}×{first}")
        elif name in ("random", "salient"):
            words.append(f"{first} {'random boxes' if name == 'random' else 'salient regions'}")
        elif name == "sliding" and more:
            words.append(f"windows of {100 * float(first):g} %, overlap {100 * float(more[0]):g} %")
        else:
            words.append(part)
    return " + ".join(words)


def plain_codec(factory: str) -> str:
    """A codec in plain words; what is not known here stays a factory string.

    Example:
        >>> [plain_codec(factory) for factory in ("Flat", "PCAH256,SQ8", "PCAH128,PQ64x4")]
        ['exact', '256 numbers, 8 bits each', '128 numbers, coded in 32 bytes']
    """
    if factory == EXACT:
        return "exact"
    found = re.fullmatch(r"(?:PCAH(\d+),)?(?:(Flat)|SQ(8)|PQ(\d+)(x4)?)", factory)
    if found is None:
        return factory
    kept, exact, bits, parts, small = found.groups()
    words = [f"{kept} numbers"] if kept else []
    words += [] if exact else [f"{bits} bits each" if kept else f"{bits} bits per number"] if bits else []
    words += [f"coded in {int(parts) // (2 if small else 1)} bytes"] if parts else []
    return ", ".join(words)


def _plain_reranker(name: str) -> str:
    return {"map": "feature map", "qe": "query expansion by whole images"}.get(name) or RERANKERS.get(name, name)


@dataclass(frozen=True)
class Part:
    """The queries of one object.

    Attributes:
        name: of the object.
        queries: how many there are.
        ap: their mean AP, or None.
        ls: their mean LocScore, or None.
    """

    name: str
    queries: int
    ap: float | None
    ls: float | None


@dataclass(frozen=True)
class Failure:
    """One query that went badly.

    Attributes:
        query: its id in the dataset.
        name: of its object.
        ap: its AP, averaged over the seeds.
        first_hit: rank of the first correct picture, by the first seed; None if there is none.
        best: picture that came first and its box (image id, x1, y1, x2, y2), by the first seed; None if unknown.
    """

    query: int
    name: str
    ap: float
    first_hit: int | None
    best: tuple[int, NDArray[np.float64]] | None


def trials(studies: Studies) -> tuple[Trial, ...]:
    """Every configuration of every dataset once, in the order of the files."""
    groups: dict[str, tuple[dict[tuple[Any, Any], Row], list[str]]] = {}
    for study in studies.found.values():
        for row in study.rows:
            rows, names = groups.setdefault(_key(row), ({}, []))
            rows.setdefault((row["regions"], row["seed"]), row)  # the same once more, out of another file, is no seed
            if study.name not in names:
                names.append(study.name)
    return tuple(
        Trial(hashlib.sha256(key.encode()).hexdigest()[:12], Mean(tuple(rows.values())), tuple(names), _is_base(rows))
        for key, (rows, names) in groups.items()
    )


def _key(row: Row) -> str:
    """What two rows must share to differ in their seed alone.

    Exact descriptors do not depend on the other regions that were indexed with them; what a codec learns does.
    """
    parts = [without_seed(row[key]) if key == "regions" else row[key] for key in KEYS]
    return json.dumps([*parts, None if row["factory"] == EXACT else without_seed(row["indexed"])])


def _is_base(rows: Mapping[tuple[Any, Any], Row]) -> bool:
    row = next(iter(rows.values()))
    changed = row["rerank"] or row["rescore"] or row["refine"] or row["features"] != CROP
    return row["regions"] == GLOBAL and row["factory"] == EXACT and not changed


def find(all_trials: Sequence[Trial], trial_id: object) -> Trial:
    """The trial of that id.

    Raises:
        PatchifyError: if there is none, because the files changed meanwhile, or a browser sent nonsense.
    """
    for trial in all_trials:
        if trial.id == trial_id:
            return trial
    raise PatchifyError("That configuration is not in the files any more: reload the page.")


def first_choice(all_trials: Sequence[Trial], dataset: str, factory: str = EXACT) -> Trial | None:
    """What is looked into before anything is chosen: the paper's default, else the best mAP; None if there is none.

    Args:
        all_trials: of all datasets.
        dataset: which one is shown.
        factory: codes of the default, those that the page searches; exact descriptors where these were not tried.
    """
    there = [trial for trial in all_trials if trial["dataset"] == dataset]
    names = ("encoder", "regions", "rescore", "rerank", "features", "query", "refine")
    default = Configuration()
    same = [trial for trial in there if all(trial[name] == getattr(default, name) for name in names)]
    for wanted in (factory, EXACT):
        for trial in same:
            if trial["factory"] == wanted:
                return trial
    return max(there, key=lambda trial: trial.mean.of("map") or 0.0, default=None)


def baseline_of(all_trials: Sequence[Trial], trial: Trial) -> Trial | None:
    """The global baseline of the same encoder on the same dataset, or None."""
    return next(
        (
            other
            for other in all_trials
            if other.baseline and other["dataset"] == trial["dataset"] and other["encoder"] == trial["encoder"]
        ),
        None,
    )


def by_object(trial: Trial, instances: Sequence[str]) -> tuple[Part, ...]:
    """AP and LocScore of each object, the worst first; objects without a score come last.

    Args:
        trial: a configuration.
        instances: name of each query's object, in the order of the queries.
    """
    aps, scores = trial.per_query("ap"), trial.per_query("ls")
    grouped: dict[str, list[int]] = {}
    for at, name in enumerate(instances):
        grouped.setdefault(name, []).append(at)
    parts = [
        Part(name, len(places), _mean_at(aps, places), _mean_at(scores, places)) for name, places in grouped.items()
    ]
    return tuple(sorted(parts, key=lambda part: (part.ap is None, part.ap or 0.0, part.name)))


def _mean_at(values: Sequence[float | None], places: Sequence[int]) -> float | None:
    there = [value for value in (values[at] for at in places) if value is not None]
    return fmean(there) if there else None


def failures(trial: Trial, queries: Sequence[int], instances: Sequence[str], count: int = 6) -> tuple[Failure, ...]:
    """The queries with the lowest AP, the worst first; never one whose AP is 1.

    Args:
        trial: a configuration.
        queries: ids of the queries, in the order of the rows' lists.
        instances: name of each query's object.
        count: how many, at most.
    """
    aps, first = trial.per_query("ap"), trial.mean.rows[0]
    worst = sorted((ap, at) for at, ap in enumerate(aps) if ap is not None and ap < 1)[:count]
    found = []
    for ap, at in worst:
        best = first["best"][at]
        came_first = None if best is None else (int(best[0]), np.array(best[1:], np.float64))
        found.append(Failure(queries[at], instances[at], ap, first["first_hit"][at], came_first))
    return tuple(found)


def paired(a: Trial, b: Trial, settings: BootstrapSettings = DEFAULTS) -> tuple[Difference, ...]:
    """How much better B is than A over the same queries: mAP and, where both have it, LocScore.

    Raises:
        PatchifyError: if the two are of different datasets.
    """
    if a["dataset"] != b["dataset"]:
        raise PatchifyError("Those two were tried on different datasets: choose two of the same.")
    scores_a, scores_b = ({"ap": trial.per_query("ap"), "locscore": trial.per_query("ls")} for trial in (a, b))
    return tuple(paired_differences(scores_a, scores_b, settings))
