"""Settings and tasks of embedding, as plain values for any machine, and the worker that runs one task.

A task embeds the pictures of one shard and writes it atomically; a finished shard is skipped. Beside its files
(`shard.write_shard`) there is `source-NNNNN.json`: the pictures that it was made of, with their sizes, times and
digests, and those that could not be read. It is written last, so a shard without it is not finished.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from patchify_core.encoders import Encoder, EncoderSettings, load_encoder
from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.features.extract import CROP, Extractor, load_extractor
from patchify_core.files import read_json, sha256_of_bytes, sha256_of_file, sha256_of_json, write_json
from patchify_core.gallery import GalleryImage
from patchify_core.imaging.tar_members import tar_member
from patchify_core.index.codec.projection import Projection
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.describe import Embedded, PicturePass
from patchify_core.index.shards.shard import KINDS, finished_shard, shard_name, write_embedded
from patchify_core.index.swap import disk_errors

HEAD_NAME = "embed.json"
"""File of a folder of shards with their maker and gallery; its lock permits writing."""

MAX_SHARD_IMAGES = 100_000

Load = Callable[[str, EncoderSettings], Encoder]
"""Loads an encoder by its spec. A function of a module, because it is pickled by name."""


@dataclass(frozen=True)
class EmbedSettings:
    """User settings of embedding.

    Attributes:
        features: How patches are described: `crop`, or `pooled:N` (`extract`).
        shard_images: Pictures per shard, 1..100,000; a kill loses at most this much work per worker.
        kind: Number format of the descriptors, `float32` or `float16`.
        keep_maps: Store each picture's feature map too, for an index that does (`BuildSettings.keep_maps`).

    Raises:
        PatchifyError: A value is invalid.
    """

    features: str = CROP
    shard_images: int = 256
    kind: str = "float32"
    keep_maps: bool = False

    def __post_init__(self) -> None:
        """Check before hours of embedding."""
        if not 1 <= self.shard_images <= MAX_SHARD_IMAGES:
            raise PatchifyError(
                f"A shard has 1 to {MAX_SHARD_IMAGES:,} pictures, not {self.shard_images}: give another --shard-images."
            )
        if self.kind not in KINDS:
            raise PatchifyError(f"Descriptors are stored as {' or '.join(KINDS)}, not as '{self.kind}'.")


@dataclass(frozen=True)
class RaySettings:
    """Where and on how many workers to embed with Ray.

    Attributes:
        address: Of a running cluster, `HOST:PORT` or `auto`; None starts a temporary Ray that only this machine can
            reach.
        workers: Number of workers; None for as many as the cores (or GPUs) allow.
        cpus: Cores per worker, at least 1.
        gpus: GPUs per worker: 0 for none, 0.5 for two workers per GPU, or an integer.
        load: Loads the encoder of a worker.

    Raises:
        PatchifyError: A number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    load: Load = load_encoder

    def __post_init__(self) -> None:
        """Check before Ray is started."""
        if self.workers is not None and not 1 <= self.workers <= 100_000:
            raise PatchifyError(f"Ask for at least 1 worker, not {self.workers} (--workers).")
        if not 1 <= self.cpus <= 1000:
            raise PatchifyError(f"A worker takes at least 1 core, not {self.cpus} (--cpus).")
        if not (0 <= self.gpus <= 64 and (self.gpus < 1 or self.gpus == int(self.gpus))):
            raise PatchifyError(
                f"A worker takes 0 GPUs, a part of one (0.5) or a whole number, not {self.gpus:g} (--gpus)."
            )


@dataclass(frozen=True)
class EmbedPlan:
    """What a worker needs to know besides its tasks.

    Attributes:
        version: Version of the package that distributes the tasks.
        root: The gallery's folder, absolute.
        out: The folder of shards, absolute.
        recipe: How the descriptors are made, before any coding.
        encoding: How the encoder is loaded.
        settings: See `EmbedSettings`.
        projection: `Projection.to_bytes` of the projection to apply; None for none.
    """

    version: str
    root: str
    out: str
    recipe: Recipe
    encoding: EncoderSettings
    settings: EmbedSettings
    projection: bytes | None = None

    @cached_property
    def maker(self) -> dict[str, Any]:
        """Identifies how the shards are made, as JSON values; shards of another maker are not touched."""
        maker: dict[str, Any] = {
            "projection": None if self.projection is None else sha256_of_bytes(self.projection),
            "kind": self.settings.kind,
            "shard_images": self.settings.shard_images,
        }
        # Absent without maps, so that shards of versions without maps still match.
        return self.recipe.descriptors() | maker | ({"maps": True} if self.recipe.maps else {})


TaskImage = tuple[int, str, int, int]
"""A picture: gallery image id, POSIX file name below the root, upright width and height in pixels."""


@dataclass(frozen=True)
class Task:
    """A shard to embed: its number, and its pictures in order."""

    number: int
    images: tuple[TaskImage, ...]


@dataclass(frozen=True)
class Done:
    """Result of one task.

    Attributes:
        number: Number of the shard.
        pictures: Pictures in the shard; 0 if none could be read, and then there is no shard.
        embedded: Pictures embedded by this task; 0 if the shard was finished before.
        skipped: (file name, reason) of pictures that could not be read.
        tries: Workers that were lost over this shard before.
        error: One sentence if the task failed, else "".
    """

    number: int
    pictures: int = 0
    embedded: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    tries: int = 0
    error: str = ""


def tasks_of(images: Sequence[GalleryImage], shard_images: int) -> Iterator[Task]:
    """Cut a gallery into tasks: shard k has the pictures k*n..(k+1)*n-1 in gallery order."""
    for number, start in enumerate(range(0, len(images), shard_images)):
        shard = images[start : start + shard_images]
        yield Task(number, tuple((image.id, image.file_name, image.width, image.height) for image in shard))


MAX_TRIES = 4
"""Workers that may be lost over one shard, so that a picture that crashes every worker is not retried forever."""


class ShardWorker:
    """Runs tasks. The encoder is loaded when the first shard needs it.

    Args:
        plan: See `EmbedPlan`.
        load: Loads the encoder.
        on_done: Called after each picture.
    """

    def __init__(self, plan: EmbedPlan, load: Load, on_done: Callable[[], None] = lambda: None) -> None:
        self.plan, self._load, self._on_done = plan, load, on_done
        self._root, self._out = Path(plan.root), Path(plan.out)
        self._regions = plan.recipe.regions
        self._projection = None if plan.projection is None else Projection.from_bytes(plan.projection)
        self._extractor: Extractor | None = None
        self._checked = False

    def __call__(self, task: Task) -> Done:
        """Run one task.

        Raises:
            PatchifyError: The encoder cannot be loaded, a folder cannot be read or written, a picture has another size
                than its annotations say, or the task has crashed too many workers.
        """
        with disk_errors(self._out):
            self._check_folders()
            finished = self._finished(task)
            if finished is not None:
                self._tries(task).unlink(missing_ok=True)
                return finished
            self._source(task).unlink(missing_ok=True)
            tries = self._count_try(task)
            done = self._embed(task, tries)
            self._tries(task).unlink(missing_ok=True)
            return done

    def _check_folders(self) -> None:
        """Raise PatchifyError if this machine does not have the folders: all pictures would seem broken."""
        if self._checked:
            return
        host = socket.gethostname()
        head = read_json(self._out / HEAD_NAME)
        if not isinstance(head, dict) or head.get("maker") != self.plan.maker:
            raise PatchifyError(
                f"The worker on {host} does not see the folder {self._out}: choose one on a disk that all machines "
                "share."
            )
        if not self._root.is_dir():
            raise PatchifyError(
                f"The worker on {host} does not see the pictures' folder {self._root}: choose one on a disk that all "
                "machines share."
            )
        self._checked = True

    def _finished(self, task: Task) -> Done | None:
        """Return the result of an earlier run if its shard is intact and its pictures are unchanged, else None."""
        source = read_json(self._source(task))
        if not isinstance(source, dict) or source.get("asked") != self._digest_of(task):
            return None
        try:
            pictures: list[list[Any]] = source["pictures"]
            skipped: list[list[Any]] = source["skipped"]
            if pictures and finished_shard(self._out, task.number) != source["files"]:
                return None
            same = all(self._is_same(*row) for row in pictures) and all(self._is_broken(*row) for row in skipped)
            left_out = tuple((str(row[0]), str(row[1])) for row in skipped)
        except (KeyError, TypeError, ValueError, IndexError):
            return None
        if not same:
            return None
        for _ in task.images:
            self._on_done()
        return Done(task.number, len(pictures), 0, left_out)

    def _is_same(self, name: str, size: int, mtime_ns: int, digest: str) -> bool:
        """Whether a picture is unchanged; it is read if only its modification time differs."""
        path = self._path(name)
        try:
            stat = path.stat()
            return stat.st_size == size and (stat.st_mtime_ns == mtime_ns or sha256_of_file(path) == digest)
        except OSError:
            return False

    def _is_broken(self, name: str, reason: str, size: int | None, mtime_ns: int | None) -> bool:
        """Whether a skipped picture is unchanged; one that could not be read from disk may be readable now."""
        path = self._path(name)
        try:
            stat = path.stat()
            if size is None:
                with path.open("rb") as file:
                    file.read(1)
                return False
            return (stat.st_size, stat.st_mtime_ns) == (size, mtime_ns)
        except OSError:
            return size is None

    def _path(self, name: str) -> Path:
        """Path of a picture, which may be in an archive."""
        path = self._root / name
        return tar_member(path) or path

    def _count_try(self, task: Task) -> int:
        """Record one more try of the shard; return how many workers were lost over it before.

        Raises:
            PatchifyError: Too many.
        """
        path = self._tries(task)
        with suppress(FileNotFoundError):
            if (tries := path.stat().st_size) >= MAX_TRIES:
                first, last = task.images[0][1], task.images[-1][1]
                raise PatchifyError(
                    f"{tries} workers were lost over shard {task.number} (pictures {first} to {last}): they may need "
                    "more memory than there is, or one of these pictures crashes its reader; remove it, or use "
                    "fewer workers."
                )
        with open(path, "ab") as file:
            file.write(b".")
            return file.tell() - 1

    def _embed(self, task: Task, tries: int) -> Done:
        embedded: dict[str, Embedded] = {}
        work = PicturePass(self._loaded_extractor(), self._regions, self._on_done)
        wanted = (
            GalleryImage(number, name, self._path(name), width, height) for number, name, width, height in task.images
        )
        with closing(work.run(wanted)) as stream:
            for new in stream:
                if self._projection is not None:
                    new = replace(new, descriptors=self._projection(new.descriptors))
                embedded[new.image.sha256] = new
                self._on_done()
        pictures, skipped = work.images, work.skipped
        if not pictures and skipped and all(each.bytes is None for each in skipped):
            raise PatchifyError(
                f"The worker on {socket.gethostname()} could read none of the {len(skipped)} pictures of shard "
                f"{task.number} in {self._root} ({skipped[0].reason.rstrip('.')}): check that disk, then run the same "
                "command again."
            )
        files = None
        if pictures:
            recipe, kind = self.plan.recipe, self.plan.settings.kind
            files = write_embedded(self._out, task.number, pictures, embedded, recipe, kind)
        source = {
            "asked": self._digest_of(task),
            "pictures": [
                [picture.file_name, picture.bytes, time, picture.sha256]
                for picture, time in zip(pictures, work.times, strict=True)
            ],
            "skipped": [astuple(each) for each in skipped],
            "files": files,
        }
        write_json(self._source(task), source, tag=f"{socket.gethostname()}-{os.getpid()}")
        left_out = tuple((each.name, each.reason) for each in skipped)
        return Done(task.number, len(pictures), len(embedded), left_out, tries)

    def _loaded_extractor(self) -> Extractor:
        if self._extractor is None:
            encoder = self._load(self.plan.recipe.encoder.spec, self.plan.encoding)
            if encoder.info != self.plan.recipe.encoder:
                raise EncoderError(
                    f"The worker on {socket.gethostname()} has other weights of {encoder.info.spec}: install the same "
                    "ones on every machine."
                )
            self._extractor = load_extractor(self.plan.recipe.features, encoder, self.plan.recipe.maps)
        return self._extractor

    def _digest_of(self, task: Task) -> str:
        return sha256_of_json([self.plan.maker, task.images])

    def _source(self, task: Task) -> Path:
        return self._out / source_name(task.number)

    def _tries(self, task: Task) -> Path:
        return self._out / f"{shard_name(task.number)}.tries"


def source_name(number: int) -> str:
    """Name of the file with the pictures of a shard."""
    return f"source-{number:05d}.json"
