"""What is to be embedded and how, as plain values that travel to a worker on any machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from patchify_core.encoders import Encoder, EncoderSettings, load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.features.extract import CROP
from patchify_core.files import sha256_of_bytes
from patchify_core.gallery import GalleryImage
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.shard import KINDS

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
        """Checks before hours of embedding."""
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
        gpus: GPUs of each worker: 0 for none, 0.5 for two workers a GPU, or a whole number.
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
        """Checks before Ray is started."""
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


Asked = tuple[int, str, int, int]
"""A picture: gallery image id, file name (POSIX, below the root), upright width and height in pixels."""


@dataclass(frozen=True)
class Task:
    """One shard that is wanted: its number, and the pictures that it is to hold, in order."""

    number: int
    images: tuple[Asked, ...]


@dataclass(frozen=True)
class Done:
    """What became of one task.

    Attributes:
        number: of the shard.
        pictures: it holds; 0 where none could be read, and then there is no shard of this number.
        embedded: pictures that went through the encoder now; 0 where the shard stood there already.
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
    """Cuts a gallery into tasks: shard k holds the pictures k*n..(k+1)*n-1, in the gallery's order."""
    for number, start in enumerate(range(0, len(images), shard_images)):
        chosen = images[start : start + shard_images]
        yield Task(number, tuple((image.id, image.file_name, image.width, image.height) for image in chosen))
