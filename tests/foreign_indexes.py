"""Index folders as a stranger would forge them, with digests made anew, loaded and searched; run in its own process.

Every field of FAISS's file is found by the reader that checks it, and gets values that such a field never has.
"""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np

from patchify_core.errors import IndexFolderError
from patchify_core.files import sha256_of_bytes, sha256_of_json
from patchify_core.index import faiss_files, patch_index
from patchify_core.index.big import build_big
from patchify_core.index.codec.codes import CodeSettings, encode_codes
from patchify_core.index.folder import META_NAME
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import Pictures
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Pyramid
from tests.big import SETTINGS, Clusters
from tests.index.test_patch_index import DIM, ENCODER, index_of, unit_rows

PICTURES, LEVELS = 60, 2
KINDS = (
    *(
        "Flat",
        "SQ8",
        "SQ6",
        "SQ4",
        "SQfp16",
        "SQbf16",
        "PQ4",
        "PQ4x5",
        "PQ8x4fs",
        "IVF4,Flat",
        "IVF4,SQ8",
        "IVF4,PQ4x4",
    ),
    *(
        "IVF16_HNSW4,PQ4x4",
        "OPQ4_8,PQ4x4",
        "OPQ4,IVF4,SQ8",
        "OPQ4,PQ4x4fs",
        "HNSW4,SQ8",
        "HNSW4,Flat",
        "big",
        "big,SQ8",
        "big,Flat",
    ),
)
LENGTHS = {"i": 4, "q": 8, "Q": 8, "B": 1}
EVIL = (
    0,
    1,
    2,
    3,
    5,
    7,
    31,
    33,
    255,
    1 << 16,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 40,
    1 << 61,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


class Recorded(faiss_files._Fields):
    """Notes where each field and each array stands."""

    fields: list[tuple[int, int]]
    arrays: list[tuple[int, int, int]]

    def read(self, kinds):
        """Notes the places of whole numbers."""
        at = self.at
        for kind in kinds.replace("4s", "i"):
            if kind in LENGTHS:
                self.fields.append((at, LENGTHS[kind]))
            at += LENGTHS.get(kind, 4)
        return super().read(kinds)

    def items(self, kind, count):
        """Notes the array, and its length if that stands in front of it."""
        self.arrays.append((self.at, count, np.dtype(kind).itemsize))
        return super().items(kind, count)


def places(data: bytes) -> Recorded:
    """Where everything stands in a file that is whole."""
    Recorded.fields, Recorded.arrays = [], []
    plain, faiss_files._Fields = faiss_files._Fields, Recorded
    try:
        faiss_files.check_faiss_file(data)
    finally:
        faiss_files._Fields = plain
    return Recorded


def forgeries(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the file)."""
    found, random = places(data), np.random.default_rng(seed)
    for at, size in found.fields:
        (now,) = struct.unpack_from({1: "<B", 4: "<I", 8: "<Q"}[size], data, at)
        for value in {*(value % (1 << 8 * size) for value in (*EVIL, now - 1, now + 1, 2 * now))} - {now}:
            yield f"field {at}: {now} -> {value}", data[:at] + value.to_bytes(size, "little") + data[at + size :]
    for at, count, size in found.arrays:
        for left in {0, count // 2, count - 1} if count else {}:
            shorter = data[: at - 8] + left.to_bytes(8, "little") + data[at : at + left * size]
            yield f"array {at}: {left} of {count}, said so", shorter + data[at + count * size :]
            yield f"array {at}: {left} of {count}", data[: at + left * size] + data[at + count * size :]
            yield f"array {at}: cut there", data[: at + left * size]
        longer = data[: at - 8] + (count + 3).to_bytes(8, "little") + data[at : at + count * size] + bytes(3 * size)
        yield f"array {at}: 3 more", longer + data[at + count * size :]
        for pattern in (
            b"\xff",
            b"\x7f\xff\xff\xff"[::-1],
            b"\x00\x00\xc0\x7f",
            b"\x00\x00\x80\x7f",
            b"\xff\xff\xff\x7e",
        ):
            whole = (pattern * (count * size))[: count * size]
            yield f"array {at}: all {pattern.hex()}", data[:at] + whole + data[at + count * size :]
            if count:
                one = at + int(random.integers(count)) * size
                yield f"array {at}: {pattern.hex()}", data[:one] + whole[:size] + data[one + size :]
    for _ in range(80):
        flipped = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 4)):
            flipped[at] ^= 1 << random.integers(8)
        yield "flipped bits", bytes(flipped)


def flips(data: bytes, seed: int) -> Iterator[tuple[str, bytes]]:
    """A file of another kind: flipped bits, mostly near its start, and cut or with more behind it."""
    random = np.random.default_rng(seed)
    for turn in range(200):
        flipped = bytearray(data)
        for at in random.integers(0, min(len(data), 200) if turn % 2 else len(data), random.integers(1, 4)):
            flipped[at] ^= 1 << random.integers(8)
        yield "flipped bits", bytes(flipped)
    for left in random.integers(0, len(data), 20).tolist():
        yield f"cut at {left}", data[:left]
    yield "longer", data + bytes(8)


def build(kind: str, folder: Path) -> None:
    """An index folder: of a codec, or a big one, with finer codes if there is a comma behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if kind.startswith("big"):
        rescore = kind.partition(",")[2] or None
        build_big(Clusters(90), folder, dataclasses.replace(SETTINGS, lists=4, rescore=rescore))
        return
    regions = Pyramid(LEVELS)
    patches = regions.patches_per_image
    vectors = unit_rows(np.random.default_rng(0), PICTURES * patches)
    settings = CodeSettings(kind)
    made = encode_codes(lambda row: vectors[row * patches :][:patches], PICTURES, regions, DIM, settings)
    index = index_of(range(1, PICTURES + 1), LEVELS, vectors)
    index = PatchIndex(Recipe(ENCODER, regions, factory=kind), Pictures(index.images), made)
    folder.mkdir()
    index.write(folder, ".")


def sealed(folder: Path, name: str, data: bytes) -> None:
    """Puts another file in, with digests that fit."""
    (folder / name).write_bytes(data)
    meta = json.loads((folder / META_NAME).read_text(encoding="utf-8"))
    meta["files"][name] = {"bytes": len(data), "sha256": sha256_of_bytes(data)}
    meta.pop("digest")
    meta["digest"] = sha256_of_json(meta)
    (folder / META_NAME).write_text(json.dumps(meta), encoding="utf-8")


def use(folder: Path) -> str:
    """Loads and searches in every way; returns what came of it."""
    try:
        index = PatchIndex.load(folder)
        query = np.random.default_rng(1).normal(size=index.dim).astype(np.float32)
        query /= np.linalg.norm(query)
        for top, level in ((None, None), (3, 1), (1, 2)):
            hits = index.search(query, top, level)
            assert len(set(hits.rows.tolist())) == len(hits.rows) and np.isfinite(hits.scores).all()
            assert ((hits.rows >= 0) & (hits.rows < len(index.images))).all()
        for row in (0, len(index.images) - 1):
            index.descriptors_of(row)
            index.cell_scores(query, row)
            index.boxes_of(row)
            index.images[row].file_name.encode("utf-8", "surrogateescape")
    except IndexFolderError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
        return "refused"
    return "searched"


def main(folder: Path, kind: str) -> None:
    """Prints what is done before it is done, so that a crash can be told from the last line."""
    faiss.omp_set_num_threads(1)
    patch_index.WALK_SHARE = 0  # a graph is walked however small it is
    build(kind, folder)
    assert use(folder) == "searched"
    for path in sorted(folder.iterdir()):
        if path.name == META_NAME:
            continue
        data = path.read_bytes()
        for what, forged in (forgeries if path.suffix == ".faiss" else flips)(data, 0):
            print(path.name, what, end=": ", flush=True)
            sealed(folder, path.name, forged)
            print(use(folder), flush=True)
        sealed(folder, path.name, data)
    print("all done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
