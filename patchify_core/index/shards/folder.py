"""Folders of shards: sealed ones as a `PictureStream`, and those that grow while a build embeds.

Shards are written one by one (`shard.write_shard`) and become a stream when all are there (`seal_shards`). A build
keeps what it has embedded in shards too, in its private folder, where pictures are known by the digests of their bytes,
whatever they are called: whatever stops it, the next one embeds only what is missing.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.features.maps import PackedMaps
from patchify_core.files import read_json, sha256_of_json, write_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.embedding import Embedded
from patchify_core.index.integrity import is_intact, write_listed
from patchify_core.index.pictures import IndexedImage, PictureTable, joined
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.shard import (
    BOXES,
    MAPS,
    OpenShard,
    damaged_shard,
    open_shard,
    shard_name,
    suffixes_for,
    suffixes_of,
    write_embedded,
)
from patchify_core.index.store import PatchStore, PictureStream

STREAM_NAME, PROJECTION_NAME = "stream.json", "projection.npy"
FORMAT = 1
KEPT_OPEN = 4
"""Shards that are mapped at a time."""


def seal_shards(
    folder: Path,
    recipe: Recipe,
    projection: Projection | None = None,
    shards: int | Iterable[int] | None = None,
) -> None:
    """Make a folder of shards a stream: lists them all with their digests. To be called once all are written.

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
        first = entries[0] if entries else entry
        if any(entry.get(part) != first.get(part) for part in ("shape", "kind")) or (
            suffixes_of(entry) != suffixes_of(first)
        ):
            raise IndexFolderError(f"{path} holds descriptors of another shape than the first shard: embed it again.")
        entries.append({"name": path.stem} | entry)
    meta: dict[str, Any] = {
        "format": FORMAT,
        **recipe.descriptors(),
        "projection": None,
        "shards": entries,
    }
    if projection is not None:
        meta["projection"] = write_listed(folder / PROJECTION_NAME, [projection.to_bytes()])
    meta["digest"] = sha256_of_json(meta)
    write_json(folder / STREAM_NAME, meta, 1, str(os.getpid()))


class ShardFolder(PictureStream):
    """A folder of shards as a `PictureStream`.

    Args:
        folder: what `seal_shards` sealed.

    Raises:
        IndexFolderError: one sentence, if it is missing, not sealed, damaged or of another format, or a shard is
            missing.
    """

    def __init__(self, folder: str | Path) -> None:
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
            suffixes = {suffixes_of(shard) for shard in self._shards}
            self._suffixes = suffixes.pop()
            if shapes != {(self.regions.patches_per_image, self.dim)} or suffixes or not self._suffixes:
                raise ValueError
            if (BOXES in self._suffixes) != self.regions.needs_picture:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise damaged_shard(self.folder / STREAM_NAME) from None
        place, shards = self.folder, self._shards
        self._shard = lru_cache(KEPT_OPEN)(
            lambda number: open_shard(place, shards[number], str(shards[number]["name"]))
        )
        for shard in self._shards:
            for suffix in sorted(self._suffixes):
                if not (self.folder / f"{shard['name']}.{suffix}").is_file():
                    raise damaged_shard(self.folder / f"{shard['name']}.{suffix}")

    def __len__(self) -> int:
        """How many pictures there are."""
        return self._ends[-1]

    @property
    def maps(self) -> PackedMaps | None:
        """The stream itself, if its shards have maps."""
        return self if MAPS in self._suffixes else None

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`.

        Raises:
            IndexFolderError: if a shard is missing or damaged; it says which.
        """
        found = np.empty((stop - start, self.regions.patches_per_image, self.dim), np.float32)
        tables = []
        for shard, here, there in self._runs(start, stop):
            tables.append(shard.pictures[here])
            found[there] = shard.descriptors[here]
        return joined(tables), found

    def pictures(self, start: int, stop: int) -> PictureTable:
        """See `PictureStream.pictures`; errors are those of `batch`."""
        tables = [shard.pictures[here] for shard, here, _ in self._runs(start, stop)]
        return joined(tables)

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `PictureStream.boxes`.

        Raises:
            IndexFolderError: if a shard is missing or damaged; it says which.
            PatchifyError: if the regions do not depend on the pixels.
        """
        if BOXES not in self._suffixes:
            return super().boxes(start, stop)
        found = np.empty((stop - start, self.regions.patches_per_image, 4), np.float32)
        for shard, here, there in self._runs(start, stop):
            assert shard.boxes is not None, "all shards have the same files"
            found[there] = shard.boxes[here]
        return found

    def packed(self, row: int) -> bytes:
        """The packed feature map of one picture.

        Raises:
            IndexFolderError: if a shard is missing or damaged; it says which.
        """
        ((shard, here, _),) = self._runs(row, row + 1)
        assert shard.maps is not None, "all shards have the same files"
        return shard.maps.packed(here.start)

    def _runs(self, start: int, stop: int) -> Iterator[tuple[OpenShard, slice, slice]]:
        """The shards that have the pictures start..stop-1: each, which of its pictures, and which of the wanted."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"pictures {start} to {stop} of {len(self)}")
        at = start
        while at < stop:
            number = bisect_right(self._ends, at) - 1
            first, end = self._ends[number], min(stop, self._ends[number + 1])
            yield self._shard(number), slice(at - first, end - first), slice(at - start, end - start)
            at = end

    def _meta(self) -> dict[str, Any]:
        path = self.folder / STREAM_NAME
        if not path.is_file():
            raise IndexFolderError(f"{self.folder} is not a finished folder of shards (no {STREAM_NAME}): embed again.")
        meta = read_json(path)
        if not isinstance(meta, dict) or "digest" not in meta:
            raise damaged_shard(self.folder / STREAM_NAME)
        if meta.get("format") != FORMAT:
            raise IndexFolderError(
                f"{self.folder} holds shards of format {meta.get('format')}, this version reads {FORMAT}: embed again, "
                "or upgrade the program."
            )
        if sha256_of_json({key: value for key, value in meta.items() if key != "digest"}) != meta["digest"]:
            raise damaged_shard(self.folder / STREAM_NAME)
        return meta

    def _read_projection(self, listed: dict[str, Any] | None) -> Projection | None:
        if listed is None:
            return None
        try:
            with open(self.folder / PROJECTION_NAME, "rb") as file:
                if is_intact(file, listed):
                    file.seek(0)
                    return Projection.from_bytes(file.read())
        except OSError:
            pass
        raise damaged_shard(self.folder / PROJECTION_NAME)


class GrowingShards:
    """Pictures that were embedded, on disk.

    Args:
        folder: a folder that nobody else writes to; whole shards of the same recipe in it are taken over.
        recipe: how the descriptors are made.

    Attributes:
        known: digests of the pictures that are on the disk.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self._recipe = folder, recipe
        self.known: dict[str, tuple[int, int]] = {}
        self._fresh: dict[str, Embedded] = {}
        self._entries: dict[int, dict[str, Any]] = {}
        # Not of `self`: a circle would keep the files open until somebody collects the garbage.
        entries = self._entries
        self._shard = lru_cache(KEPT_OPEN)(lambda at: open_shard(folder, entries[at], shard_name(at), check=False))
        for left in folder.glob("shard-*.tmp"):
            left.unlink()
        for path in sorted(folder.glob("shard-*.json")):
            number, entry = int(path.stem.rpartition("-")[2]), read_json(path)
            if suffixes_of(entry) == suffixes_for(recipe):
                self._entries[number] = entry
                with suppress(IndexFolderError):  # it is torn, or its parts do not fit together
                    digests = open_shard(folder, entry, shard_name(number)).pictures.digests
                    self._know(number, [digest.tobytes().hex() for digest in digests])

    def __len__(self) -> int:
        """Pictures added since the last flush."""
        return len(self._fresh)

    def add(self, new: Embedded) -> None:
        """Take a picture; it is `known` once it is flushed."""
        self._fresh[new.image.sha256] = new

    def flush(self) -> None:
        """Write what is fresh as one shard.

        Raises:
            OSError: it cannot be written.
        """
        if not self._fresh:
            return
        # One past the highest, not the count: a shard may be missing, and none may ever be written over.
        names = (path.name.partition(".")[0].rpartition("-")[2] for path in self.folder.glob("shard-*.*"))
        number = max(map(int, names), default=-1) + 1
        images = [new.image for new in self._fresh.values()]
        self._entries[number] = write_embedded(self.folder, number, images, self._fresh, self._recipe)
        self._know(number, list(self._fresh))
        self._fresh.clear()

    def descriptors(self, digest: str) -> NDArray[np.float32]:
        """(P, D) float32 of one picture, as they were added."""
        shard, row = self._of(digest)
        return shard.descriptors[row]

    def boxes(self, digest: str) -> NDArray[np.float32]:
        """(P, 4) float32 xyxy in pixels of one picture, where the regions depend on the pixels."""
        shard, row = self._of(digest)
        assert shard.boxes is not None, "all shards have the same files"
        return shard.boxes[row]

    def packed(self, digest: str) -> bytes:
        """The packed feature map of one picture, where maps are kept."""
        shard, row = self._of(digest)
        assert shard.maps is not None, "all shards have the same files"
        return shard.maps.packed(row)

    def _know(self, number: int, digests: Sequence[str]) -> None:
        self.known.update({digest: (number, row) for row, digest in enumerate(digests)})

    def _of(self, digest: str) -> tuple[OpenShard, int]:
        number, row = self.known[digest]
        return self._shard(number), row


class GalleryStream(PictureStream):
    """The pictures of a gallery as a build found them: the new ones are in its shards, the others in a store.

    Args:
        images: the pictures, in order.
        shards: those that were embedded.
        recipe: how they are described.
        old: the store that has the others, if its boxes and maps are asked for; None otherwise.
        rows: digest -> row in `old` of those.
    """

    def __init__(
        self,
        images: Sequence[IndexedImage],
        shards: GrowingShards,
        recipe: Recipe,
        old: PatchStore | None,
        rows: Mapping[str, int],
    ) -> None:
        self.encoder, self.regions, self.features = recipe.encoder, recipe.regions, recipe.features
        self.images, self._shards, self._old, self._rows = images, shards, old, rows
        self._keeps_maps = recipe.maps

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.images)

    @property
    def maps(self) -> PackedMaps | None:
        """The stream itself, if maps are kept."""
        return self if self._keeps_maps else None

    def pictures(self, start: int, stop: int) -> PictureTable:
        """See `PictureStream.pictures`."""
        return PictureTable.of(self.images[start:stop])

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`; of new pictures only."""
        images = self.images[start:stop]
        return PictureTable.of(images), np.stack([self._shards.descriptors(image.sha256) for image in images])

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `PictureStream.boxes`."""
        return np.stack([self._boxes_of(image.sha256) for image in self.images[start:stop]])

    def _boxes_of(self, digest: str) -> NDArray[np.float32]:
        if self._old is not None and digest in self._rows:
            return self._old.boxes_of(self._rows[digest]).astype(np.float32)
        return self._shards.boxes(digest)

    def packed(self, row: int) -> bytes:
        """The packed feature map of one picture."""
        digest = self.images[row].sha256
        if digest in self._shards.known or self._old is None or self._old.maps is None:
            return self._shards.packed(digest)
        return self._old.maps.packed(self._rows[digest])
