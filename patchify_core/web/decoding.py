"""Strangers' pictures are decoded beside the queue: few at a time, for so long, while others have their turn.

A file of some kilobytes may take seconds to decode. Whoever sends it waits; the search of the next visitor does not.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooSlow
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from patchify_core.errors import PictureError
from patchify_core.pictures import read_picture
from patchify_core.web.callers import caller_group
from patchify_core.web.home import PREFIX
from patchify_core.web.pace import Slots
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
    """

    at_once: int = 3
    of_one: int = 2
    wait_s: float = 30.0
    in_turn_s: float = 2.0
    limit_s: float = 20.0


class Decoders:
    """A few threads that decode.

    Args:
        settings: see `DecodingSettings`.
    """

    def __init__(self, settings: DecodingSettings | None = None) -> None:
        """Nothing is decoded yet."""
        self.settings = settings or DecodingSettings()
        self._running: Counter[str] = Counter()
        self._changed = threading.Condition()

    def run(self, work: Callable[[], T], address: str = "", wait_s: float | None = None) -> T:
        """Does something that decodes.

        Args:
            work: what; it goes on for a while after its time is over, as no decoder can be stopped, and takes a thread
                until it has ended.
            address: of whoever sent the picture.
            wait_s: see `DecodingSettings`.

        Raises:
            PictureError: one sentence, if it takes too long or there are too many others.
        """
        settings = self.settings

        def free() -> bool:
            return self._running.total() < settings.at_once and self._running[address] < settings.of_one

        with self._changed:
            if not self._changed.wait_for(free, settings.wait_s if wait_s is None else wait_s):
                raise PictureError(BUSY)
            self._running[address] += 1

        future: Future[T] = Future()

        def act() -> None:
            _be_nice()
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            finally:
                with self._changed:
                    self._running[address] -= 1
                    self._running += Counter()  # without those that have none
                    self._changed.notify_all()

        # No pool of threads: Python would wait for its threads when the server ends.
        threading.Thread(target=act, name="decode", daemon=True).start()
        try:
            return future.result(settings.limit_s)
        except TooSlow:
            raise PictureError(SLOW) from None


def _be_nice() -> None:
    """Lets searches come first where there are too few cores; Linux alone has a priority for each thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


DECODERS = Decoders()


def decoded(source: Path | bytes) -> Image.Image:
    """A picture as `read_picture` reads it. A stranger's is decoded beside the queue in which it was asked for.

    Raises:
        PictureError: one sentence, if it cannot be read, or takes too long.
    """
    if is_bundled(source):
        return read_picture(source)
    address = asker().address
    with beside_the_queue(address) as beside:
        return DECODERS.run(lambda: read_picture(source), address, None if beside else DECODERS.settings.in_turn_s)


def ready(source: Path | bytes) -> Path | Image.Image:
    """As `decoded`, except that a bundled picture stays the file that it is."""
    return source if isinstance(source, Path) and is_bundled(source) else decoded(source)


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
