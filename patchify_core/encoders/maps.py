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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder
from patchify_core.errors import EncoderError

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
            ValueError: if the sides are no multiples of `stride`.
            EncoderError: if the picture does not fit into the device's memory, or the network gives numbers that are
                not finite.
        """
        ...

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Makes descriptors of pooled cells.

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
        stride: see `MapEncoder`.
        power: see `MapEncoder`.
        pooled_like_crops: see `MapEncoder`.
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
        EncoderError: if it cannot.
    """
    # Before Python 3.12 already isinstance asks the model, from then on its stride does; both raise the model's reason.
    if not isinstance(encoder, MapEncoder) or not encoder.stride:
        raise no_maps(encoder.info.spec, "describes single crops only")
    return encoder


def no_maps(spec: str, why: str) -> EncoderError:
    """The refusal, as one sentence.

    Args:
        spec: the encoder's.
        why: what the encoder does or is, e.g. `describes single crops only`.
    """
    return EncoderError(f"{spec} {why}, so it cannot run once over a whole picture: {INSTEAD}.")
