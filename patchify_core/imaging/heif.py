"""How many pixels a HEIC file makes its decoder work through for the one picture that is read.

A picture may be put together of others (`grid`, `iovl`), each decoded whole however little of it shows, and hundreds of
them may share the same few bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

Boxes = dict[bytes, list[bytes]]


def decoded_pixels(data: bytes) -> int:
    """Add up the pixels of the primary picture and of all that it is made of, as often as it is.

    Raises:
        ValueError: The file does not say so.
    """
    meta = _boxes(_only(_boxes(data), b"meta")[4:])
    properties = _boxes(_only(meta, b"iprp"))
    sizes = _sizes(_children(_only(properties, b"ipco")), properties.get(b"ipma", []))
    parts = _parts(meta.get(b"iref", []))
    primary = _only(meta, b"pitm")
    known: dict[int, int] = {}

    def pixels(item: int, depth: int) -> int:
        if depth > 8 or item not in sizes:
            raise ValueError(f"item {item} has no size, or contains itself")
        if item not in known:
            known[item] = sizes[item] + sum(pixels(part, depth + 1) for part in parts.get(item, ()))
        return known[item]

    return pixels(int.from_bytes(primary[4 : 6 if primary[0] == 0 else 8], "big"), 0)


def _children(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, content) of each box, as far as they are whole."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and start + 8 <= len(data):
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = at + size if size else len(data)
        if end < start or end > len(data):
            return
        yield kind, data[start:end]
        at = end


def _boxes(data: bytes) -> Boxes:
    boxes: Boxes = {}
    for kind, content in _children(data):
        if kind != b"mdat":
            boxes.setdefault(kind, []).append(content)
    return boxes


def _only(boxes: Boxes, kind: bytes) -> bytes:
    if len(boxes.get(kind, [])) != 1:
        raise ValueError(f"{len(boxes.get(kind, []))} boxes of {kind!r}")
    return boxes[kind][0]


def _sizes(properties: Iterator[tuple[bytes, bytes]], associations: list[bytes]) -> dict[int, int]:
    """The pixels of each item, by the largest `ispe` that belongs to it."""
    areas = [
        width * height if kind == b"ispe" else 0
        for kind, content in properties
        for width, height in [struct.unpack_from(">II", content.ljust(12, b"\0"), 4)]
    ]
    sizes: dict[int, int] = {}
    for content in associations:
        version, wide = content[0], content[3] & 1
        (count,) = struct.unpack_from(">I", content, 4)
        at = 8
        for _ in range(count):
            (item,) = struct.unpack_from(">I" if version else ">H", content, at)
            at += 4 if version else 2
            owned = content[at]
            at += 1
            for _ in range(owned):
                index = struct.unpack_from(">H", content, at)[0] & 0x7FFF if wide else content[at] & 0x7F
                at += 2 if wide else 1
                if 0 < index <= len(areas):
                    sizes[item] = max(sizes.get(item, 0), areas[index - 1])
    return {item: area for item, area in sizes.items() if area}


def _parts(references: list[bytes]) -> dict[int, list[int]]:
    """Which items each is made of (`dimg`), and which are its transparency (`auxl`, said by that one)."""
    parts: dict[int, list[int]] = {}
    for content in references:
        item = ">I" if content[0] else ">H"
        for kind, reference in _children(content[4:]):
            (source,) = struct.unpack_from(item, reference)
            wide = struct.calcsize(item)
            (count,) = struct.unpack_from(">H", reference, wide)
            targets = struct.unpack_from(f">{count}{item[1]}", reference, wide + 2)
            if kind == b"dimg":
                parts.setdefault(source, []).extend(targets)
            elif kind == b"auxl":
                for target in targets:
                    parts.setdefault(target, []).append(source)
    return parts
