"""Pictures in tar archives, read where they are: millions of them need not be unpacked.

A member is a path below its archive, `yfcc100m/00000.tar/aa11.jpg`, that knows where in the archive its bytes are. It
is opened, read and asked for its size as any other path; nothing else can be done with it, and nothing is ever written.
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
    """A file in a tar archive that is not compressed.

    Example: `TarMember("shards/00000.tar", "aa11.jpg").read_bytes()`.
    """

    _place: tuple[int, int] | None = None
    """Offset and length of its bytes in the archive; looked up when it is first needed."""

    @property
    def archive(self) -> Path:
        """The archive; folders around it and within it may be named like one."""
        named = [Path(parent) for parent in self.parents if parent.name.lower().endswith(SUFFIX)]
        return named[0] if len(named) == 1 else next((each for each in named if each.is_file()), named[0])

    def read_bytes(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: The archive has gone or is shorter than it was.
        """
        offset, length = self._found()
        with open(self.archive, "rb") as file:
            file.seek(offset)
            data = file.read(length)
        if len(data) < length:
            raise OSError(0, "its archive is cut short")
        return data

    def open(self, *how: Any, **more: Any) -> IO[Any]:
        """Its bytes, to be read only."""
        return io.BytesIO(self.read_bytes())

    def stat(self, **more: Any) -> os.stat_result:
        """Its own size, and the archive's time."""
        archive = os.stat(self.archive)
        values = list(archive)
        values[stat.ST_SIZE] = self._found()[1]
        return os.stat_result(values, {"st_mtime_ns": archive.st_mtime_ns})

    def _found(self) -> tuple[int, int]:
        if self._place is None:
            archive = self.archive
            try:
                self._place = _places(archive)[self.relative_to(archive).as_posix()]
            except (KeyError, ArchiveError) as error:
                raise FileNotFoundError(2, "there is no such file in its archive") from error
        return self._place


def tar_member(path: Path) -> TarMember | None:
    """The member that a path below an archive means; None for any other path."""
    if any(parent.name.lower().endswith(SUFFIX) and parent.is_file() for parent in path.parents):
        return TarMember(path)
    return None


def list_members(archive: Path) -> list[TarMember]:
    """List the files of an archive, in its order; only their headers are read.

    Raises:
        ArchiveError: One sentence: it cannot be read, is no tar archive, is compressed, is cut short, or holds two
            files of one name, of which a path means the last.
    """
    places = _read_places(archive)
    name, count = max(Counter(name for name, _ in places).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise ArchiveError(
            f"{str(archive)!r} holds {count} files named {name!r}: pack it again with a name of its own for each."
        )
    found = []
    for name, place in places:
        member = TarMember(archive, name)
        member._place = place
        found.append(member)
    return found


@lru_cache(maxsize=4)
def _places(archive: Path) -> dict[str, tuple[int, int]]:
    return dict(_read_places(archive))


def _read_places(archive: Path) -> list[tuple[str, tuple[int, int]]]:
    """(name, (offset, length)) of each file."""
    found, end = [], 0
    try:
        with open(archive, "rb") as file:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # or all headers of a large archive would stay in memory
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    if member.isreg():
                        name = Path(member.name).as_posix().removeprefix("/")
                        found.append((name, (member.offset_data, member.size)))
            # An archive ends with blocks of zeros. Without them it may have lost members, which tarfile does not tell.
            file.seek(end)
            last = file.read(_BLOCK)
    except (OSError, tarfile.TarError, ValueError, EOFError) as error:
        raise ArchiveError(f"{str(archive)!r} cannot be read as a tar archive: download it again.") from error
    if last != bytes(_BLOCK):
        raise ArchiveError(f"{str(archive)!r} is cut short or damaged: download it again.")
    return found
