"""TIFF files of every layout, written by hand: no library at hand writes them all."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_TYPES = {"B": 1, "s": 2, "H": 3, "I": 4, "Q": 16}
_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}


def tiff(
    values: np.ndarray,
    order: str = "<",
    planar: bool = False,
    tile: tuple[int, int] | None = None,
    rows: int | None = None,
    packed: bool = False,
    predictor: int = 1,
    bits: int | None = None,
    big: bool = False,
    tags: dict[int, tuple[str, list[int] | bytes] | None] | None = None,
) -> bytes:
    """Write one page.

    Args:
        values: (h, w) or (h, w, samples) of any number's dtype.
        order: "<" for little-endian, ">" for big-endian.
        planar: Whether each channel is stored apart.
        tile: (height, width) of tiles; strips of `rows` rows (all) where there is none.
        rows: The height of strips.
        packed: Whether they are compressed (deflate).
        predictor: 1 for none, 2 for differences (integers), 3 for floats.
        bits: Of each value of uint16, to be packed into as few bytes; those of the dtype by default.
        big: Whether it is a BigTIFF.
        tags: Further tags: (type, values); None leaves one out.
    """
    height, width = values.shape[:2]
    values = values.reshape(height, width, -1)
    samples = values.shape[2]
    bits = bits or values.itemsize * 8
    tall, wide = tile or (rows or height, width)
    pieces = []
    for plane in np.split(values, samples, 2) if planar else [values]:
        for top in range(0, height, tall):
            for left in range(0, width, wide):
                piece = plane[top : top + tall, left : left + wide]
                if tile:
                    edge = ((0, tall - piece.shape[0]), (0, wide - piece.shape[1]), (0, 0))
                    piece = np.pad(piece, edge, mode="edge")
                data = _packed(piece, order, predictor, bits)
                pieces.append(zlib.compress(data) if packed else data)
    kind = _FORMATS[values.dtype.kind]
    shown: dict[int, tuple[str, list[int] | bytes] | None] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits] * samples),
        259: ("H", [8 if packed else 1]),
        262: ("H", [2 if samples > 2 else 1]),
        277: ("H", [samples]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [kind] * samples),
    }
    if predictor > 1:
        shown[317] = ("H", [predictor])
    if extra := samples - (3 if samples > 2 else 1):
        shown[338] = ("H", [0] * extra)
    shown |= {322: ("I", [wide]), 323: ("I", [tall])} if tile else {278: ("I", [tall])}
    start = 16 if big else 8
    offsets = [start + sum(map(len, pieces[:number])) for number in range(len(pieces))]
    places, counts = (324, 325) if tile else (273, 279)
    shown |= {places: ("I", offsets), counts: ("I", [len(piece) for piece in pieces])} | (tags or {})
    body = b"".join(pieces)
    body += bytes(-len(body) % 8)
    entries, late = [], b""
    kept = sorted((tag, entry) for tag, entry in shown.items() if entry)
    link = "Q" if big else "I"
    end = start + len(body) + (8 + 20 * len(kept) + 8 if big else 2 + 12 * len(kept) + 4)
    for tag, (code, content) in kept:
        raw = content if isinstance(content, bytes) else struct.pack(f"{order}{len(content)}{code}", *content)
        if len(raw) > struct.calcsize(link):
            place = struct.pack(order + link, end + len(late))
            late += raw + bytes(len(raw) % 2)
        else:
            place = raw.ljust(struct.calcsize(link), b"\0")
        entries.append(struct.pack(f"{order}HH{link}", tag, _TYPES[code], len(content)) + place)
    head = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0) if big else (42,)), start + len(body))
    count = struct.pack(order + ("Q" if big else "H"), len(kept))
    table = count + b"".join(entries) + bytes(struct.calcsize(link))
    return (b"II" if order == "<" else b"MM") + head + body + table + late


def _packed(piece: np.ndarray, order: str, predictor: int, bits: int) -> bytes:
    if predictor == 2:
        unsigned = piece.view(f"u{piece.itemsize}")
        piece = np.diff(unsigned, axis=1, prepend=np.zeros_like(unsigned[:, :1]))
    if predictor == 3:
        planes = piece.astype(piece.dtype.newbyteorder(">")).reshape(len(piece), -1, 1).view(np.uint8)
        planes = planes.reshape(len(piece), -1, piece.itemsize).transpose(0, 2, 1).reshape(len(piece), -1)
        step, out = piece.shape[2], planes.copy()
        out[:, step:] -= planes[:, :-step]
        return out.tobytes()
    if bits < piece.itemsize * 8:
        wide = piece.reshape(len(piece), -1, 1).astype(">u2").view(np.uint8)
        return np.packbits(np.unpackbits(wide, axis=2)[..., -bits:].reshape(len(piece), -1), axis=1).tobytes()
    return piece.astype(piece.dtype.newbyteorder(order)).tobytes()
