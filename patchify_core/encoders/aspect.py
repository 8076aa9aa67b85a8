"""Encoders that see a box at its own aspect ratio: `aspect:SPEC`, or `aspect:SIDE:SPEC` in SIDE pixels.

The larger side of a box becomes SIDE, by default the side of the model's square, as in ILIAS' own extraction (384 or
512 by model); the shorter side becomes the nearest whole number of cells (where ILIAS pads to it). A convolutional
network takes such a picture as it is; in a vision transformer the position embedding is interpolated to it, as timm and
open_clip do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder, EncoderInfo, TextEncoder
from patchify_core.encoders.square import SquareEncoder, squares_only
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    from PIL.Image import Image

PREFIX = "aspect:"

LARGEST_SIDE = 2048
"""Pixels; a vision transformer's memory grows with the fourth power of the side."""


class AspectEncoder:
    """An `Encoder` whose crops keep their aspect ratio: each crop of a batch has a shape of its own.

    Args:
        encoder: What describes them.
        side: Of the larger side, in pixels; None for that of the encoder's square.

    Raises:
        EncoderError: If it takes squares only, or the side is no whole number of its cells.
    """

    keeps_aspect = True

    def __init__(self, encoder: Encoder, side: int | None = None) -> None:
        if not isinstance(encoder, SquareEncoder):
            raise squares_only(encoder.info.spec)
        if encoder.engine_spec != "torch":
            raise EncoderError(f"{encoder.engine_spec} computes squares only: add --engine torch, or --resize squash.")
        self._encoder = encoder
        stride = self._stride = encoder.sized.stride
        self._side, self._named = side or encoder.info.input_size, side is not None
        if side is not None and (side % stride or not stride <= side <= LARGEST_SIDE):
            near = min(max(1, round(side / stride)), LARGEST_SIDE // stride) * stride
            raise EncoderError(
                f"{encoder.info.spec} sees cells of {stride} pixels, and a side of {side} is no whole number of them "
                f"up to {LARGEST_SIDE}: write {PREFIX}{near}:{encoder.info.spec}."
            )
        try:
            self._encoder.encode(np.zeros((1, self._cells(self._side / 2), self._side, 3), np.uint8))
        except (RuntimeError, AssertionError, ValueError, AttributeError) as error:
            raise squares_only(encoder.info.spec) from error

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers: the encoder's, under a name of its own."""
        side = f"{self._side}:" if self._named else ""
        info = self._encoder.info
        return replace(info, spec=f"{PREFIX}{side}{info.spec}", input_size=self._side)

    @property
    def batch_size(self) -> int:
        """Crops in one forward pass."""
        return self._encoder.batch_size

    @property
    def readers(self) -> int:
        """Threads that read and cut pictures, see `EncoderSettings`."""
        return self._encoder.readers

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crop from the picture's own pixels and resizes the larger side to the encoder's.

        Args:
            picture: Upright RGB picture.
            box: xyxy in pixels, may be fractional.

        Returns:
            (H, W, 3) uint8, the larger of H and W `info.input_size`, the other a multiple of the encoder's stride.
        """
        x1, y1, x2, y2 = (float(value) for value in box)
        width, height, side = x2 - x1, y2 - y1, self._side
        wide = width >= height
        shorter = self._cells(side * (height / width if wide else width / height))
        return self._encoder.resized(picture, box, (side, shorter) if wide else (shorter, side))

    def encode(self, crops: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe a batch, crops of one shape together.

        Args:
            crops: N arrays (H, W, 3) uint8 from `prepare`.

        Returns:
            (N, D) float32 with rows of length 1.

        Raises:
            EncoderError: As the encoder's own `encode`.
        """
        found = np.empty((len(crops), self._encoder.info.dim), np.float32)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for at, crop in enumerate(crops):
            by_shape.setdefault(crop.shape, []).append(at)
        for places in by_shape.values():
            found[places] = self._encoder.encode(np.stack([crops[at] for at in places]))
        return found

    def _cells(self, length: float) -> int:
        """The nearest length in whole cells, at least one and at most the larger side."""
        if length >= self._side:
            return self._side
        return min(max(1, round(length / self._stride)) * self._stride, self._side)


class AspectTextEncoder(AspectEncoder):
    """The same around an encoder that knows words too."""

    _encoder: Any

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """See `TextEncoder`."""
        found: NDArray[np.float32] = self._encoder.encode_text(words)
        return found


def keeping_aspect(encoder: Encoder, side: int | None = None) -> AspectEncoder:
    """The same encoder, with crops that keep their aspect ratio. Args and errors as for `AspectEncoder`."""
    return AspectTextEncoder(encoder, side) if isinstance(encoder, TextEncoder) else AspectEncoder(encoder, side)
