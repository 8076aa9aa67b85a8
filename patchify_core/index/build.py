"""Build an index: embed new pictures into shards, then fill a store from them.

    pictures -> shards -> store

Shards are a folder written by `embed`, or those in the private folder of a build (`swap.BuildFolder`). Each kind of
store has a `StoreBuilder`: FAISS in memory (here), inverted lists on disk (`big`) and Milvus (`milvus`). After an
interruption the same command resumes; the old index stays in place until the new one is complete. Pictures are
identified by the digest of their bytes, so a renamed or repeated picture is not embedded again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder, EncoderInfo
from patchify_core.errors import IndexFolderError
from patchify_core.features.extract import CROP, Extractor, load_extractor
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.codec.codes import Codes, CodeSettings, encode_codes
from patchify_core.index.folder import index_exists, read_meta, recipe_of
from patchify_core.index.integrity import META_NAME
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import IndexedImage, Pictures
from patchify_core.index.recipe import CODES, EVERYTHING, OTHER_INDEX, Recipe, refuse
from patchify_core.index.shards.describe import PicturePass, Timed, nothing_read
from patchify_core.index.shards.folder import GalleryStream, GrowingShards
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder, current_place, disk_errors, relative_path
from patchify_core.regions import Pyramid, Regions

_BOXES_READ = 1000
"""Pictures whose boxes are read at a time."""


@dataclass(frozen=True)
class BuildSettings(CodeSettings):
    """User settings of a build, besides the codec.

    Attributes:
        shard_images: Pictures per shard of the build; a kill loses at most this much work.
        features: How patches are described: `crop`, or `pooled:N` (`extract`).
        keep_maps: Store each picture's feature map, so that boxes can be refined without a second pass (`localize`).
    """

    shard_images: int = 64
    features: str = CROP
    keep_maps: bool = False

    @classmethod
    def like(cls, index: PatchIndex) -> BuildSettings:
        """Return the settings that an index was built with."""
        keep_maps = index.maps is not None
        return cls(index.factory, index.codebook, index.rescore, features=index.features, keep_maps=keep_maps)


@dataclass(frozen=True)
class BuildReport(Timed):
    """Result of a build.

    Attributes:
        images: Pictures in the index.
        embedded: Pictures that went through the encoder.
        reused: Pictures whose descriptors were available already.
        skipped: (file name, reason) of pictures that could not be read.
        seconds: Wall time of embedding.
    """

    images: int
    embedded: int
    reused: int
    skipped: tuple[tuple[str, str], ...]
    seconds: float


class StoreBuilder(ABC):
    """Fills one kind of store and writes its index folder.

    Attributes:
        old: An index whose pictures need not be embedded again, or None.
    """

    old: PatchIndex | None = None

    @property
    @abstractmethod
    def maker(self) -> Mapping[str, Any]:
        """Identifies the build whose unfinished work may be resumed, as JSON values; see `BuildFolder.resume`."""

    @abstractmethod
    def check(self, out: Path) -> None:
        """Check what is at `out` before any work, and again once it is locked if it has changed meanwhile.

        Raises:
            IndexFolderError: It is not an index that this build may update or replace.
        """

    @contextmanager
    def prepare(self, work: BuildFolder) -> Iterator[Container[str]]:
        """Prepare the store, and yield the digests of the pictures that it has already."""
        yield self.old_rows

    @property
    def old_rows(self) -> dict[str, int]:
        """Digest -> row of the pictures of `old`."""
        return {} if self.old is None else {image.sha256: row for row, image in enumerate(self.old.images)}

    @abstractmethod
    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """Fill the store and swap the new index folder into place.

        Args:
            stream: All pictures; those that the store has already may lack descriptors.
            work: Private folder of the build.
        """


class BuildTarget(Protocol):
    """A store other than FAISS to build a gallery into, such as `milvus.build.Target`."""

    def builder(
        self, gallery: Gallery, encoder: EncoderInfo, regions: Regions, settings: BuildSettings, progress: Progress
    ) -> StoreBuilder:
        """Create its builder; raise PatchifyError for settings that the store does not support."""
        ...


Source = Callable[[BuildFolder, Container[str]], PictureStream]
"""Provides the pictures of a build; embeds those whose digests the container lacks."""


def run_build(out: str | Path, builder: StoreBuilder, source: Source) -> None:
    """Run any build of the index folder `out`.

    Args:
        out: Index folder; new, or one that `builder` updates or replaces.
        builder: Of the store.
        source: Of the pictures.

    Raises:
        IndexFolderError: `out` is something else, has another recipe, is in use, or cannot be written.
    """
    with disk_errors(Path(out)):
        out = Path(out).resolve()  # through links and "..", so that the private folder is on the same disk
        digest = _digest(out)
        builder.check(out)
        with BuildFolder(out) as work:
            if _digest(out) != digest:  # another build ended meanwhile
                builder.check(out)
            work.resume(dict(builder.maker))
            with builder.prepare(work) as known:
                builder.fill(source(work, known), work)
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
    """Build or update the index folder `out` from a gallery.

    Args:
        gallery: Pictures to index.
        out: Index folder; new, or one with the same encoder, regions and codec, whose descriptors are reused.
        encoder: The frozen encoder.
        regions: The patches; the paper's L3 by default.
        settings: See `BuildSettings`; those of `like` by default.
        progress: Called after each picture, and from 0 again while a slow store is filled; may raise to stop the build,
            which can then be resumed.
        like: An index whose projection and trained codec a new index takes over, for galleries that are too small to
            train on; codes of shared pictures are copied.
        target: Store for the descriptors; FAISS by default.

    Raises:
        IndexFolderError: `out` is something else, has another recipe, or cannot be written; or `like` has another
            encoder, regions or settings.
        GalleryError: No picture could be read, or annotations give a picture another size than it has.
        PatchifyError: The store does not support the settings.
        StoreError: A server does not answer or rejects the pictures.
    """
    if like is not None:
        regions, settings = regions or like.regions, settings or BuildSettings.like(like)
    regions, settings = regions or Pyramid(), settings or BuildSettings()
    progress = progress or (lambda done, total: None)
    builder: StoreBuilder
    if target is not None:
        builder = target.builder(gallery, encoder.info, regions, settings, progress)
    extractor = load_extractor(settings.features, encoder, settings.keep_maps)
    recipe = Recipe(encoder.info, regions, extractor.spec, maps=settings.keep_maps)
    if target is None:
        settings.check(encoder.info.dim, regions, len(gallery.images))  # before hours of embedding
        builder = _GalleryBuilder(recipe, settings, gallery, like)
    source = _GallerySource(gallery, extractor, recipe, builder, settings.shard_images, progress)
    run_build(out, builder, source)
    return source.report


@dataclass
class _GallerySource:
    """Embeds the new pictures of a gallery into the shards of a build; a `Source`. Sets `report`."""

    gallery: Gallery
    extractor: Extractor
    recipe: Recipe
    builder: StoreBuilder
    shard_images: int
    progress: Progress
    report: BuildReport = field(init=False)

    def __call__(self, work: BuildFolder, known: Container[str]) -> PictureStream:
        shards = GrowingShards(work.folder, self.recipe)
        done, start = 0, time.perf_counter()

        def on_done() -> None:
            nonlocal done
            done += 1
            self.progress(done, len(self.gallery.images))

        regions = self.recipe.regions
        pictures = PicturePass(self.extractor, regions, on_done, lambda one: one in known or one in shards.known)
        try:
            with closing(pictures.run(self.gallery.images)) as stream:
                for new in stream:
                    shards.add(new)
                    if len(shards) >= self.shard_images:
                        shards.flush()
                    on_done()
        finally:
            shards.flush()
        seconds = time.perf_counter() - start
        images, reused = pictures.images, pictures.reused
        skipped = (*self.gallery.skipped, *((picture.name, picture.reason) for picture in pictures.skipped))
        if not images:
            raise nothing_read(self.gallery.root, skipped, "indexed")
        self.report = BuildReport(len(images), len(images) - reused, reused, skipped, seconds)
        return GalleryStream(images, shards, self.recipe, self.builder.old, self.builder.old_rows)


@dataclass
class _GalleryBuilder(StoreBuilder):
    """Codes a gallery with FAISS in memory; codes of already indexed pictures are copied."""

    recipe: Recipe
    settings: CodeSettings
    gallery: Gallery
    like: PatchIndex | None

    @property
    def maker(self) -> Mapping[str, Any]:
        """See `StoreBuilder.maker`."""
        return self.recipe.descriptors() | {"maps": self.recipe.maps}

    def check(self, out: Path) -> None:
        """See `StoreBuilder.check`."""
        existing = _recipe_at(out)
        if existing is not None:
            refuse(existing.differences(self.recipe.coded(self.settings, existing.factory)), out, OTHER_INDEX)
            self.old = PatchIndex.load(out)
        elif self.old is None and self.like is not None:
            # Codes of `like` are copied, so they must fit; the training set of the codec may differ.
            self.like.check_encoder(self.recipe.encoder)
            parts = [part for part in EVERYTHING if part not in ("encoder", "codebook")]
            differences = self.like.recipe.differences(self.recipe.coded(self.settings, self.like.factory), parts)
            refuse(differences, "The index to learn from", "use the same, or leave it out")
            self.old = self.like
        if self.old is None:
            self.settings.check_enough(self.recipe.encoder.dim, self.recipe.regions, len(self.gallery.images))

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        old, rows, images = self.old, self.old_rows, list(stream.pictures(0, len(stream)))
        codes = None if old is None else Codes(old.factory, old.codes, old.projection, old.fine)
        index = encode_stream(stream, images, self.settings, codes, lambda row: rows.get(images[row].sha256))
        root = relative_path(self.gallery.root, work.out)
        work.swap_in(lambda new: index.write(new, root, stream.maps))


def encode_stream(
    stream: PictureStream,
    images: Sequence[IndexedImage],
    settings: CodeSettings,
    like: Codes | None = None,
    known: Callable[[int], int | None] = lambda row: None,
    on_read: Callable[[int], None] = lambda row: None,
) -> PatchIndex:
    """Code a stream into an index in memory.

    Args:
        stream: The collection; if it is projected, the index takes over its projection.
        images: Its pictures.
        settings: How descriptors are coded.
        like: Codes of an earlier build; see `encode_codes`.
        known: Row of a picture -> its row in `like`, None for a new picture.
        on_read: Called with each row whose descriptors are read; rows of the training sample are read twice.

    Raises:
        PatchifyError: There are too few patches to train on; the message says how many are needed.
    """
    regions, total = stream.regions, len(stream)

    def descriptors(row: int) -> NDArray[np.float32]:
        on_read(row)
        return stream.batch(row, row + 1)[1][0]

    codes = encode_codes(descriptors, total, regions, stream.dim, settings, like, known)
    factory = codes.factory
    if stream.projection is not None:
        codes, factory = replace(codes, projection=stream.projection), f"PCAH{stream.projection.dim},{factory}"
    boxes = None
    if regions.needs_picture:
        boxes = np.concatenate([stream.boxes(at, min(at + _BOXES_READ, total)) for at in range(0, total, _BOXES_READ)])
    recipe = replace(stream.recipe.coded(settings), factory=factory)
    return PatchIndex(recipe, Pictures(images, boxes=boxes), codes)


def codec_of(out: Path) -> dict[str, str | None] | None:
    """Return `factory`, `codebook` and `rescore` of the index at `out`; None if there is none.

    Raises:
        IndexFolderError: There is something else, or an index that cannot be updated from a gallery.
    """
    with disk_errors(out):
        recipe = _recipe_at(out)
        return None if recipe is None else {part: getattr(recipe, part) for part in CODES}


def recode(
    index: PatchIndex, settings: CodeSettings, descriptors: Callable[[int], NDArray[np.float32]] | None = None
) -> PatchIndex:
    """Code the descriptors of an index with another codec, without embedding again.

    Args:
        index: The index with the descriptors. A projection now applies to those, so the new index has the dimension
            of this one in place of the encoder's.
        settings: See `CodeSettings`.
        descriptors: Row of a picture -> (P, dim) float32; the stored ones by default.

    Raises:
        PatchifyError: There are too few patches to train on; the message says how many are needed.
    """
    codes = encode_codes(descriptors or index.descriptors_of, len(index.images), index.regions, index.dim, settings)
    encoder = replace(index.encoder, dim=index.dim)
    recipe = replace(index.recipe.coded(settings), encoder=encoder, factory=codes.factory)
    return PatchIndex(recipe, Pictures(index.images, index.root, index.boxes, index.maps), codes)


def _digest(out: Path) -> str | None:
    """Digest of the index at `out`; None if there is none."""
    return str(read_meta(out)["digest"]) if (current_place(out) / META_NAME).is_file() else None


def _recipe_at(out: Path) -> Recipe | None:
    """Return the recipe of the index at `out`, if any; raise IndexFolderError if no gallery can update its kind."""
    if not index_exists(out):
        return None
    meta = read_meta(out)
    if "store" in meta:
        raise IndexFolderError(
            f"{out} has its descriptors in Milvus: add --store milvus and its --uri, or choose another folder."
        )
    if meta.get("images", ()) is None:
        raise IndexFolderError(
            f"{out} is a big index, made of shards: build it again with index --from-shards, or choose another folder."
        )
    return recipe_of(meta, out)
