"""`search`: the best matches of one query."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from patchify_core.boxes import parse_box
from patchify_core.commands.shared import check_writable
from patchify_core.draw import save, sheet
from patchify_core.errors import PatchifyError
from patchify_core.rerank import load_reranker
from patchify_core.retrieval import Match, Patchify


def run(arguments: argparse.Namespace) -> int:
    """Prints the best matches of one query: a picture or words."""
    if (arguments.picture is None) == (arguments.text is None):
        raise PatchifyError("Give either PICTURE or --text WORDS to search with: exactly one of the two.")
    box = None if arguments.box is None else parse_box(arguments.box)
    reranker = load_reranker(arguments.rerank) if arguments.rerank is not None else None
    if arguments.draw:
        check_writable(Path(arguments.draw))
    engine = Patchify.open(arguments.index)
    picture = None if arguments.picture is None else Path(arguments.picture)
    matches = engine.search(
        picture,
        box,
        arguments.top,
        arguments.level,
        text=arguments.text,
        rerank=reranker,
        refine=arguments.refine,
    )
    root = engine.index.root or Path()
    # A result must be the picture that was indexed, or its box would lie on another one.
    engine.index.check_pictures(root, content=True, rows=[engine.index.row_of[match.image_id] for match in matches])
    if arguments.draw:
        save(sheet(matches, root), Path(arguments.draw))
    if arguments.json:
        print(json.dumps([_as_json(rank, match, root) for rank, match in enumerate(matches, 1)], indent=1))
        return 0
    verified = any(match.verification for match in matches)
    print(f"{'rank':>4}  {'score':>6}  {'box x1,y1,x2,y2':<22}  {'inliers  ' if verified else ''}file")
    for rank, match in enumerate(matches, 1):
        corners = ",".join(f"{value:.0f}" for value in match.box)
        found = match.verification.inliers if match.verification else "-"
        inliers = f"{found:>7}  " if verified else ""
        print(f"{rank:>4}  {match.score:6.3f}  {corners:<22}  {inliers}{root / match.file_name}")
    return 0


def _as_json(rank: int, match: Match, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "rank": rank,
        "image_id": match.image_id,
        "file": str(root / match.file_name),
        "score": match.score,
        "box": match.box.tolist(),
        "patch": match.patch,
    }
    if len(match.others):
        row["others"] = match.others.tolist()
    if (found := match.verification) is not None:
        row["verification"] = {
            "method": found.method,
            "matches": found.matches,
            "inliers": found.inliers,
            "local_score": found.local_score,
            "global_score": found.global_score,
            "box": None if found.box is None else found.box.tolist(),
        }
    return row
