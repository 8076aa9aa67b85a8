"""A server's private temporary folders for what visitors send.

A lock beside them says that the server lives. A killed server deletes nothing, but releases its lock, and the next
server deletes its folders.
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
"""Prefixes of the names of the folder for visitors' own pictures, of the folder for Gradio's uploads, and of the lock;
the rest of the three names is the same."""

STALE_S = 600.0
"""Age at which a folder counts as abandoned where locks do not work: a living server keeps touching its own."""

GRADIO = "GRADIO_TEMP_DIR"
"""Environment variable that says where Gradio puts uploads; Gradio reads it for each upload."""


class ServerFolders:
    """The two folders, and the lock beside them.

    Args:
        folder: For visitors' own pictures; empty or missing.
        uploads: Where the folder for uploads is created; by default beside the other.
    """

    def __init__(self, folder: Path, uploads: Path | None = None) -> None:
        self.folder = folder
        self.uploads = (uploads or folder.parent) / _uploads_name(folder)
        for path in (self.folder, self.uploads):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock: IO[str] | None = open(_lock_of(folder), "a", encoding="utf-8")
        with suppress(OSError):  # a file system without locks: the age of the folders must do
            lock(self._lock)

    @classmethod
    def create(cls, environ: MutableMapping[str, str] = os.environ) -> ServerFolders:
        """Create folders among the machine's temporary files, and delete those of dead servers.

        Points Gradio's uploads at the new folder for them, which is created in `GRADIO_TEMP_DIR` if that is set.
        """
        named = environ.get(GRADIO, "").strip()
        uploads = Path(named or tempfile.gettempdir()).resolve()
        delete_abandoned(Path(tempfile.gettempdir()), uploads)
        home = cls(Path(tempfile.mkdtemp(prefix=PREFIX)), uploads)
        environ[GRADIO] = str(home.uploads)
        atexit.register(home.close)
        return home

    def touch(self) -> None:
        """Mark the folders as in use, and delete those of servers that died meanwhile."""
        os.utime(self.folder)
        os.utime(self.uploads)
        delete_abandoned(self.folder.parent, self.uploads.parent)

    def close(self) -> None:
        """Delete the folders; may be called again."""
        if self._lock is not None:
            _delete(self.folder, self.uploads)
            self._lock.close()
            self._lock = None
            _lock_of(self.folder).unlink(missing_ok=True)


def delete_abandoned(parent: Path, uploads: Path | None = None) -> None:
    """Delete the folders of servers that were killed.

    Args:
        parent: Of the servers' folders.
        uploads: Of their folders for uploads; `parent` if None.
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


def _is_dead(folder: Path, existing: Path | None = None) -> bool:
    """Whether the server of a folder for own pictures has ended; `existing` is its other folder, if it is gone."""
    try:
        with open(_lock_of(folder), "r+", encoding="utf-8") as file:
            lock(file)
            return True
    except (BlockingIOError, PermissionError):
        return False  # its server lives, or it is another person's
    except OSError:  # no lock: it is being created, or the file system has none
        return _is_stale(existing or folder)


def _is_stale(folder: Path) -> bool:
    try:
        return time.time() - folder.stat().st_mtime > STALE_S
    except OSError:
        return False
