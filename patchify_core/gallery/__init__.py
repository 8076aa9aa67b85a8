"""What is searched, the queries, and what would be right.

A gallery is read once from a folder of pictures (`read_folder`), from a COCO-style dataset (`read_coco`), or from
whichever of the two is there (`read_gallery`). The published benchmarks have readers of their own (`read_instre`,
`read_ilias`, `read_revisited`; see BENCHMARKS.md), and `read_dataset` finds out which of all is meant. Boxes become
xyxy pixels of the upright picture here, and all that is wrong with a dataset is said here: whoever holds a `Gallery`
may trust it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from patchify_core.errors import GalleryError
from patchify_core.gallery import ilias, instre
from patchify_core.gallery.checks import check_pictures, check_size, note_copies
from patchify_core.gallery.coco import GallerySettings, read_coco
from patchify_core.gallery.folder import read_folder
from patchify_core.gallery.ilias import read_ilias
from patchify_core.gallery.instre import read_instre
from patchify_core.gallery.layouts import (
    ANNOTATIONS_FILE,
    annotation_files,
    listed,
    other_annotation_files,
    the_annotation_file,
)
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, GalleryImage, Query
from patchify_core.gallery.published import Progress
from patchify_core.gallery.revisited import ground_truth, read_revisited

__all__ = [
    "ANNOTATIONS_FILE",
    "Annotations",
    "Benchmark",
    "Gallery",
    "GalleryImage",
    "GallerySettings",
    "Query",
    "check_pictures",
    "check_size",
    "note_copies",
    "other_annotation_files",
    "read_coco",
    "read_dataset",
    "read_folder",
    "read_gallery",
    "read_ilias",
    "read_instre",
    "read_revisited",
    "told_layout",
]

FORMATS = ("auto", "coco", "instre", "ilias", "revisited", "folder")


def read_gallery(
    path: Path | str, exclude: Sequence[str] = (), check: bool = False, progress: Progress | None = None
) -> Gallery:
    """Read a COCO-style dataset where the folder's layout has one (or `path` is a .json file), else a plain folder.

    Args:
        path: The folder or JSON file.
        exclude: Patterns of what is left out of a plain folder, as in a .gitignore.
        check: Compare a dataset's pictures with its annotations too (`check_pictures`).
        progress: Told of each picture that is compared.

    Raises:
        GalleryError: As `read_coco`, `check_pictures` or `read_folder` does; or patterns are given for a dataset, whose
            pictures are those that it lists.
    """
    if not str(path):  # as of a variable that is not set: it would be the current folder
        raise GalleryError("The name of the folder of pictures is empty: give it, or . for the current folder.")
    path = Path(path)
    if _is_json(path):
        found = [path]
    else:
        found = annotation_files(path, nested=False)
    if len(found) == 1:
        if exclude:
            raise GalleryError(f"The pictures are those that {str(found[0])!r} lists: leave --exclude out, or edit it.")
        return check_pictures(read_coco(found[0]), progress, folder=path) if check else read_coco(found[0])
    gallery = read_folder(path, exclude)
    if found := annotation_files(path) or other_annotation_files(path):
        note = f"Annotations are not read ({listed(found, path)}): to use them, name the file instead of the folder."
        gallery = replace(gallery, notes=(*gallery.notes, note))
    return gallery


def read_dataset(
    path: Path | str,
    format: str = "auto",
    subset: str = "all",
    progress: Progress | None = None,
    text: bool = False,
) -> Gallery:
    """Read a dataset in any layout that this package knows.

    Args:
        path: Its folder (or, for `coco`, its JSON file).
        format: `coco`, `instre`, `ilias`, `revisited`, `folder`; `auto` looks for the file or folder that gives one of
            them away.
        subset: A part of INSTRE or ILIAS, see `read_instre` and `read_ilias`; the other layouts have `all` only.
        progress: Told of pictures whose headers have been read, where many are.
        text: Search with words instead of pictures; of the layouts here ILIAS has them.

    Raises:
        GalleryError: The layout cannot be told, has no such subset, or its own reader refuses the dataset.
    """
    if format not in FORMATS:
        raise GalleryError(f"Unknown layout {format!r}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    path = Path(path)
    if format == "auto":
        format = told_layout(path)
    if text and format != "ilias":
        raise GalleryError(f"Only ILIAS has text queries, and {str(path)!r} is not read as ILIAS: use its pictures.")
    if format == "instre":
        return read_instre(path, subset, progress)
    if format == "ilias":
        return read_ilias(path, subset, progress, text)
    if subset != "all":
        raise GalleryError(f"Only INSTRE and ILIAS have subsets, and {str(path)!r} is read as neither: leave it out.")
    if format == "revisited":
        return read_revisited(path, progress)
    return read_coco(path) if format == "coco" else read_folder(path)


def told_layout(path: Path | str) -> str:
    """Tell a dataset's layout from the file or folder that only that layout has; `folder` where there is none.

    Raises:
        GalleryError: There are marks of several layouts, or several COCO files.
    """
    path = Path(path)
    if _is_json(path):
        return "coco"
    marks = {
        "coco": os.path.lexists(path / ANNOTATIONS_FILE),
        "instre": os.path.lexists(path / instre.GROUND_TRUTH),
        "ilias": ilias.is_ilias(path),
        "revisited": ground_truth(path) is not None,
    }
    found = [layout for layout, there in marks.items() if there]
    if len(found) > 1:
        raise GalleryError(f"{str(path)!r} looks like {' and like '.join(found)}: say which with --format.")
    return found[0] if found else "coco" if the_annotation_file(path) else "folder"


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and not os.path.isdir(path)
