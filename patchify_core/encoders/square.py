"""What the encoders of open_clip and timm share: a box squashed to the model's square, normalised, one forward pass.

The libraries' own transforms resize the shorter side and cut out the centre. Here the box is squashed instead, as
`effnet.py` does it: a patch or a query's box is meant whole, and a centre crop would cut off the ends of every object
that is not square. Colours and interpolation stay the model's own; for a square box the result is the library's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import ENGINES, EncoderInfo, EncoderSettings
from patchify_core.encoders.checkpoints import WAY_OUT
from patchify_core.encoders.devices import (
    Uploads,
    batch_that_fits,
    half_precisions,
    in_parts,
    mixed_precision,
    precision_name,
    ran_out_of_memory,
    readers_for,
)
from patchify_core.encoders.maps import MapRecipe, no_maps
from patchify_core.encoders.openvino_engine import OpenVino
from patchify_core.encoders.probe import Compiled, disagreement, probe
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

log = logging.getLogger(__name__)
_one_at_a_time = Lock()


@dataclass(frozen=True)
class InputForm:
    """How a model wants to see pictures.

    Attributes:
        side: Of the square input, in pixels.
        mean: Of each of R, G, B, in 0..1; subtracted.
        std: Of each of R, G, B, in 0..1; divided by.
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
        EncoderError: If it is not square: a box is always squashed to a square here.
    """
    sides = {size} if isinstance(size, int) else {int(side) for side in size}
    if len(sides) != 1:
        raise EncoderError(f"{spec} wants pictures that are not square: choose another model, {WAY_OUT}.")
    return int(sides.pop())


class SquareEncoder:
    """An `encoders.base.Encoder` around a network that describes normalised square pictures.

    Args:
        describe: (N, 3, S, S) float on `device` -> (N, D); frozen, in evaluation mode.
        look: How it wants to see pictures.
        info: What an index remembers.
        device: Where `describe` lives.
        settings: What computes it, and with which numbers.

    Attributes:
        batch_size: Crops in a forward pass; smaller once they did not fit into the device's memory.
        readers: Threads that read and cut pictures, see `EncoderSettings`.

    Raises:
        EncoderError: If the engine is not installed or cannot compute it.
    """

    _any_size = False
    """Whether one conversion of the network serves maps of every size: only then another engine computes them too."""

    def __init__(
        self,
        describe: Callable[[Any], Any],
        look: InputForm,
        info: EncoderInfo,
        device: torch.device,
        settings: EncoderSettings | None = None,
    ) -> None:
        settings = settings or EncoderSettings()
        self._describe, self.look, self._info, self.device = describe, look, info, device
        self.batch_size, self._most = batch_that_fits(device, look.side), 0
        self.readers = readers_for(device, settings)
        self._uploads = Uploads(device) if device.type == "cuda" else None
        self._half: torch.dtype | None = None
        self._mean, self._std = _per_channel(look.mean, device), _per_channel(look.std, device)
        self._engine: OpenVino | None = None
        if settings.engine == "openvino":
            self._engine = OpenVino(self._normalised, describe, look.side, info.dim, info.spec)
        halves = half_precisions(device, settings.precision)
        if halves or settings.compile:
            self._choose(halves, settings.compile)

    def _choose(self, halves: Sequence[torch.dtype], compiled: bool) -> None:
        """Take the first kind of half precision that agrees with float32 on the probe, and compiles the network."""
        crops = probe(self.look.side)
        exact = self._within_memory(crops, None)
        wrong: str | None = None
        for self._half in halves:
            wrong = disagreement(partial(self._within_memory, crops, self._half), exact)
            if wrong is None:
                break
        if wrong is not None:
            self._compute_in_float32(wrong)
        if compiled:
            self._describe = fast = Compiled(self._describe, self._info.spec)
            if wrong := disagreement(partial(self._within_memory, crops, self._half), exact):
                fast.give_up(wrong)

    def _compute_in_float32(self, why: str) -> None:
        """From now on, and says why, once."""
        with _one_at_a_time:
            half, self._half = self._half, None
        if half is not None:
            log.warning("%s computes in float32, not in %s: %s.", self._info.spec, precision_name(half), why)

    @property
    def precision(self) -> str:
        """What the network computes with: `float32`, or `bfloat16` or `float16` where that is safe."""
        return precision_name(self._half)

    @property
    def compiled(self) -> bool:
        """Whether the network for crops runs compiled."""
        return isinstance(self._describe, Compiled) and self._describe.works

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers of this encoder."""
        return self._info

    @property
    def engine_spec(self) -> str:
        """What computes the network, one of `ENGINES`."""
        return ENGINES[0] if self._engine is None else "openvino"

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crop from the picture's own pixels and resizes to the square input (aspect is not kept, nothing is cut).

        Args:
            picture: Upright RGB picture.
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

    def stage(self, crops: NDArray[np.uint8]) -> Any:
        """Begin to copy a batch to the device, so that it lies there once the network has done the one before.

        Args:
            crops: (N, S, S, 3) uint8, C-contiguous, not changed any more.

        Returns:
            What `encode` takes in their place: a tensor on a CUDA device, elsewhere `crops`.
        """
        return crops if self._uploads is None else self._uploads.begin(crops)

    def as_input(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 on the device, normalised as in the model's training."""
        import torch

        if self._uploads is not None and isinstance(crops, torch.Tensor):
            self._uploads.wait()
            return self._normalised(crops)
        # To the device as bytes: a quarter of the floats.
        return self._normalised(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device))

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32, the channels last in memory."""
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's own descriptors of a batch; one that does not fit into the device's memory is halved.

        Numbers in half precision that are not finite are computed again in float32, as all later ones are.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`; of another size for an encoder that is `sized`. Or what `stage`
                made of them.

        Returns:
            (N, D) float32 with rows of length 1.

        Raises:
            EncoderError: If the network gives numbers that are not finite, or not even one crop fits into memory.
        """
        return self._finite_at_last(partial(self._within_memory, crops))

    def _finite_at_last(self, work: Callable[[torch.dtype | None], NDArray[np.float32]]) -> NDArray[np.float32]:
        """What `work` gives, all of it in one precision; in float32 where half precision gave what is not finite."""
        half = self._half
        try:
            return work(half)
        except NotFinite:
            if half is None:
                raise
        self._compute_in_float32("it gave numbers that are not finite")
        return work(None)

    def _within_memory(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """A batch in parts that fit: whole, until memory ran out once."""
        most = self._most or max(len(crops), 1)
        parts = [self._halved(crops[at : at + most], half) for at in range(0, max(len(crops), 1), most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halved(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """A batch, or its halves where it does not fit into the device's memory."""
        try:
            return self._encode(crops, half)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if len(crops) == 1:
                what = f"{self._info.spec} does not fit into the memory of {self.device}"
                raise EncoderError(f"{what}: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.") from None
        # Outside the handler, whose traceback would keep the failed batch's memory.
        most = len(crops) // 2
        self.batch_size = self._most = min(self.batch_size, most)
        return np.concatenate([self._halved(crops[:most], half), self._halved(crops[most:], half)])

    def _encode(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        import torch

        if self._engine is not None:
            return unit_rows(torch.from_numpy(self._engine.describe(crops)), self._info.spec)
        if self.compiled:  # its own threads share a batch
            return self._encode_part(half, crops)
        return in_parts(partial(self._encode_part, half), crops, self.device)

    def _encode_part(self, half: torch.dtype | None, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), mixed_precision(self.device, half):  # both are a thread's own
            return unit_rows(self._network_for(crops)(self.as_input(crops)), self._info.spec)

    def _network_for(self, crops: NDArray[np.uint8]) -> Callable[[Any], Any]:
        return self._describe if crops.shape[1:3] == (self.look.side,) * 2 else self.sized.at(*crops.shape[1:3])

    @cached_property
    def sized(self) -> Sized:
        """The network for other sizes, see `aspect.AspectEncoder`.

        Raises:
            EncoderError: If it takes squares only.
        """
        raise squares_only(self._info.spec)

    # Whole pictures: `encoders.maps.MapEncoder` --------------------------------------------------------------

    def _map_recipe(self) -> MapRecipe:
        """How the network falls into cells and what follows pooling.

        Raises:
            EncoderError: If it does not.
        """
        raise no_maps(self._info.spec, "describes single crops only")

    @cached_property
    def _recipe(self) -> MapRecipe:
        """The recipe, once the map of a probe in half precision is that in float32, which is else computed with."""
        recipe = self._map_recipe()
        if (half := self._half) is not None:
            pixels = probe(max(1, self.look.side // recipe.stride) * recipe.stride)

            def described(half: torch.dtype | None) -> NDArray[np.float32]:
                return self._rows(np.stack([self._map(recipe, each, half).mean((0, 1)) for each in pixels]), recipe)

            if wrong := disagreement(partial(described, half), described(None)):
                self._compute_in_float32(wrong)
        return recipe

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
        recipe = self._recipe
        height, width = pixels.shape[:2]
        if pixels.shape[2:] != (3,) or not height or not width or height % recipe.stride or width % recipe.stride:
            raise ValueError(f"a picture of (H, W, 3), sides multiples of {recipe.stride}, not {pixels.shape}")
        if self._engine is not None and self._any_size:
            return _finite(self._engine.cells(recipe.cells, pixels), self._info.spec)
        try:
            return self._finite_at_last(partial(self._map, recipe, pixels))
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            what = f"A picture of {width} x {height} px does not fit into the memory of {self.device}"
            raise EncoderError(f"{what}: describe smaller pictures, or set PATCHIFY_DEVICE=cpu.") from None

    def _map(self, recipe: MapRecipe, pixels: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """(H, W, 3) uint8 -> (H', W', C) float32."""
        import torch

        with torch.inference_mode(), mixed_precision(self.device, half):
            inputs = self.as_input(np.array(pixels[None]))  # a copy: torch warns of a picture's read-only pixels
            found = recipe.cells(inputs)[0].float().contiguous().cpu()
        return _finite(found.numpy(), self._info.spec)

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) float32 pooled cells -> (N, D) float32 with rows of length 1; see `MapEncoder`."""
        return self._rows(pooled, self._recipe)

    def _rows(self, pooled: NDArray[np.float32], recipe: MapRecipe) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():  # in full precision: this is one layer at most
            means = torch.from_numpy(np.ascontiguousarray(pooled, np.float32)).to(self.device)
            return unit_rows(recipe.project(means), self._info.spec)


def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor | float:
    """What to subtract from or divide (N, 3, H, W) by; one number, which is several times as fast, where it will do."""
    import torch

    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def unit_rows(found: torch.Tensor, spec: str) -> NDArray[np.float32]:
    """(N, D) tensor of any float type on any device -> (N, D) float32 numpy with rows of length 1.

    Raises:
        EncoderError: If a number is not finite; FAISS would take it silently.
    """
    import torch.nn.functional as F

    return _finite(F.normalize(found.float(), dim=-1).cpu().numpy(), spec)


class NotFinite(EncoderError):
    """A network gave infinity or no number at all."""


def _finite(found: NDArray[np.float32], spec: str) -> NDArray[np.float32]:
    if not np.isfinite(found).all():
        raise NotFinite(f"{spec} gave numbers that are not finite: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.")
    return found


def squares_only(spec: str) -> EncoderError:
    """The refusal, as one sentence."""
    return EncoderError(f"{spec} takes squares only, so it cannot keep the aspect ratio: add --resize squash.")
