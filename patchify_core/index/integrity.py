"""Verify that the files of an index are those that were written, and parse .npy files safely.

`meta.json` has the size and SHA-256 of every other file. FAISS trusts its input (a wrong length makes it read beyond
its memory), so every byte is checked on each load, however large the file. Checking samples would be unsound: lengths
and ids that FAISS follows blindly are all over the file of an inverted index. Instead, large files also have digests of
blocks, so that all cores verify one file: 1.5 GB/s on one core with SHA instructions, 2.7 GB/s on two, where FAISS
reads the same file at 1.0 to 3.6 GB/s. 300 million codes of 32 bytes take 4 to 6 s once they are in memory.

The size of an array never comes from a .npy header alone.

Files are opened together, and the open files that were verified are the ones that are read: a build may replace the
folder meanwhile. On Windows a build cannot do so while a file of the folder is open, and waits.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.files import CHUNK_BYTES, atomic, sha256_of_json

META_NAME = "meta.json"
BLOCK_BYTES = 1 << 26
"""Files larger than this also have digests of blocks of this size."""

_HEADER_BYTES = 1 << 14  # more than numpy reads of a header


class Digests:
    """Computes size and digests of a file from its bytes in order."""

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self.size = 0
        self._whole, self._block_bytes = hashlib.sha256(), block_bytes
        self._blocks: list[str] = []
        self._block = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._whole.update(data)
        rest = memoryview(data)
        while len(rest):
            part = rest[: self._block_bytes - self.size % self._block_bytes]
            self._block.update(part)
            self.size += len(part)
            rest = rest[len(part) :]
            if self.size % self._block_bytes == 0:
                self._end_block()

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the bytes so far."""
        return self._whole.hexdigest()

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = hashlib.sha256()

    def listed(self) -> dict[str, Any]:
        """Return the entry of the file for `meta.json`; with `blocks` only if there are several."""
        entry: dict[str, Any] = {"bytes": self.size, "sha256": self._whole.hexdigest()}
        if self.size > self._block_bytes:
            if self.size % self._block_bytes:
                self._end_block()
            entry |= {"block_bytes": self._block_bytes, "blocks": self._blocks}
        return entry


def listed_file(path: Path) -> dict[str, Any]:
    """Return the `meta.json` entry of a file on disk; see `Digests`."""
    digests = Digests()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digests.update(chunk)
    return digests.listed()


def write_listed(path: Path, pieces: Iterable[bytes | memoryview], tag: str | None = None) -> dict[str, Any]:
    """Write a file sequentially and return its `meta.json` entry.

    Args:
        path: The file.
        pieces: Its bytes, generated while they are written.
        tag: If given, write atomically; see `files.atomic`.

    Raises:
        OSError: It cannot be written.
    """
    digests = Digests()
    with open(path, "wb") if tag is None else atomic(path, tag) as file:
        for piece in pieces:
            file.write(piece)
            digests.update(piece)
    return digests.listed()


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` with its own digest, after all files that it lists.

    Raises:
        OSError: It cannot be written.
    """
    text = json.dumps(meta | {"digest": sha256_of_json(meta)}, indent=1)
    (folder / META_NAME).write_text(text + "\n", encoding="utf-8")


def is_intact(
    file: BinaryIO,
    listed: dict[str, Any],
    on_read: Callable[[int], None] = lambda size: None,
    threads: int | None = None,
) -> bool:
    """Whether an open file is the one in `meta.json`, bit by bit.

    Args:
        file: Open for reading bytes; its position may change.
        listed: Its entry, from `Digests.listed`.
        on_read: Called with the number of bytes just read, from any thread.
        threads: Number of threads; the number of cores by default.

    Raises:
        KeyError, TypeError: The entry is invalid.
        OSError: The file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    if size != listed["bytes"]:
        return False
    block_bytes, expected = max(size, 1), [listed["sha256"]]
    if "blocks" in listed:
        block_bytes, expected = listed["block_bytes"], listed["blocks"]
        if not block_bytes > 0 or len(expected) != -(-size // block_bytes):
            return False
    lock = threading.Lock()

    def fits(number: int) -> bool:
        digest, at = hashlib.sha256(), number * block_bytes
        end = min(at + block_bytes, size)
        while at < end:
            chunk = _read_at(file, at, min(CHUNK_BYTES, end - at), lock)
            if not chunk:
                return False  # truncated meanwhile
            digest.update(chunk)
            at += len(chunk)
            on_read(len(chunk))
        return bool(digest.hexdigest() == expected[number])

    if len(expected) == 1:
        return fits(0)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="patchify-check") as pool:
        return all(pool.map(fits, range(len(expected))))


def _read_at(file: BinaryIO, at: int, size: int, lock: threading.Lock) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, at)
    with lock:  # Windows cannot read at an offset without seeking
        file.seek(at)
        return file.read(size)


@contextmanager
def open_files(place: Path, names: Iterable[str], folder: Path) -> Iterator[dict[str, BinaryIO]]:
    """Open the files of an index together, so that all are of one version even if a build swaps the index meanwhile.

    Args:
        place: Folder of the files.
        names: Names of the files.
        folder: Name of the index folder for errors.

    Raises:
        IndexFolderError: A file is missing or cannot be read.
    """
    with ExitStack() as stack:
        files: dict[str, BinaryIO] = {}
        for name in names:
            try:
                files[name] = stack.enter_context(open(place / name, "rb"))
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise damaged(folder, name) from None
            except OSError as error:
                raise unreadable(folder / name, error) from error
        yield files


@contextmanager
def open_intact(place: Path, files: dict[str, dict[str, Any]], folder: Path) -> Iterator[dict[str, BinaryIO]]:
    """Open the files of an index as `open_files` does, and verify each.

    Args:
        place: Folder of the files.
        files: Their entries in `meta.json`, by name.
        folder: Name of the index folder for errors.

    Yields:
        The open files, each at its beginning.

    Raises:
        IndexFolderError: A file is missing, damaged or cannot be read.
    """
    with open_files(place, files, folder) as at:
        for name, file in at.items():
            try:
                intact = is_intact(file, files[name])
            except (KeyError, TypeError):
                raise damaged(folder, META_NAME) from None
            except OSError as error:
                raise unreadable(folder / name, error) from error
            if not intact:
                raise damaged(folder, name)
            file.seek(0)
        yield at


def damaged(folder: Path, name: str) -> IndexFolderError:
    """Error for a file that is not the one that was written."""
    return IndexFolderError(
        f"{folder / name} is missing, truncated or not the file that was written: delete {folder} and build it again."
    )


def unreadable(path: Path, error: OSError) -> IndexFolderError:
    """Error for a file that cannot be read but may be intact, so that nothing should be deleted."""
    return IndexFolderError(
        f"{path} cannot be read ({error.strerror or 'unknown error'}): check its permissions and the disk."
    )


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Serialize an array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def npy_head(kind: str, shape: tuple[int, ...]) -> bytes:
    """Return the header of a .npy file."""
    head = io.BytesIO()
    described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()


def npy_array(data: bytes | mmap.mmap) -> NDArray[Any]:
    """Return the array in the bytes of a .npy file as a read-only view.

    Raises:
        ValueError: It is something else, contains Python objects, or its length does not match the header.
    """
    head = io.BytesIO(data[:_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, kind = read(head)
    except Exception as error:  # headers are Python literals, which fail in many ways
        raise ValueError("not a .npy file") from error
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or min(shape, default=0) < 0 or not size or head.tell() + size != len(data):
        raise ValueError("not a .npy file of plain numbers")
    flat: NDArray[Any] = np.frombuffer(data, kind, offset=head.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")
