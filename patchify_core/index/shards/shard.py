"""One shard on disk: pictures with descriptors and, depending on the recipe, boxes and maps.

Any process can write any shard at any time, atomically. There is no pickle in it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.maps import KeptMaps, write_maps_to
from patchify_core.files import atomic, read_json, write_json
from patchify_core.index.integrity import is_intact, listed_file, write_listed
from patchify_core.index.pictures import IndexedImage, PictureTable, read_table, table_pieces
from patchify_core.index.recipe import Recipe
from patchify_core.index.shards.describe import Embedded

KINDS = {"float32": "<f4", "float16": "<f2"}
"""Number formats of stored descriptors. Half precision has three digits for numbers in -1..1."""

_PICTURES, _DESCRIPTORS, BOXES, MAPS = "pictures", "descriptors", "boxes", "maps"
_REQUIRED = frozenset({_PICTURES, _DESCRIPTORS})
_SUFFIXES = _REQUIRED | {BOXES, MAPS}
"""Suffixes of a shard's files; boxes and maps depend on the recipe."""


def shard_name(number: int) -> str:
    """File name of a shard without suffix."""
    return f"shard-{number:05d}"


def write_shard(
    folder: Path,
    number: int,
    pictures: Sequence[IndexedImage],
    descriptors: NDArray[np.floating[Any]],
    kind: str = "float32",
    boxes: NDArray[np.float32] | None = None,
    maps: Sequence[bytes] | None = None,
) -> dict[str, Any]:
    """Write one shard atomically, replacing an existing one.

    Args:
        folder: Folder of the shards, made if missing.
        number: Number of the shard; the stream has the pictures in the order of these numbers.
        pictures: Its n pictures, at least one.
        descriptors: (n, P, D), rows of length 1.
        kind: One of `KINDS`.
        boxes: (n, P, 4) xyxy in pixels, where the regions depend on the pixels.
        maps: n packed feature maps (`features.maps.pack`), or None.

    Returns:
        The shard's entry with the digests of its files, as `finished_shard` returns it.

    Raises:
        PatchifyError: Pictures and descriptors do not fit together.
        OSError: It cannot be written.
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
    own = token_hex(8)  # another machine may write the same shard at the same time
    values = np.ascontiguousarray(descriptors, KINDS[kind])
    parts: dict[str, Iterable[bytes | memoryview]] = {
        _PICTURES: table_pieces([PictureTable.of(pictures)]),
        _DESCRIPTORS: [values.data.cast("B")],
    }
    if boxes is not None:
        parts[BOXES] = [np.ascontiguousarray(boxes, "<f4").data.cast("B")]
    entry: dict[str, Any] = {"pictures": len(pictures), "shape": list(descriptors.shape[1:]), "kind": kind}
    entry["files"] = {suffix: write_listed(folder / f"{stem}.{suffix}", data, own) for suffix, data in parts.items()}
    if maps is not None:
        path = folder / f"{stem}.{MAPS}"
        with atomic(path, own) as file:
            write_maps_to(file, maps, len(maps))
        entry["files"][MAPS] = listed_file(path)
    write_json(folder / f"{stem}.json", entry, 1, own)
    return entry


def write_embedded(
    folder: Path,
    number: int,
    pictures: Sequence[IndexedImage],
    embedded: Mapping[str, Embedded],
    recipe: Recipe,
    kind: str = "float32",
) -> dict[str, Any]:
    """Write one shard of embedded pictures; returns and raises as `write_shard`.

    Args:
        folder: See `write_shard`.
        number: See `write_shard`.
        pictures: Its pictures; duplicates are allowed.
        embedded: The embedded pictures by digest.
        recipe: Whether there are boxes and maps.
        kind: See `write_shard`.
    """
    rows = [embedded[picture.sha256] for picture in pictures]
    boxes = np.stack([cast("NDArray[np.float32]", row.boxes) for row in rows]) if recipe.regions.needs_picture else None
    maps = [row.packed or b"" for row in rows] if recipe.maps else None
    return write_shard(folder, number, pictures, np.stack([row.descriptors for row in rows]), kind, boxes, maps)


def finished_shard(folder: Path, number: int) -> dict[str, Any] | None:
    """Return the entry of a shard whose digests all match; None if it is missing or damaged."""
    path = folder / f"{shard_name(number)}.json"
    entry = read_json(path)
    suffixes = suffixes_of(entry)
    return entry if suffixes and all(_intact(path, suffix, entry) for suffix in suffixes) else None


def suffixes_of(entry: Any) -> frozenset[str]:
    """Return the suffixes of a shard's files from its entry; empty if the entry is invalid."""
    files = entry.get("files") if isinstance(entry, dict) else None
    return frozenset(files) if isinstance(files, dict) and _REQUIRED <= {*files} <= _SUFFIXES else frozenset()


def _intact(path: Path, suffix: str, entry: dict[str, Any]) -> bool:
    try:
        with open(path.with_suffix(f".{suffix}"), "rb") as file:
            return is_intact(file, entry["files"][suffix])
    except (OSError, KeyError, TypeError):
        return False


def suffixes_for(recipe: Recipe) -> frozenset[str]:
    """Return the suffixes of the files of a shard with this recipe."""
    return _REQUIRED | ({BOXES} if recipe.regions.needs_picture else set()) | ({MAPS} if recipe.maps else set())


@dataclass(frozen=True, eq=False)
class OpenShard:
    """A mapped shard: its pictures, descriptors (n, P, D), boxes (n, P, 4) and feature maps."""

    pictures: PictureTable
    descriptors: NDArray[Any]
    boxes: NDArray[np.float32] | None
    maps: KeptMaps | None


def open_shard(folder: Path, entry: dict[str, Any], stem: str, check: bool = True) -> OpenShard:
    """Verify the files of a shard and map them.

    Args:
        folder: Folder of the shards.
        entry: Of the shard.
        stem: File name without suffix.
        check: Verify the digests; False if this process has done so or has written the files in a private folder.

    Raises:
        IndexFolderError: A file is missing or damaged; the message names it.
    """
    name = stem
    try:
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for suffix in sorted(entry["files"]):
                name = f"{stem}.{suffix}"
                files[suffix] = stack.enter_context(open(folder / name, "rb"))
                if check and not is_intact(files[suffix], entry["files"][suffix]):
                    raise ValueError
            files[_PICTURES].seek(0)
            table = read_table(files[_PICTURES])
            patches, dim = entry["shape"]
            descriptors = _mapped(files[_DESCRIPTORS], KINDS[entry["kind"]]).reshape(len(table), patches, dim)
            boxes = _mapped(files[BOXES], "<f4").reshape(len(table), patches, 4) if BOXES in files else None
            maps = KeptMaps(folder / f"{stem}.{MAPS}", files[MAPS]) if MAPS in files else None
            if maps is not None and len(maps) != len(table):
                raise ValueError("maps of other pictures")
            return OpenShard(table, descriptors, boxes, maps)
    except (OSError, KeyError, TypeError, ValueError):
        raise damaged_shard(folder / name) from None


def damaged_shard(path: Path) -> IndexFolderError:
    """Error for a file that is not the one that was written."""
    return IndexFolderError(
        f"{path} is missing, truncated or not the file that was written: embed its pictures again, the other shards "
        "are kept."
    )


def _mapped(file: BinaryIO, kind: str) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)
