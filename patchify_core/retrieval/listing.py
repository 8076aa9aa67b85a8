"""Matches and explanations as JSON values, for the command line and the page's API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchify_core.imaging.filenames import picture_path
from patchify_core.retrieval.presence import Presence
from patchify_core.retrieval.ranking import Explanation, Match
from patchify_core.retrieval.searcher import Searcher


def matches_as_json(
    engine: Searcher, matches: Sequence[Match], presence: Presence | None = None
) -> list[dict[str, Any]]:
    """Convert matches to JSON values, as printed by `search --json`.

    Args:
        engine: The engine that made them.
        matches: Best first.
        presence: How likely each contains the object, if known.

    Returns:
        For each match its `rank` (from 1), `image_id`, `file`, `score`, `box` (xyxy in pixels of the upright picture)
        and winning `patch`; `others`, the boxes of further objects, if any; `verification` after geometric
        verification; `probability` and `verdict` if `presence` is known.

    Raises:
        IndexFolderError: If a picture has changed since it was indexed: the box would be wrong.
    """
    root = engine.index.root or Path()
    engine.index.check_pictures(root, content=True, rows=[engine.index.row_of[match.image_id] for match in matches])
    rows = [_as_json(rank, match, root) for rank, match in enumerate(matches, 1)]
    if presence is not None:
        for row, chance, verdict in zip(rows, presence.probabilities, presence.verdicts, strict=True):
            row |= {"probability": chance, "verdict": verdict}
    return rows


def explanation_as_json(engine: Searcher, explanation: Explanation) -> dict[str, Any]:
    """Convert an explanation to JSON values: the winning patch, and the similarity of every patch."""
    index = engine.index
    image = index.images[index.row_of[explanation.image_id]]
    names = [stage.spec for stage in index.regions.stages]
    ends = [stage.patches for stage in index.regions.stages]
    return {
        "image_id": explanation.image_id,
        "file": str(picture_path(index.root or Path(), image.file_name)),
        "width": image.width,
        "height": image.height,
        "score": float(explanation.scores[explanation.patch]),
        "box": explanation.boxes[explanation.patch].tolist(),
        "patch": explanation.patch,
        "patches": [
            {
                "patch": number,
                "regions": next(name for name, end in zip(names, ends, strict=True) if number < end),
                "box": box,
                "score": score,
            }
            for number, (box, score) in enumerate(
                zip(explanation.boxes.tolist(), explanation.scores.tolist(), strict=True)
            )
        ],
    }


def _as_json(rank: int, match: Match, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": rank,
        "image_id": match.image_id,
        "file": str(picture_path(root, match.file_name)),
        "score": match.score,
        "box": match.box.tolist(),
        "patch": match.patch,
    }
    if len(match.others):
        row["others"] = match.others.tolist()
    if (verification := match.verification) is not None:
        row["verification"] = {
            "method": verification.method,
            "matches": verification.matches,
            "inliers": verification.inliers,
            "local_score": verification.local_score,
            "global_score": verification.global_score,
            "box": None if verification.box is None else verification.box.tolist(),
        }
    return row
