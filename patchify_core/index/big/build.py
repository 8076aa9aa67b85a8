"""Build the index of a collection of any size from a stream of descriptors, and add finer codes to a big index.

Codecs that visit every code become an ordinary index in memory, identical to that of `build.build_index`, which later
builds can update from the pictures. Larger collections become inverted lists, built in parts in `<out>.partial`: after
an interruption the same command resumes. The old index stays in place until the new one is complete.

Finer codes can be added to inverted lists later by one pass over the collection. Coarse codes in memory select a few
hundred pictures; finer codes on disk are read for those alone and re-score them. The resulting index is byte-identical
to one that was built with finer codes (given as many threads): pictures are projected in the same batches, because the
rounding of a matrix product depends on a row's position.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import sha256_of_json
from patchify_core.gallery import Progress
from patchify_core.index.big.learned import Learned, learn, learn_finer
from patchify_core.index.big.parts import boxes_pieces, code_parts, fine_pieces, list_numbers_pieces, lists_pieces
from patchify_core.index.big.plan import ListsPlan, ScaleSettings, check_finer, parse_lists, plan_in_memory, plan_lists
from patchify_core.index.build import StoreBuilder, encode_stream, run_build
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import (
    BOXES_NAME,
    FAISS_NAME,
    FINE_NAME,
    LISTS_NAME,
    PICTURES_NAME,
    PROJECTION_NAME,
    FileContent,
    index_exists,
    maps_file,
    projection_pieces,
    read_meta,
    recipe_of,
    write_folder,
)
from patchify_core.index.integrity import write_listed, write_meta
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import table_pieces
from patchify_core.index.recipe import DESCRIPTORS, MAPS_NAME, OTHER_INDEX, refuse
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder, relative_path

NO_PICTURES = "no-pictures"
"""Root in `meta.json` if the pictures' folder is unknown; no folder has this name."""


@dataclass(frozen=True)
class ScaleReport:
    """Result of a build.

    Attributes:
        images: Pictures in the index.
        patches: Vectors in the index.
        factory: Codec as a factory string.
        why: Why this codec, one or two sentences.
        coded: Pictures coded by this run; an interrupted run had coded the others.
        learn_s: Seconds of training; 0 if done before.
        code_s: Seconds of reading and coding.
        merge_s: Seconds of merging the parts.
        bytes: Size of all files of the index.
    """

    images: int
    patches: int
    factory: str
    why: str
    coded: int
    learn_s: float
    code_s: float
    merge_s: float
    bytes: int

    @property
    def patches_per_s(self) -> float | None:
        """Patches coded per second; None if all had been coded before."""
        return self.patches / self.images * self.coded / self.code_s if self.coded else None


@dataclass(frozen=True)
class FinerReport:
    """Result of adding finer codes.

    Attributes:
        images: Pictures in the index.
        coded: Pictures coded by this run; 0 if the index had these finer codes already.
        seconds: Wall time.
        bytes: Size of all files of the index.
    """

    images: int
    coded: int
    seconds: float
    bytes: int


def build_fitting(
    stream: PictureStream,
    out: str | Path,
    settings: ScaleSettings,
    progress: Progress | None = None,
    root: str | Path | None = None,
) -> ScaleReport:
    """Build with `settings.factory`, or with the codec chosen for a memory budget; otherwise as `build_big`.

    Args, report and errors are those of `build_big`.
    """
    planned = plan_in_memory(stream, settings)
    if planned is None:
        return build_big(stream, out, settings, progress, root)
    codes, why = planned
    return _build(_MemoryBuilder(stream, progress or _silent, root, why, codes), out)


def build_big(
    stream: PictureStream,
    out: str | Path,
    settings: ScaleSettings | None = None,
    progress: Progress | None = None,
    root: str | Path | None = None,
) -> ScaleReport:
    """Build inverted lists from a stream, in parts, and swap them into place at `out`.

    Args:
        stream: The collection.
        out: Index folder; new, or one with the same encoder, regions and features, which is replaced.
        settings: See `ScaleSettings`.
        progress: Called after each batch; may raise to stop the build, which can then be resumed.
        root: Folder of the pictures, if known; needed to draw and verify results.

    Raises:
        IndexFolderError: `out` is something else, has another recipe, is in use, or cannot be written.
        PatchifyError: The collection does not fit the settings: too few patches to train on, a memory budget that is
            too small, or regions that depend on the pixels in a stream without boxes.
    """
    settings = settings or ScaleSettings()
    plan = plan_lists(stream, settings)
    return _build(_ListsBuilder(stream, progress or _silent, root, plan.why, plan, settings.part_pictures), out)


def add_finer(
    stream: PictureStream,
    out: str | Path,
    rescore: str,
    progress: Progress | None = None,
    seed: int = 0,
    part_pictures: int = ScaleSettings.part_pictures,
) -> FinerReport:
    """Add finer codes to the big index `out`, which stays usable until they are complete.

    Args:
        stream: The collection that the index was built from.
        out: Index folder.
        rescore: Factory of the finer codes: Flat, SQfp16, SQ8, SQ6, SQ4 or a PQ.
        progress: Called with (pictures coded, pictures in total) after each batch; may raise to stop.
        seed: That of the build.
        part_pictures: That of the build.

    Raises:
        IndexFolderError: `out` is not a big index, has other finer codes, is damaged, or is in use.
        PatchifyError: The stream is another collection, or these codes do not fit it.
        OSError: A file cannot be written.
    """
    out, start = Path(out).resolve(), time.perf_counter()
    builder = _FinerBuilder(stream, rescore, progress or _silent, seed, part_pictures)
    run_build(out, builder, lambda work, known: stream)
    return FinerReport(len(stream), builder.coded, time.perf_counter() - start, _size(out))


def _build(builder: _StreamBuilder, out: str | Path) -> ScaleReport:
    stream = builder.stream
    run_build(out, builder, lambda work, known: stream)
    patches, size = len(stream) * stream.regions.patches_per_image, _size(Path(out).resolve())
    return ScaleReport(len(stream), patches, builder.factory, builder.why, builder.coded, *builder.seconds, size)


def _silent(done: int, total: int) -> None:
    """Show no progress."""


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@dataclass
class _StreamBuilder(StoreBuilder):
    """Replaces an index by one of a whole stream; `fill` sets `factory`, `coded` and `seconds` for the report."""

    stream: PictureStream
    progress: Progress
    root: str | Path | None
    why: str
    factory: str = field(init=False)
    coded: int = field(init=False)
    seconds: tuple[float, float, float] = field(init=False)

    def check(self, out: Path) -> None:
        """See `StoreBuilder.check`."""
        check_replaceable(out, self.stream)


@dataclass
class _MemoryBuilder(_StreamBuilder):
    """Builds an ordinary index in memory."""

    codes: CodeSettings

    @property
    def maker(self) -> Mapping[str, Any]:
        """See `StoreBuilder.maker`; no unfinished work is stored."""
        return {"fitting": 1}

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        start, total, done = time.perf_counter(), len(stream), 0
        self.codes.check_enough(stream.dim, stream.regions, total)

        def on_read(row: int) -> None:
            nonlocal done
            if row + 1 > done:  # rows of the training sample are read twice
                done = row + 1
                self.progress(done, total)

        index = encode_stream(stream, list(stream.pictures(0, total)), self.codes, on_read=on_read)
        code_s, start = time.perf_counter() - start, time.perf_counter()
        root = NO_PICTURES if self.root is None else relative_path(Path(self.root), work.out)
        work.swap_in(lambda new: index.write(new, root, stream.maps))
        self.factory, self.coded, self.seconds = index.factory, total, (0.0, code_s, time.perf_counter() - start)


@dataclass
class _ListsBuilder(_StreamBuilder):
    """Builds inverted lists in parts."""

    plan: ListsPlan
    part_pictures: int

    @property
    def maker(self) -> Mapping[str, Any]:
        """See `StoreBuilder.maker`."""
        stream, plan = self.stream, self.plan
        return {
            "big": 1,
            **stream.recipe.descriptors(),
            "pictures": len(stream),
            "stream": getattr(stream, "digest", None),
            "projected": None if stream.projection is None else sha256_of_json(stream.projection.to_bytes().hex()),
            "wanted": {
                "projection": plan.projection,
                "lists": plan.lists,
                "parts": plan.code_bytes,
                "rescore": plan.rescore,
                "seed": plan.seed,
            },
            "part_pictures": self.part_pictures,
        }

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        plan, start = self.plan, time.perf_counter()
        learned = Learned.load(work) or learn(stream, plan).saved(work)
        learn_s = time.perf_counter() - start
        parts, self.coded, code_s = code_parts(stream, work, learned, self.part_pictures, self.progress)
        start = time.perf_counter()
        root = NO_PICTURES if self.root is None else str(Path(self.root).resolve())
        codec = CodeSettings(plan.factory, rescore=plan.rescore)
        meta = stream.recipe.coded(codec).as_dict() | {"images": None, "root": root, "search": {"probes": plan.probes}}

        def write(new: Path) -> None:
            assert learned.coder is not None, "it was trained with lists"
            fine = None if learned.fine is None else fine_pieces(parts, learned.fine)
            files: dict[str, FileContent] = {
                FAISS_NAME: lists_pieces(parts, learned.coder, plan.probes),
                FINE_NAME: fine,
                LISTS_NAME: None if fine is not None else list_numbers_pieces(parts, plan.lists),
                PICTURES_NAME: table_pieces([part.table() for part in parts]),
                BOXES_NAME: boxes_pieces(stream) if stream.regions.needs_picture else None,
                MAPS_NAME: maps_file(new, stream.maps),
                PROJECTION_NAME: projection_pieces(stream.projection or learned.projection),
            }
            write_folder(new, meta, files)

        work.swap_in(write)
        self.factory, self.seconds = plan.factory, (learn_s, code_s, time.perf_counter() - start)


@dataclass
class _FinerBuilder(StoreBuilder):
    """Adds finer codes to a big index.

    Attributes:
        meta: `meta.json` of the index once it was checked.
        coded: Pictures coded by this run.
    """

    stream: PictureStream
    rescore: str
    progress: Progress
    seed: int
    part_pictures: int
    meta: dict[str, Any] | None = None
    coded: int = 0

    @property
    def maker(self) -> Mapping[str, Any]:
        """See `StoreBuilder.maker`."""
        digest = (self.meta or {})["digest"]
        return {"finer": self.rescore, "index": digest, "seed": self.seed, "parts": self.part_pictures}

    def check(self, out: Path) -> None:
        """See `StoreBuilder.check`."""
        if self.meta is not None:
            raise IndexFolderError(f"Another command put another index at {out} meanwhile: run this one again.")
        stream, rescore = self.stream, self.rescore
        check_replaceable(out, stream)
        meta = read_meta(out)
        index = PatchIndex.load(out)
        lists = parse_lists(index.factory)
        check_finer(rescore, index.dim, len(stream) * stream.regions.patches_per_image)
        if index.plan is None or lists is None:
            raise IndexFolderError(f"{out} is not a big index: build it again from shards with --rescore {rescore}.")
        self._projection, self._lists = _projection_for(stream, index, out), lists[1]
        self._done = index.rescore == parse_factory(rescore).factory
        if index.rescore is not None and not self._done:
            raise IndexFolderError(
                f"{out} has other finer codes ({index.rescore}): build it again with --rescore {rescore}."
            )
        self.meta = meta

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        if self._done:
            return
        learned = Learned.load(work)
        if learned is None:
            codec = learn_finer(stream, self._projection, self._lists, self.rescore, self.seed)
            learned = Learned(self._projection, None, codec).saved(work)
        parts, self.coded, _ = code_parts(stream, work, learned, self.part_pictures, self.progress)
        fine, meta = learned.fine, {key: value for key, value in (self.meta or {}).items() if key != "digest"}
        assert fine is not None, "it was trained"

        def write(new: Path) -> None:
            entry = write_listed(new / FINE_NAME, fine_pieces(parts, fine))
            # Finer codes are stored in patch order, so that nobody needs the list of a patch.
            old = {name: listed for name, listed in meta["files"].items() if name != LISTS_NAME}
            for name in old:
                _link_or_copy(work.out / name, new / name)
            files = {FAISS_NAME: old.pop(FAISS_NAME), FINE_NAME: entry} | old
            write_meta(new, meta | {"rescore": parse_factory(self.rescore).factory, "files": files})

        work.swap_in(write)


def _projection_for(stream: PictureStream, index: PatchIndex, out: Path) -> Projection | None:
    """Return the projection to apply to the stream; raise PatchifyError if the stream is another collection."""
    own = None if index.projection is None else index.projection.to_bytes()
    if stream.projection is not None and stream.projection.to_bytes() != own:
        raise PatchifyError(f"{out} was built with another projection than that of these descriptors: build it again.")
    if len(stream) != len(index.images):
        raise PatchifyError(
            f"{out} has {len(index.images):,} pictures, and the shards have {len(stream):,}: build it again with "
            "--rescore."
        )
    for row in np.unique(np.linspace(0, len(stream) - 1, 64).astype(np.int64)).tolist():
        if stream.pictures(row, row + 1)[0] != index.images[row]:
            raise PatchifyError(f"{out} lists other pictures than these, for example in row {row:,}: build it again.")
    return None if stream.projection is not None else index.projection


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file system has no links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def check_replaceable(out: Path, stream: PictureStream) -> None:
    """Raise IndexFolderError unless `out` is free, or an index of descriptors of the same recipe."""
    if index_exists(out):
        refuse(recipe_of(read_meta(out), out).differences(stream.recipe, DESCRIPTORS), out, OTHER_INDEX)
