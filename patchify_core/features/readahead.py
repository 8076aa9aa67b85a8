"""Two things at once: while one picture or batch is worked on, the next one is read.

Reading (disk, decoding, cropping) stays in the caller's thread and the work goes to another one, not the other way
round: whatever reading notes down on the side needs no lock, and Ctrl-C stops it at once. Both kinds of work leave
Python's lock alone for most of their time (Pillow and torch release it), so that two cores are busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1) -> Iterator[Result]:
    """`map(work, items)`, except that up to `ahead` further items are read while the work on one goes on.

    Args:
        work: called in one other thread, in order, never twice at once.
        items: read lazily in the caller's thread: nothing before the first result is asked for, and never more than
            `ahead` items beyond the one whose result is next. So many items are in memory at once, plus one.
        ahead: at least 1.

    Yields:
        The results, in order.

    Raises:
        ValueError: if `ahead` is less than 1.
        Exception: what `work` or `items` raised, after the results of all items before. What is no error but a wish to
            stop (KeyboardInterrupt) comes through at once, without them.

    Whatever ends it (an error, the last result, or the generator being closed), the thread has ended too.

    Example:
        >>> list(map_ahead(str.upper, ["a", "b"]))
        ['A', 'B']
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}: at least 1")
    iterator = iter(items)
    failed: Exception | None = None
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="patchify-ahead") as worker:
        try:
            while failed is None:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                except Exception as error:  # what was read before it still counts
                    failed = error
                    break
                running.append(worker.submit(work, item))
                del item  # the worker alone keeps it, until it is done
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()
    if failed is not None:
        raise failed
