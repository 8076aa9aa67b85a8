"""Convolutions that apply the activation after them while the result is still in the processor's cache.

oneDNN, with which torch computes convolutions on x86-64, can do that ("post-operations") and can lay out the weights
once instead of in every call. torch keeps both for its own compiler, which would take a C++ compiler and a minute; the
operators are called here by name, which the pinned version of torch and the tests guard. This module imports torch when
it is imported: import it inside functions.
"""

from __future__ import annotations

import platform
from typing import Any

import torch

from patchify_core.encoders.folding import layers_of

ACTIVATIONS: dict[str, tuple[str, list[float]]] = {"ReLU6": ("hardtanh", [0.0, 6.0]), "Identity": ("none", [])}
"""Kinds of activation, with oneDNN's name and numbers for the same function."""


_Geometry = tuple[list[int], list[int], list[int], int]
"""Padding, stride and dilation, each for rows and columns, and groups."""


class FusedConvolution(torch.nn.Module):
    """A convolution and the activation after it, as one call.

    Args:
        conv: `torch.nn.Conv2d`, or timm's `Conv2dSame`, which pads as TensorFlow does; on the processor.
        activation: one of `ACTIVATIONS`.

    Raises:
        KeyError: if the activation is of another kind.
    """

    def __init__(self, conv: torch.nn.Conv2d, activation: torch.nn.Module) -> None:
        """Lays out the weights; the old layers can be let go."""
        super().__init__()
        self._activation = ACTIVATIONS[type(activation).__name__]
        padding = [int(pixels) for pixels in conv.padding]
        self._geometry: _Geometry = padding, list(conv.stride), list(conv.dilation), conv.groups
        self._kernel_size, self._bias = list(conv.kernel_size), conv.bias
        self._weight = _laid_out(conv.weight, self._geometry)
        self._pads_as_needed = type(conv).__name__ == "Conv2dSame"
        self._grown: tuple[torch.Tensor, _Geometry] | None = None
        if self._pads_as_needed and conv.groups > 1:
            self._grown = _grown(conv)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D, H', W'), the activation applied."""
        weight, geometry = self._weight, self._geometry
        if self._grown is not None and maps.shape[2] % 2 == maps.shape[3] % 2 == 0:
            weight, geometry = self._grown
        elif self._pads_as_needed:
            from timm.layers import pad_same

            maps = pad_same(maps, self._kernel_size, self._geometry[1], self._geometry[2])
        found: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, weight, self._bias, *geometry, *self._activation, ""
        )
        return found


def _laid_out(weight: torch.Tensor, geometry: _Geometry) -> torch.Tensor:
    found: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight.detach().contiguous(), *geometry, None)
    return found


def _grown(conv: torch.nn.Conv2d) -> tuple[torch.Tensor, _Geometry] | None:
    """The same convolution for maps with even sides, without a padded copy of them, which takes longer than it itself.

    At stride 2, TensorFlow pads such maps by one pixel more at their end. oneDNN pads both ends alike: so the kernel
    gets a first row and column of zeros, which look at the surplus pixel.

    Returns:
        Weights and geometry; None for other kernels than the odd square ones from 3 on, at stride 2.
    """
    kernel = conv.kernel_size[0]
    if (
        kernel < 3
        or kernel % 2 == 0
        or conv.kernel_size != (kernel, kernel)
        or conv.stride != (2, 2)
        or conv.dilation != (1, 1)
    ):
        return None
    end = (kernel - 1) // 2  # of the kernel - 2 pixels of padding, one more than at the beginning
    geometry = [end, end], [2, 2], [1, 1], conv.groups
    return _laid_out(torch.nn.functional.pad(conv.weight.detach(), (1, 0, 1, 0)), geometry), geometry


def can_fuse(device: torch.device) -> bool:
    """Whether `fuse_activations` works for networks on that device."""
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return bool(device.type == "cpu" and onednn and platform.machine().lower() in ("x86_64", "amd64"))


def fuse_activations(network: Any) -> Any:
    """Fuses every convolution with the activation after it, in place.

    Args:
        network: what `folding.fold_batch_norms` returns, on a device that `can_fuse`. It computes from then on, and is
            neither saved nor moved.

    Returns:
        The same network, whose outputs differ by rounding only.

    Raises:
        KeyError: if a block or an activation is of a kind that is not known here.
    """
    for parent, pairs in layers_of(network):
        for conv, activation in pairs:
            setattr(parent, conv, FusedConvolution(getattr(parent, conv), getattr(parent, activation)))
            setattr(parent, activation, torch.nn.Identity())
    return network
