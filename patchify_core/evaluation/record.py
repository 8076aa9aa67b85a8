"""What an evaluation leaves on disk: a journal while it runs, and its numbers as JSON and CSV when it is done.

The journal is a file of JSON lines, `<file>.partial`: a header that says what is evaluated and how, then one line for
each finished query. It can be cut anywhere: a torn last line is that query's loss and no other's.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchify_core import files
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.evaluation.metrics import FoundPositives, score_found
from patchify_core.evaluation.run import AT_1K, LevelReport, Outcome, QueryRecord, as_json
from patchify_core.files import sha256_of_json
from patchify_core.gallery import Gallery, Query
from patchify_core.index.folder import read_meta

PROGRAM, FORMAT = "patchify evaluate", 1
"""How a file of numbers says what it is."""

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


# What a run is of ------------------------------------------------------------------------------------------


def gallery_digest(gallery: Gallery) -> str:
    """Digest of what a dataset asks and answers: pictures, queries (with their files' sizes) and annotations.

    The folder's own name does not count, so a dataset may be moved.

    Raises:
        GalleryError: a query's file is gone.
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
        digest.update(repr(("query", *row)).encode())
    for name, column in sorted(vars(gallery.annotations).items()):
        digest.update(repr((name, column.shape)).encode() + np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def index_digest(folder: Path) -> str:
    """Digest of an index folder's content: pictures, encoder, settings and codes, not where the pictures lie.

    Raises:
        IndexFolderError: it is no index folder.
    """
    return sha256_of_json({key: value for key, value in read_meta(folder).items() if key not in ("root", "digest")})


# The journal -----------------------------------------------------------------------------------------------


class RunJournal:
    """The finished queries of one evaluation, on disk. A context manager.

    Attributes:
        path: the journal's file.
        finished: the queries that earlier runs finished, by id.
        changed: names of the settings in which the journal that lay there differed, so that it was begun anew;
            empty if it was taken over or there was none.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], levels: Sequence[int]) -> None:
        """Opens the journal, taking over what an interrupted run with the same settings left in it.

        Args:
            path: the journal's file, made if missing.
            settings: all that the numbers depend on, as JSON values.
            levels: the levels that each record must have.

        Raises:
            PatchifyError: something else is in the way.
            OSError: the file cannot be read or written.
        """
        self.path, self._levels = path, [str(level) for level in levels]
        self._key = sha256_of_json(dict(settings))[:16]
        self.finished: dict[int, QueryRecord] = {}
        self.changed: tuple[str, ...] = ()
        header = {"journal of": PROGRAM, "format": FORMAT, "settings": dict(settings)}
        if not self._takes_over(header):
            files.write_json(path, header)  # so that a header is never torn
        self._file: IO[str] = open(path, "a", encoding="utf-8", newline="\n")

    def __enter__(self) -> RunJournal:
        """The journal itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes it; one without any query in it is deleted."""
        if not self.finished:
            self.remove()
        self._file.close()

    def add(self, record: QueryRecord) -> None:
        """Writes a finished query's line.

        Raises:
            OSError: the disk is full, for one.
        """
        levels = {str(level): _outcome_as_json(outcome) for level, outcome in record.levels.items()}
        # One write a line, so that two runs of the same evaluation do not mix within one. The key tells lines of
        # other settings apart, should two different runs write to one file after all.
        self._file.write(json.dumps({"run": self._key, "query": record.query_id, "levels": levels}) + "\n")
        self._file.flush()
        self.finished[record.query_id] = record

    def remove(self) -> None:
        """Deletes the journal: its numbers are where they belong. What cannot be deleted stays and does no harm."""
        self._file.close()  # Windows deletes no open file
        with suppress(OSError):
            self.path.unlink()

    def _takes_over(self, header: dict[str, Any]) -> bool:
        """Reads what is there; False where a journal must be begun anew."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        if not data:
            return False
        lines = data.split(b"\n")
        theirs = files.read_json(lines[0])
        if not isinstance(theirs, dict) or theirs.get("journal of") != PROGRAM:
            raise PatchifyError(f"{self.path} is in the way and was not made by this program: move it.")
        if theirs != header:
            old, new = theirs.get("settings"), header["settings"]
            old = old if isinstance(old, dict) else {}
            self.changed = tuple(key for key in new if old.get(key) != new[key]) or ("format",)
            return False
        for line in lines[1:-1]:
            self._take(files.read_json(line))
        if lines[-1]:  # torn by a kill: cut off, or the next line would be joined to it
            os.truncate(self.path, len(data) - len(lines[-1]))
        return True

    def _take(self, line: Any) -> None:
        """Takes one line over if it is whole and of this run; another's query is simply asked again."""
        try:
            if line["run"] == self._key:
                levels = {int(level): _outcome_from_json(line["levels"][level]) for level in self._levels}
                self.finished[line["query"]] = QueryRecord(line["query"], levels)
        except (KeyError, TypeError, ValueError):
            return


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    found = outcome.found
    return {
        "search_ms": outcome.search_ms,
        "rerank_ms": outcome.rerank_ms,
        "best": None if outcome.best is None else [outcome.best[0], outcome.best[1].tolist()],
        "positives": None if found is None else found.positives,
        "located": found is not None and found.located,
        "images": [] if found is None else found.image_ids.tolist(),
        "ranks": [] if found is None else found.ranks.tolist(),
        "ious": [] if found is None else [None if math.isnan(iou) else iou for iou in found.ious.tolist()],
    }


def _outcome_from_json(values: dict[str, Any]) -> Outcome:
    found = None
    if values["positives"] is not None:
        found = FoundPositives(
            np.array(values["images"], np.int64),
            np.array(values["ranks"], np.intp),
            np.array([math.nan if iou is None else iou for iou in values["ious"]], np.float64),
            int(values["positives"]),
            bool(values["located"]),
        )
    best = None if values["best"] is None else (int(values["best"][0]), np.array(values["best"][1], np.float64))
    return Outcome(found, values["search_ms"], values["rerank_ms"], best)


# The numbers -----------------------------------------------------------------------------------------------


def run_as_json(
    gallery: Gallery,
    reports: Sequence[LevelReport],
    settings: Mapping[str, Any],
    bytes_per_image: float,
    images_per_s: float | None,
) -> dict[str, Any]:
    """Everything that one evaluation found: `evaluation.as_json`, what it was of, and the scores of each query.

    Args:
        gallery: the dataset.
        reports: what `evaluate` returned.
        settings: what the numbers depend on, as given to `RunJournal`; `cutoff` is read from it.
        bytes_per_image: bytes of descriptors that a picture costs.
        images_per_s: pictures indexed in a second; None where they were indexed before.
    """
    rows = query_rows(gallery, reports, settings.get("cutoff"))
    queries: dict[int, dict[str, Any]] = {}
    for row in rows:
        query = {"id": row["query"], **{key: row[key] for key in ("file_name", "instance", "name")}, "levels": {}}
        scores = {key: row[key] for key in CSV_COLUMNS[CSV_COLUMNS.index("positives") :]}
        queries.setdefault(row["query"], query)["levels"][str(row["level"])] = scores
    return {
        "program": PROGRAM,
        "format": FORMAT,
        **as_json(reports, bytes_per_image, images_per_s),
        "run": {"name": gallery.root.resolve().name, "pictures": len(gallery.images), **settings},
        "per_query": list(queries.values()),
    }


def query_rows(gallery: Gallery, reports: Sequence[LevelReport], cutoff: int | None = None) -> list[dict[str, Any]]:
    """One row a query and level, under `CSV_COLUMNS`; the scores of a query without positives are None."""
    return [_row(gallery, query, report, cutoff) for query in gallery.queries for report in reports]


def _row(gallery: Gallery, query: Query, report: LevelReport, cutoff: int | None) -> dict[str, Any]:
    found = report.outcomes[query.id].found
    row: dict[str, Any] = dict.fromkeys(CSV_COLUMNS)
    row |= {"query": query.id, "file_name": query.file_name, "instance": query.instance}
    row |= {"name": gallery.name(query.instance), "level": report.level, "regions": report.spec}
    if found is None:
        return row | {"positives": 0, "found": 0}
    score, at_1k = score_found(found, cutoff), score_found(found, AT_1K)
    row |= {"positives": score.positives, "found": len(score.ranks), "first_hit": score.first_hit}
    row |= {"ap": score.ap, "locscore": score.locscore, "mean_iou": score.mean_iou}
    return row | {"ap@1k": at_1k.ap, "locscore@1k": at_1k.locscore}


def write_json(path: Path, numbers: Mapping[str, Any], indent: int | None = 1) -> None:
    """Writes numbers so that a reader finds the old file or the new one, never half.

    Raises:
        OSError: the file cannot be written.
    """
    with _beside(path) as file:
        file.write(json.dumps(numbers, indent=indent, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes `query_rows` as CSV: comma, UTF-8, an empty field for None; beside and renamed, as `write_json` does.

    Raises:
        OSError: the file cannot be written.
    """
    text = StringIO(newline="")
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with _beside(path) as file:
        file.write(text.getvalue())


@contextmanager
def _beside(path: Path) -> Iterator[IO[str]]:
    real = Path(os.path.realpath(path))  # a link stays a link
    if real.exists() and not real.is_file():  # a pipe or a terminal
        with open(real, "w", encoding="utf-8", newline="") as file:
            yield file
        return
    with files.atomic(real, sync=True) as raw:
        text = TextIOWrapper(raw, encoding="utf-8", newline="")
        yield text
        text.detach()  # which writes what it has, and leaves the file open
