"""The answers that lie beside a gallery, so that the page can show them before any network or index is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from patchify_core.files import read_json, sha256_of_file, sha256_of_json

FORMAT = 1
FILE = "paper.json"


def made_of(folder: Path, index: Path) -> str:
    """Digest of what the answers depend on: the gallery's annotations and an index of it.

    Args:
        folder: of the gallery.
        index: its index folder.

    Raises:
        OSError: if one of them cannot be read.
    """
    return sha256_of_json([FORMAT, sha256_of_file(folder / "annotations.json"), sha256_of_file(index / "meta.json")])


def prepared(folder: Path) -> dict[str, Any] | None:
    """The answers beside a gallery (`paper.Paper.document`); None if there are none, or the gallery has changed."""
    document = read_json(folder / FILE)
    if not isinstance(document, dict) or not isinstance(document.get("index"), str):
        return None
    index = folder / document["index"]
    try:
        same = index.resolve().is_relative_to(folder.resolve()) and document.get("made_of") == made_of(folder, index)
    except OSError:
        return None
    return document if same else None
