"""Who is next, where there is not room for all at once: by order of arrival, by free slots, or address by address."""

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


class FairLock:
    """A lock that goes to whoever has waited longest; `threading.Lock` may go to the same one again and again."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def acquire(self) -> None:
        """Waits for one's turn."""
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Event()
            self._waiting.append(mine)
        mine.wait()

    def release(self) -> None:
        """Ends one's turn."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # it stays taken: by the next one
            else:
                self._taken = False

    def __enter__(self) -> FairLock:
        """Takes a turn."""
        self.acquire()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it."""
        self.release()


class BusyError(PatchifyError):
    """Too many wait already."""


class Slots:
    """So many at a time, and so many of one.

    Args:
        most: in all.
        of_one: of one visitor or address.
    """

    def __init__(self, most: int, of_one: int) -> None:
        self.most, self.of_one = most, of_one
        self._taken: Counter[str] = Counter()

    def acquire(self, one: str) -> bool:
        """Takes a slot, if there is one."""
        if self._taken[one] >= self.of_one or self._taken.total() >= self.most:
            return False
        self._taken[one] += 1
        return True

    def release(self, one: str) -> None:
        """Gives it back."""
        self._taken[one] -= 1
        self._taken += Counter()  # without those that have none


@dataclass(frozen=True, eq=False)
class Ticket:
    """Somebody's turn.

    Attributes:
        address: of whoever waits for it.
        needs: what it takes, in any unit.
        begun: done as soon as it has begun.
    """

    address: str
    needs: int = 0
    begun: Future[None] = field(default_factory=Future)


class FairQueue:
    """Where some must wait, addresses take turns, however much each of them asks for. Safe to use from any thread.

    Args:
        fits: ticket, those that have begun -> whether it may begin now.
    """

    def __init__(self, fits: Callable[[Ticket, Collection[Ticket]], bool]) -> None:
        self._fits, self._lock, self._numbers = fits, threading.Lock(), itertools.count()
        self._waiting: list[Ticket] = []
        self._begun: list[Ticket] = []
        self._order: dict[str, int] = {}  # address -> number of its coming, or of when it last had a turn

    def ask(self, address: str, needs: int = 0) -> Ticket:
        """Waits for a turn; whoever asks calls `end`, however it goes."""
        ticket = Ticket(address, needs)
        with self._lock:
            self._order.setdefault(address, next(self._numbers))
            self._waiting.append(ticket)
            self._begin()
        return ticket

    def end(self, ticket: Ticket) -> None:
        """Ends a turn, or the wait for one."""
        with self._lock:
            (self._begun if ticket in self._begun else self._waiting).remove(ticket)
            self._order[ticket.address] = next(self._numbers)
            if all(one.address != ticket.address for one in (*self._begun, *self._waiting)):
                del self._order[ticket.address]
            self._begin()

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """A turn, waited for in the event loop."""
        ticket = self.ask(address)
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
            if ticket.begun.set_running_or_notify_cancel():  # else whoever waited has just given up, and will end it
                ticket.begun.set_result(None)


def fair_queue(most: int, of_one: int) -> FairQueue:
    """So many at a time, and so many of one address."""
    return FairQueue(
        lambda one, begun: len(begun) < most and sum(other.address == one.address for other in begun) < of_one
    )


class BoundedQueue:
    """Turns for which only so many may wait: who left is worked for all the same, as nobody sees them leave.

    Args:
        at_once: how many have a turn at a time, in all and of one address.
        waiting: how many may wait or have one, in all and of one address.
    """

    def __init__(self, at_once: tuple[int, int], waiting: tuple[int, int]) -> None:
        self._turns, self._waiting = fair_queue(*at_once), Slots(*waiting)

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """A turn, waited for in the event loop.

        Raises:
            BusyError: if too many wait already.
        """
        if not self._waiting.acquire(address):
            raise BusyError("The server is busy: try again in a moment.")
        try:
            async with self._turns.turn(address):
                yield
        finally:
            self._waiting.release(address)
