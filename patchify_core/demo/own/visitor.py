"""All that belongs to one visitor of the page: pictures, their index, the boxes drawn on them, and their score."""

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
from patchify_core.demo.own.index_archive import packed, restore_index, restored_boxes
from patchify_core.demo.own.indexing import Indexer, StopWorkError
from patchify_core.demo.queueing import FairLock
from patchify_core.demo.storage import NO_MEMORY, Owner, VisitorStorage
from patchify_core.encoders import Encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index.patch_index import PatchIndex
from patchify_core.index.store import PatchStore
from patchify_core.patchify import Patchify

INCOMING = "incoming-"
"""What the names of files that are on their way begin with."""

log = logging.getLogger(__name__)


class Visitor:
    """All that belongs to one visitor: pictures, their index, boxes and score."""

    def __init__(
        self,
        collection: Collection,
        bundled: ExampleGallery,
        turns: FairLock,
        storage: VisitorStorage,
        owner: Owner | None = None,
    ) -> None:
        self.collection, self.marks, self._bundled, self._turns = collection, DrawnBoxes(), bundled, turns
        self.storage, self.owner = storage, owner or Owner(collection.token)
        self.indexer = Indexer(
            collection, bundled.index, lambda: bundled.engine.encoder, turns, self._publish, self._room_for_index
        )
        self.tabs: set[str] = set()
        self.uploads, self.incoming, self.made = 0, 0, 0
        self.seen = time.monotonic()
        self.closed: float | None = None
        self._place: OwnGallery | None = None
        self._engine: Patchify | None = None
        self._lock = threading.Lock()
        self._scoring: threading.Thread | None = None
        self.returned: list[tuple[str, str, list[float]]] = []  # boxes whose pictures have not been added yet
        self.score: dict[str, Any] | None = None
        # Pictures that are or were the query of `trying`: id -> box, and the descriptor of it.
        self.queries: dict[int, tuple[NDArray[np.float64] | None, NDArray[np.float32]]] = {}

    @property
    def gallery(self) -> OwnGallery:
        """What answers queries about the indexed pictures.

        Raises:
            PatchifyError: if none is indexed yet.
        """
        place = self._place
        if place is None:
            raise PatchifyError("None of your pictures is indexed yet: add some, and wait for the first.")
        return place

    @property
    def encoder(self) -> Encoder:
        """That of all visitors' pictures; loading it may take a while."""
        return self._bundled.engine.encoder

    @property
    def searchable(self) -> bool:
        """Whether some pictures are indexed."""
        return self._place is not None

    def add_box(self, name: str, label: object, box: object) -> None:
        """Draws a box on a picture; see `DrawnBoxes.put`."""
        self.marks.put(self.collection.named(name), label, box)
        self._renew()

    def remove_box(self, name: str, label: object) -> None:
        """Removes a box."""
        self.marks.remove(self.collection.named(name).id, label)
        self._renew()

    def dataset(self, queries: bool = False) -> Gallery:
        """The indexed pictures with their boxes."""
        return self._dataset(self.gallery.engine.index, queries)

    def restore(self, archive: Path) -> int:
        """Brings an index back; returns of how many pictures it is."""
        collection, settings = self.collection, self.collection.settings
        if self.searchable:
            raise PatchifyError(
                "Some of your pictures are indexed already: delete them before you bring an index back."
            )
        folder = collection.folder / f"returned-{secrets.token_hex(4)}"
        index = restore_index(archive, folder, self._bundled.index, settings.own_pictures, settings.own_mb * MEGABYTE)
        try:
            boxes = restored_boxes(folder, index)
            self._room_for_index(len(index.images))
            self.indexer.restore(index)
        except PatchifyError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.returned = boxes
        for former in collection.folder.glob("returned-*"):
            if former != folder:
                shutil.rmtree(former, ignore_errors=True)
        self.measure_disk()
        return len(index.images)

    def archive(self) -> tuple[int, Iterator[bytes]]:
        """The index as a zip, with the boxes that were drawn: its length, and its bytes, which lie nowhere."""
        boxes = self.annotations()
        folder = self.collection.folder / f"index-{self.indexer.version}"
        try:
            return packed(folder, {"annotations.json": boxes})
        except OSError as error:  # deleted meanwhile
            if self.collection.closed.is_set():
                raise pictures_gone() from error
            raise PatchifyError("The index cannot be packed just now: try again in a moment.") from error

    @property
    def size(self) -> int:
        """Bytes on the disk: pictures, what is on its way, and what was made of them when last weighed."""
        return self.collection.bytes + self.incoming + self.made

    @property
    def memory(self) -> int:
        """Bytes in memory: the index that is searched, and the one that was brought back."""
        indexes = {id(index): index for index in (self.indexer.index, self.indexer.template) if index is not None}
        indexes.pop(id(self._bundled.index), None)
        return sum(int(index.bytes_per_image * len(index.images)) for index in indexes.values())

    def measure_disk(self) -> None:
        """Finds out how much all that was made of the pictures takes: indexes and small copies."""
        folder, pictures = self.collection.folder, self.collection.pictures_folder
        made = 0
        for parent, _, files in os.walk(folder):
            if Path(parent) != pictures and pictures not in Path(parent).parents:
                for name in files:
                    if not name.startswith(INCOMING):
                        try:
                            made += os.lstat(os.path.join(parent, name)).st_size
                        except OSError:  # deleted meanwhile
                            continue
        self.made = made

    def _room_for_index(self, pictures: int) -> None:
        """Refuses an index that memory has no room for.

        Raises:
            PatchifyError: one sentence.
        """
        more = int(self._bundled.index.bytes_per_image * pictures)
        if not self.storage.memory.make_room(self.owner, more):
            raise PatchifyError(NO_MEMORY)

    def annotations(self) -> bytes:
        """The boxes in the layout that `evaluate` reads."""
        import json

        return (json.dumps(as_coco(self.dataset(True)), indent=1) + "\n").encode()

    def start_score(self) -> None:
        """Scores in the background; `score` says how far it is."""
        with self._lock:
            if self._scoring is not None and self._scoring.is_alive():
                return
            place, gallery = self.gallery, self.dataset(True)
            self.score = {"state": "scoring", "done": 0, "total": 0}
            self._scoring = threading.Thread(
                target=self._run_score, args=(place.engine, gallery), name="patchify-own-score", daemon=True
            )
            self._scoring.start()

    def status(self) -> dict[str, Any]:
        """What the visitor's page shows, as plain values."""
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
                {"picture": mark.picture, "object": mark.object, "box": [round(v, 1) for v in mark.box.tolist()]}
                for mark in self.marks.all
            ],
            "score": self.score,
        }

    def delete(self) -> None:
        """Ends all that is under way and deletes everything."""
        self.collection.delete()
        self._place = self._engine = None
        self.indexer.forget()
        self.marks, self.made, self.returned, self.queries = DrawnBoxes(), 0, [], {}
        self.score = None

    def _publish(self, index: PatchIndex, version: int) -> None:
        self._engine = Patchify(index, self._bundled.engine.encoder)
        self._restore_boxes()
        self._renew(version)
        self.measure_disk()

    def _restore_boxes(self) -> None:
        """Draws the boxes that came with an index on those of their pictures that are there."""
        there = {picture.sha256: picture for picture in self.collection.pictures}
        waiting = []
        for digest, name, box in self.returned:
            if digest not in there:
                waiting.append((digest, name, box))
                continue
            with suppress(PatchifyError):  # edited by hand: as if it had never been drawn
                self.marks.put(there[digest], name, box)
        self.returned = waiting

    def _renew(self, version: int | None = None) -> None:
        with self._lock:
            engine = self._engine
            if engine is None or self.collection.closed.is_set():
                return
            name = own_index_name(self.collection.token, version or self.indexer.version)
            self._place = OwnGallery(name, self._dataset(engine.index), engine, self._bundled)

    def _dataset(self, index: PatchStore, queries: bool = False) -> Gallery:
        held = {image.id for image in index.images}
        pictures = [picture for picture in self.collection.pictures if picture.id in held]
        return self.marks.gallery(self.collection.pictures_folder, pictures, queries)

    def _run_score(self, engine: Patchify, gallery: Gallery) -> None:
        def progress(done: int, total: int) -> None:
            self.score = {"state": "scoring", "done": done, "total": total}
            if self.collection.closed.is_set():
                raise StopWorkError
            if self._turns.waiting:  # others are not kept waiting until all is scored
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
