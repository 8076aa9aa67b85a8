"""Check an index: every byte, that its parts fit together, and that its pictures are those that were indexed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from patchify_core.cli.shared import progress_bar
from patchify_core.errors import IndexFolderError
from patchify_core.files import sha256_of_file
from patchify_core.imaging.filenames import picture_path
from patchify_core.index.folder import PICTURES_NAME, checked_files, load_index, read_meta
from patchify_core.index.integrity import META_NAME, damaged, is_intact, open_files, unreadable
from patchify_core.index.pictures import IndexedImage, read_table
from patchify_core.index.swap import current_place, read_steadily

LARGE_BYTES = 1 << 28
"""Least size for which a progress bar is shown: about a second's work."""

DAMAGED, PICTURES_CHANGED = 2, 1
MB = 1_000_000


@dataclass(frozen=True)
class Verified:
    """The result of a check.

    Attributes:
        files: Names of the index's files, in alphabetical order.
        bytes: Their total size.
        damage: A sentence for each defect of the index.
        gallery: Folder of the pictures; None if it does not exist, so that the pictures were not checked.
        images: Number of pictures in the index.
        pictures: A sentence for each picture that vanished or changed.
        store: URI of the Milvus database with the descriptors; None if they are in the files, or the index is damaged.
    """

    files: tuple[str, ...]
    bytes: int
    damage: tuple[str, ...]
    gallery: Path | None
    images: int
    pictures: tuple[str, ...]
    store: str | None = None

    @property
    def code(self) -> int:
        """The command's exit code."""
        return DAMAGED if self.damage else PICTURES_CHANGED if self.pictures else 0


def verify(folder: Path) -> Verified:
    """Check every byte of an index, that its parts fit together, and its pictures if their folder is there.

    Of descriptors in Milvus only the number is checked.

    Raises:
        StoreError: If Milvus does not answer, or does not know the collection.
        IndexFolderError: If it is not an index, is one of another version, or its `meta.json` is damaged.
    """
    return read_steadily(folder, lambda place: _Check(folder, place).run())


class _Check:
    """One pass over an index folder, whose current version is at `place`."""

    def __init__(self, folder: Path, place: Path) -> None:
        self.folder, self.place, self.meta = folder, place, read_meta(folder)
        try:
            self.store = self.meta["store"]["uri"] if "store" in self.meta else None
            self.files = checked_files(self.meta, folder) if self.store is None else self._listing_files()
            self.images = self._images()
            self.root = (folder / self.meta["root"]).resolve()
            self.size = sum(listed["bytes"] for listed in self.files.values())
            work = self.size + (sum(image.bytes for image in self.images) if self.root.is_dir() else 0)
        except (KeyError, TypeError):
            raise damaged(folder, META_NAME) from None
        self.work, self.done, self.lock = work, 0, Lock()
        self.show: Callable[[int, int], None] = lambda done, total: None

    def _listing_files(self) -> dict[str, dict[str, Any]]:
        from patchify_core.index.milvus.store import checked_listing_files

        return checked_listing_files(self.meta, self.folder)

    def _images(self) -> Sequence[IndexedImage]:
        """Read the pictures from `meta.json` or a big index' table; empty if the table is damaged."""
        if self.meta["images"] is not None:
            return [IndexedImage(**image) for image in self.meta["images"]]
        try:
            with open_files(self.place, [PICTURES_NAME], self.folder) as at:
                return read_table(at[PICTURES_NAME])
        except (IndexFolderError, OSError, ValueError):
            return []

    def run(self) -> Verified:
        large = self.work >= LARGE_BYTES
        with progress_bar("verifying", " MB") if large else nullcontext(self.show) as self.show:
            damage = [sentence for name in sorted(self.files) if (sentence := self._damage_of(name))]
            if damage and (current_place(self.folder) != self.place or read_meta(self.folder) != self.meta):
                raise IndexFolderError("A build replaced this index by another.")  # retried
            gallery = self.root if self.root.is_dir() else None
            pictures = [] if gallery is None else [s for image in self.images if (s := self._change_of(image))]
        if not damage:
            try:
                damage = self._misfits()
            except IndexFolderError as error:
                damage = [str(error)]
        files = tuple(sorted(self.files))
        store = None if damage else self.store
        return Verified(files, self.size, tuple(damage), gallery, len(self.images), tuple(pictures), store)

    def _misfits(self) -> list[str]:
        """Check that intact files fit together, and fit what is in Milvus."""
        if self.store is None:
            load_index(self.folder)
            return []
        from patchify_core.index.milvus.store import MilvusStore

        with closing(MilvusStore.open(self.folder)) as store:
            lost = store.lost()
        what = f"{lost:,} of {len(self.images):,} pictures"
        return [f"{store.collection.where} has lost patches of {what}: run the index command again."] if lost else []

    def _damage_of(self, name: str) -> str | None:
        listed = self.files[name]
        try:
            with open_files(self.place, [name], self.folder) as at:
                return None if is_intact(at[name], listed, self._passed) else str(damaged(self.folder, name))
        except (KeyError, TypeError):
            raise damaged(self.folder, META_NAME) from None
        except IndexFolderError as error:
            return str(error)
        except OSError as error:
            return str(unreadable(self.folder / name, error))

    def _change_of(self, image: IndexedImage) -> str | None:
        path = picture_path(self.root, image.file_name)
        try:
            same = path.stat().st_size == image.bytes and sha256_of_file(path) == image.sha256
        except (FileNotFoundError, NotADirectoryError):
            return f"{image.file_name} has vanished from {self.root}."
        except OSError as error:
            return f"{image.file_name} in {self.root} cannot be read ({error.strerror})."
        finally:
            self._passed(image.bytes)
        return None if same else f"{image.file_name} in {self.root} is not the picture that was indexed."

    def _passed(self, size: int) -> None:
        with self.lock:
            before, self.done = self.done, self.done + size
            if before // MB != self.done // MB:
                self.show(self.done // MB, max(self.work // MB, 1))
