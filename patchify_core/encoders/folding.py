"""Folds batch normalisation into the convolution before it: the same function, fewer passes over memory.

A frozen batch norm is a fixed scale and shift per channel, which the convolution's own weights can carry
(torch.nn.utils.fusion). EfficientNet-Lite's layers are bound by memory, so fewer passes are less time (see `fused` for
the activations); `bench encode` compares with the network as it was.
"""

from __future__ import annotations

from typing import Any

CONV_BEFORE_NORM = (
    ("conv_stem", "bn1"),
    ("conv_head", "bn2"),
)
"""Attribute names in timm's EfficientNet itself."""

BLOCK_CONV_BEFORE_NORM = {
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}
"""Attribute names in each kind of block."""


def fold_batch_norms(network: Any) -> Any:
    """Folds every batch norm of a timm EfficientNet in evaluation mode, in place.

    Args:
        network: a `timm.models.EfficientNet` in evaluation mode.

    Returns:
        The same network, whose outputs differ by rounding only.

    Raises:
        KeyError: if a block is of a kind that is not known here.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    for parent, pairs in layers_of(network):
        for conv, norm in pairs:
            layer = getattr(parent, norm)
            setattr(parent, conv, fuse_conv_bn_eval(getattr(parent, conv), layer))
            setattr(parent, norm, layer.act)  # timm's norm layers carry the activation that follows
    return network


def layers_of(network: Any) -> list[tuple[Any, tuple[tuple[str, str], ...]]]:
    """The network and each block, with the attribute names of each convolution and of what follows it there."""
    blocks = [block for stage in network.blocks for block in stage]
    return [(network, CONV_BEFORE_NORM), *((block, BLOCK_CONV_BEFORE_NORM[type(block).__name__]) for block in blocks)]
