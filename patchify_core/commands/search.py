"""`search`: the best matches of one query."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from patchify_core.boxes import parse_box
from patchify_core.draw import save, sheet
from patchify_core.errors import PatchifyError
from patchify_core.retrieval import Patchify


def run(arguments: argparse.Namespace) -> int:
    """Prints the best matches of one query: a picture or words."""
    if (arguments.picture is None) == (arguments.text is None):
        raise PatchifyError("Give either PICTURE or --text WORDS to search with: exactly one of the two.")
    box = None if arguments.box is None else parse_box(arguments.box)
    engine = Patchify.open(arguments.index)
    picture = None if arguments.picture is None else Path(arguments.picture)
    matches = engine.search(picture, box, arguments.top, arguments.level, text=arguments.text)
    root = engine.index.root or Path()
    # A result must be the picture that was indexed, or its box would lie on another one.
    engine.index.check_pictures(root, content=True, rows=[engine.index.row_of[match.image_id] for match in matches])
    if arguments.draw:
        save(sheet(matches, root), Path(arguments.draw))
    if arguments.json:
        rows = [
            {
                "rank": rank,
                "image_id": match.image_id,
                "file": str(root / match.file_name),
                "score": match.score,
                "box": match.box.tolist(),
                "patch": match.patch,
            }
            for rank, match in enumerate(matches, 1)
        ]
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'rank':>4}  {'score':>6}  {'box x1,y1,x2,y2':<22}  file")
    for rank, match in enumerate(matches, 1):
        corners = ",".join(f"{value:.0f}" for value in match.box)
        print(f"{rank:>4}  {match.score:6.3f}  {corners:<22}  {root / match.file_name}")
    return 0
