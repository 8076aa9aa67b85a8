"""Zip archives from strangers: what is in them is looked at before it is read, and read only as far as there is room.

Nothing is ever written under a name that an archive gives: members are handed out one at a time as bytes, and whoever
takes them chooses where they go.
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
from patchify_core.imaging.code_pages import decoded
from patchify_core.imaging.kinds import PARTS, SPANNED, what_no_zip_is

_END = struct.Struct("<4s4H2LH")  # end of central directory: APPNOTE.TXT 4.3.16
_HEADER = struct.Struct("<4s2H3H3L2H")  # in front of a member: 4.3.7
_ENTRY = struct.Struct("<4s6H3L5H2L")  # of a member in the list of them: 4.3.12
_ENTRY_SIGNATURE = b"PK\x01\x02"
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_END = struct.Struct("<4sQ2H2L4Q")  # the same of large archives, and of all that some programs make: 4.3.14
_ZIP64_LOCATOR = struct.Struct("<4sLQL")  # between the two: 4.3.15
_ZIP64_SIGNATURE = b"PK\x06\x07"
_LONGEST_COMMENT = 65_535
_CHUNK = 1 << 16

_UTF8_FLAG = 0x800  # of a member whose name is in UTF-8: 4.4.4
_UNICODE_PATH = 0x7075  # the field in which Info-ZIP and WinRAR repeat a name in UTF-8: 4.6.9
_DOS_FOLDER = 0x10  # among the attributes of a file in DOS


@dataclass(frozen=True)
class ArchiveSettings:
    """What an archive may cost.

    Attributes:
        members: Entries, folders included.
        directory_bytes: Bytes of the table of contents, which is read as a whole.
        member_bytes: Bytes of one member, unpacked.
        total_bytes: Bytes of all members that are read, unpacked.
        expansion: Bytes that a member may become for each of its own; None for any number.
        small_bytes: Of a member that may become that in any case.
    """

    members: int = 20_000
    directory_bytes: int = 8_000_000
    member_bytes: int = 30_000_000
    total_bytes: int = 500_000_000
    expansion: int | None = None
    small_bytes: int = 4_000_000


@dataclass(frozen=True, eq=False)
class Member:
    """One file of an archive: its bytes, or why there are none.

    Attributes:
        name: As its maker meant it, with `/` between folders.
        data: The file's bytes; None if it was left out.
        refused: One sentence why it was left out; None if it was read.
    """

    name: str
    data: bytes | None = None
    refused: str | None = None


def is_archive(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a zip archive."""
    return head.startswith((b"PK\x03\x04", _END_SIGNATURE, *SPANNED))


def names(path: Path, settings: ArchiveSettings | None = None) -> list[str]:
    """List the names in an archive, with `/` between folders, which that of a folder may end with; no file is read.

    Raises:
        ArchiveError: It is no zip archive, or its table of contents is damaged or too long.
    """
    with _opened(path, settings or ArchiveSettings()) as archive:
        return _names(archive.infolist())


def members(
    path: Path, settings: ArchiveSettings | None = None, most: Callable[[str], int] | None = None
) -> Iterator[Member]:
    """Read the files of a zip archive one after the other, in its own order. Folders are passed over.

    Args:
        path: The archive.
        settings: What it may cost.
        most: Name of a member -> bytes that it may have, where that is less than the settings say.

    Yields:
        A member with its bytes, or with the reason why it was left out: its name leads out of the archive, it is a
        link, encrypted, damaged, packed in an unknown way, or larger than is allowed.

    Raises:
        ArchiveError: It is no zip archive, its table of contents is damaged or too long, or all that
            was read is more than is allowed (a zip bomb): what was yielded before may be kept.
    """
    settings = settings or ArchiveSettings()
    left = settings.total_bytes
    with _opened(path, settings) as archive:
        listed = archive.infolist()
        for info, name in zip(listed, _names(listed), strict=True):
            if _is_folder(info, name):
                continue
            refused = _refused(info, name, settings)
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
                # What was unpacked in vain counts too, else a thousand such members would keep the machine busy.
                left -= min(settings.member_bytes, max(info.file_size, info.compress_size))
            else:
                left -= max(len(data), 1)
                yield Member(name, data)


def _opened(path: Path, settings: ArchiveSettings) -> zipfile.ZipFile:
    """The archive, once its table of contents is known to be short enough."""
    try:
        with open(path, "rb") as file:
            end, is_last = _end_record(file)
            if end is None:
                file.seek(0)
                raise ArchiveError(what_no_zip_is(file.read(1024)))
            directory = _directory(file, end)
        _check_directory(directory, settings)
        try:
            archive = zipfile.ZipFile(path if is_last and directory.end == end else _repaired(path, directory))
        except UnicodeDecodeError:
            archive = zipfile.ZipFile(_repaired(path, directory))
    except ArchiveError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        raise _damaged() from error
    if len(archive.filelist) > settings.members:
        archive.close()
        raise _too_many(settings)
    return archive


def _end_record(file: BinaryIO) -> tuple[int | None, bool]:
    """Where the record at the end of an archive starts, and whether its signature is the last one.

    A comment behind the record may contain that signature, and so may an archive within one that is cut short. So the
    list of members must end where the record starts, and the file where the comment ends; what somebody appended to
    the file is passed over if the list is where the record says.
    """
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - _LONGEST_COMMENT - _END.size - _ZIP64_LOCATOR.size))
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
    """The table of contents: how many members it lists, its bytes, where it says that it begins, and where it ends."""

    count: int
    length: int
    offset: int
    end: int


def _directory(file: BinaryIO, end: int) -> _Directory:
    """What the record at `end` says of the table of contents, or the zip64 record in front of it, which goes first.

    That one is for 65,535 files or 4 GB, but programs that pack while they send write it always.
    """
    before = _ZIP64_END.size + _ZIP64_LOCATOR.size
    file.seek(max(0, end - before))
    data = file.read(min(end, before))
    _, disk, _, _, count, length, offset, _ = _END.unpack(file.read(_END.size))
    if disk not in (0, 0xFFFF):
        raise ArchiveError(PARTS)
    if data[-_ZIP64_LOCATOR.size :].startswith(_ZIP64_SIGNATURE):
        if len(data) < before or not data.startswith(b"PK\x06\x06"):
            raise _damaged()
        *_, disk, _, _, count, length, offset = _ZIP64_END.unpack_from(data)
        if disk:
            raise ArchiveError(PARTS)
        end -= before
    return _Directory(count, length, offset, end)


def _check_directory(directory: _Directory, settings: ArchiveSettings) -> None:
    """Refuse a table of contents that is too long, before `zipfile` reads all of it into memory."""
    if directory.count > settings.members or directory.length > settings.directory_bytes:
        raise _too_many(settings)


def _names(listed: list[zipfile.ZipInfo]) -> list[str]:
    """What the members are called. Only then is it known which bytes stand between folders.

    `ZipInfo.orig_filename` is the name as it was read: by the flag in UTF-8, else every byte as a letter of code page
    437. (`filename` is what `zipfile` made of that, cut and with other separators.)
    """
    raw = [info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437") for info in listed]
    found = [
        info.orig_filename if info.flag_bits & _UTF8_FLAG else _unicode_path(info.extra, name)
        for info, name in zip(listed, raw, strict=True)
    ]
    rest = iter(decoded([name for name, known in zip(raw, found, strict=True) if known is None]))
    return [(next(rest) if name is None else name).partition("\0")[0].replace("\\", "/") for name in found]


def _unicode_path(extra: bytes, name: bytes) -> str | None:
    """The name that a member's field for it gives; None if it has none, or one that is about another name."""
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
    """Whether a member is no file: by its name, or empty and by what its system says of it."""
    called = info.external_attr & _DOS_FOLDER or stat.S_ISDIR(info.external_attr >> 16)
    return name.endswith("/") or bool(called and info.file_size == 0)


class _Mapped(mmap.mmap):
    """A mapped file as `zipfile` wants files to be."""

    def seekable(self) -> bool:
        """Before Python 3.13 a mapping does not say so."""
        return True


def _repaired(path: Path, directory: _Directory) -> Any:
    """The archive in memory, without what makes `zipfile` give up on all of it.

    That is a comment with the signature of the record at the end, and names that are said to be UTF-8 and are not.
    A zip64 record becomes an ordinary one.
    """
    with open(path, "rb") as file:
        data = _Mapped(file.fileno(), 0, access=mmap.ACCESS_COPY)  # what is changed is changed in memory alone
    count, length, offset, end = directory.count, directory.length, directory.offset, directory.end
    data[end:] = _END.pack(_END_SIGNATURE, 0, 0, count, count, length, offset, 0) + bytes(len(data) - end - _END.size)
    at = end - length
    before = at - offset  # bytes in front of the archive, as of a program that unpacks itself
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


def _refused(info: zipfile.ZipInfo, name: str, settings: ArchiveSettings) -> str | None:
    """Why a member is not even opened."""
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
    """The bytes of a member, or why there are none. The size that it claims is not believed."""
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
        return "it is packed in a way that is not known here"
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, struct.error):
        return "it is damaged"
    except Exception as error:  # bz2 and lzma have errors of their own; none of them is the visitor's to read
        if type(error).__module__ not in ("_lzma", "lzma", "bz2"):
            raise
        return "it is damaged"
    return b"".join(parts)


def _as_in_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The member under the name that stands in front of its bytes, which `zipfile` wants to be that of the list.

    Some programs write the two with other separators or in other encodings; everybody else goes by the list.
    """
    assert archive.fp is not None, "an archive that is open"
    archive.fp.seek(info.header_offset)
    header = archive.fp.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return info
    _, _, flags, *_, length, _ = _HEADER.unpack(header)
    found = copy.copy(info)
    found.flag_bits = info.flag_bits & ~_UTF8_FLAG | flags & _UTF8_FLAG
    found.orig_filename = archive.fp.read(length).decode("utf-8" if flags & _UTF8_FLAG else "cp437")
    return found


def _too_many(settings: ArchiveSettings) -> ArchiveError:
    return ArchiveError(
        f"The archive lists more than {settings.members:,} files: pack only the pictures, in several archives."
    )


def _damaged() -> ArchiveError:
    return ArchiveError("The zip archive is damaged: pack it again.")
