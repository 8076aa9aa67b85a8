"""The tables of an experiment, as Markdown: what NUMBERS.md shows is what this prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from patchify_core.evaluation.results import Row


@dataclass(frozen=True)
class Mean:
    """Rows that differ in their seed alone.

    Attributes:
        rows: at least one.
    """

    rows: tuple[Row, ...]

    def of(self, name: str) -> float | None:
        """Mean of a number over the seeds; None where it is not there."""
        values = [row[name] for row in self.rows]
        return None if any(value is None for value in values) else fmean(values)

    def spread(self, name: str) -> float:
        """Largest minus smallest over the seeds."""
        values = [row[name] for row in self.rows if row[name] is not None]
        return max(values) - min(values) if values else 0.0

    def __getitem__(self, name: str) -> Any:
        """What all rows have in common."""
        return self.rows[0][name]


def without_seed(spec: str) -> str:
    """`random:30,2` -> `random:30`."""
    return re.sub(r"(random:\d+),\d+", r"\1", spec)


def means(rows: Iterable[Row], keys: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Mean]]:
    """Group rows by `keys`, then by dataset; in the order in which they come."""
    grouped: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        key = tuple(without_seed(row[k]) if k in ("regions", "indexed") else row[k] for k in keys)
        grouped.setdefault(key, {}).setdefault(row["dataset"], []).append(row)
    return {
        key: {dataset: Mean(tuple(found)) for dataset, found in by_dataset.items()}
        for key, by_dataset in grouped.items()
    }


def tables(numbers: dict[str, Any]) -> str:
    """All tables of one study's numbers (`run.run_study`), with its notes."""
    datasets = list(numbers["datasets"])
    blocks = _TABLES[numbers["study"]](numbers["rows"], datasets)
    notes = [not_had(refusal) for refusal in numbers["refused"]]
    return "\n\n".join([*blocks, *sorted(set(notes))])


def not_had(refusal: Row) -> str:
    """The note on a configuration that could not be had."""
    parts = [refusal["encoder"], refusal["regions"], refusal["factory"], refusal["codebook"], refusal["rerank"] or ""]
    return f"Not had on {refusal['dataset']} ({', '.join(part for part in parts if part)}): {refusal['why']}"


def _encoders(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    grouped = means(rows, ("encoder", "regions"))
    head = ["encoder", "regions", "patches", *_score_heads(datasets)]
    return [
        table(head, [[*key, str(_any(by)["patches"]), *_scores(by, datasets)] for key, by in grouped.items()]),
    ]


def _regions(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    whole = [row for row in rows if row["regions"] == row["indexed"]]
    grouped = means(whole, ("regions",))
    head = ["regions", "patches", *_score_heads(datasets)]
    body = [[f"`{key[0]}`", str(_any(by)["patches"]), *_scores(by, datasets)] for key, by in grouped.items()]
    return [table(head, body)]


def _compression(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    rows = [row for row in rows if row["regions"] == row["indexed"]]
    sizes = means(
        [row for row in rows if row["codebook"] == "uniform" and "x4" not in row["factory"]], ("factory", "rescore")
    )
    head = ["codec", "bytes per patch", "bytes per picture", *_score_heads(datasets)]
    body = [
        [
            f"`{factory}`" + (f" + `{rescore}`" if rescore else ""),
            str(_any(by)["bytes_per_patch"]),
            f"{_any(by)['bytes_per_image']:,}",
            *_scores(by, datasets),
        ]
        for (factory, rescore), by in sizes.items()
    ]
    compared = {row["factory"] for row in rows if row["codebook"] != "uniform"}
    trained = [row for row in rows if row["factory"] in compared and not row["rescore"]]
    books = means(sorted(trained, key=lambda row: (-row["bytes_per_patch"], row["factory"])), ("factory", "codebook"))
    book_head = ["codec", "bytes per patch", "trained on", *_score_heads(datasets)]
    book_body = [
        [f"`{factory}`", str(_any(by)["bytes_per_patch"]), codebook, *_scores(by, datasets)]
        for (factory, codebook), by in books.items()
    ]
    return [table(head, body), table(book_head, book_body)]


def _rerank(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    blocks = []
    for level in sorted({row["level"] for row in rows}):
        grouped = means([row for row in rows if row["level"] == level], ("rerank",))
        spec = next(row["regions"] for row in rows if row["level"] == level)
        head = [f"re-ranker on `{spec}`", *_score_heads(datasets), "ms per query"]
        body = [[key[0] or "none", *_scores(by, datasets), _milliseconds(by, datasets)] for key, by in grouped.items()]
        blocks.append(table(head, body))
    return blocks


def _features(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    ways = means([row for row in rows if not row["query"]], ("features", "factory", "level"))
    head = ["features", "codec", "patches", *_score_heads(datasets)]
    body = [
        [f"`{features}`", f"`{factory}`", str(_any(by)["patches"]), *_scores(by, datasets)]
        for (features, factory, _), by in ways.items()
    ]
    queries = means([row for row in rows if row["query"]], ("query",))
    query_head = ["query described by", *_score_heads(datasets)]
    query_body = [[_views(key[0]), *_scores(by, datasets)] for key, by in queries.items()]
    return [table(head, body), table(query_head, query_body)]


def _views(query: str) -> str:
    sides = [part for part in query.split("+") if part != "picture"]
    words = [f"its box at {' and '.join(sides)} px"] if sides else []
    return " and ".join([*words, *(["its box within its picture"] if "picture" in query else [])])


def _boxes(rows: Sequence[Row], datasets: Sequence[str]) -> list[str]:
    grouped = means(rows, ("features", "refine", "rerank", "level"))
    head = ["features", "box", "ranking", "patches", *_score_heads(datasets)]
    names = {None: "winning patch", "soft": "`--refine soft`", "map": "`--refine map`"}
    body = [
        [
            f"`{features}`",
            names[refine],
            f"`--rerank {rerank}`" if rerank else "by patches",
            str(_any(by)["patches"]),
            *_scores(by, datasets),
        ]
        for (features, refine, rerank, _), by in grouped.items()
    ]
    return [table(head, body)]


_TABLES: dict[str, Callable[[Sequence[Row], Sequence[str]], list[str]]] = {
    "encoders": _encoders,
    "regions": _regions,
    "compression": _compression,
    "rerank": _rerank,
    "features": _features,
    "boxes": _boxes,
}


def _any(by_dataset: dict[str, Mean]) -> Mean:
    return next(iter(by_dataset.values()))


def _score_heads(datasets: Sequence[str]) -> list[str]:
    return [f"{dataset}: {what}" for dataset in datasets for what in ("mAP", "LocScore")]


def _scores(by_dataset: dict[str, Mean], datasets: Sequence[str]) -> list[str]:
    cells = []
    for dataset in datasets:
        mean = by_dataset.get(dataset)
        cells += ["—", "—"] if mean is None else [_number(mean, "map"), _number(mean, "locscore")]
    return cells


def _number(mean: Mean, name: str) -> str:
    value = mean.of(name)
    if value is None:
        return "—"
    spread = mean.spread(name) / 2
    return f"{value:.3f}" + (f" ± {spread:.3f}" if len(mean.rows) > 1 else "")


def _milliseconds(by_dataset: dict[str, Mean], datasets: Sequence[str]) -> str:
    found = [by_dataset[dataset].of("ms_per_rerank") for dataset in datasets if dataset in by_dataset]
    times = [value for value in found if value is not None]
    return f"{fmean(times):.0f}" if times else "—"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
