"""Describe patches with one forward pass each, as in the paper.

Patches of several pictures share a batch, so that small pyramids use the hardware as well as large ones. While the
network computes one batch, the next one is read and cropped (`map_ahead`); at most two batches of pixels are in memory.
With `encoder.readers`, that many threads read and as many crop, one picture ahead each; threads suffice, because Pillow
releases the GIL. Batches are the same in either case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.encoders.base import Encoder
from patchify_core.encoders.devices import CPU_BATCH
from patchify_core.imaging.boxes import as_boxes

if TYPE_CHECKING:
    from PIL.Image import Image

Key = TypeVar("Key")


@dataclass(frozen=True)
class Described(Generic[Key]):
    """The descriptors of one picture.

    Attributes:
        key: The caller's key.
        descriptors: (P, D) float32 with rows of length 1.
        packed: The picture's packed feature map (`maps.pack`); None if maps are not stored.
    """

    key: Key
    descriptors: NDArray[np.float32]
    packed: bytes | None = None


def describe(picture: Image, boxes: ArrayLike, encoder: Encoder, batch_size: int | None = None) -> NDArray[np.float32]:
    """Describe the boxes of one picture.

    Args:
        picture: Upright RGB picture.
        boxes: (P, 4) or (4,) xyxy in pixels, inside the picture; P at least 1.
        encoder: The frozen encoder.
        batch_size: Patches per forward pass; None for what suits the encoder's device (`encoders.devices`).

    Returns:
        (P, D) float32 with rows of length 1.
    """
    return next(describe_many([(None, picture, as_boxes(boxes))], encoder, batch_size)).descriptors


def describe_many(
    pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]],
    encoder: Encoder,
    batch_size: int | None = None,
) -> Generator[Described[Key]]:
    """Describe a stream of pictures, in order, with at most two batches of crops in memory.

    Args:
        pictures: (key, upright RGB picture, (P, 4) boxes with P >= 1); consumed lazily, one batch ahead of the
            network, in the caller's thread.
        encoder: The frozen encoder.
        batch_size: Patches per forward pass; None for what suits the encoder's device (`encoders.devices`).

    Yields:
        One `Described` per picture, in order, when its last patch is encoded and the next batch is read.
    """
    if batch_size is None:
        batch_size = int(getattr(encoder, "batch_size", CPU_BATCH))
    waiting: deque[tuple[Key, int, list[NDArray[np.float32]]]] = deque()  # key, missing patches, parts so far

    def encoded(batch: _Batch[Key]) -> tuple[_Batch[Key], NDArray[np.float32]]:
        return batch, encoder.encode(batch.crops)

    for batch, descriptors in map_ahead(encoded, _batches(pictures, encoder, batch_size)):
        waiting.extend((key, patches, []) for key, patches in batch.started)
        start = 0
        while waiting and start < len(descriptors):
            key, missing, parts = waiting.popleft()
            part = descriptors[start : start + missing]
            parts.append(part)
            start += len(part)
            if len(part) < missing:
                waiting.appendleft((key, missing - len(part), parts))
            else:
                yield Described(key, np.concatenate(parts))


@dataclass(frozen=True)
class _Batch(Generic[Key]):
    """Crops, (N, S, S, 3) uint8 or N of different shapes; (key, number of crops) of each picture that starts here."""

    crops: Any
    started: list[tuple[Key, int]]


def _batches(
    pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]], encoder: Encoder, batch_size: int
) -> Iterator[_Batch[Key]]:
    """Crop the pictures; every batch is full except the last one."""
    readers: int = getattr(encoder, "readers", 0)
    stage: Callable[[Any], Any] = getattr(encoder, "stage", lambda crops: crops)

    def cut(item: tuple[Key, Image, NDArray[np.float64]]) -> tuple[Key, int, Iterable[NDArray[np.uint8]]]:
        key, picture, boxes = item
        cuts = (encoder.prepare(picture, box) for box in boxes)
        return key, len(boxes), list(cuts) if readers else cuts

    shape = (batch_size, encoder.info.input_size, encoder.info.input_size, 3)
    keeps_aspect = getattr(encoder, "keeps_aspect", False)

    def empty_batch() -> Any:
        return [None] * batch_size if keeps_aspect else np.empty(shape, np.uint8)

    crops, filled = empty_batch(), 0
    started: list[tuple[Key, int]] = []
    for key, patches, cuts in in_order(cut, pictures, readers):
        started.append((key, patches))
        for crop in cuts:
            crops[filled] = crop
            filled += 1
            if filled == batch_size:
                yield _Batch(stage(crops), started)
                crops, filled, started = empty_batch(), 0, []
    if filled:
        yield _Batch(stage(crops[:filled]), started)


# Reading ahead -------------------------------------------------------------------------------------------------


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], readers: int) -> Iterator[Result]:
    """`map(work, items)` in `readers` threads, one item ahead each; in the calling thread if 0."""
    return map_ahead(work, items, readers, readers) if readers else map(work, items)


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1, threads: int = 1
) -> Iterator[Result]:
    """`map(work, items)`, reading up to `ahead` further items while the work on one is in progress.

    Args:
        work: Called in `threads` worker threads; with one, in order and never concurrently.
        items: Read lazily in the caller's thread: nothing before the first result is requested, and never more than
            `ahead` items beyond the next result. At most `ahead` + 1 items are in memory.
        ahead: At least 1.
        threads: Number of worker threads.

    Yields:
        The results, in order.

    Raises:
        ValueError: If `ahead` is less than 1.
        Exception: What `work` or `items` raised, after the results of all earlier items. Other exceptions
            (KeyboardInterrupt) propagate at once.

    When it ends (by an error, the last result, or closing the generator), the threads have ended too, and `items` is
    closed if it is a generator.

    Example:
        >>> list(map_ahead(str.upper, ["a", "b"]))
        ['A', 'B']
    """
    if ahead < 1:
        raise ValueError(f"ahead is {ahead}: at least 1")
    iterator = iter(items)
    failed: Exception | None = None
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="patchify-ahead") as worker:
        try:
            while failed is None:
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                except Exception as error:  # yield the results of earlier items first
                    failed = error
                    break
                running.append(worker.submit(work, item))
                del item  # so that only the worker references it
                if len(running) > ahead:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for waiting in running:
                waiting.cancel()
            if isinstance(iterator, Generator):
                iterator.close()
    if failed is not None:
        raise failed
