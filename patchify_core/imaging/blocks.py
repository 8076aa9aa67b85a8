"""The blocks that a JPEG, PNG or GIF is made of, walked without reading them: a decoder spends time on each."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice
from typing import IO

Block = tuple[int | bytes, int, int]
"""Its kind, where its data begin and how many bytes they are."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MOST_GIF_BLOCKS = 300_000


def blocks_of_jpeg(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the segments up to the first scan's, and each byte between them that is none."""
    at = 2
    while True:
        stream.seek(at)
        head = stream.read(4)
        if len(head) < 4:
            return
        marker, length = struct.unpack(">HH", head)
        if head[0] != 0xFF or head[1] in (0, 1, *range(0xD0, 0xD9), 0xFF):
            yield 0, at, 1
            at += 1
            continue
        yield marker, at + 4, length - 2
        if marker == 0xFFDA:
            return
        at += 2 + length


def scans_of_jpeg(stream: IO[bytes], most: int) -> int:
    """Count the scans of a JPEG, up to `most` + 1; each is a pass over the whole picture."""
    stream.seek(0)
    data = stream.read()
    at, scans = 2, 0
    while scans <= most and (found := _MARKER.search(data, at)):
        at, kind = found.end(), data[found.end() - 1]
        if kind == 0xD9:
            break
        if kind != 0x01:
            scans += kind == 0xDA
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def blocks_of_png(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the chunks, all of them."""
    at = 8
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        at += 12 + length


def blocks_of_gif(stream: IO[bytes]) -> Iterator[Block]:
    """Walk the data blocks (up to 255 bytes each) of frames (kind 0x2C) and of what lies between them (0x21)."""
    stream.seek(10)
    flags = stream.read(3)[:1] or b"\0"
    stream.seek(13 + _palette(flags[0]))
    while (kind := stream.read(1)) in (b"\x21", b"\x2c", b"\0"):
        if kind == b"\x21":
            stream.read(1)
        elif kind == b"\x2c":
            frame = stream.read(9)
            if len(frame) < 9:
                return
            stream.seek(_palette(frame[8]) + 1, 1)
            yield kind, stream.tell(), 0
        while kind != b"\0" and (size := stream.read(1)) not in (b"", b"\0"):
            yield kind, stream.tell(), size[0]
            stream.seek(size[0], 1)


def frames_of_gif(stream: IO[bytes], most: int) -> int:
    """Count the frames of a GIF, up to `most`."""
    blocks = islice(blocks_of_gif(stream), _MOST_GIF_BLOCKS)
    starts = (1 for kind, _, length in blocks if kind == b"\x2c" and not length)
    return sum(islice(starts, most))


def _palette(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
