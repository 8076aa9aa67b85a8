"""Builds the index of a collection of any size from a stream of descriptors.

What compares every patch is an ordinary index in memory, the very one that `build.build_index` makes of the same
pictures with the same factory; it can be updated from the pictures themselves later. A collection that is too large for
that gets inverted lists, built in parts: what is learned and every finished part stand in `<out>.partial`, and whatever
stops the build, the same command goes on there. The old index stays whole until the new one is complete.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.files import sha256_of_json
from patchify_core.gallery import Progress
from patchify_core.index.big.choice import PROBED, CodecChoice, choose, lists_of, parse_lists
from patchify_core.index.big.learned import Learned, Wanted, learn
from patchify_core.index.big.parts import (
    IndexPart,
    all_parts,
    boxes_pieces,
    fine_pieces,
    list_numbers_pieces,
    lists_pieces,
)
from patchify_core.index.build import StoreBuilder, coded, run_build
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import needed_to_train, parse_factory, too_few
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
from patchify_core.index.pictures import table_pieces
from patchify_core.index.recipe import DESCRIPTORS, MAPS_NAME, OTHER_INDEX, Recipe, refuse
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder, root_from

NO_PICTURES = "no-pictures"
"""What `meta.json` says where nobody knows the pictures' folder: none has this name."""

MOST_RECORDS = 100_000
"""Pictures that an ordinary index holds at most here: it keeps a record of each in memory."""

PROJECTED = 128
"""Dimensions that descriptors are projected to, where nothing else is said."""


@dataclass(frozen=True)
class ScaleSettings:
    """What a person may tune about a big index.

    Attributes:
        memory_gb: what a search may take; chooses all of the following that are None.
        factory: a codec whose codes are all in memory, as `CodeSettings.factory`, instead of a choice.
        codebook: what that codec is trained on.
        projection: dimensions to project to; 0 for none. Where the stream is projected already, nothing more is done.
        lists: inverted lists.
        code_bytes: bytes of a patch's code, a divisor of the dimension.
        probes: lists that a search visits until `tune` has measured better.
        rescore: factory of finer codes (`SQ8`, `PQ64`, ...), kept on the disk beside the others, that order the first
            pictures of a search; None for none.
        part_pictures: pictures of a part; at most this much work is lost to a kill.
        seed: of k-means.
    """

    memory_gb: float | None = None
    factory: str | None = None
    codebook: str = CodeSettings.codebook
    projection: int | None = None
    lists: int | None = None
    code_bytes: int | None = None
    probes: int | None = None
    rescore: str | None = None
    part_pictures: int = 100_000
    seed: int = 0


@dataclass(frozen=True)
class ScaleReport:
    """What a build did.

    Attributes:
        images: pictures in the index.
        patches: vectors in the index.
        factory: how they are kept.
        why: what was chosen and why, one or two sentences.
        coded: pictures that this run coded; the others were coded by one that was cut.
        learn_s: seconds that learning took, 0 where it was done before.
        code_s: seconds that reading and coding took.
        merge_s: seconds that putting the parts together took.
        bytes: of all files of the index.
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
        """Patches coded per second; None when all had been coded before."""
        return self.patches / self.images * self.coded / self.code_s if self.coded else None


def build_fitting(
    stream: PictureStream,
    out: str | Path,
    settings: ScaleSettings,
    progress: Progress | None = None,
    root: str | Path | None = None,
) -> ScaleReport:
    """Builds what `settings.factory` says, or what `choose` chooses for a budget; without either it is `build_big`.

    Args, report and errors are those of `build_big`.
    """
    chosen = _in_memory(stream, settings)
    if chosen is None:
        return build_big(stream, out, settings, progress, root)
    return _built(_MemoryBuilder(stream, settings, progress, root, *chosen), out)


def build_big(
    stream: PictureStream,
    out: str | Path,
    settings: ScaleSettings | None = None,
    progress: Progress | None = None,
    root: str | Path | None = None,
) -> ScaleReport:
    """Builds the index folder `out` from a stream, in parts, and swaps it into place.

    Args:
        stream: the collection.
        out: index folder; a new one, or one of the same encoder, regions and features, which is replaced.
        settings: see `ScaleSettings`.
        progress: called after each batch; may raise to stop the build, which then can be resumed.
        root: folder of the pictures, if it is known; results then can be drawn and verified.

    Raises:
        IndexFolderError: if `out` is something else, or made otherwise, or another build is using it, or it cannot be
            written.
        PatchifyError: if the collection cannot be kept like that: too few patches to learn from, a memory budget that
            cannot be met, regions whose boxes depend on the pixels in a stream that has no boxes.
    """
    return _built(_ListsBuilder(stream, settings or ScaleSettings(), progress, root), out)


def _built(builder: _OfStream, out: str | Path) -> ScaleReport:
    """Builds, and reports."""
    run_build(out, builder, lambda work, known: builder.stream)
    pictures, patches = len(builder.stream), len(builder.stream) * builder.stream.regions.patches_per_image
    size = sum(path.stat().st_size for path in Path(out).resolve().iterdir())
    return ScaleReport(pictures, patches, builder.factory, builder.why, builder.coded, *builder.seconds, size)


class _OfStream(StoreBuilder):
    """What replaces an index of the same kind of descriptors by one of a whole stream.

    Attributes:
        factory, why, coded: see `ScaleReport`.
        seconds: its `learn_s`, `code_s` and `merge_s`.
    """

    factory: str
    why: str
    coded: int
    seconds: tuple[float, float, float]

    def __init__(
        self, stream: PictureStream, settings: ScaleSettings, progress: Progress | None, root: str | Path | None
    ) -> None:
        self.stream, self.settings = stream, settings
        self.progress: Progress = progress or (lambda done, total: None)
        self.root = None if root is None else Path(root)

    def look(self, out: Path) -> None:
        """See `StoreBuilder.look`."""
        check_replaceable(out, self.stream)


class _ListsBuilder(_OfStream):
    """Inverted lists, in parts."""

    def __init__(
        self, stream: PictureStream, settings: ScaleSettings, progress: Progress | None, root: str | Path | None
    ) -> None:
        super().__init__(stream, settings, progress, root)
        self._wanted, self.factory, self._probes, self.why = planned(stream, settings)
        self.maker = {
            "big": 1,
            **stream.recipe.descriptors(),
            "pictures": len(stream),
            "stream": getattr(stream, "digest", None),
            "projected": None if stream.projection is None else sha256_of_json(stream.projection.to_bytes().hex()),
            "wanted": asdict(self._wanted),
            "part_pictures": settings.part_pictures,
        }

    def take(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.take`."""
        start = time.perf_counter()
        learned = Learned.load(work) or learn(stream, self._wanted, self.factory).saved(work)
        learn_s = time.perf_counter() - start
        parts, self.coded, code_s = all_parts(stream, work, learned, self.settings.part_pictures, self.progress)
        start = time.perf_counter()
        root = NO_PICTURES if self.root is None else str(self.root.resolve())
        codec = CodeSettings(self.factory, rescore=self._wanted.rescore)
        recipe = Recipe.of(stream.encoder, stream.regions, stream.features, codec)
        meta = recipe.as_dict() | {"images": None, "root": root, "search": {"probes": self._probes}}
        work.swap_in(lambda new: _write(new, meta, stream, learned, parts, self._probes))
        self.seconds = learn_s, code_s, time.perf_counter() - start


class _MemoryBuilder(_OfStream):
    """Codes in memory, every one of which a search compares with."""

    def __init__(
        self,
        stream: PictureStream,
        settings: ScaleSettings,
        progress: Progress | None,
        root: str | Path | None,
        codes: CodeSettings,
        why: str,
    ) -> None:
        super().__init__(stream, settings, progress, root)
        self.maker = {"fitting": 1}  # nothing of it is kept unfinished
        self._codes, self.why = codes, why

    def take(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.take`."""
        start, total, done = time.perf_counter(), len(stream), 0
        self._codes.check_enough(stream.dim, stream.regions, total)

        def passed(row: int) -> None:
            nonlocal done
            if row + 1 > done:  # the rows of a sample come first, and again afterwards
                done = row + 1
                self.progress(done, total)

        index = coded(stream, list(stream.pictures(0, total)), self._codes, passed=passed)
        self.factory, self.coded = index.factory, total
        code_s, start = time.perf_counter() - start, time.perf_counter()
        where = NO_PICTURES if self.root is None else root_from(work.out, self.root)
        work.swap_in(lambda new: index.write(new, where, stream.maps))
        self.seconds = 0.0, code_s, time.perf_counter() - start


def _in_memory(stream: PictureStream, settings: ScaleSettings) -> tuple[CodeSettings, str] | None:
    """What is chosen and why, where every patch is compared; None where lists are better, or were asked for.

    Raises:
        PatchifyError: if the codec that was asked for does not fit.
    """
    stream.check_boxes()
    projected, patches, seed = stream.projection is not None, stream.regions.patches_per_image, settings.seed
    if settings.factory is not None:
        asked = parse_factory(settings.factory, len(stream) * patches, stream.dim)
        if len(stream) > MOST_RECORDS:
            raise PatchifyError(
                f"{asked.factory} would have {len(stream):,} pictures in memory, and {MOST_RECORDS:,} is the most: "
                "leave --factory and --preset out, and inverted lists are chosen."
            )
        if projected and asked.projection is not None:
            raise PatchifyError(
                f"These descriptors are projected already: write {asked.codec} instead of {asked.factory}."
            )
        codes = CodeSettings(settings.factory, settings.codebook, settings.rescore, seed=seed)
        codes.check(stream.dim, stream.regions, len(stream))
        return codes, f"{asked.factory}, as it was asked for."
    asked_for = (settings.projection, settings.lists, settings.code_bytes, settings.probes)
    if settings.memory_gb is None or any(one is not None for one in asked_for) or not 0 < len(stream) <= MOST_RECORDS:
        return None
    chosen = choose(len(stream), patches, settings.memory_gb, stream.dim)
    if chosen.lists:
        return None
    kept, why = parse_factory(chosen.factory), chosen.why
    rescore = settings.rescore
    if rescore is not None and kept.codec == "Flat":
        why += f" They are exact, so finer codes ({rescore}) would add nothing and are left out."
        rescore = None
    # What is projected is not projected again.
    codes = CodeSettings(kept.codec if projected else kept.factory, rescore=rescore, seed=seed)
    try:
        codes.check(stream.dim, stream.regions, len(stream))
    except PatchifyError:
        return None  # a codec whose bytes do not divide what the stream is projected to
    return codes, why


def planned(stream: PictureStream, settings: ScaleSettings) -> tuple[Wanted, str, int, str]:
    """What will be learned, the factory string, the probes, and why; raises PatchifyError if it does not work out."""
    regions = stream.regions
    stream.check_boxes()
    if not len(stream):
        raise PatchifyError("The collection has no picture: there is nothing to index.")
    patches = len(stream) * regions.patches_per_image
    chosen: CodecChoice | None = None
    given = stream.dim
    if settings.memory_gb is not None:
        chosen = choose(len(stream), regions.patches_per_image, settings.memory_gb, given)
    kept = parse_lists(chosen.factory) if chosen else None
    if stream.projection is not None:
        projection: int | None = stream.projection.dim
    else:
        asked = settings.projection
        if asked is None:
            asked = (kept[0] or 0) if kept else min(PROJECTED, given)
        projection = None if asked in (0, given) else asked
    dim = projection or given
    lists = settings.lists or (kept[1] if kept else lists_of(patches))
    code_bytes = settings.code_bytes or (kept[2] if kept else _code_bytes(dim))
    if not 0 < dim <= given or dim % code_bytes or not 1 <= lists <= 1 << 20:
        raise PatchifyError(
            f"Codes of {code_bytes} bytes in {lists} lists do not fit descriptors of {dim} numbers: choose a divisor "
            f"of {dim}, and 1 to 1,048,576 lists."
        )
    if patches < max(lists, 256):
        raise too_few(f"IVF{lists},PQ{code_bytes}", max(lists, 256), patches)
    if settings.rescore is not None:
        check_finer(settings.rescore, dim, patches)
    probes = min(settings.probes or PROBED, lists)
    factory = f"{f'PCAH{projection},' if projection else ''}IVF{lists},PQ{code_bytes}"
    as_chosen = chosen and kept and (projection, lists, code_bytes) == (kept[0] or projection, *kept[1:])
    why = chosen.why if chosen and as_chosen else f"{factory}, of which a search visits {probes} lists."
    return Wanted(projection, lists, code_bytes, settings.rescore, settings.seed), factory, probes, why


def _code_bytes(dim: int) -> int:
    return next(size for size in (32, 24, 16, 12, 8, 6, 4, 3, 2, 1) if dim % size == 0)


def check_finer(rescore: str, dim: int, patches: int) -> None:
    """Raises PatchifyError unless this many vectors of `dim` numbers can have these finer codes."""
    import faiss

    from patchify_core.index.codec.factory import make_codec

    finer = parse_factory(rescore)
    if finer.projection is None and "IVF" not in finer.codec and "OPQ" not in finer.codec:
        codec = make_codec(finer, dim)
        if isinstance(codec, (faiss.IndexFlat, faiss.IndexScalarQuantizer, faiss.IndexPQ)):
            if patches < needed_to_train(codec):
                raise too_few(rescore, needed_to_train(codec), patches)
            return
    raise PatchifyError(f"--rescore {rescore}: the finer codes of a big index are Flat, SQfp16, SQ8, SQ6, SQ4 or a PQ.")


def _write(
    new: Path, meta: dict[str, Any], stream: PictureStream, learned: Learned, parts: list[IndexPart], probes: int
) -> None:
    """Writes all files of the index into a new folder."""
    coder = learned.coder
    assert coder is not None, "it was learned with lists"
    fine = None if learned.fine is None else fine_pieces(parts, learned.fine)
    files: dict[str, FileContent] = {
        FAISS_NAME: lists_pieces(parts, coder, probes),
        FINE_NAME: fine,
        LISTS_NAME: None if fine is not None else list_numbers_pieces(parts, len(coder.lists)),
        PICTURES_NAME: table_pieces([part.table() for part in parts]),
        BOXES_NAME: boxes_pieces(stream) if stream.regions.needs_picture else None,
        MAPS_NAME: maps_file(new, stream.maps),
        PROJECTION_NAME: projection_pieces(stream.projection or learned.projection),
    }
    write_folder(new, meta, files)


def check_replaceable(out: Path, stream: PictureStream) -> None:
    """Raises IndexFolderError unless nothing stands at `out`, or an index of the same kind of descriptors."""
    if not index_exists(out):
        return
    refuse(recipe_of(read_meta(out), out).differences(stream.recipe, DESCRIPTORS), out, OTHER_INDEX)
