"""Run an experiment: score one configuration after the other, and store each finished one as a JSON line.

All experiments share the exact descriptors of each dataset, which are embedded once and stored in a folder
(`Workbench`); codes are computed from them.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders import Encoder, EncoderInfo, load_encoder
from patchify_core.errors import EncoderError, GalleryError, IndexFolderError, PatchifyError
from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.record import gallery_digest, journal_beside, write_json
from patchify_core.evaluation.results import FORMAT, STUDY
from patchify_core.evaluation.run import LevelReport, evaluate
from patchify_core.evaluation.study.experiments import Configuration
from patchify_core.features.extract import CROP, Pooled
from patchify_core.files import JsonLines, sha256_of_bytes, sha256_of_json
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.build import BuildSettings, build_index, recode
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.patch_index import PatchIndex
from patchify_core.regions import parse_regions
from patchify_core.retrieval.localize import refiner_of
from patchify_core.retrieval.rerank import Reranker, load_reranker
from patchify_core.retrieval.searcher import Searcher

LONGEST_NAME = 200
"""Most characters of a folder name; a build adds a few, and file systems allow 255."""

DIGITS = 4
"""Decimals of the numbers per query, because the file is shipped with the page."""


PICTURE = "picture"
"""The part of `Configuration.query` for the query's box within its picture."""


class CachingEncoder:
    """An encoder that caches descriptors, so that all configurations get the same queries."""

    def __init__(self, encoder: Encoder) -> None:
        self.plain = encoder
        self._cache: dict[str, NDArray[np.float32]] = {}

    @property
    def info(self) -> EncoderInfo:
        """See `Encoder.info`."""
        return self.plain.info

    def prepare(self, picture: object, box: Sequence[float]) -> NDArray[np.uint8]:
        """See `Encoder.prepare`."""
        return self.plain.prepare(picture, box)  # type: ignore[arg-type]

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Encoder.encode`; each crop is encoded on its own, so that its descriptor depends on nothing else."""
        digests = [sha256_of_bytes(crop.tobytes()) for crop in crops]
        for digest, crop in zip(digests, crops, strict=True):
            if digest not in self._cache:
                self._cache[digest] = self.plain.encode(crop[None])[0]
        return np.stack([self._cache[digest] for digest in digests])


class Workbench:
    """Exact indexes of datasets, stored in a folder.

    Args:
        folder: The folder, with one sub-folder per dataset, encoder and regions; created if missing.
        load: Encoder spec -> encoder.
    """

    def __init__(self, folder: Path, load: Callable[[str], Encoder] = load_encoder) -> None:
        self.folder, self._load = folder, load
        self._encoders: dict[str, CachingEncoder] = {}
        self._exact: tuple[tuple[Path, Path], PatchIndex] | None = None

    def engine(self, gallery: Gallery, configuration: Configuration, progress: Progress | None = None) -> Searcher:
        """Return the engine of a configuration; embed the gallery first if necessary (resumable).

        Raises:
            GalleryError: If a picture of the dataset cannot be read.
            PatchifyError: If the configuration is impossible for this dataset.
        """
        caching = self._encoder(configuration.encoder)
        exact = self._embedded(gallery, caching.plain, configuration, progress)
        # Queries of pooled features go through the network as maps, not as crops.
        encoder: Encoder = caching if configuration.features == CROP else caching.plain
        if configuration.factory == "Flat" and configuration.rescore is None:
            return _engine(exact, encoder, configuration)
        settings = CodeSettings(
            configuration.factory, configuration.codebook, configuration.rescore, seed=configuration.seed
        )
        settings.check(encoder.info.dim, exact.regions, len(exact.images))
        return _engine(recode(exact, settings), encoder, configuration)

    def place(self, dataset: str, configuration: Configuration) -> Path:
        """Return the folder of a dataset's exact descriptors for a configuration, which need not exist."""
        features = configuration.features
        # Folders of crops are named as in earlier versions, which had only crops.
        parts = [dataset, configuration.encoder, parse_regions(configuration.regions).spec]
        parts += [] if features == CROP else [features]
        name = re.sub(r"[^A-Za-z0-9_.,+-]+", "-", "_".join(parts))
        if len(name) > LONGEST_NAME:  # an encoder may be a file with a long path
            name = f"{name[:40]}-{name[40 - LONGEST_NAME :]}-{sha256_of_bytes(name.encode())[:8]}"
        return self.folder / name

    def _encoder(self, spec: str) -> CachingEncoder:
        if spec not in self._encoders:
            self._encoders = {spec: CachingEncoder(self._load(spec))}  # one network in memory at a time
        return self._encoders[spec]

    def _embedded(
        self, gallery: Gallery, encoder: Encoder, configuration: Configuration, progress: Progress | None
    ) -> PatchIndex:
        regions, features = parse_regions(configuration.regions), configuration.features
        out = self.place(gallery.display_name, replace(configuration, encoder=encoder.info.spec))
        key = (gallery.root, out)
        if self._exact is None or self._exact[0] != key:
            out.parent.mkdir(parents=True, exist_ok=True)
            settings = BuildSettings(features=features, keep_maps=features != CROP)
            built = build_index(gallery, out, encoder, regions, settings, progress)
            if built.skipped:
                raise GalleryError(
                    f"{len(built.skipped)} pictures of {gallery.root} cannot be read ({built.skipped[0][0]}, ...): "
                    "no score without them."
                )
            self._exact = (key, PatchIndex.load(out))
        return self._exact[1]


def _engine(index: PatchIndex, encoder: Encoder, configuration: Configuration) -> Searcher:
    engine = Searcher(index, encoder)
    if configuration.query and isinstance(engine.extractor, Pooled):
        parts = configuration.query.split("+")
        engine.extractor.settings = replace(
            engine.extractor.settings,
            query_sides=tuple(int(part) for part in parts if part != PICTURE),
            query_in_picture=PICTURE in parts,
        )
    return engine


@dataclass(frozen=True)
class Step:
    """The next configuration of an experiment, for a progress bar."""

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
    report: Callable[[Step], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    command: str = "",
    *,
    cells: Path | None = None,
    weights: Mapping[str, str] | None = None,
    finished: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run an experiment.

    Args:
        name: Its name.
        configurations: The configurations to compare.
        galleries: Datasets with queries.
        workbench: The folder of exact descriptors.
        out: The file to write; configurations that an interrupted run finished are read from its `.partial`.
        report: Called before each configuration that is measured.
        progress: Called while pictures are embedded.
        command: The command that writes the file, for the record.
        cells: A permanent file of finished configurations, one JSON line each, instead of the `.partial`; experiments
            that share configurations can share it.
        weights: Encoder -> digest of its weights, which must be those of a finished configuration.
        finished: Called with the numbers so far after each configuration that is measured.

    Returns:
        The content of the file: datasets, their queries, a row per configuration and level (`_row`), and refused
        configurations with the reason.
    """
    beside = cells or (journal_beside(out) if out else None)
    journal = JsonLines(beside, '{"key": ') if beside else None
    known = finished_cells(journal.values) if journal else {}
    datasets = {gallery.display_name: _dataset(gallery) for gallery in galleries}
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
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
    total = len(galleries) * len(configurations)
    rerankers: dict[str, Reranker] = {}
    # Configurations with the same descriptors are adjacent, so that each exact index is loaded once per dataset.
    for done, (gallery, configuration) in enumerate((g, c) for g in galleries for c in configurations):
        dataset = gallery.display_name
        key = cell_key(dataset, datasets[dataset]["digest"], configuration, weights)
        entry = known.get(sha256_of_json(key))
        new = entry is None
        if entry is None:
            if report:
                report(Step(done, total, dataset, configuration))
            entry = {"key": key, **_measured(gallery, configuration, workbench, rerankers, progress)}
            if journal and not (entry["refused"] and entry in journal.values):
                journal.add(entry)
        rows += [{"dataset": dataset, **row} for row in entry["rows"]]
        refused += [{"dataset": dataset, **configuration.as_dict(), "why": why} for why in entry["refused"]]
        if new and finished:
            finished(numbers)
    if out:
        write_json(out, numbers, indent=None)  # it is long, and shipped with the page
        if journal and not cells:
            journal.remove()
    return numbers


def finished_cells(lines: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return digest of a configuration's key (`cell_key`) -> its line, for the lines of measured configurations.

    Refused configurations are tried again: a missing package may have been installed since.
    """
    entries = [entry for entry in lines if _is_entry(entry) and not entry["refused"]]
    return {sha256_of_json(entry["key"]): entry for entry in entries}


def cell_key(
    dataset: str, digest: str, configuration: Configuration, weights: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the key of a finished configuration as JSON values; `digest` is `record.gallery_digest`."""
    key = {"dataset": dataset, "digest": digest, **configuration.as_dict()}
    key["levels"] = configuration.levels and list(configuration.levels)
    return key if weights is None else key | {"weights": weights[configuration.encoder]}


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
    """Measure one configuration; return its rows, or the reason why it is impossible, e.g. too few pictures."""
    try:
        engine = workbench.engine(gallery, configuration, progress)
        reranker = None
        if configuration.rerank:
            if configuration.rerank not in rerankers:
                rerankers[configuration.rerank] = load_reranker(configuration.rerank)
            reranker = rerankers[configuration.rerank]
    except (EncoderError, GalleryError, IndexFolderError):
        raise  # not specific to this configuration: all others would fail too
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
    """Return one configuration at one level: averages, and parallel lists with an entry per query."""
    scores = {
        query: None if outcome.positives is None else score_positives(outcome.positives)
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
        **({"published": [asdict(score) for score in report.published]} if report.published else {}),
        "ap": [None if score is None else round(score.ap, DIGITS) for score in listed],
        "ls": [None if score is None or score.locscore is None else round(score.locscore, DIGITS) for score in listed],
        "first_hit": [None if score is None else score.first_hit for score in listed],
        "best": [_best(report, query) for query in order],
    }


def _best(report: LevelReport, query: int) -> list[float] | None:
    """Return the first picture and its box: image id, x1, y1, x2, y2."""
    best = report.outcomes[query].best
    return None if best is None else [best[0], *(round(float(value), 1) for value in best[1])]


def _is_entry(line: Any) -> bool:
    """Return whether a line of the journal is that of a configuration."""
    return isinstance(line, dict) and {"key", "rows", "refused"} <= line.keys() and isinstance(line["key"], dict)
