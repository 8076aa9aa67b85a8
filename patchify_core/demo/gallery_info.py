"""A gallery's title, source and stored answers, known before any network or index is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchify_core.files import SAMPLE_DB, read_json, sha256_of_file, sha256_of_json

FORMAT = 2
FILE = "paper.json"

BUNDLED = "Rendered scenes"
"""Title of the bundled gallery; others have the names of their folders."""

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
    """Return name in URLs -> title on the page, each unique, in the order of the galleries.

    Example:
        >>> titles([Path("data/Old town"), Path("more/old-town")])
        {'old-town': 'Old town', 'old-town-2': 'old-town (2)'}
    """
    titles: dict[str, str] = {}
    for folder in folders:
        title = BUNDLED if _is_bundled(folder) else folder.resolve().name
        plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "gallery"
        number = 1
        while (name := plain if number == 1 else f"{plain}-{number}") in titles:
            number += 1
        titles[name] = title if title not in titles.values() and number == 1 else f"{title} ({number})"
    return titles


def pictures_note(folder: Path) -> str:
    """Return the source and licence of a gallery's pictures, from its annotations (COCO's `info`)."""
    if _is_bundled(folder):
        return RENDERS
    data = read_json(folder / "annotations.json")
    info = data.get("info") if isinstance(data, dict) else None
    values = {name: str(value).strip() for name, value in info.items() if value} if isinstance(info, dict) else {}
    source = values.get("description", folder.resolve().name) + (f" ({values['url']})" if "url" in values else "")
    licence = f"licence: {values['license']}" if "license" in values else "its annotations state no licence"
    return f"The pictures are those of {source}; {licence}."


def _is_bundled(folder: Path) -> bool:
    return folder.resolve() == SAMPLE_DB.resolve()


def answers_digest(folder: Path, index: Path) -> str:
    """Return a digest of what the answers depend on: the gallery's annotations and an index folder.

    Raises:
        OSError: If one of them cannot be read.
    """
    return sha256_of_json([FORMAT, sha256_of_file(folder / "annotations.json"), sha256_of_file(index / "meta.json")])


def stored_answers(folder: Path) -> dict[str, Any] | None:
    """Return the answers stored beside a gallery (`paper.Paper.document`); None without any for this version of it."""
    document = read_json(folder / FILE)
    if not isinstance(document, dict) or not isinstance(document.get("index"), str):
        return None
    index = folder / document["index"]
    try:
        same = index.resolve().is_relative_to(folder.resolve()) and document.get("made_of") == answers_digest(
            folder, index
        )
    except OSError:
        return None
    return document if same else None
