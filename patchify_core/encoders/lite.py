"""The frozen network of EfficientNet-Lite: a stem, inverted residual blocks, a head.

Tan and Le, "EfficientNet", ICML 2019; the Lite variants omit squeeze-and-excitation, use ReLU6, and scale neither
stem and head nor the depth of the first and last stage (tensorflow/tpu, efficientnet/lite). Batch norms are folded into
the convolutions before them: a frozen one is a fixed scale and shift per channel. The tests compare it with timm's
network, layer order and numbers. Importing this module imports torch: import it inside functions.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.utils.fusion import fuse_conv_bn_eval

KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)
DEPTHS, WIDTHS = (1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)
STEM, HEAD, EXPANSION = 32, 1280, 6
"""Kernel, stride, blocks and channels of each stage at scale 1; channels of stem and head; expansion ratio of a block,
which is 1 in the first stage."""

NORM_EPSILON = 1e-3
"""Epsilon of the batch norms: TensorFlow's default."""


class Convolution(nn.Module):
    """A convolution with bias, padded as in TensorFlow, optionally followed by ReLU6.

    Args:
        conv: The convolution with its batch norm folded in; at stride 2 without padding of its own.
        active: Whether ReLU6 follows.
    """

    def __init__(self, conv: nn.Conv2d, active: bool) -> None:
        super().__init__()
        self.conv, self.active = conv, active

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride))."""
        if self.conv.stride[0] > 1:
            maps = padded_same(maps, self.conv.kernel_size[0], self.conv.stride[0])
        output: torch.Tensor = self.conv(maps)
        return nn.functional.relu6(output) if self.active else output


class Block(nn.Module):
    """An inverted residual block: expand, filter depthwise, project; with a skip connection if the shape is unchanged.

    Args:
        layers: The convolutions, in order.
        skip: Whether to add the input.
    """

    def __init__(self, layers: list[nn.Module], skip: bool) -> None:
        super().__init__()
        self.layers, self.skip = nn.Sequential(*layers), skip

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, D, H', W')."""
        output: torch.Tensor = self.layers(maps)
        return output + maps if self.skip else output


class LiteNetwork(nn.Module):
    """The network without its classifier.

    Args:
        width: Channel multiplier.
        depth: Block multiplier.
        weights: Tensors of the packaged checkpoint, by name.

    Raises:
        KeyError: If a tensor is missing.
        RuntimeError: If a tensor has a wrong shape.
        ValueError: If a tensor belongs to no layer.
    """

    num_features = HEAD

    def __init__(self, width: float, depth: float, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        used: set[str] = set()

        def layer(
            conv: str, norm: str, shape: tuple[int, int, int], stride: int = 1, depthwise: bool = False
        ) -> nn.Module:
            inputs, outputs, kernel = shape
            plain = nn.Conv2d(
                inputs,
                outputs,
                kernel,
                stride,
                kernel // 2 if stride == 1 else 0,
                groups=inputs if depthwise else 1,
                bias=False,
            )
            normed = nn.BatchNorm2d(outputs, NORM_EPSILON)
            for module, prefix in ((plain, conv), (normed, norm)):
                state = {name: weights[f"{prefix}.{name}"] for name in module.state_dict()}
                used.update(f"{prefix}.{name}" for name in state)
                module.load_state_dict(state, strict=True)
            return Convolution(fuse_conv_bn_eval(plain.eval(), normed.eval()), active="project" not in conv)

        self.stem = layer("_conv_stem", "_bn0", (3, STEM, 3), 2)
        blocks: list[nn.Module] = []
        inputs = STEM
        for stage, (kernel, first_stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            outputs = scaled_channels(WIDTHS[stage], width)
            for number in range(scaled_blocks(stage, depth)):
                stride, at = first_stride if number == 0 else 1, f"_blocks.{len(blocks)}"
                middle = inputs if stage == 0 else inputs * EXPANSION
                layers = [] if stage == 0 else [layer(f"{at}._expand_conv", f"{at}._bn0", (inputs, middle, 1))]
                layers.append(layer(f"{at}._depthwise_conv", f"{at}._bn1", (middle, middle, kernel), stride, True))
                layers.append(layer(f"{at}._project_conv", f"{at}._bn2", (middle, outputs, 1)))
                blocks.append(Block(layers, stride == 1 and inputs == outputs))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.block_features = inputs
        self.head = layer("_conv_head", "_bn1", (inputs, HEAD, 1))
        if surplus := {name for name in weights if not name.startswith("_fc.")} - used:
            raise ValueError(f"{min(surplus)} belongs to no layer")
        self.eval().requires_grad_(False)

    def forward_features(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1280, ceil(H / 32), ceil(W / 32)), the last feature map."""
        features: torch.Tensor = self.head(self.forward_blocks(inputs))
        return features

    def forward_blocks(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, `block_features`, ceil(H / 32), ceil(W / 32)), the input of the head; of either sign."""
        features: torch.Tensor = self.blocks(self.stem(inputs))
        return features

    def fuse(self) -> None:
        """Fuse each ReLU6 into its convolution (CPU only); afterwards the network can no longer be saved or moved."""
        for parent in list(self.modules()):
            for name, part in list(parent.named_children()):
                if isinstance(part, Convolution):
                    setattr(parent, name, FusedConvolution(part.conv, part.active))


def scaled_channels(channels: int, scale: float) -> int:
    """Return the channels of a scaled stage: a multiple of 8, at least 0.9 of the exact value.

    Example:
        >>> [scaled_channels(channels, 1.1) for channels in (40, 112, 320)]
        [48, 120, 352]
    """
    rounded = max(8, int(channels * scale + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * scale else rounded + 8


def scaled_blocks(stage: int, scale: float) -> int:
    """Return the blocks of a scaled stage; the first and the last stage are never scaled."""
    return DEPTHS[stage] if stage in (0, len(DEPTHS) - 1) else math.ceil(DEPTHS[stage] * scale)


def padded_same(maps: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Zero-pad maps (N, C, H, W) so that a convolution yields ceil(H / stride); an odd pixel is added at the end."""
    missing = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in maps.shape[2:]]
    rows, columns = missing
    return pad(maps, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)) if rows or columns else maps


# Fused with the activation -------------------------------------------------------------------------------------

_Geometry = tuple[list[int], list[int], list[int], int]
"""Padding, stride and dilation, each for rows and columns, and groups."""


class FusedConvolution(nn.Module):
    """A convolution and its activation in one call, while the result is still in the CPU's cache.

    oneDNN, torch's backend for convolutions on x86-64, supports this ("post-operations"), and reorders the weights once
    instead of in every call. Torch exposes both to its compiler only, which needs a C++ compiler and a minute; here the
    operators are called by name. The pinned version of torch and the tests guard against changes.

    Args:
        conv: See `Convolution`; on the CPU.
        active: See `Convolution`.
    """

    def __init__(self, conv: nn.Conv2d, active: bool) -> None:
        super().__init__()
        self._activation: tuple[str, list[float]] = ("hardtanh", [0.0, 6.0]) if active else ("none", [])
        padding = [int(pixels) for pixels in conv.padding]
        self._geometry: _Geometry = padding, list(conv.stride), list(conv.dilation), conv.groups
        self._kernel, self._stride, self._bias = conv.kernel_size[0], conv.stride[0], conv.bias
        self._weight = _laid_out(conv.weight, self._geometry)
        self._grown = _grown(conv) if self._stride > 1 and conv.groups > 1 and self._kernel > 1 else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """As `Convolution`."""
        weight, geometry = self._weight, self._geometry
        if self._grown is not None and maps.shape[2] % 2 == maps.shape[3] % 2 == 0:
            weight, geometry = self._grown
        elif self._stride > 1:
            maps = padded_same(maps, self._kernel, self._stride)
        output: torch.Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, weight, self._bias, *geometry, *self._activation, ""
        )
        return output


def _laid_out(weight: torch.Tensor, geometry: _Geometry) -> torch.Tensor:
    reordered: torch.Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        weight.detach().contiguous(), *geometry, None
    )
    return reordered


def _grown(conv: nn.Conv2d) -> tuple[torch.Tensor, _Geometry]:
    """Return the same convolution for maps with even sides, which needs no padded copy of them (slower than itself).

    At stride 2, TensorFlow pads such maps by one pixel more at the end than at the beginning. oneDNN pads both ends
    equally, so the odd kernel gets an additional first row and column of zeros for the surplus pixel.

    Returns:
        Weights and geometry.
    """
    end = (conv.kernel_size[0] - 1) // 2  # TensorFlow pads kernel - 2 pixels in all, one more at the end
    geometry = [end, end], [2, 2], [1, 1], conv.groups
    return _laid_out(pad(conv.weight.detach(), (1, 0, 1, 0)), geometry), geometry


def can_fuse(device: torch.device) -> bool:
    """Whether `LiteNetwork.fuse` works on this device."""
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return bool(device.type == "cpu" and onednn and platform.machine().lower() in ("x86_64", "amd64"))
