"""The models of timm over whole pictures; see the top of `maps.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo
from patchify_core.encoders.map_trials import alike, cells_tried, checked, noise, resized, tried
from patchify_core.encoders.maps import MapRecipe, Step

if TYPE_CHECKING:
    import torch

SPREAD = 100.0
"""Standard deviation of the features that tell mean pooling from others: attention to them is far from uniform."""


def timm_recipe(network: Any, info: EncoderInfo, after: Step | None = None) -> MapRecipe:
    """The recipe of a timm model without its classifier.

    Args:
        network: frozen; its `forward_features` gives a map or tokens, its `forward_head` pools them.
        info: the encoder's.
        after: what follows the model, e.g. the projection of a CLIP tower.

    Raises:
        EncoderError: if it gives no map, or only one of a fixed size.
    """
    at_size = resized(network, _set_input_size) if _is_sized(network) else lambda *size: network
    stride = tried(lambda: int(network.feature_info[-1]["reduction"]), info.spec)

    def features_of(inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = at_size(*inputs.shape[2:]).forward_features(inputs)
        return found

    def cells(inputs: torch.Tensor) -> torch.Tensor:
        return _as_cells(features_of(inputs), network, (inputs.shape[2] // stride, inputs.shape[3] // stride))

    def head(features: torch.Tensor) -> torch.Tensor:
        found = network.forward_head(features)
        return after(found) if after else found

    def project(pooled: torch.Tensor) -> torch.Tensor:
        return head(_as_features(pooled, network, tokens))

    def pools_by_mean() -> bool:
        features = noise(network, *tried_on.shape[1:]) * SPREAD
        return alike(project(_as_cells(features, network, (count, count)).mean((1, 2))), head(features))

    count = cells_tried(info, stride)
    tried_on = tried(lambda: features_of(noise(network, 3, count * stride, count * stride)), info.spec)
    tokens = tried_on.ndim == 3
    return checked(MapRecipe(stride, 1.0, tried(pools_by_mean, info.spec), cells, project), network, info)


def _as_cells(found: torch.Tensor, network: Any, grid: tuple[int, int]) -> torch.Tensor:
    """Maps (NCHW, or NHWC as Swin has it) or tokens (N, prefix + cells, C) -> (N, h, w, C)."""
    if found.ndim == 3:
        return found[:, getattr(network, "num_prefix_tokens", 0) :].unflatten(1, grid)
    return found if _channels_last(network) else found.permute(0, 2, 3, 1)


def _as_features(pooled: torch.Tensor, network: Any, tokens: bool) -> torch.Tensor:
    """(N, C) pooled cells -> what the head takes: a map of one cell, or one token after prefix tokens that equal it."""
    if tokens:
        return pooled[:, None].expand(-1, getattr(network, "num_prefix_tokens", 0) + 1, -1)
    return pooled[:, None, None] if _channels_last(network) else pooled[:, :, None, None]


def _channels_last(network: Any) -> bool:
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


def _is_sized(network: Any) -> bool:
    """Whether a timm model must be told the size; CNNs, and transformers that find it out, need not be."""
    return hasattr(network, "set_input_size") and not getattr(network, "dynamic_img_size", False)


def _set_input_size(network: Any, height: int, width: int) -> None:
    """The way of timm itself (bicubic, antialiased)."""
    network.set_input_size((height, width))
