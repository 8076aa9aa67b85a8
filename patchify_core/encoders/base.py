"""What every encoder is: a frozen network that turns crops into L2-normalised descriptors."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class EncoderInfo:
    """What an index must remember of an encoder so that descriptors are never mixed.

    Attributes:
        spec: The name it is asked for by, e.g. `effnet-lite0`.
        dim: Length of a descriptor.
        input_size: Side of the square input in pixels.
        weights_sha256: Digest of the weights file, hexadecimal.
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
        """The fields as plain JSON values."""
        return asdict(self)


class Encoder(Protocol):
    """A frozen encoder. Implementations are deterministic on one machine and safe to call from one thread.

    One that has `readers`, a number of threads, has its `prepare` called from so many at once (`EncoderSettings`).
    """

    @property
    def info(self) -> EncoderInfo:
        """What an index remembers of this encoder."""
        ...

    def prepare(self, picture: Image, box: Sequence[float]) -> NDArray[np.uint8]:
        """Cut `box` (xyxy, pixels) out of the upright picture's own pixels, as the encoder's input size.

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
    """An encoder that describes words in the same space as pictures."""

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """Describe words.

        Args:
            words: What the picture shows, e.g. `a red kettle`.

        Returns:
            (D,) float32 of length 1.

        Raises:
            EncoderError: If there are no words, or the encoder's vocabulary cannot be had.
        """
        ...


# Read by torch at its first allocation: large tensors then get memory in pages of 2 MB. With 4 KB pages, asking the
# system for the memory of every layer anew took a fifth of a forward pass on two threads (Linux; ignored elsewhere).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ENGINES = ("torch", "openvino")
"""What can compute a network, see `encoders.engines`; the first one is the default and needs nothing more."""

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
"""With which numbers torch computes a network, see `EncoderSettings`."""


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
    """What a person may tune about encoding.

    Attributes:
        threads: Processor threads that the network uses; 0 leaves torch's own choice. By default what the
            environment variable PATCHIFY_THREADS says.
        device: `auto` (the fastest of cuda, mps and cpu that this machine has), `cpu`, `mps`, `cuda` or `cuda:N`.
            By default what the environment variable PATCHIFY_DEVICE says, else `auto`.
        engine: One of `ENGINES`. By default what the environment variable PATCHIFY_ENGINE says, else `torch`.
            Descriptors by one engine are searched with the other's.
        precision: One of `PRECISIONS`. `auto` is half precision on CUDA and float32 elsewhere. Half precision is kept
            only if it describes a probe as float32 does (`encoders.probe`); else the network computes in float32, and
            says so. By default what the environment variable PATCHIFY_PRECISION says, else `auto`.
        compile: Whether torch.compile compiles the network, which takes a minute when it is loaded; where it cannot,
            that is said and the network runs as it is. By default whether PATCHIFY_COMPILE is 1.
        readers: Threads that read pictures and cut them while the network works; 0 leaves that to the thread that
            waits for the network, -1 chooses: as many as the network's processor threads and at most 8 with CUDA,
            else 0. By default what the environment variable PATCHIFY_READERS says, else -1.
        untrained: Random weights where the trained ones would be downloaded: what an encoder costs can be measured
            with them, and nothing else.

    An index remembers neither precision nor compile nor readers: whatever they are, descriptors agree to a cosine above
    0.999, as those of two devices or engines do, and may be mixed.

    Raises:
        EncoderError: If one of them is none of these, or is not for that engine.
    """

    threads: int = field(default_factory=lambda: _threads_of_environment("PATCHIFY_THREADS"))
    device: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_DEVICE", "auto"))
    engine: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_ENGINE", ENGINES[0]))
    precision: str = field(default_factory=lambda: _word_of_environment("PATCHIFY_PRECISION", "auto"))
    compile: bool = field(default_factory=_compile_of_environment)
    readers: int = field(default_factory=lambda: _threads_of_environment("PATCHIFY_READERS", "-1"))
    untrained: bool = False

    def __post_init__(self) -> None:
        """Check the form only; whether the machine has device and engine is seen when a network is loaded."""
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
