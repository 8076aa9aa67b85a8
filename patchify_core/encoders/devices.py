"""Where a network runs, and with which numbers: chosen once, when it is loaded."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from types import ModuleType
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
        EncoderError: if this machine has no such device, or the engine cannot use it.
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
    """Gives torch the number of processor threads that the settings ask for; 0 leaves its own choice."""
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)


def half_precisions(device: torch.device, asked: str) -> tuple[torch.dtype, ...]:
    """The kinds of half precision to try, in this order, before float32; none where it would not be faster.

    Args:
        device: where the network runs.
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
    """Has torch compute in half precision what it holds safe; nothing where `half` is None."""
    import torch

    return nullcontext() if half is None else torch.autocast(device.type, half)


def precision_name(half: torch.dtype | None) -> str:
    """Names what `mixed_precision` computes with: `float32`, or `bfloat16` or `float16`."""
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
        device: where the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        import torch

        self._device, self._stream = device, torch.cuda.Stream(device)

    def begin(self, crops: NDArray[np.uint8]) -> torch.Tensor | NDArray[np.uint8]:
        """Begins to copy a batch; gives it back as it is where the device has no room for it."""
        import torch

        try:
            with torch.cuda.stream(self._stream):
                # torch keeps the pinned copy until the device has read it.
                return torch.from_numpy(crops).pin_memory().to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            return crops

    def wait(self) -> None:
        """Has what the calling thread computes from now on begin after the copies that were begun."""
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
        device: where the network runs.
        side: of the square input, in pixels.

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


# Engines: torch itself, or OpenVINO ----------------------------------------------------------------------------


INSTALL = "`pip install --no-deps -r requirements-fast.txt`"
"""What installs OpenVINO."""

Network = Callable[["torch.Tensor"], "torch.Tensor"]


class OpenVino:
    """One encoder's network, converted. Safe to use from several threads, which wait for each other.

    Args:
        normalise: (N, H, W, 3) uint8 pixels -> (N, 3, H, W) float, on the processor.
        describe: (N, 3, S, S) -> (N, D).
        side: S, in pixels.
        dim: D.
        spec: the encoder's, for the sentence that says why it cannot be converted.

    Raises:
        EncoderError: if OpenVINO is not installed or cannot convert the network.
    """

    def __init__(self, normalise: Network, describe: Network, side: int, dim: int, spec: str) -> None:
        import torch

        self._openvino = import_openvino()
        self._normalise, self._side, self._dim, self._spec = normalise, side, dim, spec
        self._threads = torch.get_num_threads()
        self._lock = threading.Lock()
        # A crop at a time on each thread: batches were no faster, and this way no thread waits for another.
        self._crops = self._openvino.AsyncInferQueue(
            self._compiled(describe, (1, side, side, 3), streams=self._threads), self._threads
        )
        self._maps: Any = None

    def describe(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N, S, S, 3) uint8 -> (N, D) float32."""
        found = np.empty((len(crops), self._dim), np.float32)

        def keep(request: Any, row: int) -> None:
            found[row] = request.get_output_tensor().data[0]

        with self._lock:
            self._crops.set_callback(keep)
            for row in range(len(crops)):
                self._crops.start_async([crops[row : row + 1]], userdata=row)
            self._crops.wait_all()
        return found

    def cells(self, cells: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The map of a whole picture; all threads share each layer.

        Args:
            cells: (1, 3, H, W) -> (1, H', W', C), the same function in every call, of a network that takes pictures
                of any size; converted at the first call.
            pixels: (H, W, 3) uint8.

        Returns:
            (H', W', C) float32.

        Raises:
            EncoderError: if it cannot be converted.
        """
        with self._lock:
            if self._maps is None:
                self._maps = self._compiled(cells, (1, -1, -1, 3), streams=1).create_infer_request()
            found: NDArray[np.float32] = self._maps.infer([np.ascontiguousarray(pixels[None])])[0][0].copy()
        return found

    def _compiled(self, network: Network, shape: tuple[int, ...], streams: int) -> Any:
        """The network from pixels on, for an input shape in which -1 is any number."""
        import torch

        normalise = self._normalise

        class FromPixels(torch.nn.Module):
            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                return network(normalise(pixels))

        example = torch.zeros([self._side if length < 0 else length for length in shape], dtype=torch.uint8)
        level = logging.root.level
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")  # torch's tracer warns of every size that a network computes with
                model = self._openvino.convert_model(FromPixels().eval(), example_input=example)
            model.reshape(list(shape))
            return self._openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_NUM_THREADS": self._threads,
                    "NUM_STREAMS": streams,
                    "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
                },
            )
        except Exception as error:  # the converter and the compiler raise whatever they please
            raise EncoderError(
                f"OpenVINO cannot compute {self._spec}: choose the engine torch (--engine, or the variable "
                "PATCHIFY_ENGINE)."
            ) from error
        finally:
            logging.root.setLevel(level)  # which the converter raises, and leaves so where it fails


def import_openvino() -> ModuleType:
    """OpenVINO, which reports its use to nobody.

    Raises:
        EncoderError: one sentence with the command that installs it.
    """
    # Its telemetry, a package of its own that we do not install, would call a server as soon as it is imported.
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it now fails
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EncoderError(
            f"The engine openvino is not installed: install it with {INSTALL}, or use the engine torch."
        ) from error
