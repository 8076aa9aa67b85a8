"""Builds an index folder: reads pictures one at a time, embeds what is new, resumes, and swaps the result into place.

Finished descriptors are journalled in `<out>.partial` while the build runs. Whatever stops it, the same command
picks up there; the index that stood before stays whole until the new one is complete. Pictures are known by the
digest of their bytes, so a renamed or repeated picture is not embedded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder
from patchify_core.errors import GalleryError, IndexFolderError
from patchify_core.features.extract import CROP, Extractor, load_extractor
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.base import Pictures
from patchify_core.index.codec.codes import Codes, CodeSettings, encode_codes
from patchify_core.index.embedding import PicturePass, nothing_read
from patchify_core.index.folder import index_stands, read_meta, recipe_of
from patchify_core.index.integrity import META_NAME, private_of, standing
from patchify_core.index.journal import Journal
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.picture_table import IndexedImage, PictureTable
from patchify_core.index.recipe import EVERYTHING, OTHER_INDEX, Recipe, refuse
from patchify_core.index.shards.stream import PictureStream
from patchify_core.index.swap import explained, heal, root_from, swap_in
from patchify_core.regions import Pyramid, Regions

_RUN = 1000
"""Pictures whose boxes are read together."""


@dataclass(frozen=True)
class BuildSettings(CodeSettings):
    """What a person may tune about building, beside how descriptors are kept.

    Attributes:
        shard_images: pictures between two writes to the journal; at most this much work is lost to a kill.
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
class BuildReport:
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

    @property
    def images_per_s(self) -> float | None:
        """Embedded pictures a second; None when nothing had to be embedded."""
        return self.embedded / self.seconds if self.embedded else None


def build_index(
    gallery: Gallery,
    out: str | Path,
    encoder: Encoder,
    regions: Regions | None = None,
    settings: BuildSettings | None = None,
    progress: Progress | None = None,
    like: PatchIndex | None = None,
) -> BuildReport:
    """Builds or updates the index folder `out` from a gallery.

    Args:
        gallery: pictures to index.
        out: index folder; a new one, or one of the same encoder, regions and codec, whose descriptors are reused.
        encoder: the frozen encoder.
        regions: which patches; the paper's L3 by default.
        settings: see `BuildSettings`; by default those of `like`, if there is one.
        progress: told after each picture; may raise to stop the build, which then can be resumed.
        like: where there is no index yet, one whose projection and trained codec are taken over instead of learned
            from these pictures, which may be too few for that; codes of pictures that it holds too are copied.

    Raises:
        IndexFolderError: if `out` is something else, or made otherwise, or cannot be written; if `like` was made with
            another encoder, regions or settings.
        GalleryError: if no picture could be read, or annotations give a picture another size than it has.
    """
    if like is not None:
        regions, settings = regions or like.regions, settings or BuildSettings.like(like)
    regions, settings = regions or Pyramid(), settings or BuildSettings()
    extractor = load_extractor(settings.features, encoder, settings.keep_maps)
    settings.check(encoder.info.dim, regions, len(gallery.images))  # before hours of embedding, not after them
    wanted = partial(Recipe.of, encoder.info, regions, extractor.spec, settings, settings.keep_maps)
    recipe = wanted(None)
    with explained(Path(out)):
        out = Path(out).resolve()  # through links and "..", so that what stands beside it is on the same disk
        private = private_of(out)
        stood, old = _existing(out, wanted)  # refused before anything is made
        if old is None and like is not None:
            _check_like(like, wanted)
            old = like
        if old is None:
            settings.check_enough(encoder.info.dim, regions, len(gallery.images))
        with Journal(private, recipe.descriptors() | {"maps": recipe.maps}) as journal:
            heal(out, private)
            if _digest(out) != stood:  # another build ended meanwhile
                _, newer = _existing(out, wanted)
                old = newer or old
            work = Work(gallery, extractor, regions, journal, old, progress)
            try:
                work.run(settings.shard_images)
                if not work.images:
                    raise nothing_indexed(work)
            except BaseException:
                journal.leave()
                raise
            journal.flush()
            stream = _Built(work, journal, old, recipe)
            before = None if old is None else Codes(old.factory, old.codes, old.projection, old.fine)
            index = coded(stream, work.images, settings, before, stream.known)
            swap_in(out, private, lambda new: index.write(new, root_from(out, gallery.root), stream.maps))
            journal.remove()
    return BuildReport(len(work.images), work.embedded, work.reused, tuple(work.skipped), work.seconds)


class Sink(Protocol):
    """Where descriptors of finished pictures go; `journal.Journal`, or a store that is written to as they come."""

    @property
    def known(self) -> Container[str]:
        """Digests of the pictures that need no encoder any more."""
        ...

    def __len__(self) -> int:
        """Pictures added since the last flush."""
        ...

    def add(self, digest: str, descriptors: NDArray[np.float32], packed: bytes | None = None) -> None:
        """Takes one picture; see `Journal.add`."""
        ...

    def flush(self) -> None:
        """Writes what is fresh."""
        ...


class Work:
    """One pass over the gallery: every picture ends up indexed (new or known) or skipped."""

    def __init__(
        self,
        gallery: Gallery,
        extractor: Extractor,
        regions: Regions,
        journal: Sink,
        old: PatchIndex | None,
        progress: Progress | None,
    ) -> None:
        """Takes the parts; `run` does the work."""
        self.gallery, self.extractor, self.journal = gallery, extractor, journal
        self.progress = progress or (lambda done, total: None)
        self.old_rows = {image.sha256: row for row, image in enumerate(old.images)} if old else {}
        self._pass = PicturePass(extractor, regions, self._settled, self._known)
        self.images = self._pass.images
        self.embedded = self.done = 0
        self.seconds = 0.0

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(file name, reason) of each picture that could not be read."""
        return [*self.gallery.skipped, *((skipped.name, skipped.reason) for skipped in self._pass.skipped)]

    @property
    def reused(self) -> int:
        """Pictures that needed no encoder."""
        return self._pass.reused

    def run(self, shard_images: int) -> None:
        """Goes over the gallery, and flushes each `shard_images` pictures; the last ones are left to be flushed."""
        start = time.perf_counter()
        with closing(self._pass.run(self.gallery.images)) as stream:
            for new in stream:
                # Descriptors and boxes belong together, also after a kill.
                rows = new.descriptors if new.boxes is None else np.hstack([new.descriptors, new.boxes])
                self.journal.add(new.digest, rows, new.packed)
                self.embedded += 1
                if len(self.journal) >= shard_images:
                    self.journal.flush()
                self._settled()
        self.seconds = time.perf_counter() - start

    def _known(self, digest: str) -> bool:
        return digest in self.old_rows or digest in self.journal.known

    def _settled(self) -> None:
        self.done += 1
        self.progress(self.done, len(self.gallery.images))


def nothing_indexed(work: Work) -> GalleryError:
    """What is said where no picture of a gallery could be read."""
    return nothing_read(work.gallery.root, work.skipped, "indexed")


class _Built(PictureStream):
    """The pictures of a build: the new ones are in the journal, the others in the index that stood before."""

    def __init__(self, work: Work, journal: Journal, old: PatchIndex | None, recipe: Recipe) -> None:
        self.encoder, self.regions, self.features = recipe.encoder, recipe.regions, recipe.features
        self.images, self._journal, self._old, self._rows = work.images, journal, old, work.old_rows
        self.maps = self if recipe.maps else None

    def __len__(self) -> int:
        return len(self.images)

    def known(self, row: int) -> int | None:
        """The row of a picture in the index that stood before, None for a new one."""
        return self._rows.get(self.images[row].sha256)

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`; of new pictures only."""
        images = self.images[start:stop]
        rows = [self._journal.descriptors(image.sha256)[:, : self.encoder.dim] for image in images]
        return PictureTable.of(images), np.stack(rows)

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `PictureStream.boxes`."""
        return np.stack([self._boxes_of(row) for row in range(start, stop)])

    def _boxes_of(self, row: int) -> NDArray[np.float32]:
        was = self.known(row)
        if self._old is not None and was is not None:
            return self._old.boxes_of(was).astype(np.float32)
        return self._journal.descriptors(self.images[row].sha256)[:, self.encoder.dim :]

    def packed(self, row: int) -> bytes:
        """The feature map of one picture; the stream is its own `maps`."""
        digest = self.images[row].sha256
        if digest in self._journal.known or self._old is None or self._old.maps is None:
            return self._journal.packed(digest)
        return self._old.maps.packed(self._rows[digest])


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
        passed: told of each row whose descriptors are read, the rows of a sample twice.

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


def _digest(out: Path) -> str | None:
    """Which index stands at `out`; None where there is none."""
    return str(read_meta(out)["digest"]) if (standing(out) / META_NAME).is_file() else None


RecipeFor = Callable[[str | None], Recipe]
"""The recipe that a build follows, from the factory of the index that it would go on with; see `Recipe.of`."""


def _existing(out: Path, wanted: RecipeFor) -> tuple[str | None, PatchIndex | None]:
    """The index that stands at `out` and its digest, if there is one and it was made the same way."""
    if not index_stands(out):
        return None, None
    meta = read_meta(out)
    if "store" in meta:
        raise IndexFolderError(
            f"{out} keeps its descriptors in Milvus: add --store milvus and its --uri, or choose another folder."
        )
    if meta.get("images", ()) is None:
        raise IndexFolderError(
            f"{out} is a big index, made of shards: build it again with index --from-shards, or choose another folder."
        )
    had = recipe_of(meta, out)
    refuse(had.differences(wanted(had.factory)), out, OTHER_INDEX)
    return str(meta["digest"]), PatchIndex.load(out)


def _check_like(like: PatchIndex, wanted: RecipeFor) -> None:
    """Codes of two kinds cannot stand in one index; what the codec was trained on may differ."""
    parts = [part for part in EVERYTHING if part not in ("encoder", "codebook")]
    like.check_encoder(wanted(None).encoder)
    differences = like.recipe.differences(wanted(like.factory), parts)
    refuse(differences, "The index to learn from", "use the same, or leave it out")
