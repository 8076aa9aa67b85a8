"""A visitor's index as a download, and the restoring of one.

FAISS trusts what it reads, and a restored index comes from a stranger, so FAISS reads none of it. The page builds its
indexes like the bundled one (`build_index(like=...)`), whose projection and codec are at hand; a visitor's index adds
only codes. The file must be, byte for byte, what FAISS writes for that codec and number of patches, except for the
codes, which are plain numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np

from patchify_core.demo.own.boxes import MOST
from patchify_core.demo.own.collection import EXPANSION
from patchify_core.errors import ArchiveError, IndexFolderError, PatchifyError
from patchify_core.features.maps import KeptMaps, packed_shape, unpack
from patchify_core.imaging.archives import ArchiveSettings, members, names
from patchify_core.index.big.parts import framed
from patchify_core.index.build import BuildSettings
from patchify_core.index.codec.codes import Codes, encode_codes
from patchify_core.index.folder import FAISS_NAME, MAPS_NAME, META_NAME, PROJECTION_NAME, listed_images, read_meta
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.pictures import Pictures
from patchify_core.index.recipe import Recipe

PIECE = 1 << 18
"""Bytes read at a time."""

_EACH, _END = 30 + 16 + 46, 22
"""Bytes of a zip archive besides names and contents: per file (local header, data descriptor, central directory entry)
and at the end."""

BOXES_NAME = "annotations.json"
KNOWN_FILES = (META_NAME, FAISS_NAME, PROJECTION_NAME, MAPS_NAME, BOXES_NAME)
MOST_MEMBERS = 20
"""Files in an archive above which it cannot be an index."""

MAP_BYTES = 200_000
"""Largest feature map of a picture; the bundled encoder's take 59 kB."""

ROOM_FOR_SHAPES = 2
"""Ratio by which a map may be longer than the longest one of the bundled index."""

FOREIGN = "That index was not made by this page with these settings: send one that you downloaded here."
DAMAGED = "That index is damaged or was edited: send the file as you downloaded it."


def is_index(path: Path) -> bool:
    """Whether an archive contains an index rather than pictures."""
    try:
        listed = names(path)
    except ArchiveError:  # whoever unpacks it reports this
        return False
    return len(listed) <= MOST_MEMBERS and META_NAME in {PurePosixPath(name).name for name in listed}


def pack_index(folder: Path, more: dict[str, bytes]) -> tuple[int, Iterator[bytes]]:
    """Pack an index folder into a zip archive while it is sent.

    Codes do not compress, so the archive is not compressed and its length is known in advance.

    Args:
        folder: Of the index; its files are opened here, so that they may be deleted meanwhile.
        more: Further files, name -> content.

    Returns:
        The length in bytes, and the bytes in pieces.

    Raises:
        OSError: If the folder is gone.
    """
    with ExitStack() as opened:
        files = [(path.name, opened.enter_context(open(path, "rb"))) for path in sorted(folder.iterdir())]
        sizes = [(name, os.fstat(file.fileno()).st_size) for name, file in files]
        sizes += [(name, len(data)) for name, data in more.items()]
        open_files = opened.pop_all()
    return _END + sum(_EACH + 2 * len(name.encode()) + size for name, size in sizes), _pieces(open_files, files, more)


def _pieces(opened: ExitStack, files: Sequence[tuple[str, BinaryIO]], more: dict[str, bytes]) -> Iterator[bytes]:
    sink = _Sink()
    with opened, zipfile.ZipFile(cast(BinaryIO, sink), "w", zipfile.ZIP_STORED) as archive:
        for name, file in files:
            with archive.open(name, "w") as member:
                while piece := file.read(PIECE):
                    member.write(piece)
                    yield sink.take()
        for name, data in more.items():
            archive.writestr(name, data)
            yield sink.take()
    yield sink.take()


class _Sink:
    """A write-only file whose content is taken out as it grows."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def restore_index(archive: Path, folder: Path, like: PatchIndex, most_pictures: int, most_bytes: int) -> PatchIndex:
    """Read an index from an archive.

    Args:
        archive: What the visitor sent.
        folder: For its files; created here.
        like: The index whose encoder, regions, features, projection and codec it must have.
        most_pictures: That it may contain.
        most_bytes: That it may take unpacked.

    Raises:
        PatchifyError: One sentence, if it is not such an index.
    """
    folder.mkdir(parents=True)
    try:
        _unpack(archive, folder, _sizes(like, most_pictures), min(most_bytes, EXPANSION * archive.stat().st_size))
        return _read(folder, like, most_pictures)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def restored_boxes(folder: Path, index: PatchIndex) -> list[tuple[str, str, list[float]]]:
    """Read the boxes of a restored index: SHA-256 of the picture, name of the object, and x1, y1, x2, y2 in pixels.

    Args:
        folder: Of the restored index; it may contain no boxes.
        index: The restored index.

    Raises:
        PatchifyError: If they are not as this page writes them.
    """
    path = folder / BOXES_NAME
    if not path.exists():
        return []
    digests = {image.file_name: image.sha256 for image in index.images}
    try:
        data = json.loads(path.read_bytes())
        pictures = {row["id"]: digests[row["file_name"]] for row in data["images"] if row["split"] == "gallery"}
        objects = {row["id"]: row["name"] for row in data["categories"]}
        boxes = []
        for row in data["annotations"][: 2 * MOST]:
            if row["image_id"] in pictures:  # else it belongs to a query, which repeats one of these boxes
                x, y, width, height = map(float, row["bbox"])
                boxes.append((pictures[row["image_id"]], objects[row["category_id"]], [x, y, x + width, y + height]))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise PatchifyError(DAMAGED) from None
    return boxes


def _sizes(like: PatchIndex, pictures: int) -> dict[str, int]:
    """Return the largest size of each file of an index of so many pictures: they are read into memory."""
    return {
        META_NAME: 10_000 + 1_500 * pictures,
        FAISS_NAME: 10_000_000 + int(like.bytes_per_image * pictures),
        PROJECTION_NAME: 0 if like.projection is None else len(like.projection.to_bytes()),
        MAPS_NAME: MAP_BYTES * pictures,
        BOXES_NAME: 100_000 + 1_500 * pictures,
    }


def _unpack(archive: Path, folder: Path, sizes: dict[str, int], most_bytes: int) -> None:
    limits = ArchiveSettings(members=MOST_MEMBERS, member_bytes=most_bytes, total_bytes=most_bytes)
    for member in members(archive, limits, lambda name: sizes.get(PurePosixPath(name).name, 0)):
        name = PurePosixPath(member.name).name
        if name not in KNOWN_FILES:
            continue
        if member.data is None:
            raise ArchiveError(f"{name} in that index cannot be read, because {member.refused}.")
        (folder / name).write_bytes(member.data)


def _read(folder: Path, like: PatchIndex, most_pictures: int) -> PatchIndex:
    try:
        meta = read_meta(folder)
    except IndexFolderError:
        raise PatchifyError(DAMAGED) from None
    try:
        foreign = Recipe.from_meta(meta).differences(like.recipe)
    except (KeyError, TypeError, AttributeError, ValueError, PatchifyError):
        raise PatchifyError(FOREIGN) from None
    if foreign:
        raise PatchifyError(FOREIGN)
    listed = meta.get("images")
    if not isinstance(listed, list) or not listed:
        raise PatchifyError(DAMAGED)
    if len(listed) > most_pictures:
        raise PatchifyError(f"That index contains {len(listed):,} pictures, and there is room for {most_pictures:,}.")
    try:
        images = listed_images(listed)
        if like.projection is not None and (folder / PROJECTION_NAME).read_bytes() != like.projection.to_bytes():
            raise PatchifyError(FOREIGN)
        codes = _codes((folder / FAISS_NAME).read_bytes(), like, len(images))
        maps = None
        if like.maps is not None:
            maps = KeptMaps(folder / MAPS_NAME)
            _check_maps(maps, len(images), like.maps, like.encoder.dim)
    except PatchifyError:
        raise
    except (OSError, ValueError, TypeError):
        raise PatchifyError(DAMAGED) from None
    return PatchIndex(like.recipe, Pictures(images, maps=maps), codes)


def _codes(data: bytes, like: PatchIndex, pictures: int) -> Codes:
    """Read the codes from a file in FAISS's format without FAISS."""
    import faiss

    empty = encode_codes(
        lambda row: np.empty((0, like.encoder.dim), np.float32),
        0,
        like.regions,
        like.encoder.dim,
        BuildSettings.like(like),
        Codes(like.factory, like.codes, like.projection),
    )
    codec: Any = faiss.downcast_index(empty.codes)
    if not isinstance(codec, faiss.IndexFlatCodes) or like.fine is not None:
        raise PatchifyError("The page cannot take indexes of this kind back: send the pictures again.")
    patches, size = pictures * like.patches_per_image, int(codec.sa_code_size())
    head, tail = framed(codec, patches)  # everything but the codes must be what FAISS writes here
    if len(data) != len(head) + patches * size + len(tail) or not (data.startswith(head) and data.endswith(tail)):
        raise PatchifyError(DAMAGED)
    codec.add_sa_codes(np.frombuffer(data, np.uint8, patches * size, len(head)).reshape(patches, size).copy())
    return empty  # not `codec`, a view that does not keep it alive


def _check_maps(maps: KeptMaps, pictures: int, like: KeptMaps, channels: int) -> None:
    """Raise ValueError unless these are so many maps with so many channels, none much larger than those of `like`."""
    if len(maps) != pictures:
        raise ValueError("maps of other pictures")
    longest = max(max(packed_shape(like.packed(row))[:2]) for row in range(len(like)))
    for row in range(pictures):
        packed = maps.packed(row)
        *sides, depth = packed_shape(packed)  # before it is unpacked: a small file may be a very large map
        if depth != channels or max(sides) > ROOM_FOR_SHAPES * longest:
            raise ValueError("a map of another kind")
        unpack(packed)
