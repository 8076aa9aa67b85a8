"""Pictures in tar archives, read in place so that millions of them need not be unpacked.

A member is a path below its archive, such as `yfcc100m/00000.tar/aa11.jpg`. It can be opened, read and asked for its
size like any other path; it supports no other operation, and nothing is ever written.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from patchify_core.errors import ArchiveError

SUFFIX = ".tar"
_BLOCK = tarfile.BLOCKSIZE


class TarMember(type(Path())):  # type: ignore[misc]
    """A file in an uncompressed tar archive.

    Example: `TarMember("shards/00000.tar", "aa11.jpg").read_bytes()`.
    """

    _extent: tuple[int, int] | None = None
    """Offset and length of its bytes in the archive; looked up on first use."""

    @property
    def archive(self) -> Path:
        """The archive; folders around it and inside it may also have names that end with .tar."""
        candidates = [Path(parent) for parent in self.parents if parent.name.lower().endswith(SUFFIX)]
        if len(candidates) == 1:
            return candidates[0]
        return next((each for each in candidates if each.is_file()), candidates[0])

    def read_bytes(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: The archive is missing or shorter than before.
        """
        offset, length = self._locate()
        with open(self.archive, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise OSError(0, "its archive is cut short")
        return data

    def open(self, *args: Any, **kwargs: Any) -> IO[Any]:
        """Open its bytes for reading; all arguments are ignored."""
        return io.BytesIO(self.read_bytes())

    def stat(self, **kwargs: Any) -> os.stat_result:
        """Return the archive's status with the member's size."""
        archive = os.stat(self.archive)
        values = list(archive)
        values[stat.ST_SIZE] = self._locate()[1]
        return os.stat_result(values, {"st_mtime_ns": archive.st_mtime_ns})

    def _locate(self) -> tuple[int, int]:
        if self._extent is None:
            archive = self.archive
            try:
                self._extent = _extents(archive)[self.relative_to(archive).as_posix()]
            except (KeyError, ArchiveError) as error:
                raise FileNotFoundError(2, "there is no such file in its archive") from error
        return self._extent


def tar_member(path: Path) -> TarMember | None:
    """Return the member for a path below an archive; None for any other path."""
    if any(parent.name.lower().endswith(SUFFIX) and parent.is_file() for parent in path.parents):
        return TarMember(path)
    return None


def list_members(archive: Path) -> list[TarMember]:
    """List the files of an archive in its order, reading only their headers.

    Raises:
        ArchiveError: It cannot be read, is not a tar archive, is compressed, is cut short, or contains two files of
            one name, of which a path means the last.
    """
    extents = _read_extents(archive)
    name, count = max(Counter(name for name, _ in extents).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise ArchiveError(
            f"{str(archive)!r} contains {count} files named {name!r}: pack it again with a unique name for each."
        )
    members = []
    for name, extent in extents:
        member = TarMember(archive, name)
        member._extent = extent
        members.append(member)
    return members


@lru_cache(maxsize=4)
def _extents(archive: Path) -> dict[str, tuple[int, int]]:
    return dict(_read_extents(archive))


def _read_extents(archive: Path) -> list[tuple[str, tuple[int, int]]]:
    """Read (name, (offset, length)) of each file."""
    extents, end = [], 0
    try:
        with open(archive, "rb") as file:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps all headers in memory
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if member.isreg():
                        name = Path(member.name).as_posix().removeprefix("/")
                        extents.append((name, (member.offset_data, member.size)))
            # An archive ends with blocks of zeros. Without them members may be lost, which tarfile does not detect.
            file.seek(end)
            last = file.read(_BLOCK)
    except (OSError, tarfile.TarError, ValueError, EOFError) as error:
        raise ArchiveError(f"{str(archive)!r} cannot be read as a tar archive: download it again.") from error
    if last != bytes(_BLOCK):
        raise ArchiveError(f"{str(archive)!r} is cut short or damaged: download it again.")
    return extents
