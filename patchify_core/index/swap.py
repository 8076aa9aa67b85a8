"""Where a build works, `<out>.partial` beside the index folder, and how its result takes the place of the old index.

The folder is locked, and known by what it was begun for. A build that was cut leaves its work there: shards, parts, and
a journal of JSON lines that says what is finished. The next build of the same kind takes it over; one of another kind
deletes it, because descriptors and codes must never be mixed.

An index changes places by two renames, because no rename replaces a folder that has something in it. Between them
readers look where the old index was moved to (`integrity.standing`), and if a kill comes just there, the next build
moves it back. So a kill, a power cut or a reader at any moment finds the old index or the new one.
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
from typing import IO, Any

from patchify_core.errors import IndexFolderError
from patchify_core.files import HOLDER_NAME, JsonLines, locked, read_json, say_who
from patchify_core.index.integrity import NEW_NAME, OLD_NAME, private_of

HEAD_NAME, JOURNAL_NAME = "maker.json", "journal.jsonl"
"""The first says what the work is for, and the lock is on it: a folder without it is not known as ours. The second has
a line for each finished piece of work."""

WINDOWS_WAITS_S = 10.0
"""How long a rename waits for readers that have a file of the folder open; elsewhere it need not."""


_WORK = ("shard-*", "part-*", "learned.*", "finer.*", "journal.*")
"""Files that builds leave for the next one, of every kind of build and of earlier versions."""


class BuildFolder:
    """The private folder of builds of one index; a context manager that lets one build in at a time.

    Args:
        out: The index folder, resolved.

    Attributes:
        out: As given.
        folder: The private folder, made if missing.
        journal: The finished pieces of work, one line each; `take_over` opens it.

    Raises:
        IndexFolderError: Something else is in the way, or another build is using it.
        OSError: It cannot be made, or an old index that was moved aside cannot be moved back.
    """

    journal: JsonLines

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, private_of(out)
        self._head = self.folder / HEAD_NAME
        there = self.folder.exists() and not self._head.exists()
        if there and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise IndexFolderError(
                f"{self.folder} is in the way and was not made by this program: move it, or choose another folder for "
                "the index."
            )
        self._lock: IO[str] | None = locked(self._head)
        try:
            say_who(self.folder)
            if (self.folder / OLD_NAME).exists() and not out.exists():
                os.replace(self.folder / OLD_NAME, out)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BuildFolder:
        """The folder itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let the next build in. What is in the folder stays, unless there is no work in it."""
        # Without the lock it may be another build's by now.
        if self._lock is not None and {path.name for path in self.folder.glob("*")} <= {HEAD_NAME, HOLDER_NAME}:
            self.remove()
        self.close()

    def resume(self, maker: dict[str, Any]) -> None:
        """Keep what an earlier build of the same kind left, and deletes what one of another kind left.

        Args:
            maker: What the work is for, as plain JSON values.

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
        """What the journal's last line about a piece of work says, which must still be compared; None without one."""
        lines = [line for line in self.journal.values if isinstance(line, dict) and line.get("piece") == piece]
        return lines[-1] if lines else None

    def swap_in(self, write: Callable[[Path], None]) -> None:
        """Write an index beside `out` and renames it into place.

        Args:
            write: Writes the new index into the empty folder that it is given.

        Raises:
            OSError: It cannot be written or moved; what was at `out` is still there.
        """
        out, new, old = self.out, self.folder / NEW_NAME, self.folder / OLD_NAME
        for left in (new, old):
            if left.exists():
                shutil.rmtree(left)
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
        """Delete the folder: the index has everything. What cannot be deleted stays for the next build to use."""
        with suppress(OSError):
            # Were the head to go first, a kill would leave a folder that is not known as ours any more.
            for path in self.folder.iterdir():
                if path != self._head:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            if sys.platform == "win32":
                self.close()  # Windows deletes no open file
            shutil.rmtree(self.folder)
        self.close()

    def close(self) -> None:
        """Let the next build in; may be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _rename(source: Path, target: Path) -> None:
    """Move a folder; on Windows, once no reader has a file of it open."""
    until = time.monotonic() + (WINDOWS_WAITS_S if sys.platform == "win32" else 0)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.05)


def _sync_names(folder: Path) -> None:
    """Have the disk keep the folder's names as they are now; Windows knows no such thing, and does it itself."""
    if sys.platform == "win32":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder that may be written in but not listed
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def root_from(out: Path, root: Path) -> str:
    """The gallery's root relative to the index folder, so that both can move together; absolute across drives."""
    try:
        return Path(os.path.relpath(root.resolve(), out.resolve())).as_posix()
    except ValueError:
        return root.resolve().as_posix()


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn what the disk says into one sentence; work that is already journalled stays for the next run."""
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
