"""Files: where the package's own lie, atomic writes, JSON that may be damaged, journals of JSON lines, digests."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from patchify_core.errors import IndexFolderError, PatchifyError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that contains the package: the checkout, or `site-packages`."""

_DATA = ROOT if (ROOT / "sample_db").is_dir() else Path(sysconfig.get_path("data")) / "share" / "patchify"
SAMPLE_DB = _DATA / "sample_db"
ASSETS = _DATA / "assets"

CHUNK_BYTES = 1 << 20

HOLDER_NAME = "holder.json"
"""Which process holds the lock; true only as long as somebody does."""


@contextmanager
def atomic(path: Path, tag: str = "", sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing so that a reader, or a kill at any moment, finds the old file or the new one, never half.

    Args:
        path: The file, which may exist.
        tag: Part of the temporary name. Processes that may write the same file at the same time need a tag each; others
            need none, so that what a kill left behind is written over.
        sync: Have the disk keep the content before the name changes, for what must survive a power cut.

    Yields:
        The file under its temporary name, `NAME[.TAG].tmp` in the same folder.

    Raises:
        OSError: It cannot be written or renamed; the old file is as it was.
    """
    temporary = path.with_name(f"{path.name}.{tag}.tmp" if tag else f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any, indent: int | None = None, tag: str = "", sync: bool = False) -> None:
    """Write a JSON value as UTF-8, whole or not at all. Args and errors as for `atomic`; NaN raises ValueError."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with atomic(path, tag, sync) as file:
        file.write(text.encode())


def read_json(source: Path | bytes) -> Any:
    """Read a JSON value that may be damaged or not there.

    Returns:
        The value of the file, or of the bytes; None if there is none to be read.
    """
    try:
        return json.loads(source if isinstance(source, bytes) else source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


class JsonLines:
    """A file of JSON values, one per line, that grows by whole lines.

    Attributes:
        path: the file, made when the first line is added.
        values: of the whole lines, in their order; None for a line that is no JSON.

    Raises:
        PatchifyError: something else is in the way.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, begins: str) -> None:
        """Read what is there, and cuts a line off that a kill has torn.

        Args:
            path: the file.
            begins: what the first line of such a file begins with.
        """
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        if not begins.encode().startswith(data[: len(begins)]):
            raise PatchifyError(f"{path} is in the way and was not made by this program: move it.")
        *whole, torn = data.split(b"\n")
        if torn:
            os.truncate(path, len(data) - len(torn))  # or the next line would be joined to it
        self.values = [read_json(line) for line in whole]

    def begin(self, value: Mapping[str, Any]) -> None:
        """Make the file anew with one line, which is never torn."""
        write_json(self.path, value)
        self.values = [value]

    def add(self, value: Mapping[str, Any]) -> None:
        """Add a line in one write, so that two processes with the same file do not mix within one.

        Raises:
            OSError: the disk is full, for one.
        """
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(value) + "\n")
        self.values.append(value)

    def remove(self) -> None:
        """Delete the file: its numbers are where they belong. What cannot be deleted stays and does no harm."""
        with suppress(OSError):
            self.path.unlink()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces so that a large one needs no memory.

    Raises:
        OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Digest of a JSON value in canonical form, so that key order and white space do not count."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_of_bytes(text.encode())


def locked(path: Path) -> IO[str]:
    """Open a file (made if missing) and locks it; closing it, or the end of the process however it comes, unlocks.

    Raises:
        IndexFolderError: if another build holds the lock.
        OSError: if it cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = _lock_once(path)
        except FileNotFoundError:
            continue  # the build before this one has just ended and taken the folder away
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the same, a moment later: that lock is on a file that is gone


def _lock_once(path: Path) -> IO[str]:
    file = open(path, "a", encoding="utf-8")
    try:
        lock(file)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise IndexFolderError(
            f"Another index command{_who(path.parent)} is using {path.parent}: wait until it has ended, or choose "
            "another folder for the index."
        ) from error
    except OSError:
        pass  # a file system without locks: as safe as the person who starts the builds
    return file


def lock(file: IO[str]) -> None:
    """Lock an open file for this process, until it is closed or the process ends, however that comes.

    Raises:
        BlockingIOError: if another has locked it; on Windows PermissionError.
        OSError: if the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        # Far behind the text, because on Windows a locked byte cannot be read.
        os.lseek(file.fileno(), 1 << 30, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_holder(folder: Path) -> None:
    """Write down who holds the lock, for the sentence that another build is refused with."""
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    write_json(folder / HOLDER_NAME, holder)


def _who(folder: Path) -> str:
    """Who holds the lock, as words in brackets; nothing where that was not written down yet."""
    holder = read_json(folder / HOLDER_NAME)
    if not isinstance(holder, dict) or not {"pid", "host", "since"} <= {*holder}:
        return ""
    return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
