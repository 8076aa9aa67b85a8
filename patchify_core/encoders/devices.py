"""Device, precision, batch size and threads of a network; chosen once, when it is loaded."""

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
    """Return the device of the settings; for `auto` the fastest one available that the engine supports.

    Args:
        settings: `settings.device` is `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        EncoderError: If the device is not available, or not supported by the engine.
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
        available = cuda and (device.index or 0) < torch.cuda.device_count()
    else:
        available = device.type == "cpu" or mps
    if not available:
        raise EncoderError(
            f"This machine has no device '{settings.device}' that torch can use: "
            "choose auto or cpu (--device, or the variable PATCHIFY_DEVICE)."
        )
    return device


def use_threads(settings: EncoderSettings) -> None:
    """Set torch's number of CPU threads; 0 keeps its default."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)


def half_precisions(device: torch.device, precision: str) -> tuple[torch.dtype, ...]:
    """Return the half-precision types to try before float32, in order; none if they would not be faster.

    Args:
        device: The network's device.
        precision: `EncoderSettings.precision`. For `auto`, bfloat16 comes first if the GPU supports it: large
            activations of some vision transformers overflow float16. float16 has three more bits of precision.
    """
    import torch

    if precision != "auto":
        return () if precision == "float32" else (getattr(torch, precision),)
    if device.type != "cuda":
        return ()
    # GPUs from before 2020 emulate bfloat16, which is slower than float32.
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return (torch.bfloat16, torch.float16) if has_bfloat16 else (torch.float16,)


def mixed_precision(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[Any]:
    """Autocast to `half`; a no-op if it is None."""
    import torch

    return nullcontext() if half is None else torch.autocast(device.type, half)


def precision_name(half: torch.dtype | None) -> str:
    """Name of the precision: `float32`, `bfloat16` or `float16`."""
    return "float32" if half is None else str(half).removeprefix("torch.")


MOST_READERS = 8
"""Default maximum of reader threads per GPU."""


def readers_for(device: torch.device, settings: EncoderSettings) -> int:
    """Return the number of threads that read and crop pictures; see `EncoderSettings.readers`."""
    import torch

    if settings.readers >= 0:
        return settings.readers
    return min(MOST_READERS, torch.get_num_threads()) if device.type == "cuda" else 0


class Uploads:
    """Copies batches to a CUDA device while it computes: from pinned memory, on a separate stream.

    Args:
        device: The network's device.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, crops: NDArray[np.uint8]) -> torch.Tensor | NDArray[np.uint8]:
        """Start copying a batch; return it unchanged if the device is out of memory."""
        import torch

        try:
            with torch.cuda.stream(self._stream):
                # torch keeps the pinned memory alive until the device has read it.
                return torch.from_numpy(crops).pin_memory().to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return crops

    def wait(self) -> None:
        """Make later work of the calling thread wait for the copies started so far."""
        import torch

        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def ran_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means out of memory: torch has a type for it, MPS and CUDA's libraries only a message."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "ALLOC_FAILED" in text


CPU_BATCH, CPU_BATCH_A_THREAD = 32, 8
"""Crops per batch on a CPU; each thread takes a few of them at a time (`in_parts`)."""

SMALLEST_BATCH, LARGEST_BATCH = 8, 256
"""Crops per batch on CUDA and MPS."""

BYTES_A_PIXEL = 40 * 3 * 4
"""Memory of a forward pass per input pixel: about 40 times the float32 input, an upper bound for the activations of
ResNets, EfficientNets and vision transformers up to ViT-L/14 without gradients."""


def batch_that_fits(device: torch.device, side: int) -> int:
    """Return a batch size that fits into half of the free memory.

    Args:
        device: The network's device.
        side: Side of the square input, in pixels.

    Returns:
        On a CPU 32, or 8 per thread if that is more; on CUDA and MPS a power of two in 8..256.
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


# Data parallelism on a CPU: split a batch over the cores ---------------------------------------------------------


PART = 4
"""Maximum crops per part: 2 to 6 are equally fast, 8 and more slower (EfficientNet-Lite0, 1 MB of cache per core)."""


def in_parts(
    work: Callable[[NDArray[np.uint8]], NDArray[np.float32]], crops: NDArray[np.uint8], device: torch.device
) -> NDArray[np.float32]:
    """Compute `work(crops)`; on a CPU in parts, with one thread per part.

    Args:
        work: Describes each crop independently: (N, S, S, 3) -> (N, D). Called from several threads at once.
        crops: (N, S, S, 3) uint8; a batch smaller than the number of threads is not split.
        device: Device of `work`.

    Returns:
        (N, D) float32, in the order of the crops.
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
    """Return a pool of that many threads in which torch runs single-threaded."""
    import torch

    started = threading.Barrier(threads + 1)

    def start() -> None:
        torch.get_num_threads()  # initialises this thread with the global number, which the first layer would do later
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="patchify-core")
    for _ in range(threads):
        pool.submit(start)  # each waits at the barrier, so that every thread of the pool runs it once
    started.wait()
    torch.set_num_threads(threads)  # a new thread inherits the number that was set last
    return pool
