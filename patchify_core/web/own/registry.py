"""All visitors' own pictures: who may see which (nobody else), how much they may hold, and when they end."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Set
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.gallery import Gallery
from patchify_core.index import PatchIndex
from patchify_core.retrieval import Patchify
from patchify_core.stores import PatchStore
from patchify_core.web.own.collection import CROWDED, MEGABYTE, Collection
from patchify_core.web.own.indexing import Indexer
from patchify_core.web.own.marks import Marks, as_coco, score
from patchify_core.web.own.place import PREFIX, OwnPlace, gone, own_name, token_in
from patchify_core.web.own.returned import bring_back, write_archive
from patchify_core.web.own.turns import Turns
from patchify_core.web.settings import PageSettings
from patchify_core.web.showcase import Showcase

MOST_VISITORS = 200
"""Collections at a time; an empty one costs a folder."""

LEFT_S, UNUSED_S = 60.0, 300.0
"""Seconds after which the pictures of a visitor who closed the page are deleted, and a collection without pictures."""

SWEEP_S, STALE_S = 10.0, 600.0
"""Seconds between two looks at who has left; age from which a folder whose server does not look any more is stale."""

log = logging.getLogger(__name__)


class _StopError(Exception):
    """Raised from within a scoring to end it."""


class Visitor:
    """All that belongs to one visitor: pictures, their index, boxes and score."""

    def __init__(self, collection: Collection, bundled: Showcase, turns: Turns) -> None:
        """Indexes nothing yet."""
        self.collection, self.marks, self._bundled, self._turns = collection, Marks(), bundled, turns
        self.indexer = Indexer(collection, bundled.index, lambda: bundled.engine.encoder, turns, self._publish)
        self.tabs: set[str] = set()
        self.uploads, self.incoming = 0, 0
        self.seen = time.monotonic()
        self.left: float | None = None
        self._place: OwnPlace | None = None
        self._engine: Patchify | None = None
        self._lock = threading.Lock()
        self._scoring: threading.Thread | None = None
        self.score: dict[str, Any] | None = None

    @property
    def place(self) -> OwnPlace:
        """What answers questions about the indexed pictures.

        Raises:
            PatchifyError: if none is indexed yet.
        """
        place = self._place
        if place is None:
            raise PatchifyError("None of your pictures is indexed yet: add some, and wait for the first.")
        return place

    @property
    def searchable(self) -> bool:
        """Whether some pictures are indexed."""
        return self._place is not None

    def mark(self, name: str, label: object, box: object) -> None:
        """Draws a box on a picture; see `Marks.put`."""
        self.marks.put(self.collection.named(name), label, box)
        self._renew()

    def unmark(self, name: str, label: object) -> None:
        """Removes a box."""
        self.marks.remove(self.collection.named(name).id, label)
        self._renew()

    def dataset(self, queries: bool = False) -> Gallery:
        """The indexed pictures with their boxes."""
        return self._dataset(self.place.engine.index, queries)

    def take_back(self, archive: Path) -> int:
        """Brings an index back; returns of how many pictures it is."""
        collection, settings = self.collection, self.collection.settings
        if self.searchable:
            raise PatchifyError(
                "Some of your pictures are indexed already: delete them before you bring an index back."
            )
        folder = collection.folder / f"returned-{secrets.token_hex(4)}"
        index = bring_back(archive, folder, self._bundled.index, settings.own_pictures, settings.own_mb * MEGABYTE)
        self.indexer.take_back(index)
        for former in collection.folder.glob("returned-*"):
            if former != folder:
                shutil.rmtree(former, ignore_errors=True)
        return len(index.images)

    def archive(self) -> Path:
        """The index as a zip, with the boxes that were drawn; made anew each time, deleted with the pictures."""
        boxes = self.annotations()
        path = self.collection.folder / f"index-{secrets.token_hex(4)}.zip"
        folder = self.collection.folder / f"index-{self.indexer.version}"
        try:
            write_archive(folder, path, {"annotations.json": boxes})
        except OSError as error:  # deleted meanwhile, or the disk is full
            path.unlink(missing_ok=True)
            if self.collection.closed.is_set():
                raise gone() from error
            raise PatchifyError("The index cannot be packed just now: try again in a moment.") from error
        return path

    def annotations(self) -> bytes:
        """The boxes in the layout that `evaluate` reads."""
        import json

        return (json.dumps(as_coco(self.dataset(True)), indent=1) + "\n").encode()

    def start_score(self) -> None:
        """Scores in the background; `score` says how far it is."""
        with self._lock:
            if self._scoring is not None and self._scoring.is_alive():
                return
            place, gallery = self.place, self.dataset(True)
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
        self.marks = Marks()
        self.score = None

    def _publish(self, index: PatchIndex, version: int) -> None:
        self._engine = Patchify(index, self._bundled.engine.encoder)
        self._renew(version)

    def _renew(self, version: int | None = None) -> None:
        with self._lock:
            engine = self._engine
            if engine is None or self.collection.closed.is_set():
                return
            name = own_name(self.collection.token, version or self.indexer.version)
            self._place = OwnPlace(name, self._dataset(engine.index), engine, self._bundled)

    def _dataset(self, index: PatchStore, queries: bool = False) -> Gallery:
        held = {image.id for image in index.images}
        pictures = [picture for picture in self.collection.pictures if picture.id in held]
        return self.marks.gallery(self.collection.pictures_folder, pictures, queries)

    def _run_score(self, engine: Patchify, gallery: Gallery) -> None:
        def progress(done: int, total: int) -> None:
            self.score = {"state": "scoring", "done": done, "total": total}
            if self.collection.closed.is_set():
                raise _StopError
            if self._turns.waiting:  # others are not kept waiting until all is scored
                self._turns.give()
                self._turns.take()

        try:
            with self._turns:
                rows = score(gallery, engine.index, engine.encoder, progress)
            self.score = {"state": "done", "rows": rows, "pictures": len(gallery.images)}
        except PatchifyError as error:
            self.score = {"state": "failed", "error": str(error)}
        except _StopError:
            self.score = None
        except Exception:
            if not self.collection.closed.is_set():
                log.exception("A visitor's boxes could not be scored")
            self.score = {"state": "failed", "error": "Your boxes could not be scored: try again."}


class Registry:
    """All visitors' collections.

    Args:
        bundled: the page's own gallery, whose encoder and codec are used.
        settings: how much visitors may hold, and how long.
        folder: where their pictures lie; by default a new one among the machine's temporary files.
    """

    def __init__(self, bundled: Showcase, settings: PageSettings, folder: Path | None = None) -> None:
        """Makes the folder, and deletes what a server that ended badly left there."""
        self._bundled, self.settings = bundled, settings
        self._turns, self._lock = Turns(), threading.Lock()
        self._visitors: dict[str, Visitor] = {}
        if folder is None:
            _delete_stale(Path(tempfile.gettempdir()))
            folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.folder = folder
        self._closing = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="patchify-own-sweep", daemon=True)
        self._sweeper.start()

    def __len__(self) -> int:
        """Visitors with pictures of their own."""
        return len(self._visitors)

    @property
    def tokens(self) -> Set[str]:
        """Of all of them."""
        return self._visitors.keys()

    @property
    def bytes(self) -> int:
        """Bytes of all visitors' pictures."""
        return sum(visitor.collection.bytes + visitor.incoming for visitor in list(self._visitors.values()))

    def new(self) -> str:
        """Begins a collection; returns its token.

        Raises:
            PatchifyError: if there are too many visitors.
        """
        with self._lock:
            if len(self._visitors) >= MOST_VISITORS:
                self._make_room()
            if len(self._visitors) >= MOST_VISITORS or self._closing.is_set():
                raise PatchifyError("Too many visitors have pictures here just now: try again in a few minutes.")
            token = secrets.token_urlsafe(24)
            collection = Collection(token, self.folder / token, self.settings, self._has_room)
            self._visitors[token] = Visitor(collection, self._bundled, self._turns)
        return token

    def of(self, token: object) -> Visitor:
        """The collection of a token.

        Raises:
            PatchifyError: if there is none, or not any more.
        """
        visitor = self._visitors.get(token) if isinstance(token, str) else None
        if visitor is None:
            raise gone()
        visitor.seen = time.monotonic()
        return visitor

    def at(self, engine: str) -> OwnPlace | None:
        """What answers a question that asks the index of this name; None for a bundled one.

        Raises:
            PatchifyError: if those pictures are not there any more.
        """
        token = token_in(engine)
        return None if token is None else self.of(token).place

    def here(self, token: str, tab: str) -> Visitor:
        """A tab of a visitor's browser is open."""
        visitor = self.of(token)
        visitor.left = None
        if len(visitor.tabs) < 50:
            visitor.tabs.add(tab[:40])
        return visitor

    def leave(self, token: str, tab: str) -> None:
        """A tab was closed, or is loaded anew: with the last one the visit ends, unless it comes back soon."""
        visitor = self._visitors.get(token)
        if visitor is not None:
            visitor.tabs.discard(tab[:40])
            if not visitor.tabs:
                visitor.left = time.monotonic()

    def delete(self, token: str) -> None:
        """Deletes a visitor's pictures and all that was made of them."""
        with self._lock:
            visitor = self._visitors.pop(token, None)
        if visitor is not None:
            visitor.delete()

    def close(self) -> None:
        """Deletes everything; the server ends."""
        self._closing.set()
        for token in list(self._visitors):
            self.delete(token)
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self, now: float | None = None) -> None:
        """Deletes what belongs to visitors who have left, or whom nothing was heard of for long."""
        now = time.monotonic() if now is None else now
        for token, visitor in list(self._visitors.items()):
            left = visitor.left is not None and now - visitor.left > LEFT_S
            idle = now - visitor.seen
            if visitor.uploads:  # a slow one keeps its visitor here
                continue
            if left or idle > (self.settings.forget_s if visitor.collection.pictures else UNUSED_S):
                self.delete(token)

    def _make_room(self) -> None:
        """Ends the collection without pictures that was begun first, so that empty ones keep nobody out."""
        empty = [t for t, visitor in self._visitors.items() if not visitor.collection.pictures and not visitor.uploads]
        if empty:
            self._visitors.pop(empty[0]).delete()

    def room_for_upload(self, visitor: Visitor) -> None:
        """Refuses a file that is on its way, where there is no room for it.

        Raises:
            PatchifyError: if the visitor has left, or the visitors' pictures fill the server.
        """
        visitor.seen = time.monotonic()
        if visitor.collection.closed.is_set():
            raise gone()
        if not self._has_room(0):
            raise PatchifyError(CROWDED)

    def _has_room(self, more: int) -> bool:
        return self.bytes + more <= self.settings.own_total_mb * MEGABYTE

    def _sweep(self) -> None:
        while not self._closing.wait(SWEEP_S):
            try:
                os.utime(self.folder)
                self.sweep()
            except OSError as error:
                log.warning("Visitors' pictures could not be looked after: %s", error)


def _delete_stale(parent: Path) -> None:
    """Deletes the folders of servers that were killed: nobody looks after them any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime > STALE_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue
