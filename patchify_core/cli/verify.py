"""`verify`: is an index still what was written, to the last bit, and are its pictures those that were indexed?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import add_token_option

if TYPE_CHECKING:
    from patchify_core.cli.check import Verified

HELP = "check an index to the last bit, and its pictures against their digests"

SHOWN = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("index", metavar="INDEX", help="index folder")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    add_token_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is damaged, or that nothing is."""
    from patchify_core.cli.check import MB, verify

    folder = Path(arguments.index)
    found = verify(folder)
    if arguments.json:
        print(json.dumps(_as_json(folder, found), indent=1))
        return found.code
    for sentence in found.damage:
        print(sentence)
    for sentence in found.pictures[:SHOWN]:
        print(sentence)
    if len(found.pictures) > SHOWN:
        print(f"{_several(len(found.pictures) - SHOWN, 'more picture')} vanished or changed (--json lists them all).")
    state = "damaged" if found.damage else "whole"
    if found.gallery is None:
        pictures = "the folder of its pictures is not there, so they were not checked"
    elif found.pictures:
        pictures = f"{len(found.pictures)} of {found.images} pictures vanished or changed: run the index command again"
    else:
        pictures = f"all of its pictures ({found.images}) are those that were indexed"
    files = f"{_several(len(found.files), 'file')}, {found.bytes / MB:.1f} MB"
    if found.store is not None:
        files += f", every patch is in {found.store}"
    print(f"{folder}: {state} ({files}); {pictures}.")
    return found.code


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _as_json(folder: Path, found: Verified) -> dict[str, Any]:
    return {
        "index": str(folder),
        "whole": not found.damage,
        "files": list(found.files),
        "bytes": found.bytes,
        "damage": list(found.damage),
        "gallery": None if found.gallery is None else str(found.gallery),
        "images": found.images,
        "pictures": list(found.pictures),
        "store": found.store,
    }
