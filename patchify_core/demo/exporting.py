"""What a visitor takes along from the page: the results as a drawing for slides, as a table, and with all digits.

Nothing is written to a disk here; what is shown to one visitor goes to that visitor alone.
"""

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
"""Of the table: the box that is shown as x1 to y2, the winning patch's own as patch_x1 to patch_y2, in pixels."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula if a text begins with it."""


def as_csv(answer: Answer) -> str:
    """The results as CSV (RFC 4180), a row each, best first, with a byte order mark so that Excel reads UTF-8.

    A text that a spreadsheet would take for a formula gets an apostrophe in front: file names are strangers'.
    """
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(COLUMNS)
    for result in answer.results:
        values = _values(result)
        box, cell = values.pop("box"), values.pop("patch_box")
        writer.writerow(
            [
                values["rank"],
                values["image_id"],
                safe_cell(values["file_name"]),
                values["score"],
                *box,
                values["patch"],
                *cell,
                "" if values["iou"] is None else values["iou"],
                values["verdict"],
                "" if values["inliers"] is None else values["inliers"],
            ]
        )
    return "\ufeff" + stream.getvalue()


def safe_cell(text: str) -> str:
    """A text as a cell that no spreadsheet computes.

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
    """Query, options, scores and results as JSON, with all digits.

    Args:
        query: what was asked; a visitor's own picture is named, and not included.
        answer: its answer.
        object_name: of the object that it is about, if that is known.
        index: what is said about the index that was asked.
        positives: every picture found that contains the object, ranked among the pictures that count: from these ranks
            and the number of all positives, AP can be computed again.
        missed: id and file name of those that were not found; they have no rank.
    """
    asked: dict[str, Any] = {"words": query.words} if query.words is not None else {"picture": query.name}
    if query.words is None:
        asked |= {"width": query.width, "height": query.height, "box": _numbers(query.box)}
    scores = {
        "shown": answer.score,
        "winning_patches": answer.winning,
        "before_reranking": answer.plain,
        "global_baseline": answer.baseline,
    }
    data = {
        "question": asked | {"object": object_name},
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
    """A name for downloads, without the ending: letters that every system takes.

    Example:
        >>> file_name("birthday cake")
        'patchify-birthday-cake'
    """
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in title.lower())
    short = "-".join(part for part in kept[:60].split("-") if part)
    return f"patchify-{short}" if short else "patchify-results"
