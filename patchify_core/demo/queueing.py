"""Fair queues: whose turn it is where not all can be served at once."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from patchify_core.errors import PatchifyError


class BusyError(PatchifyError):
    """Too many are waiting already."""


class FairLock:
    """A lock that goes to whoever has waited longest; `threading.Lock` may go to the same thread again and again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """Number of threads that wait."""
        return len(self._waiting)

    def acquire(self) -> None:
        """Wait for the lock."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def release(self) -> None:
        """Hand the lock to the next thread."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # it stays taken, by that thread
            else:
                self._taken = False

    def __enter__(self) -> FairLock:
        """Acquire it."""
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        """Release it."""
        self.release()


class Slots:
    """A limit on what runs at a time; the caller guards it if several threads use it.

    Args:
        most: Slots in all.
        of_one: Slots of one visitor or address.
    """

    def __init__(self, most: int, of_one: int) -> None:
        self.most, self.of_one = most, of_one
        self._taken: Counter[str] = Counter()

    def acquire(self, one: str) -> bool:
        """Take a slot; return False if none is free."""
        if self._taken[one] >= self.of_one or self._taken.total() >= self.most:
            return False
        self._taken[one] += 1
        return True

    def release(self, one: str) -> None:
        """Return a slot."""
        self._taken[one] -= 1
        self._taken += Counter()  # drops those that have none


@dataclass(frozen=True, eq=False)
class Ticket:
    """A place in a `FairQueue`.

    Attributes:
        address: Of whoever waits.
        needs: The resources needed, in a unit that the queue's condition knows.
        begun: Done as soon as the turn has begun.
    """

    address: str
    needs: int = 0
    begun: Future[None] = field(default_factory=Future)


class FairQueue:
    """A queue in which addresses take turns, however many requests each of them sends. Thread-safe.

    Args:
        fits: (ticket, tickets that have begun) -> whether the ticket may begin now.
    """

    def __init__(self, fits: Callable[[Ticket, Collection[Ticket]], bool]) -> None:
        self._fits, self._lock, self._numbers = fits, threading.Lock(), itertools.count()
        self._waiting: list[Ticket] = []
        self._begun: list[Ticket] = []
        self._order: dict[str, int] = {}  # address -> number of its arrival, or of its last turn

    def enqueue(self, address: str, needs: int = 0) -> Ticket:
        """Wait for a turn; the caller must call `end`, whatever happens."""
        ticket = Ticket(address, needs)
        with self._lock:
            self._order.setdefault(address, next(self._numbers))
            self._waiting.append(ticket)
            self._begin()
        return ticket

    def end(self, ticket: Ticket) -> None:
        """End a turn, or the wait for it."""
        with self._lock:
            (self._begun if ticket in self._begun else self._waiting).remove(ticket)
            self._order[ticket.address] = next(self._numbers)
            if all(one.address != ticket.address for one in (*self._begun, *self._waiting)):
                del self._order[ticket.address]
            self._begin()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn in the event loop, and end it when the context is left."""
        ticket = self.enqueue(address)
        try:
            await asyncio.wrap_future(ticket.begun)
            yield
        finally:
            self.end(ticket)

    def _begin(self) -> None:
        def next_one() -> Ticket | None:
            ordered = sorted(self._waiting, key=lambda one: self._order[one.address])
            return next((one for one in ordered if self._fits(one, self._begun)), None)

        while ticket := next_one():
            self._waiting.remove(ticket)
            self._begun.append(ticket)
            self._order[ticket.address] = next(self._numbers)
            if ticket.begun.set_running_or_notify_cancel():  # else whoever waited has given up, and will end it
                ticket.begun.set_result(None)


def fair_queue(most: int, of_one: int) -> FairQueue:
    """Return a queue that serves `most` at a time, and `of_one` of one address."""
    return FairQueue(
        lambda one, begun: len(begun) < most and sum(other.address == one.address for other in begun) < of_one
    )


class BoundedQueue:
    """A fair queue of limited length: requests whose senders have left are computed all the same.

    Args:
        at_once: How many are served at a time, in all and of one address.
        waiting: How many may wait or be served, in all and of one address.
    """

    def __init__(self, at_once: tuple[int, int], waiting: tuple[int, int]) -> None:
        self._queue, self._places = fair_queue(*at_once), Slots(*waiting)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn in the event loop, and end it when the context is left.

        Raises:
            BusyError: If too many are waiting already.
        """
        if not self._places.acquire(address):
            raise BusyError("The server is busy: try again in a moment.")
        try:
            async with self._queue.turn(address):
                yield
        finally:
            self._places.release(address)
