"""Picture + boxes + encoder -> descriptors, one forward pass a patch (the paper's form).

Patches of several pictures share a batch, so that small pyramids keep the processor as busy as large ones, and
only one batch of pixels is in memory however many pictures there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.boxes import as_boxes
from patchify_core.encoders.base import Encoder
from patchify_core.encoders.devices import CPU_BATCH

if TYPE_CHECKING:
    from PIL.Image import Image

Key = TypeVar("Key")


@dataclass(frozen=True)
class FeatureSettings:
    """What a person may tune about feature extraction.

    Attributes:
        batch_size: patches in one forward pass; None for what suits the encoder's device (`encoders.devices`).
    """

    batch_size: int | None = None


@dataclass(frozen=True)
class Described(Generic[Key]):
    """The descriptors of one picture: `key` as it was given, (P, D) float32 with rows of length 1."""

    key: Key
    descriptors: NDArray[np.float32]


def describe(
    picture: Image, boxes: ArrayLike, encoder: Encoder, settings: FeatureSettings | None = None
) -> NDArray[np.float32]:
    """Descriptors of the boxes of one upright RGB picture.

    Args:
        picture: upright RGB picture.
        boxes: (P, 4) or (4,) xyxy in pixels, inside the picture; P at least 1.
        encoder: the frozen encoder.
        settings: see `FeatureSettings`.

    Returns:
        (P, D) float32 with rows of length 1.
    """
    return next(describe_many([(None, picture, as_boxes(boxes))], encoder, settings)).descriptors


def describe_many(
    pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]],
    encoder: Encoder,
    settings: FeatureSettings | None = None,
) -> Iterator[Described[Key]]:
    """Describes a stream of pictures, in order, holding one batch of crops at a time.

    Args:
        pictures: (key, upright RGB picture, (P, 4) boxes with P >= 1); consumed lazily.
        encoder: the frozen encoder.
        settings: see `FeatureSettings`.

    Yields:
        One `Described` per picture, in the order given, as soon as its last patch is encoded.
    """
    asked = (settings or FeatureSettings()).batch_size
    batch_size: int = getattr(encoder, "batch_size", CPU_BATCH) if asked is None else asked
    size = encoder.info.input_size
    crops = np.empty((batch_size, size, size, 3), np.uint8)
    filled = 0
    waiting: list[tuple[Key, int, list[NDArray[np.float32]]]] = []  # key, patches still to come, parts so far

    def flush() -> Iterator[Described[Key]]:
        nonlocal filled
        descriptors = encoder.encode(crops[:filled])
        filled = start = 0
        while waiting and start < len(descriptors):
            key, missing, parts = waiting[0]
            part = descriptors[start : start + missing]
            parts.append(part)
            start += len(part)
            if len(part) < missing:
                waiting[0] = (key, missing - len(part), parts)
                return
            waiting.pop(0)
            yield Described(key, np.concatenate(parts))

    for key, picture, boxes in pictures:
        waiting.append((key, len(boxes), []))
        for box in boxes:
            crops[filled] = encoder.prepare(picture, box)
            filled += 1
            if filled == batch_size:
                yield from flush()
    if filled:
        yield from flush()
