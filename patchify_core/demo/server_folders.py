"""A server's private folders for what visitors send. No other server touches them while this one lives.

A killed server deletes nothing; its lock is open then, and the next server that starts deletes its folders.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from patchify_core.files import lock

PREFIX, UPLOADS_PREFIX, LOCK_PREFIX = "patchify-own-", "patchify-uploads-", "patchify-lock-"
"""What their names begin with: of the folders of visitors' own pictures and of what Gradio takes, and of the lock.
They end alike."""

STALE_S = 600.0
"""Age from which a folder is dead where locks say nothing: a living server touches its own all the time."""

GRADIO = "GRADIO_TEMP_DIR"
"""The variable that says where Gradio puts uploads; it is read anew each time."""


class ServerFolders:
    """The two folders, and the lock beside them.

    Args:
        folder: for visitors' own pictures, each in a folder of theirs; empty or missing.
        uploads: where the folder for uploads is made; by default beside the other.
    """

    def __init__(self, folder: Path, uploads: Path | None = None) -> None:
        self.folder = folder
        self.uploads = (uploads or folder.parent) / _uploads_name(folder)
        for made in (self.folder, self.uploads):
            made.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock: IO[str] | None = open(_lock_of(folder), "a", encoding="utf-8")
        with suppress(OSError):  # a file system without locks: its age tells that it is in use
            lock(self._lock)

    @classmethod
    def create(cls, environ: MutableMapping[str, str] = os.environ) -> ServerFolders:
        """A new one among the machine's temporary files; deletes those of dead servers.

        Gradio's uploads go into the second folder, which is made where a person wants uploads, if they say so.
        """
        named = environ.get(GRADIO, "").strip()
        uploads = Path(named or tempfile.gettempdir()).resolve()
        delete_abandoned(Path(tempfile.gettempdir()), uploads)
        home = cls(Path(tempfile.mkdtemp(prefix=PREFIX)), uploads)
        environ[GRADIO] = str(home.uploads)
        atexit.register(home.close)
        return home

    def touch(self) -> None:
        """Says that it is in use, and deletes what dead servers left meanwhile."""
        os.utime(self.folder)
        os.utime(self.uploads)
        delete_abandoned(self.folder.parent, self.uploads.parent)

    def close(self) -> None:
        """Deletes it; may be called again."""
        if self._lock is not None:
            _delete(self.folder, self.uploads)
            self._lock.close()
            self._lock = None
            _lock_of(self.folder).unlink(missing_ok=True)


def delete_abandoned(parent: Path, uploads: Path | None = None) -> None:
    """Deletes the folders of servers that were killed: nobody looks after them any more.

    Args:
        parent: where servers' folders lie.
        uploads: where their folders for uploads lie, if that is elsewhere.
    """
    uploads = uploads or parent
    for folder in _folders(parent, PREFIX):
        if _is_dead(folder):
            _delete(folder, uploads / _uploads_name(folder))
            _lock_of(folder).unlink(missing_ok=True)
    for folder in _folders(uploads, UPLOADS_PREFIX):  # of servers whose other folder is elsewhere, or gone
        own = parent / f"{PREFIX}{folder.name.removeprefix(UPLOADS_PREFIX)}"
        if not own.exists() and _is_dead(own, folder):
            _delete(folder)
            _lock_of(own).unlink(missing_ok=True)


def _uploads_name(folder: Path) -> str:
    return f"{UPLOADS_PREFIX}{folder.name.removeprefix(PREFIX)}"


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{LOCK_PREFIX}{folder.name.removeprefix(PREFIX)}")


def _folders(parent: Path, prefix: str) -> list[Path]:
    return [path for path in parent.glob(f"{prefix}*") if path.is_dir() and not path.is_symlink()]


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path, there: Path | None = None) -> bool:
    """Whether the server of a folder for own pictures has ended; `there` is another of it, if that one has gone."""
    try:
        with open(_lock_of(folder), "r+", encoding="utf-8") as file:
            lock(file)
            return True
    except (BlockingIOError, PermissionError):
        return False  # its server lives, or it is another person's
    except OSError:  # no lock: it is being made, or the file system has none
        return _is_stale(there or folder)


def _is_stale(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > STALE_S
    except OSError:
        return False
