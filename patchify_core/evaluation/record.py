"""What an evaluation leaves on disk: its numbers as JSON and CSV, and digests of what they are of."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any

import numpy as np

from patchify_core import files
from patchify_core.errors import GalleryError
from patchify_core.evaluation.metrics import score_found
from patchify_core.evaluation.results import EVALUATION, FORMAT
from patchify_core.evaluation.run import AT_1K, LevelReport
from patchify_core.files import sha256_of_json
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
    """Digest of a dataset: pictures, queries (with their files' sizes) and annotations.

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
        words = () if query.text is None else (query.text,)
        digest.update(repr(("query", *row, *words)).encode())
    for name, column in sorted(vars(gallery.annotations).items()):
        digest.update(repr((name, column.shape)).encode() + np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def index_digest(folder: Path) -> str:
    """Digest of an index folder's content: pictures, encoder, settings and codes, not where the pictures lie.

    Raises:
        IndexFolderError: it is no index folder.
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
    """Everything that one evaluation found: `as_json`, what it was of, and the scores of each query.

    Args:
        gallery: the dataset.
        reports: what `evaluate` returned.
        settings: what the numbers depend on, as given to `journal.RunJournal`; `cutoff` is read from it.
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
        "program": EVALUATION,
        "format": FORMAT,
        **as_json(reports, bytes_per_image, images_per_s),
        "run": {"name": gallery.root.resolve().name, "pictures": len(gallery.images), **settings},
        "per_query": list(queries.values()),
    }


def as_json(reports: Sequence[LevelReport], bytes_per_image: float, images_per_s: float | None) -> dict[str, Any]:
    """The finest level's numbers under the stable keys, and every level's beneath `levels`."""
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
    """One row per query and level, under `CSV_COLUMNS`; the scores of a query without positives are None."""
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
    """Write numbers so that a reader finds the old file or the new one, never half.

    Raises:
        OSError: the file cannot be written.
    """
    with _beside(path) as file:
        file.write(json.dumps(numbers, indent=indent, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = CSV_COLUMNS) -> None:
    """Write rows as CSV: comma, UTF-8, an empty field for None; beside and renamed, as `write_json` does.

    Raises:
        OSError: the file cannot be written.
    """
    text = StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
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
