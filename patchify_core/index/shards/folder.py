"""A folder of shards: a `PictureStream` on disk, with descriptors and, where the recipe has them, boxes and maps.

Shards are written one by one, in any order and by any process (`write_shard`), and become a stream when all are there
(`seal_shards`). There is no pickle in it, and a shard's digest is checked before its first use.
"""

from __future__ import annotations

import io
import mmap
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.maps import KeptMaps, write_maps_to
from patchify_core.files import atomic, read_json, sha256_of_json, write_json
from patchify_core.index.codec.projection import Projection
from patchify_core.index.integrity import Digests, is_whole, listed_file
from patchify_core.index.picture_table import IndexedImage, PictureTable, joined, read_table, write_tables
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.stream import PictureStream

STREAM_NAME, PROJECTION_NAME = "stream.json", "projection.npy"
FORMAT = 1
KEPT_OPEN = 4
"""Shards that are mapped at a time."""

KINDS = {"float32": "<f4", "float16": "<f2"}
"""How descriptors may be kept. Half precision takes half the space; of a number in -1..1 it keeps three digits."""

_PICTURES, _DESCRIPTORS, _BOXES, _MAPS = "pictures", "descriptors", "boxes", "maps"
_REQUIRED = frozenset({_PICTURES, _DESCRIPTORS})
_SUFFIXES = _REQUIRED | {_BOXES, _MAPS}
"""The files of a shard, by their suffix; boxes and maps are there only where the recipe has them."""


def write_shard(
    folder: Path,
    number: int,
    pictures: Sequence[IndexedImage],
    descriptors: NDArray[np.floating[Any]],
    kind: str = "float32",
    boxes: NDArray[np.float32] | None = None,
    maps: Sequence[bytes] | None = None,
) -> dict[str, Any]:
    """Writes one shard, whole or not at all; one that stands there already is replaced.

    Args:
        folder: of the shards, made if missing.
        number: of the shard; the stream has the pictures in the order of these numbers.
        pictures: what it holds, at least one.
        descriptors: (n, P, D), rows of length 1.
        kind: one of `KINDS`.
        boxes: (n, P, 4) xyxy in pixels, where the regions depend on the pixels.
        maps: n packed feature maps (`features.maps.pack`), where they are kept.

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
    if boxes is not None and boxes.shape != (*descriptors.shape[:2], 4):
        raise PatchifyError(f"A shard takes a box for each of its descriptors, not {boxes.shape} of them.")
    folder.mkdir(parents=True, exist_ok=True)
    stem = shard_name(number)
    table = io.BytesIO()
    write_tables([PictureTable.of(pictures)], table)
    entry: dict[str, Any] = {"pictures": len(pictures), "shape": list(descriptors.shape[1:]), "kind": kind}
    # What a worker on a second machine writes at the same time has another name until it is whole.
    own = token_hex(8)
    values = np.ascontiguousarray(descriptors, KINDS[kind])
    parts: dict[str, memoryview] = {_PICTURES: table.getbuffer(), _DESCRIPTORS: values.data.cast("B")}
    if boxes is not None:
        parts[_BOXES] = np.ascontiguousarray(boxes, "<f4").data.cast("B")
    entry["files"] = {}
    for suffix, data in parts.items():
        digests = Digests()
        with atomic(folder / f"{stem}.{suffix}", own) as file:
            for at in range(0, len(data), 1 << 24):
                piece = bytes(data[at : at + (1 << 24)])
                file.write(piece)
                digests.update(piece)
        entry["files"][suffix] = digests.listed()
    if maps is not None:
        path = folder / f"{stem}.{_MAPS}"
        with atomic(path, own) as file:
            write_maps_to(file, maps, len(maps))
        entry["files"][_MAPS] = listed_file(path)
    write_json(folder / f"{stem}.json", entry, 1, own)
    return entry


def finished_shard(folder: Path, number: int) -> dict[str, Any] | None:
    """The entry of a shard that stands whole in a folder, by its digests; None if it does not."""
    path = folder / f"{shard_name(number)}.json"
    entry = read_json(path)
    suffixes = _suffixes_of(entry)
    return entry if suffixes and all(_stands(path, suffix, entry) for suffix in suffixes) else None


def _suffixes_of(entry: Any) -> frozenset[str]:
    """The suffixes of a shard's files, from its entry; none if it is not an entry."""
    files = entry.get("files") if isinstance(entry, dict) else None
    return frozenset(files) if isinstance(files, dict) and _REQUIRED <= {*files} <= _SUFFIXES else frozenset()


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
        first = entries[0] if entries else entry
        if any(entry.get(part) != first.get(part) for part in ("shape", "kind")) or (
            _suffixes_of(entry) != _suffixes_of(first)
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
        (folder / PROJECTION_NAME).write_bytes(projection.to_bytes())
        meta["projection"] = listed_file(folder / PROJECTION_NAME)
    meta["digest"] = sha256_of_json(meta)
    write_json(folder / STREAM_NAME, meta, 1, str(os.getpid()))


@dataclass(frozen=True, eq=False)
class _Shard:
    """An open shard: its pictures, and descriptors (n, P, D), boxes (n, P, 4) and maps as they lie on the disk."""

    pictures: PictureTable
    descriptors: NDArray[Any]
    boxes: NDArray[np.float32] | None
    maps: KeptMaps | None

    @classmethod
    def of(cls, files: dict[str, BinaryIO], maps: Path, entry: dict[str, Any]) -> _Shard:
        """Maps the files of a shard, which may be closed afterwards.

        Args:
            files: open, checked, by their suffixes.
            maps: path of the maps' file.
            entry: of the shard.

        Raises:
            KeyError, TypeError, ValueError: if they do not fit together.
            OSError: if one cannot be read.
        """
        files[_PICTURES].seek(0)
        table = read_table(files[_PICTURES])
        patches, dim = entry["shape"]
        descriptors = _numbers(files[_DESCRIPTORS], KINDS[entry["kind"]]).reshape(len(table), patches, dim)
        boxes = _numbers(files[_BOXES], "<f4").reshape(len(table), patches, 4) if _BOXES in files else None
        kept = KeptMaps(maps, files[_MAPS]) if _MAPS in files else None
        if kept is not None and len(kept) != len(table):
            raise ValueError("maps of other pictures")
        return cls(table, descriptors, boxes, kept)


def _numbers(file: BinaryIO, kind: str) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)


class _ShardMaps:
    """The feature maps of a folder of shards as `PackedMaps`."""

    def __init__(self, shards: ShardFolder) -> None:
        self._shards = shards

    def __len__(self) -> int:
        return len(self._shards)

    def packed(self, row: int) -> bytes:
        return self._shards.packed(row)


class ShardFolder(PictureStream):
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
            suffixes = {_suffixes_of(shard) for shard in self._shards}
            self._suffixes = suffixes.pop()
            if shapes != {(self.regions.patches_per_image, self.dim)} or suffixes or not self._suffixes:
                raise ValueError
            if (_BOXES in self._suffixes) != self.regions.needs_picture:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise self._damaged(STREAM_NAME) from None
        self.maps = _ShardMaps(self) if _MAPS in self._suffixes else None
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        for shard in self._shards:
            for suffix in sorted(self._suffixes):
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
        found = np.empty((stop - start, self.regions.patches_per_image, self.dim), np.float32)
        tables = []
        for shard, here, there in self._runs(start, stop):
            tables.append(shard.pictures[here])
            found[there] = shard.descriptors[here]
        return (tables[0] if len(tables) == 1 else joined(tables)), found

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """See `PictureStream.boxes`.

        Raises:
            IndexFolderError: if a shard is missing or damaged; it says which.
            PatchifyError: if the regions do not depend on the pixels.
        """
        if _BOXES not in self._suffixes:
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

    def _runs(self, start: int, stop: int) -> Iterator[tuple[_Shard, slice, slice]]:
        """The shards that have the pictures start..stop-1: each, which of its pictures, and which of the wanted."""
        if not 0 <= start < stop <= len(self):
            raise IndexError(f"pictures {start} to {stop} of {len(self)}")
        at = start
        while at < stop:
            number = bisect_right(self._ends, at) - 1
            first, end = self._ends[number], min(stop, self._ends[number + 1])
            yield self._shard(number), slice(at - first, end - first), slice(at - start, end - start)
            at = end

    def _shard(self, number: int) -> _Shard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        entry = self._shards[number]
        name = str(entry["name"])
        try:
            with ExitStack() as stack:
                files: dict[str, BinaryIO] = {}
                for suffix in sorted(self._suffixes):
                    name = f"{entry['name']}.{suffix}"
                    files[suffix] = stack.enter_context(open(self.folder / name, "rb"))
                    if not is_whole(files[suffix], entry["files"][suffix]):
                        raise self._damaged(name)
                shard = _Shard.of(files, self.folder / f"{entry['name']}.{_MAPS}", entry)
        except IndexFolderError:
            raise
        except (OSError, KeyError, TypeError, ValueError):
            raise self._damaged(name) from None
        self._open[number] = shard
        while len(self._open) > KEPT_OPEN:
            self._open.popitem(last=False)
        return shard

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
