"""Brings a gallery, or descriptors made elsewhere, into Milvus, and writes the index folder that names the collection.

What the collection holds already is asked of it, so the same command goes on after whatever stopped it, and a second
run embeds only what is new. Pictures are known by the digest of their bytes; those that left the gallery are deleted.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError, StoreError
from patchify_core.features.extract import checked_features
from patchify_core.files import atomic, sha256_of_json
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.build import BuildReport, BuildSettings, StoreBuilder, run_build
from patchify_core.index.codec.codes import CodeSettings, sampled
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
from patchify_core.index.swap import BuildFolder, root_from
from patchify_core.regions import Regions


@dataclass(frozen=True)
class Target:
    """Where in Milvus a gallery goes.

    Attributes:
        address: of the server, or the file of Milvus Lite.
        collection: its name; by default one made of the gallery's name and a digest.
        index: Milvus' kind of index; by default FLAT in Milvus Lite and HNSW on a server.
    """

    address: Address
    collection: str | None = None
    index: str | None = None

    def builder(
        self, gallery: Gallery, encoder: EncoderInfo, regions: Regions, settings: BuildSettings, progress: Progress
    ) -> StoreBuilder:
        """What fills the collection from a gallery.

        Args:
            gallery: the pictures.
            encoder: what describes them.
            regions: which patches.
            settings: only `features`, `seed` and the projection of `factory` count: Milvus keeps whole vectors.
            progress: called with the number of pictures that are in the collection.

        Raises:
            PatchifyError: if the settings ask for what Milvus does not keep.
        """
        projected = projection_kept(settings)
        recipe = Recipe(encoder, regions, checked_features(settings.features), _whole(projected))
        learner = replace(settings, factory=recipe.factory)
        learner.check(encoder.dim, regions, len(gallery.images))
        return _CollectionBuilder(self, gallery.root, recipe, learner, len(gallery.images), progress)


def stream_to_milvus(
    stream: PictureStream,
    root: str | Path,
    out: str | Path,
    target: Target,
    settings: CodeSettings | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Bring descriptors that were made elsewhere, for instance by `embed --ray`, into a collection.

    Args:
        stream: of the descriptors; a picture without a digest is known by its id and name.
        root: folder that the pictures' file names are relative to.
        out: index folder; a new one, or one of the same encoder, regions, features and projection.
        target: where the vectors go.
        settings: the projection of `factory` and `seed` count; none where the stream is projected already.
        progress: called with (pictures done, pictures in all).

    Raises:
        StoreError: one sentence, if Milvus does not answer or take it, or the collection is another's.
        IndexFolderError: if `out` is something else, or made otherwise, or cannot be written.
        PatchifyError: if the settings ask for what Milvus does not keep.
    """
    settings = settings or CodeSettings()
    stream.check_boxes()
    given = stream.projection
    factory = _whole(projection_kept(settings) if given is None else given.dim)
    recipe = replace(stream.recipe, factory=factory, maps=False)  # Milvus keeps none
    learner = replace(settings, factory=factory)
    progress = progress or (lambda done, total: None)
    builder = _CollectionBuilder(target, Path(root), recipe, learner, len(stream), progress, given)
    run_build(out, builder, lambda work, known: stream)
    return BuildReport(len(stream), 0, len(stream) - builder.written, (), 0.0)


def projection_kept(settings: CodeSettings) -> int | None:
    """The dimension to project to, None for none; raises PatchifyError for what Milvus does not keep."""
    compression = parse_factory(settings.factory)
    if compression.codec != "Flat":
        raise PatchifyError(
            f"--store milvus keeps whole vectors, not {settings.factory}: choose Milvus' own index with --milvus-index "
            "(IVF_PQ keeps codes), and of --factory only a projection, as in PCAH128,Flat."
        )
    if settings.rescore is not None or settings.codebook != CodeSettings.codebook:
        raise PatchifyError("--rescore and --codebook are for codecs of FAISS: leave them out with --store milvus.")
    if getattr(settings, "keep_maps", False):
        raise PatchifyError("--store milvus keeps no feature maps: leave --keep-maps out, or leave --store out.")
    return compression.projection


def _whole(projected: int | None) -> str:
    """The factory of whole vectors, projected to so many dimensions; None for those of the encoder."""
    return "Flat" if projected is None else f"PCAH{projected},Flat"


class _CollectionBuilder(StoreBuilder):
    """Fills one collection.

    Args:
        target: where it is.
        root: folder of the pictures.
        recipe: how the vectors are made; its factory is `Flat`, perhaps with a projection.
        learner: what a projection is learned with.
        pictures: how many there are, at most.
        progress: called with the number of pictures that are in the collection.
        given: a projection that was applied already.

    Attributes:
        written: pictures that were written into the collection.
    """

    def __init__(
        self,
        target: Target,
        root: Path,
        recipe: Recipe,
        learner: CodeSettings,
        pictures: int,
        progress: Progress,
        given: Projection | None = None,
    ) -> None:
        self._target, self._root, self._recipe, self._learner = target, root, recipe, learner
        self._pictures, self._progress, self._given = pictures, progress, given
        self._projected = parse_factory(recipe.factory).projection if given is None else None
        self.maker = maker_of(recipe) | {"store": "milvus", "projected": self._projected}
        self.written = 0

    def check(self, out: Path) -> None:
        """See `StoreBuilder.check`."""
        address = self._target.address
        if address.is_file and Path(address.uri).is_relative_to(out):
            raise StoreError(f"{address.uri} would be deleted with the old index folder {out}: keep it outside.")
        self._old = _listing_at(out, self._recipe)

    @contextmanager
    def prepare(self, work: BuildFolder) -> Iterator[Container[str]]:
        """See `StoreBuilder.prepare`."""
        old, address = self._old, self._target.address
        gallery = self._root.resolve().as_posix()
        name = self._target.collection or (
            old.collection if old else default_name(gallery, self._recipe, self._projected)
        )
        with MilvusConnection(address) as self._connection:
            same = old is not None and (old.address.uri, old.collection) == (address.uri, name)
            self._kind = checked_kind(
                self._target.index or (old.kind if old and same else None), self._connection.is_lite
            )
            self._name, self._owner = checked_name(name), None if same else gallery
            learned = work.folder / f"projection-{sha256_of_json(self.maker)[:16]}.npy"
            self._projection = self._given
            if self._projected is not None and old is not None:
                self._projection = old.projection
            elif self._projected is not None:
                with suppress(OSError, ValueError):
                    self._projection = Projection.from_bytes(learned.read_bytes())
            if self._projected is None or self._projection is not None:
                self._writer = self._ready(gallery)
                yield self._writer.known
                return
            # Whatever collection there is has another projection than the one that is learned once all are embedded.
            collection = MilvusCollection(self._connection, self._name, self._recipe, None)
            collection.maker |= {"projection": NEW_PROJECTION, "dim": self._projected}
            if collection.exists():
                collection.check(self._owner)
            dim, regions = self._recipe.encoder.dim, self._recipe.regions
            self._learner.check_enough(dim, regions, self._pictures)
            yield ()

    def _ready(self, gallery: str) -> CollectionWriter:
        """What writes into the collection, which is made if missing."""
        collection = MilvusCollection(self._connection, self._name, self._recipe, self._projection)
        if collection.exists():
            collection.check(self._owner)
            collection.use_index(self._kind)
        else:
            collection.make(gallery, self._kind)
        collection.load()
        return CollectionWriter(collection, self._projection if self._given is None else None)

    def fill(self, stream: PictureStream, work: BuildFolder) -> None:
        """See `StoreBuilder.fill`."""
        if self._projected is not None and self._projection is None:
            self._projection = self._learned(stream)
            # Kept before it is used: vectors of another one could not be mixed with those that are written with it.
            with atomic(work.folder / f"projection-{sha256_of_json(self.maker)[:16]}.npy") as file:
                file.write(self._projection.to_bytes())
            self._writer = self._ready(self._root.resolve().as_posix())
        writer = self._writer
        try:
            images = self._filled(stream, writer)
        except BaseException:
            with suppress(StoreError):  # what stopped the build is what is reported
                writer.flush()
            raise
        collection, address = writer.collection, self._target.address
        numbers = writer.finish(_digests(images))
        boxes = writer.all_boxes(numbers) if collection.has_boxes else None
        listing = Listing(
            self._recipe,
            Pictures(images, boxes=boxes),
            numbers,
            address,
            collection.name,
            collection.kind,
            self._projection,
        )
        root = root_from(work.out, self._root)
        work.swap_in(lambda new: write_listing(listing, new, work.out, root))
        writer.tidy(numbers)  # only now: the old folder listed what vanished

    def _filled(self, stream: PictureStream, writer: CollectionWriter) -> PictureTable:
        """Write the pictures that the collection does not have; returns all of them."""
        tables, total = [], len(stream)
        for start in range(0, total, writer.batch):
            stop = min(start + writer.batch, total)
            tables.append(stream.pictures(start, stop))
            fresh: dict[str, int] = {}
            for row, digest in enumerate(_digests(tables[-1]), start):
                if digest not in writer.known:
                    fresh.setdefault(digest, row)
            for digest, row in fresh.items():
                values = stream.batch(row, row + 1)[1][0]
                if writer.collection.has_boxes:
                    values = np.hstack([values, stream.boxes(row, row + 1)[0]])
                writer.add(digest, values)
            writer.flush()
            self.written += len(fresh)
            self._progress(stop, total)
        return joined(tables)

    def _learned(self, stream: PictureStream) -> Projection:
        patches, dim = stream.regions.patches_per_image, stream.encoder.dim
        sample = sampled(lambda row: stream.batch(row, row + 1)[1][0], len(stream), patches, dim, self._learner)
        return Projection.learn(sample.reshape(-1, dim), self._projected or dim)


def _listing_at(out: Path, recipe: Recipe) -> Listing | None:
    """The index folder that stands at `out`, if it was made the same way; None if there is none."""
    if not index_exists(out):
        return None
    if "store" not in read_meta(out):
        raise IndexFolderError(
            f"{out} is an index of FAISS, not of Milvus: choose another folder, or leave --store milvus out."
        )
    old = read_listing(out)
    refuse(old.recipe.differences(recipe), out, OTHER_INDEX)
    return old


def _digests(images: PictureTable) -> list[str]:
    """What pictures are known by: the digest of their bytes, or of id and name where there is none."""
    return [
        digest.tobytes().hex() if digest.any() else sha256_of_json([int(images.ids[row]), images.name(row)])
        for row, digest in enumerate(images.digests)
    ]
