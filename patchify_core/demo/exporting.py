"""Exports results as CSV and JSON. Nothing is written to disk; a visitor's results go to that visitor alone."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import Answer, Result
from patchify_core.evaluation.metrics import QueryScore

COLUMNS = (
    "rank",
    "image_id",
    "file_name",
    "score",
    "x1",
    "y1",
    "x2",
    "y2",
    "patch",
    "patch_x1",
    "patch_y1",
    "patch_x2",
    "patch_y2",
    "iou",
    "verdict",
    "inliers",
)
"""Columns of the CSV: x1 to y2 are the box shown, patch_x1 to patch_y2 the winning patch, in pixels."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Prefixes by which spreadsheets recognise a formula."""


def as_csv(answer: Answer) -> str:
    """Return the results as CSV (RFC 4180), one row each, best first.

    A byte order mark makes Excel read UTF-8. File names may come from strangers: one that a spreadsheet would take for
    a formula gets an apostrophe in front.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for result in answer.results:
        values = _values(result)
        row = {**values, "file_name": safe_cell(values["file_name"])}
        row |= zip(("x1", "y1", "x2", "y2"), values["box"], strict=True)
        row |= zip(("patch_x1", "patch_y1", "patch_x2", "patch_y2"), values["patch_box"], strict=True)
        writer.writerow("" if row[column] is None else row[column] for column in COLUMNS)
    return "\ufeff" + stream.getvalue()


def safe_cell(text: str) -> str:
    """Return a text as a cell that no spreadsheet evaluates.

    Example:
        >>> safe_cell("=HYPERLINK(1)")
        "'=HYPERLINK(1)"
    """
    return f"'{text}" if text.startswith(FORMULA) else text


def as_json(
    query: UserQuery,
    answer: Answer,
    object_name: str | None,
    index: dict[str, Any],
    positives: Sequence[Result] = (),
    missed: Sequence[tuple[int, str]] = (),
) -> str:
    """Return query, options, scores and results as JSON, with all digits.

    Args:
        query: The query; a visitor's own picture is named, not included.
        answer: Its answer.
        object_name: Of the query's object, if known.
        index: Description of the index.
        positives: All ranked pictures that contain the object, with ranks among the pictures that count: these and the
            number of all positives give AP.
        missed: Id and file name of positives that are not ranked.
    """
    about: dict[str, Any] = {"words": query.words} if query.words is not None else {"picture": query.name}
    if query.words is None:
        about |= {"width": query.width, "height": query.height, "box": _numbers(query.box)}
    scores = {
        "shown": answer.score,
        "winning_patches": answer.winning,
        "before_reranking": answer.plain,
        "global_baseline": answer.baseline,
    }
    data = {
        "question": about | {"object": object_name},
        "index": index,
        "options": {
            "level": answer.level,
            "patches": answer.stages[answer.level - 1].patches,
            "boxes": answer.box_method,
            "reranker": answer.reranker,
        },
        "pictures": answer.pictures,
        "scores": {name: _score(score) for name, score in scores.items()} | {"best_locscore": answer.ceiling},
        "results": [_values(result) for result in answer.results],
        "positives": [_values(result) for result in positives]
        + [{"rank": None, "image_id": image_id, "file_name": name} for image_id, name in missed],
    }
    return json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _score(score: QueryScore | None) -> dict[str, float | int | None] | None:
    return None if score is None else {"ap": score.ap, "locscore": score.locscore, "positives": score.positives}


def _values(result: Result) -> dict[str, Any]:
    match = result.match
    return {
        "rank": result.rank,
        "image_id": int(match.image_id),
        "file_name": match.file_name,
        "score": float(match.score),
        "box": _numbers(match.box),
        "patch": int(match.patch),
        "patch_box": _numbers(result.cell),
        "further_boxes": [_numbers(box) for box in match.others],
        "iou": None if result.iou is None else float(result.iou),
        "verdict": result.verdict,
        "inliers": None if match.verification is None else int(match.verification.inliers),
    }


def _numbers(box: NDArray[np.float64] | None) -> list[float] | None:
    return None if box is None else [float(value) for value in box]


def file_name(title: str) -> str:
    """Return a name for downloads, without the ending, of letters that every system takes.

    Example:
        >>> file_name("birthday cake")
        'patchify-birthday-cake'
    """
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in title.lower())
    short = "-".join(part for part in letters[:60].split("-") if part)
    return f"patchify-{short}" if short else "patchify-results"
