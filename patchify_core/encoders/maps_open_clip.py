"""The image towers of open_clip over whole pictures; see the top of `maps.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo
from patchify_core.encoders.map_trials import checked, resized
from patchify_core.encoders.maps import MapRecipe, no_maps
from patchify_core.encoders.maps_timm import timm_recipe

if TYPE_CHECKING:
    import torch


def clip_recipe(visual: Any, info: EncoderInfo) -> MapRecipe:
    """The recipe of an image tower of open_clip: its own vision transformer, or a tower of timm.

    Args:
        visual: the tower; frozen.
        info: the encoder's.

    Raises:
        EncoderError: if the tower is of another kind (ResNet), or gives only maps of a fixed size.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, TimmModel):
        return timm_recipe(visual.trunk, info, visual.head)
    if not isinstance(visual, VisionTransformer):
        raise no_maps(info.spec, "has an image tower that is no vision transformer")
    patch = visual.patch_size[0]
    at_size = resized(visual, _set_clip_size)
    # The norm comes per token where the model has it so, and with the pooled vector where it has that.
    norm_first = visual.attn_pool is None and not visual.final_ln_after_pool

    def cells(inputs: torch.Tensor) -> torch.Tensor:
        found = _clip_tokens(visual, at_size(*inputs.shape[2:])._embeds(inputs))
        found = visual.ln_post(found) if norm_first else found
        return found.unflatten(1, (inputs.shape[2] // patch, inputs.shape[3] // patch))

    def project(pooled: torch.Tensor) -> torch.Tensor:
        found = pooled if norm_first else visual._pool(pooled[:, None].expand(-1, 2, -1))[0]
        return found if visual.proj is None else found @ visual.proj

    like_crops = visual.attn_pool is None and visual.pool_type == "avg"
    return checked(MapRecipe(patch, 1.0, like_crops, cells, project), visual, info)


def _clip_tokens(visual: Any, embedded: torch.Tensor) -> torch.Tensor:
    """(1, 1 + cells, C) embedded patches -> (1, cells, C), the last layer as the top of this file says.

    Towers that do not pool by the class token, or whose layers are not torch's own attention, stay as they are.
    """
    import torch
    import torch.nn.functional as F

    *blocks, last = visual.transformer.resblocks
    by_class_token = visual.attn_pool is None and visual.pool_type == "tok"
    if not by_class_token or type(getattr(last, "attn", None)) is not torch.nn.MultiheadAttention:
        found: torch.Tensor = visual.transformer(embedded)
        return found[:, 1:]
    tokens = embedded
    for block in blocks:
        tokens = block(tokens)
    tokens = tokens[:, 1:]
    width = tokens.shape[-1]
    values = F.linear(last.ln_1(tokens), last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:])
    tokens = tokens + last.ls_1(last.attn.out_proj(values))
    return tokens + last.ls_2(last.mlp(last.ln_2(tokens)))


def _set_clip_size(visual: Any, height: int, width: int) -> None:
    """As open_clip resizes the embeddings of a checkpoint (bicubic, antialiased), the class token's aside."""
    import torch
    from timm.layers import resample_abs_pos_embed

    grid = (height // visual.patch_size[0], width // visual.patch_size[1])
    found = resample_abs_pos_embed(visual.positional_embedding[None], list(grid), list(visual.grid_size))[0]
    visual.positional_embedding = torch.nn.Parameter(found, requires_grad=False)
    visual.grid_size = grid
