"""Encoders that keep the aspect ratio of each box: `aspect:SPEC`, or `aspect:SIDE:SPEC`.

The longer side of a box is resized to SIDE pixels (default: the side of the model's square input, as in ILIAS' own
extraction), the shorter side to the nearest whole number of cells (ILIAS pads it instead). A convolutional network
accepts any such size; a vision transformer gets interpolated position embeddings, as in timm and open_clip.
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
"""In pixels. A vision transformer's memory grows with the fourth power of the side."""


class AspectEncoder:
    """An `Encoder` that keeps the aspect ratio of crops: the crops of a batch differ in shape.

    Args:
        encoder: The wrapped encoder.
        side: Longer side in pixels; None for the side of the encoder's square input.

    Raises:
        EncoderError: If the encoder takes square input only, or `side` is not a multiple of its stride.
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
        """The wrapped encoder's info, with this spec and side."""
        side = f"{self._side}:" if self._named else ""
        info = self._encoder.info
        return replace(info, spec=f"{PREFIX}{side}{info.spec}", input_size=self._side)

    @property
    def batch_size(self) -> int:
        """Crops per forward pass."""
        return self._encoder.batch_size

    @property
    def readers(self) -> int:
        """Threads that read and crop pictures, see `EncoderSettings`."""
        return self._encoder.readers

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crop a box at full resolution and resize its longer side to `info.input_size`.

        Args:
            picture: Upright RGB picture.
            box: xyxy in pixels, may be fractional.

        Returns:
            (H, W, 3) uint8: the longer side is `info.input_size`, the other a multiple of the encoder's stride.
        """
        x1, y1, x2, y2 = (float(value) for value in box)
        width, height, side = x2 - x1, y2 - y1, self._side
        wide = width >= height
        shorter = self._cells(side * (height / width if wide else width / height))
        return self._encoder.resize(picture, box, (side, shorter) if wide else (shorter, side))

    def encode(self, crops: NDArray[np.uint8] | Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Describe a batch; crops of the same shape share a forward pass.

        Args:
            crops: N arrays (H, W, 3) uint8 from `prepare`.

        Returns:
            (N, D) float32 with rows of length 1.

        Raises:
            EncoderError: See `SquareEncoder.encode`.
        """
        descriptors = np.empty((len(crops), self._encoder.info.dim), np.float32)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for at, crop in enumerate(crops):
            by_shape.setdefault(crop.shape, []).append(at)
        for places in by_shape.values():
            descriptors[places] = self._encoder.encode(np.stack([crops[at] for at in places]))
        return descriptors

    def _cells(self, length: float) -> int:
        """Round a length to whole cells: at least one cell, at most the longer side."""
        if length >= self._side:
            return self._side
        return min(max(1, round(length / self._stride)) * self._stride, self._side)


class AspectTextEncoder(AspectEncoder):
    """An `AspectEncoder` around an encoder that also describes text."""

    _encoder: Any

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """See `TextEncoder`."""
        descriptor: NDArray[np.float32] = self._encoder.encode_text(words)
        return descriptor


def with_aspect(encoder: Encoder, side: int | None = None) -> AspectEncoder:
    """Wrap an encoder so that crops keep their aspect ratio; args and errors: see `AspectEncoder`."""
    return AspectTextEncoder(encoder, side) if isinstance(encoder, TextEncoder) else AspectEncoder(encoder, side)
