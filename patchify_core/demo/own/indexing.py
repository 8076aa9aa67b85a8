"""Embeds a visitor's pictures in the background, a growing part at a time, so that they can be searched meanwhile.

Each part is an index of its own that takes over what the one before it knew (`build_index(like=...)`), so whoever
searches has a whole index in hand, never one that is being written. What is embedded when a visitor cancels is
searchable, and is not embedded again when they go on.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from patchify_core.demo.own.collection import Collection, OwnPicture
from patchify_core.demo.queueing import FairLock
from patchify_core.encoders import Encoder
from patchify_core.errors import GalleryError, PatchifyError
from patchify_core.gallery import Gallery, GalleryImage
from patchify_core.imaging.pictures import read_picture
from patchify_core.index.build import build_index
from patchify_core.index.patch_index import PatchIndex

FIRST_PART, GROWTH = 8, 4
"""New pictures of the first part, and how many times more each further one has."""

A_TURN, A_TURN_S = 4, 2.0
"""Pictures that are embedded before another visitor has a turn, and seconds after which there are no more of them."""

EMPTY, INDEXING, CANCELLED, DONE, FAILED = "empty", "indexing", "cancelled", "done", "failed"

log = logging.getLogger(__name__)


class StopWorkError(Exception):
    """Raised from within a build or a scoring to end it."""


@dataclass(frozen=True)
class Progress:
    """How far it is.

    Attributes:
        state: `empty`, `indexing`, `cancelled`, `done` or `failed`.
        done: pictures embedded.
        total: pictures to embed in all.
        indexed: pictures that can be searched.
        seconds_left: about how long it will take yet; None where nothing is known.
        waiting: whether other visitors' pictures have their turn just now.
        error: why it failed, or None.
    """

    state: str
    done: int
    total: int
    indexed: int
    seconds_left: float | None
    waiting: bool
    error: str | None


class Indexer:
    """Keeps the index of one collection.

    Args:
        collection: the pictures.
        template: an index whose encoder, regions, features and codec are used.
        encoder: gives the encoder that made it, which may take a while.
        turns: shared by all visitors.
        published: told of each index that can be searched, with its number.
        room: refuses an index of so many pictures, in one sentence, where there is no room for it.
    """

    def __init__(
        self,
        collection: Collection,
        template: PatchIndex,
        encoder: Callable[[], Encoder],
        turns: FairLock,
        published: Callable[[PatchIndex, int], None],
        room: Callable[[int], None] = lambda pictures: None,
    ) -> None:
        self.collection, self.template, self._bundled, self._room = collection, template, template, room
        self._encoder, self._turns, self._published = encoder, turns, published
        self.index: PatchIndex | None = None
        self.version = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state = EMPTY
        self._error: str | None = None
        self._settled = 0
        self._waits = False
        self._fresh, self._spent = 0, 0.0

    @property
    def progress(self) -> Progress:
        """How far it is."""
        indexed = 0 if self.index is None else len(self.index.images)
        total = len(self.collection.pictures)
        state = self._state
        done = min(max(self._settled, indexed), total) if state == INDEXING else indexed
        left = (total - done) * self._spent / self._fresh if self._fresh and state == INDEXING else None
        return Progress(state, done, total, indexed, left, self._waits, self._error)

    def start(self) -> None:
        """Begins, or goes on; does nothing while it is under way or where there is nothing to do."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and not self._stop.is_set():
                return
            before = self._thread
            if not self._missing():
                return
            self._stop = threading.Event()
            self._state, self._error = INDEXING, None
            self._fresh, self._spent = 0, 0.0
            self._thread = threading.Thread(
                target=self._run, args=(self._stop, before), name="patchify-own", daemon=True
            )
            self._thread.start()

    def cancel(self) -> None:
        """Stops after the picture that is being embedded."""
        self._stop.set()

    def join(self, seconds: float | None = None) -> None:
        """Waits until nothing is under way."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def restore(self, index: PatchIndex) -> None:
        """Begins with an index that was made before: pictures that it knows need not be embedded.

        Raises:
            PatchifyError: if some pictures are indexed already.
        """
        with self._lock:
            if self.index is not None or self._state == INDEXING:
                raise PatchifyError("Some of your pictures are indexed already: delete them before you bring one back.")
            self.template = index

    def forget(self) -> None:
        """Lets go of the indexes; the collection was deleted."""
        self.index, self.template = None, self._bundled

    def _missing(self) -> bool:
        """Whether a picture is not in the index."""
        known = set() if self.index is None else {image.sha256 for image in self.index.images}
        return any(picture.sha256 not in known for picture in self.collection.pictures)

    def _run(self, stop: threading.Event, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            while not stop.is_set() and self._missing():
                self._next_part(stop)
            self._state = CANCELLED if stop.is_set() and self._missing() else DONE
        except PatchifyError as error:
            self._error, self._state = str(error), FAILED
        except Exception:
            if not self.collection.closed.is_set():  # else its folder went away meanwhile, as it should
                log.exception("A visitor's pictures could not be indexed")
            self._error, self._state = "Your pictures could not be indexed: try again.", FAILED
        finally:
            self._waits = False
            if self.collection.closed.is_set():
                shutil.rmtree(self.collection.folder, ignore_errors=True)  # what was written after it was deleted

    def _next_part(self, stop: threading.Event) -> None:
        """Embeds one part and publishes it, or as much of it as was embedded when it was stopped."""
        pictures = self.collection.pictures
        like = self.template if self.index is None else self.index
        known = {image.sha256 for image in like.images}
        old = [picture for picture in pictures if picture.sha256 in known]
        new = [picture for picture in pictures if picture.sha256 not in known]
        indexed = 0 if self.index is None else len(self.index.images)
        part = old + new[: max(FIRST_PART, (GROWTH - 1) * indexed)]
        self._room(len(part))
        try:
            self._build(part, like, stop, len(old))
        except StopWorkError:
            if self.collection.closed.is_set():
                return
            settled = part[: self._settled]
            if len(settled) > indexed:
                self._build(settled, like, None, len(settled))

    def _build(self, part: list[OwnPicture], like: PatchIndex, stop: threading.Event | None, known: int) -> None:
        collection, encoder = self.collection, self._encoder()
        out = collection.folder / f"index-{self.version + 1}"
        gallery = Gallery(
            collection.pictures_folder,
            tuple(GalleryImage(p.id, p.name, p.path, p.width, p.height) for p in part),
        )
        began, in_turn, turn = time.monotonic(), 0, time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal began, in_turn, turn
            self._settled = done
            if collection.closed.is_set() or (stop is not None and stop.is_set()):
                raise StopWorkError
            if done <= known:
                return
            now = time.monotonic()
            self._fresh += 1
            self._spent += now - began
            in_turn += 1
            if (in_turn >= A_TURN or now - turn > A_TURN_S) and self._turns.waiting:
                in_turn = 0
                self._turns.release()
                self._wait_for_turn()
                turn = time.monotonic()
            began = time.monotonic()

        self._wait_for_turn()
        try:
            began = turn = time.monotonic()
            report = build_index(gallery, out, encoder, progress=progress if stop is not None else None, like=like)
        except GalleryError:
            if not self._drop_unreadable(part):
                raise
            return  # the next part is made of others
        finally:
            self._turns.release()
        by_name = {picture.name: picture.id for picture in part}
        for name, why in report.skipped:
            if name in by_name:
                collection.remove(by_name[name], why)
        before, self.index = self.index, PatchIndex.load(out)
        self.version += 1
        self._published(self.index, self.version)
        if before is not None and self.version > 2:
            # The one before this may still be in somebody's hands, the one before that is not.
            shutil.rmtree(collection.folder / f"index-{self.version - 2}", ignore_errors=True)

    def _drop_unreadable(self, part: list[OwnPicture]) -> int:
        """Takes out the pictures that cannot be decoded, for a part that holds no others."""
        dropped = 0
        for picture in part:
            try:
                read_picture(picture.path)
            except PatchifyError as error:
                self.collection.remove(picture.id, str(error))
                dropped += 1
        return dropped

    def _wait_for_turn(self) -> None:
        self._waits = True
        self._turns.acquire()
        self._waits = False
