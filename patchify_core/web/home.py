"""A server's private folder for what visitors send. No other server touches it while this one lives.

A killed server deletes nothing; its folder is locked no more, and the next server that starts deletes it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import IO

from patchify_core.journal import lock

PREFIX = "patchify-own-"
"""What such a folder is called."""

LOCK_NAME, UPLOADS, VISITORS = "lock", "uploads", "visitors"
"""What is in it: the lock, what Gradio takes, and a folder of each visitor's own pictures."""

STALE_S = 600.0
"""Age from which a folder is dead where locks say nothing: a living server touches its own all the time."""

GRADIO = "GRADIO_TEMP_DIR"
"""The variable that says where Gradio puts uploads; it is read anew each time."""


class Home:
    """The private folder.

    Args:
        folder: an empty or missing folder.
        uploads: where Gradio puts uploads; a folder within by default.
    """

    def __init__(self, folder: Path, uploads: Path | None = None) -> None:
        """Makes and locks it."""
        self.folder, self.uploads, self.visitors = folder, uploads or folder / UPLOADS, folder / VISITORS
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock: IO[str] | None = open(folder / LOCK_NAME, "a", encoding="utf-8")
        try:
            lock(self._lock)
        except OSError:  # a file system without locks: its age tells that it is in use
            pass
        for inner in (self.uploads, self.visitors):
            inner.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def make(cls, environ: MutableMapping[str, str] = os.environ) -> Home:
        """A new one among the machine's temporary files; deletes those of dead servers.

        Gradio's uploads go there too, or, where a person named a folder for them, into one of their own in that.
        """
        named = environ.get(GRADIO, "").strip()
        parent = Path(tempfile.gettempdir())
        delete_dead(parent, Path(named) if named else None)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        home = cls(folder, Path(named) / folder.name if named else None)
        environ[GRADIO] = str(home.uploads)
        atexit.register(home.close)
        return home

    def touch(self) -> None:
        """Says that it is in use."""
        os.utime(self.folder)
        os.utime(self.uploads)

    def close(self) -> None:
        """Deletes it; may be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            shutil.rmtree(self.uploads, ignore_errors=True)
            shutil.rmtree(self.folder, ignore_errors=True)


def delete_dead(parent: Path, uploads: Path | None = None) -> None:
    """Deletes the folders of servers that were killed: nobody looks after them any more.

    Args:
        parent: where servers' folders lie.
        uploads: where their folders of uploads lie, if that is elsewhere; they have the same names.
    """
    if uploads is not None and uploads != parent:
        for folder in _folders(uploads):
            home = parent / folder.name
            if _is_dead(home if home.is_dir() else folder):
                shutil.rmtree(folder, ignore_errors=True)
    for folder in _folders(parent):
        if _is_dead(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.glob(f"{PREFIX}*") if path.is_dir() and not path.is_symlink()]


def _is_dead(folder: Path) -> bool:
    try:
        with open(folder / LOCK_NAME, "r+", encoding="utf-8") as file:
            lock(file)
            return True
    except (BlockingIOError, PermissionError):
        return False  # its server lives, or it is another person's
    except OSError:  # no lock: it is being made, or the file system has none
        try:
            return time.time() - folder.stat().st_mtime > STALE_S
        except OSError:
            return False
