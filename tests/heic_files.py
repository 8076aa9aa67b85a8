"""HEIC files for the tests: pixels that x265 made once (no encoder is installed), in boxes written by hand.

The picture is `scene()`: 128 x 64 pixels, another colour at each corner, so that every turn shows.
"""

from __future__ import annotations

import base64
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (128, 64)

_HVCC = base64.b64decode(
    "AQNwAAAAAAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoBAgQWW6kk"
    "prm4CGgwIAAAMAMgAAAwACEGIAAQAHRAHBcrAiQA=="
)
_PIXELS = base64.b64decode(
    "AAAAqigBrxOAZMfRZrkIgMl1XUMKCkUGjAGGojMidDMw9W1LCHRcAoKyMJJNui+6eUJn63MOquJshw4oOUj/JslIlYomjmvHuCK29SF9kvJNuT"
    "/7/WPiSfeFylpynq39uEVvljgLiLt8IfCe1z8s4UWhV6TxRxtVgGuWWKE4SBoCKZC6Hg82o10o1vLOObuBV8DXPxkqyR+J772oHKmLvhpb+kcQ"
    "PrHSBKCrVQhA"
)
ALPHA = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAlttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAA"
    "AAAERAAAIAAQAAAAACfwABAAAAAAAAAFYAAgAAAAAC1QABAAAAAAAAADAAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVp"
    "bmZlAgAAAAACAABodmMxAAAAAA5waXRtAAAAAAABAAABmmlwcnAAAAFyaXBjbwAAAHVodmNDAQNwAAAAAAAAAAAAHvAA/P34+AAADwNgAAEAGE"
    "ABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAA"
    "ABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAOcG"
    "l4aQAAAAABCAAAAHFodmNDAQQIAAAAAAAAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf"
    "+AAAAwAAHsCCBBZbqrprmwIAAAMAMgAAAwACEGIAAQAGRAHBc8GJAAAAJ2F1eEMAAAAAdXJuOm1wZWc6aGV2YzoyMDE1OmF1eGlkOjEAAAAAIG"
    "lwbWEAAAAAAAAAAgABBYECAwWEAAIFhgMFh4QAAAAaaXJlZgAAAAAAAAAOYXV4bAACAAEAAQAAAI5tZGF0AAAAUigBrxMhq0Bo9SGedh/qQOzb"
    "8sMRLxDiSjgi3ytwFP+jx1S0ow32fsq5gzMBdy6zYkvq/sTNWRYQehCvgw9u7mjmuFXWgKiCh58tE0CjJzqaYfgAAAAsKAGuJkLUhIDD8KaWrq"
    "WIqnf57+T7H/eATmM/ai5AmoiHvKCPbCNugHAitS4="
)
"""24 x 16 pixels of the same scene; the right half is transparent."""
TEN_BITS = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXptZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABngABAAAAAAAAAF4AAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA+mlwcnAA"
    "AADaaXBjbwAAAHVodmNDAQQIAAAAAAAAAAAAHvAA/P36+gAADwNgAAEAF0ABDAH//wQIAAADAJ24AAADAAAeugJAYQABACpCAQEECAAAAwCduA"
    "AAAwAAHqAggQTZbqrprm4CGgwIAAADAMgAAAMACEBiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAA"
    "AChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAOcGl4aQAAAAABCgAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAGZtZG"
    "F0AAAAWigBrxMhrVR49SGedh/qQLhpEsMRLxDiSjgi3ytwFQMjPDU5MpjGN9n7KuYMzAXcus13p2d+gLWLlvH8FhGOSAOi6YMCVDv8jZERyT3L"
    "/ddseoVD6MlKdDAM8A=="
)
"""24 x 16 pixels of the same scene, 10 bits a channel."""


def scene(size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """(h, w, 3): what the files show, but for what their compression changes."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    return np.stack([x * 220 + 20, y * 200 + 30, (1 - x) * (1 - y) * 180 + 20], -1).astype(np.uint8)


def box(kind: bytes, *parts: bytes, flags: int | None = None) -> bytes:
    """A box of ISO/IEC 14496-12; with `flags` (version << 24 | flags) a full box."""
    data = (b"" if flags is None else struct.pack(">I", flags)) + b"".join(parts)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def heic(
    brands: tuple[bytes, ...] = (b"heic", b"mif1", b"heic"),
    turns: bytes = b"",
    says: tuple[int, int] = SIZE,
    copies: int = 1,
    primary: int = 1,
    orientation: int | None = None,
    kind: bytes = b"hvc1",
) -> bytes:
    """A HEIC file.

    Args:
        brands: major, then compatible ones.
        turns: `irot` and `imir` boxes of the last picture.
        says: the size that its header claims, width first.
        copies: how many pictures it has; the first ones have no turns.
        primary: which of them (from 1) is the one to show.
        orientation: what its EXIF says; None for none.
        kind: how its items claim to be coded.
    """
    ids = range(1, copies + 1)
    items, references, data = list(ids), b"", _PIXELS
    infos = [box(b"infe", struct.pack(">HH4sx", number, 0, kind), flags=2 << 24) for number in ids]
    places = [(number, 0, len(_PIXELS)) for number in ids]
    if orientation is not None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        block = struct.pack(">I", 6) + exif.tobytes()
        items.append(copies + 1)
        infos.append(box(b"infe", struct.pack(">HH4sx", copies + 1, 0, b"Exif"), flags=2 << 24))
        places.append((copies + 1, len(data), len(block)))
        references = box(b"iref", box(b"cdsc", struct.pack(">HHH", copies + 1, 1, primary)), flags=0)
        data += block
    turned = turns.count(b"irot") + turns.count(b"imir")
    properties = box(b"ispe", struct.pack(">II", *says), flags=0) + box(b"hvcC", _HVCC) + turns
    owned = b"".join(
        struct.pack(">HB", number, 2 + (turned if number == copies else 0))
        + bytes([1, 0x82, *(0x83 + turn for turn in range(turned if number == copies else 0))])
        for number in ids
    )
    located = b"".join(struct.pack(">HHHHII", number, 1, 0, 1, at, size) for number, at, size in places)
    meta = box(
        b"meta",
        box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), flags=0),
        box(b"pitm", struct.pack(">H", primary), flags=0),
        box(b"iloc", struct.pack(">HH", 0x4400, len(items)), located, flags=1 << 24),
        box(b"iinf", struct.pack(">H", len(items)), *infos, flags=0),
        references,
        box(b"iprp", box(b"ipco", properties), box(b"ipma", struct.pack(">I", copies), owned, flags=0)),
        box(b"idat", data),
        flags=0,
    )
    return box(b"ftyp", brands[0], bytes(4), *brands[1:]) + meta


def rotated(quarters: int) -> bytes:
    """`irot`: so many quarter turns to the left."""
    return box(b"irot", bytes([quarters]))


def mirrored(axis: int) -> bytes:
    """`imir`: 0 swaps top and bottom, 1 left and right."""
    return box(b"imir", bytes([axis]))
