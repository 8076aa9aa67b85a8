"""`search`: the best matches of one query."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError
from patchify_core.gallery.folder import first_pages
from patchify_core.imaging.boxes import parse_box
from patchify_core.imaging.draw import save, sheet
from patchify_core.imaging.filenames import printable
from patchify_core.imaging.pictures import read_header
from patchify_core.patchify import Patchify
from patchify_core.retrieval.listing import matches_as_json
from patchify_core.retrieval.rerank import load_reranker


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
    if picture is not None and read_header(picture).more:
        print(f"note: {first_pages([printable(picture.name)])[0]}", file=sys.stderr)
    root = engine.index.root or Path()
    rows = matches_as_json(engine, matches)  # first, because it finds out whether the pictures are the indexed ones
    if arguments.draw:
        save(sheet(matches, root), Path(arguments.draw))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    verified = any(match.verification for match in matches)
    print(f"{'rank':>4}  {'score':>6}  {'box x1,y1,x2,y2':<22}  {'inliers  ' if verified else ''}file")
    for rank, match in enumerate(matches, 1):
        corners = ",".join(f"{value:.0f}" for value in match.box)
        found = match.verification.inliers if match.verification else "-"
        inliers = f"{found:>7}  " if verified else ""
        print(f"{rank:>4}  {match.score:6.3f}  {corners:<22}  {inliers}{printable(rows[rank - 1]['file'])}")
    return 0
