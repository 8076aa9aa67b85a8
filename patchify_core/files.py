"""Files: paths of bundled data, atomic writes, JSON, journals of JSON lines, digests and locks."""

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
"""Names the process with the lock; valid only while it is locked."""


@contextmanager
def atomic(path: Path, tag: str = "", sync: bool = False) -> Iterator[BinaryIO]:
    """Open a file for atomic writing: readers, also after a kill, see the old file or the new one, never a part.

    Args:
        path: The file, which may exist.
        tag: Part of the temporary name. Processes that may write the same file at the same time need one each; others
            need none, so that leftovers of a kill are overwritten.
        sync: Flush the content to disk before the rename, for files that must survive a power cut.

    Yields:
        The file under its temporary name, `NAME[.TAG].tmp` in the same folder.

    Raises:
        OSError: It cannot be written or renamed; the old file is unchanged.
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
    """Write a JSON value atomically as UTF-8. Args and errors as for `atomic`; NaN raises ValueError."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    with atomic(path, tag, sync) as file:
        file.write(text.encode())


def read_json(source: Path | bytes) -> Any:
    """Read a JSON value from a file or from bytes; return None if it is missing or damaged."""
    try:
        return json.loads(source if isinstance(source, bytes) else source.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


class JsonLines:
    """An append-only file of JSON values, one per line. An incomplete last line, left by a kill, is removed.

    Args:
        path: The file, made when the first line is added.
        begins: Beginning of the first line of such a file.

    Attributes:
        values: Values of the lines, in order; None for a line that is not JSON.

    Raises:
        PatchifyError: `path` is another file.
        OSError: The file cannot be read or written.
    """

    def __init__(self, path: Path, begins: str) -> None:
        self.path = path
        data = path.read_bytes() if path.exists() else b""
        if not begins.encode().startswith(data[: len(begins)]):
            raise PatchifyError(f"{path} is in the way and was not made by this program: move it.")
        *lines, incomplete = data.split(b"\n")
        if incomplete:
            os.truncate(path, len(data) - len(incomplete))  # or the next line would be appended to it
        self.values = [read_json(line) for line in lines]

    def begin(self, value: Mapping[str, Any]) -> None:
        """Replace the file atomically by one line."""
        write_json(self.path, value)
        self.values = [value]

    def add(self, value: Mapping[str, Any]) -> None:
        """Append a line in one write, so that lines of two processes do not mix.

        Raises:
            OSError: It cannot be written.
        """
        with open(self.path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(value) + "\n")
        self.values.append(value)

    def remove(self) -> None:
        """Delete the file, if possible; it does no harm if it stays."""
        with suppress(OSError):
            self.path.unlink()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value in canonical form, independent of key order and white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return sha256_of_bytes(text.encode())


def locked(path: Path) -> IO[str]:
    """Open a file (made if missing) and lock it; closing it or the end of the process unlocks it.

    Raises:
        IndexFolderError: Another build has the lock.
        OSError: The file cannot be made.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = _lock_once(path)
        except FileNotFoundError:
            continue  # the previous build has just ended and removed the folder
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the lock is on a file that was removed meanwhile


def _lock_once(path: Path) -> IO[str]:
    file = open(path, "a", encoding="utf-8")
    try:
        lock(file)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise IndexFolderError(
            f"Another index command{_holder(path.parent)} is using {path.parent}: wait until it has ended, or choose "
            "another folder for the index."
        ) from error
    except OSError:
        pass  # a file system without locks: users must not run two builds at once
    return file


def lock(file: IO[str]) -> None:
    """Lock an open file until it is closed or the process ends.

    Raises:
        BlockingIOError: Another process has locked it; on Windows PermissionError.
        OSError: The file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        # Far beyond the text, because on Windows a locked byte cannot be read.
        os.lseek(file.fileno(), 1 << 30, os.SEEK_SET)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def write_holder(folder: Path) -> None:
    """Record which process has the lock, for the error message of other builds."""
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    write_json(folder / HOLDER_NAME, holder)


def _holder(folder: Path) -> str:
    """Name the process with the lock, in brackets; empty if unknown."""
    holder = read_json(folder / HOLDER_NAME)
    if not isinstance(holder, dict) or not {"pid", "host", "since"} <= {*holder}:
        return ""
    return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
