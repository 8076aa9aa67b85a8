"""`showcase`: write the first page of the demo as plain files for any static host."""

from __future__ import annotations

import argparse
from pathlib import Path

from patchify_core.cli.shared import progress_bar
from patchify_core.errors import PatchifyError

HELP = "write the page “See the paper” as plain files for any static host"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("out", metavar="OUT", help="folder to write, or an earlier showcase to update")
    parser.add_argument(
        "--gallery", metavar="FOLDER", help="dataset with an index of one pass per patch (default: the bundled one)"
    )
    parser.add_argument("--live", metavar="URL", help="address of a live demo to link to")
    parser.add_argument("--code", metavar="URL", help="address of the source to link to")
    parser.add_argument("--url", metavar="URL", help="address of the page, for the picture of link previews")
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="also store the results beside the gallery, so that the live page shows them at once",
    )


def interruption_note(arguments: argparse.Namespace) -> str:
    """Say what an interruption leaves behind."""
    return ": run the same command again to go on"


def run(arguments: argparse.Namespace) -> int:
    """Compute the results of the gallery's examples, unless they are stored beside it, and write the folder."""
    from patchify_core.demo.gallery_info import FILE, stored_answers
    from patchify_core.demo.settings import checked_address
    from patchify_core.files import SAMPLE_DB, write_json
    from patchify_core.web.front import write_showcase

    for name in ("live", "code", "url"):
        address = getattr(arguments, name)
        if address is not None:
            try:
                checked_address(address)
            except ValueError as error:
                raise PatchifyError(f"--{name} is {address[:80]!r}, but it takes {error}.") from None
    folder = SAMPLE_DB if arguments.gallery is None else Path(arguments.gallery)
    document = stored_answers(folder)
    if document is None:
        from patchify_core.demo.example_gallery import ExampleGallery
        from patchify_core.demo.paper import Paper

        paper = Paper(ExampleGallery(folder))
        with progress_bar("answering", " queries") as progress:
            document = paper.document(progress)
        if arguments.prepare:
            write_json(folder / FILE, document)
    size = write_showcase(document, folder, Path(arguments.out), arguments.live, arguments.code, arguments.url)
    print(
        f"{arguments.out}: {len(document['examples'])} queries over {document['gallery']:,} pictures, "
        f"{size / 1e6:.1f} MB; open its index.html through any web server."
    )
    return 0
