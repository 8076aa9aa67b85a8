"""Where a network runs, and with which numbers: chosen once, when it is loaded."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

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


def mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Half precision where that is faster, which is on CUDA; nothing elsewhere.

    bfloat16 where the card has it: large activations of some vision transformers overflow float16.
    """
    import torch

    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


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
