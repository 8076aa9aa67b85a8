"""Read untrusted zip archives member by member, within limits on their number, sizes and compression.

Members are returned as bytes and never written under their names in the archive; callers choose where they go.
"""

from __future__ import annotations

import copy
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from patchify_core.errors import ArchiveError
from patchify_core.imaging.code_pages import decode_names
from patchify_core.imaging.file_types import SPANNED, SPLIT_ARCHIVE, other_archive_type, other_file_type

_END = struct.Struct("<4s4H2LH")  # end of central directory: APPNOTE.TXT 4.3.16
_HEADER = struct.Struct("<4s2H3H3L2H")  # in front of a member: 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # of a member in the central directory: 4.3.12
_ENTRY_SIGNATURE = b"PK\x01\x02"
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")  # the same for large archives, and for all archives of some programs: 4.3.14
_ZIP64_LOCATOR = struct.Struct("<4sLQL")  # between the two: 4.3.15
_ZIP64_SIGNATURE = b"PK\x06\x07"
_MAX_COMMENT = 65_535
_CHUNK = 1 << 16

_UTF8_FLAG = 0x800  # the name is in UTF-8: 4.4.4
_UNICODE_PATH = 0x7075  # extra field with the name in UTF-8, by Info-ZIP and WinRAR: 4.6.9
_DOS_FOLDER = 0x10  # DOS attribute of folders


@dataclass(frozen=True)
class ArchiveSettings:
    """Limits on an archive.

    Attributes:
        members: Most entries, including folders.
        directory_bytes: Most bytes of the central directory, which is read as a whole.
        member_bytes: Most bytes of one member, unpacked.
        total_bytes: Most bytes of all members that are read, unpacked.
        expansion: Largest ratio of a member's unpacked to its packed size; None for no limit.
        small_bytes: Unpacked size up to which `expansion` does not apply.
    """

    members: int = 20_000
    directory_bytes: int = 8_000_000
    member_bytes: int = 30_000_000
    total_bytes: int = 500_000_000
    expansion: int | None = None
    small_bytes: int = 4_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """One file of an archive: its bytes, or the reason why it was not read.

    Attributes:
        name: Its decoded name, with `/` between folders.
        data: Its bytes; None if it was refused.
        refused: The reason as a clause; None if it was read.
    """

    name: str
    data: bytes | None = None
    refused: str | None = None


DEFAULTS = ArchiveSettings()


def is_archive(head: bytes) -> bool:
    """Return whether a file that begins with these bytes is a zip archive."""
    return head.startswith((b"PK\x03\x04", _END_SIGNATURE, *SPANNED))


def names(path: Path, settings: ArchiveSettings = DEFAULTS) -> list[str]:
    """List the names in an archive without reading its files. `/` separates folders and may end a folder's name.

    Raises:
        ArchiveError: It is not a zip archive, or its central directory is damaged or too large.
    """
    with _open(path, settings) as archive:
        return _names(archive.infolist())


def members(
    path: Path, settings: ArchiveSettings = DEFAULTS, most: Callable[[str], int] | None = None
) -> Iterator[Member]:
    """Read the files of a zip archive one after the other, in its own order, skipping folders.

    Args:
        path: The archive.
        settings: Limits on the archive.
        most: Function from a member's name to its largest size in bytes, where that is less than in the settings.

    Yields:
        A member with its bytes, or with the reason why it was refused: its name leads out of the archive, it is a link,
        encrypted, damaged, compressed with an unknown method, or too large.

    Raises:
        ArchiveError: It is not a zip archive, its central directory is damaged or too large, or its members exceed
            `total_bytes` (a zip bomb); what was yielded before is valid.
    """
    left = settings.total_bytes
    with _open(path, settings) as archive:
        listed = archive.infolist()
        for info, name in zip(listed, _names(listed), strict=True):
            if _is_folder(info, name):
                continue
            refused = _refusal(info, name, settings)
            if refused is not None:
                yield Member(name, refused=refused)
                continue
            if left <= 0:
                raise ArchiveError(
                    f"The archive unpacks to more than {settings.total_bytes / 1e6:,.0f} MB: make it smaller, or send "
                    "its pictures in several archives."
                )
            allowed = settings.member_bytes if most is None else min(settings.member_bytes, most(name))
            data = _read(archive, info, min(allowed, left))
            if isinstance(data, str):
                yield Member(name, refused=data)
                # Count what was unpacked in vain too, or a thousand such members would keep the machine busy.
                left -= min(settings.member_bytes, max(info.file_size, info.compress_size))
            else:
                left -= max(len(data), 1)
                yield Member(name, data)


def _open(path: Path, settings: ArchiveSettings) -> zipfile.ZipFile:
    """Open an archive after a check of its central directory's size."""
    try:
        with open(path, "rb") as file:
            end, is_last = _end_record(file)
            if end is None:
                file.seek(0)
                raise ArchiveError(_explain_not_a_zip(file.read(1024)))
            directory = _directory(file, end)
        if directory.count > settings.members or directory.length > settings.directory_bytes:
            raise _too_many(settings)  # before `zipfile` reads the directory into memory
        try:
            archive = zipfile.ZipFile(path if is_last and directory.end == end else _repair(path, directory))
        except UnicodeDecodeError:
            archive = zipfile.ZipFile(_repair(path, directory))
    except ArchiveError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged() from error
    if len(archive.filelist) > settings.members:
        archive.close()
        raise _too_many(settings)
    return archive


def _end_record(file: BinaryIO) -> tuple[int | None, bool]:
    """Find the end of central directory record: its offset, and whether its signature is the last one in the file.

    A comment behind the record may contain the signature, and so may an archive inside a truncated one. Therefore the
    central directory must end where the record starts, and the file where the comment ends; data appended to the file
    is ignored if the central directory is where the record says.
    """
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _MAX_COMMENT - _END.size - _ZIP64_LOCATOR.size))
    tail = file.read()
    at = last = tail.rfind(_END_SIGNATURE)
    damaged = None
    while at >= 0:
        if len(tail) - at >= _END.size:
            *_, length, offset, comment = _END.unpack_from(tail, at)
            listed = start + at - length
            zip64 = tail[max(0, at - _ZIP64_LOCATOR.size) : at].startswith(_ZIP64_SIGNATURE)
            ends = start + at + _END.size + comment == size
            placed = listed == offset or (ends and length > 0)
            if zip64 or (listed >= 0 and placed and (length == 0 or _is_entry(file, listed))):
                return start + at, at == last
            if ends and damaged is None:
                damaged = start + at
        at = tail.rfind(_END_SIGNATURE, 0, at)
    return damaged, True


def _is_entry(file: BinaryIO, at: int) -> bool:
    file.seek(at)
    return file.read(4) == _ENTRY_SIGNATURE


@dataclass(frozen=True)
class _Directory:
    """The central directory: number of members, length in bytes, declared offset, and actual end."""

    count: int
    length: int
    offset: int
    end: int


def _directory(file: BinaryIO, end: int) -> _Directory:
    """Read the record at `end`, or the zip64 record in front of it, which takes precedence.

    Zip64 is meant for 65,535 files or 4 GB, but programs that pack while they send always use it.
    """
    before = _ZIP64_END.size + _ZIP64_LOCATOR.size
    file.seek(max(0, end - before))
    data = file.read(min(end, before))
    _, disk, _, _, count, length, offset, _ = _END.unpack(file.read(_END.size))
    if disk not in (0, 0xFFFF):
        raise ArchiveError(SPLIT_ARCHIVE)
    if data[-_ZIP64_LOCATOR.size :].startswith(_ZIP64_SIGNATURE):
        if len(data) < before or not data.startswith(b"PK\x06\x06"):
            raise _damaged()
        *_, disk, _, _, count, length, offset = _ZIP64_END.unpack_from(data)
        if disk:
            raise ArchiveError(SPLIT_ARCHIVE)
        end -= before
    return _Directory(count, length, offset, end)


def _names(listed: list[zipfile.ZipInfo]) -> list[str]:
    """Decode the members' names, then normalize their separators, which are unknown before.

    `ZipInfo.orig_filename` is UTF-8 if the member's flag says so, else its bytes decoded as code page 437. (`filename`
    is the same after `zipfile` has cut it and replaced separators.)
    """
    raw = [info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437") for info in listed]
    unicode_names = [
        info.orig_filename if info.flag_bits & _UTF8_FLAG else _unicode_path(info.extra, name)
        for info, name in zip(listed, raw, strict=True)
    ]
    others = iter(decode_names([name for name, known in zip(raw, unicode_names, strict=True) if known is None]))
    return [(next(others) if name is None else name).partition("\0")[0].replace("\\", "/") for name in unicode_names]


def _unicode_path(extra: bytes, name: bytes) -> str | None:
    """Return the name in a member's Unicode path field; None if there is none, or its checksum is of another name."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, zlib.crc32(name)):
            try:
                return field[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _is_folder(info: zipfile.ZipInfo, name: str) -> bool:
    """Return whether a member is a folder: by its name, or because it is empty and has a folder's attributes."""
    marked = info.external_attr & _DOS_FOLDER or stat.S_ISDIR(info.external_attr >> 16)
    return name.endswith("/") or bool(marked and info.file_size == 0)


class _Mapped(mmap.mmap):
    """A memory map with the interface that `zipfile` needs."""

    def seekable(self) -> bool:
        """Return True; `mmap` has no such method before Python 3.13."""
        return True


def _repair(path: Path, directory: _Directory) -> Any:
    """Map the archive into memory, and remove what makes `zipfile` reject all of it.

    That is a comment that contains the signature of the end record, and names marked as UTF-8 that are not. A zip64
    record becomes an ordinary one.
    """
    with open(path, "rb") as file:
        data = _Mapped(file.fileno(), 0, access=mmap.ACCESS_COPY)  # changes stay in memory
    count, length, offset, end = directory.count, directory.length, directory.offset, directory.end
    data[end:] = _END.pack(_END_SIGNATURE, 0, 0, count, count, length, offset, 0) + bytes(len(data) - end - _END.size)
    at = end - length
    before = at - offset  # bytes in front of the archive, such as a self-extractor
    while 0 <= at and data[at : at + 4] == _ENTRY_SIGNATURE and at + _ENTRY.size <= end:
        *_, name_length, extra, comment, _, _, _, _, header = _ENTRY.unpack_from(data, at)
        name = data[at + _ENTRY.size : at + _ENTRY.size + name_length]
        try:
            name.decode()
        except UnicodeDecodeError:
            for flags in (at + 8, before + header + 6):
                if 0 <= flags < len(data) - 1:
                    data[flags + 1] &= ~(_UTF8_FLAG >> 8) & 0xFF
        at += _ENTRY.size + name_length + extra + comment
    return data


def _refusal(info: zipfile.ZipInfo, name: str, settings: ArchiveSettings) -> str | None:
    """Return why a member is refused before it is opened; None if it is not."""
    parts = [part.strip(" ") for part in name.split("/")]
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        return "its name leads out of the archive"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "it is a link, not a file"
    if info.flag_bits & 0x1:
        return "it is encrypted: send it without a password"
    most = settings.expansion
    if most is not None and info.file_size > max(settings.small_bytes, most * info.compress_size):
        return f"it unpacks to more than {most} times its size, as no photo does: send it by itself, or save it as PNG"
    return None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes | str:
    """Read a member's bytes, or return why it is refused. Its declared size is not trusted."""
    large = f"it is larger than {most / 1e6:,.0f} MB"
    if info.file_size > most:
        return large
    parts, length = [], 0
    try:
        with archive.open(_as_in_header(archive, info)) as file:
            while chunk := file.read(_CHUNK):
                length += len(chunk)
                if length > most:
                    return large
                parts.append(chunk)
    except NotImplementedError:
        return "its compression method is not supported"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error):
        return "it is damaged"
    except Exception as error:  # bz2 and lzma raise their own errors, which mean nothing to a user
        if type(error).__module__ not in ("_lzma", "lzma", "bz2"):
            raise
        return "it is damaged"
    return b"".join(parts)


def _as_in_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return the member with the name of its local header, which `zipfile` requires to equal that of the directory.

    Some programs write the two with different separators or encodings, and other readers ignore the local one.
    """
    assert archive.fp is not None, "the archive is open"
    archive.fp.seek(info.header_offset)
    header = archive.fp.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return info
    _, _, flags, *_, length, _ = _HEADER.unpack(header)
    local = copy.copy(info)
    local.flag_bits = info.flag_bits & ~_UTF8_FLAG | flags & _UTF8_FLAG
    local.orig_filename = archive.fp.read(length).decode("utf-8" if flags & _UTF8_FLAG else "cp437")
    return local


def _too_many(settings: ArchiveSettings) -> ArchiveError:
    return ArchiveError(
        f"The archive lists more than {settings.members:,} files: pack only the pictures, in several archives."
    )


def _damaged() -> ArchiveError:
    return ArchiveError("The zip archive is damaged: pack it again.")


def _explain_not_a_zip(head: bytes) -> str:
    """Explain by its first 1,024 bytes what a file without a central directory is, and what the user can do."""
    if not head.strip(b"\0"):
        what = "begins with nothing but zeros" if head else "is empty"
        return f"That file {what}: its copy or download was not finished, so repeat it and send it again."
    if head.startswith(SPANNED):
        return SPLIT_ARCHIVE
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "The zip archive is cut short: its copy or download was not finished, so repeat it and send it again."
    kind = other_file_type(head)
    advice = {
        "a web page": "download the archive itself",
        "a Git LFS pointer": "fetch the file with 'git lfs pull'",
        "a PDF document": "export its pages as pictures",
    }
    if kind and (kind in advice or other_archive_type(head)):
        return f"That is {kind}, not a zip archive: {advice.get(kind, 'pack the pictures as a zip')}."
    return "That is not a zip archive: choose a .zip file, or send the pictures themselves."
