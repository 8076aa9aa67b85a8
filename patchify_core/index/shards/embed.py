"""`embed_gallery`: embed a gallery into a folder of shards, here or on Ray; an interrupted run resumes."""

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
from patchify_core.index.recipe import DESCRIPTORS, Recipe, RecipeDifference, refuse
from patchify_core.index.shards.describe import Timed, nothing_read
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
    """Result of `embed_gallery`.

    Attributes:
        images: Pictures in the shards.
        embedded: Pictures that went through the encoder; duplicates within a shard count once.
        shards: Shards in the folder.
        reused: Shards that were finished before.
        skipped: (file name, reason) of pictures that could not be read.
        lost: Workers that were lost over a shard that another one finished.
        seconds: Wall time of embedding.
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
    """Embed a gallery into a folder of shards, which `folder.ShardFolder` reads and any store can be built from.

    A second run embeds only what is missing or has changed. The files are byte-identical with and without Ray.

    Args:
        gallery: Pictures to embed. All workers must see its folder and `out` under the same paths.
        out: Folder of shards; new, or one with the same recipe and settings.
        encoder: The frozen encoder. Workers on Ray load their own by its spec and check its weights.
        regions: The patches; the paper's L3 by default.
        settings: See `EmbedSettings`.
        progress: Called with (pictures done, pictures in total); may raise to stop, and the same call then resumes.
        projection: Applied to the descriptors before they are written, e.g. that of an index; None for none.
        ray: Embed on Ray with these settings; None to embed in this process.
        encoding: How workers on Ray load the encoder; see `EncoderSettings`.

    Raises:
        IndexFolderError: `out` is something else, has another recipe, is in use, or cannot be written.
        GalleryError: No picture could be read, or annotations give a picture another size than it has.
        PatchifyError: Ray is not installed or not reachable, or a worker fails.
    """
    regions, settings = regions or Pyramid(), settings or EmbedSettings()
    features = checked_features(settings.features)
    load_extractor(features, encoder, settings.keep_maps)  # refuse before any work
    out = Path(out).resolve()
    packed = None if projection is None else projection.to_bytes()
    recipe = Recipe(encoder.info, regions, features, maps=settings.keep_maps)
    root, encoding = str(gallery.root.resolve()), encoding or EncoderSettings()
    plan = EmbedPlan(__version__, root, str(out), recipe, encoding, settings, packed)
    with disk_errors(out), _locked_folder(out, plan):
        run = _Run(gallery, out, progress)
        tasks = tasks_of(gallery.images, settings.shard_images)
        start = time.perf_counter()
        if ray is None:
            worker = ShardWorker(plan, lambda spec, settings: encoder, run.on_done)
            run.collect(worker(task) for task in tasks)
        else:
            from patchify_core.index.shards.ray import on_ray

            with closing(on_ray(plan, tasks, ray)) as results:
                run.collect(run.counted(results, settings.shard_images))
        seconds = time.perf_counter() - start
        if not run.written:
            unread = [pair for pairs in run.skipped.values() for pair in pairs]
            raise nothing_read(gallery.root, unread, "embedded")
        run.sweep()
        seal_shards(out, recipe, projection, sorted(run.written))
    skipped = (*gallery.skipped, *(pair for number in sorted(run.skipped) for pair in run.skipped[number]))
    return EmbedReport(run.images, run.embedded, len(run.written), run.reused, skipped, run.lost, seconds)


class _Run:
    """Counts pictures, and collects the results of tasks."""

    def __init__(self, gallery: Gallery, out: Path, progress: Progress | None) -> None:
        self.total, self.out = len(gallery.images), out
        self.progress = progress or (lambda done, total: None)
        self.done = self.images = self.embedded = self.reused = self.lost = 0
        self.written: set[int] = set()
        self.skipped: dict[int, tuple[tuple[str, str], ...]] = {}

    def on_done(self) -> None:
        """Count one picture."""
        self.done += 1
        self.progress(self.done, self.total)

    def counted(self, results: Iterable[Done], shard_images: int) -> Iterator[Done]:
        """Pass results on, counting all pictures of each at once."""
        for done in results:
            if not done.error:
                self.done += min(shard_images, self.total - done.number * shard_images)
                self.progress(self.done, self.total)
            yield done

    def collect(self, results: Iterable[Done]) -> None:
        """Collect all results; raise PatchifyError for the first failed task."""
        for done in results:
            if done.error:
                raise PatchifyError(done.error)
            if done.embedded:
                # The list does not match the new shard, so the folder is no stream until it is sealed again.
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
        """Delete shards of removed pictures and leftovers of interrupted workers."""
        keep = {source_name(number) for number in self.skipped}
        stems = {shard_name(number) for number in self.written}
        # Other files are not ours to delete.
        for path in (*self.out.glob("shard-[0-9]*.*"), *self.out.glob("source-[0-9]*.json*")):
            complete = path.name.count(".") == 1 and path.suffix != ".tries"
            if path.name not in keep and not (complete and path.stem in stems):
                path.unlink()


@contextmanager
def _locked_folder(out: Path, plan: EmbedPlan) -> Iterator[None]:
    """Create the folder, or check that it has the same maker; lock it for this run."""
    head = out / HEAD_NAME
    if out.exists() and not head.is_file() and (not out.is_dir() or any(out.iterdir())):
        raise IndexFolderError(f"{out} exists and is not a folder of shards: choose another folder.")
    lock = locked(head)
    try:
        existing = _read_head(out)
        if existing is not None:
            advice = "choose another folder for the shards, or delete it first"
            refuse(_differences(out, existing["maker"], plan), out, advice)
        write_holder(out)
        # Leftovers of a killed worker or run; lost workers are counted anew for each run.
        for leftover in (*out.glob("s*-[0-9]*.tmp"), *out.glob("shard-[0-9]*.tries")):
            leftover.unlink()
        wanted = {"maker": plan.maker, "root": plan.root}
        if existing != wanted:
            head.write_text(json.dumps(wanted), encoding="utf-8")  # not renamed: the lock is on this file
        yield
    finally:
        lock.close()


def _read_head(out: Path) -> dict[str, dict[str, object]] | None:
    head = read_json(out / HEAD_NAME)
    return head if isinstance(head, dict) and isinstance(head.get("maker"), dict) else None


def _differences(out: Path, maker: dict[str, object], plan: EmbedPlan) -> list[RecipeDifference]:
    """List how the shards in `out` differ from those of the plan.

    Raises:
        IndexFolderError: Their maker is invalid.
    """
    try:
        recipe = replace(Recipe.from_descriptors(maker), maps=maker.get("maps") is True)
    except (KeyError, TypeError):
        raise IndexFolderError(f"{out / HEAD_NAME} is damaged: delete {out} and embed again.") from None
    differences = recipe.differences(plan.recipe, (*DESCRIPTORS, "maps"))
    for part in ("projection", "kind", "shard_images"):
        if maker.get(part) != plan.maker[part]:
            had, wanted = (_named(part, value) for value in (maker.get(part), plan.maker[part]))
            differences.append(RecipeDifference("shards of" if part == "shard_images" else part, had, wanted))
    return differences


def _named(part: str, value: object) -> str:
    if part == "projection":
        return "none" if value is None else str(value)[:8]
    return f"{value} pictures" if part == "shard_images" else str(value)


def pictures_of(shards: str | Path) -> Path | None:
    """Return the folder whose pictures were embedded into a folder of shards, if known."""
    head = _read_head(Path(shards))
    return None if head is None or not isinstance(head.get("root"), str) else Path(str(head["root"]))
