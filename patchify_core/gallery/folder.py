"""A plain folder of pictures as a gallery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.model import Gallery, GalleryImage, is_text
from patchify_core.pictures import KINDS, PICTURE_SUFFIXES, picture_size


def read_folder(folder: Path | str) -> Gallery:
    """List all pictures below a folder, reading only their headers.

    Hidden files and folders are left out and linked folders are not entered. A file that looks like a picture
    by its name but is none, or is a link leading out of the folder, ends up in `Gallery.skipped`.

    Args:
        folder: The folder; subfolders count.

    Returns:
        A gallery without queries or instances; ids 1..n in the order of the POSIX file names.

    Raises:
        GalleryError: The folder is missing, is a file, cannot be listed, or holds no readable picture.
    """
    root = Path(folder)
    _check_folder(root)
    images: list[GalleryImage] = []
    skipped: list[tuple[str, str]] = []
    real_root = os.path.realpath(root)
    for name in sorted(_picture_files(root, skipped)):
        path = root / name
        try:
            if not is_text(name):
                raise PictureError(f"{name!r} has a name that is not valid Unicode: rename it.")
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(real_root):
                raise PictureError(f"{name!r} is a link that leads out of the folder: copy the picture into it.")
            width, height = picture_size(path)
        except PictureError as error:
            skipped.append((name, str(error)))
        else:
            images.append(GalleryImage(len(images) + 1, name, path, width, height))
    skipped = [(name.encode(errors="replace").decode(), why) for name, why in sorted(skipped)]
    if not images:
        why = f" ({len(skipped)} could not be read, first: {skipped[0][1].rstrip('.')})" if skipped else ""
        raise GalleryError(f"There is no picture to search in {str(root)!r}{why}: put {KINDS} files into it.")
    return Gallery(root, tuple(images), skipped=tuple(skipped))


def _check_folder(root: Path) -> None:
    try:
        with os.scandir(root):
            return
    except FileNotFoundError as error:
        raise GalleryError(f"There is no folder {str(root)!r}: check its name.") from error
    except NotADirectoryError as error:
        raise GalleryError(f"{str(root)!r} is a file, not a folder: name the folder with the pictures.") from error
    except (OSError, ValueError) as error:
        raise GalleryError(f"The folder {str(root)!r} cannot be read: check its permissions.") from error


def _picture_files(root: Path, skipped: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the POSIX names of files with a picture's ending; note folders that cannot be listed."""

    def note(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        skipped.append((name, f"The folder {name!r} may not be read: change its permissions."))

    for folder, folders, files in os.walk(root, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        for name in folders:
            # os.walk() does not enter links, which may lead out or round; a person should hear of it
            if os.path.islink(os.path.join(folder, name)):
                link = (below / name).as_posix()
                skipped.append((link, f"{link!r} is a linked folder: copy its pictures into the gallery."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
                yield (below / name).as_posix()
