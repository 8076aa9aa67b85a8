"""How long work takes, on a machine where others work too."""

from __future__ import annotations

import time
from collections.abc import Callable


def shortest(work: Callable[[], object], enough: float, tries: int = 3) -> float:
    """The shortest time, in seconds, of a few tries: what is slow by itself is slow each time.

    Args:
        work: what is done.
        enough: seconds that need no further try.
        tries: how often at most.
    """
    seconds = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        work()
        seconds = min(seconds, time.perf_counter() - start)
        if seconds < enough:
            break
    return seconds
