"""What an evaluation writes to disk: its numbers as JSON and CSV, and a journal of finished queries while it runs.

The journal, `<file>.partial`, is a file of JSON lines that may be cut off anywhere: a torn last line loses that query
only. It begins with a header of all settings that the numbers depend on, among them digests of dataset and index.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchify_core import files
from patchify_core.errors import GalleryError
from patchify_core.evaluation.metrics import score_positives
from patchify_core.evaluation.positives import RankedPositives
from patchify_core.evaluation.results import EVALUATION, FORMAT
from patchify_core.evaluation.run import AT_1K, LevelReport, Outcome
from patchify_core.files import JsonLines, sha256_of_json
from patchify_core.gallery import Gallery, Query
from patchify_core.index.folder import read_meta

CSV_COLUMNS = (
    "query",
    "file_name",
    "instance",
    "name",
    "level",
    "regions",
    "positives",
    "found",
    "first_hit",
    "ap",
    "locscore",
    "mean_iou",
    "ap@1k",
    "locscore@1k",
)


# Digests ---------------------------------------------------------------------------------------------------


def gallery_digest(gallery: Gallery) -> str:
    """Return the digest of a dataset: pictures, queries (with the sizes of their files) and annotations.

    It does not depend on the folder's name, so a dataset may be moved.

    Raises:
        GalleryError: If a query's file is gone.
    """
    digest = hashlib.sha256()
    for image in gallery.images:
        digest.update(repr(("image", image.id, image.file_name, image.width, image.height)).encode())
    for query in gallery.queries:
        box = None if query.box is None else query.box.tolist()
        try:
            size = query.path.stat().st_size
        except OSError as error:
            raise GalleryError(f"{str(query.path)!r} cannot be read: put the query's picture back.") from error
        row = (query.id, query.file_name, query.width, query.height, box, query.instance, sorted(query.exclude), size)
        words = () if query.text is None else (query.text,)
        digest.update(repr(("query", *row, *words)).encode())
    for name, column in sorted(vars(gallery.annotations).items()):
        digest.update(repr((name, column.shape)).encode() + np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def index_digest(folder: Path) -> str:
    """Return the digest of an index: pictures, encoder, settings and codes, but not the path of the pictures.

    Raises:
        IndexFolderError: If it is not an index folder.
    """
    return sha256_of_json({key: value for key, value in read_meta(folder).items() if key not in ("root", "digest")})


# The numbers -----------------------------------------------------------------------------------------------


def run_as_json(
    gallery: Gallery,
    reports: Sequence[LevelReport],
    settings: Mapping[str, Any],
    bytes_per_image: float,
    images_per_s: float | None,
) -> dict[str, Any]:
    """Return all results of an evaluation: `as_json`, its settings and the scores of each query.

    Args:
        gallery: The dataset.
        reports: The result of `evaluate`.
        settings: All that the numbers depend on, as passed to `RunJournal`; `cutoff` is read from it.
        bytes_per_image: Bytes of descriptors per picture.
        images_per_s: Pictures indexed per second; None if they were indexed before.
    """
    rows = query_rows(gallery, reports, settings.get("cutoff"))
    queries: dict[int, dict[str, Any]] = {}
    for row in rows:
        query = {"id": row["query"], **{key: row[key] for key in ("file_name", "instance", "name")}, "levels": {}}
        scores = {key: row[key] for key in CSV_COLUMNS[CSV_COLUMNS.index("positives") :]}
        queries.setdefault(row["query"], query)["levels"][str(row["level"])] = scores
    return {
        "program": EVALUATION,
        "format": FORMAT,
        **as_json(reports, bytes_per_image, images_per_s),
        "run": {"name": gallery.root.resolve().name, "pictures": len(gallery.images), **settings},
        "per_query": list(queries.values()),
    }


def as_json(reports: Sequence[LevelReport], bytes_per_image: float, images_per_s: float | None) -> dict[str, Any]:
    """Return the finest level's numbers at the top, and those of every level under `levels`."""
    finest = max(reports, key=lambda report: report.level)
    return {
        **_numbers(finest),
        "images_per_s": images_per_s,
        "bytes_per_image": bytes_per_image,
        "levels": [
            {
                "level": report.level,
                "regions": report.spec,
                "patches": report.patches,
                **_numbers(report),
                "breakdown": {kind: [part.as_dict() for part in parts] for kind, parts in report.breakdown.items()},
                "published": [asdict(score) for score in report.published],
            }
            for report in reports
        ],
    }


def _numbers(report: LevelReport) -> dict[str, Any]:
    return {
        **report.report.as_dict(),
        "map@1k": report.at_1k.map,
        "locscore@1k": report.at_1k.locscore,
        "ms_per_query": report.ms_per_query,
        "ms_per_rerank": report.ms_per_rerank,
    }


def query_rows(gallery: Gallery, reports: Sequence[LevelReport], cutoff: int | None = None) -> list[dict[str, Any]]:
    """Return one row per query and level, with `CSV_COLUMNS`; the scores of a query without positives are None."""
    return [_row(gallery, query, report, cutoff) for query in gallery.queries for report in reports]


def _row(gallery: Gallery, query: Query, report: LevelReport, cutoff: int | None) -> dict[str, Any]:
    positives = report.outcomes[query.id].positives
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS)
    row |= {"query": query.id, "file_name": query.file_name, "instance": query.instance}
    row |= {"name": gallery.name(query.instance), "level": report.level, "regions": report.spec}
    if positives is None:
        return row | {"positives": 0, "found": 0}
    score, at_1k = score_positives(positives, cutoff), score_positives(positives, AT_1K)
    row |= {"positives": score.positives, "found": len(score.ranks), "first_hit": score.first_hit}
    row |= {"ap": score.ap, "locscore": score.locscore, "mean_iou": score.mean_iou}
    return row | {"ap@1k": at_1k.ap, "locscore@1k": at_1k.locscore}


def write_json(path: Path, numbers: Mapping[str, Any], indent: int | None = 1) -> None:
    """Write numbers as JSON, atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    with _replacing(path) as file:
        file.write(json.dumps(numbers, indent=indent, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = CSV_COLUMNS) -> None:
    """Write rows as CSV (comma, UTF-8, an empty field for None), atomically.

    Raises:
        OSError: If the file cannot be written.
    """
    text = StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with _replacing(path) as file:
        file.write(text.getvalue())


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """Open a text file that replaces `path` once it is written; a pipe or terminal is written directly."""
    real = Path(os.path.realpath(path))  # a link stays a link
    if real.exists() and not real.is_file():
        with open(real, "w", encoding="utf-8", newline="") as file:
            yield file
        return
    with files.atomic(real, sync=True) as raw:
        text = TextIOWrapper(raw, encoding="utf-8", newline="")
        yield text
        text.detach()  # flushes, and leaves the file open


# The journal -----------------------------------------------------------------------------------------------


def journal_beside(file: Path) -> Path | None:
    """Return the path of a result file's journal; None if the file is a pipe or a terminal."""
    real = Path(os.path.realpath(file))
    return None if real.exists() and not real.is_file() else real.with_name(real.name + ".partial")


class RunJournal:
    """The finished queries of one evaluation, on disk. A context manager, which deletes a journal without any query.

    Attributes:
        path: The journal's file.
        finished: Query id -> level -> outcome, of the queries finished so far.
        changed: Settings in which an existing journal differed, so that it was started over; empty if it was resumed
            or there was none.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], levels: Sequence[int]) -> None:
        """Open the journal, and resume what an interrupted run with the same settings wrote to it.

        Args:
            path: The journal's file, created if missing.
            settings: All that the numbers depend on, as JSON values.
            levels: The levels that each finished query must have.

        Raises:
            PatchifyError: If the file is something else.
            OSError: If the file cannot be read or written.
        """
        self.path, self._levels = path, [str(level) for level in levels]
        # Every line has the digest of its settings, in case two different runs write to one file after all.
        self._key = sha256_of_json(dict(settings))[:16]
        self.finished: dict[int, Mapping[int, Outcome]] = {}
        self.changed: tuple[str, ...] = ()
        header = {"journal of": EVALUATION, "format": FORMAT, "settings": dict(settings)}
        self._lines = JsonLines(path, f'{{"journal of": "{EVALUATION}"')
        known, lines = (self._lines.values or [None])[0], self._lines.values[1:]
        if known == header:
            for line in lines:
                self._resume(line)
            return
        if isinstance(known, dict):
            old = known.get("settings")
            old = old if isinstance(old, dict) else {}
            self.changed = tuple(key for key in settings if old.get(key) != settings[key]) or ("format",)
        self._lines.begin(header)

    def __enter__(self) -> RunJournal:
        """Return the journal itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Delete a journal without any query."""
        if not self.finished:
            self.remove()

    def add(self, query_id: int, outcomes: Mapping[int, Outcome]) -> None:
        """Append a finished query.

        Args:
            query_id: The query's id in its gallery.
            outcomes: Level -> outcome.

        Raises:
            OSError: If the file cannot be written, for example because the disk is full.
        """
        levels = {str(level): _outcome_as_json(outcome) for level, outcome in outcomes.items()}
        self._lines.add({"run": self._key, "query": query_id, "levels": levels})
        self.finished[query_id] = outcomes

    def remove(self) -> None:
        """Delete the journal."""
        self._lines.remove()

    def _resume(self, line: Any) -> None:
        """Accept a line if it is complete and of this run; otherwise its query is searched again."""
        with suppress(KeyError, TypeError, ValueError):
            if line["run"] == self._key:
                outcomes = {int(level): _outcome_from_json(line["levels"][level]) for level in self._levels}
                self.finished[line["query"]] = outcomes


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    positives = outcome.positives
    return {
        "search_ms": outcome.search_ms,
        "rerank_ms": outcome.rerank_ms,
        "best": None if outcome.best is None else [outcome.best[0], outcome.best[1].tolist()],
        "positives": None if positives is None else positives.total,
        "located": positives is not None and positives.located,
        "images": [] if positives is None else positives.image_ids.tolist(),
        "ranks": [] if positives is None else positives.ranks.tolist(),
        "before": [] if positives is None else positives.before.tolist(),
        "tied": [] if positives is None else positives.tied.tolist(),
        "ious": [] if positives is None else [None if math.isnan(iou) else iou for iou in positives.ious.tolist()],
    }


def _outcome_from_json(values: dict[str, Any]) -> Outcome:
    positives = None
    if values["positives"] is not None:
        ranks, before, tied = (np.array(values[key], np.intp) for key in ("ranks", "before", "tied"))
        positives = RankedPositives(
            image_ids=np.array(values["images"], np.int64),
            ranks=ranks,
            before=before,
            tied=tied,
            ious=np.array([math.nan if iou is None else iou for iou in values["ious"]], np.float64),
            total=int(values["positives"]),
            located=bool(values["located"]),
        )
    best = None if values["best"] is None else (int(values["best"][0]), np.array(values["best"][1], np.float64))
    return Outcome(positives, values["search_ms"], values["rerank_ms"], best)
