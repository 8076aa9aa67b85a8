"""One shard on disk: pictures with descriptors and, where the recipe has them, boxes and maps.

It is written whole or not at all, in any order with others and by any process. There is no pickle in it.
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
from patchify_core.index.embedding import Embedded
from patchify_core.index.integrity import is_intact, listed_file, write_listed
from patchify_core.index.pictures import IndexedImage, PictureTable, read_table, table_pieces
from patchify_core.index.recipe import Recipe

KINDS = {"float32": "<f4", "float16": "<f2"}
"""How descriptors may be kept. Half precision takes half the space; of a number in -1..1 it keeps three digits."""

_PICTURES, _DESCRIPTORS, BOXES, MAPS = "pictures", "descriptors", "boxes", "maps"
_REQUIRED = frozenset({_PICTURES, _DESCRIPTORS})
_SUFFIXES = _REQUIRED | {BOXES, MAPS}
"""The files of a shard, by their suffix; boxes and maps are there only where the recipe has them."""


def shard_name(number: int) -> str:
    """What the files of a shard are called, without their suffix."""
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
    """Write one shard, whole or not at all; one that stands there already is replaced.

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
    # What a worker on a second machine writes at the same time has another name until it is whole.
    own = token_hex(8)
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
    """Write one shard of pictures that went through the encoder.

    Args:
        folder: see `write_shard`.
        number: see `write_shard`.
        pictures: what it holds; a picture may be there twice.
        embedded: what the encoder made of each, by the digest of its bytes.
        recipe: how it was made: whether there are boxes and maps.
        kind: see `write_shard`.

    Returns:
        See `write_shard`; so for what is raised.
    """
    rows = [embedded[picture.sha256] for picture in pictures]
    boxes = np.stack([cast("NDArray[np.float32]", row.boxes) for row in rows]) if recipe.regions.needs_picture else None
    maps = [row.packed or b"" for row in rows] if recipe.maps else None
    return write_shard(folder, number, pictures, np.stack([row.descriptors for row in rows]), kind, boxes, maps)


def finished_shard(folder: Path, number: int) -> dict[str, Any] | None:
    """The entry of a shard that stands whole in a folder, by its digests; None if it does not."""
    path = folder / f"{shard_name(number)}.json"
    entry = read_json(path)
    suffixes = suffixes_of(entry)
    return entry if suffixes and all(_stands(path, suffix, entry) for suffix in suffixes) else None


def suffixes_of(entry: Any) -> frozenset[str]:
    """The suffixes of a shard's files, from its entry; none if it is not an entry."""
    files = entry.get("files") if isinstance(entry, dict) else None
    return frozenset(files) if isinstance(files, dict) and _REQUIRED <= {*files} <= _SUFFIXES else frozenset()


def _stands(path: Path, suffix: str, entry: dict[str, Any]) -> bool:
    try:
        with open(path.with_suffix(f".{suffix}"), "rb") as file:
            return is_intact(file, entry["files"][suffix])
    except (OSError, KeyError, TypeError):
        return False


def suffixes_for(recipe: Recipe) -> frozenset[str]:
    """The suffixes of the files that a shard of this recipe has."""
    return _REQUIRED | ({BOXES} if recipe.regions.needs_picture else set()) | ({MAPS} if recipe.maps else set())


@dataclass(frozen=True, eq=False)
class OpenShard:
    """An open shard: its pictures, and descriptors (n, P, D), boxes (n, P, 4) and maps as they lie on the disk."""

    pictures: PictureTable
    descriptors: NDArray[Any]
    boxes: NDArray[np.float32] | None
    maps: KeptMaps | None

    @classmethod
    def of(cls, files: dict[str, BinaryIO], maps: Path, entry: dict[str, Any]) -> OpenShard:
        """Map the files of a shard, which may be closed afterwards.

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
        boxes = _numbers(files[BOXES], "<f4").reshape(len(table), patches, 4) if BOXES in files else None
        kept = KeptMaps(maps, files[MAPS]) if MAPS in files else None
        if kept is not None and len(kept) != len(table):
            raise ValueError("maps of other pictures")
        return cls(table, descriptors, boxes, kept)


def open_shard(folder: Path, entry: dict[str, Any], stem: str, check: bool = True) -> OpenShard:
    """Check the files of a shard by their digests, and maps them.

    Args:
        folder: of the shards.
        entry: of the shard.
        stem: what its files are called, without their suffixes.
        check: whether to; not where this process has checked or written them, and nobody else writes there.

    Raises:
        IndexFolderError: one is missing or damaged; it says which.
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
            return OpenShard.of(files, folder / f"{stem}.{MAPS}", entry)
    except (OSError, KeyError, TypeError, ValueError):
        raise damaged_shard(folder / name) from None


def damaged_shard(path: Path) -> IndexFolderError:
    """What is said of a file that is not the one that was written."""
    return IndexFolderError(
        f"{path} is missing, truncated or not the file that was written: embed its pictures again, the other shards "
        "are kept."
    )


def _numbers(file: BinaryIO, kind: str) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), kind)
