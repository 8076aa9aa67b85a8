"""Is an index folder whole: where it stands while builds swap it, and whether its files are those that were written.

`meta.json` lists the size and SHA-256 of every other file. FAISS trusts what it reads (a wrong length in a file is a
read beyond the memory's end), so every byte is checked each time before FAISS gets it, however large the file. A
check of samples would be quicker and not sound: lengths and ids that FAISS follows blindly stand all over the file of
an inverted index. It is made fast instead. A large file also lists digests of its blocks, so that all cores can work
on one file: 1.5 GB/s on one core that has SHA instructions, 2.7 GB/s on two, where FAISS then reads the same file at
1.0 to 3.6 GB/s. 300 million codes of 32 bytes take 4 to 6 s, once the disk has delivered them.

.npy files are read without allocating anything by what a header claims.

The files are opened together, and what was checked is what is read: another build may put a new index in the folder's
place meanwhile. On Windows a build cannot do that while a file of the folder is open; it waits for a moment.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.files import CHUNK_BYTES, atomic, sha256_of_json

META_NAME = "meta.json"
PRIVATE, NEW_NAME, OLD_NAME = ".partial", "new", "old"
"""Of the folder beside an index where a build works; in it the new index while it is written, and the old one while
they change places."""

BLOCK_BYTES = 1 << 26
"""Files larger than this list digests of blocks of this size too."""

Found = TypeVar("Found")
_HEADER_BYTES = 1 << 14  # more than numpy itself reads of one
_SWAPS = 20  # that a reader sits out, one after the other
_PAUSE_S = 0.02


class Digests:
    """Size and digests of a file, from its bytes as they go by.

    Args:
        block_bytes: size of a block.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        self.size = 0
        self._whole, self._block_bytes = hashlib.sha256(), block_bytes
        self._blocks: list[str] = []
        self._block = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
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
        """Of the bytes so far, in hexadecimal."""
        return self._whole.hexdigest()

    def _end_block(self) -> None:
        self._blocks.append(self._block.hexdigest())
        self._block = hashlib.sha256()

    def listed(self) -> dict[str, Any]:
        """What `meta.json` lists of the file; it has `blocks` only if there are several."""
        entry: dict[str, Any] = {"bytes": self.size, "sha256": self._whole.hexdigest()}
        if self.size > self._block_bytes:
            if self.size % self._block_bytes:
                self._end_block()
            entry |= {"block_bytes": self._block_bytes, "blocks": self._blocks}
        return entry


def listed_file(path: Path) -> dict[str, Any]:
    """What `meta.json` lists of a file on the disk; see `Digests`."""
    digests = Digests()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digests.update(chunk)
    return digests.listed()


def write_listed(path: Path, pieces: Iterable[bytes | memoryview], tag: str | None = None) -> dict[str, Any]:
    """Write a file from its beginning to its end; returns what `meta.json` lists of it.

    Args:
        path: the file.
        pieces: its bytes, made as they are written.
        tag: where given, the file is written whole or not at all; see `files.atomic`.

    Raises:
        OSError: if it cannot be written.
    """
    digests = Digests()
    with open(path, "wb") if tag is None else atomic(path, tag) as file:
        for piece in pieces:
            file.write(piece)
            digests.update(piece)
    return digests.listed()


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Write `meta.json` with its own digest; whatever it lists must be there.

    Raises:
        OSError: if it cannot be written.
    """
    text = json.dumps(meta | {"digest": sha256_of_json(meta)}, indent=1)
    (folder / META_NAME).write_text(text + "\n", encoding="utf-8")


def is_intact(
    file: BinaryIO,
    listed: dict[str, Any],
    passed: Callable[[int], None] = lambda size: None,
    threads: int | None = None,
) -> bool:
    """Whether an open file is the one that `meta.json` lists, to the last bit.

    Args:
        file: open for reading bytes; where it stands in the file does not matter and may change.
        listed: its entry, as `Digests.listed` made it.
        passed: called with how many bytes more are read, from any thread.
        threads: how many compute at a time; as many as there are cores by default.

    Raises:
        KeyError, TypeError: if the entry is not such an entry.
        OSError: if the file cannot be read.
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
                return False  # cut meanwhile
            digest.update(chunk)
            at += len(chunk)
            passed(len(chunk))
        return bool(digest.hexdigest() == expected[number])

    if len(expected) == 1:
        return fits(0)
    with ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="patchify-check") as pool:
        return all(pool.map(fits, range(len(expected))))


def _read_at(file: BinaryIO, at: int, size: int, lock: threading.Lock) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, at)
    with lock:  # Windows cannot read at a place without going there
        file.seek(at)
        return file.read(size)


def private_of(out: Path) -> Path:
    """The private folder of builds of the index folder `out`: beside it, so that both are on the same disk."""
    return out.parent / (out.name + PRIVATE)


def standing(folder: Path) -> Path:
    """Where the index of `folder` is at this moment: there, or, between the two renames of a swap, beside it.

    A build that is killed there leaves it beside for longer: until the next build, which puts it back.
    """
    if not folder.exists():
        aside = private_of(folder.resolve()) / OLD_NAME
        if (aside / META_NAME).is_file():
            return aside
    return folder


def steadily(folder: Path, read: Callable[[Path], Found]) -> Found:
    """Call `read(place)` with the place of the index, again if a build swapped it meanwhile and it failed.

    Args:
        folder: the index folder.
        read: raises IndexFolderError if what it finds does not fit together.

    Raises:
        IndexFolderError: what `read` raised, if that is how the folder is.
    """
    for again in range(_SWAPS, -1, -1):
        place = standing(folder)
        before = _version(place)
        try:
            return read(place)
        except IndexFolderError:
            if not again or (standing(folder) == place and _version(place) == before):
                raise
        time.sleep(_PAUSE_S)
    raise AssertionError("the last turn returns or raises")


def _version(place: Path) -> tuple[int, int, int] | None:
    """Differs for each index that a build swaps in; None where there is none."""
    try:
        found = (place / META_NAME).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@contextmanager
def open_files(place: Path, names: Iterable[str], folder: Path) -> Iterator[dict[str, BinaryIO]]:
    """Open the files of an index together, so that they are of one version even if a build swaps them meanwhile.

    Args:
        place: where they are.
        names: of the files.
        folder: what the index folder is called in errors.

    Raises:
        IndexFolderError: one sentence, if one is missing or may not be read.
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
    """Open the files of an index together, as `opened` does, and checks that each is the one that was written.

    Args:
        place: where they are.
        files: their entries in `meta.json`, by name.
        folder: what the index folder is called in errors.

    Yields:
        The open files, each at its beginning.

    Raises:
        IndexFolderError: one sentence, if one is missing, damaged or may not be read.
    """
    with open_files(place, files, folder) as at:
        for name, file in at.items():
            try:
                whole = is_intact(file, files[name])
            except (KeyError, TypeError):
                raise damaged(folder, META_NAME) from None
            except OSError as error:
                raise unreadable(folder / name, error) from error
            if not whole:
                raise damaged(folder, name)
            file.seek(0)
        yield at


def damaged(folder: Path, name: str) -> IndexFolderError:
    """What is said of a file that is not the one that was written."""
    return IndexFolderError(
        f"{folder / name} is missing, truncated or not the file that was written: delete {folder} and build it again."
    )


def unreadable(path: Path, error: OSError) -> IndexFolderError:
    """What is said of a file that may be whole, for all that can be seen: that is no reason to delete anything."""
    return IndexFolderError(
        f"{path} cannot be read ({error.strerror or 'of no known reason'}): check its permissions and the disk."
    )


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def npy_head(kind: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers of an array in a .npy file."""
    head = io.BytesIO()
    described = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, described)
    return head.getvalue()


def npy_array(data: bytes | mmap.mmap) -> NDArray[Any]:
    """The array in a .npy file, as a read-only view of its bytes.

    Args:
        data: the whole file.

    Raises:
        ValueError: if it is something else, has Python objects in it, or is not as long as its header says.
    """
    head = io.BytesIO(data[:_HEADER_BYTES])
    try:
        version = np.lib.format.read_magic(head)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, by_columns, kind = read(head)
    except Exception as error:  # headers are Python's own syntax, and there are many ways to get that wrong
        raise ValueError("not a .npy file") from error
    size = math.prod(shape) * kind.itemsize
    if kind.hasobject or min(shape, default=0) < 0 or not size or head.tell() + size != len(data):
        raise ValueError("not a .npy file of plain numbers")
    flat: NDArray[Any] = np.frombuffer(data, kind, offset=head.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")
