"""What the encoders of open_clip and timm share: a box squashed to the model's square, normalised, one forward pass.

The libraries' own transforms resize the shorter side and cut out the centre. Here the box is squashed instead, as
`effnet.py` does it: a patch or a query's box is meant whole, and a centre crop would cut off the ends of every object
that is not square. Colours and interpolation stay the model's own; for a square box the result is the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import ENGINES, EncoderInfo
from patchify_core.encoders.checkpoints import WAY_OUT
from patchify_core.encoders.devices import OpenVino, batch_that_fits, in_parts, mixed_precision
from patchify_core.encoders.maps import MapRecipe, no_maps
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class InputForm:
    """How a model wants to see pictures.

    Attributes:
        side: of the square input, in pixels.
        mean: of each of R, G, B, in 0..1; subtracted.
        std: of each of R, G, B, in 0..1; divided by.
        interpolation: `bicubic`, `bilinear` or another of PIL's `Resampling`, in lower case.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Sized:
    """A network that takes pictures of other sizes than its square.

    Attributes:
        stride: Input pixels per cell: sides are multiples of it.
        at: (H, W) -> the network that describes (N, 3, H, W) pictures of that size.
    """

    stride: int
    at: Callable[[int, int], Any]


def square_side(size: int | Sequence[int], spec: str) -> int:
    """The side of a model's input, given as one number or as (height, width).

    Raises:
        EncoderError: if it is not square: a box is always squashed to a square here.
    """
    sides = {size} if isinstance(size, int) else {int(side) for side in size}
    if len(sides) != 1:
        raise EncoderError(f"{spec} wants pictures that are not square: choose another model, {WAY_OUT}.")
    return int(sides.pop())


class SquareEncoder:
    """An `encoders.base.Encoder` around a network that describes normalised square pictures.

    Args:
        describe: (N, 3, S, S) float on `device` -> (N, D); frozen, in evaluation mode.
        look: how it wants to see pictures.
        info: what an index remembers.
        device: where `describe` lives.
        engine: what computes it, see `EncoderSettings`.

    Raises:
        EncoderError: if the engine is not installed or cannot compute it.
    """

    _any_size = False
    """Whether one conversion of the network serves maps of every size: only then another engine computes them too."""

    def __init__(
        self,
        describe: Callable[[Any], Any],
        look: InputForm,
        info: EncoderInfo,
        device: torch.device,
        engine: str = ENGINES[0],
    ) -> None:
        """Takes the parts as they are, or converts them for the engine."""
        self._describe, self.look, self._info, self.device = describe, look, info, device
        self.batch_size = batch_that_fits(device, look.side)
        self._mean, self._std = _per_channel(look.mean, device), _per_channel(look.std, device)
        self._engine: OpenVino | None = None
        if engine == "openvino":
            self._engine = OpenVino(self._normalised, describe, look.side, info.dim, info.spec)

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers of this encoder."""
        return self._info

    @property
    def engine_spec(self) -> str:
        """What computes the network, one of `ENGINES`."""
        return ENGINES[0] if self._engine is None else "openvino"

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crops from the picture's own pixels and resizes to the square input (aspect is not kept, nothing is cut).

        Args:
            picture: upright RGB picture.
            box: xyxy in pixels, may be fractional.

        Returns:
            (S, S, 3) uint8.
        """
        return self.resized(picture, box, (self.look.side, self.look.side))

    def resized(self, picture: Image, box: Sequence[float], size: tuple[int, int]) -> NDArray[np.uint8]:
        """The box of a picture at (width, height), (height, width, 3) uint8, interpolated as the model has it."""
        from PIL.Image import Resampling

        how = getattr(Resampling, self.look.interpolation.upper(), Resampling.BICUBIC)
        x1, y1, x2, y2 = (float(v) for v in box)
        return np.asarray(picture.resize(size, how, box=(x1, y1, x2, y2)))

    def as_input(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 on the device, normalised as in the model's training."""
        import torch

        # To the device as bytes: a quarter of the floats.
        return self._normalised(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device))

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 with the channels last in memory, as `pixels` has them."""
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's own descriptors of a batch; one that does not fit into the device's memory is halved.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`; of another size for an encoder that is `sized`.

        Returns:
            (N, D) float32 with rows of length 1.

        Raises:
            EncoderError: if the network gives numbers that are not finite, or not even one crop fits into memory.
        """
        import torch

        try:
            return self._encode(crops)
        except torch.OutOfMemoryError:
            if len(crops) == 1:
                what = f"{self._info.spec} does not fit into the memory of {self.device}"
                raise EncoderError(f"{what}: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.") from None
        # Outside the handler, whose traceback would keep the failed batch's memory.
        half = len(crops) // 2
        self.batch_size = min(self.batch_size, half)
        return np.concatenate([self.encode(crops[:half]), self.encode(crops[half:])])

    def _encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        if self._engine is not None:
            return unit_rows(torch.from_numpy(self._engine.describe(crops)), self._info.spec)
        return in_parts(self._encode_part, crops, self.device)

    def _encode_part(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), mixed_precision(self.device):  # both are a thread's own
            return unit_rows(self._network_for(crops)(self.as_input(crops)), self._info.spec)

    def _network_for(self, crops: NDArray[np.uint8]) -> Callable[[Any], Any]:
        height, width = crops.shape[1:3]
        return self._describe if height == width == self.look.side else self.sized.at(height, width)

    @cached_property
    def sized(self) -> Sized:
        """The network for other sizes, see `aspect.AspectEncoder`.

        Raises:
            EncoderError: if it takes squares only.
        """
        from patchify_core.encoders.aspect import squares_only

        raise squares_only(self._info.spec)

    # Whole pictures: `encoders.maps.MapEncoder` --------------------------------------------------------------

    def _map_recipe(self) -> MapRecipe:
        """How the network falls into cells and what follows pooling.

        Raises:
            EncoderError: if it does not.
        """
        raise no_maps(self._info.spec, "describes single crops only")

    @cached_property
    def _recipe(self) -> MapRecipe:
        return self._map_recipe()

    @property
    def stride(self) -> int:
        """Input pixels per cell of a map."""
        return self._recipe.stride

    @property
    def power(self) -> float:
        """Exponent of the generalised mean that pools cells."""
        return self._recipe.power

    @property
    def pooled_like_crops(self) -> bool:
        """Whether the pooled cells of a crop give the same descriptor as `encode`."""
        return self._recipe.pooled_like_crops

    def feature_map(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W, 3) uint8, sides multiples of `stride` -> (H / stride, W / stride, C) float32; see `MapEncoder`."""
        import torch

        recipe = self._recipe
        height, width = pixels.shape[:2]
        if pixels.shape[2:] != (3,) or not height or not width or height % recipe.stride or width % recipe.stride:
            raise ValueError(f"a picture of (H, W, 3), sides multiples of {recipe.stride}, not {pixels.shape}")
        if self._engine is not None and self._any_size:
            return _finite(self._engine.cells(recipe.cells, pixels), self._info.spec)
        try:
            with torch.inference_mode(), mixed_precision(self.device):
                inputs = self.as_input(np.array(pixels[None]))  # a copy: torch warns of a picture's read-only pixels
                found = recipe.cells(inputs)[0].float().contiguous().cpu()
        except torch.OutOfMemoryError:
            what = f"A picture of {width} x {height} px does not fit into the memory of {self.device}"
            raise EncoderError(f"{what}: describe smaller pictures, or set PATCHIFY_DEVICE=cpu.") from None
        return _finite(found.numpy(), self._info.spec)

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) float32 pooled cells -> (N, D) float32 with rows of length 1; see `MapEncoder`."""
        import torch

        with torch.inference_mode():  # in full precision: this is one layer at most
            means = torch.from_numpy(np.ascontiguousarray(pooled, np.float32)).to(self.device)
            return unit_rows(self._recipe.project(means), self._info.spec)


def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor | float:
    """What to subtract from or divide (N, 3, H, W) by; one number, which is several times as fast, where it will do."""
    import torch

    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def unit_rows(found: torch.Tensor, spec: str) -> NDArray[np.float32]:
    """(N, D) tensor of any float type on any device -> (N, D) float32 numpy with rows of length 1.

    Raises:
        EncoderError: if a number is not finite; FAISS would take it silently.
    """
    import torch.nn.functional as F

    return _finite(F.normalize(found.float(), dim=-1).cpu().numpy(), spec)


def _finite(found: NDArray[np.float32], spec: str) -> NDArray[np.float32]:
    if not np.isfinite(found).all():
        raise EncoderError(f"{spec} gave numbers that are not finite: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.")
    return found
