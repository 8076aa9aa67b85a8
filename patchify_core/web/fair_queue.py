"""Gradio's queue and sessions, shared fairly among callers: no visitor or address can take all turns or all memory."""

from __future__ import annotations

import datetime
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from anyio import from_thread
from gradio.context import LocalContext
from gradio.data_classes import PredictBodyInternal
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.state_holder import StateHolder
from gradio.utils import error_payload

from patchify_core.demo.decoding import RequestContext
from patchify_core.demo.queueing import Slots
from patchify_core.demo.settings import QueueSettings
from patchify_core.demo.storage import Owner, VisitorStorage
from patchify_core.web.bodies import SMALL
from patchify_core.web.callers import CALLER, caller_group
from patchify_core.web.events import NOTICE, refusal

ENCODER, PROGRAMS, EVALUATION = "encoder", "programs", "programs-evaluation"
"""Queues (Gradio's concurrency ids): searches of the page, searches of programs, and evaluations of programs."""

IN_ORDER = (ENCODER, PROGRAMS)
"""Queues in which the requests of one visitor are answered one after another, in their order."""

WAITING_MB = 256
"""Megabytes for all waiting requests of more than 64 kB: pictures that programs sent as text."""

AT_ONCE = 2
"""Requests answered at once in a queue without a limit of its own."""

OUTSIDE, OUTSIDE_OF_ONE = 16, 8
"""Requests outside their queue at a time, in total and per address; Gradio has threads for 40."""

SHARE = 20
"""An address may drop others' sessions until it has one of this many parts of all; then it loses its own first."""

BUSY = "The server is busy: wait for the answers that are under way, then try again."


class FairQueue(Queue):
    """Gradio's queue, in which many requests of one caller delay that caller and not the others.

    A caller is a visitor, known by a session that anybody can invent, or an address (`callers`). As long as there is
    room and a turn for everybody, the address does not matter, because a whole class may share one. If the queue is
    full, a new request takes the place of the newest one of the address that has the most, by number or by bytes; and
    addresses take turns.

    Args:
        blocks: The page.
        settings: See `QueueSettings`.

    Attributes:
        last_used: When the last request came or ended, on the clock of `time.monotonic`.
    """

    def __init__(self, blocks: gr.Blocks, settings: QueueSettings) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=settings.waiting,
            blocks=blocks,
            default_concurrency_limit=AT_ONCE,
        )
        self._settings, self.last_used = settings, -math.inf
        self._turn, self._turns = 0, {}  # type: int, dict[str, int]

    async def push(self, body: PredictBodyInternal, request: Any, username: str | None) -> Any:
        """Queue a request as Gradio does, within `QueueSettings.of_one` and `of_programs`."""
        self.last_used = time.monotonic()
        if body.fn_index is not None and body.fn_index not in self.blocks.fns:
            return False, "There is no such function: reload the page, or see its API.", "error"
        queue = None if body.fn_index is None else self.blocks.fns[body.fn_index].concurrency_id
        theirs = sum(_visitor(event.request, event.session_hash) == body.session_hash for event in self._waiting())
        if theirs >= self._settings.of_one and _visitor(request, body.session_hash) is not None:
            return False, BUSY, "queue_full"
        if not self._make_room(caller_group(request), _size(request), queue in (PROGRAMS, EVALUATION)):
            return False, BUSY, "queue_full"
        return await super().push(body, request, username)

    def send_message(self, event: Event, event_message: Any) -> None:
        """Send a message as Gradio does; until it is fetched it counts in the visitor's storage."""
        super().send_message(event, event_message)
        messages = self.pending_messages_per_session.get(event.session_hash)
        storage: VisitorStorage | None = getattr(self.blocks, "storage", None)
        if messages is not None and storage is not None:
            owner = Owner(event.session_hash, caller_group(event.request))
            storage.add_answer(messages, _memory(getattr(event_message, "output", None)), owner)

    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        """Answer requests as Gradio does, with `CALLER` set: this runs in a task of the queue."""
        CALLER.set(caller_group(events[0].request))
        try:
            await super().process_events(events, *arguments)
        finally:
            self.last_used = time.monotonic()

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """Return the next request and its queue, or None. No function of the page takes batches."""
        queues = list(self.event_queue_per_concurrency_id.items())
        random.shuffle(queues)
        for name, queue in queues:
            if queue.concurrency_limit is not None and queue.current_concurrency >= queue.concurrency_limit:
                continue
            event = self._next(name, queue.queue)
            if event is not None:
                queue.queue.remove(event)
                self._turn += 1
                self._turns[caller_group(event.request)] = self._turn
                return [event], False, name
        return None

    def _next(self, name: str, waiting: list[Event]) -> Event | None:
        """Return the first request of the address with the fewest running ones, then with the oldest turn."""
        running = [event for job in self.active_jobs for event in job or () if event.concurrency_id == name]
        busy = {_visitor(event.request, event.session_hash) for event in running} if name in IN_ORDER else set()
        firsts: dict[str, Event] = {}
        for event in waiting:
            visitor = _visitor(event.request, event.session_hash)
            if visitor is None or visitor not in busy:
                firsts.setdefault(caller_group(event.request), event)
            if name in IN_ORDER:
                busy.add(visitor)  # a visitor's later requests come later, from whatever address
        if not firsts:
            return None
        counts = Counter(caller_group(event.request) for event in running)
        self._turns = {one: turn for one, turn in self._turns.items() if one in firsts or one in counts}
        return firsts[min(firsts, key=lambda address: (counts[address], self._turns.get(address, 0)))]

    def _waiting(self) -> Iterable[Event]:
        return (event for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue)

    def _make_room(self, address: str, size: int, of_programs: bool) -> bool:
        """Return whether one more request may wait; drop requests of addresses that have more, or larger ones."""
        waiting, surplus = list(self._waiting()), []  # type: list[Event], list[Event]
        limits: list[tuple[int, int, Callable[[Event], int]]] = [(self._settings.waiting, 1, lambda event: 1)]
        if of_programs:
            limits.insert(
                0, (self._settings.of_programs, 1, lambda event: event.concurrency_id in (PROGRAMS, EVALUATION))
            )
        if size > SMALL:  # small requests do not compete with pictures
            limits.append((WAITING_MB * 1_000_000, size, lambda event: _size(event.request)))
        for most, more, weight in limits:
            rest = [event for event in waiting if event not in surplus]
            dropped = _surplus(rest, address, most - more, more, weight)
            if dropped is None:
                return False
            surplus += dropped
        for event in surplus:
            self._drop(event)
        return True

    def _drop(self, event: Event) -> None:
        """Remove a request, and tell its sender that the server is busy."""
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        if event.session_hash in self.pending_messages_per_session:
            output = error_payload(refusal(BUSY), False)
            self.send_message(event, ProcessCompletedMessage(output=output, title=NOTICE, success=False))


def _surplus(
    waiting: Sequence[Event], newcomer: str, most: int, more: int, weight: Callable[[Event], int]
) -> list[Event] | None:
    """Return the requests to drop so that the rest weighs at most `most`: each time the newest of the largest address.

    Args:
        waiting: All that wait.
        newcomer: Address of one more request.
        most: Weight that may be left.
        more: Weight of the new request.
        weight: Of a waiting request.

    Returns:
        None if the newcomer's address would then have as much as any.
    """
    totals: Counter[str] = Counter()
    for event in waiting:
        totals[caller_group(event.request)] += weight(event)
    surplus: list[Event] = []
    while totals.total() > most:
        largest = max(totals, key=lambda address: totals[address])
        if totals[newcomer] + more >= totals[largest]:
            return None
        theirs = (e for e in waiting if caller_group(e.request) == largest and weight(e) and e not in surplus)
        surplus.append(max(theirs, key=lambda event: event.enqueue_time))
        totals[largest] -= weight(surplus[-1])
    return surplus


def _visitor(request: Any, session: str | None) -> str | None:
    """Return the session of a request; None for the MCP server, which uses one session for all its clients."""
    return None if (getattr(request, "scope", None) or {}).get("patchify_tool") else session


def _size(request: Any) -> int:
    """Return the bytes of a request's body, as `gate` counted them."""
    scope = getattr(request, "scope", None) or {}
    return int(scope.get("patchify_bytes", 0))


def _memory(value: Any) -> int:
    """Estimate the bytes that a value takes."""
    if isinstance(value, dict):
        return 100 + sum(map(_memory, value.values()))
    if isinstance(value, (list, tuple)):
        return 100 + sum(map(_memory, value))
    return 100 + (len(value) if isinstance(value, str) else 0)


class GradioContext(RequestContext):
    """The request that Gradio is answering in this thread: its sender, and its place in the queue."""

    def __init__(self) -> None:
        self._lock, self._slots = threading.Lock(), Slots(OUTSIDE, OUTSIDE_OF_ONE)

    def sender(self) -> Owner:
        """Return the visitor who sent the request."""
        request = LocalContext.request.get(None)
        if request is None or getattr(request, "request", None) is None:
            return Owner()
        return Owner(str(request.session_hash or ""), caller_group(request))

    @contextmanager
    def outside_queue(self) -> Iterator[bool]:
        """Let the next request of the queue run meanwhile, unless too many are outside their queues already.

        Afterwards there may be one more running than the queue allows, and no other begins until one of them has ended.
        """
        blocks, events = LocalContext.blocks.get(None), _running_events()
        queues = blocks._queue.event_queue_per_concurrency_id if blocks is not None else {}
        queue = queues.get(events[0].concurrency_id) if events else None
        if queue is None:
            yield True
            return
        address = self.sender().address
        with self._lock:
            acquired = self._slots.acquire(address)
        if not acquired:
            yield False
            return

        def add(number: int) -> None:
            queue.current_concurrency += number

        try:
            from_thread.run_sync(add, -1)  # in the thread of the event loop, which counts too
            try:
                yield True
            finally:
                from_thread.run_sync(add, 1)
        finally:
            with self._lock:
                self._slots.release(address)


def _running_events() -> list[Event]:
    """Return the events that the request in this thread belongs to."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return []
    return [event for job in blocks._queue.active_jobs for event in job or () if event._id == event_id]


def still_wanted() -> bool:
    """Return whether the sender of the request in this thread still waits for the answer."""
    return all(event.alive for event in _running_events())


class FairStates(StateHolder):
    """Gradio's sessions, with owners; Gradio 6.31.0 drops the oldest one, whoever fills the holder.

    Args:
        idle_s: Seconds without a request after which a session is dropped before any other.
    """

    def __init__(self, idle_s: float) -> None:
        super().__init__()
        self._idle = datetime.timedelta(seconds=idle_s)
        self._owners: dict[str, str] = {}

    def update(self, session_id: str) -> None:
        """Note that a session is used; drop one if there are too many."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
                self._owners.setdefault(session_id, CALLER.get())
            while len(self.session_data) > self.capacity:
                self._drop(self._surplus(self._owners.get(session_id, "")))

    def _surplus(self, newcomer: str) -> str:
        """Return the session to drop: the oldest of all if idle, else of the newcomer or of the largest owner."""
        oldest = next(iter(self.session_data))
        used = self.time_last_used.get(oldest)
        if used is not None and datetime.datetime.now() - used > self._idle:
            return oldest
        counts = Counter(self._owners.get(session, "") for session in self.session_data)
        owner = newcomer
        if counts[newcomer] <= max(1, self.capacity // SHARE):
            owner = max(counts, key=lambda one: counts[one])
        return next(session for session in self.session_data if self._owners.get(session, "") == owner)

    def _drop(self, session_id: str) -> None:
        self.session_data.pop(session_id)
        self.time_last_used.pop(session_id, None)
        self._owners.pop(session_id, None)
        queue = self.blocks._queue
        if all(event.session_hash != session_id for event in queue.event_ids_to_events.values()):
            queue.pending_event_ids_session.pop(session_id, None)
            queue.pending_messages_per_session.pop(session_id, None)
