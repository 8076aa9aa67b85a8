"""What is to be embedded, cut into tasks: plain values that travel to any machine; and the worker that does one task.

A task is one shard: its pictures are read, cut, embedded and written, whole or not at all; nothing is done if the shard
is there already. Beside its own files (`shard.write_shard`) lies `source-NNNNN.json`: which pictures it was made of,
with their sizes, times and digests, and which could not be read. It is written last, so a shard without it is not
finished.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import astuple, dataclass, field, replace
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
from patchify_core.index.embedding import Embedded, PicturePass
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.shard import KINDS, finished_shard, shard_name, write_embedded
from patchify_core.index.swap import disk_errors

HEAD_NAME = "embed.json"
"""Of a folder of shards: what makes them, and of which pictures. Whoever holds a lock on it may write there."""

MAX_SHARD_IMAGES = 100_000

Load = Callable[[str, EncoderSettings], Encoder]
"""Loads an encoder by its spec. A function of a module, because it travels by its name."""


@dataclass(frozen=True)
class EmbedSettings:
    """What a person may tune about embedding.

    Attributes:
        features: how descriptors are made: `crop`, or `pooled:N` (`extract`).
        shard_images: pictures in a shard, 1..100,000; at most this much work of each worker is lost to a kill.
        kind: how descriptors are kept, `float32` or `float16`.
        keep_maps: keep each picture's feature map too, for an index that does (`BuildSettings.keep_maps`).

    Raises:
        PatchifyError: if a number or name is none of these.
    """

    features: str = CROP
    shard_images: int = 256
    kind: str = "float32"
    keep_maps: bool = False

    def __post_init__(self) -> None:
        """Check before hours of embedding."""
        if not 1 <= self.shard_images <= MAX_SHARD_IMAGES:
            raise PatchifyError(
                f"A shard holds 1 to {MAX_SHARD_IMAGES:,} pictures, not {self.shard_images}: give another "
                "--shard-images."
            )
        if self.kind not in KINDS:
            raise PatchifyError(f"Descriptors are kept as {' or '.join(KINDS)}, not as '{self.kind}'.")


@dataclass(frozen=True)
class RaySettings:
    """Where and on how many workers to embed with Ray.

    Attributes:
        address: of a cluster that runs already, `HOST:PORT` or `auto`; None starts a Ray of its own on this machine,
            which only this machine can reach, and ends it again.
        workers: processes that embed; None for as many as the cores (or GPUs) allow.
        cpus: processor cores of each worker, at least 1.
        gpus: GPUs of each worker: 0 for none, 0.5 for two workers per GPU, or a whole number.
        load: what the workers load their encoder with.

    Raises:
        PatchifyError: if a number is out of its range.
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
    """All that a worker has to know beside the pictures of its task.

    Attributes:
        version: of the package that hands out the tasks.
        root: the gallery's folder, absolute.
        out: the folder of shards, absolute.
        recipe: how the descriptors are made; nothing is coded here.
        encoding: how the encoder is loaded.
        settings: see `EmbedSettings`.
        projection: `Projection.to_bytes` of what is applied to the descriptors; None for nothing.
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
        """What makes the shards, as JSON values: shards of another maker are not touched."""
        made: dict[str, Any] = {
            "projection": None if self.projection is None else sha256_of_bytes(self.projection),
            "kind": self.settings.kind,
            "shard_images": self.settings.shard_images,
        }
        # Named only where they are kept: shards of a version that kept none are still known as what they are.
        return self.recipe.descriptors() | made | ({"maps": True} if self.recipe.maps else {})


TaskImage = tuple[int, str, int, int]
"""A picture: gallery image id, file name (POSIX, below the root), upright width and height in pixels."""


@dataclass(frozen=True)
class Task:
    """One shard that is wanted: its number, and the pictures that it is to hold, in order."""

    number: int
    images: tuple[TaskImage, ...]


@dataclass(frozen=True)
class Done:
    """What became of one task.

    Attributes:
        number: of the shard.
        pictures: it holds; 0 where none could be read, and then there is no shard of this number.
        embedded: pictures that went through the encoder now; 0 where the shard was there already.
        skipped: (file name, reason) of pictures that could not be read.
        tries: workers that were lost over this shard before.
        error: one sentence if it could not be done; "" where it was.
    """

    number: int
    pictures: int = 0
    embedded: int = 0
    skipped: tuple[tuple[str, str], ...] = field(default=())
    tries: int = 0
    error: str = ""


def tasks_of(images: Sequence[GalleryImage], shard_images: int) -> Iterator[Task]:
    """Cut a gallery into tasks: shard k holds the pictures k*n..(k+1)*n-1, in the gallery's order."""
    for number, start in enumerate(range(0, len(images), shard_images)):
        chosen = images[start : start + shard_images]
        yield Task(number, tuple((image.id, image.file_name, image.width, image.height) for image in chosen))


MAX_TRIES = 4
"""Workers that may be lost over one shard. A picture that ends every worker must not be tried for ever."""


class ShardWorker:
    """Does one task after the other. The encoder is loaded when the first shard needs it.

    Args:
        plan: how.
        load: what loads the encoder.
        settled: called after each picture.
    """

    def __init__(self, plan: EmbedPlan, load: Load, settled: Callable[[], None] = lambda: None) -> None:
        self.plan, self._load, self._settled = plan, load, settled
        self._root, self._out = Path(plan.root), Path(plan.out)
        self._regions = plan.recipe.regions
        self._projection = None if plan.projection is None else Projection.from_bytes(plan.projection)
        self._extractor: Extractor | None = None
        self._checked = False

    def __call__(self, task: Task) -> Done:
        """Do one task.

        Raises:
            PatchifyError: if the encoder cannot be had, a folder cannot be read or written, a picture has another size
                than its annotations say, or the task has ended too many workers.
        """
        with disk_errors(self._out):
            self._check_folders()
            finished = self._finished(task)
            if finished is not None:
                self._tries(task).unlink(missing_ok=True)
                return finished
            self._source(task).unlink(missing_ok=True)
            tries = self._begun(task)
            done = self._embedded(task, tries)
            self._tries(task).unlink(missing_ok=True)
            return done

    def _check_folders(self) -> None:
        """A worker on another machine may not have the folders that are meant: all pictures would seem broken."""
        if self._checked:
            return
        host = socket.gethostname()
        head = read_json(self._out / HEAD_NAME)
        if not isinstance(head, dict) or head.get("maker") != self.plan.maker:
            raise PatchifyError(
                f"The worker on {host} does not see the folder {self._out}: give one on a disk that all machines share."
            )
        if not self._root.is_dir():
            raise PatchifyError(
                f"The worker on {host} does not see the pictures' folder {self._root}: give one on a disk that all "
                "machines share."
            )
        self._checked = True

    # A shard that stands there already ----------------------------------------------

    def _finished(self, task: Task) -> Done | None:
        """What an earlier try has done, if its shard is whole and its pictures are those that lie there now."""
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
            self._settled()
        return Done(task.number, len(pictures), 0, left_out)

    def _is_same(self, name: str, size: int, mtime_ns: int, digest: str) -> bool:
        """Whether a picture is the one that was embedded; one whose time alone has changed is read to find out."""
        path = self._path(name)
        try:
            found = path.stat()
            return found.st_size == size and (found.st_mtime_ns == mtime_ns or sha256_of_file(path) == digest)
        except OSError:
            return False

    def _is_broken(self, name: str, reason: str, size: int | None, mtime_ns: int | None) -> bool:
        """Whether a picture that was left out is as it was; what the disk did not deliver may be there now."""
        path = self._path(name)
        try:
            found = path.stat()
            if size is None:
                with path.open("rb") as file:
                    file.read(1)
                return False
            return (found.st_size, found.st_mtime_ns) == (size, mtime_ns)
        except OSError:
            return size is None

    def _path(self, name: str) -> Path:
        """A picture's file, which may be in an archive."""
        path = self._root / name
        return tar_member(path) or path

    # A new one ------------------------------------------------------------------------

    def _begun(self, task: Task) -> int:
        """Note that the shard is tried once more; returns how many workers were lost over it before.

        Raises:
            PatchifyError: if they were too many.
        """
        path = self._tries(task)
        with suppress(FileNotFoundError):
            if (tries := path.stat().st_size) >= MAX_TRIES:
                first, last = task.images[0][1], task.images[-1][1]
                raise PatchifyError(
                    f"{tries} workers were lost over shard {task.number} (pictures {first} to {last}): they may need "
                    "more memory than there is, or one of these pictures ends its reader; take it out or use fewer "
                    "workers."
                )
        with open(path, "ab") as file:
            file.write(b".")
            return file.tell() - 1

    def _embedded(self, task: Task, tries: int) -> Done:
        embedded: dict[str, Embedded] = {}
        work = PicturePass(self._ready(), self._regions, self._settled)
        wanted = (
            GalleryImage(number, name, self._path(name), width, height) for number, name, width, height in task.images
        )
        with closing(work.run(wanted)) as stream:
            for new in stream:
                if self._projection is not None:
                    new = replace(new, descriptors=self._projection(new.descriptors))
                embedded[new.image.sha256] = new
                self._settled()
        pictures, skipped = work.images, work.skipped
        if not pictures and skipped and all(each.bytes is None for each in skipped):
            raise PatchifyError(
                f"The worker on {socket.gethostname()} could read none of the {len(skipped)} pictures of shard "
                f"{task.number} in {self._root} ({skipped[0].reason.rstrip('.')}): check that disk, then run the same "
                "command again."
            )
        files = None
        if pictures:
            plan = self.plan
            files = write_embedded(self._out, task.number, pictures, embedded, plan.recipe, plan.settings.kind)
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

    def _ready(self) -> Extractor:
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
    """Name of the file that says what a shard was made of."""
    return f"source-{number:05d}.json"
