"""Does a network fall into cells and a head, at any size? Tried on noise, when maps are first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo
from patchify_core.encoders.maps import INSTEAD, MapRecipe, Step, no_maps
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch

SIZES_KEPT = 8
"""Sizes for which a network's position embeddings are kept, so that pictures of one shape share them."""

CELLS_TRIED = 8
"""Side in cells of the noise that a network is tried on, unless its own input is smaller; windows are 7 or 8."""

SAME_COSINE = 0.99999
"""Two descriptors that are as near as this differ by rounding."""


def resized(network: Any, set_size: Callable[[Any, int, int], None]) -> Callable[[int, int], Any]:
    """size(H, W): the network for pictures of that size; the given one is never changed.

    What depends on the size (position embeddings, their grid) is replaced in a copy that shares all parameters.
    """

    @lru_cache(SIZES_KEPT)
    def at_size(height: int, width: int) -> Any:
        other = copy.deepcopy(network, {id(tensor): tensor for tensor in network.parameters()})
        set_size(other, height, width)
        return other

    return at_size


def checked(recipe: MapRecipe, network: Any, info: EncoderInfo) -> MapRecipe:
    """The recipe, once a picture wider than high gave the map and the descriptor that it must.

    Raises:
        EncoderError: if it did not.
    """
    count = cells_tried(info, recipe.stride)

    def try_it() -> None:
        found = recipe.cells(noise(network, 3, count * recipe.stride, (count + 1) * recipe.stride))
        rows = recipe.project(found.mean((1, 2)))
        if found.shape[:3] != (1, count, count + 1) or rows.shape != (1, info.dim):
            raise ValueError(f"a map of {tuple(found.shape)} and descriptors of {tuple(rows.shape)}")

    tried(try_it, info.spec)
    return replace(recipe, cells=_spoken(recipe.cells, info.spec))


def cells_tried(info: EncoderInfo, stride: int) -> int:
    """Side, in cells, of the picture to try a network on."""
    return min(CELLS_TRIED, max(1, info.input_size // stride))


def noise(network: Any, *shape: int) -> torch.Tensor:
    """(1, *shape) normal numbers, always the same, where the network's parameters lie."""
    import torch

    device = next(network.parameters()).device
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(device)


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two (N, D) descriptors differ by rounding alone."""
    import torch.nn.functional as F

    return one.shape == other.shape and bool((F.cosine_similarity(one, other, dim=-1) > SAME_COSINE).all())


def tried(step: Callable[[], Any], spec: str) -> Any:
    """What the step gives.

    Raises:
        EncoderError: if it fails, in any way: networks of a fixed size, and of other forms, fail in many.
    """
    import torch

    try:
        with torch.inference_mode():
            return step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise no_maps(spec, "gives no feature map that stretches to other sizes") from error


def _spoken(cells: Step, spec: str) -> Step:
    """The same step; a size that the network cannot take after all is said in a sentence."""
    import torch

    def speak(inputs: torch.Tensor) -> torch.Tensor:
        try:
            found: torch.Tensor = cells(inputs)
            return found
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            what = f"{spec} cannot run over a picture of {inputs.shape[3]} x {inputs.shape[2]} px"
            raise EncoderError(f"{what}: choose another size, {INSTEAD}.") from error

    return speak
