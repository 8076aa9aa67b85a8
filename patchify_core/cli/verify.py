"""`verify`: check every byte of an index, and that its pictures are those that were indexed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.cli.options import add_token_option

if TYPE_CHECKING:
    from patchify_core.cli.check import Verified

HELP = "check every byte of an index, and its pictures against their digests"

SHOWN = 20


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("index", metavar="INDEX", help="index folder")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_token_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what is damaged, and a summary."""
    from patchify_core.cli.check import MB, verify

    folder = Path(arguments.index)
    result = verify(folder)
    if arguments.json:
        print(json.dumps(_as_json(folder, result), indent=1))
        return result.code
    for sentence in result.damage:
        print(sentence)
    for sentence in result.pictures[:SHOWN]:
        print(sentence)
    if len(result.pictures) > SHOWN:
        print(f"{_count(len(result.pictures) - SHOWN, 'more picture')} vanished or changed (--json lists them all).")
    state = "damaged" if result.damage else "whole"
    if result.gallery is None:
        pictures = "the folder of its pictures is not there, so they were not checked"
    elif result.pictures:
        pictures = (
            f"{len(result.pictures)} of {result.images} pictures vanished or changed: run the index command again"
        )
    else:
        pictures = f"all of its pictures ({result.images}) are those that were indexed"
    files = f"{_count(len(result.files), 'file')}, {result.bytes / MB:.1f} MB"
    if result.store is not None:
        files += f", every patch is in {result.store}"
    print(f"{folder}: {state} ({files}); {pictures}.")
    return result.code


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _as_json(folder: Path, result: Verified) -> dict[str, Any]:
    return {
        "index": str(folder),
        "whole": not result.damage,
        "files": list(result.files),
        "bytes": result.bytes,
        "damage": list(result.damage),
        "gallery": None if result.gallery is None else str(result.gallery),
        "images": result.images,
        "pictures": list(result.pictures),
        "store": result.store,
    }
