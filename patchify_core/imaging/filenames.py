"""Names of files that another system wrote, matched with the files that are there, as people mean them."""

from __future__ import annotations

import difflib
import os
import posixpath
import time
import unicodedata
from functools import cached_property, lru_cache
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from patchify_core.imaging.tar_members import tar_member

SUGGESTED, SEARCHED, ALIKE = 3, 20_000, 0.75
"""Similar names that a sentence gives; files among which they are looked for; how alike they are (`difflib` ratio)."""


LISTED_S = 10.0
"""For how long the files below an index's pictures are not listed again, in seconds."""


class FileNameError(ValueError):
    """Why a name leads to no file, as the rest of a sentence about the name: "leads out of the folder"."""


def same_name_key(name: str) -> str:
    r"""Reduce a file name to what all spellings of it have in common.

    Unicode form, letter case, `\` or `/` between folders, `.` as a folder, and %-encoding (any number of times) do not
    matter.

    Example:
        >>> same_name_key("Images\\My%20Photo.JPG") == same_name_key("./images/my photo.jpg")
        True
    """
    name = unicodedata.normalize("NFC", name)  # an accent apart would make an escape of the "%1À" in a name
    while (decoded := unicodedata.normalize("NFC", _percent_decoded(name))) != name:
        name = decoded
    name = posixpath.normpath(name.replace("\\", "/"))
    # Unicode's canonical caseless matching (The Unicode Standard, 3.13, D145)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def leads_out(name: str) -> bool:
    """Say whether a relative name may lead out of its folder, read as POSIX or as Windows reads it."""
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root or ".." in windows.parts)


def printable(text: str) -> str:
    r"""Escape what a terminal would act upon: line breaks, tabs, control characters, lone surrogates.

    Example:
        >>> printable("line\nbreak \x1b[2J é")
        'line\\nbreak \\x1b[2J é'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class FileNames:
    """Find files below a folder by the names that a dataset gives them.

    Args:
        root: The folder.
        prefix: What names may begin with that leads to the root, such as `../`.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root, self.prefix = root, prefix
        self.respelled: dict[str, str] = {}
        """Name as given -> name on the disk, of each file that was found under another spelling."""

    def find(self, name: str, suggest: bool = True) -> str:
        """Find the file that a name means: the one of that very name, else the only one that differs in spelling alone.

        Args:
            name: A relative name, as the dataset gives it.
            suggest: Name similar files in the error; it takes a look at all of them.

        Returns:
            The file's POSIX name below the root.

        Raises:
            FileNameError: The name leads out of the folder, there is no such file, or several fit.
        """
        if "://" in name:
            raise FileNameError("is an address: download the pictures and give the names of their files")
        name = self._inside(name.removeprefix(self.prefix), suggest)
        if os.path.isfile(self.root / name):
            return Path(name).as_posix()
        if leads_out(name):
            raise FileNameError(f"leads out of the dataset's folder{self._alike(name, suggest)}")
        fitting = self._by_key.get(same_name_key(name), [])
        if len(fitting) > 1:
            raise FileNameError(f"is missing, and {len(fitting)} files are called nearly so: {_listed(fitting)}")
        if not fitting:
            raise FileNameError(f"is missing{self._alike(name, suggest)}")
        self.respelled[name] = fitting[0]
        return fitting[0]

    def contains(self, name: str) -> bool:
        """Say whether a name means exactly one file."""
        try:
            self.find(name, suggest=False)
        except FileNameError:
            return False
        return True

    def _inside(self, name: str, suggest: bool) -> str:
        """A name that only seems to lead out, as one that does not: absolute but below the root, or with `x/../`.

        Raises:
            FileNameError: Joined to the root, it would lead out.
        """
        plain = posixpath.normpath(name)
        if posixpath.isabs(plain):
            folder, file = posixpath.split(plain)
            ways = (
                (os.path.abspath(self.root), plain),
                (
                    os.path.realpath(self.root),
                    posixpath.join(os.path.realpath(folder), file),  # through links, as to another disk
                ),
            )
            for root, path in ways:
                if path.startswith(posixpath.join(root, "")):
                    return posixpath.relpath(path, root)
        if os.sep == "/" and "\\" not in plain and not plain.startswith(("/", "../")):
            return plain  # as "a:1.png", which would lead out on Windows alone
        if leads_out(plain):
            raise FileNameError(f"leads out of the dataset's folder{self._alike(plain, suggest)}")
        return name

    def _alike(self, name: str, suggest: bool) -> str:
        similar = self._similar(name) if suggest else []
        return f" (similar names there: {_listed(similar)})" if similar else ""

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder, _, files in os.walk(self.root):
            below = Path(folder).relative_to(self.root)
            for file in files:
                name = (below / file).as_posix()
                found.setdefault(same_name_key(name), []).append(name)
        return found

    def _similar(self, name: str) -> list[str]:
        """Files of the same name in other folders or with other endings, then those whose names are alike."""
        key, by_key = same_name_key(name), self._by_key
        stem = posixpath.splitext(posixpath.basename(key))[0]
        same = [each for each in by_key if posixpath.splitext(posixpath.basename(each))[0] == stem]
        if len(by_key) <= SEARCHED:
            same += difflib.get_close_matches(key, by_key, SUGGESTED, ALIKE)
        return [by_key[each][0] for each in list(dict.fromkeys(same))[:SUGGESTED]]


def picture_path(root: Path, name: str) -> Path:
    """Return the file of an indexed picture, also where pictures and index came here from another system.

    Args:
        root: The folder that the index's names are relative to.
        name: A POSIX name in the index. It is the caller's to compare the file with what was indexed.

    Returns:
        The member of a tar archive, or the file that `FileNames.find` finds; where it finds none, the path of that very
        name.
    """
    path = root / name
    if os.path.lexists(path):
        return path
    if (member := tar_member(path)) is not None:
        return member
    try:
        return root / _files_below(root, int(time.monotonic() / LISTED_S)).find(name, suggest=False)
    except FileNameError:
        return path


@lru_cache(maxsize=4)
def _files_below(root: Path, moment: int) -> FileNames:
    """The files below a folder; looked at anew in each moment, for whoever puts missing pictures back."""
    return FileNames(root)


def _percent_decoded(name: str) -> str:
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name


def _listed(names: list[str]) -> str:
    named = ", ".join(map(repr, names[:SUGGESTED]))
    return f"{named}, ..." if len(names) > SUGGESTED else named


# Side files and folders that systems leave ---------------------------------------------------------------------


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
"""Names (lower case) of files that an operating system or a photo program writes into folders of pictures."""

SIDE_STARTS = ("._", "synophoto_thumb_", "synophoto:thumb_")
"""Beginnings: what macOS keeps about a file on other systems' disks, and Synology's thumbnails."""

SIDE_SUFFIXES = (".xmp", ".aae", ".thm", ".pp3", ".dop")
"""Endings: edits and thumbnails that a phone, camera or photo program keeps beside a picture or film."""

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
    """Whether a file is one that a system or a photo program keeps beside pictures.

    Args:
        name: Of the file, without folders; the case of its letters does not count.

    Example:
        >>> [is_side_file(name) for name in ("Thumbs.db", "IMG_1.xmp", "._IMG_1.jpg", "IMG_1.jpg", "thumbs.jpg")]
        [True, True, True, False, False]
    """
    low = name.lower()
    return low in SIDE_FILES or low.startswith(SIDE_STARTS) or low.endswith(SIDE_SUFFIXES)


def is_side_folder(name: str) -> bool:
    """Whether a folder is for thumbnails, deleted files or snapshots, as NAS and operating systems make them.

    Args:
        name: Of the folder, without those around it; the case of its letters does not count.

    Example:
        >>> [is_side_folder(name) for name in ("@eaDir", "$RECYCLE.BIN", ".thumbnails", "recycled paper")]
        [True, True, True, False]
    """
    low = name.lower()
    return low in SIDE_FOLDERS or low.startswith(".trash-")  # of one user each, as .Trash-1000


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden by its name, as on macOS and Linux: it starts with a dot."""
    return name.startswith(".") and name not in (".", "..")


def is_passed_over(path: str) -> bool:
    """Whether a file is a side file or hidden, or lies in a folder that is.

    Args:
        path: POSIX path of the file below the folder or archive that is read.

    Example:
        >>> [is_passed_over(path) for path in ("a/@eaDir/1.jpg", ".git/1.jpg", "a/Thumbs.db", "./a/1.jpg", "../1.jpg")]
        [True, True, True, False, False]
    """
    *folders, name = path.split("/")
    return is_side_file(name) or any(map(is_side_folder, folders)) or any(map(is_hidden, (*folders, name)))
