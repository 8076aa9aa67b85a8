"""Decodes strangers' pictures outside the request queue, so that a picture that takes seconds delays its sender alone.

Few are decoded at a time, with limits on time and memory, and addresses take turns.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from patchify_core.demo.memory import release_memory
from patchify_core.demo.queueing import FairQueue, Ticket
from patchify_core.demo.server_folders import PREFIX
from patchify_core.demo.storage import Owner
from patchify_core.errors import PictureError
from patchify_core.imaging.pictures import read_header, read_picture

SLOW = "That picture takes too long to read: save it as a plain JPEG or PNG, or make it smaller."
BUSY = "The server is reading as many pictures as it can: send yours again in a moment."

NICE = 5
"""By how much the priority of decoding threads is lowered (`nice`)."""

T = TypeVar("T")


class RequestContext:
    """What the server knows of the request that this thread answers. This default knows nothing."""

    def sender(self) -> Owner:
        """Return who sent it."""
        return Owner()

    @contextmanager
    def outside_queue(self) -> Iterator[bool]:
        """Let the next request of the queue begin meanwhile; yield whether that was possible."""
        yield True


request_context = RequestContext()
"""Of this process; the server replaces it with its own."""


@dataclass(frozen=True)
class DecodingSettings:
    """Limits on decoding.

    Attributes:
        at_once: Pictures decoded at a time.
        of_one: Of them, pictures of one address.
        wait_s: Seconds that a picture may wait to be decoded.
        in_turn_s: The same for a request that could not leave the queue and so delays others.
        limit_s: Seconds that decoding one picture may take.
        most_bytes: Predicted memory of all pictures decoded at a time; a single one may take more.
        large_bytes: Predicted memory above which one picture is decoded at a time, so that small ones find room.
    """

    at_once: int = 3
    of_one: int = 2
    wait_s: float = 30.0
    in_turn_s: float = 2.0
    limit_s: float = 20.0
    most_bytes: int = 1_500_000_000
    large_bytes: int = 300_000_000


class DecoderPool:
    """Threads that decode pictures within the limits of `settings`."""

    def __init__(self, settings: DecodingSettings | None = None) -> None:
        self.settings = settings or DecodingSettings()
        self._queue = FairQueue(self._fits)

    def _fits(self, one: Ticket, begun: Collection[Ticket]) -> bool:
        settings, large = self.settings, self.settings.large_bytes
        return (
            len(begun) < settings.at_once
            and sum(other.address == one.address for other in begun) < settings.of_one
            and (one.needs <= large or all(other.needs <= large for other in begun))
            and (not begun or one.needs + sum(other.needs for other in begun) <= settings.most_bytes)
        )

    def run(self, work: Callable[[], T], address: str = "", wait_s: float | None = None, needs: int = 0) -> T:
        """As `result`, for a small result or one that the pool need not count any longer."""
        with self.result(work, address, wait_s, needs) as result:
            return result

    @contextmanager
    def result(
        self, work: Callable[[], T], address: str = "", wait_s: float | None = None, needs: int = 0
    ) -> Iterator[T]:
        """Run `work` in a thread and yield its result, whose memory counts until the context is left.

        Args:
            work: What decodes. No decoder can be stopped: after its time limit it goes on and occupies its thread.
            address: Of whoever sent the picture.
            wait_s: See `DecodingSettings`.
            needs: Predicted bytes of memory (`predicted_memory`).

        Raises:
            PictureError: One sentence, if it takes too long or too many others are waiting.
        """
        settings, ticket = self.settings, self._queue.enqueue(address, needs)
        ended: Future[None] = Future()
        results: list[T] = []  # popped below, so that nothing here keeps the result alive

        def act() -> None:
            _lower_priority()
            try:
                results.append(work())
                ended.set_result(None)
            except BaseException as error:
                ended.set_exception(error)

        def end(_: Any = None) -> None:
            if needs > settings.large_bytes:
                release_memory()  # before the next large one begins
            self._queue.end(ticket)

        with ExitStack() as after:
            after.callback(end)
            try:
                ticket.begun.result(settings.wait_s if wait_s is None else wait_s)
            except FutureTimeoutError:
                raise PictureError(BUSY) from None
            # No thread pool: Python would wait for its threads when the server ends.
            threading.Thread(target=act, name="decode", daemon=True).start()
            try:
                ended.result(settings.limit_s)
            except FutureTimeoutError:
                after.pop_all()
                ended.add_done_callback(end)
                raise PictureError(SLOW) from None
            yield results.pop()


def _lower_priority() -> None:
    """Let searches go first where cores are few; only Linux has a priority per thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))


DECODER_POOL = DecoderPool()


def _identity(picture: Any) -> Any:
    return picture


def decode(source: Path | bytes, use: Callable[[Image.Image], T] = _identity) -> T:
    """Read a picture as `read_picture` does; a stranger's is decoded outside the queue of its request.

    Args:
        source: The picture.
        use: Computes what is needed of the picture, back in the turn of the queue, as a search does; by default
            returns it. A picture may be as large as its file says, so what `use` returns should not refer to it.

    Raises:
        PictureError: One sentence, if it cannot be read or takes too long.
    """
    if is_bundled(source):
        return use(read_picture(source))
    with ExitStack() as stack:
        with request_context.outside_queue() as outside:
            wait_s = None if outside else DECODER_POOL.settings.in_turn_s
            address, needs = request_context.sender().address, predicted_memory(source)
            result = DECODER_POOL.result(lambda: read_picture(source), address, wait_s, needs)
            pictures = [stack.enter_context(result)]
        return use(pictures.pop())


def decode_untrusted(source: Path | bytes, use: Callable[[Any], T] = _identity) -> T:
    """As `decode`, but pass a bundled picture to `use` as its path."""
    return use(source) if isinstance(source, Path) and is_bundled(source) else decode(source, use)


def predicted_memory(source: Path | bytes) -> int:
    """Predict the bytes of memory that reading a picture takes; 0 if it cannot be read."""
    try:
        return read_header(source).memory
    except PictureError:  # whoever reads it reports why
        return 0


def is_bundled(source: Path | bytes) -> bool:
    """Whether a picture belongs to the server and was not sent by a visitor."""
    return isinstance(source, Path) and not any(part.startswith(PREFIX) for part in source.parts)
