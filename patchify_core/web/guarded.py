"""Gradio's Blocks for strangers: what does not fit is refused in one sentence, and no visitor can take all turns."""

from __future__ import annotations

import datetime
import logging
import math
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.context import LocalContext
from gradio.data_classes import PredictBodyInternal
from gradio.exceptions import Error, InvalidPathError
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage
from gradio.state_holder import SessionState, StateHolder
from gradio.utils import error_payload
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like

from patchify_core.demo import decoding
from patchify_core.demo.settings import QueueSettings
from patchify_core.demo.storage import Owner, VisitorStorage
from patchify_core.web.bodies import SMALL
from patchify_core.web.callers import CALLER, caller_group
from patchify_core.web.events import NOTICE
from patchify_core.web.gate import FAILED
from patchify_core.web.host import GradioHost
from patchify_core.web.logs import log_unforeseen

ENCODER, PROGRAMS, EVALUATION = "encoder", "programs", "programs-evaluation"
"""Queues (Gradio's concurrency ids) of the searches of the page, of those of programs, and of their evaluations."""

IN_ORDER = (ENCODER, PROGRAMS)
"""Queues in which one visitor's requests are answered one after the other, in the order in which they were made."""

WAITING_MB = 256
"""Megabytes that requests of more than 64 kB may have together while they wait: pictures that programs sent as text."""

OTHERS_AT_ONCE = 2
"""Requests that are answered at once in a queue that says nothing about it."""

BUSY = "The server is busy: wait for the answers that are under way, then ask again."

UNFIT = "The request does not fit this page: reload it, or see its API."

log = logging.getLogger(__name__)


class GuardedBlocks(gr.Blocks):
    """Blocks whose requests come from strangers.

    Gradio answers a request that does not fit its function (too few values, a file that nobody uploaded) with a
    traceback in the log and no word to whoever asked; here it is one sentence to them. Addresses of other hosts, which
    Gradio would fetch on a stranger's behalf, are refused.

    Attributes:
        storage: what visitors leave; None counts nothing.
    """

    storage: VisitorStorage | None = None

    async def process_api(self, block_fn: BlockFunction | int, *arguments: Any, **named: Any) -> dict[str, Any]:
        """As Gradio's, whose refusals (6.31.0) are logged with what was sent and a traceback, and quote it."""
        try:
            found: dict[str, Any] = await super().process_api(block_fn, *arguments, **named)
        except Error as error:
            if not error.print_exception:  # one of ours
                raise
            raise refusal(UNFIT) from None
        except Exception as error:
            what = block_fn if isinstance(block_fn, int) else block_fn.api_name or block_fn.name
            if _is_ours(error):
                log_unforeseen(log, f"The function {what}", error)
                raise refusal(FAILED) from None
            raise unfit(what, error) from None
        return found

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """As Gradio's; what is sent is not kept with the session."""
        try:
            if _names_an_address(inputs):
                raise refusal("This server fetches nothing from addresses: send the picture itself.")
            found: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except Error:
            raise
        except InvalidPathError:
            raise refusal("The upload did not arrive: send the picture again.") from None
        except Exception as error:  # whatever else a stranger's values make of Gradio's own code
            raise unfit(block_fn.api_name or block_fn.name, error) from None
        _forget_values(state, block_fn.inputs)
        return found

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: list[Any] | dict[Any, Any], state: SessionState | None
    ) -> list[Any]:
        """As Gradio's; what is shown is not kept with the session."""
        found: list[Any] = await super().postprocess_data(block_fn, predictions, state)
        _forget_values(state, block_fn.outputs)
        return found

    def guard(self, settings: QueueSettings) -> None:
        """Opens the queue that all requests go through; nothing can be asked beside it."""
        decoding.request_context = GradioHost()
        self.queue(max_size=settings.waiting, default_concurrency_limit=OTHERS_AT_ONCE, api_open=False)
        self._queue = self._fair = FairQueue(self, settings)
        for fn in self.fns.values():
            if fn.concurrency_id == ENCODER:
                fn.concurrency_limit = settings.at_once

    def quiet_s(self) -> float:
        """Seconds since anybody asked or was being answered; 0 while somebody is."""
        return 0.0 if self._fair.get_active_worker_count() else time.monotonic() - self._fair.asked_at


class FairQueue(Queue):
    """Gradio's queue, in which many requests of one caller wait for themselves and not for the others.

    A caller is a visitor, known by a session that anybody can invent anew, or an address (`callers`). As long as there
    is room and a turn for everybody the address does not matter, because a whole class may share one. When the queue is
    full, a newcomer takes the place of the newest request of the address that has the most, in number or in bytes; and
    addresses take turns.

    Args:
        blocks: whose requests wait.
        settings: see `QueueSettings`.

    Attributes:
        asked_at: when the last request was made or ended, on the clock of `time.monotonic`.
    """

    def __init__(self, blocks: gr.Blocks, settings: QueueSettings) -> None:
        super().__init__(
            live_updates=True,
            concurrency_count=blocks.max_threads,
            update_intervals=1,
            max_size=settings.waiting,
            blocks=blocks,
            default_concurrency_limit=OTHERS_AT_ONCE,
        )
        self._settings, self.asked_at = settings, -math.inf
        self._turn, self._turns = 0, {}  # type: int, dict[str, int]

    async def push(self, body: PredictBodyInternal, request: Any, username: str | None) -> Any:
        """As Gradio's, but with room for everybody: see `QueueSettings.of_one` and `of_programs`."""
        self.asked_at = time.monotonic()
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
        """As Gradio's; an answer that nobody fetches is counted among what visitors leave."""
        super().send_message(event, event_message)
        messages = self.pending_messages_per_session.get(event.session_hash)
        storage: VisitorStorage | None = getattr(self.blocks, "storage", None)
        if messages is not None and storage is not None:
            owner = Owner(event.session_hash, caller_group(event.request))
            storage.add_answer(messages, _weight(getattr(event_message, "output", None)), owner)

    async def process_events(self, events: list[Event], *arguments: Any) -> None:
        """As Gradio's; notes when it ended."""
        CALLER.set(caller_group(events[0].request))  # this runs in a task of the queue's, not in the request's
        try:
            await super().process_events(events, *arguments)
        finally:
            self.asked_at = time.monotonic()

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next request and its queue, or None. No function of the page takes its requests in batches."""
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
        """The first request of the address that has the fewest answered now, or whose turn was longest ago."""
        running = [event for job in self.active_jobs for event in job or () if event.concurrency_id == name]
        busy = {_visitor(event.request, event.session_hash) for event in running} if name in IN_ORDER else set()
        firsts: dict[str, Event] = {}
        for event in waiting:
            visitor = _visitor(event.request, event.session_hash)
            if visitor is None or visitor not in busy:
                firsts.setdefault(caller_group(event.request), event)
            if name in IN_ORDER:
                busy.add(visitor)  # what a visitor asked later comes later, from wherever it is asked
        if not firsts:
            return None
        now = Counter(caller_group(event.request) for event in running)
        self._turns = {one: turn for one, turn in self._turns.items() if one in firsts or one in now}
        return firsts[min(firsts, key=lambda address: (now[address], self._turns.get(address, 0)))]

    def _waiting(self) -> Iterable[Event]:
        return (event for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue)

    def _make_room(self, address: str, size: int, of_programs: bool) -> bool:
        """Whether one more request may wait; others are turned away for it where its address has fewer, or less."""
        waiting, surplus = list(self._waiting()), []  # type: list[Event], list[Event]
        limits: list[tuple[int, int, Callable[[Event], int]]] = [(self._settings.waiting, 1, lambda event: 1)]
        if of_programs:
            limits.insert(
                0, (self._settings.of_programs, 1, lambda event: event.concurrency_id in (PROGRAMS, EVALUATION))
            )
        if size > SMALL:  # what is small never waits for room that others take with pictures
            limits.append((WAITING_MB * 1_000_000, size, lambda event: _size(event.request)))
        for most, more, weight in limits:
            found = _surplus([event for event in waiting if event not in surplus], address, most - more, more, weight)
            if found is None:
                return False
            surplus += found
        for event in surplus:
            self._turn_away(event)
        return True

    def _turn_away(self, event: Event) -> None:
        """Tells whoever waits with a request that the server is busy."""
        self.event_queue_per_concurrency_id[event.concurrency_id].queue.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        if event.session_hash in self.pending_messages_per_session:
            said = error_payload(refusal(BUSY), False)
            self.send_message(event, ProcessCompletedMessage(output=said, title=NOTICE, success=False))


def _surplus(
    waiting: Sequence[Event], newcomer: str, most: int, more: int, weight: Callable[[Event], int]
) -> list[Event] | None:
    """What must go so that the rest weighs no more than `most`: the newest of the address that has the most, each time.

    Args:
        waiting: all that wait.
        newcomer: address of one more request.
        most: what may be left.
        more: weight of that request.
        weight: of one that waits.

    Returns:
        None if the newcomer's address would then have as much as any.
    """
    taken: Counter[str] = Counter()
    for event in waiting:
        taken[caller_group(event.request)] += weight(event)
    surplus: list[Event] = []
    while taken.total() > most:
        largest = max(taken, key=lambda one: taken[one])
        if taken[newcomer] + more >= taken[largest]:
            return None
        theirs = (e for e in waiting if caller_group(e.request) == largest and weight(e) and e not in surplus)
        surplus.append(max(theirs, key=lambda event: event.enqueue_time))
        taken[largest] -= weight(surplus[-1])
    return surplus


def _visitor(request: Any, session: str | None) -> str | None:
    """The session that a request is of; None if it is a tool's: the MCP server asks for all its callers in one."""
    return None if (getattr(request, "scope", None) or {}).get("patchify_tool") else session


def _size(request: Any) -> int:
    """Bytes that a request sent, as `gate` counted them."""
    scope = getattr(request, "scope", None) or {}
    return int(scope.get("patchify_bytes", 0))


def refusal(sentence: str) -> Error:
    """An error that reaches whoever asked, page or program, as this sentence, and leaves no traceback in the log."""
    return Error(sentence, title=NOTICE, print_exception=False)


def unfit(what: object, error: Exception) -> Error:
    """A refusal of values that Gradio's own code made an error of, which may quote them."""
    log.info("A request did not fit %s: %s", what, type(error).__name__)
    return refusal(UNFIT)


def _is_ours(error: Exception) -> bool:
    """Whether an error that `process_api` catches came by way of our own code, not only through Gradio's."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][1:]
    return any(str(frame.f_globals.get("__name__")).startswith("patchify_core.") for frame in frames)


def still_wanted() -> bool:
    """Whether whoever asked for what is being computed in this thread is still there."""
    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:
        return True
    running = [event for job in blocks._queue.active_jobs for event in job or ()]
    return all(event.alive for event in running if event._id == event_id)


def _weight(value: Any) -> int:
    """About how many bytes a value takes."""
    if isinstance(value, dict):
        return 100 + sum(map(_weight, value.values()))
    if isinstance(value, (list, tuple)):
        return 100 + sum(map(_weight, value))
    return 100 + (len(value) if isinstance(value, str) else 0)


def _forget_values(state: SessionState | None, blocks: Sequence[Any]) -> None:
    """Lets go of the copies of all values that Gradio 6.31 keeps for each session, for links that the page has not."""
    if state is None:
        return
    for block in blocks:
        if not block.stateful and block._id in state.config_values:
            state._update_value_in_config(block._id, None)


def _names_an_address(value: Any) -> bool:
    """Whether files are asked for by address anywhere in what a stranger sent."""
    if is_file_obj_with_meta(value):
        return is_http_url_like(value["path"])
    if isinstance(value, dict):
        return any(map(_names_an_address, value.values()))
    return isinstance(value, list) and any(map(_names_an_address, value))


SHARE = 20
"""An address may push out others' visits until it has one of this many parts of all; then its own go first."""


class FairStates(StateHolder):
    """Gradio's holder of sessions, which forgets the oldest whoever fills it (6.31.0), with owners.

    Args:
        idle_s: seconds without a request after which a visit is forgotten before any other.
    """

    def __init__(self, idle_s: float) -> None:
        super().__init__()
        self._idle = datetime.timedelta(seconds=idle_s)
        self._owners: dict[str, str] = {}

    def update(self, session_id: str) -> None:
        """Notes that a session is used; one that is too many is forgotten."""
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
                self._owners.setdefault(session_id, CALLER.get())
            while len(self.session_data) > self.capacity:
                self._forget(self._surplus(self._owners.get(session_id, "")))

    def _surplus(self, newcomer: str) -> str:
        """The session to forget: the oldest of all if it was left, else of the newcomer's or of the largest owner's."""
        oldest = next(iter(self.session_data))
        used = self.time_last_used.get(oldest)
        if used is not None and datetime.datetime.now() - used > self._idle:
            return oldest
        counts = Counter(self._owners.get(session, "") for session in self.session_data)
        owner = newcomer
        if counts[newcomer] <= max(1, self.capacity // SHARE):
            owner = max(counts, key=lambda one: counts[one])
        return next(session for session in self.session_data if self._owners.get(session, "") == owner)

    def _forget(self, session_id: str) -> None:
        self.session_data.pop(session_id)
        self.time_last_used.pop(session_id, None)
        self._owners.pop(session_id, None)
        queue = self.blocks._queue
        if all(event.session_hash != session_id for event in queue.event_ids_to_events.values()):
            queue.pending_event_ids_session.pop(session_id, None)
            queue.pending_messages_per_session.pop(session_id, None)
