"""Strangers' pictures are decoded beside the queue: few at a time, for so long, while others have their turn.

A file of some kilobytes may take seconds to decode. Whoever sends it waits; the search of the next visitor does not.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooSlow
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from patchify_core.errors import PictureError
from patchify_core.imaging.pictures import read_header, read_picture
from patchify_core.web.callers import caller_group
from patchify_core.web.home import PREFIX
from patchify_core.web.memory import give_back
from patchify_core.web.pace import AddressTurns, Slots, Ticket
from patchify_core.web.room import Owner

SLOW = "That picture takes too long to read: save it as a plain JPEG or PNG, or make it smaller."
BUSY = "The server is reading as many pictures as it can: send yours again in a moment."

BESIDE, BESIDE_OF_ONE = 16, 8
"""Requests that may be beside their queue at a time, in all and of one address; Gradio has threads for 40."""

NICE = 5
"""How much less priority the threads that decode have (`nice`)."""

T = TypeVar("T")


@dataclass(frozen=True)
class DecodingSettings:
    """What decoding may take.

    Attributes:
        at_once: pictures decoded at a time.
        of_one: of them, of one address.
        wait_s: seconds that a picture may wait until it is decoded.
        in_turn_s: the same while it has the turn of a queue, because too many are beside it.
        limit_s: seconds that its decoding may take.
        most_bytes: of memory that all of them take at a time, as predicted; a single one may take more.
        large_bytes: of memory, from which on a picture is large: one of these at a time, so that others find room.
    """

    at_once: int = 3
    of_one: int = 2
    wait_s: float = 30.0
    in_turn_s: float = 2.0
    limit_s: float = 20.0
    most_bytes: int = 1_500_000_000
    large_bytes: int = 300_000_000


class Decoders:
    """A few threads that decode; whoever sends pictures takes turns by address.

    Args:
        settings: see `DecodingSettings`.
    """

    def __init__(self, settings: DecodingSettings | None = None) -> None:
        """Nothing is decoded yet."""
        self.settings = settings or DecodingSettings()
        self._turns = AddressTurns(self._fits)

    def _fits(self, one: Ticket, begun: Collection[Ticket]) -> bool:
        settings, large = self.settings, self.settings.large_bytes
        return (
            len(begun) < settings.at_once
            and sum(other.address == one.address for other in begun) < settings.of_one
            and (one.needs <= large or all(other.needs <= large for other in begun))
            and (not begun or one.needs + sum(other.needs for other in begun) <= settings.most_bytes)
        )

    def run(self, work: Callable[[], T], address: str = "", wait_s: float | None = None, needs: int = 0) -> T:
        """As `made`, for what is small or needed no longer."""
        with self.made(work, address, wait_s, needs) as result:
            return result

    @contextmanager
    def made(
        self, work: Callable[[], T], address: str = "", wait_s: float | None = None, needs: int = 0
    ) -> Iterator[T]:
        """Does something that decodes; what it made counts until the context is left, and is to be let go of by then.

        Args:
            work: what; it goes on for a while after its time is over, as no decoder can be stopped, and takes a thread
                until it has ended.
            address: of whoever sent the picture.
            wait_s: see `DecodingSettings`.
            needs: bytes of memory that it takes, as predicted (`memory_for`).

        Raises:
            PictureError: one sentence, if it takes too long or there are too many others.
        """
        settings, ticket = self.settings, self._turns.ask(address, needs)
        ended: Future[None] = Future()
        made: list[T] = []  # from which it is taken, so that nothing here keeps it

        def act() -> None:
            _be_nice()
            try:
                made.append(work())
                ended.set_result(None)
            except BaseException as error:
                ended.set_exception(error)

        def end(_: Any = None) -> None:
            if needs > settings.large_bytes:
                give_back()  # before the next large one begins
            self._turns.end(ticket)

        with ExitStack() as after:
            after.callback(end)
            try:
                ticket.begun.result(settings.wait_s if wait_s is None else wait_s)
            except TooSlow:
                raise PictureError(BUSY) from None
            # No pool of threads: Python would wait for its threads when the server ends.
            threading.Thread(target=act, name="decode", daemon=True).start()
            try:
                ended.result(settings.limit_s)
            except TooSlow:
                after.pop_all()
                ended.add_done_callback(end)
                raise PictureError(SLOW) from None
            yield made.pop()


def _be_nice() -> None:
    """Lets searches come first where there are too few cores; Linux alone has a priority for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


DECODERS = Decoders()


def _itself(made: Any) -> Any:
    return made


def decoded(source: Path | bytes, use: Callable[[Image.Image], T] = _itself, in_turn: bool = False) -> T:
    """A picture as `read_picture` reads it. A stranger's is decoded beside the queue in which it was asked for.

    It may be as large as its file says, so it is used at once, and what is made of it is kept.

    Args:
        source: the picture.
        use: makes of it what is needed; by default it stays as it is.
        in_turn: use it in the turn of the queue, as a search is; otherwise beside the queue too.

    Raises:
        PictureError: one sentence, if it cannot be read, or takes too long.
    """
    if is_bundled(source):
        return use(read_picture(source))
    address = asker().address
    with ExitStack() as kept:
        with beside_the_queue(address) as beside:
            wait_s = None if beside else DECODERS.settings.in_turn_s
            made = DECODERS.made(lambda: read_picture(source), address, wait_s, memory_for(source))
            held = [kept.enter_context(made)]
            if not in_turn:
                return use(held.pop())
        return use(held.pop())


def ready(source: Path | bytes, use: Callable[[Any], T] = _itself) -> T:
    """As `decoded`, except that a bundled picture stays the file that it is."""
    return use(source) if isinstance(source, Path) and is_bundled(source) else decoded(source, use)


def memory_for(source: Path | bytes) -> int:
    """Bytes of memory that reading a picture takes, as predicted; 0 for what cannot be read."""
    try:
        return read_header(source).memory
    except PictureError:  # whoever reads it will say why
        return 0


def is_bundled(source: Path | bytes) -> bool:
    """Whether a picture is the server's own, and no visitor sent it."""
    return isinstance(source, Path) and not any(part.startswith(PREFIX) for part in source.parts)


def asker() -> Owner:
    """Whoever asked for what is being computed in this thread."""
    from gradio.context import LocalContext

    request = LocalContext.request.get(None)
    if request is None or getattr(request, "request", None) is None:
        return Owner()
    return Owner(str(request.session_hash or ""), caller_group(request))


_lock, _slots = threading.Lock(), Slots(BESIDE, BESIDE_OF_ONE)


@contextmanager
def beside_the_queue(address: str = "") -> Iterator[bool]:
    """Lets the next request of Gradio's queue have the turn of this one meanwhile, unless too many are beside it.

    Afterwards there may be one more at work than the queue allows, and no further one begins until that has ended.
    Gives whether nobody waits for this request.
    """
    from anyio import from_thread
    from gradio.context import LocalContext

    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    queue = None
    if blocks is not None and event_id is not None:
        running = [event for job in blocks._queue.active_jobs for event in job or ()]
        event = next((event for event in running if event._id == event_id), None)
        queue = None if event is None else blocks._queue.event_queue_per_concurrency_id.get(event.concurrency_id)
    if queue is None:
        yield True
        return
    with _lock:
        taken = _slots.take(address)
    if not taken:
        yield False
        return

    def step(by: int) -> None:
        queue.current_concurrency += by

    try:
        from_thread.run_sync(step, -1)  # in the event loop's thread, which counts too
        try:
            yield True
        finally:
            from_thread.run_sync(step, 1)
    finally:
        with _lock:
            _slots.give(address)
