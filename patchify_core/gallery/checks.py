"""Compare a dataset's pictures with its annotations before hours are spent on embedding them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from patchify_core.errors import GalleryError, PictureError
from patchify_core.files import sha256_of_file
from patchify_core.gallery.folder import PictureWalk, first_page_notes
from patchify_core.gallery.model import Gallery, GalleryImage, Progress, Query
from patchify_core.imaging.file_types import has_picture_suffix
from patchify_core.imaging.pictures import Header, read_header


def check_pictures(
    gallery: Gallery, progress: Progress | None = None, all_needed: bool = False, folder: Path | None = None
) -> Gallery:
    """Compare a dataset's pictures with what its annotations say about them.

    Args:
        gallery: A dataset. A plain folder needs no check.
        progress: Called after each picture.
        all_needed: Refuse pictures that cannot be read. Otherwise they are left to whoever reads their pixels.
        folder: Where to count pictures that the dataset does not list; its root by default.

    Returns:
        The gallery, with notes on pictures that it does not list, on positives without a box, and on pictures with
        more than one page.

    Raises:
        GalleryError: A picture's size differs from its annotations, or it cannot be read and is needed.
    """
    multipage: list[str] = []
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
            multipage += [picture.file_name] if header.more else []
        if progress:
            progress(number, len(pictures))
    folder = gallery.root if folder is None or not folder.is_dir() else folder
    listed = {os.path.realpath(picture.path) for picture in pictures}
    walk = filter(has_picture_suffix, PictureWalk(folder))
    unlisted = sorted(name for name in walk if os.path.realpath(folder / name) not in listed)
    notes = first_page_notes(multipage)
    if unlisted:
        notes.append(
            f"Pictures in {folder} that the annotations do not list were left out: {len(unlisted):,}, "
            f"first: {unlisted[0]}."
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
    file_name: str, annotated: tuple[int, int], size: tuple[int, int], stored: tuple[int, int] | None = None
) -> None:
    """Refuse a picture whose size differs from its annotations: boxes in it would be wrong.

    Args:
        file_name: Its name.
        annotated: (width, height) according to the dataset.
        size: (width, height) of the upright picture.
        stored: (width, height) of the stored pixels, before the EXIF orientation is applied.

    Raises:
        GalleryError: The sizes differ.
    """
    if annotated == size:
        return
    rotated = annotated == (size[1], size[0]) and stored != size
    why = " (the size before its EXIF orientation is applied)" if rotated else ""
    raise GalleryError(
        f"{file_name} is {size[0]}x{size[1]} pixels{' when upright' if rotated else ''}, but its annotations say "
        f"{annotated[0]}x{annotated[1]}{why}: correct the annotations, or its boxes would be wrong."
    )


def note_copies(gallery: Gallery) -> Gallery:
    """Count the queries that will find a copy of their own picture: the same file under another name, not excluded.

    Returns:
        The gallery, with a note if there are such queries. Only files of equal size are read.

    Raises:
        GalleryError: A file cannot be read.
    """
    pictures: tuple[GalleryImage | Query, ...] = (*gallery.images, *gallery.queries)
    try:
        sizes = {picture.path: picture.path.stat().st_size for picture in pictures}
        files_of_size = Counter(sizes.values())
        digests = {path: sha256_of_file(path) for path, size in sizes.items() if files_of_size[size] > 1}
    except OSError as error:
        raise GalleryError(f"{error.filename} cannot be read ({error.strerror}): check its name and disk.") from error
    images: defaultdict[str, list[GalleryImage]] = defaultdict(list)
    for image in gallery.images:
        if image.path in digests:
            images[digests[image.path]].append(image)
    copies = []
    for query in gallery.queries:
        same = images.get(digests.get(query.path, ""), [])
        others = (image for image in same if image.path != query.path and image.id not in query.exclude)
        if copy := next(others, None):
            copies.append(f"{query.file_name} is {copy.file_name}")
    if not copies:
        return gallery
    what = "1 query finds a copy of its" if len(copies) == 1 else f"{len(copies):,} queries find copies of their"
    note = f"{what} own picture, the same file under another name that is not excluded, first: {copies[0]}."
    return replace(gallery, notes=(*gallery.notes, note))
