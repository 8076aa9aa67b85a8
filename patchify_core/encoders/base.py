"""The encoder interface (crops in, L2-normalised descriptors out), and the settings of encoders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.checkpoints import WAY_OUT
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EncoderInfo:
    """Identity of an encoder, stored in an index so that descriptors of different encoders are never mixed.

    Attributes:
        spec: Its name for `load_encoder`, e.g. `effnet-lite0`.
        dim: Length of a descriptor, D.
        input_size: Side of the square input in pixels, S.
        weights_sha256: Digest of the weights file, hexadecimal; empty for random weights.
        pooling: How the feature map becomes one vector, e.g. `gem:3`.
        licence: Licence of the weights.
    """

    spec: str
    dim: int
    input_size: int
    weights_sha256: str
    pooling: str
    licence: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Preprocessing:
    """Input preprocessing of a model.

    Attributes:
        side: Side of the square input in pixels, S.
        mean: Per channel (R, G, B), in 0..1; subtracted.
        std: Per channel (R, G, B), in 0..1; divides.
        interpolation: Name of a PIL `Resampling` filter in lower case, e.g. `bicubic`.
    """

    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    @classmethod
    def of(cls, config: Mapping[str, Any], size: int | Sequence[int], spec: str) -> Preprocessing:
        """Read the preprocessing of a library's model.

        Args:
            config: With `mean`, `std` and `interpolation`.
            size: The input's side, or (height, width), in pixels.
            spec: The encoder's spec, for the error message.

        Raises:
            EncoderError: If the input is not square.
        """
        sides = {size} if isinstance(size, int) else {int(side) for side in size}
        if len(sides) != 1:
            raise EncoderError(f"{spec} wants pictures that are not square: choose another model, {WAY_OUT}.")
        return cls(int(sides.pop()), tuple(config["mean"]), tuple(config["std"]), str(config["interpolation"]))


class Encoder(Protocol):
    """A frozen encoder. Implementations are deterministic on one machine; `encode` is called from one thread at a time.

    An encoder with an attribute `readers` has `prepare` called from that many threads at once (`EncoderSettings`).
    """

    @property
    def info(self) -> EncoderInfo:
        """Identity, stored in an index."""
        ...

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Crop `box` (xyxy, pixels) from an upright picture at full resolution, and resize it to the input size.

        Returns:
            (S, S, 3) uint8, S = `info.input_size`.
        """
        ...

    def encode(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe a batch.

        Args:
            crops: (N, S, S, 3) uint8 from `prepare`.

        Returns:
            (N, D) float32 with rows of length 1.
        """
        ...


@runtime_checkable
class TextEncoder(Protocol):
    """An encoder that describes text in the same space as pictures."""

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """Describe text.

        Args:
            words: What the picture shows, e.g. `a red kettle`.

        Returns:
            (D,) float32 of length 1.

        Raises:
            EncoderError: If the text is empty, or the encoder's vocabulary is unavailable.
        """
        ...


# Torch reads this at its first allocation and then backs large tensors with pages of 2 MB. With pages of 4 KB,
# allocating the memory of every layer took a fifth of a forward pass on two threads (Linux; ignored elsewhere).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ENGINES = ("torch", "openvino")
"""Libraries that can run a network; the first is the default, the other an optional package."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
"""Numeric precisions, see `EncoderSettings`."""


def _threads_of_environment(variable: str, usual: str = "0") -> int:
    text = os.environ.get(variable, "").strip() or usual
    if text != usual and not (text.isascii() and text.isdigit() and len(text) < 4):
        raise EncoderError(f"{variable} is {text!r}: give it a number of threads from 0 to 999.")
    return int(text)


def _word_of_environment(variable: str, usual: str) -> str:
    return os.environ.get(variable, "").strip().lower() or usual


def _compile_of_environment() -> bool:
    text = _word_of_environment("PATCHIFY_COMPILE", "0")
    if text not in ("0", "1"):
        raise EncoderError(f"PATCHIFY_COMPILE is {text!r}: give it 1 to compile the network, or 0.")
    return text == "1"


@dataclass(frozen=True)
class EncoderSettings:
    """Settings of encoders. Environment variables give the defaults, so that every entry point respects them.

    Attributes:
        threads: CPU threads of the network; 0 for torch's default. Default: PATCHIFY_THREADS, else 0.
        device: `auto` (the fastest available of cuda, mps and cpu), `cpu`, `mps`, `cuda` or `cuda:N`.
            Default: PATCHIFY_DEVICE, else `auto`.
        engine: One of `ENGINES`; descriptors of both are compatible. Default: PATCHIFY_ENGINE, else `torch`.
        precision: One of `PRECISIONS`. `auto` is half precision on CUDA and float32 elsewhere. Half precision is used
            only if it agrees with float32 on probe pictures (`encoders.probe`); otherwise the network falls back to
            float32 and logs why. Default: PATCHIFY_PRECISION, else `auto`.
        compile: Whether to compile the network with torch.compile, which takes about a minute at load time; if that
            fails, the network runs uncompiled and logs why. Default: whether PATCHIFY_COMPILE is 1.
        readers: Threads that read and crop pictures while the network runs; 0 for the calling thread only; -1 for as
            many as the network has CPU threads, at most 8, with CUDA, and 0 elsewhere.
            Default: PATCHIFY_READERS, else -1.
        untrained: Use random weights instead of downloading trained ones, to measure speed and memory only.

    An index does not record precision, compile, readers, device or engine: descriptors agree to a cosine above 0.999
    whatever these are, and may be mixed.

    Raises:
        EncoderError: If a value is invalid or not supported by the engine.
    """

    threads: int = field(default_factory=lambda: _threads_of_environment("PATCHIFY_THREADS"))
    device: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_DEVICE", "auto"))
    engine: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_ENGINE", ENGINES[0]))
    precision: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_PRECISION", "auto"))
    compile: bool = field(default_factory=_compile_of_environment)
    readers: int = field(default_factory=lambda: _threads_of_environment("PATCHIFY_READERS", "-1"))
    untrained: bool = False

    def __post_init__(self) -> None:
        """Validate the values; whether device and engine are available is checked when a network is loaded."""
        if self.engine not in ENGINES:
            raise EncoderError(f"The engine (PATCHIFY_ENGINE) is {self.engine!r}: choose {' or '.join(ENGINES)}.")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", self.device, re.ASCII):
            raise EncoderError(
                f"The device (PATCHIFY_DEVICE) is {self.device!r}: choose auto, cpu, cuda, cuda:1 or mps."
            )
        if self.precision not in PRECISIONS:
            raise EncoderError(
                f"The precision (PATCHIFY_PRECISION) is {self.precision!r}: choose {', '.join(PRECISIONS[:-1])} or "
                f"{PRECISIONS[-1]}."
            )
        if self.engine != ENGINES[0] and (self.compile or self.precision not in ("auto", "float32")):
            raise EncoderError(
                f"The engine {self.engine} computes in float32 and compiles by itself: leave --precision and --compile "
                f"out, or choose the engine {ENGINES[0]}."
            )
