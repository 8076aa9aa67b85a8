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

import numpy as np

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery import ilias, instre
from patchify_core.gallery.coco import GallerySettings, read_coco
from patchify_core.gallery.folder import PictureWalk, first_pages, read_folder
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
from patchify_core.imaging.pictures import PICTURE_SUFFIXES, Header, read_header

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


def check_pictures(
    gallery: Gallery, progress: Progress | None = None, all_needed: bool = False, folder: Path | None = None
) -> Gallery:
    """Compare a dataset's pictures with what its annotations say of them, before hours are spent on them.

    Args:
        gallery: As it was read. A plain folder needs no check.
        progress: Told of each picture.
        all_needed: Refuse pictures that cannot be read. Otherwise they are not mentioned: whoever reads their pixels
            does so.
        folder: Where pictures that it does not list are counted; its root by default.

    Returns:
        The gallery, with notes on pictures that it does not list, on positives without a box, and on pages after the
        first.

    Raises:
        GalleryError: A picture has another size than the annotations say, or cannot be read and is needed.
    """
    paged: list[str] = []
    pictures: list[GalleryImage | Query] = [*gallery.images, *gallery.queries]
    headers: dict[Path, Header | None] = {}
    for number, picture in enumerate(pictures, 1):
        if picture.path not in headers:
            try:
                headers[picture.path] = read_header(picture.path)
            except PictureError as error:
                if all_needed:
                    raise GalleryError(f"{picture.file_name} cannot be read: {error}") from error
                headers[picture.path] = None
        if (header := headers[picture.path]) is not None:
            check_size(picture.file_name, (picture.width, picture.height), header.size, header.stored)
            paged += [picture.file_name] if header.more else []
        if progress:
            progress(number, len(pictures))
    folder = gallery.root if folder is None or not folder.is_dir() else folder
    known = {os.path.realpath(picture.path) for picture in pictures}
    walk = (name for name in PictureWalk(folder) if os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES)
    others = sorted(name for name in walk if os.path.realpath(folder / name) not in known)
    notes = first_pages(paged)
    if others:
        notes.append(
            f"Pictures in {folder} that the annotations do not list were left out: {len(others):,}, first: {others[0]}."
        )
    rows = gallery.annotations
    unboxed = np.isnan(rows.boxes).any(axis=1) & ~rows.ignore
    if unboxed.any() and not unboxed.all():
        names = {gallery.instances[instance] for instance in rows.instances[unboxed].tolist()}
        notes.append(
            f"{int(unboxed.sum()):,} of {len(rows):,} annotations have no box, so queries of their objects get no "
            f"LocScore, first: {min(names)} in image {int(rows.image_ids[unboxed][0])}."
        )
    return replace(gallery, notes=(*gallery.notes, *notes))


def check_size(
    file_name: str, said: tuple[int, int], size: tuple[int, int], stored: tuple[int, int] | None = None
) -> None:
    """Refuse a picture of another size than its dataset says: boxes in it would be wrong.

    Args:
        file_name: Its name.
        said: (width, height) that the dataset says.
        size: (width, height) of the upright picture.
        stored: (width, height) of the pixels as they are stored, before the camera's orientation is applied.

    Raises:
        GalleryError: The sizes differ.
    """
    if said == size:
        return
    turned = said == (size[1], size[0]) and stored != size
    why = " (the size before its EXIF orientation is applied)" if turned else ""
    raise GalleryError(
        f"{file_name} is {size[0]}x{size[1]} pixels{' when upright' if turned else ''}, but its annotations say "
        f"{said[0]}x{said[1]}{why}: correct the annotations, or its boxes would be wrong."
    )


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json" and not os.path.isdir(path)
