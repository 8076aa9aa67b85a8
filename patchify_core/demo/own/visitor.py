"""Everything that belongs to one visitor: pictures, their index, the boxes drawn on them, and their score."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own.boxes import DrawnBoxes, as_coco, score
from patchify_core.demo.own.collection import MEGABYTE, Collection
from patchify_core.demo.own.gallery import OwnGallery, own_index_name, pictures_gone
from patchify_core.demo.own.index_archive import pack_index, restore_index, restored_boxes
from patchify_core.demo.own.indexing import ALREADY_INDEXED, Indexer, StopWorkError
from patchify_core.demo.queueing import FairLock
from patchify_core.demo.storage import NO_MEMORY, Owner, VisitorStorage
from patchify_core.encoders import Encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.store import PatchStore
from patchify_core.patchify import Patchify

INCOMING = "incoming-"
"""Prefix of the names of files that are being received."""

log = logging.getLogger(__name__)


class Visitor:
    """One visitor's pictures with everything made of them.

    Attributes:
        boxes: Drawn by the visitor.
        restored_boxes: (SHA-256 of the picture, object, x1 y1 x2 y2) of a restored index, for pictures yet to come.
        queries: Pictures that are or were the query on the page for phones: id -> box, and its descriptor.
        uploads: Files being received; `incoming` is their bytes so far.
        derived_bytes: On disk, of everything made of the pictures, as last measured.
        tabs: Open tabs of the browser; `closed` is when the last one was closed, `seen` the time of the last request.
        score: As the page shows it.
    """

    def __init__(
        self,
        collection: Collection,
        bundled: ExampleGallery,
        turns: FairLock,
        storage: VisitorStorage,
        owner: Owner,
    ) -> None:
        self.collection, self.boxes, self._bundled, self._turns = collection, DrawnBoxes(), bundled, turns
        self.storage, self.owner = storage, owner
        self.indexer = Indexer(
            collection, bundled.index, lambda: bundled.engine.encoder, turns, self._publish, self._check_memory
        )
        self.tabs: set[str] = set()
        self.uploads, self.incoming, self.derived_bytes = 0, 0, 0
        self.seen = time.monotonic()
        self.closed: float | None = None
        self._gallery: OwnGallery | None = None
        self._engine: Patchify | None = None
        self._lock = threading.Lock()
        self._scoring: threading.Thread | None = None
        self.restored_boxes: list[tuple[str, str, list[float]]] = []
        self.score: dict[str, Any] | None = None
        self.queries: dict[int, tuple[NDArray[np.float64] | None, NDArray[np.float32]]] = {}

    @property
    def gallery(self) -> OwnGallery:
        """Answers queries about the indexed pictures.

        Raises:
            PatchifyError: If none is indexed yet.
        """
        gallery = self._gallery
        if gallery is None:
            raise PatchifyError("None of your pictures is indexed yet: add some, and wait for the first.")
        return gallery

    @property
    def encoder(self) -> Encoder:
        """Encoder of all visitors' pictures; loading it may take a while."""
        return self._bundled.engine.encoder

    @property
    def searchable(self) -> bool:
        """Whether some pictures are indexed."""
        return self._gallery is not None

    def add_box(self, name: str, label: object, box: object) -> None:
        """Set a box on a picture; see `DrawnBoxes.put`."""
        self.boxes.put(self.collection.named(name), label, box)
        self._renew()

    def remove_box(self, name: str, label: object) -> None:
        """Remove a box."""
        self.boxes.remove(self.collection.named(name).id, label)
        self._renew()

    def dataset(self, queries: bool = False) -> Gallery:
        """Return the indexed pictures with their boxes, and with every box as a query if `queries`."""
        return self._dataset(self.gallery.engine.index, queries)

    def restore(self, archive: Path) -> int:
        """Restore a downloaded index; return the number of its pictures."""
        collection, settings = self.collection, self.collection.settings
        if self.searchable:
            raise PatchifyError(ALREADY_INDEXED)
        folder = collection.folder / f"restored-{secrets.token_hex(4)}"
        index = restore_index(archive, folder, self._bundled.index, settings.own_pictures, settings.own_mb * MEGABYTE)
        try:
            boxes = restored_boxes(folder, index)
            self._check_memory(len(index.images))
            self.indexer.restore(index)
        except PatchifyError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.restored_boxes = boxes
        for former in collection.folder.glob("restored-*"):
            if former != folder:
                shutil.rmtree(former, ignore_errors=True)
        self.measure_disk()
        return len(index.images)

    def archive(self) -> tuple[int, Iterator[bytes]]:
        """Return index and boxes as a zip: its length, and its bytes, made while they are sent."""
        boxes = self.annotations()
        folder = self.collection.folder / f"index-{self.indexer.version}"
        try:
            return pack_index(folder, {"annotations.json": boxes})
        except OSError as error:  # deleted meanwhile
            if self.collection.closed.is_set():
                raise pictures_gone() from error
            raise PatchifyError("The index cannot be packed just now: try again in a moment.") from error

    @property
    def size(self) -> int:
        """Bytes on disk: pictures, files being received, and what was made of the pictures when last measured."""
        return self.collection.bytes + self.incoming + self.derived_bytes

    @property
    def memory(self) -> int:
        """Bytes in memory of the index that is searched and of a restored one."""
        indexes = {id(index): index for index in (self.indexer.index, self.indexer.template) if index is not None}
        indexes.pop(id(self._bundled.index), None)
        return sum(int(index.bytes_per_image * len(index.images)) for index in indexes.values())

    def measure_disk(self) -> None:
        """Measure the disk space of everything made of the pictures: indexes and small copies."""
        folder, pictures = self.collection.folder, self.collection.pictures_folder
        size = 0
        for parent, _, files in os.walk(folder):
            if Path(parent) != pictures and pictures not in Path(parent).parents:
                for name in files:
                    if not name.startswith(INCOMING):
                        try:
                            size += os.lstat(os.path.join(parent, name)).st_size
                        except OSError:  # deleted meanwhile
                            continue
        self.derived_bytes = size

    def _check_memory(self, pictures: int) -> None:
        """Raise PatchifyError if there is no memory for an index of so many pictures."""
        more = int(self._bundled.index.bytes_per_image * pictures)
        if not self.storage.memory.make_room(self.owner, more):
            raise PatchifyError(NO_MEMORY)

    def annotations(self) -> bytes:
        """Return the boxes as an `annotations.json` that `evaluate` reads."""
        import json

        return (json.dumps(as_coco(self.dataset(True)), indent=1) + "\n").encode()

    def start_score(self) -> None:
        """Score the boxes in the background; `score` shows the progress."""
        with self._lock:
            if self._scoring is not None and self._scoring.is_alive():
                return
            engine, dataset = self.gallery.engine, self.dataset(True)
            self.score = {"state": "scoring", "done": 0, "total": 0}
            self._scoring = threading.Thread(
                target=self._run_score, args=(engine, dataset), name="patchify-own-score", daemon=True
            )
            self._scoring.start()

    def status(self) -> dict[str, Any]:
        """Return what the visitor's page shows, as JSON values."""
        collection, progress, settings = self.collection, self.indexer.progress, self.collection.settings
        with collection.lock:
            skipped = [{"file": name, "reason": why} for name, why in collection.skipped]
        return {
            "pictures": len(collection.pictures),
            "megabytes": round(collection.bytes / MEGABYTE, 1),
            "limits": {"pictures": settings.own_pictures, "megabytes": settings.own_mb},
            "state": progress.state,
            "done": progress.done,
            "total": progress.total,
            "indexed": progress.indexed,
            "seconds_left": progress.seconds_left,
            "waiting": progress.waiting,
            "error": progress.error,
            "known": len(self.indexer.template.images) if self.indexer.template is not self._bundled.index else 0,
            "skipped": {"count": collection.skipped_in_all, "files": skipped},
            "marks": [
                {"picture": box.picture, "object": box.object, "box": [round(v, 1) for v in box.box.tolist()]}
                for box in self.boxes.all
            ],
            "score": self.score,
        }

    def delete(self) -> None:
        """Stop all work and delete everything."""
        self.collection.delete()
        self._gallery = self._engine = None
        self.indexer.forget()
        self.boxes, self.derived_bytes, self.restored_boxes, self.queries = DrawnBoxes(), 0, [], {}
        self.score = None

    def _publish(self, index: PatchIndex, version: int) -> None:
        self._engine = Patchify(index, self._bundled.engine.encoder)
        self._restore_boxes()
        self._renew(version)
        self.measure_disk()

    def _restore_boxes(self) -> None:
        """Set the boxes of a restored index whose pictures are here by now."""
        pictures = {picture.sha256: picture for picture in self.collection.pictures}
        waiting = []
        for digest, name, box in self.restored_boxes:
            if digest not in pictures:
                waiting.append((digest, name, box))
                continue
            with suppress(PatchifyError):  # the file was edited by hand: ignore the box
                self.boxes.put(pictures[digest], name, box)
        self.restored_boxes = waiting

    def _renew(self, version: int | None = None) -> None:
        with self._lock:
            engine = self._engine
            if engine is None or self.collection.closed.is_set():
                return
            name = own_index_name(self.collection.token, version or self.indexer.version)
            self._gallery = OwnGallery(name, self._dataset(engine.index), engine, self._bundled)

    def _dataset(self, index: PatchStore, queries: bool = False) -> Gallery:
        indexed = {image.id for image in index.images}
        pictures = [picture for picture in self.collection.pictures if picture.id in indexed]
        return self.boxes.gallery(self.collection.pictures_folder, pictures, queries)

    def _run_score(self, engine: Patchify, gallery: Gallery) -> None:
        def progress(done: int, total: int) -> None:
            self.score = {"state": "scoring", "done": done, "total": total}
            if self.collection.closed.is_set():
                raise StopWorkError
            if self._turns.waiting:  # others go first
                self._turns.release()
                self._turns.acquire()

        try:
            with self._turns:
                rows = score(gallery, engine.index, engine.encoder, progress)
            self.score = {"state": "done", "rows": rows, "pictures": len(gallery.images)}
        except PatchifyError as error:
            self.score = {"state": "failed", "error": str(error)}
        except StopWorkError:
            self.score = None
        except Exception:
            if not self.collection.closed.is_set():
                log.exception("A visitor's boxes could not be scored")
            self.score = {"state": "failed", "error": "Your boxes could not be scored: try again."}
