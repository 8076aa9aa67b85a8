"""Gives a big index finer codes afterwards: its lists and codes stay, one pass over the collection makes the others.

Coarse codes are small enough for memory and choose a few hundred pictures; finer ones lie on the disk, are read for
those alone, and put them in order. The index is, to the last byte, the one that `build_big` makes of both at once, on a
machine with as many threads: pictures are projected in the same batches, because a product of matrices may round a row
in another way where it stands in another place. They are coded in parts as an index is, so that the same command goes
on after whatever stopped it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.gallery import Progress
from patchify_core.index.big.build import ScaleSettings, check_finer, check_replaceable
from patchify_core.index.big.choice import parse_lists
from patchify_core.index.big.learned import Learned, learn_finer
from patchify_core.index.big.parts import IndexPart, all_parts, fine_pieces
from patchify_core.index.build import StoreBuilder, run_build
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import FAISS_NAME, FINE_NAME, LISTS_NAME, read_meta
from patchify_core.index.integrity import write_listed, write_meta
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import PictureTable
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder


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
        progress: called with (pictures coded, pictures in all) after each batch; may raise to stop.
        seed: that of the build.
        part_pictures: those of the build.

    Raises:
        IndexFolderError: if `out` is no big index, has other finer codes, is damaged, or another build is using it.
        PatchifyError: if the stream is not what the index was built of, or cannot be coded like that.
        OSError: if a file cannot be written.
    """
    out, start = Path(out).resolve(), time.perf_counter()
    builder = _FinerCodes(stream, rescore, progress or (lambda done, total: None), seed, part_pictures)
    run_build(out, builder, lambda work, known: stream)
    size = sum(path.stat().st_size for path in out.iterdir())
    return FinerReport(len(stream), builder.coded, time.perf_counter() - start, size)


class _FinerCodes(StoreBuilder):
    """Finer codes for a big index.

    Attributes:
        meta: of the index that gets them, once it was looked at.
        coded: pictures that this run coded.
    """

    meta: dict[str, Any] | None = None
    coded = 0

    def __init__(self, stream: PictureStream, rescore: str, progress: Progress, seed: int, part_pictures: int) -> None:
        self._stream, self._rescore, self._progress = stream, rescore, progress
        self._seed, self._part_pictures = seed, part_pictures

    def look(self, out: Path) -> None:
        """See `StoreBuilder.look`."""
        if self.meta is not None:
            raise IndexFolderError(f"Another command put another index at {out} meanwhile: run this one again.")
        stream, rescore = self._stream, self._rescore
        check_replaceable(out, stream)
        meta = read_meta(out)
        index = PatchIndex.load(out)
        kept = parse_lists(index.factory)
        check_finer(rescore, index.dim, len(stream) * stream.regions.patches_per_image)
        if index.plan is None or kept is None:
            raise IndexFolderError(f"{out} is not a big index: build it anew, from shards, with --rescore {rescore}.")
        self._projection, self._lists = _same(stream, index, out), kept[1]
        self._there = index.rescore == parse_factory(rescore).factory
        if index.rescore is not None and not self._there:
            raise IndexFolderError(f"{out} has finer codes, {index.rescore}: build it anew with --rescore {rescore}.")
        self.meta = meta
        self.maker = {"finer": rescore, "index": meta["digest"], "seed": self._seed, "parts": self._part_pictures}

    def take(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.take`."""
        if self._there:
            return
        learned = Learned.load(work)
        if learned is None:
            fine = learn_finer(stream, self._projection, self._lists, self._rescore, self._seed)
            learned = Learned(self._projection, None, fine).saved(work)
        parts, self.coded, _ = all_parts(stream, work, learned, self._part_pictures, self._progress)
        meta = self.meta or {}
        work.swap_in(lambda new: _write(new, work.out, parts, learned, meta, self._rescore))


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


def _write(
    new: Path, out: Path, parts: Sequence[IndexPart], learned: Learned, meta: dict[str, Any], rescore: str
) -> None:
    """The files of the new folder: those of the old one that stay, under a second name, and the finer codes."""
    # Where there are finer codes, nobody asks in which list a patch is.
    kept = {name: listed for name, listed in meta["files"].items() if name != LISTS_NAME}
    assert learned.fine is not None, "they were learned"
    entry = write_listed(new / FINE_NAME, fine_pieces(parts, learned.fine))
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
