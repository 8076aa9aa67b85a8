"""All visitors' own pictures: access by token, limits over all visitors, and deletion."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Set
from functools import partial
from pathlib import Path

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.own.collection import CROWDED, MEGABYTE, Collection
from patchify_core.demo.own.gallery import OwnGallery, own_token, pictures_gone
from patchify_core.demo.own.visitor import Visitor
from patchify_core.demo.queueing import FairLock
from patchify_core.demo.server_folders import ServerFolders
from patchify_core.demo.settings import PageSettings
from patchify_core.demo.storage import CLOSED_S, Owner, VisitorStorage
from patchify_core.errors import PatchifyError

MOST_VISITORS = 200
"""Collections at a time; an empty one costs a folder."""

UNUSED_S, QUIET_S = 300.0, 3.0
"""Seconds after which a collection without pictures is deleted, and after which one whose upload has stalled may be
deleted for a new visitor."""

SWEEP_S = 10.0
"""Seconds between two sweeps."""

log = logging.getLogger(__name__)


class Registry:
    """All visitors' collections.

    Args:
        bundled: The page's own gallery, whose encoder and codec are used.
        settings: How much visitors may send, and how long it is kept.
        folder: For their pictures; by default a new one among the machine's temporary files.
        folders: Used instead of `folder`.
    """

    def __init__(
        self,
        bundled: ExampleGallery,
        settings: PageSettings,
        folder: Path | None = None,
        folders: ServerFolders | None = None,
    ) -> None:
        self._bundled, self.settings = bundled, settings
        self._turns, self._lock = FairLock(), threading.Lock()
        self._visitors: dict[str, Visitor] = {}
        self.folders = folders or (ServerFolders.create() if folder is None else ServerFolders(folder))
        self.folder = self.folders.folder
        self.storage = VisitorStorage(settings, self.folders.uploads)
        self.storage.disk.others = self._own_bytes
        self.storage.memory.others = self._own_memory
        self._closing = threading.Event()
        self._sweeper = threading.Thread(target=self._sweep, name="patchify-own-sweep", daemon=True)
        self._sweeper.start()

    def __len__(self) -> int:
        """Return the number of collections."""
        return len(self._visitors)

    @property
    def tokens(self) -> Set[str]:
        """Tokens of all collections."""
        return self._visitors.keys()

    @property
    def bytes(self) -> int:
        """Bytes on disk of everything that visitors sent."""
        return self.storage.disk.bytes

    def _own_bytes(self) -> int:
        return sum(visitor.size for visitor in list(self._visitors.values()))

    def _own_memory(self) -> int:
        return sum(visitor.memory for visitor in list(self._visitors.values()))

    def create(self, address: str = "") -> str:
        """Create a collection for a visitor from this address; return its token.

        Raises:
            PatchifyError: If there are too many visitors.
        """
        with self._lock:
            if len(self._visitors) >= MOST_VISITORS:
                self._make_room(address)
            if len(self._visitors) >= MOST_VISITORS or self._closing.is_set():
                raise PatchifyError("Too many visitors have pictures here just now: try again in a few minutes.")
            token = secrets.token_urlsafe(24)
            owner = Owner(token, address)
            collection = Collection(token, self.folder / token, self.settings, partial(self._has_room, owner))
            self._visitors[token] = Visitor(collection, self._bundled, self._turns, self.storage, owner)
        return token

    def visitor(self, token: object) -> Visitor:
        """Return the visitor with this token.

        Raises:
            PatchifyError: If there is none, or the pictures have been deleted.
        """
        visitor = self._visitors.get(token) if isinstance(token, str) else None
        if visitor is None:
            raise pictures_gone()
        visitor.seen = time.monotonic()
        return visitor

    def gallery_of(self, index_name: str) -> OwnGallery | None:
        """Return the gallery of a visitor's index; None for a bundled index.

        Raises:
            PatchifyError: If those pictures have been deleted.
        """
        token = own_token(index_name)
        return None if token is None else self.visitor(token).gallery

    def open_tab(self, token: str, tab: str) -> Visitor:
        """Note that a tab of the visitor's browser is open."""
        visitor = self.visitor(token)
        visitor.closed = None
        if len(visitor.tabs) < 50:
            visitor.tabs.add(tab[:40])
        return visitor

    def close_tab(self, token: str, tab: str) -> None:
        """Note that a tab was closed or reloaded; after the last one the visit ends, unless a tab opens soon."""
        visitor = self._visitors.get(token)
        if visitor is not None:
            visitor.tabs.discard(tab[:40])
            if not visitor.tabs:
                visitor.closed = time.monotonic()

    def delete(self, token: str) -> None:
        """Delete a visitor's pictures and everything made of them."""
        with self._lock:
            visitor = self._visitors.pop(token, None)
        if visitor is not None:
            visitor.delete()

    def close(self) -> None:
        """Delete everything, when the server ends."""
        self._closing.set()
        for token in list(self._visitors):
            self.delete(token)
        self.folders.close()

    def sweep(self, now: float | None = None) -> None:
        """Delete what belongs to visitors who have left or are idle."""
        now = time.monotonic() if now is None else now
        for token, visitor in list(self._visitors.items()):
            closed = visitor.closed is not None and now - visitor.closed > CLOSED_S
            idle = now - visitor.seen
            if visitor.uploads:  # a slow upload keeps its visitor
                continue
            if closed or idle > (self.settings.forget_s if visitor.collection.pictures else UNUSED_S):
                self.delete(token)
            else:
                visitor.measure_disk()
        self.storage.sweep(now)

    def _make_room(self, address: str) -> None:
        """Delete one collection for a visitor from this address: preferably an empty one.

        If none is empty, it is the most idle one of the address with the most collections, unless the new visitor's
        address has as many.
        """
        of_address = Counter(visitor.owner.address for visitor in self._visitors.values())
        now = time.monotonic()
        empty = [visitor for visitor in self._visitors.values() if not visitor.collection.pictures]
        most, count = of_address.most_common(1)[0]
        if empty:
            victim = min(
                empty,
                key=lambda one: (
                    one.uploads > 0 and now - one.seen < QUIET_S,
                    -of_address[one.owner.address],
                    one.seen,
                ),
            )
        elif of_address[address] + 1 < count:
            victim = min(
                (one for one in self._visitors.values() if one.owner.address == most), key=lambda one: one.seen
            )
        else:
            return
        self._visitors.pop(victim.collection.token).delete()

    def check_upload(self, visitor: Visitor) -> None:
        """Check that there is room for a file that is being received.

        Raises:
            PatchifyError: If the visitor's pictures were deleted, or the server is full.
        """
        visitor.seen = time.monotonic()
        if visitor.collection.closed.is_set():
            raise pictures_gone()
        if not self._has_room(visitor.owner, 0):
            raise PatchifyError(CROWDED)

    def _has_room(self, owner: Owner, more: int) -> bool:
        """Whether `more` bytes fit; one address cannot take the last `own_mb`."""
        settings = self.settings
        if owner.address and settings.own_total_mb > 2 * settings.own_mb:
            theirs = [one for one in list(self._visitors.values()) if one.owner.address == owner.address]
            if sum(one.size for one in theirs) + more > (settings.own_total_mb - settings.own_mb) * MEGABYTE:
                return False
        return self.storage.disk.make_room(owner, more)

    def _sweep(self) -> None:
        while not self._closing.wait(SWEEP_S):
            try:
                self.folders.touch()
                self.sweep()
            except OSError as error:
                log.warning("The sweep of visitors' files failed: %s", error)
