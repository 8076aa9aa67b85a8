"""One pass per picture: encoders that give the cells of a whole picture's feature map, before these are pooled.

A descriptor of a crop costs a forward pass a crop. Run over the whole picture once, the same network gives a map of
cells, and the descriptor of any box is the generalised mean of the cells in it: `MapEncoder` is that network seen in
two halves, the cells and what follows pooling. How a model falls into halves is its `MapRecipe`.

EfficientNet-Lite pools by GeM, and nothing follows. For the models of timm and open_clip cells are the last feature map
of a CNN, or the patch tokens of a vision transformer, pooled by the plain mean; what the model does to its own pooled
vector is then done to that mean. For an average-pooled model this is `encode` itself (`pooled_like_crops`). Elsewhere
it is another descriptor:

- class token: its head (norm, projection) is applied to the mean of the patch tokens instead;
- attention pooling (SigLIP): the mean goes through the pooling layer as its only token, which is the layer with
  uniform instead of learned attention, because a value projection is linear;
- open_clip's own class-token towers (CLIP): the last layer's attention is left out, so that each token keeps its own
  value (MaskCLIP, Zhou et al., ECCV 2022); with that attention patch tokens describe their place poorly.

The last two stay in the space of words as far as this allows. `maps_timm.py` and `maps_open_clip.py` make the recipes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder, EncoderInfo
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch

Step = Callable[[Any], Any]
"""A part of a network: tensor in, tensor out."""

INSTEAD = "use --features crop, or an encoder such as effnet-lite0"
"""How every refusal to run over whole pictures ends."""


@runtime_checkable
class MapEncoder(Encoder, Protocol):
    """An encoder that can also run once over a whole picture.

    Ask `as_map_encoder`, not `isinstance`: the encoders of timm and open_clip have these members whatever the model,
    and only the model tells whether they work.
    """

    @property
    def stride(self) -> int:
        """Input pixels per cell of the map, in both directions."""
        ...

    @property
    def power(self) -> float:
        """Exponent of the generalised mean that pools cells: 3 is GeM, whose cells are > 0; 1 is the plain mean."""
        ...

    @property
    def pooled_like_crops(self) -> bool:
        """Whether `describe_pooled` of all cells of a crop is `encode` of that crop, to rounding.

        Only then may descriptors pooled from a map and descriptors of crops be compared with each other.
        """
        ...

    def feature_map(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The cells of one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB, H and W multiples of `stride`.

        Returns:
            (H / stride, W / stride, C) float32, C-contiguous.

        Raises:
            ValueError: If the sides are no multiples of `stride`.
            EncoderError: If the picture does not fit into the device's memory, or the network gives numbers that are
                not finite.
        """
        ...

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make descriptors of pooled cells.

        Args:
            pooled: (N, C) float32, generalised means with exponent `power` of cells.

        Returns:
            (N, D) float32 with rows of length 1, D = `info.dim`.
        """
        ...


@dataclass(frozen=True)
class MapRecipe:
    """How a network falls into cells and what follows pooling. Tensors live on the encoder's device.

    Attributes:
        stride: See `MapEncoder`.
        power: See `MapEncoder`.
        pooled_like_crops: See `MapEncoder`.
        cells: (1, 3, H, W) normalised picture -> (1, H / stride, W / stride, C).
        project: (N, C) float32 pooled cells -> (N, D), not yet of length 1.
    """

    stride: int
    power: float
    pooled_like_crops: bool
    cells: Step
    project: Step


def as_map_encoder(encoder: Encoder) -> MapEncoder:
    """The same encoder, once it is sure that it can run over whole pictures.

    Raises:
        EncoderError: If it cannot.
    """
    # Before Python 3.12 already isinstance asks the model, from then on its stride does; both raise the model's reason.
    if not isinstance(encoder, MapEncoder) or not encoder.stride:
        raise no_maps(encoder.info.spec, "describes single crops only")
    return encoder


def no_maps(spec: str, why: str) -> EncoderError:
    """The refusal, as one sentence.

    Args:
        spec: The encoder's.
        why: What the encoder does or is, e.g. `describes single crops only`.
    """
    return EncoderError(f"{spec} {why}, so it cannot run once over a whole picture: {INSTEAD}.")


# Recipes of any network: try on noise whether it splits into cells and a head, at any size -----------------------


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
        EncoderError: If it did not.
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
        EncoderError: If it fails, in any way: networks of a fixed size, and of other forms, fail in many.
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
