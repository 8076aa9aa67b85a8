"""Read a plain folder of pictures, without the hidden files, thumbnails and sidecars that systems leave among them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from patchify_core.errors import GalleryError, NotAPictureError, PictureError
from patchify_core.gallery.model import Gallery, GalleryImage
from patchify_core.imaging.file_types import SUPPORTED_FORMATS, has_picture_suffix
from patchify_core.imaging.filenames import is_unicode
from patchify_core.imaging.pictures import Header, read_header

_MAX_LISTED = 6
"""Suffixes or folder names that a note lists."""

SIDE_FILES = frozenset(
    {
        ".ds_store",
        "icon\r",  # a folder's own icon on macOS
        "thumbs.db",  # Windows
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "picasa.ini",
        "zbthumbnail.info",  # Canon ZoomBrowser
        "pspbrwse.jbf",  # Paint Shop Pro
    }
)
"""Names (lower case) of files that operating systems and photo programs write into folders of pictures."""

SIDE_PREFIXES = ("._", "synophoto_thumb_", "synophoto:thumb_")
"""Prefixes of macOS metadata on foreign disks and of Synology thumbnails."""

SIDE_SUFFIXES = (".xmp", ".aae", ".thm", ".pp3", ".dop")
"""Suffixes of edits and thumbnails that phones, cameras and photo programs store beside a picture or video."""

SIDE_FOLDERS = frozenset(
    {
        "__macosx",  # macOS, within zips
        "network trash folder",
        "temporary items",
        ".trashes",
        "@eadir",  # Synology
        "@tmp",
        "@sharebin",
        "@synoresource",
        "@synoeastream",
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP
        "@recently-snapshot",
        "@transcode",
        "@__thumb",
        ".@__thumb",
        ".wdmc",  # Western Digital
        ".thumbnails",  # Linux, Android
        ".thumbnail",
        ".trash",
        "lost+found",
        ".zfs",
        ".snapshot",  # NetApp
        "~snapshot",
        "$recycle.bin",  # Windows
        "recycler",
        "recycled",
        "system volume information",
        "found.000",
    }
)
"""Names (lower case) of folders of thumbnails, deleted files and snapshots."""


def is_side_file(name: str) -> bool:
    """Return whether a file name (without folders, in any letter case) is that of a system or sidecar file.

    Example:
        >>> [is_side_file(name) for name in ("Thumbs.db", "IMG_1.xmp", "._IMG_1.jpg", "IMG_1.jpg", "thumbs.jpg")]
        [True, True, True, False, False]
    """
    lower = name.lower()
    return lower in SIDE_FILES or lower.startswith(SIDE_PREFIXES) or lower.endswith(SIDE_SUFFIXES)


def is_side_folder(name: str) -> bool:
    """Return whether a folder name (in any letter case) is that of thumbnails, deleted files or snapshots.

    Example:
        >>> [is_side_folder(name) for name in ("@eaDir", "$RECYCLE.BIN", ".thumbnails", "recycled paper")]
        [True, True, True, False]
    """
    lower = name.lower()
    return lower in SIDE_FOLDERS or lower.startswith(".trash-")  # one per user, such as .Trash-1000


def is_hidden(name: str) -> bool:
    """Return whether a file or folder name starts with a dot, which hides it on macOS and Linux."""
    return name.startswith(".") and name not in (".", "..")


def is_skipped(path: str) -> bool:
    """Return whether a file is hidden or a side file, or is in such a folder.

    Args:
        path: POSIX path of the file relative to the folder or archive that is read.

    Example:
        >>> [is_skipped(path) for path in ("a/@eaDir/1.jpg", ".git/1.jpg", "a/Thumbs.db", "./a/1.jpg", "../1.jpg")]
        [True, True, True, False, False]
    """
    *folders, name = path.split("/")
    return is_side_file(name) or any(map(is_side_folder, folders)) or any(map(is_hidden, (*folders, name)))


def read_folder(folder: Path | str, exclude: Sequence[str] = ()) -> Gallery:
    """List all pictures below a folder, reading only their headers.

    A file's content, not its name, decides whether it is a picture. Hidden files and folders are skipped, and linked
    folders are not entered.

    Args:
        folder: The folder; subfolders are included.
        exclude: Patterns of what to leave out, as in a .gitignore in the folder.

    Returns:
        A gallery without queries or instances; ids 1..n in the order of the POSIX file names. `skipped` lists the
        pictures, by name or by content, that cannot be read. `notes` count everything else that is left out:
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
    multipage: list[str] = []
    other_suffixes: Counter[str] = Counter()
    for name in sorted(walk):
        try:
            header = _read_header(root, name)
        except NotAPictureError:
            other_suffixes[os.path.splitext(name)[1].lower() or "no ending"] += 1
        except PictureError as error:
            walk.skipped.append((name, str(error)))
        else:
            images.append(GalleryImage(len(images) + 1, name, root / name, *header.size))
            if header.more:
                multipage.append(name)
    skipped = [(name.encode(errors="replace").decode(), why) for name, why in sorted(walk.skipped)]
    notes = [*walk.notes(), *first_page_notes(multipage), *_other_file_notes(other_suffixes)]
    if not images:
        why = [f"{len(skipped)} could not be read, first: {skipped[0][1].rstrip('.')}"] if skipped else []
        why = [*why, *(note.rstrip(".") for note in notes)]
        if walk.first_hidden:
            why.append(f"hidden and system files and folders are not read, first: {walk.first_hidden}")
        reason = f" ({'; '.join(why)})" if why else ""
        raise GalleryError(
            f"There is no picture to search in {str(root)!r}{reason}: put {SUPPORTED_FORMATS} files into it."
        )
    return Gallery(root, tuple(images), skipped=tuple(skipped), notes=tuple(notes))


def first_page_notes(multipage: Sequence[str]) -> list[str]:
    """Return a note on pictures with several pages or frames, of which only the first is used; empty if none."""
    if not multipage:
        return []
    of = f"of {multipage[0]}"
    if len(multipage) > 1:
        of = f"of each of {len(multipage):,} pictures, {multipage[0]} among them,"
    return [f"Only the first page or frame {of} is used."]


class PictureWalk:
    """Iterates over the POSIX names of the files below a folder that may be pictures, unsorted.

    Args:
        root: The folder.
        exclude: Patterns of what to leave out, as in a .gitignore in the folder.

    Attributes:
        skipped: (name, reason as a sentence) of what cannot be read; complete after the iteration.
        first_hidden: The first hidden or side file or hidden folder; empty if there is none.

    Raises:
        GalleryError: A pattern is malformed.
    """

    def __init__(self, root: Path, exclude: Sequence[str] = ()) -> None:
        from pathspec import GitIgnoreSpec

        self.root, self.skipped, self.first_hidden = root, list[tuple[str, str]](), ""
        self._side_folders: Counter[str] = Counter()
        self._excluded, self._used_patterns = 0, set[int]()
        self._patterns = tuple(exclude)
        try:
            self._spec = GitIgnoreSpec.from_lines(exclude) if exclude else None
        except ValueError as error:
            raise GalleryError(f"A pattern to exclude is malformed ({error}): write it as in a .gitignore.") from error

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        for folder, folders, files in os.walk(self.root, onerror=self._skip_unreadable):
            below = Path(folder).relative_to(self.root)
            folders[:] = [name for name in folders if self._enters(below / name)]
            for name in files:
                if is_hidden(name) or is_side_file(name):
                    self.first_hidden = self.first_hidden or (below / name).as_posix()
                elif not self._excludes(below / name):
                    yield (below / name).as_posix()

    def notes(self) -> list[str]:
        """Return notes that count the side folders and excluded files, and name the patterns that matched nothing."""
        notes = []
        if self._side_folders:
            names = ", ".join(f"{count} {name}" for name, count in self._side_folders.most_common(_MAX_LISTED))
            notes.append(f"Thumbnails, deleted files and snapshots of the system were skipped (folders: {names}).")
        if self._excluded:
            what = "file or folder was" if self._excluded == 1 else "files and folders were"
            notes.append(f"{self._excluded:,} {what} left out by --exclude.")
        unused = [repr(pattern) for number, pattern in enumerate(self._patterns) if number not in self._used_patterns]
        if unused:
            notes.append(f"--exclude {', '.join(unused)} matched nothing: patterns are relative to the folder.")
        return notes

    def _enters(self, folder: Path) -> bool:
        if is_side_folder(folder.name):
            self._side_folders[folder.name] += 1
            return False
        if is_hidden(folder.name):
            self.first_hidden = self.first_hidden or folder.as_posix()
            return False
        if self._excludes(folder, "/"):
            return False
        if os.path.islink(self.root / folder):
            # os.walk() does not follow links, which may lead outside or form a cycle; the user should know.
            link = folder.as_posix()
            self.skipped.append((link, f"{link!r} is a linked folder: copy its pictures into the gallery."))
        return True

    def _excludes(self, path: Path, end: str = "") -> bool:
        if self._spec is None:
            return False
        result = self._spec.check_file(path.as_posix() + end)
        if result.index is not None:
            self._used_patterns.add(result.index)
        self._excluded += bool(result.include)
        return bool(result.include)

    def _skip_unreadable(self, error: OSError) -> None:
        name = Path(error.filename).relative_to(self.root).as_posix()
        self.skipped.append((name, f"The folder {name!r} may not be read: change its permissions."))


def _read_header(root: Path, name: str) -> Header:
    """Read the header of a file in the folder.

    Raises:
        NotAPictureError: The file is not a picture; or it cannot be read and is not named like one.
        PictureError: The picture cannot be read.
    """
    path = root / name
    named = has_picture_suffix(name)
    if os.path.islink(path) and os.path.exists(path) and not _is_within(path, root):
        kind = PictureError if named else NotAPictureError
        raise kind(f"{name!r} is a link that leads out of the folder: copy the picture into it.")
    try:
        header = read_header(path)
    except PictureError as error:
        if named or (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise
        raise NotAPictureError(str(error)) from error
    if not is_unicode(name):
        raise PictureError(f"{name!r} has a name that is not valid Unicode: rename it.")
    return header


def _is_within(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def _other_file_notes(suffixes: Counter[str]) -> list[str]:
    if not suffixes:
        return []
    number = sum(suffixes.values())
    counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(_MAX_LISTED))
    counts += ", ..." if len(suffixes) > _MAX_LISTED else ""
    what = "file is not a picture and was" if number == 1 else "files are not pictures and were"
    return [f"{number:,} {what} left out ({counts})."]


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
