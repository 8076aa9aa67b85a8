"""Replace an index folder while others read it, and resume interrupted builds.

A build works in `<out>.partial` beside the index folder. That folder is locked, and records which build it belongs to.
An interrupted build leaves shards, parts and a journal of finished work there; the next build of the same kind resumes
it, and one of another kind deletes it, because descriptors and codes of two kinds must never be mixed.

An index is replaced by two renames, because no rename replaces a folder that is not empty. Between them readers look
where the old index was moved to (`current_place`), and after a kill between them the next build moves it back. So a
kill, a power cut or a reader at any moment finds the old index or the new one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from patchify_core.errors import IndexFolderError
from patchify_core.files import HOLDER_NAME, JsonLines, locked, read_json, write_holder
from patchify_core.index.integrity import META_NAME

Content = TypeVar("Content")

PRIVATE, NEW_NAME, OLD_NAME = ".partial", "new", "old"
"""Suffix of the private folder; in it the new index while it is written, and the old one during the swap."""

HEAD_NAME, JOURNAL_NAME = "maker.json", "journal.jsonl"
"""The first identifies the build and carries the lock; a folder without it is not ours. The second has a line for each
finished piece of work."""

WINDOWS_WAITS_S = 10.0
"""How long a rename waits for readers with open files, in seconds; other systems need not wait."""

_WORK = ("shard-*", "part-*", "learned.*", "finer.*", "journal.*")
"""Unfinished work of every kind of build, in this and earlier versions."""

_MAX_SWAPS = 20  # successive swaps that a reader retries after
_PAUSE_S = 0.02


def private_of(out: Path) -> Path:
    """Private folder for builds of the index folder `out`: beside it, hence on the same disk."""
    return out.parent / (out.name + PRIVATE)


def current_place(folder: Path) -> Path:
    """Where the index of `folder` is at this moment: there, or, between the two renames of a swap, beside it.

    After a kill between the renames it stays beside until the next build moves it back.
    """
    if not folder.exists():
        aside = private_of(folder.resolve()) / OLD_NAME
        if (aside / META_NAME).is_file():
            return aside
    return folder


def read_steadily(folder: Path, read: Callable[[Path], Content]) -> Content:
    """Call `read` with the current place of the index; retry if it fails because a build swapped the index meanwhile.

    Args:
        folder: The index folder.
        read: Raises IndexFolderError if the files do not fit together.

    Raises:
        IndexFolderError: As raised by `read` without a swap.
    """
    for retries in range(_MAX_SWAPS, -1, -1):
        place = current_place(folder)
        before = _version(place)
        try:
            return read(place)
        except IndexFolderError:
            if not retries or (current_place(folder) == place and _version(place) == before):
                raise
        time.sleep(_PAUSE_S)
    raise AssertionError("the last turn returns or raises")


def _version(place: Path) -> tuple[int, int, int] | None:
    """Return a value that differs for each index swapped in; None if there is none."""
    try:
        stat = (place / META_NAME).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


class BuildFolder:
    """The private folder of builds of one index; a context manager that admits one build at a time.

    Args:
        out: The index folder, resolved.

    Attributes:
        folder: The private folder, made if missing.
        journal: One line per finished piece of work; opened by `resume`.

    Raises:
        IndexFolderError: Something else is in the way, or another build is using it.
        OSError: It cannot be made, or an old index that was moved aside cannot be moved back.
    """

    journal: JsonLines

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, private_of(out)
        self._head = self.folder / HEAD_NAME
        foreign = self.folder.exists() and not self._head.exists()
        if foreign and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise IndexFolderError(
                f"{self.folder} is in the way and was not made by this program: move it, or choose another folder for "
                "the index."
            )
        self._lock: IO[str] | None = locked(self._head)
        try:
            write_holder(self.folder)
            if (self.folder / OLD_NAME).exists() and not out.exists():
                os.replace(self.folder / OLD_NAME, out)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BuildFolder:
        """Return the folder."""
        return self

    def __exit__(self, *error: object) -> None:
        """Unlock; remove the folder unless there is work in it."""
        # Without the lock it may be another build's by now.
        if self._lock is not None and {path.name for path in self.folder.glob("*")} <= {HEAD_NAME, HOLDER_NAME}:
            self.remove()
        self.close()

    def resume(self, maker: dict[str, Any]) -> None:
        """Keep unfinished work of the same build, delete that of another one, and open the journal.

        Args:
            maker: Identifies the build, as JSON values.

        Raises:
            OSError: A file cannot be deleted, read or written.
        """
        if read_json(self._head) != maker:
            for pattern in _WORK:
                for path in self.folder.glob(pattern):
                    path.unlink()
            self._head.write_text(json.dumps(maker), encoding="utf-8")  # not renamed: the lock is on this file
        self.journal = JsonLines(self.folder / JOURNAL_NAME, "")

    def finished(self, piece: str) -> Any:
        """Return the last journal line of a piece of work, which the caller must verify; None if there is none."""
        lines = [line for line in self.journal.values if isinstance(line, dict) and line.get("piece") == piece]
        return lines[-1] if lines else None

    def swap_in(self, write: Callable[[Path], None]) -> None:
        """Write an index beside `out` and rename it into place.

        Args:
            write: Writes the new index into an empty folder.

        Raises:
            OSError: It cannot be written or moved; what was at `out` is still there.
        """
        out, new, old = self.out, self.folder / NEW_NAME, self.folder / OLD_NAME
        for leftover in (new, old):
            if leftover.exists():
                shutil.rmtree(leftover)
        new.mkdir()
        write(new)
        for path in new.iterdir():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        _sync_names(new)
        if out.exists():
            _rename(out, old)
        try:
            _rename(new, out)
        except OSError:
            if old.exists():
                _rename(old, out)
            raise
        _sync_names(self.folder)
        _sync_names(out.parent)  # before anything is deleted: a power cut must find the old one or the new one

    def remove(self) -> None:
        """Delete the folder after a complete build. What cannot be deleted stays for the next build."""
        with suppress(OSError):
            # If the head went first, a kill would leave a folder that is not known as ours.
            for path in self.folder.iterdir():
                if path != self._head:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if sys.platform == "win32":
                self.close()  # Windows deletes no open file
            shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Release the lock; may be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _rename(source: Path, target: Path) -> None:
    """Move a folder; on Windows wait until no reader has a file of it open."""
    deadline = time.monotonic() + (WINDOWS_WAITS_S if sys.platform == "win32" else 0)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.05)


def _sync_names(folder: Path) -> None:
    """Flush the names in a folder to disk; Windows has no such call and does it itself."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder that is writable but not readable
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def relative_path(path: Path, out: Path) -> str:
    """Path relative to the index folder, so that both can be moved together; absolute across drives."""
    try:
        return Path(os.path.relpath(path.resolve(), out.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn an OSError into one sentence; finished work is kept for the next run."""
    again = "the pictures embedded so far are kept; run the same command again"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise IndexFolderError(f"There is no room left to write {out}: free some space; {again}.") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise IndexFolderError(
                f"{out} cannot be written (read-only or no permission): choose another folder."
            ) from error
        raise IndexFolderError(f"{out} could not be written ({error.strerror or error}): {again}.") from error
