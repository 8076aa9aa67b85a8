"""Indexes a visitor's pictures in the background, in growing parts, so that those that are ready can be searched.

Each part is a new index that copies the codes of the one before (`build_index(like=...)`), so searches never see an
index that is being written. If a visitor cancels, what is embedded by then is searchable and is not embedded again.
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
"""New pictures in the first part, and the factor by which the index grows with each further part."""

TURN, TURN_S = 4, 2.0
"""Pictures, and seconds, after which another visitor's pictures have a turn."""

EMPTY, INDEXING, CANCELLED, DONE, FAILED = "empty", "indexing", "cancelled", "done", "failed"

ALREADY_INDEXED = "Some of your pictures are indexed already: delete them before you restore an index."

log = logging.getLogger(__name__)


class StopWorkError(Exception):
    """Raised from a progress callback to end a build or a scoring."""


@dataclass(frozen=True)
class Progress:
    """Progress of indexing.

    Attributes:
        state: `empty`, `indexing`, `cancelled`, `done` or `failed`.
        done: Pictures embedded.
        total: Pictures in all.
        indexed: Pictures that can be searched.
        seconds_left: Estimate; None where nothing is known.
        waiting: Whether other visitors' pictures have their turn.
        error: Why it failed, or None.
    """

    state: str
    done: int
    total: int
    indexed: int
    seconds_left: float | None
    waiting: bool
    error: str | None


class Indexer:
    """Builds and updates the index of one collection.

    Args:
        collection: The pictures.
        template: An index whose encoder, regions, features and codec are used.
        load_encoder: Returns the encoder that made it, which may take a while.
        turns: A lock that all visitors share.
        on_index: Called with each index that can be searched, and its number.
        check_room: Called with a number of pictures; raises PatchifyError if there is no room for their index.
    """

    def __init__(
        self,
        collection: Collection,
        template: PatchIndex,
        load_encoder: Callable[[], Encoder],
        turns: FairLock,
        on_index: Callable[[PatchIndex, int], None],
        check_room: Callable[[int], None],
    ) -> None:
        self.collection, self.template, self._bundled = collection, template, template
        self._load_encoder, self._turns, self._on_index, self._check_room = load_encoder, turns, on_index, check_room
        self.index: PatchIndex | None = None
        self.version = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._state = EMPTY
        self._error: str | None = None
        self._done = 0
        self._waiting = False
        self._embedded, self._seconds = 0, 0.0

    @property
    def progress(self) -> Progress:
        """Current progress."""
        indexed = 0 if self.index is None else len(self.index.images)
        total = len(self.collection.pictures)
        state = self._state
        done = min(max(self._done, indexed), total) if state == INDEXING else indexed
        left = (total - done) * self._seconds / self._embedded if self._embedded and state == INDEXING else None
        return Progress(state, done, total, indexed, left, self._waiting, self._error)

    def start(self) -> None:
        """Start or continue; do nothing while indexing or if all pictures are indexed."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive() and not self._stop.is_set():
                return
            before = self._thread
            if not self._missing():
                return
            self._stop = threading.Event()
            self._state, self._error = INDEXING, None
            self._embedded, self._seconds = 0, 0.0
            self._thread = threading.Thread(
                target=self._run, args=(self._stop, before), name="patchify-own", daemon=True
            )
            self._thread.start()

    def cancel(self) -> None:
        """Stop after the picture that is being embedded."""
        self._stop.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait until indexing has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def restore(self, index: PatchIndex) -> None:
        """Use an index from before, so that the pictures in it need not be embedded again.

        Raises:
            PatchifyError: If some pictures are indexed already.
        """
        with self._lock:
            if self.index is not None or self._state == INDEXING:
                raise PatchifyError(ALREADY_INDEXED)
            self.template = index

    def forget(self) -> None:
        """Drop the indexes; the collection was deleted."""
        self.index, self.template = None, self._bundled

    def _missing(self) -> bool:
        """Whether some picture is not in the index."""
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
            self._waiting = False
            if self.collection.closed.is_set():
                shutil.rmtree(self.collection.folder, ignore_errors=True)  # files written after it was deleted

    def _next_part(self, stop: threading.Event) -> None:
        """Index one part, or as much of it as was embedded when indexing was stopped."""
        pictures = self.collection.pictures
        like = self.template if self.index is None else self.index
        known = {image.sha256 for image in like.images}
        old = [picture for picture in pictures if picture.sha256 in known]
        new = [picture for picture in pictures if picture.sha256 not in known]
        indexed = 0 if self.index is None else len(self.index.images)
        part = old + new[: max(FIRST_PART, (GROWTH - 1) * indexed)]
        self._check_room(len(part))
        try:
            self._build(part, like, stop, len(old))
        except StopWorkError:
            if self.collection.closed.is_set():
                return
            done = part[: self._done]
            if len(done) > indexed:
                self._build(done, like, None, len(done))

    def _build(self, part: list[OwnPicture], like: PatchIndex, stop: threading.Event | None, known: int) -> None:
        collection, encoder = self.collection, self._load_encoder()
        out = collection.folder / f"index-{self.version + 1}"
        gallery = Gallery(
            collection.pictures_folder,
            tuple(GalleryImage(p.id, p.name, p.path, p.width, p.height) for p in part),
        )
        began, in_turn, turn = time.monotonic(), 0, time.monotonic()

        def progress(done: int, total: int) -> None:
            nonlocal began, in_turn, turn
            self._done = done
            if collection.closed.is_set() or (stop is not None and stop.is_set()):
                raise StopWorkError
            if done <= known:
                return
            now = time.monotonic()
            self._embedded += 1
            self._seconds += now - began
            in_turn += 1
            if (in_turn >= TURN or now - turn > TURN_S) and self._turns.waiting:
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
            return  # the next part does without them
        finally:
            self._turns.release()
        by_name = {picture.name: picture.id for picture in part}
        for name, why in report.skipped:
            if name in by_name:
                collection.remove(by_name[name], why)
        before, self.index = self.index, PatchIndex.load(out)
        self.version += 1
        self._on_index(self.index, self.version)
        if before is not None and self.version > 2:
            # A search may still use the index before this one, but not the one before that.
            shutil.rmtree(collection.folder / f"index-{self.version - 2}", ignore_errors=True)

    def _drop_unreadable(self, part: list[OwnPicture]) -> int:
        """Remove the pictures that cannot be decoded, from a part that contains no others; return how many."""
        dropped = 0
        for picture in part:
            try:
                read_picture(picture.path)
            except PatchifyError as error:
                self.collection.remove(picture.id, str(error))
                dropped += 1
        return dropped

    def _wait_for_turn(self) -> None:
        self._waiting = True
        self._turns.acquire()
        self._waiting = False
