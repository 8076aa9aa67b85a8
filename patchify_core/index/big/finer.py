"""Gives a big index finer codes afterwards: its lists and codes stay, one pass over the collection makes the others.

Coarse codes are small enough for memory and choose a few hundred pictures; finer ones lie on the disk, are read for
those alone, and put them in order. The index is, to the last byte, the one that `build_big` makes of both at once, on a
machine with as many threads: pictures are projected in the same batches, because a product of matrices may round a row
in another way where it stands in another place.

The codes are appended to `<out>.partial/finer.codes`, and `finer.json` says now and then how far they go and what their
digest was, so that the same command goes on there after whatever stopped it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import write_json
from patchify_core.index.big.build import (
    Progress,
    ScaleSettings,
    check_finer,
    check_replaceable,
)
from patchify_core.index.big.choice import parse_lists
from patchify_core.index.big.learned import learn_finer
from patchify_core.index.big.merge import framed
from patchify_core.index.big.parts import batches
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import check_faiss_file
from patchify_core.index.folder import FAISS_NAME, FINE_NAME, LISTS_NAME, read_meta
from patchify_core.index.integrity import Digests, private_of, write_meta
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.picture_table import PictureTable
from patchify_core.index.private import PrivateFolder
from patchify_core.index.shards.stream import PictureStream
from patchify_core.index.swap import heal, swap_in

CODES_NAME, STATE_NAME = "finer.codes", "finer.json"
SAVE_S = 10.0
"""Seconds of work that a kill may cost."""

CHUNK = 1 << 24


@dataclass(frozen=True)
class FinerReport:
    """What was done.

    Attributes:
        images: pictures in the index.
        coded: pictures that this run coded; 0 where the index had these finer codes already.
        seconds: that it took.
        bytes: of all files of the index.
    """

    images: int
    coded: int
    seconds: float
    bytes: int


def add_finer(
    stream: PictureStream,
    out: str | Path,
    rescore: str,
    progress: Progress | None = None,
    seed: int = 0,
    part_pictures: int = ScaleSettings.part_pictures,
) -> FinerReport:
    """Adds finer codes to the big index `out`, which stays whole until they are complete.

    Args:
        stream: the collection that the index was built of.
        out: its folder.
        rescore: factory of the finer codes: Flat, SQfp16, SQ8, SQ6, SQ4 or a PQ.
        progress: told (pictures coded, pictures in all) after each batch; may raise to stop.
        seed: that of the build.
        part_pictures: those of the build.

    Raises:
        IndexFolderError: if `out` is no big index, has other finer codes, is damaged, or another build is using it.
        PatchifyError: if the stream is not what the index was built of, or cannot be coded like that.
        OSError: if a file cannot be written.
    """
    progress = progress or (lambda done, total: None)
    out = Path(out).resolve()
    start = time.perf_counter()
    check_replaceable(out, stream)
    meta = read_meta(out)
    index = PatchIndex.load(out)
    kept = parse_lists(index.factory)
    patches, dim = stream.regions.patches_per_image, index.dim
    check_finer(rescore, dim, len(stream) * patches)
    if index.plan is None or kept is None:
        raise IndexFolderError(f"{out} is not a big index: build it anew, from shards, with --rescore {rescore}.")
    projection = _same(stream, index, out)
    if index.rescore == parse_factory(rescore).factory:
        return FinerReport(len(stream), 0, time.perf_counter() - start, _bytes_of(out))
    if index.rescore is not None:
        raise IndexFolderError(f"{out} has finer codes, {index.rescore}: build it anew with --rescore {rescore}.")
    del index  # nothing of the old folder may be open where it is renamed
    private = private_of(out)
    with PrivateFolder(private) as work:
        heal(out, private)
        if read_meta(out)["digest"] != meta["digest"]:
            raise IndexFolderError(f"Another command put another index at {out} meanwhile: run this one again.")
        work.take_over({"finer": rescore, "index": meta["digest"], "seed": seed})
        state = _State.read(private)
        if state is None:
            state = _State(_learned(stream, projection, kept[1], rescore, seed), 0, "")
        head, tail = framed(state.codec(), len(stream) * patches)
        with open(private / CODES_NAME, "ab+") as file:
            digest = _prefix(file, len(head) + state.pictures * patches * state.code_size(), state.digest)
            if digest is None:
                state, digest = _State(state.data, 0, ""), Digests()
                file.truncate(0)
                file.write(head)
                digest.update(head)
            before = state.pictures
            codec, saved = state.codec(), time.monotonic()
            progress(before, len(stream))
            for table, vectors in _batches(stream, before, part_pictures, projection, dim):
                codes = np.asarray(codec.sa_encode(vectors)).tobytes()
                file.write(codes)
                digest.update(codes)
                state = _State(state.data, state.pictures + len(table), digest.sha256)
                if time.monotonic() - saved > SAVE_S or state.pictures == len(stream):
                    state.write(private, file)
                    saved = time.monotonic()
                progress(state.pictures, len(stream))
            file.write(tail)
            digest.update(tail)
        entry = digest.listed()
        swap_in(out, private, lambda new: _write(new, out, private / CODES_NAME, meta, rescore, entry))
        work.remove()
    return FinerReport(len(stream), len(stream) - before, time.perf_counter() - start, _bytes_of(out))


def _batches(
    stream: PictureStream, before: int, part_pictures: int, projection: Projection | None, dim: int
) -> Iterator[tuple[PictureTable, NDArray[np.float32]]]:
    """What `parts.batches` gives of one part after the other, without the pictures that are done."""
    for start in range(before - before % part_pictures, len(stream), part_pictures):
        first = max(start, before)
        yield from batches(stream, first, min(start + part_pictures, len(stream)) - first, projection, dim)


@dataclass(frozen=True)
class _State:
    """How far the file of codes goes.

    Attributes:
        data: the trained codec as FAISS writes it.
        pictures: whose codes are in the file.
        digest: SHA-256 of the file so far.
    """

    data: bytes
    pictures: int
    digest: str

    def codec(self) -> Any:
        """The codec, empty."""
        import faiss

        return faiss.deserialize_index(np.frombuffer(self.data, np.uint8))

    def code_size(self) -> int:
        """Bytes of a code."""
        return int(self.codec().sa_code_size())

    @classmethod
    def read(cls, private: Path) -> _State | None:
        """What an earlier run left; None where that is nothing or is not whole."""
        try:
            found = json.loads((private / STATE_NAME).read_text(encoding="utf-8"))
            data = base64.b64decode(found["codec"], validate=True)
            if hashlib.sha256(data).hexdigest() != found["sha256"]:
                return None
            check_faiss_file(data)
            return cls(data, int(found["pictures"]), str(found["digest"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, private: Path, codes: BinaryIO) -> None:
        """Writes it down, once the codes themselves are on the disk."""
        codes.flush()
        os.fsync(codes.fileno())
        found = {
            "codec": base64.b64encode(self.data).decode("ascii"),
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "pictures": self.pictures,
            "digest": self.digest,
        }
        write_json(private / STATE_NAME, found)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _same(stream: PictureStream, index: PatchIndex, out: Path) -> Projection | None:
    """What the stream's descriptors must be projected with; raises PatchifyError if it is another collection."""
    mine = None if index.projection is None else index.projection.to_bytes()
    if stream.projection is not None and stream.projection.to_bytes() != mine:
        raise PatchifyError(f"{out} was built with another projection than that of these descriptors: build it anew.")
    if len(stream) != len(index.images):
        raise PatchifyError(
            f"{out} holds {len(index.images):,} pictures, and these are {len(stream):,}: build it anew, with --rescore."
        )
    listed = index.images
    assert isinstance(listed, PictureTable), "a big index has a table"
    rows = np.unique(np.linspace(0, len(stream) - 1, 64).astype(np.int64))
    for row in rows.tolist():
        theirs, _ = stream.batch(row, row + 1)
        if theirs[0] != listed[row]:
            raise PatchifyError(f"{out} lists other pictures than these, for example in place {row:,}: build it anew.")
    return None if stream.projection is not None else index.projection


def _learned(stream: PictureStream, projection: Projection | None, lists: int, rescore: str, seed: int) -> bytes:
    import faiss

    return faiss.serialize_index(learn_finer(stream, projection, lists, rescore, seed)).tobytes()


def _prefix(file: BinaryIO, size: int, digest: str) -> Digests | None:
    """The digests of the first `size` bytes, with the file cut there; None unless their SHA-256 is `digest`."""
    found, left = Digests(), size
    file.seek(0)
    while left and (chunk := file.read(min(CHUNK, left))):
        found.update(chunk)
        left -= len(chunk)
    if left or found.sha256 != digest:
        return None
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return found


def _write(new: Path, out: Path, codes: Path, meta: dict[str, Any], rescore: str, entry: dict[str, Any]) -> None:
    """The files of the new folder: those of the old one that stay, under a second name, and the finer codes."""
    # Where there are finer codes, nobody asks in which list a patch is.
    kept = {name: listed for name, listed in meta["files"].items() if name != LISTS_NAME}
    _second_name(codes, new / FINE_NAME)
    for name in kept:
        _second_name(out / name, new / name)
    files = {FAISS_NAME: kept.pop(FAISS_NAME), FINE_NAME: entry} | kept
    meta = {key: value for key, value in meta.items() if key != "digest"}
    write_meta(new, meta | {"rescore": parse_factory(rescore).factory, "files": files})


def _second_name(source: Path, target: Path) -> None:
    """Gives a file a second name, or copies it where a disk has no such thing."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)
