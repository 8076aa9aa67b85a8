"""Room that all visitors share: who takes how much of it, and what makes way when there is none left."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakSet

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


class Kept:
    """Something that takes room until it is dropped.

    Attributes:
        owner: whose it is.
        used: when it was last used, on the clock of `time.monotonic`.
        left: when its owner closed the page; None while it is open.
    """

    def __init__(self, owner: Owner) -> None:
        """It was just used."""
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


K = TypeVar("K", bound=Kept)


class Room(Generic[K]):
    """So many bytes for all visitors.

    Who needs more than is free pushes out what has been idle for longest, of the address that takes the most; of those
    that take less than they would, only what has been idle for `IDLE_S`. So a stranger who sends much makes way first.

    Args:
        most: bytes in all.
        share: of them, bytes that may be pushed out; all by default.
        others: bytes that are taken and not pushed out.
    """

    def __init__(self, most: int, share: int | None = None, others: Callable[[], int] = int) -> None:
        """It is empty."""
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
