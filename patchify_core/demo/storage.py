"""Budgets of memory and disk for what visitors send, and when it is deleted.

Each budget is shared by all visitors. Their own pictures and indexes are counted by `own.registry`. Query pictures
(`StoredPicture`), answers that wait for a page and uploads are counted here, and are dropped when room runs out.
"""

from __future__ import annotations

import shutil
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from patchify_core.demo.settings import MEGABYTE, PageSettings
from patchify_core.errors import PatchifyError

CLOSED_S = 60.0
"""Seconds after which what a visitor sent is deleted once the page is closed: reloading it takes a few."""

IDLE_S = 60.0
"""Seconds without use after which an item may be dropped even for a visitor who takes more."""

UNREAD_S = 600.0
"""Age in seconds at which an upload is deleted that no request has read."""

UNFETCHED_S = 120.0
"""Age in seconds at which answers are deleted that no page fetches."""

COPIES = 3
"""How often the small copy of a query is in memory: here, in base64 on the page, and on its way there."""

DROPPED = (
    "Your query picture is no longer on the server, which keeps it only while you use it and there is room: send it "
    "again."
)
NO_MEMORY = "The server has no room for another picture at present: try again in a while, or send a smaller one."
NO_DISK = "The uploads of other visitors fill the server at present: try again in a while."


@dataclass(frozen=True)
class Owner:
    """Whose an item is.

    Attributes:
        visit: Session of a page, or token of a visitor's own pictures.
        address: Network address, which a whole class may share.
    """

    visit: str = ""
    address: str = ""


class StoredItem:
    """An item that takes room until it is dropped.

    Attributes:
        owner: Whose it is.
        used: Time of last use, on the clock of `time.monotonic`.
        closed: Time at which its owner closed the page; None while it is open.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner, self.used = owner, time.monotonic()
        self.closed: float | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes now."""
        raise NotImplementedError

    def drop(self) -> None:
        """Release its room."""
        raise NotImplementedError

    def touch(self) -> None:
        """Note that it is in use."""
        self.used, self.closed = time.monotonic(), None

    def is_expired(self, now: float, idle_s: float) -> bool:
        """Whether its owner has closed the page, or has not used it for `idle_s` seconds."""
        return now - self.used > idle_s or (self.closed is not None and now - self.closed > CLOSED_S)


Item = TypeVar("Item", bound=StoredItem)


class Budget(Generic[Item]):
    """A number of bytes that all visitors share. Thread-safe.

    If a new item does not fit, the least recently used item of the address that takes the most is dropped. Items of
    addresses that take less than the newcomer are dropped only if they were idle for `IDLE_S`. So whoever sends much
    loses their own items first.

    Args:
        most: Bytes in all.
        share: How many of them items may take; all by default.
        others: Returns the bytes taken by what cannot be dropped.
    """

    def __init__(self, most: int, share: int | None = None, others: Callable[[], int] = int) -> None:
        self.most, self.share, self.others = most, most if share is None else share, others
        self._lock = threading.RLock()
        self._items: WeakSet[Item] = WeakSet()  # an item that nobody refers to takes no room

    @property
    def items(self) -> list[Item]:
        """All items that can be dropped."""
        with self._lock:
            return list(self._items)

    @property
    def bytes(self) -> int:
        """Bytes taken."""
        return sum(item.size for item in self.items) + self.others()

    def add(self, item: Item) -> bool:
        """Add an item; return False and change nothing if it cannot fit."""
        with self._lock:
            if not self.make_room(item.owner, item.size, within=self.share):
                return False
            self._items.add(item)
            return True

    def make_room(self, owner: Owner, more: int, within: int | None = None) -> bool:
        """Drop items until `more` bytes fit; return False and drop nothing if they cannot.

        Args:
            owner: Whose the new bytes are.
            more: Number of new bytes.
            within: Bytes that items may take afterwards, these included; None if these are not of an item.
        """
        with self._lock:
            sizes = {item: item.size for item in self._items}
            dropped: list[Item] = []
            while True:
                taken = sum(sizes.values()) + more
                if taken + self.others() <= self.most and (within is None or taken <= within):
                    for item in dropped:
                        item.drop()
                    return True
                candidate = self._next_to_drop(sizes, owner, 0 if within is None else more)
                if candidate is None:
                    return False
                del sizes[candidate]
                dropped.append(candidate)

    def _next_to_drop(self, sizes: dict[Item, int], newcomer: Owner, more: int) -> Item | None:
        by_address = Counter({newcomer.address: more})
        for item, size in sizes.items():
            by_address[item.owner.address] += size
        of_newcomer, idle_since = by_address[newcomer.address], time.monotonic() - IDLE_S
        for address, taken in by_address.most_common():
            candidates = [item for item, size in sizes.items() if item.owner.address == address and size]
            if taken < of_newcomer:
                candidates = [item for item in candidates if item.used < idle_since]
            if candidates:
                return min(candidates, key=lambda item: item.used)
        return None


class StoredPicture(StoredItem):
    """A visitor's query picture: the file as it was sent, and the small copy shown to them (`display`)."""

    def __init__(self, data: bytes, owner: Owner | None = None) -> None:
        super().__init__(owner or Owner())
        self._data: bytes | None = data
        self.display: bytes | None = None
        self.crc = zlib.crc32(data)

    def __deepcopy__(self, memo: object) -> StoredPicture:
        """Return the same object: copies of a query share their picture."""
        return self

    @property
    def size(self) -> int:
        """Bytes of the file and all copies."""
        return len(self._data or b"") + COPIES * len(self.display or b"")

    def drop(self) -> None:
        """Delete the picture; the descriptor made of it stays with the query."""
        self._data = self.display = None

    def read(self) -> bytes:
        """Return the file.

        Raises:
            PatchifyError: If it was dropped.
        """
        data = self._data
        if data is None:
            raise PatchifyError(DROPPED)
        self.touch()
        return data


class UnreadAnswers(StoredItem):
    """Answers that Gradio would keep for ever for a page that does not fetch them; `messages` is an `asyncio.Queue`."""

    def __init__(self, messages: Any, owner: Owner) -> None:
        super().__init__(owner)
        self._messages, self._bytes = messages, 0

    @property
    def size(self) -> int:
        """Approximate bytes of the answers; 0 once they are fetched."""
        return self._bytes if self._messages.qsize() else 0

    def grow(self, more: int) -> None:
        """Count an answer of `more` bytes, which is in the queue already."""
        if self._messages.qsize() <= 1:  # those before it were fetched
            self._bytes = 0
            self.touch()
        self._bytes += more

    def drop(self) -> None:
        """Empty the queue."""
        while self._messages.qsize():
            self._messages.get_nowait()

    def is_expired(self, now: float, idle_s: float) -> bool:
        """As `StoredItem.is_expired`, after `UNFETCHED_S` at the latest."""
        return super().is_expired(now, min(idle_s, UNFETCHED_S))


class Upload(StoredItem):
    """The folder of one upload, on its way (`arriving`) or not read yet; whoever reads it deletes it."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        super().__init__(owner)
        self.folder, self.arriving, self._bytes, self.dropped = folder, True, 0, False

    @property
    def size(self) -> int:
        """Bytes that have arrived; 0 once its folder is gone."""
        return self._bytes if self.arriving or self.folder.exists() else 0

    def grow(self, more: int) -> None:
        """Count `more` bytes that have arrived.

        Raises:
            PatchifyError: If it was dropped meanwhile.
        """
        if self.dropped:
            raise PatchifyError(NO_DISK)
        self._bytes += more
        self.touch()

    def drop(self) -> None:
        """Delete its folder."""
        self.dropped, self._bytes = True, 0
        shutil.rmtree(self.folder, ignore_errors=True)


class VisitorStorage:
    """Everything that visitors leave on the server.

    Args:
        settings: How much there may be, and for how long.
        uploads: The folder where Gradio puts uploads; None if there are none.
    """

    def __init__(self, settings: PageSettings, uploads: Path | None = None) -> None:
        self.settings, self.uploads = settings, uploads
        self.memory: Budget[StoredItem] = Budget(settings.memory_mb * MEGABYTE)
        total = settings.own_total_mb * MEGABYTE
        self.disk: Budget[Upload] = Budget(total, max(total // 4, min(total, 2 * settings.upload_mb * MEGABYTE)))
        self._uploads: set[Upload] = set()

    def store(self, data: bytes, owner: Owner) -> StoredPicture:
        """Store a visitor's query picture.

        Raises:
            PatchifyError: If there is no room for it.
        """
        picture = StoredPicture(data, owner)
        if not self.memory.add(picture):
            raise PatchifyError(NO_MEMORY)
        return picture

    def add_answer(self, messages: Any, size: int, owner: Owner) -> None:
        """Count an answer that waits for a page; if it does not fit, the session's answers are dropped."""
        unread = getattr(messages, "unread", None)
        if unread is None:
            unread = messages.unread = UnreadAnswers(messages, owner)
            self.memory.add(unread)
        unread.grow(size)
        if not self.memory.make_room(owner, 0, within=self.memory.share):
            unread.drop()

    def begin_upload(self, folder: Path, owner: Owner) -> Upload:
        """Begin to count an upload."""
        upload = Upload(folder, owner)
        self._uploads.add(upload)
        self.disk.add(upload)
        return upload

    def grow(self, upload: Upload, more: int) -> None:
        """Count `more` bytes of an upload that have arrived.

        Raises:
            PatchifyError: If there is no room for them.
        """
        upload.touch()  # so that it is not the one that is dropped
        if not self.disk.make_room(upload.owner, more, within=self.disk.share):
            raise PatchifyError(NO_DISK)
        upload.grow(more)

    def close_visit(self, visit: str) -> None:
        """Note that a page was closed."""
        for item in self.memory.items:
            if item.owner.visit == visit:
                item.closed = time.monotonic()

    def sweep(self, now: float | None = None) -> None:
        """Drop what belongs to visitors who left or are idle, and uploads that nobody reads."""
        now = time.monotonic() if now is None else now
        for item in self.memory.items:
            if item.is_expired(now, self.settings.forget_s):
                item.drop()
        unread_s = min(UNREAD_S, self.settings.forget_s)
        for upload in list(self._uploads):
            if not upload.arriving and now - upload.used > unread_s:
                upload.drop()
            if not upload.arriving and not upload.folder.exists():
                self._uploads.discard(upload)
        self._sweep_unknown_uploads(now, unread_s)

    def _sweep_unknown_uploads(self, now: float, unread_s: float) -> None:
        """Delete old files in the folder of uploads that belong to no `Upload`, whoever wrote them."""
        if self.uploads is None or not self.uploads.is_dir():
            return
        known = {upload.folder for upload in list(self._uploads)}
        clock = time.time() + now - time.monotonic()
        for path in self.uploads.iterdir():
            try:
                if path not in known and clock - path.lstat().st_mtime > unread_s:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                continue
