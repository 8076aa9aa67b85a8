"""Store a gallery, or descriptors embedded elsewhere, in Milvus, and write the index folder that names the collection.

The collection itself says which pictures it has, so an interrupted build resumes, and a second run embeds only what is
new. Pictures are identified by the digest of their bytes; those that left the gallery are deleted.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError, StoreError
from patchify_core.features.extract import checked_features
from patchify_core.files import atomic, sha256_of_json
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.build import BuildReport, BuildSettings, StoreBuilder, run_build
from patchify_core.index.codec.codes import CodeSettings, sample_descriptors
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import index_exists, read_meta
from patchify_core.index.milvus.collection import (
    NEW_PROJECTION,
    MilvusCollection,
    checked_kind,
    checked_name,
    default_name,
    maker_of,
)
from patchify_core.index.milvus.connect import Address, MilvusConnection
from patchify_core.index.milvus.store import Listing, read_listing, write_listing
from patchify_core.index.milvus.writer import CollectionWriter
from patchify_core.index.pictures import Pictures, PictureTable, joined
from patchify_core.index.recipe import OTHER_INDEX, Recipe, refuse
from patchify_core.index.store import PictureStream
from patchify_core.index.swap import BuildFolder, relative_path
from patchify_core.regions import Regions


@dataclass(frozen=True)
class Target:
    """Where in Milvus to store a gallery.

    Attributes:
        address: Server, or Milvus Lite file.
        collection: Its name; derived from the gallery's name and a digest by default.
        index: Kind of Milvus index; by default FLAT in Milvus Lite and HNSW on a server.
    """

    address: Address
    collection: str | None = None
    index: str | None = None

    def builder(
        self, gallery: Gallery, encoder: EncoderInfo, regions: Regions, settings: BuildSettings, progress: Progress
    ) -> StoreBuilder:
        """Create the builder that fills the collection from a gallery.

        Args:
            gallery: The pictures.
            encoder: The encoder.
            regions: The patches.
            settings: Only `features`, `seed` and the projection of `factory` apply: Milvus stores full vectors.
            progress: Called with the number of pictures in the collection.

        Raises:
            PatchifyError: Milvus does not support the settings.
        """
        recipe = Recipe(encoder, regions, checked_features(settings.features), _factory(projection_kept(settings)))
        training = replace(settings, factory=recipe.factory)
        training.check(encoder.dim, regions, len(gallery.images))
        return _CollectionBuilder(self, gallery.root, recipe, training, len(gallery.images), progress)


def stream_to_milvus(
    stream: PictureStream,
    root: str | Path,
    out: str | Path,
    target: Target,
    settings: CodeSettings | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Store descriptors that were embedded elsewhere, for instance by `embed --ray`, in a collection.

    Args:
        stream: The descriptors; a picture without a digest is identified by its id and name.
        root: Folder that the pictures' file names are relative to.
        out: Index folder; new, or one with the same encoder, regions, features and projection.
        target: Where to store the vectors.
        settings: Only `seed` and the projection of `factory` apply; none if the stream is projected already.
        progress: Called with (pictures done, pictures in total).

    Raises:
        StoreError: Milvus does not answer or rejects the vectors, or the collection is another's.
        IndexFolderError: `out` is something else, has another recipe, or cannot be written.
        PatchifyError: Milvus does not support the settings.
    """
    settings = settings or CodeSettings()
    stream.check_boxes()
    factory = _factory(projection_kept(settings) if stream.projection is None else stream.projection.dim)
    recipe = replace(stream.recipe, factory=factory, maps=False)
    training = replace(settings, factory=factory)
    progress = progress or (lambda done, total: None)
    builder = _CollectionBuilder(target, Path(root), recipe, training, len(stream), progress, stream.projection)
    run_build(out, builder, lambda work, known: stream)
    return BuildReport(len(stream), 0, len(stream) - builder.written, (), 0.0)


def projection_kept(settings: CodeSettings) -> int | None:
    """Return the dimension to project to, None for none; raise PatchifyError for settings that Milvus lacks."""
    compression = parse_factory(settings.factory)
    if compression.codec != "Flat":
        raise PatchifyError(
            f"--store milvus stores full vectors, not {settings.factory}: choose Milvus' own index with --milvus-index "
            "(IVF_PQ stores codes), and of --factory only a projection, as in PCAH128,Flat."
        )
    if settings.rescore is not None or settings.codebook != CodeSettings.codebook:
        raise PatchifyError("--rescore and --codebook apply to FAISS only: leave them out with --store milvus.")
    if getattr(settings, "keep_maps", False):
        raise PatchifyError("--store milvus stores no feature maps: leave --keep-maps out, or leave --store out.")
    return compression.projection


def _factory(projected: int | None) -> str:
    """Return the factory of full vectors, projected to this many dimensions; None for those of the encoder."""
    return "Flat" if projected is None else f"PCAH{projected},Flat"


@dataclass
class _CollectionBuilder(StoreBuilder):
    """Fills one collection.

    Attributes:
        target: Where it is.
        root: Folder of the pictures.
        recipe: How the vectors are made; its factory is `Flat`, possibly with a projection.
        training: Settings to learn a projection with.
        pictures: Maximum number of pictures.
        progress: Called with the number of pictures in the collection.
        applied: A projection that was applied to the stream already, or None.
        written: Pictures written into the collection.
    """

    target: Target
    root: Path
    recipe: Recipe
    training: CodeSettings
    pictures: int
    progress: Progress
    applied: Projection | None = None
    written: int = 0

    def __post_init__(self) -> None:
        """Derive the gallery's name and the dimension of a projection to learn."""
        self._gallery = self.root.resolve().as_posix()
        self._projected = parse_factory(self.recipe.factory).projection if self.applied is None else None

    @property
    def maker(self) -> Mapping[str, Any]:
        """See `StoreBuilder.maker`."""
        return maker_of(self.recipe) | {"store": "milvus", "projected": self._projected}

    def check(self, out: Path) -> None:
        """See `StoreBuilder.check`."""
        address = self.target.address
        if address.is_file and Path(address.uri).is_relative_to(out):
            raise StoreError(f"{address.uri} would be deleted with the old index folder {out}: keep it outside.")
        self._old = _listing_at(out, self.recipe)

    @contextmanager
    def prepare(self, work: BuildFolder) -> Iterator[Container[str]]:
        """See `StoreBuilder.prepare`."""
        old, address = self._old, self.target.address
        name = self.target.collection or (
            old.collection if old else default_name(self._gallery, self.recipe, self._projected)
        )
        with MilvusConnection(address) as self._connection:
            same = old is not None and (old.address.uri, old.collection) == (address.uri, name)
            self._kind = checked_kind(
                self.target.index or (old.kind if old and same else None), self._connection.is_lite
            )
            self._name, self._owner = checked_name(name), None if same else self._gallery
            self._projection = self.applied
            if self._projected is not None and old is not None:
                self._projection = old.projection
            elif self._projected is not None:
                with suppress(OSError, ValueError):
                    self._projection = Projection.from_bytes(self._learned_file(work).read_bytes())
            if self._projected is None or self._projection is not None:
                self._writer = self._open_writer()
                yield self._writer.known
                return
            # The projection is learned after embedding; an existing collection has another one.
            collection = MilvusCollection(self._connection, self._name, self.recipe, None)
            collection.maker |= {"projection": NEW_PROJECTION, "dim": self._projected}
            if collection.exists():
                collection.check(self._owner)
            self.training.check_enough(self.recipe.encoder.dim, self.recipe.regions, self.pictures)
            yield ()

    def _learned_file(self, work: BuildFolder) -> Path:
        return work.folder / f"projection-{sha256_of_json(dict(self.maker))[:16]}.npy"

    def _open_writer(self) -> CollectionWriter:
        """Create the collection if missing, and load it."""
        collection = MilvusCollection(self._connection, self._name, self.recipe, self._projection)
        if collection.exists():
            collection.check(self._owner)
            collection.use_index(self._kind)
        else:
            collection.create(self._gallery, self._kind)
        collection.load()
        return CollectionWriter(collection, self._projection if self.applied is None else None)

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        if self._projected is not None and self._projection is None:
            self._projection = self._learn(stream)
            # Saved before it is used: vectors of two projections must never be mixed.
            with atomic(self._learned_file(work)) as file:
                file.write(self._projection.to_bytes())
            self._writer = self._open_writer()
        writer, collection = self._writer, self._writer.collection
        try:
            images = self._write_new(stream, writer)
        except BaseException:
            with suppress(StoreError):  # report what stopped the build
                writer.flush()
            raise
        numbers = writer.finish(_digests(images))
        pictures = Pictures(images, boxes=writer.all_boxes(numbers) if collection.has_boxes else None)
        address, kind = self.target.address, collection.kind
        listing = Listing(self.recipe, pictures, numbers, address, collection.name, kind, self._projection)
        root = relative_path(self.root, work.out)
        work.swap_in(lambda new: write_listing(listing, new, work.out, root))
        writer.tidy(numbers)  # only now: the old folder listed the removed pictures

    def _write_new(self, stream: PictureStream, writer: CollectionWriter) -> PictureTable:
        """Write the pictures that the collection lacks; return all of them."""
        tables, total = [], len(stream)
        for start in range(0, total, writer.batch):
            stop = min(start + writer.batch, total)
            tables.append(stream.pictures(start, stop))
            new: dict[str, int] = {}
            for row, digest in enumerate(_digests(tables[-1]), start):
                if digest not in writer.known:
                    new.setdefault(digest, row)
            for digest, row in new.items():
                values = stream.batch(row, row + 1)[1][0]
                if writer.collection.has_boxes:
                    values = np.hstack([values, stream.boxes(row, row + 1)[0]])
                writer.add(digest, values)
            writer.flush()
            self.written += len(new)
            self.progress(stop, total)
        return joined(tables)

    def _learn(self, stream: PictureStream) -> Projection:
        patches, dim = stream.regions.patches_per_image, stream.encoder.dim
        sample = sample_descriptors(
            lambda row: stream.batch(row, row + 1)[1][0], len(stream), patches, dim, self.training
        )
        return Projection.learn(sample.reshape(-1, dim), self._projected or dim)


def _listing_at(out: Path, recipe: Recipe) -> Listing | None:
    """Read the index folder at `out`, if any; raise IndexFolderError if it has another recipe."""
    if not index_exists(out):
        return None
    if "store" not in read_meta(out):
        raise IndexFolderError(
            f"{out} is a FAISS index, not one in Milvus: choose another folder, or leave --store milvus out."
        )
    old = read_listing(out)
    refuse(old.recipe.differences(recipe), out, OTHER_INDEX)
    return old


def _digests(images: PictureTable) -> list[str]:
    """Identify pictures by the digest of their bytes, or of id and name if that is unknown."""
    return [
        digest.tobytes().hex() if digest.any() else sha256_of_json([int(images.ids[row]), images.name(row)])
        for row, digest in enumerate(images.digests)
    ]
