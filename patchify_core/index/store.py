"""Opens whichever store an index folder names: its own files (`PatchIndex`), or a collection in Milvus.

Before that, `check_same_collection` sees that the folder is not one of other pictures, whatever the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from patchify_core.errors import IndexFolderError
from patchify_core.files import sha256_of_file
from patchify_core.gallery import Gallery
from patchify_core.imaging.filenames import printable
from patchify_core.index.base import PatchStore
from patchify_core.index.integrity import META_NAME, standing
from patchify_core.index.picture_table import IndexedImage

__all__ = ["KINDS", "PatchStore", "check_same_collection", "open_store"]

KINDS = ("faiss", "milvus")
"""What `--store` takes; the first is the default."""


def open_store(folder: str | Path, token: str | None = None) -> PatchStore:
    """Opens an index folder, wherever its descriptors are.

    Args:
        folder: made by the index command.
        token: of a Milvus server; that of the environment variable `MILVUS_TOKEN` by default.

    Raises:
        IndexFolderError: if the folder is not a whole index.
        StoreError: if its descriptors are in Milvus, which does not answer or does not hold them.
    """
    from patchify_core.index.milvus.store import MilvusStore, is_listing
    from patchify_core.index.patch_index import PatchIndex

    return MilvusStore.open(folder, token) if is_listing(Path(folder)) else PatchIndex.load(folder)


def check_same_collection(folder: Path, gallery: Gallery, called: str) -> None:
    """Checks that a build of a gallery would bring an index up to date, and not replace one of other pictures.

    One picture in common is enough, wherever it stands now: a gallery may grow, shrink, be renamed or be moved.

    Args:
        folder: of the index, which may not be there.
        gallery: what would be built there.
        called: what the gallery is called in the error.

    Raises:
        IndexFolderError: one sentence, if the index has pictures and none of them is the gallery's, or if it is
            damaged.
    """
    from patchify_core.index.folder import pictures_at

    if not (standing(folder) / META_NAME).is_file():
        return
    root, images = pictures_at(folder)
    if len(images) and not _any_shared(root, images, gallery):
        first = printable(images[0].file_name)
        raise IndexFolderError(
            f"{folder} is an index of other pictures (first: {first}), not of {called}: choose another "
            "--index, or leave it out."
        )


def _any_shared(root: Path, images: Sequence[IndexedImage], gallery: Gallery) -> bool:
    """Whether one of the indexed pictures is in the gallery: by its place, or else by the digest of its bytes.

    A name alone says little: many folders have an `IMG_0001.jpg`. It counts in the same folder, where the picture may
    have been edited, and for a picture whose digest the index does not know. Few files are read: in a gallery that is
    the indexed one, the first; in another one, those that are as long as an indexed picture.
    """
    in_place = root == gallery.root.resolve()
    paths = {picture.file_name: picture.path for picture in gallery.images}
    digests: dict[int, set[str]] = {}
    for image in images:
        path, unknown = paths.get(image.file_name), not image.sha256.strip("0")
        if path is not None and (in_place or unknown or _has_bytes(path, {image.bytes: {image.sha256}})):
            return True
        if not unknown:
            digests.setdefault(image.bytes, set()).add(image.sha256)
    return any(_has_bytes(picture.path, digests) for picture in gallery.images)


def _has_bytes(path: Path, digests: dict[int, set[str]]) -> bool:
    """Whether a file is one of these: its length in bytes -> SHA-256. One that cannot be read is none."""
    with suppress(OSError):
        wanted = digests.get(path.stat().st_size)
        return wanted is not None and sha256_of_file(path) in wanted
    return False
