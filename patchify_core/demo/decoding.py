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

from patchify_core.demo.memory import release_memory
from patchify_core.demo.queueing import FairQueue, Ticket
from patchify_core.demo.server_folders import PREFIX
from patchify_core.demo.storage import Owner
from patchify_core.errors import PictureError
from patchify_core.imaging.pictures import read_header, read_picture

SLOW = "That picture takes too long to read: save it as a plain JPEG or PNG, or make it smaller."
BUSY = "The server is reading as many pictures as it can: send yours again in a moment."

NICE = 5
"""How much less priority the threads that decode have (`nice`)."""

T = TypeVar("T")


class RequestContext:
    """What the server knows of the request that is being answered in this thread; this one knows nothing."""

    def sender(self) -> Owner:
        """Whoever sent it."""
        return Owner()

    @contextmanager
    def outside_queue(self) -> Iterator[bool]:
        """Lets the next request of its queue have the turn of this one meanwhile; gives whether that could be done."""
        yield True


request_context = RequestContext()
"""Of this process; the server puts its own in this place."""


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


class DecoderPool:
    """A few threads that decode; whoever sends pictures takes turns by address.

    Args:
        settings: see `DecodingSettings`.
    """

    def __init__(self, settings: DecodingSettings | None = None) -> None:
        self.settings = settings or DecodingSettings()
        self._turns = FairQueue(self._fits)

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
            needs: bytes of memory that it takes, as predicted (`predicted_memory`).

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
                release_memory()  # before the next large one begins
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


DECODER_POOL = DecoderPool()


def _itself(made: Any) -> Any:
    return made


def decode(source: Path | bytes, use: Callable[[Image.Image], T] = _itself) -> T:
    """A picture as `read_picture` reads it. A stranger's is decoded beside the queue in which it was asked for.

    Args:
        source: the picture.
        use: makes of it what is needed, in the turn of the queue, as a search is; by default it stays as it is. The
            picture may be as large as its file says, so what is made of it is kept, and not the picture.

    Raises:
        PictureError: one sentence, if it cannot be read, or takes too long.
    """
    if is_bundled(source):
        return use(read_picture(source))
    with ExitStack() as kept:
        with request_context.outside_queue() as beside:
            wait_s = None if beside else DECODER_POOL.settings.in_turn_s
            made = DECODER_POOL.made(
                lambda: read_picture(source), request_context.sender().address, wait_s, predicted_memory(source)
            )
            held = [kept.enter_context(made)]
        return use(held.pop())


def decode_untrusted(source: Path | bytes, use: Callable[[Any], T] = _itself) -> T:
    """As `decode`, except that a bundled picture stays the file that it is."""
    return use(source) if isinstance(source, Path) and is_bundled(source) else decode(source, use)


def predicted_memory(source: Path | bytes) -> int:
    """Bytes of memory that reading a picture takes, as predicted; 0 for what cannot be read."""
    try:
        return read_header(source).memory
    except PictureError:  # whoever reads it will say why
        return 0


def is_bundled(source: Path | bytes) -> bool:
    """Whether a picture is the server's own, and no visitor sent it."""
    return isinstance(source, Path) and not any(part.startswith(PREFIX) for part in source.parts)
