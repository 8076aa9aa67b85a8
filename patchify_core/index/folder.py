"""An index on disk: a folder that is loaded only if all of it fits together. There is no pickle in it.

`meta.json` (how it was made, of which pictures, and the digest of every other file), `index.faiss`, and where they are
needed `projection.npy` (a learned projection), `fine.faiss` (finer codes), `boxes.npy` (boxes that depend on the
pictures' pixels) and `maps.bin` (feature maps, `maps.KeptMaps`). A big index (`big`) has its pictures in
`pictures.bin` (`PictureTable`) instead of `meta.json`, its codes stay on the disk, mapped, and `lists.npy` says where a
patch's code is. How they are checked is in `integrity.py`; a build may
replace the folder while it is read, and the reader gets the old index or the new one.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.maps import KeptMaps, PackedMaps, write_maps
from patchify_core.files import sha256_of_json
from patchify_core.index.base import Pictures
from patchify_core.index.codec.codes import Codes
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import read_faiss_file, write_faiss_file
from patchify_core.index.integrity import (
    META_NAME,
    damaged,
    listed_file,
    npy_array,
    npy_bytes,
    opened_whole,
    standing,
    steadily,
    unreadable,
    write_listed,
    write_meta,
)
from patchify_core.index.patch_index import PatchIndex, SearchPlan
from patchify_core.index.picture_table import IndexedImage, PictureTable, read_table
from patchify_core.index.recipe import MAPS_NAME, Recipe, plain_record

FORMAT = 2
FAISS_NAME, FINE_NAME = "index.faiss", "fine.faiss"
PROJECTION_NAME, BOXES_NAME = "projection.npy", "boxes.npy"
PICTURES_NAME, LISTS_NAME = "pictures.bin", "lists.npy"
NUMBERS_NAME = "numbers.npy"  # beside vectors that are in Milvus
KNOWN_NAMES = frozenset({FAISS_NAME, FINE_NAME, PROJECTION_NAME, BOXES_NAME, MAPS_NAME, PICTURES_NAME, LISTS_NAME})

_OURS = KNOWN_NAMES | {NUMBERS_NAME, META_NAME, f"{META_NAME}.tmp"}
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that desktops leave in every folder that they show."""


def write_index(index: PatchIndex, folder: Path, root: str, packed: PackedMaps | None = None) -> None:
    """Writes the files into an existing folder. `build.py` renames that folder into place.

    Args:
        index: what to write.
        folder: an existing, private folder.
        root: the gallery's root as `meta.json` shall name it: absolute, or relative to the index folder.
        packed: feature maps in the order of the pictures; the index's own, if it has any, by default.

    Raises:
        OSError: if a file cannot be written.
        IndexFolderError: if it is a big index, whose codes are nowhere but in its own files.
    """
    if isinstance(index.images, PictureTable):
        raise IndexFolderError("A big index is not written anew: copy its folder, or build it again.")
    files: dict[str, FileContent] = {
        FAISS_NAME: write_faiss_file(index.codes, folder / FAISS_NAME),
        FINE_NAME: None if index.fine is None else write_faiss_file(index.fine, folder / FINE_NAME),
        MAPS_NAME: maps_file(folder, index.maps if packed is None else packed),
        PROJECTION_NAME: projection_pieces(index.projection),
        BOXES_NAME: npy_pieces(index.boxes),
    }
    write_folder(folder, index.meta() | {"root": root}, files)


FileContent = Iterable[bytes | memoryview] | dict[str, Any] | None
"""The bytes of a file that is to be written, or the entry of one that is there already; None for no such file."""


def write_folder(folder: Path, meta: Mapping[str, Any], files: Mapping[str, FileContent]) -> None:
    """Writes the files of an index into an existing folder, and `meta.json` last.

    Args:
        folder: an existing, private folder.
        meta: what `meta.json` says, beside the format and the files.
        files: by their names.

    Raises:
        OSError: if a file cannot be written.
    """
    listed = {
        name: content if isinstance(content, dict) else write_listed(folder / name, content)
        for name, content in files.items()
        if content is not None
    }
    write_meta(folder, {"format": FORMAT} | dict(meta) | {"files": listed})


def maps_file(folder: Path, maps: PackedMaps | None) -> dict[str, Any] | None:
    """Writes feature maps where there are any; returns the entry of their file."""
    if maps is None:
        return None
    write_maps(maps, folder / MAPS_NAME)
    return listed_file(folder / MAPS_NAME)


def projection_pieces(projection: Projection | None) -> list[bytes] | None:
    """The file of a projection, if there is one."""
    return None if projection is None else [projection.to_bytes()]


def npy_pieces(array: NDArray[Any] | None) -> list[bytes] | None:
    """The .npy file of an array, if there is one."""
    return None if array is None else [npy_bytes(array)]


def load_index(folder: Path) -> PatchIndex:
    """Loads an index folder if all of it fits together; every byte is checked first (see `integrity`).

    Raises:
        IndexFolderError: one sentence, if the folder is missing, truncated, edited or of another format.
        PatchifyError: if its regions are of a kind that this version does not know.
    """
    return steadily(folder, lambda place: _load(place, folder))


def _load(place: Path, folder: Path) -> PatchIndex:
    """Loads what stands at `place`, which is `folder` except while a build swaps it."""
    meta = _read_meta(place, folder)
    if "store" in meta:
        raise IndexFolderError(
            f"The descriptors of {folder} are in Milvus, and here they are needed in the folder itself: name an index "
            "that was made without --store milvus, or index with --store milvus again."
        )
    try:
        files, root, recipe = checked_files(meta, folder), (folder / meta["root"]).resolve(), Recipe.from_meta(meta)
        if (meta["images"] is None) != (PICTURES_NAME in files):
            raise damaged(folder, META_NAME)
        images = None if meta["images"] is None else listed_images(meta["images"])
        plan = None if "search" not in meta else SearchPlan(**meta["search"])
    except PatchifyError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError):
        raise damaged(folder, META_NAME) from None
    with opened_whole(place, files, folder) as at:
        try:
            if images is None:
                return _mapped(at, folder, recipe, root, plan)
            projection, boxes, maps = read_beside(at, folder)
            fine = read_faiss_file(at[FINE_NAME]) if FINE_NAME in at else None
            codes = Codes(recipe.factory, read_faiss_file(at[FAISS_NAME]), projection, fine)
            return PatchIndex(recipe, Pictures(images, root, boxes, maps), codes, plan)
        except (ValueError, RuntimeError, AttributeError):  # of numpy and FAISS, and what does not fit together
            raise damaged(folder, META_NAME) from None


def _mapped(at: dict[str, BinaryIO], folder: Path, recipe: Recipe, root: Path, plan: SearchPlan | None) -> PatchIndex:
    """A big index: its pictures, boxes and codes stay on the disk."""
    from patchify_core.index.mapped import OnDisk, PatchCodes, ReadAhead, map_codes, map_numbers

    projection, boxes, maps = read_beside(at, folder, mapped=True)
    coarse = map_codes(at[FAISS_NAME])
    located = PatchCodes(coarse, map_numbers(at[LISTS_NAME])) if LISTS_NAME in at else None
    finer = map_codes(at[FINE_NAME]) if FINE_NAME in at else None
    if finer is None and located is None:
        raise ValueError("codes that cannot be found by number")
    codes = Codes(recipe.factory, coarse.codes, projection, None if finer is None else finer.codes)
    pictures = Pictures(read_table(at[PICTURES_NAME]), root, boxes, maps)
    return PatchIndex(recipe, pictures, codes, plan, OnDisk(located, ReadAhead(coarse, finer)))


def read_beside(
    at: dict[str, BinaryIO], folder: Path, mapped: bool = False
) -> tuple[Projection | None, NDArray[np.float32] | None, KeptMaps | None]:
    """Projection, boxes and feature maps of an index, where it has them; its boxes mapped if that is asked for.

    Raises:
        ValueError: If one of the files is something else.
    """
    projection = boxes = maps = None
    if PROJECTION_NAME in at:
        projection = Projection.from_bytes(at[PROJECTION_NAME].read())
    if BOXES_NAME in at:
        file = at[BOXES_NAME]
        boxes = npy_array(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if mapped else file.read())
    if MAPS_NAME in at:
        maps = KeptMaps(folder / MAPS_NAME, at[MAPS_NAME])
    return projection, boxes, maps


def checked_files(meta: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """The files that `meta.json` lists, by name; raises IndexFolderError unless they are an index's."""
    files = meta.get("files")
    if not isinstance(files, dict) or FAISS_NAME not in files or not {*files} <= KNOWN_NAMES:
        raise damaged(folder, META_NAME)
    return files


def recipe_of(meta: dict[str, Any], folder: Path) -> Recipe:
    """The recipe of an index folder from its `meta.json`; raises IndexFolderError if that does not say it."""
    try:
        return Recipe.from_meta(meta)
    except (KeyError, TypeError, AttributeError):
        raise damaged(folder, META_NAME) from None


def listed_images(listed: Any) -> list[IndexedImage]:
    """The pictures that `meta.json` lists.

    Raises:
        TypeError, ValueError: if they are something else, or the name of one leads out of the pictures' folder.
    """
    images = [plain_record(IndexedImage, one) for one in listed]
    for image in images:
        name = PurePosixPath(image.file_name)
        leads_out = name.is_absolute() or ".." in name.parts or "\0" in image.file_name
        sizes = image.width, image.height, image.bytes + 1
        if leads_out or min(sizes) < 1 or max(*sizes, abs(image.id)) >= 1 << 63:
            raise ValueError("no picture")
        image.file_name.encode()  # a name of half letters can neither be printed nor found
    return images


def pictures_at(folder: Path) -> tuple[Path, Sequence[IndexedImage]]:
    """Of which pictures an index folder of any kind is, without its descriptors.

    Returns:
        The folder that their names are relative to, as far as the index knows, and the pictures in row order.

    Raises:
        IndexFolderError: one sentence, if the folder is missing, damaged or of another format.
    """
    return steadily(folder, lambda place: _pictures_at(place, folder))


def _pictures_at(place: Path, folder: Path) -> tuple[Path, Sequence[IndexedImage]]:
    meta = _read_meta(place, folder)
    try:
        root = (folder / meta["root"]).resolve()
        if meta["images"] is not None:
            return root, listed_images(meta["images"])
        with opened_whole(place, {PICTURES_NAME: meta["files"][PICTURES_NAME]}, folder) as at:
            return root, read_table(at[PICTURES_NAME])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise damaged(folder, META_NAME) from None


def index_stands(out: Path) -> bool:
    """Whether an index folder stands at `out`, which a build then may replace; False where nothing stands there.

    Raises:
        IndexFolderError: if something else is there, or something else is in the index folder: it would be deleted.
    """
    place = standing(out)
    if not place.exists():
        return False
    names = {path.name for path in place.iterdir()} if place.is_dir() else set()
    if place.is_dir() and not names:
        return False
    if not (place / META_NAME).is_file():
        raise IndexFolderError(f"{out} exists and is not an index folder: choose another folder.")
    foreign = sorted(name for name in names - _OURS - _LITTER if not name.startswith("._"))
    if foreign:
        raise IndexFolderError(
            f"{out / foreign[0]} is not part of the index and would be deleted with the old one: move it elsewhere."
        )
    return True


def read_meta(folder: Path) -> dict[str, Any]:
    """Reads and checks `meta.json` of an index folder.

    Raises:
        IndexFolderError: one sentence, if it is missing, not ours, damaged, edited or of another format.
    """
    return steadily(folder, lambda place: _read_meta(place, folder))


def _read_meta(place: Path, folder: Path) -> dict[str, Any]:
    path = folder / META_NAME
    try:
        meta = json.loads((place / META_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFolderError(
            f"{folder} is not an index folder (no {META_NAME}): make one with the index command."
        ) from None
    except (IsADirectoryError, ValueError, RecursionError) as error:
        raise IndexFolderError(f"{path} cannot be read as JSON: delete {folder} and build it again.") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(meta, dict) or "digest" not in meta:
        raise IndexFolderError(f"{folder} is not an index folder ({META_NAME} describes none): choose another folder.")
    number = meta.get("format")
    if isinstance(number, int) and number > FORMAT:
        raise IndexFolderError(
            f"{folder} was made by a newer version of this program (index format {number}, this version reads "
            f"{FORMAT}): upgrade the program to use it."
        )
    if number != FORMAT:
        raise IndexFolderError(
            f"{folder} has index format {number}, this version reads {FORMAT}: build it again in a new folder."
        )
    try:
        digest = sha256_of_json({key: value for key, value in meta.items() if key != "digest"})
    except (ValueError, RecursionError):
        digest = ""
    if digest != meta["digest"]:
        raise IndexFolderError(
            f"{path} was edited or damaged after it was written: delete {folder} and build it again."
        )
    return meta
