"""The configurations of the recorded studies: seeds averaged, and those that several files contain merged."""

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
"""Regions of the global baseline: the whole picture."""

KEYS = ("dataset", "encoder", "regions", "factory", "codebook", "rescore", "rerank", "features", "query", "refine")


@dataclass(frozen=True)
class Trial:
    """One configuration on one dataset.

    Attributes:
        id: Short and stable.
        mean: Of its rows, one per seed.
        studies: The files that contain it.
        baseline: Whether it is the global baseline of its encoder: whole pictures, exact, not re-ranked.
    """

    id: str
    mean: Mean
    studies: tuple[str, ...]
    baseline: bool

    def __getitem__(self, name: str) -> Any:
        """Return what its rows have in common, without the seed of random regions."""
        value = self.mean[name]
        return without_seed(value) if name in ("regions", "indexed") else value

    @property
    def codec(self) -> str:
        """Factory string, with that of the finer codes if there are any."""
        return self["factory"] + (f" + {self['rescore']}" if self["rescore"] else "")

    @property
    def codebook(self) -> str | None:
        """Training set of its codebook; None without a codebook."""
        matters = "PQ" in self["factory"] or self["codebook"] != Configuration.codebook
        return self["codebook"] if matters else None

    @property
    def features(self) -> str:
        """How pictures and queries are described, where it differs from the default."""
        query = f"query {self['query']}" if self["query"] else ""
        return ", ".join(filter(None, (self["features"] if self["features"] != CROP else "", query)))

    @property
    def seeds(self) -> int:
        """Number of seeds averaged."""
        return len(self.mean.rows)

    @property
    def label(self) -> str:
        """Its options in one line, as on the command line."""
        parts = [self["encoder"], self["regions"]]
        if self.codec != EXACT:
            parts.append(self.codec)
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
        """Its options in plain words, by the names of `KEYS`; empty for defaults."""
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
        parts += [words["factory"]] if self.codec != EXACT else []
        parts += [f"{words['codebook']} codebook"] if words["codebook"] else []
        parts += [f"{words['refine']} boxes"] if words["refine"] else []
        parts += [f"re-ranked: {words['rerank']}"] if words["rerank"] else []
        return " · ".join([*parts, words["encoder"]])

    def per_query(self, name: str) -> list[float | None]:
        """Average a per-query list, `ap` or `ls`, over the seeds; None where a query has no such score."""
        columns = zip(*(row[name] for row in self.mean.rows), strict=True)
        return [None if any(value is None for value in column) else fmean(column) for column in columns]


def plain_regions(spec: str) -> str:
    """Describe regions in plain words; unknown parts stay as they are.

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
    """Describe a codec in plain words; an unknown factory string stays as it is.

    Example:
        >>> [plain_codec(factory) for factory in ("Flat", "PCAH256,SQ8", "PCAH128,PQ64x4")]
        ['exact', '256 numbers, 8 bits each', '128 numbers, coded in 32 bytes']
    """
    if factory == EXACT:
        return "exact"
    found = re.fullmatch(r"(?:PCAH(\d+),)?(?:(Flat)|SQ(8)|PQ(\d+)(x4)?)", factory)
    if found is None:
        return factory
    numbers, exact, bits, parts, small = found.groups()
    words = [f"{numbers} numbers"] if numbers else []
    words += [] if exact else [f"{bits} bits each" if numbers else f"{bits} bits per number"] if bits else []
    words += [f"coded in {int(parts) // (2 if small else 1)} bytes"] if parts else []
    return ", ".join(words)


def _plain_reranker(name: str) -> str:
    return {"map": "feature map", "qe": "query expansion by whole images"}.get(name) or RERANKERS.get(name, name)


@dataclass(frozen=True)
class Part:
    """The queries of one object: their number, mean AP and mean LocScore (None where they have none)."""

    name: str
    queries: int
    ap: float | None
    ls: float | None


@dataclass(frozen=True)
class Failure:
    """One query with a low AP.

    Attributes:
        query: Its id in the dataset.
        name: Of its object.
        ap: Its AP, averaged over the seeds.
        first_hit: Rank of the first correct picture, by the first seed; None if there is none.
        best: Id and box of the first result, by the first seed; None if unknown.
    """

    query: int
    name: str
    ap: float
    first_hit: int | None
    best: tuple[int, NDArray[np.float64]] | None


def trials(studies: Studies) -> tuple[Trial, ...]:
    """Return every configuration of every dataset once, in the order of the files."""
    groups: dict[str, tuple[dict[tuple[Any, Any], Row], list[str]]] = {}
    for study in studies.found.values():
        for row in study.rows:
            rows, names = groups.setdefault(_key(row), ({}, []))
            rows.setdefault((row["regions"], row["seed"]), row)  # the same row in another file is no further seed
            if study.name not in names:
                names.append(study.name)
    return tuple(
        Trial(hashlib.sha256(key.encode()).hexdigest()[:12], Mean(tuple(rows.values())), tuple(names), _is_base(rows))
        for key, (rows, names) in groups.items()
    )


def _key(row: Row) -> str:
    """Return a key that rows share if they differ in their seed only.

    A codec learns from all regions that were indexed together; exact descriptors do not depend on them.
    """
    parts = [without_seed(row[key]) if key == "regions" else row[key] for key in KEYS]
    return json.dumps([*parts, None if row["factory"] == EXACT else without_seed(row["indexed"])])


def _is_base(rows: Mapping[tuple[Any, Any], Row]) -> bool:
    row = next(iter(rows.values()))
    changed = row["rerank"] or row["rescore"] or row["refine"] or row["features"] != CROP
    return row["regions"] == GLOBAL and row["factory"] == EXACT and not changed


def find(all_trials: Sequence[Trial], trial_id: object) -> Trial:
    """Return the trial of this id.

    Raises:
        PatchifyError: If there is none: the files may have changed, and a browser may send anything.
    """
    for trial in all_trials:
        if trial.id == trial_id:
            return trial
    raise PatchifyError("That configuration is not in the files any more: reload the page.")


def first_choice(all_trials: Sequence[Trial], dataset: str, factory: str = EXACT) -> Trial | None:
    """Return the trial shown first: the default configuration, else the one with the best mAP; None without any.

    The default is preferred with the codec `factory`, else with exact descriptors.
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
    """Return the global baseline of the same encoder on the same dataset, or None."""
    return next(
        (
            other
            for other in all_trials
            if other.baseline and other["dataset"] == trial["dataset"] and other["encoder"] == trial["encoder"]
        ),
        None,
    )


def by_object(trial: Trial, instances: Sequence[str]) -> tuple[Part, ...]:
    """Return AP and LocScore of each object, the worst first; objects without a score come last.

    `instances` are the names of the queries' objects, in the order of the queries.
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
    """Return at most `count` queries with the lowest AP, the worst first; never one with AP 1.

    `queries` and `instances` are the queries' ids and the names of their objects, in the order of the rows' lists.
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
    """Compare B with A over the same queries: mAP and, if both have it, LocScore.

    Raises:
        PatchifyError: If they are of different datasets.
    """
    if a["dataset"] != b["dataset"]:
        raise PatchifyError("Those two were tried on different datasets: choose two of the same.")
    scores_a, scores_b = ({"ap": trial.per_query("ap"), "locscore": trial.per_query("ls")} for trial in (a, b))
    return tuple(paired_differences(scores_a, scores_b, settings))
