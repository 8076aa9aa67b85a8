"""The experiments of `study`: which configurations each one compares, and the Markdown tables that it prints.

`STUDIES` lists them. The tables in NUMBERS.md are printed by this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from patchify_core.errors import PatchifyError

ENCODERS = ("effnet-lite0", "effnet-lite1", "effnet-lite2")

EQUAL_PATCHES = (
    "pyramid:4",
    "pyramid:1+sliding:0.6,0+sliding:0.4,0.6",
    "random:30,0",
    "random:30,1",
    "random:30,2",
    "salient:30",
    "pyramid:3+salient:16",
)
"""Region strategies with 30 patches per picture (see `regions`)."""

FACTORIES = (
    "Flat",
    "SQ8",
    "PCAH256,Flat",
    "PCAH256,SQ8",
    "PCAH128,SQ8",
    "PCAH256,PQ64",
    "PCAH128,PQ64",
    "PCAH128,PQ32",
    "PCAH128,PQ16",
)
"""Codecs from float32 down to 16 bytes per patch, trained on uniform patches."""

EQUAL_BYTES = ("PCAH128,PQ64x4", "PCAH128,PQ32x4", "PCAH128,PQ16x4")
"""32, 16 and 8 bytes per patch with 16 centroids per part, which 16 whole pictures are enough to train."""

CODEBOOKS = ("global", "uniform", "informative", "distinctive")
NORMAL_SIZE = "PCAH128,PQ16"
"""256 centroids per part, as in large collections; a codebook of whole pictures needs 256 of them."""

SEEDS = (0, 1, 2)

MAP_FACTORY = "PCAH256,SQ8"
"""Codec of pooled descriptors in an index whose boxes are refined."""

QUERIES = ("224", "320", "224+320", "picture", "224+320+picture")
"""How a query of pooled features is described (`Configuration.query`)."""

RERANKERS = (None, "qe", "patch-qe", "sift", "xfeat", "patch-qe+sift", "patch-qe+xfeat", "aliked")


@dataclass(frozen=True)
class Configuration:
    """How to index and search; what an experiment compares.

    Attributes:
        encoder: Spec of the encoder.
        regions: Spec of the indexed regions.
        levels: Stages of the regions to score; None for all.
        factory: Codec of the descriptors.
        codebook: Training set of the codec.
        rescore: Factory of the finer codes, or None.
        seed: Seed of the codec's training.
        rerank: Name of a re-ranker, or None.
        features: How descriptors are computed (`features.extract`).
        query: Views from which a query of pooled features is described, joined by plus signs: sides of its cropped box
            in pixels, and `picture` for the box within its picture; empty for the default.
        refine: Name of a box refiner, or None.
    """

    encoder: str = ENCODERS[0]
    regions: str = "pyramid:4"
    levels: tuple[int, ...] | None = None
    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    seed: int = 0
    rerank: str | None = None
    features: str = "crop"
    query: str = ""
    refine: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the levels."""
        return {key: value for key, value in asdict(self).items() if key != "levels"}


Row = dict[str, Any]
"""One configuration at one level with its scores (`run.run_study`). Tables group by any key, so rows stay dicts."""


def plan(name: str, encoder: str = ENCODERS[0], skip: Collection[str] = ()) -> tuple[Configuration, ...]:
    """Return the configurations of an experiment.

    Args:
        name: One of `STUDIES`.
        encoder: Spec of the encoder, unless encoders are what is compared.
        skip: Names of encoders, regions, factories, codebooks or re-rankers to leave out.

    Raises:
        PatchifyError: If there is no such experiment, nothing in it has a name in `skip` (the nearest is suggested), or
            nothing is left.
    """
    if name not in STUDIES:
        raise PatchifyError(f"There is no study '{name}'{_guess(name, STUDIES)}: choose {', '.join(STUDIES)}.")
    return without(STUDIES[name].configurations(encoder), skip, f"study of {name}")


def without(configurations: Sequence[Configuration], skip: Collection[str], what: str) -> tuple[Configuration, ...]:
    """Leave out the configurations that have one of the names in `skip`.

    Args:
        configurations: To choose from.
        skip: See `plan`, also for the errors.
        what: What the error sentence calls the configurations.
    """
    names = {value for one in configurations for value in one.as_dict().values() if isinstance(value, str)}
    for unknown in sorted({*skip} - names):
        raise PatchifyError(
            f"The {what} compares nothing called '{unknown}'{_guess(unknown, sorted(names))}: what can be skipped is "
            f"{', '.join(sorted(names))}."
        )
    left = tuple(one for one in configurations if not {*skip} & {*one.as_dict().values()})
    if not left:
        raise PatchifyError(f"Nothing is left of the {what} without {', '.join(sorted({*skip}))}: skip less.")
    return left


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


# Configurations --------------------------------------------------------------------------------------------


def _encoders(_encoder: str) -> Sequence[Configuration]:
    return [Configuration(encoder=spec) for spec in ENCODERS]


def _regions(encoder: str) -> Sequence[Configuration]:
    return [Configuration(encoder=encoder, regions=spec) for spec in EQUAL_PATCHES]


def _compression(encoder: str) -> Sequence[Configuration]:
    last = (4,)
    sizes = [
        Configuration(encoder, levels=last, factory=factory, seed=seed)
        for factory in FACTORIES
        for seed in (SEEDS if "PQ" in factory else SEEDS[:1])
    ]
    rescored = [Configuration(encoder, levels=last, factory="PCAH128,PQ16", rescore="SQ8", seed=seed) for seed in SEEDS]
    books = [
        Configuration(encoder, levels=last, factory=factory, codebook=codebook, seed=seed)
        for factory in (*EQUAL_BYTES, NORMAL_SIZE)
        for codebook in CODEBOOKS
        for seed in SEEDS
        if (factory, codebook) != (NORMAL_SIZE, "uniform")  # one of `sizes`
    ]
    return [*sizes, *rescored, *books]


def _rerank(encoder: str) -> Sequence[Configuration]:
    # On the global baseline's shortlist too, to see what the patch-wise shortlist is worth.
    return [Configuration(encoder, levels=(1, 4), rerank=name) for name in RERANKERS]


def _features(encoder: str) -> Sequence[Configuration]:
    crops = [Configuration(encoder, levels=(1, 4), factory=factory) for factory in ("Flat", MAP_FACTORY)]
    sizes = [
        Configuration(encoder, levels=(1, 4), factory=factory, features=f"pooled:{side}")
        for side, factory in ((640, "Flat"), (448, MAP_FACTORY), (640, MAP_FACTORY), (896, MAP_FACTORY))
    ]
    queries = [
        Configuration(encoder, levels=(4,), factory=MAP_FACTORY, features="pooled:640", query=query)
        for query in QUERIES
    ]
    return [*crops, *sizes, *queries]


def _boxes(encoder: str) -> Sequence[Configuration]:
    crops = [Configuration(encoder, levels=(1, 4), refine=refine) for refine in (None, "soft")]
    pooled = [
        Configuration(encoder, levels=(1, 4), factory=MAP_FACTORY, features="pooled:640", refine=refine, rerank=rerank)
        for refine, rerank in ((None, None), ("soft", None), ("map", None), ("map", "map"))
    ]
    return [*crops, *pooled]


# Tables ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """Rows that differ only in their seed.

    Attributes:
        rows: At least one.
    """

    rows: tuple[Row, ...]

    def of(self, name: str) -> float | None:
        """Return the mean of a number over the seeds, or None if a row lacks it."""
        values = [row[name] for row in self.rows]
        return None if any(value is None for value in values) else fmean(values)

    def spread(self, name: str) -> float:
        """Return the largest minus the smallest value over the seeds."""
        values = [row[name] for row in self.rows if row[name] is not None]
        return max(values) - min(values) if values else 0.0

    def __getitem__(self, name: str) -> Any:
        """Return a value that all rows have in common."""
        return self.rows[0][name]


def without_seed(spec: str) -> str:
    """`random:30,2` -> `random:30`."""
    return re.sub(r"(random:\d+),\d+", r"\1", spec)


def means(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Mean]]:
    """Group rows by `keys`, then by dataset, in order of appearance."""
    grouped: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        key = tuple(without_seed(row[k]) if k in ("regions", "indexed") else row[k] for k in keys)
        grouped.setdefault(key, {}).setdefault(row["dataset"], []).append(row)
    return {key: {name: Mean(tuple(some)) for name, some in by.items()} for key, by in grouped.items()}


def tables(numbers: dict[str, Any]) -> str:
    """Format all tables of one study's numbers (`run.run_study`), followed by its notes."""
    blocks = STUDIES[numbers["study"]].tables(numbers["rows"], list(numbers["datasets"]))
    return "\n\n".join([*blocks, *sorted({refusal_note(refusal) for refusal in numbers["refused"]})])


def refusal_note(refusal: Row) -> str:
    """Say in one sentence which configuration could not be measured, and why."""
    parts = [refusal[name] for name in ("encoder", "regions", "factory", "codebook", "rerank")]
    return f"Not had on {refusal['dataset']} ({', '.join(filter(None, parts))}): {refusal['why']}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


Columns = Mapping[str, Callable[[Mean], str]]
"""Head of a column -> what it shows of a group of rows."""

PATCHES: Columns = {"patches": lambda mean: str(mean["patches"])}
BYTES: Columns = {"bytes per patch": lambda mean: str(mean["bytes_per_patch"])}


def _code(name: str) -> Callable[[Mean], str]:
    return lambda mean: f"`{mean[name]}`"


def _score_table(rows: Iterable[Row], datasets: Sequence[str], keys: Sequence[str], columns: Columns) -> str:
    """Return a line for each group of rows that agree in `keys`: the columns, then the scores on each dataset."""
    head = [*columns, *(f"{dataset}: {what}" for dataset in datasets for what in ("mAP", "LocScore"))]
    body = []
    for by_dataset in means(rows, keys).values():
        line = [cell(next(iter(by_dataset.values()))) for cell in columns.values()]
        for dataset in datasets:
            line += [_number(by_dataset.get(dataset), name) for name in ("map", "locscore")]
        body.append(line)
    return table(head, body)


def _number(mean: Mean | None, name: str) -> str:
    value = mean.of(name) if mean else None
    if mean is None or value is None:
        return "—"
    return f"{value:.3f}" + (f" ± {mean.spread(name) / 2:.3f}" if len(mean.rows) > 1 else "")


def _encoder_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    columns = {
        "encoder": lambda mean: mean["encoder"],
        "regions": lambda mean: without_seed(mean["regions"]),
        **PATCHES,
    }
    return [_score_table(rows, datasets, ("encoder", "regions"), columns)]


def _finest(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row["regions"] == row["indexed"]]


def _region_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    columns = {"regions": lambda mean: f"`{without_seed(mean['regions'])}`", **PATCHES}
    return [_score_table(_finest(rows), datasets, ("regions",), columns)]


def _codec(mean: Mean) -> str:
    return f"`{mean['factory']}`" + (f" + `{mean['rescore']}`" if mean["rescore"] else "")


def _compression_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    rows = _finest(rows)
    sizes = [row for row in rows if row["codebook"] == "uniform" and "x4" not in row["factory"]]
    compared = {row["factory"] for row in rows if row["codebook"] != "uniform"}
    trained = [row for row in rows if row["factory"] in compared and not row["rescore"]]
    trained.sort(key=lambda row: (-row["bytes_per_patch"], row["factory"]))
    per_picture: Columns = {"bytes per picture": lambda mean: f"{mean['bytes_per_image']:,}"}
    codebook: Columns = {"trained on": lambda mean: mean["codebook"]}
    return [
        _score_table(sizes, datasets, ("factory", "rescore"), {"codec": _codec, **BYTES, **per_picture}),
        _score_table(trained, datasets, ("factory", "codebook"), {"codec": _code("factory"), **BYTES, **codebook}),
    ]


def _rerank_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    blocks = []
    for level in sorted({row["level"] for row in rows}):
        of_level = [row for row in rows if row["level"] == level]
        columns: Columns = {f"re-ranker on `{of_level[0]['regions']}`": lambda mean: mean["rerank"] or "none"}
        lines = _score_table(of_level, datasets, ("rerank",), columns).split("\n")
        times = ["ms per query", "---", *map(_milliseconds, means(of_level, ("rerank",)).values())]
        blocks.append("\n".join(f"{line} {time} |" for line, time in zip(lines, times, strict=True)))
    return blocks


def _milliseconds(by_dataset: dict[str, Mean]) -> str:
    times = [mean.of("ms_per_rerank") for mean in by_dataset.values()]
    known = [value for value in times if value is not None]
    return f"{fmean(known):.0f}" if known else "—"


def _feature_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    features = {"features": _code("features"), "codec": _code("factory"), **PATCHES}
    return [
        _score_table((r for r in rows if not r["query"]), datasets, ("features", "factory", "level"), features),
        _score_table((r for r in rows if r["query"]), datasets, ("query",), {"query described by": _views}),
    ]


def _views(mean: Mean) -> str:
    parts = mean["query"].split("+")
    sides = [part for part in parts if part != "picture"]
    words = [f"its box at {' and '.join(sides)} px"] if sides else []
    return " and ".join([*words, *(["its box within its picture"] if "picture" in parts else [])])


def _box_tables(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    names = {None: "winning patch", "soft": "`--refine soft`", "map": "`--refine map`"}
    columns: Columns = {
        "features": _code("features"),
        "box": lambda mean: names[mean["refine"]],
        "ranking": lambda mean: f"`--rerank {mean['rerank']}`" if mean["rerank"] else "by patches",
        **PATCHES,
    }
    return [_score_table(rows, datasets, ("features", "refine", "rerank", "level"), columns)]


@dataclass(frozen=True)
class Experiment:
    """One of the experiments.

    Attributes:
        configurations: Encoder -> what is compared.
        tables: (rows, names of datasets) -> Markdown tables.
    """

    configurations: Callable[[str], Sequence[Configuration]]
    tables: Callable[[Sequence[Row], Sequence[str]], list[str]]


STUDIES = {
    "encoders": Experiment(_encoders, _encoder_tables),
    "regions": Experiment(_regions, _region_tables),
    "compression": Experiment(_compression, _compression_tables),
    "rerank": Experiment(_rerank, _rerank_tables),
    "features": Experiment(_features, _feature_tables),
    "boxes": Experiment(_boxes, _box_tables),
}
