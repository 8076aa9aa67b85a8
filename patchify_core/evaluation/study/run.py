"""Scores configurations one after the other. A finished one is a line on disk, so the same command goes on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import EncoderError, GalleryError, IndexFolderError, PatchifyError
from patchify_core.evaluation.journal import JsonLines, journal_beside
from patchify_core.evaluation.metrics import score_found
from patchify_core.evaluation.record import gallery_digest, write_json
from patchify_core.evaluation.results import FORMAT, STUDY
from patchify_core.evaluation.run import LevelReport, evaluate
from patchify_core.evaluation.study.plans import Configuration
from patchify_core.evaluation.study.workbench import Workbench
from patchify_core.gallery import Gallery
from patchify_core.retrieval.localize import refiner_of
from patchify_core.retrieval.rerank import Reranker, load_reranker

DIGITS = 4
"""Decimals of a query's own numbers: the file is shipped with the page."""


@dataclass(frozen=True)
class Step:
    """What is being done, for a bar: which configuration of how many, on which dataset."""

    done: int
    total: int
    dataset: str
    configuration: Configuration


def run_study(
    name: str,
    configurations: Sequence[Configuration],
    galleries: Sequence[Gallery],
    workbench: Workbench,
    out: Path | None = None,
    tell: Callable[[Step], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Runs an experiment.

    Args:
        name: what it is called.
        configurations: what is compared.
        galleries: datasets with queries.
        workbench: where descriptors are kept.
        out: the file to write; configurations that an interrupted run finished are taken from its `.partial`.
        tell: called before each configuration.
        progress: called while pictures are embedded.
        command: how to make the file again, written into it.

    Returns:
        What was written: datasets, their queries, a row per configuration and level (`_row`), and what could not be
        had, with the reason.
    """
    beside = journal_beside(out) if out else None
    journal = JsonLines(beside, '{"key": ') if beside else None
    finished = [entry for entry in journal.values if _is_entry(entry)] if journal else []
    datasets = {gallery.root.resolve().name: _dataset(gallery) for gallery in galleries}
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    total = len(galleries) * len(configurations)
    rerankers: dict[str, Reranker] = {}
    # By encoder and regions, so that each exact index is loaded once a dataset.
    for done, (gallery, configuration) in enumerate((g, c) for g in galleries for c in configurations):
        dataset = gallery.root.resolve().name
        key = {"dataset": dataset, "digest": datasets[dataset]["digest"], **configuration.as_dict()}
        key["levels"] = configuration.levels and list(configuration.levels)
        # What could not be had is tried again: a missing package may have been installed since.
        entry = next((entry for entry in finished if entry["key"] == key and not entry["refused"]), None)
        if entry is None:
            if tell:
                tell(Step(done, total, dataset, configuration))
            entry = {"key": key, **_measured(gallery, configuration, workbench, rerankers, progress)}
            if journal:
                journal.add(entry)
        rows += [{"dataset": dataset, **row} for row in entry["rows"]]
        refused += [{"dataset": dataset, **configuration.as_dict(), "why": why} for why in entry["refused"]]
    numbers = {
        "program": STUDY,
        "format": FORMAT,
        "study": name,
        "command": command,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "datasets": datasets,
        "rows": rows,
        "refused": refused,
    }
    if out:
        write_json(out, numbers, indent=None)  # it is long, and shipped with the page
        if journal:
            journal.remove()
    return numbers


def _dataset(gallery: Gallery) -> dict[str, Any]:
    return {
        "digest": gallery_digest(gallery),
        "pictures": len(gallery.images),
        "queries": [query.id for query in gallery.queries],
        "instances": [gallery.name(query.instance) for query in gallery.queries],
    }


def _measured(
    gallery: Gallery,
    configuration: Configuration,
    workbench: Workbench,
    rerankers: dict[str, Reranker],
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """The rows of one configuration, or why it cannot be had: a codebook with too few pictures, say."""
    try:
        engine = workbench.engine(gallery, configuration, progress)
        reranker = None
        if configuration.rerank:
            if configuration.rerank not in rerankers:
                rerankers[configuration.rerank] = load_reranker(configuration.rerank)
            reranker = rerankers[configuration.rerank]
    except (EncoderError, GalleryError, IndexFolderError):
        raise  # nothing that belongs to this configuration alone: there would be a table without numbers
    except PatchifyError as error:
        return {"rows": [], "refused": [str(error)]}
    refiner = refiner_of(engine, configuration.refine) if configuration.refine else None
    reports = evaluate(gallery, engine, configuration.levels, reranker=reranker, refiner=refiner)
    order = [query.id for query in gallery.queries]
    index = engine.index
    return {
        "rows": [_row(configuration, report, order, index.bytes_per_patch, index.factory) for report in reports],
        "refused": [],
    }


def _row(
    configuration: Configuration, report: LevelReport, order: Iterable[int], bytes_per_patch: int, factory: str
) -> dict[str, Any]:
    """One configuration at one level: averages, and parallel lists with an entry per query."""
    scores = {
        query: None if outcome.found is None else score_found(outcome.found)
        for query, outcome in report.outcomes.items()
    }
    listed = [scores[query] for query in order]
    numbers = report.report
    return {
        **configuration.as_dict(),
        "factory": factory,
        "indexed": configuration.regions,
        "regions": report.spec,
        "level": report.level,
        "patches": report.patches,
        "bytes_per_patch": bytes_per_patch,
        "bytes_per_image": bytes_per_patch * report.patches,
        "map": numbers.map,
        "locscore": numbers.locscore,
        "mean_iou": numbers.mean_iou,
        **{f"recall@{k}": share for k, share in numbers.recall.items()},
        "ms_per_query": report.ms_per_query,
        "ms_per_rerank": report.ms_per_rerank,
        "ap": [None if score is None else round(score.ap, DIGITS) for score in listed],
        "ls": [None if score is None or score.locscore is None else round(score.locscore, DIGITS) for score in listed],
        "first_hit": [None if score is None else score.first_hit for score in listed],
        "best": [_best(report, query) for query in order],
    }


def _best(report: LevelReport, query: int) -> list[float] | None:
    """The picture that came first and its box: image id, x1, y1, x2, y2."""
    best = report.outcomes[query].best
    return None if best is None else [best[0], *(round(float(value), 1) for value in best[1])]


def _is_entry(line: Any) -> bool:
    """Whether a line of the journal is that of a finished configuration."""
    return isinstance(line, dict) and {"key", "rows", "refused"} <= line.keys()
