"""`SquareEncoder`, the base of all encoders: resize a box to the model's square input, normalise, one forward pass.

The transforms of open_clip and timm resize the shorter side and crop the centre, which would cut off the ends of every
object that is not square. Here the whole box is resized to the square (without keeping its aspect ratio). Normalisation
and interpolation are the model's own; for a square box the result equals the library's.
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

from patchify_core.encoders.base import ENGINES, EncoderInfo, EncoderSettings, Preprocessing
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
_precision_lock = Lock()


@dataclass(frozen=True)
class Sized:
    """A network for inputs of other sizes than its square.

    Attributes:
        stride: Input pixels per cell; sides must be multiples of it.
        at: (H, W) -> the network for inputs (N, 3, H, W).
    """

    stride: int
    at: Callable[[int, int], Any]


class SquareEncoder:
    """An `Encoder` and `MapEncoder` around a frozen network that describes normalised square pictures.

    Args:
        describe: The network: (N, 3, S, S) float on `device` -> (N, D); frozen, in evaluation mode.
        preprocessing: See `Preprocessing`.
        info: Identity, stored in an index.
        device: Device of the network.
        settings: Engine, precision, compilation and readers.

    Attributes:
        batch_size: Crops per forward pass; reduced when a batch did not fit into the device's memory.
        readers: Threads that read and crop pictures, see `EncoderSettings`.

    Raises:
        EncoderError: If the engine is not installed or does not support the network.
    """

    _any_size = False
    """Whether one converted network accepts any input size; only then OpenVINO computes feature maps too."""

    def __init__(
        self,
        describe: Callable[[Any], Any],
        preprocessing: Preprocessing,
        info: EncoderInfo,
        device: torch.device,
        settings: EncoderSettings | None = None,
    ) -> None:
        settings = settings or EncoderSettings()
        self._describe, self.preprocessing, self._info, self.device = describe, preprocessing, info, device
        self.batch_size, self._most = batch_that_fits(device, preprocessing.side), 0
        self.readers = readers_for(device, settings)
        self._uploads = Uploads(device) if device.type == "cuda" else None
        self._half: torch.dtype | None = None
        self._mean, self._std = _per_channel(preprocessing.mean, device), _per_channel(preprocessing.std, device)
        self._engine: OpenVino | None = None
        if settings.engine == "openvino":
            self._engine = OpenVino(self._normalised, describe, preprocessing.side, info.dim, info.spec)
        half_types = half_precisions(device, settings.precision)
        if half_types or settings.compile:
            self._speed_up(half_types, settings.compile)

    def _speed_up(self, half_types: Sequence[torch.dtype], compiled: bool) -> None:
        """Use the first half-precision type that agrees with float32 on the probe pictures; compile the network."""
        crops = probe(self.preprocessing.side)
        exact = self._within_memory(crops, None)
        reason: str | None = None
        for self._half in half_types:
            reason = disagreement(partial(self._within_memory, crops, self._half), exact)
            if reason is None:
                break
        if reason is not None:
            self._compute_in_float32(reason)
        if compiled:
            self._describe = fast = Compiled(self._describe, self._info.spec)
            if reason := disagreement(partial(self._within_memory, crops, self._half), exact):
                fast.give_up(reason)

    def _compute_in_float32(self, why: str) -> None:
        """Leave half precision for good, and log why once."""
        with _precision_lock:
            half, self._half = self._half, None
        if half is not None:
            log.warning("%s computes in float32, not in %s: %s.", self._info.spec, precision_name(half), why)

    @property
    def precision(self) -> str:
        """Precision of the network: `float32`, `bfloat16` or `float16`."""
        return precision_name(self._half)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile compiled the network for crops."""
        return isinstance(self._describe, Compiled) and self._describe.works

    @property
    def info(self) -> EncoderInfo:
        """Identity, stored in an index."""
        return self._info

    @property
    def engine_spec(self) -> str:
        """The engine that runs the network, one of `ENGINES`."""
        return ENGINES[0] if self._engine is None else "openvino"

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crop a box at full resolution and resize it to the square input, without keeping its aspect ratio.

        Args:
            picture: Upright RGB picture.
            box: xyxy in pixels, may be fractional.

        Returns:
            (S, S, 3) uint8.
        """
        return self.resize(picture, box, (self.preprocessing.side, self.preprocessing.side))

    def resize(self, picture: Image, box: Sequence[float], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Crop a box and resize it to `size` (width, height); returns (height, width, 3) uint8."""
        from PIL.Image import Resampling

        resampling = getattr(Resampling, self.preprocessing.interpolation.upper(), Resampling.BICUBIC)
        x1, y1, x2, y2 = (float(v) for v in box)
        return np.asarray(picture.resize(size, resampling, box=(x1, y1, x2, y2)))

    def stage(self, crops: NDArray[np.uint8]) -> Any:
        """Start copying a batch to the device while the network still computes the previous one.

        Args:
            crops: (N, S, S, 3) uint8, C-contiguous; must not be changed afterwards.

        Returns:
            An argument for `encode`: a tensor on a CUDA device, elsewhere `crops`.
        """
        return crops if self._uploads is None else self._uploads.begin(crops)

    def as_input(self, crops: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 on the device, normalised."""
        import torch

        if self._uploads is not None and isinstance(crops, torch.Tensor):
            self._uploads.wait()
            return self._normalised(crops)
        # Transfer as bytes: a quarter of the size of floats.
        return self._normalised(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device))

    def _normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) uint8 -> (N, 3, H, W) float32 in channels-last memory format."""
        return pixels.permute(0, 3, 1, 2).float().div_(255).sub_(self._mean).div_(self._std)

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe a batch; split it if it does not fit into the device's memory.

        If half precision yields non-finite numbers, this batch and all later ones are computed in float32.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`; of other sizes if the encoder supports them (`sized`).
                Or the result of `stage`.

        Returns:
            (N, D) float32 with rows of length 1.

        Raises:
            EncoderError: If the network yields non-finite numbers, or a single crop does not fit into memory.
        """
        return self._with_fallback(partial(self._within_memory, crops))

    def _with_fallback(self, work: Callable[[torch.dtype | None], NDArray[np.float32]]) -> NDArray[np.float32]:
        """Run `work` in the current precision, and again in float32 if half precision yields non-finite numbers."""
        half = self._half
        try:
            return work(half)
        except NotFinite:
            if half is None:
                raise
        self._compute_in_float32("it gave numbers that are not finite")
        return work(None)

    def _within_memory(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """Encode a batch: whole, or in parts of the size that fitted last."""
        most = self._most or max(len(crops), 1)
        parts = [self._halved(crops[at : at + most], half) for at in range(0, max(len(crops), 1), most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _halved(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """Encode a batch, or its halves if it does not fit into the device's memory."""
        try:
            return self._encode(crops, half)
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            if len(crops) == 1:
                what = f"{self._info.spec} does not fit into the memory of {self.device}"
                raise EncoderError(f"{what}: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.") from None
        # Not inside the handler: the traceback would keep the failed batch's memory alive.
        most = len(crops) // 2
        self.batch_size = self._most = min(self.batch_size, most)
        return np.concatenate([self._halved(crops[:most], half), self._halved(crops[most:], half)])

    def _encode(self, crops: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        import torch

        if self._engine is not None:
            return unit_rows(torch.from_numpy(self._engine.describe(crops)), self._info.spec)
        if self.compiled:  # it parallelises a batch by itself
            return self._encode_part(half, crops)
        return in_parts(partial(self._encode_part, half), crops, self.device)

    def _encode_part(self, half: torch.dtype | None, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode(), mixed_precision(self.device, half):  # both are thread-local
            return unit_rows(self._network_for(crops)(self.as_input(crops)), self._info.spec)

    def _network_for(self, crops: NDArray[np.uint8]) -> Callable[[Any], Any]:
        height, width = crops.shape[1:3]
        return self._describe if height == width == self.preprocessing.side else self.sized.at(height, width)

    @cached_property
    def sized(self) -> Sized:
        """The network at other input sizes, for `AspectEncoder`.

        Raises:
            EncoderError: If it takes square input only.
        """
        raise squares_only(self._info.spec)

    # Whole pictures: `encoders.maps.MapEncoder` --------------------------------------------------------------

    def _map_recipe(self) -> MapRecipe:
        """Split the network into cells and head.

        Raises:
            EncoderError: If it gives no feature map.
        """
        raise no_maps(self._info.spec, "describes single crops only")

    @cached_property
    def _recipe(self) -> MapRecipe:
        """The recipe; falls back to float32 if maps of the probe pictures differ in half precision."""
        recipe = self._map_recipe()
        if (half := self._half) is not None:
            pixels = probe(max(1, self.preprocessing.side // recipe.stride) * recipe.stride)

            def described(half: torch.dtype | None) -> NDArray[np.float32]:
                return self._rows(np.stack([self._map(recipe, each, half).mean((0, 1)) for each in pixels]), recipe)

            if reason := disagreement(partial(described, half), described(None)):
                self._compute_in_float32(reason)
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
            return self._with_fallback(partial(self._map, recipe, pixels))
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            what = f"A picture of {width} x {height} px does not fit into the memory of {self.device}"
            raise EncoderError(f"{what}: describe smaller pictures, or set PATCHIFY_DEVICE=cpu.") from None

    def _map(self, recipe: MapRecipe, pixels: NDArray[np.uint8], half: torch.dtype | None) -> NDArray[np.float32]:
        """(H, W, 3) uint8 -> (H', W', C) float32."""
        import torch

        with torch.inference_mode(), mixed_precision(self.device, half):
            inputs = self.as_input(np.array(pixels[None]))  # a copy, because torch warns about read-only arrays
            cells = recipe.cells(inputs)[0].float().contiguous().cpu()
        return _finite(cells.numpy(), self._info.spec)

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, C) float32 pooled cells -> (N, D) float32 with rows of length 1; see `MapEncoder`."""
        return self._rows(pooled, self._recipe)

    def _rows(self, pooled: NDArray[np.float32], recipe: MapRecipe) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():  # in full precision: at most one layer
            means = torch.from_numpy(np.ascontiguousarray(pooled, np.float32)).to(self.device)
            return unit_rows(recipe.project(means), self._info.spec)


def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor | float:
    """Broadcast values over (N, 3, H, W); a single number, which is several times faster, if all are equal."""
    import torch

    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def unit_rows(rows: torch.Tensor, spec: str) -> NDArray[np.float32]:
    """(N, D) tensor of any float type on any device -> (N, D) float32 numpy with rows of length 1.

    Raises:
        EncoderError: If a number is not finite; FAISS would accept it silently.
    """
    import torch.nn.functional as F

    return _finite(F.normalize(rows.float(), dim=-1).cpu().numpy(), spec)


class NotFinite(EncoderError):
    """A network yielded infinity or NaN."""


def _finite(values: NDArray[np.float32], spec: str) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise NotFinite(f"{spec} gave numbers that are not finite: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.")
    return values


def squares_only(spec: str) -> EncoderError:
    """Return the error for an encoder that takes square input only."""
    return EncoderError(f"{spec} takes squares only, so it cannot keep the aspect ratio: add --resize squash.")
