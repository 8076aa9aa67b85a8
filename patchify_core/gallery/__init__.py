"""What is searched, what is asked, and what would be right.

A gallery is read once from a folder of pictures (`read_folder`), from a COCO-style `annotations.json`
(`read_coco`), or from whichever of the two is there (`read_gallery`). The published benchmarks have readers of their
own (`read_instre`, `read_ilias`; see BENCHMARKS.md), and `read_dataset` finds out which of all is meant. Boxes become
xyxy pixels of the upright picture here, and all that is wrong with a dataset is said here: whoever holds a `Gallery`
may trust it.
"""

from __future__ import annotations

import os
from pathlib import Path

from patchify_core.errors import GalleryError
from patchify_core.gallery import ilias, instre
from patchify_core.gallery.coco import ANNOTATIONS_FILE, GallerySettings, read_coco
from patchify_core.gallery.folder import read_folder
from patchify_core.gallery.ilias import read_ilias
from patchify_core.gallery.instre import read_instre
from patchify_core.gallery.model import Annotations, Gallery, GalleryImage, Query
from patchify_core.gallery.published import Progress

__all__ = [
    "ANNOTATIONS_FILE",
    "Annotations",
    "Gallery",
    "GalleryImage",
    "GallerySettings",
    "Query",
    "read_coco",
    "read_dataset",
    "read_folder",
    "read_gallery",
    "read_ilias",
    "read_instre",
    "told_layout",
]

FORMATS = ("auto", "coco", "instre", "ilias", "folder")


def read_gallery(path: Path | str) -> Gallery:
    """Read a dataset where there is an `annotations.json` (or `path` is a .json file), else a plain folder.

    Raises:
        GalleryError: As `read_coco` or `read_folder` does.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and not os.path.isdir(path):
        return read_coco(path)
    return read_coco(path) if os.path.lexists(path / ANNOTATIONS_FILE) else read_folder(path)


def read_dataset(
    path: Path | str, format: str = "auto", subset: str = "all", progress: Progress | None = None
) -> Gallery:
    """Read a dataset in any layout that this package knows.

    Args:
        path: Its folder (or, for `coco`, its JSON file).
        format: `coco`, `instre`, `ilias`, `folder`; `auto` looks for the file or folder that gives one of them away.
        subset: A part of INSTRE or ILIAS, see `read_instre` and `read_ilias`; the other layouts have `all` only.
        progress: Told of pictures whose headers have been read, where many are.

    Raises:
        GalleryError: The layout cannot be told, has no such subset, or its own reader refuses the dataset.
    """
    if format not in FORMATS:
        raise GalleryError(f"Unknown layout {format!r}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    path = Path(path)
    if format == "auto":
        format = told_layout(path)
    if format == "instre":
        return read_instre(path, subset, progress)
    if format == "ilias":
        return read_ilias(path, subset, progress)
    if subset != "all":
        raise GalleryError(f"Only INSTRE and ILIAS have subsets, and {str(path)!r} is read as neither: leave it out.")
    return read_coco(path) if format == "coco" else read_folder(path)


def told_layout(path: Path | str) -> str:
    """Tell a dataset's layout from the file or folder that only that layout has; `folder` where there is none.

    Raises:
        GalleryError: There are marks of several layouts.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and not os.path.isdir(path):
        return "coco"
    marks = {
        "coco": os.path.lexists(path / ANNOTATIONS_FILE),
        "instre": os.path.lexists(path / instre.GROUND_TRUTH),
        "ilias": ilias.is_ilias(path),
    }
    found = [layout for layout, there in marks.items() if there]
    if len(found) > 1:
        raise GalleryError(f"{str(path)!r} looks like {' and like '.join(found)}: say which with --format.")
    return found[0] if found else "folder"
