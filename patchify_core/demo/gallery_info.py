"""What is known of a gallery before any network or index is loaded: its name, and the answers that lie beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchify_core.files import SAMPLE_DB, read_json, sha256_of_file, sha256_of_json

FORMAT = 2
FILE = "paper.json"

BUNDLED = "Rendered scenes"
"""What the bundled gallery is called where several can be chosen; others are called by their folders."""

FIRST_EXAMPLES = (
    "birthday cake",
    "potted fern",
    "traffic cone",
    "moka pot",
    "soccer ball",
    "gift box",
    "flowered teapot",
    "flowered creamer",
    "blue vase",
    "toy train",
    "headphones",
    "toy biplane",
)
"""Objects of the bundled gallery whose queries come first: easy ones, look-alikes (the tea set, the blue pots) and two
of the hardest."""

RENDERS = (
    "The gallery pictures and the queries are renders (Blender Cycles, CC BY 4.0, credits in "
    "sample_db/ATTRIBUTION.md), apart from 8 photographs. Their boxes are exact."
)


def gallery_titles(folders: Sequence[Path]) -> dict[str, str]:
    """What galleries are called in addresses -> what they are called on the page, each once and in their order.

    Example:
        >>> titles([Path("data/Old town"), Path("more/old-town")])
        {'old-town': 'Old town', 'old-town-2': 'old-town (2)'}
    """
    found: dict[str, str] = {}
    for folder in folders:
        title = BUNDLED if _is_bundled(folder) else folder.resolve().name
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "gallery"
        number = 1
        while (name := plain if number == 1 else f"{plain}-{number}") in found:
            number += 1
        found[name] = title if title not in found.values() and number == 1 else f"{title} ({number})"
    return found


def pictures_note(folder: Path) -> str:
    """Where a gallery's pictures come from, and their licence, as its annotations say (COCO's `info`)."""
    if _is_bundled(folder):
        return RENDERS
    data = read_json(folder / "annotations.json")
    info = data.get("info") if isinstance(data, dict) else None
    said = {name: str(value).strip() for name, value in info.items() if value} if isinstance(info, dict) else {}
    source = said.get("description", folder.resolve().name) + (f" ({said['url']})" if "url" in said else "")
    licence = f"licence: {said['license']}" if "license" in said else "its annotations state no licence"
    return f"The pictures are those of {source}; {licence}."


def _is_bundled(folder: Path) -> bool:
    return folder.resolve() == SAMPLE_DB.resolve()


def made_of(folder: Path, index: Path) -> str:
    """Digest of what the answers depend on: the gallery's annotations and an index of it.

    Args:
        folder: of the gallery.
        index: its index folder.

    Raises:
        OSError: if one of them cannot be read.
    """
    return sha256_of_json([FORMAT, sha256_of_file(folder / "annotations.json"), sha256_of_file(index / "meta.json")])


def stored_answers(folder: Path) -> dict[str, Any] | None:
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
