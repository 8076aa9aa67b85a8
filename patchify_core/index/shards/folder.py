"""Descriptors of a collection too large for memory, a batch at a time: from anywhere, or from a folder of shards.

Whatever builds a store from a `PictureStream` may ask for any run of pictures at any time and gets the same answer each
time; that is what lets a build that was killed go on where it was. `ShardFolder` is such a stream on disk. Its shards
are written one by one, in any order and by any process (`write_shard`), and become a stream when all are there
(`seal_shards`). There is no pickle in it, and a shard's digest is checked before its first use.
"""

from __future__ import annotations

import io
import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.files import atomic, read_json, sha256_of_json, write_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import Digests, is_whole, listed_file
from patchify_core.index.picture_table import IndexedImage, PictureTable, joined, read_table, write_tables
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Regions

STREAM_NAME, PROJECTION_NAME = "stream.json", "projection.npy"
FORMAT = 1
KEPT_OPEN = 4
"""Shards that are mapped at a time."""

KINDS = {"float32": "<f4", "float16": "<f2"}
"""How descriptors may be kept. Half precision takes half the space; of a number in -1..1 it keeps three digits."""

_PICTURES, _DESCRIPTORS = "pictures", "descriptors"  # the two files of a shard, by their suffix


class PictureStream(Protocol):
    """Pictures with the descriptors of their patches, in an order that never changes.

    Attributes:
        encoder: what made the descriptors.
        regions: what patches they describe, P a picture.
        features: how they were made (`extract.checked_features`).
        projection: what was applied to them already, or None where they are as the encoder gave them.
    """

    @property
    def encoder(self) -> EncoderInfo:
        """What made the descriptors."""
        ...

    @property
    def regions(self) -> Regions:
        """What patches they describe."""
        ...

    @property
    def features(self) -> str:
        """How they were made."""
        ...

    @property
    def projection(self) -> Projection | None:
        """What was applied to them already."""
        ...

    def __len__(self) -> int:
        """How many pictures there are."""
        ...

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """The pictures start..stop-1, the same each time.

        Args:
            start: first picture, from 0.
            stop: one past the last, at most `len`.

        Returns:
            The pictures, and (stop - start, P, D) float32 descriptors with rows of length 1; D is the projection's
            dimension, or the encoder's without one.
        """
        ...


def recipe_of_stream(stream: PictureStream) -> Recipe:
    """How the descriptors of a stream were made."""
    return Recipe(stream.encoder, stream.regions, stream.features)


def dim_of(stream: PictureStream) -> int:
    """Dimension of the descriptors as the stream gives them."""
    return stream.encoder.dim if stream.projection is None else stream.projection.dim


def write_shard(
    folder: Path,
    number: int,
    pictures: Sequence[IndexedImage],
    descriptors: NDArray[np.floating[Any]],
    kind: str = "float32",
) -> dict[str, Any]:
    """Writes one shard, whole or not at all; one that stands there already is replaced.

    Args:
        folder: of the shards, made if missing.
        number: of the shard; the stream has the pictures in the order of these numbers.
        pictures: what it holds, at least one.
        descriptors: (n, P, D), rows of length 1.
        kind: one of `KINDS`.

    Returns:
        The shard's entry, with the digests of its files; what `finished_shard` will find.

    Raises:
        PatchifyError: if pictures and descriptors do not fit together.
        OSError: if it cannot be written.
    """
    if descriptors.ndim != 3 or len(descriptors) != len(pictures) or not len(pictures) or kind not in KINDS:
        raise PatchifyError(
            f"A shard takes (n, P, D) descriptors of its n pictures as {' or '.join(KINDS)}, not "
            f"{descriptors.shape} of {len(pictures)} as {kind}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    stem = shard_name(number)
    table = io.BytesIO()
    write_tables([PictureTable.of(pictures)], table)
    entry: dict[str, Any] = {"pictures": len(pictures), "shape": list(descriptors.shape[1:]), "kind": kind}
    # What a worker on a second machine writes at the same time has another name until it is whole.
    own = token_hex(8)
    values = np.ascontiguousarray(descriptors, KINDS[kind])
    parts: dict[str, memoryview] = {_PICTURES: table.getbuffer(), _DESCRIPTORS: values.data.cast("B")}
    entry["files"] = {}
    for suffix, data in parts.items():
        digests = Digests()
        with atomic(folder / f"{stem}.{suffix}", own) as file:
            for at in range(0, len(data), 1 << 24):
                piece = bytes(data[at : at + (1 << 24)])
                file.write(piece)
                digests.update(piece)
        entry["files"][suffix] = digests.listed()
    write_json(folder / f"{stem}.json", entry, 1, own)
    return entry


def finished_shard(folder: Path, number: int) -> dict[str, Any] | None:
    """The entry of a shard that stands whole in a folder, by its digests; None if it does not."""
    path = folder / f"{shard_name(number)}.json"
    entry = read_json(path)
    return entry if isinstance(entry, dict) and all(_stands(path, suffix, entry) for suffix in _SUFFIXES) else None


def _stands(path: Path, suffix: str, entry: dict[str, Any]) -> bool:
    try:
        with open(path.with_suffix(f".{suffix}"), "rb") as file:
            return is_whole(file, entry["files"][suffix])
    except (OSError, KeyError, TypeError):
        return False


def seal_shards(
    folder: Path,
    recipe: Recipe,
    projection: Projection | None = None,
    shards: int | Iterable[int] | None = None,
) -> None:
    """Makes a folder of shards a stream: lists them all with their digests. To be called once all are written.

    Args:
        folder: of the shards.
        recipe: how the descriptors were made.
        projection: what was applied to them, if anything was.
        shards: how many there must be, numbered from 0, or their numbers; by default as many as there are.

    Raises:
        IndexFolderError: if a shard is missing or does not fit the others.
        OSError: if a file cannot be read or written.
    """
    if shards is None:
        shards = sum(1 for _ in folder.glob("shard-*.json"))
    entries: list[dict[str, Any]] = []
    for number in range(shards) if isinstance(shards, int) else shards:
        path = folder / f"{shard_name(number)}.json"
        entry = read_json(path)
        if not isinstance(entry, dict):
            raise IndexFolderError(f"{path} is missing: embed its pictures again, the other shards are kept.")
        if entries and (entry.get("shape"), entry.get("kind")) != (entries[0]["shape"], entries[0]["kind"]):
            raise IndexFolderError(f"{path} holds descriptors of another shape than the first shard: embed it again.")
        entries.append({"name": path.stem} | entry)
    meta: dict[str, Any] = {
        "format": FORMAT,
        **recipe.descriptors(),
        "projection": None,
        "shards": entries,
    }
    if projection is not None:
        (folder / PROJECTION_NAME).write_bytes(projection.to_bytes())
        meta["projection"] = listed_file(folder / PROJECTION_NAME)
    meta["digest"] = sha256_of_json(meta)
    write_json(folder / STREAM_NAME, meta, 1, str(os.getpid()))


class ShardFolder:
    """A folder of shards as a `PictureStream`.

    Args:
        folder: what `seal_shards` sealed.

    Raises:
        IndexFolderError: one sentence, if it is missing, not sealed, damaged or of another format, or a shard is
            missing.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads the list of shards and sees that all are there; a shard is checked at its first use."""
        self.folder = Path(folder)
        meta = self._meta()
        try:
            recipe = Recipe.from_descriptors(meta)
            self.encoder, self.regions, self.features = recipe.encoder, recipe.regions, recipe.features
            self.digest = str(meta["digest"])
            self._shards: list[dict[str, Any]] = meta["shards"]
            self._ends = [0, *accumulate(int(shard["pictures"]) for shard in self._shards)]
            shapes = {tuple(shard["shape"]) for shard in self._shards}
            self.projection = self._read_projection(meta["projection"])
            dim = self.encoder.dim if self.projection is None else self.projection.dim
            if shapes != {(self.regions.patches_per_image, dim)}:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise self._damaged(STREAM_NAME) from None
        self._dim = dim
        self._open: OrderedDict[int, tuple[PictureTable, NDArray[Any]]] = OrderedDict()
        for shard in self._shards:
            for suffix in _SUFFIXES:
                if not (self.folder / f"{shard['name']}.{suffix}").is_file():
                    raise self._damaged(f"{shard['name']}.{suffix}")

    def __len__(self) -> int:
        """How many pictures there are."""
        return self._ends[-1]

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`.

        Raises:
            IndexFolderError: if a shard is missing or damaged; it says which.
        """
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"pictures {start} to {stop} of {len(self)}")
        found = np.empty((stop - start, self.regions.patches_per_image, self._dim), np.float32)
        tables = []
        at = start
        while at < stop:
            number = bisect_right(self._ends, at) - 1
            first = self._ends[number]
            end = min(stop, self._ends[number + 1])
            table, descriptors = self._shard(number)
            tables.append(table[at - first : end - first])
            found[at - start : end - start] = descriptors[at - first : end - first]
            at = end
        return (tables[0] if len(tables) == 1 else joined(tables)), found

    def _shard(self, number: int) -> tuple[PictureTable, NDArray[Any]]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self._shards[number]
        name = f"{shard['name']}.{_PICTURES}"
        try:
            with open(self.folder / name, "rb") as file:
                if not is_whole(file, shard["files"][_PICTURES]):
                    raise self._damaged(name)
                table = read_table(file)
            name = f"{shard['name']}.{_DESCRIPTORS}"
            with open(self.folder / name, "rb") as file:
                if not is_whole(file, shard["files"][_DESCRIPTORS]):
                    raise self._damaged(name)
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            shape = (len(table), *shard["shape"])
            descriptors = np.frombuffer(mapped, KINDS[shard["kind"]]).reshape(shape)
        except IndexFolderError:
            raise
        except (OSError, KeyError, TypeError, ValueError):
            raise self._damaged(name) from None
        self._open[number] = table, descriptors
        while len(self._open) > KEPT_OPEN:
            self._open.popitem(last=False)
        return table, descriptors

    def _meta(self) -> dict[str, Any]:
        path = self.folder / STREAM_NAME
        if not path.is_file():
            raise IndexFolderError(f"{self.folder} is not a finished folder of shards (no {STREAM_NAME}): embed again.")
        meta = read_json(path)
        if not isinstance(meta, dict) or "digest" not in meta:
            raise self._damaged(STREAM_NAME)
        if meta.get("format") != FORMAT:
            raise IndexFolderError(
                f"{self.folder} holds shards of format {meta.get('format')}, this version reads {FORMAT}: embed again, "
                "or upgrade the program."
            )
        if sha256_of_json({key: value for key, value in meta.items() if key != "digest"}) != meta["digest"]:
            raise self._damaged(STREAM_NAME)
        return meta

    def _read_projection(self, listed: dict[str, Any] | None) -> Projection | None:
        if listed is None:
            return None
        try:
            with open(self.folder / PROJECTION_NAME, "rb") as file:
                if is_whole(file, listed):
                    file.seek(0)
                    return Projection.from_bytes(file.read())
        except OSError:
            pass
        raise self._damaged(PROJECTION_NAME)

    def _damaged(self, name: str) -> IndexFolderError:
        return IndexFolderError(
            f"{self.folder / name} is missing, truncated or not the file that was written: embed its pictures again, "
            "the other shards are kept."
        )


def shard_name(number: int) -> str:
    """What the files of a shard are called, without their suffix."""
    return f"shard-{number:05d}"


_SUFFIXES = (_PICTURES, _DESCRIPTORS)
