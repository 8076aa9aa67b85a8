"""Read and write index folders. A folder is loaded only if all its files fit together; none of them is a pickle.

    meta.json        recipe, pictures, and size and digest of every other file
    index.faiss      codes of all patches
    projection.npy   learned projection, if any
    fine.faiss       finer codes for re-scoring, if any
    boxes.npy        patch boxes, if they depend on the pixels
    maps.bin         feature maps, if kept (`maps.KeptMaps`)

The codes of a big index (`big`) stay on disk, memory-mapped: its pictures are in `pictures.bin` (`PictureTable`)
instead of `meta.json`, and `lists.npy` has the inverted list of each patch. `integrity` checks the bytes. A build may
replace the folder while it is read; the reader gets either the old index or the new one.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.maps import KeptMaps, PackedMaps, write_maps
from patchify_core.files import sha256_of_file, sha256_of_json
from patchify_core.gallery import Gallery
from patchify_core.imaging.filenames import printable
from patchify_core.index.codec.codes import Codes
from patchify_core.index.codec.projection import Projection
from patchify_core.index.faiss_files import read_faiss_file, write_faiss_file
from patchify_core.index.integrity import (
    META_NAME,
    damaged,
    listed_file,
    npy_array,
    npy_bytes,
    open_intact,
    unreadable,
    write_listed,
    write_meta,
)
from patchify_core.index.patch_index import PatchIndex, SearchPlan
from patchify_core.index.pictures import IndexedImage, Pictures, PictureTable, read_table
from patchify_core.index.recipe import MAPS_NAME, Recipe, plain_record
from patchify_core.index.swap import current_place, read_steadily

FORMAT = 2
FAISS_NAME, FINE_NAME = "index.faiss", "fine.faiss"
PROJECTION_NAME, BOXES_NAME = "projection.npy", "boxes.npy"
PICTURES_NAME, LISTS_NAME = "pictures.bin", "lists.npy"
NUMBERS_NAME = "numbers.npy"  # of an index in Milvus
KNOWN_NAMES = frozenset({FAISS_NAME, FINE_NAME, PROJECTION_NAME, BOXES_NAME, MAPS_NAME, PICTURES_NAME, LISTS_NAME})

_OURS = KNOWN_NAMES | {NUMBERS_NAME, META_NAME, f"{META_NAME}.tmp"}
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that desktop environments leave in folders."""


def write_index(index: PatchIndex, folder: Path, root: str, packed: PackedMaps | None = None) -> None:
    """Write an index into an existing folder, which the build then renames into place.

    Args:
        index: The index.
        folder: An existing, private folder.
        root: The gallery's root for `meta.json`: absolute, or relative to the index folder.
        packed: Feature maps in row order; those of the index by default.

    Raises:
        OSError: A file cannot be written.
        IndexFolderError: It is a big index, whose codes exist only in its own files.
    """
    if isinstance(index.images, PictureTable):
        raise IndexFolderError("A big index cannot be written again: copy its folder, or build it again.")
    files: dict[str, FileContent] = {
        FAISS_NAME: write_faiss_file(index.codes, folder / FAISS_NAME),
        FINE_NAME: None if index.fine is None else write_faiss_file(index.fine, folder / FINE_NAME),
        MAPS_NAME: maps_file(folder, index.maps if packed is None else packed),
        PROJECTION_NAME: projection_pieces(index.projection),
        BOXES_NAME: npy_pieces(index.boxes),
    }
    write_folder(folder, index.meta() | {"root": root}, files)


FileContent = Iterable[bytes | memoryview] | dict[str, Any] | None
"""Bytes of a file to write, or the `meta.json` entry of one already written; None for no file."""


def write_folder(folder: Path, meta: Mapping[str, Any], files: Mapping[str, FileContent]) -> None:
    """Write the files of an index into an existing, private folder, `meta.json` last.

    Args:
        folder: The folder.
        meta: Content of `meta.json` besides the format and the files.
        files: Content by file name.

    Raises:
        OSError: A file cannot be written.
    """
    listed = {
        name: content if isinstance(content, dict) else write_listed(folder / name, content)
        for name, content in files.items()
        if content is not None
    }
    write_meta(folder, {"format": FORMAT} | dict(meta) | {"files": listed})


def maps_file(folder: Path, maps: PackedMaps | None) -> dict[str, Any] | None:
    """Write feature maps, if any; return the `meta.json` entry of the file."""
    if maps is None:
        return None
    write_maps(maps, folder / MAPS_NAME)
    return listed_file(folder / MAPS_NAME)


def projection_pieces(projection: Projection | None) -> list[bytes] | None:
    """Content of `projection.npy`, or None."""
    return None if projection is None else [projection.to_bytes()]


def npy_pieces(array: NDArray[Any] | None) -> list[bytes] | None:
    """Content of the .npy file of an array, or None."""
    return None if array is None else [npy_bytes(array)]


def load_index(folder: Path) -> PatchIndex:
    """Load an index folder after checking every byte (see `integrity`).

    Raises:
        IndexFolderError: The folder is missing, truncated, edited or of another format.
        PatchifyError: This version does not know its regions.
    """
    return read_steadily(folder, lambda place: _load(place, folder))


def _load(place: Path, folder: Path) -> PatchIndex:
    """Load the index at `place`, which is `folder` except while a build swaps it."""
    meta = _read_meta(place, folder)
    if "store" in meta:
        raise IndexFolderError(
            f"The descriptors of {folder} are in Milvus, but here an index with its own descriptors is needed: name "
            "one that was built without --store milvus, or index with --store milvus again."
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
    with open_intact(place, files, folder) as at:
        try:
            if images is None:
                return _mapped(at, folder, recipe, root, plan)
            projection, boxes, maps = read_beside(at, folder)
            fine = read_faiss_file(at[FINE_NAME]) if FINE_NAME in at else None
            codes = Codes(recipe.factory, read_faiss_file(at[FAISS_NAME]), projection, fine)
            return PatchIndex(recipe, Pictures(images, root, boxes, maps), codes, plan)
        except (ValueError, RuntimeError, AttributeError):  # from numpy, FAISS and our own checks
            raise damaged(folder, META_NAME) from None


def _mapped(at: dict[str, BinaryIO], folder: Path, recipe: Recipe, root: Path, plan: SearchPlan | None) -> PatchIndex:
    """Load a big index, whose pictures, boxes and codes stay on disk."""
    from patchify_core.index.mapped import PatchCodes, ReadAhead, map_codes, map_numbers

    projection, boxes, maps = read_beside(at, folder, mapped=True)
    coarse = map_codes(at[FAISS_NAME])
    located = PatchCodes(coarse, map_numbers(at[LISTS_NAME])) if LISTS_NAME in at else None
    finer = map_codes(at[FINE_NAME]) if FINE_NAME in at else None
    if finer is None and located is None:
        raise ValueError("codes that cannot be found by number")
    codes = Codes(recipe.factory, coarse.codes, projection, None if finer is None else finer.codes)
    pictures = Pictures(read_table(at[PICTURES_NAME]), root, boxes, maps)
    return PatchIndex(recipe, pictures, codes, plan, located, ReadAhead(coarse, finer))


def read_beside(
    at: dict[str, BinaryIO], folder: Path, mapped: bool = False
) -> tuple[Projection | None, NDArray[np.float32] | None, KeptMaps | None]:
    """Read the optional files of an index.

    Args:
        at: The open files by name.
        folder: The index folder.
        mapped: Map the boxes instead of reading them.

    Returns:
        Projection, boxes and feature maps, each None if the index has none.

    Raises:
        ValueError: A file has other content.
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
    """Return the entries of the files in `meta.json`; raise IndexFolderError unless they are those of an index."""
    files = meta.get("files")
    if not isinstance(files, dict) or FAISS_NAME not in files or not {*files} <= KNOWN_NAMES:
        raise damaged(folder, META_NAME)
    return files


def recipe_of(meta: dict[str, Any], folder: Path) -> Recipe:
    """Return the recipe in `meta.json`; raise IndexFolderError if it is missing or invalid."""
    try:
        return Recipe.from_meta(meta)
    except (KeyError, TypeError, AttributeError):
        raise damaged(folder, META_NAME) from None


def listed_images(listed: Any) -> list[IndexedImage]:
    """Parse the pictures in `meta.json`.

    Raises:
        TypeError, ValueError: They are not valid, or a file name leads out of the pictures' folder.
    """
    images = [plain_record(IndexedImage, one) for one in listed]
    for image in images:
        name = PurePosixPath(image.file_name)
        leads_out = name.is_absolute() or ".." in name.parts or "\0" in image.file_name
        sizes = image.width, image.height, image.bytes + 1
        if leads_out or min(sizes) < 1 or max(*sizes, abs(image.id)) >= 1 << 63:
            raise ValueError("no picture")
        image.file_name.encode()  # lone surrogates can be neither printed nor opened
    return images


def pictures_at(folder: Path) -> tuple[Path, Sequence[IndexedImage]]:
    """Read the pictures of an index folder of any kind, without the descriptors.

    Returns:
        The folder that their names are relative to, and the pictures in row order.

    Raises:
        IndexFolderError: The folder is missing, damaged or of another format.
    """
    return read_steadily(folder, lambda place: _pictures_at(place, folder))


def _pictures_at(place: Path, folder: Path) -> tuple[Path, Sequence[IndexedImage]]:
    meta = _read_meta(place, folder)
    try:
        root = (folder / meta["root"]).resolve()
        if meta["images"] is not None:
            return root, listed_images(meta["images"])
        with open_intact(place, {PICTURES_NAME: meta["files"][PICTURES_NAME]}, folder) as at:
            return root, read_table(at[PICTURES_NAME])
    except (KeyError, TypeError, AttributeError, ValueError):
        raise damaged(folder, META_NAME) from None


def check_same_collection(folder: Path, gallery: Gallery, called: str) -> None:
    """Check that a build of a gallery would update an index, rather than replace one of other pictures.

    One shared picture is enough, whatever its place: a gallery may grow, shrink, be renamed or be moved.

    Args:
        folder: Of the index; it may be missing.
        gallery: The gallery to build.
        called: Name of the gallery for the error.

    Raises:
        IndexFolderError: The index has pictures and shares none with the gallery, or it is damaged.
    """
    if not (current_place(folder) / META_NAME).is_file():
        return
    root, images = pictures_at(folder)
    if len(images) and not _any_shared(root, images, gallery):
        first = printable(images[0].file_name)
        raise IndexFolderError(
            f"{folder} is an index of other pictures (first: {first}), not of {called}: choose another "
            "--index, or leave it out."
        )


def _any_shared(root: Path, images: Sequence[IndexedImage], gallery: Gallery) -> bool:
    """Whether an indexed picture is in the gallery, by its path or by the digest of its bytes.

    A name alone is not enough: many folders have an `IMG_0001.jpg`. It counts within the same folder, where the picture
    may have been edited, and for a picture without a digest. Few files are read: in the indexed gallery itself the
    first one; in another gallery those whose length is that of an indexed picture.
    """
    same_root = root == gallery.root.resolve()
    paths = {picture.file_name: picture.path for picture in gallery.images}
    digests: dict[int, set[str]] = {}
    for image in images:
        path, unknown = paths.get(image.file_name), not image.sha256.strip("0")
        if path is not None and (same_root or unknown or _has_bytes(path, {image.bytes: {image.sha256}})):
            return True
        if not unknown:
            digests.setdefault(image.bytes, set()).add(image.sha256)
    return any(_has_bytes(picture.path, digests) for picture in gallery.images)


def _has_bytes(path: Path, digests: dict[int, set[str]]) -> bool:
    """Whether a readable file is in `digests`: length in bytes -> SHA-256."""
    with suppress(OSError):
        wanted = digests.get(path.stat().st_size)
        return wanted is not None and sha256_of_file(path) in wanted
    return False


def index_exists(out: Path) -> bool:
    """Whether there is an index folder at `out`, which a build may replace; False if there is nothing.

    Raises:
        IndexFolderError: There is something else at `out` or in the index folder, which would be deleted.
    """
    place = current_place(out)
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
    """Read and check `meta.json` of an index folder.

    Raises:
        IndexFolderError: It is missing, not ours, damaged, edited or of another format.
    """
    return read_steadily(folder, lambda place: _read_meta(place, folder))


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
