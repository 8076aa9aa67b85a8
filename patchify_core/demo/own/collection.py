"""One visitor's pictures, on disk in a private folder for as long as the visit lasts."""

from __future__ import annotations

import re
import shutil
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from patchify_core.demo.settings import MEGABYTE, PageSettings
from patchify_core.errors import ArchiveError, NotAPictureError, PatchifyError, PictureError
from patchify_core.files import sha256_of_bytes
from patchify_core.gallery.folder import is_skipped
from patchify_core.imaging.archives import ArchiveSettings, is_archive, members
from patchify_core.imaging.file_types import other_archive_type
from patchify_core.imaging.pictures import picture_size

MOST_PARTS, LONGEST = 8, 80
"""Parts of a path, its name included, and characters of each part."""

_REFUSED = '<>:"|?*'
"""Characters that Windows allows in no file name."""

_JOINERS = "\u200c\u200d"
"""Zero-width letters that Persian, Hindi and emoji need; others can deceive and are replaced."""

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def clean(name: str) -> str:
    """Turn any name into a relative POSIX path that every file system takes, changing as little as possible.

    Example:
        >>> clean("../../Holiday 2026/IMG<1>.jpg"), clean("/etc/passwd"), clean("CON.png"), clean("")
        ('Holiday 2026/IMG_1_.jpg', 'etc/passwd', '_CON.png', 'picture')
    """
    parts = []
    for part in unicodedata.normalize("NFC", name.replace("\\", "/")).split("/"):
        safe = "".join(c if _is_safe(c) else "_" for c in part).strip(" .")
        if safe:
            parts.append(_shortened(safe))
    return "/".join(parts[-MOST_PARTS:]) or "picture"


def _is_safe(letter: str) -> bool:
    if letter in _REFUSED:
        return False
    return letter == " " or letter in _JOINERS or unicodedata.category(letter)[0] in "LMNPS"


def unused(name: str, is_taken: Callable[[str], bool]) -> str:
    """Add a number to a name that is taken, for which `is_taken` gets the name with its case folded."""
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = name, ""
    number, free = 1, name
    while is_taken(free.casefold()):
        number += 1
        free = f"{stem} ({number}){dot}{ending}" if ending else f"{name} ({number})"
    return free


def _shortened(part: str) -> str:
    stem, dot, ending = part.rpartition(".")
    if not dot:
        stem, ending = part, ""
    if len(ending) > 5:
        stem, dot, ending = part.replace(".", "_"), "", ""
    if stem.casefold() in _DEVICES:
        stem = f"_{stem}"
    room = LONGEST - len(dot) - len(ending)
    # Most file systems count bytes, at most 255 of them.
    while len(stem) > room or len(stem.encode()) > 200:
        stem = stem[:-1]
    return f"{stem}{dot}{ending}"


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that orders names as people number them.

    Example:
        >>> sorted(["10.png", "2.png"], key=natural)
        ['2.png', '10.png']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


EXPANSION = 20
"""Largest ratio of an archive's unpacked to its packed bytes: photos, codes and maps hardly compress."""

CROWDED = "Other visitors' pictures fill the server at present: try again in a while."

SKIPPED_NAMED = 200
"""Skipped files that are listed; further ones are only counted."""

ENDINGS_NAMED = 6
"""File name endings by which skipped files that are no pictures are counted."""


@dataclass(frozen=True)
class OwnPicture:
    """One picture of a visitor.

    Attributes:
        id: From 1, in order of arrival.
        name: Relative POSIX path, made safe (`clean`).
        path: Of the file.
        width: Upright width in pixels, from its header.
        height: Upright height in pixels.
        bytes: Size of the file.
        sha256: Digest of the file.
    """

    id: int
    name: str
    path: Path
    width: int
    height: int
    bytes: int
    sha256: str


class Collection:
    """A visitor's pictures. Thread-safe: a visitor may have two tabs.

    Args:
        token: Identifies the visitor.
        folder: Private; created here, deleted by `delete`.
        settings: Limits on one visitor's pictures.
        has_room: Whether so many more bytes fit among all visitors' pictures.
    """

    def __init__(self, token: str, folder: Path, settings: PageSettings, has_room: Callable[[int], bool]) -> None:
        self.token, self.folder, self.settings = token, folder, settings
        self._has_room = has_room
        self.lock = threading.RLock()
        self.closed = threading.Event()
        self._pictures: dict[int, OwnPicture] = {}
        self._by_digest: dict[str, int] = {}
        self._taken: set[str] = set()
        self._next = 1
        self.bytes = 0
        self._skipped: list[tuple[str, str]] = []
        self._others: Counter[str] = Counter()
        self._first_other: dict[str, tuple[str, str]] = {}
        self.skipped_in_all = 0
        self.pictures_folder.mkdir(parents=True)

    @property
    def pictures_folder(self) -> Path:
        """Folder of the picture files."""
        return self.folder / "pictures"

    @property
    def pictures(self) -> tuple[OwnPicture, ...]:
        """All pictures, in order of arrival."""
        with self.lock:
            return tuple(self._pictures.values())

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of skipped files; files that are no pictures by name or content are counted by ending."""
        with self.lock:
            return self._skipped + [
                self._first_other[ending] if count == 1 else (f"{count:,} {ending} files", "these are not pictures")
                for ending, count in self._others.most_common(ENDINGS_NAMED)
            ]

    def named(self, name: str) -> OwnPicture:
        """Return the picture of this name.

        Raises:
            PatchifyError: If there is none.
        """
        for picture in self.pictures:
            if picture.name == name:
                return picture
        raise PatchifyError("That picture is no longer among yours: choose one of those shown.")

    def same(self, data: bytes) -> OwnPicture | None:
        """Return the picture with exactly these bytes; None if there is none."""
        with self.lock:
            return self._pictures.get(self._by_digest.get(sha256_of_bytes(data), 0))

    def add(self, name: str, data: bytes) -> bool:
        """Add a picture; return whether it was added (see `try_add`)."""
        return self.try_add(name, data) is None

    def try_add(self, name: str, data: bytes) -> str | None:
        """Add a picture; return None, or the reason why it was skipped, which is also listed in `skipped`.

        Files that an operating system keeps beside pictures are skipped and not listed. `name` may be any text.
        """
        if is_skipped(name.replace("\\", "/")):
            return "it is a file that the system keeps beside pictures"
        try:
            self._add(name, data)
        except NotAPictureError as error:
            # PDFs and archives may contain what the visitor wants to search.
            why = str(error)
            if kind := other_archive_type(data[:512]):
                why = f"it is {kind}: pack the pictures as a zip"
                self.note(name, why)
            elif data.startswith(b"%PDF"):
                self.note(name, why)
            else:
                self._count(name, why)
            return why
        except PatchifyError as error:
            self.note(name, str(error))
            return str(error)
        return None

    def add_archive(self, path: Path) -> int:
        """Add the pictures of a zip archive, as far as there is room.

        Returns:
            How many were added; the files that were skipped are in `skipped`.

        Raises:
            ArchiveError: If it cannot be read, contains no files to add, or contains more than is allowed; pictures
                that were added by then stay.
        """
        settings = self.settings
        limits = ArchiveSettings(
            member_bytes=settings.upload_mb * MEGABYTE,
            total_bytes=(settings.own_mb + settings.upload_mb) * MEGABYTE,
            expansion=EXPANSION,
        )
        added, before = 0, self.skipped_in_all
        for member in members(path, limits):
            if is_skipped(member.name):
                continue
            if member.data is None:
                self.note(member.name, str(member.refused))
            elif is_archive(member.data[:8]) and member.name.lower().endswith(".zip"):
                self.note(member.name, "it is an archive within the archive: send it by itself")
            else:
                if full := self._full():
                    raise ArchiveError(f"{full} The rest of the archive was left out.")
                added += self.add(member.name, member.data)
        if not added and self.skipped_in_all == before:
            raise ArchiveError("The zip archive contains no picture, only folders or hidden files: choose another one.")
        return added

    def remove(self, identifier: int, why: str) -> None:
        """Remove a picture that turned out to be unreadable."""
        with self.lock:
            picture = self._pictures.pop(identifier, None)
            if picture is None:
                return
            self._by_digest.pop(picture.sha256, None)
            self.bytes -= picture.bytes
            self.note(picture.name, why)
        picture.path.unlink(missing_ok=True)

    def note(self, name: str, why: str) -> None:
        """List a file as skipped."""
        with self.lock:
            self.skipped_in_all += 1
            if len(self._skipped) < SKIPPED_NAMED:
                self._skipped.append((clean(name), why.rstrip(".")))

    def _count(self, name: str, why: str) -> None:
        """Count a file that is no picture, nor named like one, by its ending."""
        name = clean(name)
        ending = PurePosixPath(name).suffix.lower() or "other"
        with self.lock:
            self.skipped_in_all += 1
            self._others[ending] += 1
            self._first_other.setdefault(ending, (name, why.rstrip(".")))

    def delete(self) -> None:
        """Delete everything, and set `closed` for whoever still works with it."""
        self.closed.set()
        with self.lock:
            self._pictures.clear()
            self._by_digest.clear()
            self.bytes = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def _add(self, name: str, data: bytes) -> None:
        if len(data) > self.settings.upload_mb * MEGABYTE:
            raise PictureError(f"it is larger than {self.settings.upload_mb} MB.")
        width, height = picture_size(data, name=name)
        digest = sha256_of_bytes(data)
        with self.lock:
            if self.closed.is_set():
                raise PatchifyError("the visit has ended.")
            if digest in self._by_digest:
                same = self._pictures[self._by_digest[digest]]
                raise PatchifyError(f"the same picture is there already, as {same.name}.")
            full = self._full(len(data))
            if full:
                raise PatchifyError(full)
            safe = unused(clean(name), self._taken.__contains__)
            path = self.pictures_folder / safe
            # Its folders too: another picture may have the name of a folder.
            self._taken.update(str(part).casefold() for part in (PurePosixPath(safe), *PurePosixPath(safe).parents))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except (FileExistsError, NotADirectoryError):  # a picture has the name of this one's folder
                safe = unused(clean(name.replace("/", "_")), self._taken.__contains__)
                path = self.pictures_folder / safe
                self._taken.add(safe.casefold())
                path.write_bytes(data)
            except OSError as error:
                raise PatchifyError("the server has no room for it: try again later.") from error
            picture = OwnPicture(self._next, safe, path, width, height, len(data), digest)
            self._pictures[picture.id] = picture
            self._by_digest[digest] = picture.id
            self._next += 1
            self.bytes += len(data)

    def _full(self, more: int = 1) -> str:
        """Return why `more` bytes cannot be added; empty if they can."""
        settings = self.settings
        if len(self._pictures) >= settings.own_pictures:
            return f"There is room for {settings.own_pictures:,} pictures per visit."
        if self.bytes + more > settings.own_mb * MEGABYTE:
            return f"There is room for {settings.own_mb:,} MB of pictures per visit."
        if not self._has_room(more):
            return CROWDED
        return ""
