"""`embed_gallery`: a gallery becomes a folder of shards, resumed where it was cut; here, or on a pool of workers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from patchify_core.encoders import Encoder, EncoderSettings
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.extract import checked_features, load_extractor
from patchify_core.files import locked, read_json, write_holder
from patchify_core.gallery import Gallery, Progress
from patchify_core.index.codec.projection import Projection
from patchify_core.index.embedding import Timed, nothing_read
from patchify_core.index.recipe import DESCRIPTORS, Recipe, RecipeDifference, refuse
from patchify_core.index.shards.folder import STREAM_NAME, seal_shards
from patchify_core.index.shards.shard import shard_name
from patchify_core.index.shards.worker import (
    HEAD_NAME,
    Done,
    EmbedPlan,
    EmbedSettings,
    RaySettings,
    ShardWorker,
    source_name,
    tasks_of,
)
from patchify_core.index.swap import disk_errors
from patchify_core.regions import Pyramid, Regions
from patchify_core.version import __version__


@dataclass(frozen=True)
class EmbedReport(Timed):
    """What was done.

    Attributes:
        images: pictures in the shards.
        embedded: pictures that went through the encoder; a picture that comes twice in a shard does so once.
        shards: in the folder.
        reused: shards that were there already.
        skipped: (file name, reason) of pictures that could not be read.
        lost: workers that were lost over a shard that was then done by another.
        seconds: wall time of the embedding part.
    """

    images: int
    embedded: int
    shards: int
    reused: int
    skipped: tuple[tuple[str, str], ...]
    lost: int
    seconds: float


def embed_gallery(
    gallery: Gallery,
    out: str | Path,
    encoder: Encoder,
    regions: Regions | None = None,
    settings: EmbedSettings | None = None,
    progress: Progress | None = None,
    *,
    projection: Projection | None = None,
    ray: RaySettings | None = None,
    encoding: EncoderSettings | None = None,
) -> EmbedReport:
    """Embed a gallery into a folder of shards that `folder.ShardFolder` reads and either store is built from.

    Run again, it does only what is missing: a shard whose pictures are those that lie there now stays as it is. The
    bytes of shards and list are the same whoever made them, with Ray or without.

    Args:
        gallery: pictures to embed. Its folder and `out` must be seen by all workers under the same path.
        out: folder of shards; a new one, or one that was made the same way.
        encoder: the frozen encoder. Workers on Ray load their own by its spec and check that it has the same weights.
        regions: which patches; the paper's L3 by default.
        settings: see `EmbedSettings`.
        progress: called with (pictures done, pictures in all); may raise to stop, and then the same call goes on.
        projection: applied to the descriptors before they are written, e.g. that of an index.
        ray: embed on Ray as it says; None embeds here.
        encoding: how workers on Ray load the encoder; see `EncoderSettings`.

    Raises:
        IndexFolderError: if `out` is something else, was made otherwise, is in use, or cannot be written.
        GalleryError: if no picture could be read, or annotations give a picture another size than it has.
        PatchifyError: if Ray is not installed or not reached, or a worker cannot do its work.
    """
    regions, settings = regions or Pyramid(), settings or EmbedSettings()
    features = checked_features(settings.features)
    load_extractor(features, encoder, settings.keep_maps)  # refused before anything is made
    out = Path(out).resolve()
    packed = None if projection is None else projection.to_bytes()
    recipe = Recipe(encoder.info, regions, features, maps=settings.keep_maps)
    root, encoding = str(gallery.root.resolve()), encoding or EncoderSettings()
    plan = EmbedPlan(__version__, root, str(out), recipe, encoding, settings, packed)
    with disk_errors(out), _held(out, plan):
        work = _Work(gallery, out, progress)
        tasks = tasks_of(gallery.images, settings.shard_images)
        start = time.perf_counter()
        if ray is None:
            worker = ShardWorker(plan, lambda spec, settings: encoder, work.settled)
            work.take(worker(task) for task in tasks)
        else:
            from patchify_core.index.shards.ray import on_ray

            with closing(on_ray(plan, tasks, ray)) as results:
                work.take(work.counted(results, settings.shard_images))
        seconds = time.perf_counter() - start
        if not work.written:
            unread = [pair for pairs in work.skipped.values() for pair in pairs]
            raise nothing_read(gallery.root, unread, "embedded")
        work.sweep()
        seal_shards(out, recipe, projection, sorted(work.written))
    skipped = (*gallery.skipped, *(pair for number in sorted(work.skipped) for pair in work.skipped[number]))
    return EmbedReport(work.images, work.embedded, len(work.written), work.reused, skipped, work.lost, seconds)


class _Work:
    """What has come back so far."""

    def __init__(self, gallery: Gallery, out: Path, progress: Progress | None) -> None:
        self.total, self.out = len(gallery.images), out
        self.progress = progress or (lambda done, total: None)
        self.done = self.images = self.embedded = self.reused = self.lost = 0
        self.written: set[int] = set()
        self.skipped: dict[int, tuple[tuple[str, str], ...]] = {}

    def settled(self) -> None:
        """One more picture is done."""
        self.done += 1
        self.progress(self.done, self.total)

    def counted(self, results: Iterable[Done], shard_images: int) -> Iterator[Done]:
        """The same results, each of which settles all pictures of its task at once."""
        for done in results:
            if not done.error:
                self.done += min(shard_images, self.total - done.number * shard_images)
                self.progress(self.done, self.total)
            yield done

    def take(self, results: Iterable[Done]) -> None:
        for done in results:
            if done.error:
                raise PatchifyError(done.error)
            if done.embedded:
                # Half of its shards are new from here on: it is no stream until it is sealed again.
                (self.out / STREAM_NAME).unlink(missing_ok=True)
            else:
                self.reused += done.pictures > 0
            if done.pictures:
                self.written.add(done.number)
            self.skipped[done.number] = done.skipped
            self.images += done.pictures
            self.embedded += done.embedded
            self.lost += done.tries

    def sweep(self) -> None:
        """Delete shards of pictures that are gone, and what workers that were cut short have left."""
        keep = {source_name(number) for number in self.skipped}
        stems = {shard_name(number) for number in self.written}
        # What somebody else has put there is not ours to delete.
        for path in (*self.out.glob("shard-[0-9]*.*"), *self.out.glob("source-[0-9]*.json*")):
            whole = path.name.count(".") == 1 and path.suffix != ".tries"
            if path.name not in keep and not (whole and path.stem in stems):
                path.unlink()


@contextmanager
def _held(out: Path, plan: EmbedPlan) -> Iterator[None]:
    """Make the folder, or sees that it is one of ours that was made the same way; one run at a time may use it."""
    head = out / HEAD_NAME
    if out.exists() and not head.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out} exists and is not a folder of shards: choose another folder.")
    lock = locked(head)
    try:
        found = _read_head(out)
        if found is not None:
            advice = "choose another folder for the shards, or delete it first"
            refuse(_differences(out, found["maker"], plan), out, advice)
        write_holder(out)
        # A worker is killed with half a file written, or the run between two tries: neither counts for this run.
        for left in (*out.glob("s*-[0-9]*.tmp"), *out.glob("shard-[0-9]*.tries")):
            left.unlink()
        wanted = {"maker": plan.maker, "root": plan.root}
        if found != wanted:
            head.write_text(json.dumps(wanted), encoding="utf-8")  # not renamed: the lock is on this file
        yield
    finally:
        lock.close()


def _read_head(out: Path) -> dict[str, dict[str, object]] | None:
    found = read_json(out / HEAD_NAME)
    return found if isinstance(found, dict) and isinstance(found.get("maker"), dict) else None


def _differences(out: Path, made: dict[str, object], plan: EmbedPlan) -> list[RecipeDifference]:
    """How the shards that are in `out` differ from those that are wanted.

    Raises:
        IndexFolderError: if what they were made with cannot be read.
    """
    try:
        recipe = replace(Recipe.from_descriptors(made), maps=made.get("maps") is True)
    except (KeyError, TypeError):
        raise IndexFolderError(f"{out / HEAD_NAME} is damaged: delete {out} and embed again.") from None
    differences = recipe.differences(plan.recipe, (*DESCRIPTORS, "maps"))
    for part in ("projection", "kind", "shard_images"):
        if made.get(part) != plan.maker[part]:
            had, wanted = (_named(part, value) for value in (made.get(part), plan.maker[part]))
            differences.append(RecipeDifference("shards of" if part == "shard_images" else part, had, wanted))
    return differences


def _named(part: str, value: object) -> str:
    if part == "projection":
        return "none" if value is None else str(value)[:8]  # of its digest
    return f"{value} pictures" if part == "shard_images" else str(value)


def pictures_of(shards: str | Path) -> Path | None:
    """The folder whose pictures were embedded into a folder of shards, if that is known."""
    found = _read_head(Path(shards))
    return None if found is None or not isinstance(found.get("root"), str) else Path(str(found["root"]))
