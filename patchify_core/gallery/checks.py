"""What the pictures of a dataset are, compared with what its annotations say, before hours are spent on them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from patchify_core.errors import GalleryError, PictureError
from patchify_core.files import sha256_of_file
from patchify_core.gallery.folder import PictureWalk, first_pages
from patchify_core.gallery.model import Gallery, GalleryImage, Query
from patchify_core.gallery.published import Progress
from patchify_core.imaging.kinds import is_called_a_picture
from patchify_core.imaging.pictures import Header, read_header


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
    walk = filter(is_called_a_picture, PictureWalk(folder))
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


def note_copies(gallery: Gallery) -> Gallery:
    """Say which queries will find a copy of their own picture: the same file under another name, not excluded.

    Returns:
        The gallery, with a note where there are such queries. Only files of equal sizes are read.

    Raises:
        GalleryError: A file cannot be read.
    """
    pictures: tuple[GalleryImage | Query, ...] = (*gallery.images, *gallery.queries)
    try:
        sizes = {picture.path: picture.path.stat().st_size for picture in pictures}
        number = Counter(sizes.values())
        digests = {path: sha256_of_file(path) for path, size in sizes.items() if number[size] > 1}
    except OSError as error:
        raise GalleryError(f"{error.filename} cannot be read ({error.strerror}): check its name and disk.") from error
    same: defaultdict[str, list[GalleryImage]] = defaultdict(list)
    for image in gallery.images:
        if image.path in digests:
            same[digests[image.path]].append(image)
    found = []
    for query in gallery.queries:
        copies = same.get(digests.get(query.path, ""), [])
        others = (image for image in copies if image.path != query.path and image.id not in query.exclude)
        if copy := next(others, None):
            found.append(f"{query.file_name} is {copy.file_name}")
    if not found:
        return gallery
    what = "1 query finds a copy of its" if len(found) == 1 else f"{len(found):,} queries find copies of their"
    note = f"{what} own picture, the same file under another name that is not excluded, first: {found[0]}."
    return replace(gallery, notes=(*gallery.notes, note))
