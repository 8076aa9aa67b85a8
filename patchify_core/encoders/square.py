"""What the encoders of open_clip and timm share: a box squashed to the model's square, normalised, one forward pass.

The libraries' own transforms resize the shorter side and cut out the centre. Here the box is squashed instead, as
`effnet.py` does it: a patch or a query's box is meant whole, and a centre crop would cut off the ends of every object
that is not square. Colours and interpolation stay the model's own; for a square box the result is the library's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.encoders.checkpoints import WAY_OUT
from patchify_core.encoders.devices import batch_that_fits, mixed_precision
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


@dataclass(frozen=True)
class Look:
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
    """

    def __init__(self, describe: Callable[[Any], Any], look: Look, info: EncoderInfo, device: torch.device) -> None:
        """Takes the parts as they are."""
        import torch

        self._describe, self.look, self._info, self.device = describe, look, info, device
        self.batch_size = batch_that_fits(device, look.side)
        self._mean = torch.tensor(look.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(look.std, device=device).view(1, 3, 1, 1)

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers of this encoder."""
        return self._info

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crops from the picture's own pixels and resizes to the square input (aspect is not kept, nothing is cut).

        Args:
            picture: upright RGB picture.
            box: xyxy in pixels, may be fractional.

        Returns:
            (S, S, 3) uint8.
        """
        from PIL.Image import Resampling

        how = getattr(Resampling, self.look.interpolation.upper(), Resampling.BICUBIC)
        x1, y1, x2, y2 = (float(v) for v in box)
        return np.asarray(picture.resize((self.look.side, self.look.side), how, box=(x1, y1, x2, y2)))

    def as_input(self, crops: NDArray[np.uint8]) -> torch.Tensor:
        """(N, S, S, 3) uint8 -> (N, 3, S, S) float32 on the device, normalised as in the model's training."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)  # as bytes: a quarter of the floats
        inputs: torch.Tensor = (pixels.permute(0, 3, 1, 2).float().div_(255) - self._mean) / self._std
        return inputs

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The model's own descriptors of a batch; one that does not fit into the device's memory is halved.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`.

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

        with torch.inference_mode(), mixed_precision(self.device):
            return unit_rows(self._describe(self.as_input(crops)), self._info.spec)


def unit_rows(found: torch.Tensor, spec: str) -> NDArray[np.float32]:
    """(N, D) tensor of any float type on any device -> (N, D) float32 numpy with rows of length 1.

    Raises:
        EncoderError: if a number is not finite; FAISS would take it silently.
    """
    import torch.nn.functional as F

    rows: NDArray[np.float32] = F.normalize(found.float(), dim=-1).cpu().numpy()
    if not np.isfinite(rows).all():
        raise EncoderError(f"{spec} gave numbers that are not finite: set PATCHIFY_DEVICE=cpu, {WAY_OUT}.")
    return rows
