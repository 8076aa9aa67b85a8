"""Encoders followed by a published linear layer: `SPEC+projection@FILE`, x -> normalise(W x + b).

ILIAS publishes such a layer per model, trained for instance retrieval (its `linear_adaptation`): a state dict with
`layer.weight` (d, D) and optionally `layer.bias` (d,), as .pth or .safetensors. The digest of the weights covers the
file, so that an index records the layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder, EncoderInfo, TextEncoder
from patchify_core.encoders.checkpoints import checked_digest, holds_numbers, local_checkpoint, tensors_in
from patchify_core.encoders.devices import CPU_BATCH
from patchify_core.encoders.maps import as_map_encoder
from patchify_core.errors import EncoderError
from patchify_core.files import sha256_of_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

MARK = "+projection@"


class ProjectedEncoder:
    """An `Encoder` (and a `MapEncoder` if the wrapped one is) with a linear layer applied to its descriptors.

    Args:
        encoder: The wrapped encoder.
        file: Path of the layer.

    Raises:
        EncoderError: If the file is missing, is no such layer, or expects descriptors of another length.
    """

    def __init__(self, encoder: Encoder, file: str) -> None:
        path = local_checkpoint(file)
        digest = checked_digest(path)
        self._encoder = encoder
        inner = encoder.info
        self._weight, self._bias = _layer(path, inner)
        self._info = replace(
            inner,
            spec=f"{inner.spec}{MARK}{path}",
            dim=len(self._weight),
            weights_sha256=sha256_of_bytes(f"{inner.weights_sha256} {digest}".encode()),
        )

    @property
    def info(self) -> EncoderInfo:
        """Identity of encoder and layer, stored in an index."""
        return self._info

    @property
    def batch_size(self) -> int:
        """Crops per forward pass."""
        size: int = getattr(self._encoder, "batch_size", CPU_BATCH)
        return size

    @property
    def readers(self) -> int:
        """Threads that read and crop pictures, see `EncoderSettings`."""
        number: int = getattr(self._encoder, "readers", 0)
        return number

    def stage(self, crops: NDArray[np.uint8]) -> Any:
        """See `SquareEncoder.stage`."""
        return self._encoder.stage(crops) if hasattr(self._encoder, "stage") else crops

    @property
    def keeps_aspect(self) -> bool:
        """Whether crops differ in shape."""
        return getattr(self._encoder, "keeps_aspect", False)

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """See `Encoder.prepare`."""
        return self._encoder.prepare(picture, box)

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe a batch.

        Args:
            crops: N crops from `prepare`.

        Returns:
            (N, d) float32 with rows of length 1.
        """
        return self._projected(self._encoder.encode(crops))

    @property
    def stride(self) -> int:
        """See `MapEncoder`."""
        return as_map_encoder(self._encoder).stride

    @property
    def power(self) -> float:
        """See `MapEncoder`."""
        return as_map_encoder(self._encoder).power

    @property
    def pooled_like_crops(self) -> bool:
        """See `MapEncoder`."""
        return as_map_encoder(self._encoder).pooled_like_crops

    def feature_map(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `MapEncoder`; cells are not projected."""
        return as_map_encoder(self._encoder).feature_map(pixels)

    def describe_pooled(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `MapEncoder`; descriptors are projected."""
        return self._projected(as_map_encoder(self._encoder).describe_pooled(pooled))

    def _projected(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        projected_rows = rows @ self._weight.T + self._bias
        lengths = np.maximum(np.linalg.norm(projected_rows, axis=1, keepdims=True), np.float32(1e-12))
        return np.ascontiguousarray(projected_rows / lengths, np.float32)


class ProjectedTextEncoder(ProjectedEncoder):
    """A `ProjectedEncoder` around an encoder that also describes text, which is projected too."""

    _encoder: Any

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """See `TextEncoder`."""
        return self._projected(self._encoder.encode_text(words)[None])[0]


def projected(encoder: Encoder, file: str) -> ProjectedEncoder:
    """Wrap an encoder with a linear layer.

    Raises:
        EncoderError: See `ProjectedEncoder`.
    """
    return ProjectedTextEncoder(encoder, file) if isinstance(encoder, TextEncoder) else ProjectedEncoder(encoder, file)


def _layer(path: Path, inner: EncoderInfo) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read and check weight (d, D) and bias (d,) of a layer file."""
    import torch

    no_layer = EncoderError(
        f"{path} is no linear layer (layer.weight of (d, D) and layer.bias of (d,)): give another file."
    )
    tensors: dict[str, Any] = {}
    for key, value in tensors_in(path).items():
        name = str(key).removeprefix("layer.")
        if name in tensors:
            raise EncoderError(f"{path} holds both '{name}' and 'layer.{name}': give a file with one of them.")
        tensors[name] = value
    weight = tensors.get("weight")
    if not holds_numbers(weight) or weight.ndim != 2 or not weight.numel():
        raise no_layer
    if weight.shape[1] != inner.dim:
        raise EncoderError(
            f"{path} projects descriptors of {weight.shape[1]} numbers, and {inner.spec} gives {inner.dim}: "
            "give the layer that was trained for this encoder."
        )
    bias = tensors.get("bias", torch.zeros(len(weight)))
    if not holds_numbers(bias) or bias.shape != weight.shape[:1] or tensors.keys() - {"weight", "bias"}:
        raise no_layer
    layer = weight.float().numpy(force=True), bias.float().numpy(force=True)
    if not all(np.isfinite(part).all() for part in layer):
        raise EncoderError(f"{path} holds numbers that are not finite: download it again.")
    return layer
