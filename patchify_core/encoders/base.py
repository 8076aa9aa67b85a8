"""What every encoder is: a frozen network that turns crops into L2-normalised descriptors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EncoderInfo:
    """What an index must remember of an encoder so that descriptors are never mixed.

    Attributes:
        spec: the name it is asked for by, e.g. `effnet-lite0`.
        dim: length of a descriptor.
        input_size: side of the square input in pixels.
        weights_sha256: digest of the weights file, hexadecimal.
        pooling: how the feature map becomes one vector, e.g. `gem:3`.
        licence: licence of the weights.
    """

    spec: str
    dim: int
    input_size: int
    weights_sha256: str
    pooling: str
    licence: str

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


class Encoder(Protocol):
    """A frozen encoder. Implementations are deterministic on one machine and safe to call from one thread."""

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers of this encoder."""
        ...

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Cuts `box` (xyxy, pixels) out of the upright picture's own pixels, as the encoder's input size.

        Returns:
            (S, S, 3) uint8, S = `info.input_size`.
        """
        ...

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describes a batch.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`.

        Returns:
            (N, D) float32 with rows of length 1.
        """
        ...


def _threads_of_environment() -> int:
    text = os.environ.get("PATCHIFY_THREADS", "").strip() or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise EncoderError(f"PATCHIFY_THREADS is {text!r}: give it a number of threads from 0 to 999.")
    return int(text)


@dataclass(frozen=True)
class EncoderSettings:
    """What a person may tune about encoding.

    Attributes:
        threads: processor threads that the network uses; 0 leaves torch's own choice. By default what the
            environment variable PATCHIFY_THREADS says.
    """

    threads: int = field(default_factory=_threads_of_environment)
