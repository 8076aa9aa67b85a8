"""The directories of TIFF files and of EXIF, which is one: which pages there are, and what their tags claim."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import IO

Directory = list[tuple[int, int, int, bytes, int]]
"""One page's tags: (tag, type, count, the value or where it is, the same as a number)."""

_SUBFILE_TYPE, _REDUCED, _MASK = 254, 1, 4
_STRIPS, _TILES, _SUB_DIRECTORIES, _DNG_VERSION = 273, 324, 330, 50706
_BYTES_OF_TYPE = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_MOST_PAGES, _MOST_TAGS = 64, 2000


def only_preview(stream: IO[bytes]) -> bool:
    """Whether a TIFF is a camera raw file by its tags: the picture itself is of a kind that is not read here."""
    pages = list(directories(stream))
    if not pages:
        return False
    tags = {tag for tag, *_ in pages[0]}
    return _DNG_VERSION in tags or (_SUB_DIRECTORIES in tags and not any(map(_is_full, pages)))


def full_pages(stream: IO[bytes]) -> list[int]:
    """List which of a TIFF's first 64 pages (the first is 0) are neither reduced copies of others nor masks."""
    return [number for number, page in enumerate(directories(stream)) if _is_full(page)]


def demands(stream: IO[bytes], size: int) -> tuple[bool, int]:
    """Say what decoding a TIFF's first full page demands beside its pixels.

    Args:
        stream: The file.
        size: Its bytes.

    Returns:
        Whether the tags up to that page are a bomb (see `is_bomb`), and in how many strips or tiles the page is cut.
    """
    read, pieces = 0, 0
    for page in directories(stream):
        read += _bytes_read(page, size)
        pieces = max((count for tag, _, count, *_ in page if tag in (_STRIPS, _TILES)), default=0)
        if _is_full(page):
            break
    return _is_too_much(read, size), pieces


def is_bomb(exif: bytes) -> bool:
    """Whether the tags of an EXIF block make its reader copy many times its bytes: each of them may claim them all."""
    first = next(directories(BytesIO(exif.removeprefix(b"Exif\0\0"))), [])
    return _is_too_much(_bytes_read(first, len(exif)), len(exif))


def directories(stream: IO[bytes]) -> Iterator[Directory]:
    """Walk the directories of a TIFF's pages (a few bytes for each tag), as far as they are whole."""
    stream.seek(0)
    head = stream.read(16)
    if head[:2] not in (b"II", b"MM"):
        return
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in head[2:4]
    count_of, entry, link = (order + kind for kind in (("Q", "HHQ8s", "Q") if big else ("H", "HHL4s", "L")))
    seen: set[int] = set()
    try:
        (at,) = struct.unpack(link, head[8:16] if big else head[4:8])
        while at and at not in seen and len(seen) < _MOST_PAGES:
            seen.add(at)
            stream.seek(at)
            (count,) = struct.unpack(count_of, stream.read(struct.calcsize(count_of)))
            table = stream.read(min(count, _MOST_TAGS + 1) * struct.calcsize(entry))
            whole = len(table) // struct.calcsize(entry) * struct.calcsize(entry)
            yield [(*tag, struct.unpack(link, tag[3])[0]) for tag in struct.iter_unpack(entry, table[:whole])]
            (at,) = struct.unpack(link, stream.read(struct.calcsize(link)))
    except (struct.error, ValueError, OverflowError):
        return  # Pillow will say what is wrong with the first page; later ones are not read


def _is_full(page: Directory) -> bool:
    value = next((value for tag, _, _, value, _ in page if tag == _SUBFILE_TYPE), bytes(4))
    # Its flags are in the low byte, whichever end that is, of two bytes or four.
    return not (value[0] | value[1] | value[3]) & (_REDUCED | _MASK)


def _bytes_read(page: Directory, size: int) -> int:
    """How many bytes a reader copies for the tags of a page; without end where they are more than any picture has."""
    claimed = ((count * _BYTES_OF_TYPE.get(kind, 0), at) for _, kind, count, _, at in page)
    read = sum(min(length, max(size - at, 0)) for length, at in claimed if length > 4)
    return read if len(page) <= _MOST_TAGS else 1 << 60


def _is_too_much(read: int, size: int) -> bool:
    return read > 4 * size + 1_000_000
