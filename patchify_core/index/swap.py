"""A finished index takes the place of the old one: a kill, a power cut or a reader at any moment finds one of them.

Two renames, because no rename replaces a folder that has something in it. Between them readers look where the old
index was moved to (`integrity.standing`), and if a kill comes just there, the next build moves it back.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patchify_core.errors import IndexFolderError
from patchify_core.index.integrity import NEW_NAME, OLD_NAME

WINDOWS_WAITS_S = 10.0
"""How long a rename waits for readers that have a file of the folder open; elsewhere it need not."""


def heal(out: Path, private: Path) -> None:
    """Moves the old index back where a swap was cut between its two renames. Only for who holds the lock.

    Raises:
        OSError: if it cannot be moved.
    """
    if (private / OLD_NAME).exists() and not out.exists():
        os.replace(private / OLD_NAME, out)


def swap_in(out: Path, private: Path, write: Callable[[Path], None]) -> None:
    """Writes an index beside `out` and renames it into place. Only for who holds the lock.

    Args:
        out: index folder, which may exist.
        private: an existing folder beside it.
        write: writes the new index into the empty folder that it is given.

    Raises:
        OSError: if it cannot be written or moved; what stood at `out` stands there still.
    """
    new, old = private / NEW_NAME, private / OLD_NAME
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)
    new.mkdir(parents=True)
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
    _sync_names(private)
    _sync_names(out.parent)  # before anything is deleted: a power cut must find the old one or the new one


def _rename(source: Path, target: Path) -> None:
    """Moves a folder; on Windows, once no reader has a file of it open."""
    until = time.monotonic() + (WINDOWS_WAITS_S if sys.platform == "win32" else 0)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= until:
                raise
        time.sleep(0.05)


def _sync_names(folder: Path) -> None:
    """Has the disk keep the folder's names as they are now; Windows knows no such thing, and does it itself."""
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
def explained(out: Path) -> Iterator[None]:
    """Turns what the disk says into one sentence; work that is already journalled stays for the next run."""
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
