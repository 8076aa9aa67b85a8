"""A plain folder of pictures as a gallery."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchify_core.errors import GalleryError, NotAPictureError, PictureError
from patchify_core.gallery.model import Gallery, GalleryImage, is_text
from patchify_core.imaging.filenames import is_hidden, is_side_file, is_side_folder
from patchify_core.imaging.kinds import is_called_a_picture
from patchify_core.imaging.pictures import KINDS, Header, read_header

ENDINGS_NAMED = 6


def read_folder(folder: Path | str, exclude: Sequence[str] = ()) -> Gallery:
    """List all pictures below a folder, reading only their headers.

    What is a picture is decided by content, not by name. Hidden files and folders are left out, and linked folders are
    not entered.

    Args:
        folder: The folder; subfolders count.
        exclude: Patterns of what is left out, as in a .gitignore in the folder.

    Returns:
        A gallery without queries or instances; ids 1..n in the order of the POSIX file names. `skipped` lists the
        pictures, by name or by content, that cannot be read; `notes` count everything else that is left out:
        documents, thumbnails and deleted files of NAS and operating systems, excluded files, and pages or frames after
        the first.

    Raises:
        GalleryError: The folder is missing, is a file, cannot be listed, or contains no readable picture; or a pattern
            is malformed.
    """
    root = Path(folder)
    _check_folder(root)
    walk = PictureWalk(root, exclude)
    images: list[GalleryImage] = []
    paged: list[str] = []
    others: Counter[str] = Counter()
    for name in sorted(walk):
        try:
            header = _header(root, name)
        except NotAPictureError:
            others[os.path.splitext(name)[1].lower() or "no ending"] += 1
        except PictureError as error:
            walk.skipped.append((name, str(error)))
        else:
            images.append(GalleryImage(len(images) + 1, name, root / name, *header.size))
            if header.more:
                paged.append(name)
    skipped = [(name.encode(errors="replace").decode(), why) for name, why in sorted(walk.skipped)]
    notes = [*walk.notes(), *_notes(others, paged)]
    if not images:
        why = [f"{len(skipped)} could not be read, first: {skipped[0][1].rstrip('.')}"] if skipped else []
        why = [*why, *(note.rstrip(".") for note in notes)]
        if walk.hidden:
            why.append(f"hidden files and folders, and those that systems keep, are not read, first: {walk.hidden}")
        reason = f" ({'; '.join(why)})" if why else ""
        raise GalleryError(f"There is no picture to search in {str(root)!r}{reason}: put {KINDS} files into it.")
    return Gallery(root, tuple(images), skipped=tuple(skipped), notes=tuple(notes))


def first_pages(paged: Sequence[str]) -> list[str]:
    """Say of pictures with several pages or frames that only the first is used; nothing where there is none."""
    if not paged:
        return []
    of = f"of {paged[0]}" if len(paged) == 1 else f"of each of {len(paged):,} pictures, {paged[0]} among them,"
    return [f"Only the first page or frame {of} is used."]


class PictureWalk:
    """The POSIX names of the files below a folder that may be pictures, unsorted.

    Args:
        root: The folder.
        exclude: Patterns of what is left out, as in a .gitignore in the folder.

    Attributes:
        skipped: (name, sentence why) of what cannot be looked at; complete once all names have been taken.
        hidden: The first hidden file or folder, or side file, that was passed over; empty where there was none.

    Raises:
        GalleryError: A pattern is malformed.
    """

    def __init__(self, root: Path, exclude: Sequence[str] = ()) -> None:
        from pathspec import GitIgnoreSpec

        self.root, self.skipped, self.hidden = root, list[tuple[str, str]](), ""
        self._side_folders: Counter[str] = Counter()
        self._excluded, self._used = 0, set[int]()
        self._patterns = tuple(exclude)
        try:
            self._spec = GitIgnoreSpec.from_lines(exclude) if exclude else None
        except ValueError as error:
            raise GalleryError(f"A pattern to exclude is malformed ({error}): write it as in a .gitignore.") from error

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        for folder, folders, files in os.walk(self.root, onerror=self._note):
            below = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if self._is_entered(below / name)]
            for name in files:
                if is_hidden(name) or is_side_file(name):
                    self.hidden = self.hidden or (below / name).as_posix()
                elif not self._is_excluded(below / name):
                    yield (below / name).as_posix()

    def notes(self) -> list[str]:
        """Count what was passed over."""
        notes = []
        if self._side_folders:
            names = ", ".join(f"{count} {name}" for name, count in self._side_folders.most_common(ENDINGS_NAMED))
            notes.append(f"Thumbnails, deleted files and snapshots of the system were passed over (folders: {names}).")
        if self._excluded:
            what = "file or folder was" if self._excluded == 1 else "files and folders were"
            notes.append(f"{self._excluded:,} {what} left out by --exclude.")
        idle = [repr(pattern) for number, pattern in enumerate(self._patterns) if number not in self._used]
        if idle:
            notes.append(f"--exclude {', '.join(idle)} fitted nothing: patterns are relative to the folder.")
        return notes

    def _is_entered(self, folder: Path) -> bool:
        if is_side_folder(folder.name):
            self._side_folders[folder.name] += 1
            return False
        if is_hidden(folder.name):
            self.hidden = self.hidden or folder.as_posix()
            return False
        if self._is_excluded(folder, "/"):
            return False
        if os.path.islink(self.root / folder):
            # os.walk() does not enter links, which may lead out or around; a person should hear of it
            link = folder.as_posix()
            self.skipped.append((link, f"{link!r} is a linked folder: copy its pictures into the gallery."))
        return True

    def _is_excluded(self, path: Path, end: str = "") -> bool:
        if self._spec is None:
            return False
        result = self._spec.check_file(path.as_posix() + end)
        if result.index is not None:
            self._used.add(result.index)
        self._excluded += bool(result.include)
        return bool(result.include)

    def _note(self, error: OSError) -> None:
        name = Path(error.filename).relative_to(self.root).as_posix()
        self.skipped.append((name, f"The folder {name!r} may not be read: change its permissions."))


def _header(root: Path, name: str) -> Header:
    """The header of a picture in the folder.

    Raises:
        NotAPictureError: The file is no picture, or what has no picture's name cannot be looked at.
        PictureError: The picture cannot be read.
    """
    path = root / name
    named = is_called_a_picture(name)
    if os.path.islink(path) and os.path.exists(path) and not _is_within(path, root):
        kind = PictureError if named else NotAPictureError
        raise kind(f"{name!r} is a link that leads out of the folder: copy the picture into it.")
    try:
        header = read_header(path)
    except PictureError as error:
        if named or (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise
        raise NotAPictureError(str(error)) from error
    if not is_text(name):
        raise PictureError(f"{name!r} has a name that is not valid Unicode: rename it.")
    return header


def _is_within(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _notes(others: Counter[str], paged: Sequence[str]) -> list[str]:
    notes = first_pages(paged)
    if others:
        number = sum(others.values())
        endings = ", ".join(f"{count} {ending}" for ending, count in others.most_common(ENDINGS_NAMED))
        endings += ", ..." if len(others) > ENDINGS_NAMED else ""
        what = "file is not a picture and was" if number == 1 else "files are not pictures and were"
        notes.append(f"{number:,} {what} left out ({endings}).")
    return notes


def _check_folder(root: Path) -> None:
    try:
        with os.scandir(root):
            return
    except FileNotFoundError as error:
        raise GalleryError(f"There is no folder {str(root)!r}: check its name.") from error
    except NotADirectoryError as error:
        packed = " (unpack an archive first)" if root.suffix.lower() in (".zip", ".tar", ".gz", ".7z", ".rar") else ""
        raise GalleryError(
            f"{str(root)!r} is a file, not a folder: name the folder with the pictures{packed}."
        ) from error
    except (OSError, ValueError) as error:
        raise GalleryError(f"The folder {str(root)!r} cannot be read: check its permissions.") from error
