"""What visitors leave on the server: whose it is, how large and how old it is, and what makes way when room ends.

There is one budget for memory and one for the disk, over all visitors. Own pictures and their indexes are counted by
`own.registry`; query pictures (`StoredPicture`) and files that Gradio takes (`Upload`) are counted here, and make way.
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

LEFT_S = 60.0
"""Seconds after which what a visitor sent is deleted once the page is closed: reloading it takes a few."""

IDLE_S = 60.0
"""Seconds without use after which something makes way even for whoever takes more."""


@dataclass(frozen=True)
class Owner:
    """Whose something is.

    Attributes:
        visit: the session of a page, or the token of a visitor's own pictures.
        address: where they come from; a class may share one.
    """

    visit: str = ""
    address: str = ""


NOBODY = Owner()


class StoredItem:
    """Something that takes room until it is dropped.

    Attributes:
        owner: whose it is.
        used: when it was last used, on the clock of `time.monotonic`.
        left: when its owner closed the page; None while it is open.
    """

    def __init__(self, owner: Owner) -> None:
        self.owner, self.used = owner, time.monotonic()
        self.left: float | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes now."""
        raise NotImplementedError

    def drop(self) -> None:
        """Gives its room back."""
        raise NotImplementedError

    def touch(self) -> None:
        """It is in use."""
        self.used, self.left = time.monotonic(), None

    def is_over(self, now: float, idle_s: float) -> bool:
        """Whether its owner has left, or has not used it for long."""
        return now - self.used > idle_s or (self.left is not None and now - self.left > LEFT_S)


K = TypeVar("K", bound=StoredItem)


class Budget(Generic[K]):
    """So many bytes for all visitors.

    Who needs more than is free pushes out what has been idle for longest, of the address that takes the most; of those
    that take less than they would, only what has been idle for `IDLE_S`. So a stranger who sends much makes way first.

    Args:
        most: bytes in all.
        share: of them, bytes that may be pushed out; all by default.
        others: bytes that are taken and not pushed out.
    """

    def __init__(self, most: int, share: int | None = None, others: Callable[[], int] = int) -> None:
        self.most, self.share, self.others = most, most if share is None else share, others
        self._lock = threading.RLock()
        self._kept: WeakSet[K] = WeakSet()  # what nobody refers to any more takes no room

    @property
    def all(self) -> list[K]:
        """What can be pushed out."""
        with self._lock:
            return list(self._kept)

    @property
    def bytes(self) -> int:
        """Bytes that are taken."""
        return sum(kept.size for kept in self.all) + self.others()

    def add(self, kept: K) -> bool:
        """Takes something in; False, and nothing changes, if there can be no room for it."""
        with self._lock:
            if not self.make(kept.owner, kept.size, within=self.share):
                return False
            self._kept.add(kept)
            return True

    def make(self, owner: Owner, more: int, within: int | None = None) -> bool:
        """Makes room for so many more bytes; False if there can be none.

        Args:
            owner: whose they are.
            more: how many.
            within: bytes that what can be pushed out may then take; None where these cannot be.
        """
        with self._lock:
            left = {kept: kept.size for kept in self._kept}
            going: list[K] = []
            while True:
                theirs = sum(left.values())
                if theirs + self.others() + more <= self.most and (within is None or theirs + more <= within):
                    for kept in going:
                        kept.drop()
                    return True
                idle = self._idle(left, owner, 0 if within is None else more)
                if idle is None:
                    return False
                del left[idle]
                going.append(idle)

    def _idle(self, sizes: dict[K, int], newcomer: Owner, more: int) -> K | None:
        """What makes way next."""
        by_address: Counter[str] = Counter()
        by_address[newcomer.address] = more
        for kept, size in sizes.items():
            by_address[kept.owner.address] += size
        most, idle_since = by_address[newcomer.address], time.monotonic() - IDLE_S
        for address, taken in by_address.most_common():
            theirs = [kept for kept, size in sizes.items() if kept.owner.address == address and size]
            if taken < most:
                theirs = [kept for kept in theirs if kept.used < idle_since]
            if theirs:
                return min(theirs, key=lambda kept: kept.used)
        return None


UNREAD_S = 600.0
"""Age at which an upload is deleted that nothing has asked about."""

UNFETCHED_S = 120.0
"""Age at which answers are forgotten that no page fetches."""

COPIES = 3
"""How often the small copy of a query is in memory: here, in base64 on the page, and in what is on its way there."""

PUSHED_OUT = (
    "Your query picture is no longer on the server, which keeps it only while you use it and there is room: send it "
    "again."
)
NO_MEMORY = "The server has no room for another picture at present: try again in a while, or send a smaller one."
NO_DISK = "The uploads of other visitors fill the server at present: try again in a while."


class StoredPicture(StoredItem):
    """A visitor's query picture: the file as it was sent, and the small copy that is shown to them."""

    def __init__(self, data: bytes, owner: Owner = NOBODY) -> None:
        super().__init__(owner)
        self._data: bytes | None = data
        self.display: bytes | None = None
        self.crc = zlib.crc32(data)

    def __deepcopy__(self, memo: object) -> StoredPicture:
        """There is only one: copies of a query share it."""
        return self

    @property
    def size(self) -> int:
        """Of file and copies."""
        return len(self._data or b"") + COPIES * len(self.display or b"")

    def drop(self) -> None:
        """Forgets the picture; the descriptor that was made of it stays with the query."""
        self._data = self.display = None

    def read(self) -> bytes:
        """The file.

        Raises:
            PatchifyError: if it was dropped.
        """
        data = self._data
        if data is None:
            raise PatchifyError(PUSHED_OUT)
        self.touch()
        return data


class UnreadAnswers(StoredItem):
    """Answers that wait in Gradio's queue of messages for a page that does not fetch them; it would keep them for ever.

    Args:
        messages: of one session, an `asyncio.Queue`.
        owner: whose session it is.
    """

    def __init__(self, messages: Any, owner: Owner) -> None:
        super().__init__(owner)
        self._messages, self._bytes = messages, 0

    @property
    def size(self) -> int:
        """About what they take; 0 once they are fetched."""
        return self._bytes if self._messages.qsize() else 0

    def grow(self, more: int) -> None:
        """One more waits."""
        if self._messages.qsize() <= 1:  # those before it were fetched
            self._bytes = 0
            self.touch()
        self._bytes += more

    def drop(self) -> None:
        """Forgets them."""
        while self._messages.qsize():
            self._messages.get_nowait()

    def is_over(self, now: float, idle_s: float) -> bool:
        """Whether nobody has come for them."""
        return super().is_over(now, min(idle_s, UNFETCHED_S))


class Upload(StoredItem):
    """The folder of one upload: on its way, or arrived and not read yet. Whoever reads it deletes it."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        super().__init__(owner)
        self.folder, self.arriving, self._bytes, self.dropped = folder, True, 0, False

    @property
    def size(self) -> int:
        """Bytes that arrived; 0 once its folder is gone."""
        return self._bytes if self.arriving or self.folder.exists() else 0

    def grow(self, more: int) -> None:
        """More has arrived.

        Raises:
            PatchifyError: if it had to make way meanwhile.
        """
        if self.dropped:
            raise PatchifyError(NO_DISK)
        self._bytes += more
        self.touch()

    def drop(self) -> None:
        """Deletes it."""
        self.dropped, self._bytes = True, 0
        shutil.rmtree(self.folder, ignore_errors=True)


class VisitorStorage:
    """All that visitors leave.

    Args:
        settings: how much there may be, and for how long.
        uploads: the folder that Gradio puts uploads into; None where there are none.
    """

    def __init__(self, settings: PageSettings, uploads: Path | None = None) -> None:
        self.settings, self.uploads = settings, uploads
        self.memory: Budget[StoredItem] = Budget(settings.memory_mb * MEGABYTE)
        total = settings.own_total_mb * MEGABYTE
        self.disk: Budget[Upload] = Budget(total, max(total // 4, min(total, 2 * settings.upload_mb * MEGABYTE)))
        self._parcels: set[Upload] = set()

    def store(self, data: bytes, owner: Owner) -> StoredPicture:
        """Keeps a visitor's query.

        Raises:
            PatchifyError: if there can be no room for it.
        """
        held = StoredPicture(data, owner)
        if not self.memory.add(held):
            raise PatchifyError(NO_MEMORY)
        return held

    def add_answer(self, messages: Any, more: int, owner: Owner) -> None:
        """An answer of so many bytes waits for a page; where there can be no room for it, those of the session go."""
        unread = getattr(messages, "unread", None)
        if unread is None:
            unread = messages.unread = UnreadAnswers(messages, owner)
            self.memory.add(unread)
        unread.grow(more)
        if not self.memory.make(owner, 0, within=self.memory.share):
            unread.drop()

    def begin_upload(self, folder: Path, owner: Owner) -> Upload:
        """An upload begins."""
        parcel = Upload(folder, owner)
        self._parcels.add(parcel)
        self.disk.add(parcel)
        return parcel

    def grow(self, parcel: Upload, more: int) -> None:
        """More of an upload has arrived.

        Raises:
            PatchifyError: if there can be no room for it.
        """
        parcel.touch()  # so that it is not what has been idle for longest
        if not self.disk.make(parcel.owner, more, within=self.disk.share):
            raise PatchifyError(NO_DISK)
        parcel.grow(more)

    def close_visit(self, visit: str) -> None:
        """A page was closed."""
        for kept in self.memory.all:
            if kept.owner.visit == visit:
                kept.left = time.monotonic()

    def sweep(self, now: float | None = None) -> None:
        """Drops what belongs to visitors who have left or have been idle, and uploads that nobody reads."""
        now = time.monotonic() if now is None else now
        for kept in self.memory.all:
            if kept.is_over(now, self.settings.forget_s):
                kept.drop()
        unread_s = min(UNREAD_S, self.settings.forget_s)
        for parcel in list(self._parcels):
            if not parcel.arriving and now - parcel.used > unread_s:
                parcel.drop()
            if not parcel.arriving and not parcel.folder.exists():
                self._parcels.discard(parcel)
        self._sweep_uploads(now, unread_s)

    def _sweep_uploads(self, now: float, unread_s: float) -> None:
        """Deletes what lies among uploads and is nobody's parcel: whatever else writes there."""
        if self.uploads is None or not self.uploads.is_dir():
            return
        known = {parcel.folder for parcel in list(self._parcels)}
        ago = now - time.monotonic()
        for path in self.uploads.iterdir():
            try:
                if path not in known and time.time() + ago - path.lstat().st_mtime > unread_s:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                continue
