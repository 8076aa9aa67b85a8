"""The one way to an index: embed what is new into shards, then put all of it into a store.

    pictures -> shards -> a store

Shards are a folder that `embed` has written, or those in the private folder of a build (`swap.BuildFolder`). Stores are
FAISS in memory (here), lists on the disk (`big`) and Milvus (`milvus`); each has a `StoreBuilder`. Whatever stops a
build, the same command goes on there; the old index stays whole until the new one is complete. Pictures
are known by the digest of their bytes, so a renamed or repeated picture is not embedded again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder, EncoderInfo
from patchify_core.errors import IndexFolderError
from patchify_core.features.extract import CROP, Extractor, load_extractor
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.codec.codes import Codes, CodeSettings, encode_codes
from patchify_core.index.embedding import PicturePass, Timed, nothing_read
from patchify_core.index.folder import index_exists, read_meta, recipe_of
from patchify_core.index.integrity import META_NAME, standing
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import CODES, EVERYTHING, OTHER_INDEX, Recipe, refuse
from patchify_core.index.shards.folder import GalleryStream, GrowingShards
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder, explained, root_from
from patchify_core.regions import Pyramid, Regions

_RUN = 1000
"""Pictures whose boxes are read together."""


@dataclass(frozen=True)
class BuildSettings(CodeSettings):
    """What a person may tune about building, beside how descriptors are kept.

    Attributes:
        shard_images: pictures of a shard of the build; at most this much work is lost to a kill.
        features: how descriptors are made: `crop`, or `pooled:N` (`extract`).
        keep_maps: keep each picture's feature map, so that boxes can be refined without a second pass (`localize`).
    """

    shard_images: int = 64
    features: str = CROP
    keep_maps: bool = False

    @classmethod
    def like(cls, index: PatchIndex) -> BuildSettings:
        """The settings that an index was made with."""
        return cls(
            index.factory,
            index.codebook,
            index.rescore,
            features=index.features,
            keep_maps=index.maps is not None,
        )


@dataclass(frozen=True)
class BuildReport(Timed):
    """What a build did.

    Attributes:
        images: pictures in the index.
        embedded: pictures that went through the encoder.
        reused: pictures whose descriptors were already known.
        skipped: (file name, reason) of pictures that could not be read.
        seconds: wall time of the embedding part.
    """

    images: int
    embedded: int
    reused: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float


class StoreBuilder(ABC):
    """How a build fills one kind of store and writes the index folder of it.

    Attributes:
        maker: what unfinished work is for, as plain JSON values; see `BuildFolder.take_over`.
        old: an index whose pictures need not be embedded again; None where there is none.
    """

    maker: Mapping[str, Any]
    old: PatchIndex | None = None

    @abstractmethod
    def look(self, out: Path) -> None:
        """Sees what stands at `out`, before anything is made; again, once it is locked, if it has changed meanwhile.

        Raises:
            IndexFolderError: it is something else, or was made otherwise.
        """

    @contextmanager
    def opened(self, work: BuildFolder) -> Iterator[Container[str]]:
        """Has the store ready to take pictures; yields the digests of those that it has already."""
        yield self.old_rows

    @property
    def old_rows(self) -> dict[str, int]:
        """Digest -> row in `old` of its pictures."""
        return {} if self.old is None else {image.sha256: row for row, image in enumerate(self.old.images)}

    @abstractmethod
    def take(self, stream: PictureStream, work: BuildFolder) -> None:
        """Fills the store and swaps the new index folder into place.

        Args:
            stream: all pictures; of those that the store has already there may be no descriptors.
            work: where the build works.
        """


class BuildTarget(Protocol):
    """A store that a gallery can be built into instead of FAISS; `milvus.build.Target` is one."""

    def builder(
        self, gallery: Gallery, encoder: EncoderInfo, regions: Regions, settings: BuildSettings, progress: Progress
    ) -> StoreBuilder:
        """What fills it; refuses what it does not keep."""
        ...


Source = Callable[[BuildFolder, Container[str]], PictureStream]
"""Gives a build its pictures, embedding those whose digests are not among the given ones."""


def run_build(out: str | Path, builder: StoreBuilder, source: Source) -> None:
    """Builds the index folder `out`: what every build has in common.

    Args:
        out: index folder; a new one, or one that `builder` goes on with or replaces.
        builder: of the store.
        source: of the pictures.

    Raises:
        IndexFolderError: `out` is something else, or made otherwise, or in use, or cannot be written.
    """
    with explained(Path(out)):
        out = Path(out).resolve()  # through links and "..", so that what stands beside it is on the same disk
        found = _digest(out)
        builder.look(out)
        with BuildFolder(out) as work:
            if _digest(out) != found:  # another build ended meanwhile
                builder.look(out)
            work.take_over(dict(builder.maker))
            with builder.opened(work) as known:
                builder.take(source(work, known), work)
            work.remove()


def build_index(
    gallery: Gallery,
    out: str | Path,
    encoder: Encoder,
    regions: Regions | None = None,
    settings: BuildSettings | None = None,
    progress: Progress | None = None,
    like: PatchIndex | None = None,
    target: BuildTarget | None = None,
) -> BuildReport:
    """Builds or updates the index folder `out` from a gallery.

    Args:
        gallery: pictures to index.
        out: index folder; a new one, or one of the same encoder, regions and codec, whose descriptors are reused.
        encoder: the frozen encoder.
        regions: which patches; the paper's L3 by default.
        settings: see `BuildSettings`; by default those of `like`, if there is one.
        progress: called after each picture, and where the store is slow to fill, from 0 on again while it is filled;
            may raise to stop the build, which then can be resumed.
        like: where there is no index yet, one whose projection and trained codec are taken over instead of learned
            from these pictures, which may be too few for that; codes of pictures that it holds too are copied.
        target: where the descriptors go; FAISS, in the index folder, by default.

    Raises:
        IndexFolderError: if `out` is something else, or made otherwise, or cannot be written; if `like` was made with
            another encoder, regions or settings.
        GalleryError: if no picture could be read, or annotations give a picture another size than it has.
        PatchifyError: if the settings ask for what the store does not keep.
        StoreError: if the store is a server that does not answer or does not take the pictures.
    """
    if like is not None:
        regions, settings = regions or like.regions, settings or BuildSettings.like(like)
    regions, settings = regions or Pyramid(), settings or BuildSettings()
    progress = progress or (lambda done, total: None)
    builder: StoreBuilder
    if target is not None:
        builder = target.builder(gallery, encoder.info, regions, settings, progress)
        extractor = load_extractor(settings.features, encoder)
    else:
        extractor = load_extractor(settings.features, encoder, settings.keep_maps)
        settings.check(encoder.info.dim, regions, len(gallery.images))  # before hours of embedding, not after them
        wanted = partial(Recipe.of, encoder.info, regions, extractor.spec, settings, settings.keep_maps)
        builder = _GalleryBuilder(wanted, settings, gallery, like)
    recipe = Recipe(encoder.info, regions, extractor.spec, maps=settings.keep_maps)
    reports = []

    def source(work: BuildFolder, known: Container[str]) -> PictureStream:
        shards = GrowingShards(work.folder, recipe)
        images, report = _embed_new(gallery, extractor, regions, shards, known, settings.shard_images, progress)
        reports.append(report)
        return GalleryStream(images, shards, recipe, builder.old, builder.old_rows)

    run_build(out, builder, source)
    return reports[0]


def _embed_new(
    gallery: Gallery,
    extractor: Extractor,
    regions: Regions,
    shards: GrowingShards,
    known: Container[str],
    shard_images: int,
    progress: Progress,
) -> tuple[list[IndexedImage], BuildReport]:
    """Goes over the gallery: every picture ends up indexed (new or known) or skipped, the new ones in `shards`."""
    done, start = 0, time.perf_counter()

    def settled() -> None:
        nonlocal done
        done += 1
        progress(done, len(gallery.images))

    pictures = PicturePass(extractor, regions, settled, lambda digest: digest in known or digest in shards.known)
    try:
        with closing(pictures.run(gallery.images)) as stream:
            for new in stream:
                shards.add(new)
                if len(shards) >= shard_images:
                    shards.flush()
                settled()
    finally:
        shards.flush()
    seconds = time.perf_counter() - start
    images = pictures.images
    skipped = (*gallery.skipped, *((picture.name, picture.reason) for picture in pictures.skipped))
    if not images:
        raise nothing_read(gallery.root, skipped, "indexed")
    return images, BuildReport(len(images), len(images) - pictures.reused, pictures.reused, skipped, seconds)


RecipeFor = Callable[[str | None], Recipe]
"""The recipe that a build follows, from the factory of the index that it would go on with; see `Recipe.of`."""


class _GalleryBuilder(StoreBuilder):
    """A gallery's codes in FAISS, in memory: those of pictures that were there already are copied."""

    def __init__(self, wanted: RecipeFor, settings: CodeSettings, gallery: Gallery, like: PatchIndex | None) -> None:
        self._wanted, self._settings, self._gallery, self._like = wanted, settings, gallery, like
        recipe = wanted(None)
        self.maker = recipe.descriptors() | {"maps": recipe.maps}

    def look(self, out: Path) -> None:
        """See `StoreBuilder.look`."""
        self.old = _existing(out, self._wanted) or self.old
        if self.old is None and self._like is not None:
            _check_like(self._like, self._wanted)
            self.old = self._like
        if self.old is None:
            recipe = self._wanted(None)
            self._settings.check_enough(recipe.encoder.dim, recipe.regions, len(self._gallery.images))

    def take(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.take`."""
        old, rows, images = self.old, self.old_rows, list(stream.pictures(0, len(stream)))
        before = None if old is None else Codes(old.factory, old.codes, old.projection, old.fine)
        index = coded(stream, images, self._settings, before, lambda row: rows.get(images[row].sha256))
        root = root_from(work.out, self._gallery.root)
        work.swap_in(lambda new: index.write(new, root, stream.maps))


def coded(
    stream: PictureStream,
    images: Sequence[IndexedImage],
    settings: CodeSettings,
    like: Codes | None = None,
    known: Callable[[int], int | None] = lambda row: None,
    passed: Callable[[int], None] = lambda row: None,
) -> PatchIndex:
    """Codes a stream into an index that is in memory.

    Args:
        stream: the collection; where it is projected already, that projection is the index's.
        images: its pictures.
        settings: how descriptors are coded.
        like: codes of an earlier build; see `encode_codes`.
        known: row of a picture -> its row in `like`, None for a new one.
        passed: called with each row whose descriptors are read, the rows of a sample twice.

    Raises:
        PatchifyError: if there are too few patches to learn from; it says how many are needed.
    """
    regions, total = stream.regions, len(stream)

    def descriptors(row: int) -> NDArray[np.float32]:
        passed(row)
        return stream.batch(row, row + 1)[1][0]

    made = encode_codes(descriptors, total, regions, stream.dim, settings, like, known)
    factory = made.factory
    if stream.projection is not None:
        made, factory = replace(made, projection=stream.projection), f"PCAH{stream.projection.dim},{factory}"
    boxes = None
    if regions.needs_picture:
        boxes = np.concatenate([stream.boxes(at, min(at + _RUN, total)) for at in range(0, total, _RUN)])
    recipe = Recipe.of(stream.encoder, regions, stream.features, settings, stream.maps is not None)
    return PatchIndex(replace(recipe, factory=factory), Pictures(images, boxes=boxes), made)


def standing_codec(out: Path) -> dict[str, str | None] | None:
    """How the index that stands at `out` is coded: `factory`, `codebook` and `rescore`; None where none stands.

    Raises:
        IndexFolderError: if something else stands there, or an index that a gallery is not built into.
    """
    with explained(out):
        recipe = _standing_recipe(out)
        return None if recipe is None else {part: getattr(recipe, part) for part in CODES}


def recode(
    index: PatchIndex, settings: CodeSettings, descriptors: Callable[[int], NDArray[np.float32]] | None = None
) -> PatchIndex:
    """Codes the descriptors of an index anew; nothing is embedded again.

    Args:
        index: whose descriptors, as stored, are coded. What is projected now is what this index holds, so the new one
            says its dimension for the encoder's.
        settings: see `CodeSettings`.
        descriptors: row of a picture -> (P, dim) float32; the index's own by default.

    Raises:
        PatchifyError: if there are too few patches to learn from; it says how many are needed.
    """
    made = encode_codes(descriptors or index.descriptors_of, len(index.images), index.regions, index.dim, settings)
    encoder, maps = replace(index.encoder, dim=index.dim), index.maps is not None
    recipe = Recipe.of(encoder, index.regions, index.features, settings, maps)
    recipe = replace(recipe, factory=made.factory)
    return PatchIndex(recipe, Pictures(index.images, index.root, index.boxes, index.maps), made)


def _digest(out: Path) -> str | None:
    """Which index stands at `out`; None where there is none."""
    return str(read_meta(out)["digest"]) if (standing(out) / META_NAME).is_file() else None


def _existing(out: Path, wanted: RecipeFor) -> PatchIndex | None:
    """The index that stands at `out`, if there is one and it was made the same way."""
    had = _standing_recipe(out)
    if had is None:
        return None
    refuse(had.differences(wanted(had.factory)), out, OTHER_INDEX)
    return PatchIndex.load(out)


def _standing_recipe(out: Path) -> Recipe | None:
    """The recipe of the index that stands at `out`; raises IndexFolderError where no gallery is built into its kind."""
    if not index_exists(out):
        return None
    meta = read_meta(out)
    if "store" in meta:
        raise IndexFolderError(
            f"{out} keeps its descriptors in Milvus: add --store milvus and its --uri, or choose another folder."
        )
    if meta.get("images", ()) is None:
        raise IndexFolderError(
            f"{out} is a big index, made of shards: build it again with index --from-shards, or choose another folder."
        )
    return recipe_of(meta, out)


def _check_like(like: PatchIndex, wanted: RecipeFor) -> None:
    """Codes of two kinds cannot stand in one index; what the codec was trained on may differ."""
    parts = [part for part in EVERYTHING if part not in ("encoder", "codebook")]
    like.check_encoder(wanted(None).encoder)
    differences = like.recipe.differences(wanted(like.factory), parts)
    refuse(differences, "The index to learn from", "use the same, or leave it out")
