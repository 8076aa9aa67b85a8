"""Where a network runs, and with which numbers: chosen once, when it is loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderSettings
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch


def choose_device(settings: EncoderSettings) -> torch.device:
    """The device that the settings ask for; for `auto` the fastest kind that this machine has and the engine can use.

    Args:
        settings: `settings.device` is `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        EncoderError: If this machine has no such device, or the engine cannot use it.
    """
    import torch

    if settings.engine != "torch":
        if settings.device not in ("auto", "cpu"):
            raise EncoderError(
                f"The engine {settings.engine} computes on the processor, not on '{settings.device}': choose the "
                "device cpu, or the engine torch."
            )
        return torch.device("cpu")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if settings.device == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(settings.device)
    if device.type == "cuda":
        found = cuda and (device.index or 0) < torch.cuda.device_count()
    else:
        found = device.type == "cpu" or mps
    if not found:
        raise EncoderError(
            f"This machine has no device '{settings.device}' that torch can use: "
            "choose auto or cpu (--device, or the variable PATCHIFY_DEVICE)."
        )
    return device


def use_threads(settings: EncoderSettings) -> None:
    """Give torch the number of processor threads that the settings ask for; 0 leaves its own choice."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)


def half_precisions(device: torch.device, asked: str) -> tuple[torch.dtype, ...]:
    """The kinds of half precision to try, in this order, before float32; none where it would not be faster.

    Args:
        device: Where the network runs.
        asked: `EncoderSettings.precision`. With `auto` bfloat16 comes first where the card has it: large activations
            of some vision transformers overflow float16. float16 has three more bits for networks that need them.
    """
    import torch

    if asked != "auto":
        return () if asked == "float32" else (getattr(torch, asked),)
    if device.type != "cuda":
        return ()
    # Cards before 2020 emulate bfloat16, slower than float32.
    has_it = torch.cuda.is_bf16_supported(including_emulation=False)
    return (torch.bfloat16, torch.float16) if has_it else (torch.float16,)


def mixed_precision(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[Any]:
    """Have torch compute in half precision what it holds safe; nothing where `half` is None."""
    import torch

    return nullcontext() if half is None else torch.autocast(device.type, half)


def precision_name(half: torch.dtype | None) -> str:
    """Name what `mixed_precision` computes with: `float32`, or `bfloat16` or `float16`."""
    return "float32" if half is None else str(half).removeprefix("torch.")


MOST_READERS = 8
"""Threads that read and cut pictures for one GPU, unless another number is asked for."""


def readers_for(device: torch.device, settings: EncoderSettings) -> int:
    """How many threads read and cut pictures for a network on that device; see `EncoderSettings.readers`."""
    import torch

    if settings.readers >= 0:
        return settings.readers
    return min(MOST_READERS, torch.get_num_threads()) if device.type == "cuda" else 0


class Uploads:
    """Copies batches to a CUDA device while it computes: from pinned memory, on a stream of their own.

    Args:
        device: Where the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, crops: NDArray[np.uint8]) -> torch.Tensor | NDArray[np.uint8]:
        """Begin to copy a batch; gives it back as it is where the device has no room for it."""
        import torch

        try:
            with torch.cuda.stream(self._stream):
                # torch keeps the pinned copy until the device has read it.
                return torch.from_numpy(crops).pin_memory().to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return crops

    def wait(self) -> None:
        """Have what the calling thread computes from now on begin after the copies that were begun."""
        import torch

        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device has too little memory: torch has an error for that, MPS and CUDA's libraries a text."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


CPU_BATCH, CPU_BATCH_A_THREAD = 32, 8
"""Crops in a batch on a processor, whose threads take a few of them at a time (`cores`)."""

SMALLEST_BATCH, LARGEST_BATCH = 8, 256
"""Crops in a batch on CUDA and MPS."""

BYTES_A_PIXEL = 40 * 3 * 4
"""Memory that one input pixel costs in a forward pass: about 40 times the float32 picture, more than the activations
of any layer of ResNets, EfficientNets and vision transformers up to ViT-L/14 without gradients."""


def batch_that_fits(device: torch.device, side: int) -> int:
    """How many crops to describe at once, from the memory that is free now; half of it is left alone.

    Args:
        device: Where the network runs.
        side: Of the square input, in pixels.

    Returns:
        On a processor 32, or 8 for each thread where that is more; on CUDA and MPS a power of two in 8..256.
    """
    import torch

    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "mps":
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    else:
        return max(CPU_BATCH, CPU_BATCH_A_THREAD * torch.get_num_threads())
    fits = max(1, free // 2 // (side * side * BYTES_A_PIXEL))
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, 1 << (int(fits).bit_length() - 1)))


# All cores: a batch is cut into parts, a thread each -----------------------------------------------------------


PART = 4
"""Crops in a part, at most: 2 to 6 were equally fast, 8 and more slower (EfficientNet-Lite0, 1 MB of cache a core)."""


def in_parts(
    work: Callable[[NDArray[np.uint8]], NDArray[np.float32]], crops: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """`work(crops)`, done in parts at the same time where the device is a processor.

    Args:
        work: Describes each crop by itself: (N, S, S, 3) -> (N, D). It is called from several threads at once.
        crops: (N, S, S, 3) uint8; fewer than there are threads are not cut up, but share each layer as usual.
        device: Where `work` computes.

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
