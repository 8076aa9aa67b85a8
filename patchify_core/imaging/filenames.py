"""Find files by the names in a dataset or an index, which may be spelled as another operating system or tool does."""

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

MAX_SUGGESTIONS, MAX_COMPARED, MIN_SIMILARITY = 3, 20_000, 0.75
"""Similar names that an error suggests, most files to compare a name with, and least `difflib` ratio."""

LISTING_TTL_S = 10.0
"""How long the listing of the files below an index's pictures is reused, in seconds."""


class FileNameError(ValueError):
    """Why there is no file of a name, as the end of a sentence that begins with the name: "is missing"."""


def name_key(name: str) -> str:
    r"""Normalize a file name so that all its spellings are equal.

    Unicode form, letter case, `\` or `/` between folders, `.` as a folder, and %-encoding (any number of times) do not
    matter.

    Example:
        >>> name_key("Images\\My%20Photo.JPG") == name_key("./images/my photo.jpg")
        True
    """
    name = unicodedata.normalize("NFC", name)  # a combining accent would make an escape of the "%1À" in a name
    while (decoded := unicodedata.normalize("NFC", _percent_decoded(name))) != name:
        name = decoded
    name = posixpath.normpath(name.replace("\\", "/"))
    # Unicode's canonical caseless matching (The Unicode Standard, 3.13, D145)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def may_escape(name: str) -> bool:
    """Return whether a relative name may lead out of its folder, on POSIX or on Windows."""
    windows = PureWindowsPath(name)
    return bool(windows.drive or windows.root or ".." in windows.parts)


def is_unicode(name: str) -> bool:
    """Return whether text can be encoded; file names of arbitrary bytes reach Python as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Escape what a terminal would act upon: line breaks, tabs, control characters, lone surrogates.

    Example:
        >>> printable("line\nbreak \x1b[2J é")
        'line\\nbreak \\x1b[2J é'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class FileFinder:
    """Finds files below a folder by the names that a dataset uses.

    Args:
        root: The folder.
        prefix: Prefix of names that leads to the root, such as `../`.

    Attributes:
        respelled: Name in the dataset -> name on disk, of each file that was found under another spelling.
    """

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root, self.prefix = root, prefix
        self.respelled: dict[str, str] = {}

    def find(self, name: str, suggest: bool = True) -> str:
        """Find the file of exactly this name, or else the only file whose name is another spelling of it.

        Args:
            name: A relative name from the dataset.
            suggest: Suggest similar names in the error, which requires a listing of all files.

        Returns:
            The file's POSIX name relative to the root.

        Raises:
            FileNameError: The name leads out of the folder, no file matches it, or several do.
        """
        if "://" in name:
            raise FileNameError("is an address: download the pictures and give the names of their files")
        name = self._relative(name.removeprefix(self.prefix), suggest)
        if os.path.isfile(self.root / name):
            return Path(name).as_posix()
        if may_escape(name):
            raise FileNameError(f"leads out of the dataset's folder{self._suggestions(name, suggest)}")
        matches = self._by_key.get(name_key(name), [])
        if len(matches) > 1:
            raise FileNameError(f"is missing, and {len(matches)} files have similar names: {_join(matches)}")
        if not matches:
            raise FileNameError(f"is missing{self._suggestions(name, suggest)}")
        self.respelled[name] = matches[0]
        return matches[0]

    def contains(self, name: str) -> bool:
        """Return whether `find` finds a file."""
        try:
            self.find(name, suggest=False)
        except FileNameError:
            return False
        return True

    def _relative(self, name: str, suggest: bool) -> str:
        """Simplify a name that only seems to lead out: an absolute one below the root, or one with `x/../`.

        Raises:
            FileNameError: Joined to the root, the name would lead out.
        """
        plain = posixpath.normpath(name)
        if posixpath.isabs(plain):
            folder, file = posixpath.split(plain)
            resolved = posixpath.join(os.path.realpath(folder), file)  # through links, as to another disk
            for root, path in ((os.path.abspath(self.root), plain), (os.path.realpath(self.root), resolved)):
                if path.startswith(posixpath.join(root, "")):
                    return posixpath.relpath(path, root)
        if os.sep == "/" and "\\" not in plain and not plain.startswith(("/", "../")):
            return plain  # such as "a:1.png", which would lead out on Windows only
        if may_escape(plain):
            raise FileNameError(f"leads out of the dataset's folder{self._suggestions(plain, suggest)}")
        return name

    def _suggestions(self, name: str, suggest: bool) -> str:
        similar = self._similar(name) if suggest else []
        return f" (similar names there: {_join(similar)})" if similar else ""

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for folder, _, files in os.walk(self.root):
            below = Path(folder).relative_to(self.root)
            for file in files:
                name = (below / file).as_posix()
                names.setdefault(name_key(name), []).append(name)
        return names

    def _similar(self, name: str) -> list[str]:
        """List files of the same name in other folders or with other suffixes, then those with similar names."""
        key, by_key = name_key(name), self._by_key
        stem = posixpath.splitext(posixpath.basename(key))[0]
        similar = [each for each in by_key if posixpath.splitext(posixpath.basename(each))[0] == stem]
        if len(by_key) <= MAX_COMPARED:
            similar += difflib.get_close_matches(key, by_key, MAX_SUGGESTIONS, MIN_SIMILARITY)
        return [by_key[each][0] for each in list(dict.fromkeys(similar))[:MAX_SUGGESTIONS]]


def picture_path(root: Path, name: str) -> Path:
    """Return the file of an indexed picture, even if index and pictures were copied from another system.

    Args:
        root: The folder that the index's names are relative to.
        name: A POSIX name in the index. Callers compare the file with what was indexed.

    Returns:
        The file, or the member of a tar archive; the path of exactly this name if there is neither.
    """
    path = root / name
    if os.path.lexists(path):
        return path
    if (member := tar_member(path)) is not None:
        return member
    try:
        return root / _finder(root, int(time.monotonic() / LISTING_TTL_S)).find(name, suggest=False)
    except FileNameError:
        return path


@lru_cache(maxsize=4)
def _finder(root: Path, period: int) -> FileFinder:
    """Return a finder that is renewed in each period, so that pictures put back later are found."""
    return FileFinder(root)


def _percent_decoded(name: str) -> str:
    try:
        return unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name


def _join(names: list[str]) -> str:
    listed = ", ".join(map(repr, names[:MAX_SUGGESTIONS]))
    return f"{listed}, ..." if len(names) > MAX_SUGGESTIONS else listed
