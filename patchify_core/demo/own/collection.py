"""One visitor's pictures: on disk, in a folder of their own, for as long as the visit lasts."""

from __future__ import annotations

import re
import shutil
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from patchify_core.demo.settings import PageSettings
from patchify_core.errors import ArchiveError, NotAPictureError, PatchifyError, PictureError
from patchify_core.files import sha256_of_bytes
from patchify_core.gallery.folder import is_skipped
from patchify_core.imaging.archives import ArchiveSettings, is_archive, members
from patchify_core.imaging.file_types import other_archive_type
from patchify_core.imaging.pictures import picture_size

MOST_PARTS, LONGEST = 8, 80
"""Folders and name together; characters of each."""

_REFUSED = '<>:"|?*'
"""What Windows takes in no name."""

_JOINERS = "\u200c\u200d"
"""Persian and Hindi spell with them, and emoji are put together by them; other letters without a width can deceive."""

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def clean(name: str) -> str:
    """A relative POSIX path that any file system takes, as near to the name that was sent as may be.

    Example:
        >>> clean("../../Holiday 2026/IMG<1>.jpg"), clean("/etc/passwd"), clean("CON.png"), clean("")
        ('Holiday 2026/IMG_1_.jpg', 'etc/passwd', '_CON.png', 'picture')
    """
    parts = []
    for part in unicodedata.normalize("NFC", name.replace("\\", "/")).split("/"):
        kept = "".join(c if _is_kept(c) else "_" for c in part).strip(" .")
        if kept:
            parts.append(_fitting(kept))
    return "/".join(parts[-MOST_PARTS:]) or "picture"


def _is_kept(letter: str) -> bool:
    if letter in _REFUSED:
        return False
    return letter == " " or letter in _JOINERS or unicodedata.category(letter)[0] in "LMNPS"


def unused(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or with a number where it is taken; file systems that do not tell letter cases apart are thought of."""
    stem, dot, ending = name.rpartition(".")
    if not dot or "/" in ending:
        stem, ending = name, ""
    number, found = 1, name
    while is_taken(found.casefold()):
        number += 1
        found = f"{stem} ({number}){dot}{ending}" if ending else f"{name} ({number})"
    return found


def _fitting(part: str) -> str:
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
    """Sorts names as people number them.

    Example:
        >>> sorted(["10.png", "2.png"], key=natural)
        ['2.png', '10.png']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]


MEGABYTE = 1_000_000
EXPANSION = 20
"""Bytes that what a visitor packed may become, for each of its own: photos, codes and maps hardly get smaller."""

CROWDED = "Other visitors' pictures fill the server at present: try again in a while."

SKIPPED_NAMED = 200
"""Files that were left out are named up to this many, and counted beyond."""

ENDINGS_NAMED = 6


@dataclass(frozen=True)
class OwnPicture:
    """One picture of a visitor.

    Attributes:
        id: from 1 on, in the order in which pictures came.
        name: relative POSIX name, made safe (`names.clean`).
        path: its file.
        width: upright width in pixels, as its header says.
        height: upright height in pixels.
        bytes: size of the file.
        sha256: digest of the file.
    """

    id: int
    name: str
    path: Path
    width: int
    height: int
    bytes: int
    sha256: str


class Collection:
    """A visitor's pictures. Safe to use from several threads: a visitor may have two tabs.

    Args:
        token: what the visitor's browser shows to be let in.
        folder: private; made here, deleted by `delete`.
        settings: how much a visitor may hold.
        room: asked whether so many more bytes fit among all visitors' pictures.
    """

    def __init__(self, token: str, folder: Path, settings: PageSettings, room: Callable[[int], bool]) -> None:
        self.token, self.folder, self.settings = token, folder, settings
        self._room = room
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
        """Where the pictures lie."""
        return self.folder / "pictures"

    @property
    def pictures(self) -> tuple[OwnPicture, ...]:
        """All pictures, in the order in which they came."""
        with self.lock:
            return tuple(self._pictures.values())

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, why) of what was left out; files that are no pictures by name or content are counted by ending."""
        with self.lock:
            return self._skipped + [
                self._first_other[ending] if count == 1 else (f"{count:,} {ending} files", "these are not pictures")
                for ending, count in self._others.most_common(ENDINGS_NAMED)
            ]

    def named(self, name: str) -> OwnPicture:
        """The picture of a name.

        Raises:
            PatchifyError: if there is none.
        """
        for picture in self.pictures:
            if picture.name == name:
                return picture
        raise PatchifyError("That picture is no longer among yours: choose one of those shown.")

    def same(self, data: bytes) -> OwnPicture | None:
        """The picture that has exactly these bytes; None if there is none."""
        with self.lock:
            return self._pictures.get(self._by_digest.get(sha256_of_bytes(data), 0))

    def add(self, name: str, data: bytes) -> bool:
        """Takes one picture, or notes why not; see `refusal`."""
        return self.refusal(name, data) is None

    def refusal(self, name: str, data: bytes) -> str | None:
        """Takes one picture, or notes why not.

        Args:
            name: what it was called; may be anything.
            data: the file.

        Returns:
            None if it was taken, else why not. What a system keeps beside pictures is not noted: nobody meant it.
        """
        if is_skipped(name.replace("\\", "/")):
            return "it is a file that the system keeps beside pictures"
        try:
            self._take(name, data)
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
        """Takes the pictures of a zip archive, as far as there is room.

        Returns:
            How many were taken; the files that were left out are in `skipped`.

        Raises:
            ArchiveError: if it is no archive that can be read, contains nothing that is looked at, or holds more than
                is allowed; what was taken by then stays.
        """
        settings = self.settings
        limits = ArchiveSettings(
            member_bytes=settings.upload_mb * MEGABYTE,
            total_bytes=(settings.own_mb + settings.upload_mb) * MEGABYTE,
            expansion=EXPANSION,
        )
        taken, before = 0, self.skipped_in_all
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
                taken += self.add(member.name, member.data)
        if not taken and self.skipped_in_all == before:
            raise ArchiveError("The zip archive contains no picture, only folders or hidden files: choose another one.")
        return taken

    def remove(self, identifier: int, why: str) -> None:
        """Takes out a picture that turned out to be unreadable."""
        with self.lock:
            picture = self._pictures.pop(identifier, None)
            if picture is None:
                return
            self._by_digest.pop(picture.sha256, None)
            self.bytes -= picture.bytes
            self.note(picture.name, why)
        picture.path.unlink(missing_ok=True)

    def note(self, name: str, why: str) -> None:
        """Remembers that a file was left out."""
        with self.lock:
            self.skipped_in_all += 1
            if len(self._skipped) < SKIPPED_NAMED:
                self._skipped.append((clean(name), why.rstrip(".")))

    def _count(self, name: str, why: str) -> None:
        """Counts a file that is no picture, nor called one."""
        name = clean(name)
        ending = PurePosixPath(name).suffix.lower() or "other"
        with self.lock:
            self.skipped_in_all += 1
            self._others[ending] += 1
            self._first_other.setdefault(ending, (name, why.rstrip(".")))

    def delete(self) -> None:
        """Deletes everything; whoever still works with it finds it closed."""
        self.closed.set()
        with self.lock:
            self._pictures.clear()
            self._by_digest.clear()
            self.bytes = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, name: str, data: bytes) -> None:
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
            kept = unused(clean(name), self._taken.__contains__)
            path = self.pictures_folder / kept
            # Its folders too: a picture may be called like one.
            self._taken.update(str(part).casefold() for part in (PurePosixPath(kept), *PurePosixPath(kept).parents))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            except (FileExistsError, NotADirectoryError):  # a picture is called like another one's folder
                kept = unused(clean(name.replace("/", "_")), self._taken.__contains__)
                path = self.pictures_folder / kept
                self._taken.add(kept.casefold())
                path.write_bytes(data)
            except OSError as error:
                raise PatchifyError("the server has no room for it: try again later.") from error
            picture = OwnPicture(self._next, kept, path, width, height, len(data), digest)
            self._pictures[picture.id] = picture
            self._by_digest[digest] = picture.id
            self._next += 1
            self.bytes += len(data)

    def _full(self, more: int = 1) -> str:
        """Why no further picture of so many bytes can be taken; empty if it can."""
        settings = self.settings
        if len(self._pictures) >= settings.own_pictures:
            return f"There is room for {settings.own_pictures:,} pictures per visit."
        if self.bytes + more > settings.own_mb * MEGABYTE:
            return f"There is room for {settings.own_mb:,} MB of pictures per visit."
        if not self._room(more):
            return CROWDED
        return ""
