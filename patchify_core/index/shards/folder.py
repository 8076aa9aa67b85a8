"""Folders of shards: sealed ones as a `PictureStream`, and the growing shards of a build.

Shards are written one by one (`shard.write_shard`) and become a stream once all are written (`seal_shards`). A build
also stores embedded pictures in shards, in its private folder, by the digests of their bytes, so that a resumed build
embeds only what is missing, even if files were renamed.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError
from patchify_core.files import read_json, sha256_of_json, write_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import is_intact, write_listed
from patchify_core.index.pictures import IndexedImage, PictureTable, joined
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.describe import Embedded
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
OPEN_SHARDS = 4
"""Shards that are mapped at a time."""


def seal_shards(
    folder: Path,
    recipe: Recipe,
    projection: Projection | None = None,
    shards: int | Iterable[int] | None = None,
) -> None:
    """Write the list of all shards with their digests, which makes the folder a stream.

    Args:
        folder: Folder of the shards, all of them written.
        recipe: How the descriptors were made.
        projection: Applied to the descriptors; None for none.
        shards: Their number, or their numbers; all in the folder by default.

    Raises:
        IndexFolderError: A shard is missing or does not fit the others.
        OSError: A file cannot be read or written.
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
            raise IndexFolderError(f"{path} has descriptors of another shape than the first shard: embed it again.")
        entries.append({"name": path.stem} | entry)
    meta: dict[str, Any] = {"format": FORMAT, **recipe.descriptors(), "projection": None, "shards": entries}
    if projection is not None:
        meta["projection"] = write_listed(folder / PROJECTION_NAME, [projection.to_bytes()])
    meta["digest"] = sha256_of_json(meta)
    write_json(folder / STREAM_NAME, meta, 1, str(os.getpid()))


class ShardFolder(PictureStream):
    """A folder of shards as a `PictureStream`.

    Args:
        folder: Sealed by `seal_shards`.

    Raises:
        IndexFolderError: It is missing, not sealed, damaged or of another format, or a shard is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        meta = self._meta()
        try:
            self.recipe = Recipe.from_descriptors(meta)
            self.digest = str(meta["digest"])
            self._shards: list[dict[str, Any]] = meta["shards"]
            self._ends = [0, *accumulate(int(shard["pictures"]) for shard in self._shards)]
            shapes = {tuple(shard["shape"]) for shard in self._shards}
            self.projection = self._read_projection(meta["projection"])
            suffixes = {suffixes_of(shard) for shard in self._shards}
            self._suffixes = suffixes.pop()
            self.recipe = replace(self.recipe, maps=MAPS in self._suffixes)
            if shapes != {(self.regions.patches_per_image, self.dim)} or suffixes or not self._suffixes:
                raise ValueError
            if (BOXES in self._suffixes) != self.regions.needs_picture:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise damaged_shard(self.folder / STREAM_NAME) from None
        place, shards = self.folder, self._shards
        self._shard = lru_cache(OPEN_SHARDS)(
            lambda number: open_shard(place, shards[number], str(shards[number]["name"]))
        )
        for shard in self._shards:
            for suffix in sorted(self._suffixes):
                if not (self.folder / f"{shard['name']}.{suffix}").is_file():
                    raise damaged_shard(self.folder / f"{shard['name']}.{suffix}")

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._ends[-1]

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`.

        Raises:
            IndexFolderError: A shard is missing or damaged.
        """
        descriptors = np.empty((stop - start, self.regions.patches_per_image, self.dim), np.float32)
        tables = []
        for shard, here, there in self._parts(start, stop):
            tables.append(shard.pictures[here])
            descriptors[there] = shard.descriptors[here]
        return joined(tables), descriptors

    def pictures(self, start: int, stop: int) -> PictureTable:
        """See `PictureStream.pictures`; errors are those of `batch`."""
        return joined([shard.pictures[here] for shard, here, _ in self._parts(start, stop)])

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `PictureStream.boxes`.

        Raises:
            IndexFolderError: A shard is missing or damaged.
            PatchifyError: The regions do not depend on the pixels.
        """
        if BOXES not in self._suffixes:
            return super().boxes(start, stop)
        boxes = np.empty((stop - start, self.regions.patches_per_image, 4), np.float32)
        for shard, here, there in self._parts(start, stop):
            assert shard.boxes is not None, "all shards have the same files"
            boxes[there] = shard.boxes[here]
        return boxes

    def packed(self, row: int) -> bytes:
        """Read the packed feature map of one picture.

        Raises:
            IndexFolderError: A shard is missing or damaged.
        """
        ((shard, here, _),) = self._parts(row, row + 1)
        assert shard.maps is not None, "all shards have the same files"
        return shard.maps.packed(here.start)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[OpenShard, slice, slice]]:
        """Yield each shard of the pictures start..stop-1, with the slices of its pictures and of the result."""
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
                f"{self.folder} has shards of format {meta.get('format')}, this version reads {FORMAT}: embed again, "
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
    """The shards of a build, which grow while it embeds.

    Args:
        folder: A private folder; intact shards of the same recipe in it are reused.
        recipe: How the descriptors are made.

    Attributes:
        known: Digest -> (shard, row) of the pictures on disk.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self._recipe = folder, recipe
        self.known: dict[str, tuple[int, int]] = {}
        self._pending: dict[str, Embedded] = {}
        self._entries: dict[int, dict[str, Any]] = {}
        # No reference to `self`: a cycle would keep the files open until garbage collection.
        entries = self._entries
        self._shard = lru_cache(OPEN_SHARDS)(lambda at: open_shard(folder, entries[at], shard_name(at), check=False))
        for leftover in folder.glob("shard-*.tmp"):
            leftover.unlink()
        for path in sorted(folder.glob("shard-*.json")):
            number, entry = int(path.stem.rpartition("-")[2]), read_json(path)
            if suffixes_of(entry) == suffixes_for(recipe):
                self._entries[number] = entry
                with suppress(IndexFolderError):  # damaged or incomplete
                    digests = open_shard(folder, entry, shard_name(number)).pictures.digests
                    self._register(number, [digest.tobytes().hex() for digest in digests])

    def __len__(self) -> int:
        """Return the number of pictures added since the last flush."""
        return len(self._pending)

    def add(self, new: Embedded) -> None:
        """Add a picture, which is `known` once it is flushed."""
        self._pending[new.image.sha256] = new

    def flush(self) -> None:
        """Write the added pictures as one shard.

        Raises:
            OSError: It cannot be written.
        """
        if not self._pending:
            return
        # One past the highest, not the count: a shard may be missing, and none may be overwritten.
        names = (path.name.partition(".")[0].rpartition("-")[2] for path in self.folder.glob("shard-*.*"))
        number = max(map(int, names), default=-1) + 1
        images = [new.image for new in self._pending.values()]
        self._entries[number] = write_embedded(self.folder, number, images, self._pending, self._recipe)
        self._register(number, list(self._pending))
        self._pending.clear()

    def descriptors(self, digest: str) -> NDArray[np.float32]:
        """(P, D) float32 descriptors of one picture."""
        shard, row = self._of(digest)
        return shard.descriptors[row]

    def boxes(self, digest: str) -> NDArray[np.float32]:
        """(P, 4) float32 xyxy pixel boxes of one picture, where the regions depend on the pixels."""
        shard, row = self._of(digest)
        assert shard.boxes is not None, "all shards have the same files"
        return shard.boxes[row]

    def packed(self, digest: str) -> bytes:
        """Packed feature map of one picture, if maps are stored."""
        shard, row = self._of(digest)
        assert shard.maps is not None, "all shards have the same files"
        return shard.maps.packed(row)

    def _register(self, number: int, digests: Sequence[str]) -> None:
        self.known.update({digest: (number, row) for row, digest in enumerate(digests)})

    def _of(self, digest: str) -> tuple[OpenShard, int]:
        number, row = self.known[digest]
        return self._shard(number), row


class GalleryStream(PictureStream):
    """The pictures of a gallery during a build: the new ones in its shards, the others in a store.

    Args:
        images: The pictures, in order.
        shards: The shards of the build.
        recipe: How the descriptors are made.
        old: The store with the boxes and maps of the other pictures, or None.
        rows: Digest -> row in `old`.
    """

    def __init__(
        self,
        images: Sequence[IndexedImage],
        shards: GrowingShards,
        recipe: Recipe,
        old: PatchStore | None,
        rows: Mapping[str, int],
    ) -> None:
        self.recipe, self.images, self._shards, self._old, self._rows = recipe, images, shards, old, rows

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.images)

    def pictures(self, start: int, stop: int) -> PictureTable:
        """See `PictureStream.pictures`."""
        return PictureTable.of(self.images[start:stop])

    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """See `PictureStream.batch`; for new pictures only."""
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
        """Packed feature map of one picture."""
        digest = self.images[row].sha256
        if digest in self._shards.known or self._old is None or self._old.maps is None:
            return self._shards.packed(digest)
        return self._old.maps.packed(self._rows[digest])
