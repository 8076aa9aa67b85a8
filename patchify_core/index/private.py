"""The private folder beside an index (`<out>.partial`) where a build works: locked, and known by what it was begun for.

A build that was cut leaves its work there. The next one of the same kind takes it over; one of another kind deletes it,
because descriptors and codes must never be mixed.
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from patchify_core.errors import IndexFolderError
from patchify_core.files import locked, read_json, say_who

HEAD_NAME = "maker.json"
"""Says what the work is for; the lock is on it. A folder without it is not known as ours."""

_WORK = ("shard-*", "part-*", "learned.*", "finer.*")
"""Files that builds leave for the next one, of every kind of build."""

Self = TypeVar("Self", bound="PrivateFolder")


class PrivateFolder:
    """A context manager: one build at a time may use a folder, and leaving the block lets the next one in.

    Args:
        folder: private to builds of one index; made if missing.

    Raises:
        IndexFolderError: if something else is in the way, or another build is using it.
        OSError: if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        """Locks the folder and writes down who did."""
        self.folder = folder
        self._head = folder / HEAD_NAME
        if folder.exists() and not self._head.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise IndexFolderError(
                f"{folder} is in the way and was not made by this program: move it, or choose another folder for the "
                "index."
            )
        self._lock: IO[str] | None = locked(self._head)
        try:
            say_who(folder)
        except BaseException:
            self.close()
            raise

    def __enter__(self: Self) -> Self:
        """The folder itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Lets the next build in; what is in the folder stays."""
        self.close()

    def take_over(self, maker: dict[str, Any]) -> None:
        """Keeps what an earlier build of the same kind left, and deletes what one of another kind left.

        Args:
            maker: what the work is for, as plain JSON values.

        Raises:
            OSError: if a file cannot be deleted or written.
        """
        if read_json(self._head) != maker:
            for pattern in _WORK:
                for path in self.folder.glob(pattern):
                    path.unlink()
            self._head.write_text(json.dumps(maker), encoding="utf-8")  # not renamed: the lock is on this file

    def remove(self) -> None:
        """Deletes the folder: the index has everything. What cannot be deleted stays for the next build to use."""
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
        """Lets the next build in; may be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
