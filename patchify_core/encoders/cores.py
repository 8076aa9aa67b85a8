"""Keeps every core of the processor busy: a batch is cut into small parts, and each thread describes one at a time.

The usual way is to share each layer among the threads, which then wait for each other after every layer, some hundred
times a batch; where another program holds one core for a moment, all wait. Here they meet once a batch, and a thread
that is held up leaves the next part to the others. Parts are small, so that activations stay in a core's cache. On two
cores that took two thirds of the time with nothing else running, and less beside other programs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

PART = 4
"""Crops in a part, at most: 2 to 6 were equally fast, 8 and more slower (EfficientNet-Lite0, 1 MB of cache a core)."""


def in_parts(
    work: Callable[[NDArray[np.uint8]], NDArray[np.float32]], crops: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """`work(crops)`, done in parts at the same time where the device is a processor.

    Args:
        work: describes each crop by itself: (N, S, S, 3) -> (N, D). It is called from several threads at once.
        crops: (N, S, S, 3) uint8; fewer than there are threads are not cut up, but share each layer as usual.
        device: where `work` computes.

    Returns:
        (N, D) float32, rows in the order of the crops.
    """
    import torch

    if device.type != "cpu":
        return work(crops)
    threads = torch.get_num_threads()
    count = max(threads, -(-len(crops) // PART))
    if count == 1 or len(crops) < threads:
        return work(crops)
    parts = np.array_split(crops, count)
    return np.concatenate(list(map(work, parts) if threads == 1 else _pool(threads).map(work, parts)))


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """As many threads, each of which computes alone."""
    import torch

    started = threading.Barrier(threads + 1)

    def alone() -> None:
        torch.get_num_threads()  # takes over the common number, which would else happen at the first layer
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="patchify-core")
    for _ in range(threads):
        pool.submit(alone)  # each waits at the barrier, so that each is another thread
    started.wait()
    torch.set_num_threads(threads)  # the number of a new thread is the last one that any thread has set
    return pool
