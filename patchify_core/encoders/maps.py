"""Encoders that run once over a whole picture: a feature map of cells, from which descriptors of any box are pooled.

Describing crops costs one forward pass per crop. Run once over the whole picture, the same network gives a map of
cells, and the descriptor of any box is the generalised mean of the cells in it. A `MapEncoder` exposes the two parts of
a network: cells, and the head after pooling. A `MapRecipe` says how a model is split into them.

EfficientNet-Lite pools by GeM and has no head. For models of timm and open_clip the cells are the last feature map of a
CNN or the patch tokens of a vision transformer; they are pooled by the mean, to which the model's own head is applied.
For an average-pooled model this equals `encode` (`pooled_like_crops`). Otherwise the descriptor differs:

- class token: the head (norm, projection) is applied to the mean of the patch tokens instead;
- attention pooling (SigLIP): the mean goes through the pooling layer as its only token; because the value projection is
  linear, this equals uniform instead of learned attention;
- open_clip's class-token towers (CLIP): the last layer's attention is skipped, so that each token keeps its own value
  (MaskCLIP, Zhou et al., ECCV 2022); with that attention, patch tokens localise poorly.

The last two stay approximately in the space of text. `timm_models.py` and `open_clip.py` make the recipes.
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
"""Advice that ends error messages about whole pictures."""


@runtime_checkable
class MapEncoder(Encoder, Protocol):
    """An encoder that can also run once over a whole picture.

    Use `as_map_encoder`, not `isinstance`: all encoders of timm and open_clip have these members, but whether they
    work depends on the model.
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
        """Compute the cells of one picture.

        Args:
            pixels: (H, W, 3) uint8 RGB, H and W multiples of `stride`.

        Returns:
            (H / stride, W / stride, C) float32, C-contiguous.

        Raises:
            ValueError: If the sides are not multiples of `stride`.
            EncoderError: If the picture does not fit into the device's memory, or the network yields non-finite
                numbers.
        """
        ...

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn pooled cells into descriptors.

        Args:
            pooled: (N, C) float32, generalised means with exponent `power` of cells.

        Returns:
            (N, D) float32 with rows of length 1, D = `info.dim`.
        """
        ...


@dataclass(frozen=True)
class MapRecipe:
    """How a network is split into cells and the head after pooling. Tensors are on the encoder's device.

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
    """Return the encoder as a `MapEncoder`.

    Raises:
        EncoderError: If it cannot run over whole pictures.
    """
    # The recipe is tried here: by isinstance before Python 3.12, by `stride` since. Either raises the reason.
    if not isinstance(encoder, MapEncoder) or not encoder.stride:
        raise no_maps(encoder.info.spec, "describes single crops only")
    return encoder


def no_maps(spec: str, why: str) -> EncoderError:
    """Make the error for an encoder that cannot run over whole pictures.

    Args:
        spec: The encoder's spec.
        why: The reason, as a predicate, e.g. `describes single crops only`.
    """
    return EncoderError(f"{spec} {why}, so it cannot run once over a whole picture: {INSTEAD}.")


# Trying a recipe on noise: does the network split into cells and head, at any size? -------------------------------


SIZES_KEPT = 8
"""Number of input sizes for which a network's interpolated position embeddings are cached."""

MAX_TRIAL_CELLS = 8
"""Side of the noise input in cells, unless the model's input is smaller; attention windows have 7 or 8."""

SAME_COSINE = 0.99999
"""Descriptors with a larger cosine similarity differ by rounding only."""


def resizable(network: Any, set_size: Callable[[Any, int, int], None]) -> Callable[[int, int], Any]:
    """Return a function (H, W) -> the network for inputs of that size; the original is never changed.

    Only what depends on the size (position embeddings, their grid) is replaced, in a copy that shares all parameters.
    """

    @lru_cache(SIZES_KEPT)
    def at_size(height: int, width: int) -> Any:
        other = copy.deepcopy(network, {id(tensor): tensor for tensor in network.parameters()})
        set_size(other, height, width)
        return other

    return at_size


def check_recipe(recipe: MapRecipe, network: Any, info: EncoderInfo) -> MapRecipe:
    """Try a recipe on a non-square picture and return it, with readable errors.

    Raises:
        EncoderError: If the map or the descriptor has a wrong shape.
    """
    count = trial_cells(info, recipe.stride)

    def try_it() -> None:
        cells = recipe.cells(noise(network, 3, count * recipe.stride, (count + 1) * recipe.stride))
        rows = recipe.project(cells.mean((1, 2)))
        if cells.shape[:3] != (1, count, count + 1) or rows.shape != (1, info.dim):
            raise ValueError(f"a map of {tuple(cells.shape)} and descriptors of {tuple(rows.shape)}")

    try_step(try_it, info.spec)
    return replace(recipe, cells=_with_readable_errors(recipe.cells, info.spec))


def trial_cells(info: EncoderInfo, stride: int) -> int:
    """Side, in cells, of the input to try a network on."""
    return min(MAX_TRIAL_CELLS, max(1, info.input_size // stride))


def noise(network: Any, *shape: int) -> torch.Tensor:
    """Return (1, *shape) normal random numbers, always the same, on the network's device."""
    import torch

    device = next(network.parameters()).device
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(0)).to(device)


def same_up_to_rounding(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two batches of descriptors (N, D) differ by rounding only."""
    import torch.nn.functional as F

    return one.shape == other.shape and bool((F.cosine_similarity(one, other, dim=-1) > SAME_COSINE).all())


def try_step(step: Callable[[], Any], spec: str) -> Any:
    """Return the result of `step`.

    Raises:
        EncoderError: If it fails with any error; unsuitable networks fail in many ways.
    """
    import torch

    try:
        with torch.inference_mode():
            return step()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise no_maps(spec, "gives no feature map that stretches to other sizes") from error


def _with_readable_errors(cells: Step, spec: str) -> Step:
    """Wrap `cells`: an input size that the network cannot take becomes an `EncoderError`."""
    import torch

    def wrapped(inputs: torch.Tensor) -> torch.Tensor:
        try:
            output: torch.Tensor = cells(inputs)
            return output
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError, ValueError) as error:
            what = f"{spec} cannot run over a picture of {inputs.shape[3]} x {inputs.shape[2]} px"
            raise EncoderError(f"{what}: choose another size, {INSTEAD}.") from error

    return wrapped
