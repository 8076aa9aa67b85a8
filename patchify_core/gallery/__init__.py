"""Datasets: the pictures to search, the queries, and the correct answers.

`read_gallery` reads a plain folder (`read_folder`) or a COCO-style dataset (`read_coco`); `read_dataset` also detects
and reads the published benchmarks (`read_instre`, `read_ilias`, `read_revisited`; see BENCHMARKS.md). The readers check
a dataset in full and convert its boxes to xyxy pixels of the upright picture, so that users of a `Gallery` need not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from patchify_core.errors import GalleryError
from patchify_core.gallery import ilias, instre
from patchify_core.gallery.checks import check_pictures, check_size, note_copies
from patchify_core.gallery.coco import read_coco
from patchify_core.gallery.coco_layout import (
    ANNOTATIONS_FILE,
    any_annotation_files,
    find_annotation_file,
    find_annotation_files,
    join_names,
)
from patchify_core.gallery.folder import read_folder
from patchify_core.gallery.ilias import read_ilias
from patchify_core.gallery.instre import read_instre
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, GalleryImage, Progress, Query
from patchify_core.gallery.revisited import ground_truth, read_revisited

__all__ = [
    "ANNOTATIONS_FILE",
    "Annotations",
    "Benchmark",
    "Gallery",
    "GalleryImage",
    "Progress",
    "Query",
    "any_annotation_files",
    "check_pictures",
    "check_size",
    "detect_layout",
    "note_copies",
    "read_coco",
    "read_dataset",
    "read_folder",
    "read_gallery",
    "read_ilias",
    "read_instre",
    "read_revisited",
]

FORMATS = ("auto", "coco", "instre", "ilias", "revisited", "folder")


def read_gallery(
    path: Path | str, exclude: Sequence[str] = (), check: bool = False, progress: Progress | None = None
) -> Gallery:
    """Read a COCO-style dataset if there is one at `path`, else a plain folder.

    Args:
        path: A folder, or the JSON file of a dataset.
        exclude: Patterns of files to leave out of a plain folder, as in a .gitignore.
        check: Also compare a dataset's pictures with its annotations (`check_pictures`).
        progress: Called after each picture that is compared.

    Raises:
        GalleryError: See `read_coco`, `check_pictures` and `read_folder`; or patterns are given for a dataset, which
            lists its pictures itself.
    """
    if not str(path):  # for example an unset shell variable; Path("") would be the current folder
        raise GalleryError("The name of the folder of pictures is empty: give it, or . for the current folder.")
    path = Path(path)
    files = [path] if _is_json(path) else find_annotation_files(path, nested=False)
    if len(files) == 1:
        if exclude:
            raise GalleryError(f"The pictures are those that {str(files[0])!r} lists: leave --exclude out, or edit it.")
        gallery = read_coco(files[0])
        return check_pictures(gallery, progress, folder=path) if check else gallery
    gallery = read_folder(path, exclude)
    if files := find_annotation_files(path) or any_annotation_files(path):
        note = (
            f"Annotations are not read ({join_names(files, path)}): to use them, name the file instead of the folder."
        )
        gallery = replace(gallery, notes=(*gallery.notes, note))
    return gallery


def read_dataset(
    path: Path | str,
    format: str = "auto",
    subset: str = "all",
    progress: Progress | None = None,
    text: bool = False,
) -> Gallery:
    """Read a dataset in any supported layout.

    Args:
        path: Its folder (or, for `coco`, its JSON file).
        format: `coco`, `instre`, `ilias`, `revisited` or `folder`; `auto` detects it (`detect_layout`).
        subset: Part of INSTRE or ILIAS, see `read_instre` and `read_ilias`; the other layouts have `all` only.
        progress: Called after each picture header that is read, for layouts with many pictures.
        text: Use text queries instead of pictures; only ILIAS has them.

    Raises:
        GalleryError: The layout is ambiguous, has no such subset, or its reader refuses the dataset.
    """
    if format not in FORMATS:
        raise GalleryError(f"Unknown layout {format!r}: choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")
    path = Path(path)
    if format == "auto":
        format = detect_layout(path)
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


def detect_layout(path: Path | str) -> str:
    """Detect a dataset's layout from the file or folder that only this layout has; `folder` if there is none.

    Raises:
        GalleryError: Several layouts match, or there are several COCO files.
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
    matching = [layout for layout, present in marks.items() if present]
    if len(matching) > 1:
        raise GalleryError(f"{str(path)!r} looks like {' and like '.join(matching)}: say which with --format.")
    return matching[0] if matching else "coco" if find_annotation_file(path) else "folder"


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and not os.path.isdir(path)
