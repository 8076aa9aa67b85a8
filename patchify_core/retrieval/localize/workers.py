"""Several pictures at once, each on one thread.

Matrix products start as many threads as there are cores; two pictures at a time would then wait for each other in every
product, and take as long as one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 2
"""Pictures that are searched at once; numpy and OpenCV leave Python's lock alone while they work."""


class _OneThreadEach:
    """While any thread is inside, numerical libraries use one thread each; afterwards as many as before."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:  # counted: the first to come sets the limit, and only the last to leave lifts it
            if not self._inside:
                self._limit = threadpool_limits(1)  # of all that are loaded by now
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()


_one_thread_each = _OneThreadEach()


def map_at_once(work: Callable[[Item], Result], items: Sequence[Item], workers: int = WORKERS) -> list[Result]:
    """`list(map(work, items))`, several at once.

    Args:
        work: safe to call from several threads.
        items: what to work on.
        workers: how many at once; below 2, or with a single item, the caller's thread does all, with all cores.

    Raises:
        Exception: the first that `work` raised, in the order of the items.
    """
    if len(items) < 2 or workers < 2:
        return [work(item) for item in items]
    with _one_thread_each, ThreadPoolExecutor(workers, thread_name_prefix="patchify-refine") as threads:
        return list(threads.map(work, items))
