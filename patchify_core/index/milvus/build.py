"""Brings a gallery, or descriptors made elsewhere, into Milvus, and writes the index folder that names the collection.

What the collection holds already is asked of it, so the same command goes on after whatever stopped it, and a second
run embeds only what is new. Pictures are known by the digest of their bytes; those that left the gallery are deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder
from patchify_core.errors import IndexFolderError, PatchifyError, StoreError
from patchify_core.features.extract import load_extractor
from patchify_core.files import atomic, sha256_of_json
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.base import Pictures
from patchify_core.index.build import BuildReport, BuildSettings, Work, nothing_indexed
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.index.folder import index_stands, read_meta
from patchify_core.index.integrity import private_of
from patchify_core.index.milvus.collection import MilvusCollection, checked_name, default_name, maker_of
from patchify_core.index.milvus.connect import Address, Connection
from patchify_core.index.milvus.kinds import checked_kind
from patchify_core.index.milvus.store import Listing, read_listing, write_listing
from patchify_core.index.milvus.writer import CollectionWriter
from patchify_core.index.picture_table import PictureTable, joined
from patchify_core.index.private import PrivateFolder
from patchify_core.index.recipe import OTHER_INDEX, Recipe, refuse
from patchify_core.index.shards.stream import PictureStream
from patchify_core.index.swap import explained, heal, root_from, swap_in
from patchify_core.regions import Pyramid, Regions


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


@dataclass(frozen=True)
class _Plan:
    """One build: what is made, where it goes, and for which gallery.

    Attributes:
        recipe: how the vectors are made; its factory is `Flat`, perhaps with a projection.
        projected: dimension of a projection that is to be learned; None for none.
        given: a projection that was applied already.
    """

    out: Path
    root: Path
    recipe: Recipe
    target: Target
    projected: int | None
    given: Projection | None = None


Learn = Callable[[], Projection]
Fill = Callable[[CollectionWriter], PictureTable]


def build_in_milvus(
    gallery: Gallery,
    out: str | Path,
    encoder: Encoder,
    target: Target,
    regions: Regions | None = None,
    settings: BuildSettings | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Brings a gallery's pictures into a collection and writes the index folder `out`.

    Args:
        gallery: pictures to index.
        out: index folder; a new one, or one of the same encoder, regions, features and projection.
        encoder: the frozen encoder.
        target: where the vectors go.
        regions: which patches; the paper's L3 by default.
        settings: of it only `features`, `seed` and the projection of `factory` count: Milvus keeps whole vectors.
        progress: told after each picture; may raise to stop the build, which then can be resumed.

    Raises:
        StoreError: one sentence, if Milvus does not answer or take it, or the collection is another's.
        IndexFolderError: if `out` is something else, or made otherwise, or cannot be written.
        GalleryError: if no picture could be read.
        PatchifyError: if the settings ask for what Milvus does not keep.
    """
    regions, settings = regions or Pyramid(), settings or BuildSettings()
    projected = _checked(settings)
    extractor = load_extractor(settings.features, encoder)
    recipe = Recipe(encoder.info, regions, extractor.spec, _whole(projected))
    learner = replace(settings, factory=recipe.factory)
    learner.check(encoder.info.dim, regions, len(gallery.images))
    plan = _Plan(Path(out), gallery.root, recipe, target, projected)
    sample = _Sample()
    done: list[Work] = []

    def learn() -> Projection:
        learner.check_enough(encoder.info.dim, regions, len(gallery.images))
        count = learner.sampled_pictures(regions.patches_per_image)
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(gallery.images))[:count])
        part = replace(gallery, images=tuple(gallery.images[at] for at in chosen.tolist()), skipped=())
        work = Work(part, extractor, regions, sample, None, None)
        work.run(len(chosen) + 1)
        done.append(work)
        if not work.images:
            raise nothing_indexed(work)
        rows = [values[:, : encoder.info.dim] for values in sample.known.values()]
        return Projection.learn(np.concatenate(rows), projected or encoder.info.dim)

    def fill(writer: CollectionWriter) -> PictureTable:
        for digest, values in sample.known.items():
            if digest not in writer.known:
                writer.add(digest, values)
        writer.flush()
        work = Work(gallery, extractor, regions, writer, None, progress)
        done.append(work)
        work.run(writer.batch)
        if not work.images:
            raise nothing_indexed(work)
        return PictureTable.of(work.images)

    listing = _build(plan, learn, fill)
    embedded = sum(work.embedded for work in done)
    seconds = sum(work.seconds for work in done)
    pictures = len(listing.pictures.images)
    return BuildReport(pictures, embedded, max(0, pictures - embedded), tuple(done[-1].skipped), seconds)


def stream_to_milvus(
    stream: PictureStream,
    root: str | Path,
    out: str | Path,
    target: Target,
    settings: CodeSettings | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Brings descriptors that were made elsewhere, for instance by `index --ray`, into a collection.

    Args:
        stream: of the descriptors; a picture without a digest is known by its id and name.
        root: folder that the pictures' file names are relative to.
        out: index folder, as of `build_in_milvus`.
        target: where the vectors go.
        settings: the projection of `factory` and `seed` count; none where the stream is projected already.
        progress: told (pictures done, pictures in all).

    Raises:
        StoreError, IndexFolderError, PatchifyError: as `build_in_milvus`.
    """
    settings = settings or CodeSettings()
    stream.check_boxes()
    given, patches = stream.projection, stream.regions.patches_per_image
    projected = None if given is not None else _checked(settings)
    factory = _whole(projected if given is None else given.dim)
    recipe = replace(stream.recipe, factory=factory, maps=False)  # Milvus keeps none
    plan = _Plan(Path(out), Path(root), recipe, target, projected, given)
    written = 0

    def learn() -> Projection:
        count = settings.sampled_pictures(patches)
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(len(stream))[:count])
        rows = [stream.batch(at, at + 1)[1].reshape(patches, -1) for at in chosen.tolist()]
        return Projection.learn(np.concatenate(rows), projected or stream.encoder.dim)

    def fill(writer: CollectionWriter) -> PictureTable:
        nonlocal written
        tables = []
        for start in range(0, len(stream), writer.batch):
            stop = min(start + writer.batch, len(stream))
            table, values = stream.batch(start, stop)
            if stream.regions.needs_picture:
                values = np.concatenate([values, stream.boxes(start, stop)], axis=2)
            fresh: set[str] = set()
            for digest, rows in zip(_digests(table), values, strict=True):
                if digest not in writer.known and digest not in fresh:
                    fresh.add(digest)
                    writer.add(digest, rows)
            writer.flush()
            written += len(fresh)
            tables.append(table)
            if progress:
                progress(stop, len(stream))
        return joined(tables)

    listing = _build(plan, learn, fill)
    return BuildReport(len(listing.pictures.images), 0, len(listing.pictures.images) - written, (), 0.0)


class _Sample:
    """A `build.Sink` in memory: the descriptors that a projection is learned from."""

    def __init__(self) -> None:
        self.known: dict[str, NDArray[np.float32]] = {}

    def __len__(self) -> int:
        return len(self.known)

    def add(self, digest: str, descriptors: NDArray[np.float32], packed: bytes | None = None) -> None:
        self.known[digest] = descriptors

    def flush(self) -> None:
        pass


def _checked(settings: CodeSettings) -> int | None:
    """The dimension to project to, None for none; refuses what Milvus does not keep."""
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


def _build(plan: _Plan, learn: Learn, fill: Fill) -> Listing:
    """What both ways share: the lock, the collection, and the index folder at the end."""
    with explained(plan.out):
        out = plan.out.resolve()
        private = private_of(out)
        address = plan.target.address
        if address.is_file and Path(address.uri).is_relative_to(out):
            raise StoreError(f"{address.uri} would be deleted with the old index folder {out}: keep it outside.")
        old = _standing(out, plan)
        gallery = plan.root.resolve().as_posix()
        name = plan.target.collection or (old.collection if old else default_name(gallery, plan.recipe, plan.projected))
        with Connection(address) as connection:
            same = old is not None and (old.address.uri, old.collection) == (address.uri, name)
            kind = checked_kind(plan.target.index or (old.kind if old and same else None), connection.is_lite)
            made_of = maker_of(plan.recipe) | {"store": "milvus", "projected": plan.projected}
            with PrivateFolder(private) as work:  # for its lock: the descriptors themselves go to Milvus
                try:
                    work.take_over(made_of)
                    heal(out, private)
                    projection = _projection(plan, old, private, made_of, learn)
                    collection = MilvusCollection(connection, checked_name(name), plan.recipe, projection)
                    if collection.exists():
                        collection.check(None if same else gallery)
                        collection.use_index(kind)
                    else:
                        collection.make(gallery, kind)
                    collection.load()
                    writer = CollectionWriter(collection, projection if plan.given is None else None)
                    listing = replace(_filled(writer, fill, plan, address), projection=projection)
                    root = root_from(out, plan.root)
                    swap_in(out, private, lambda new: write_listing(listing, new, out, root))
                    writer.tidy(listing.numbers)  # only now: the folder that stood before listed what vanished
                except BaseException:
                    if plan.projected is None:
                        work.remove()  # nothing of it is needed again
                    raise
                work.remove()
    return listing


def _filled(writer: CollectionWriter, fill: Fill, plan: _Plan, address: Address) -> Listing:
    collection = writer.collection
    try:
        images = fill(writer)
    except BaseException:
        with suppress(StoreError):  # what stopped the build is what a person shall hear of
            writer.flush()
        raise
    numbers = writer.finish(_digests(images))
    boxes = writer.all_boxes(numbers) if collection.has_boxes else None
    return Listing(plan.recipe, Pictures(images, boxes=boxes), numbers, address, collection.name, collection.kind)


def _projection(
    plan: _Plan, old: Listing | None, private: Path, made_of: dict[str, object], learn: Learn
) -> Projection | None:
    """The one that the vectors have had so far; learned only where there is none, and kept before it is used."""
    if plan.given is not None or plan.projected is None:
        return plan.given
    if old is not None:
        return old.projection
    path = private / f"projection-{sha256_of_json(made_of)[:16]}.npy"
    with suppress(OSError, ValueError):
        return Projection.from_bytes(path.read_bytes())
    learned = learn()
    with atomic(path) as file:
        file.write(learned.to_bytes())
    return learned


def _standing(out: Path, plan: _Plan) -> Listing | None:
    """The index folder that stands at `out`, if it was made the same way; None if there is none."""
    if not index_stands(out):
        return None
    if "store" not in read_meta(out):
        raise IndexFolderError(
            f"{out} is an index of FAISS, not of Milvus: choose another folder, or leave --store milvus out."
        )
    old = read_listing(out)
    refuse(old.recipe.differences(plan.recipe), out, OTHER_INDEX)
    return old


def _digests(images: PictureTable) -> list[str]:
    """What pictures are known by: the digest of their bytes, or of id and name where there is none."""
    return [
        digest.tobytes().hex() if digest.any() else sha256_of_json([int(images.ids[row]), images.name(row)])
        for row, digest in enumerate(images.digests)
    ]
