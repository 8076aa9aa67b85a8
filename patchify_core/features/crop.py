"""Picture + boxes + encoder -> descriptors, one forward pass per patch (the paper's form).

Patches of several pictures share a batch, so that small pyramids keep the processor as busy as large ones. While the
network works on one batch, pictures are read and cut for the next one (`readahead`); two batches of pixels are in
memory, however many pictures there are. With `encoder.readers`, so many threads read and as many cut, each a picture
ahead: Pillow decodes and scales without Python's lock, so it takes no further process. Batches stay the same.
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
        key: As it was given.
        descriptors: (P, D) float32 with rows of length 1.
        packed: The picture's feature map (`maps.pack`); None where none is kept.
    """

    key: Key
    descriptors: NDArray[np.float32]
    packed: bytes | None = None


def describe(picture: Image, boxes: ArrayLike, encoder: Encoder, batch_size: int | None = None) -> NDArray[np.float32]:
    """Descriptors of the boxes of one upright RGB picture.

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
    """Describe a stream of pictures, in order, holding two batches of crops at a time.

    Args:
        pictures: (key, upright RGB picture, (P, 4) boxes with P >= 1); consumed lazily, one batch ahead of the
            network, in the caller's thread.
        encoder: The frozen encoder.
        batch_size: Patches per forward pass; None for what suits the encoder's device (`encoders.devices`).

    Yields:
        One `Described` per picture, in the order given, once its last patch is encoded and the next batch is read.
    """
    if batch_size is None:
        batch_size = int(getattr(encoder, "batch_size", CPU_BATCH))
    waiting: deque[tuple[Key, int, list[NDArray[np.float32]]]] = deque()  # key, patches still to come, parts so far

    def encoded(batch: _Batch[Key]) -> tuple[_Batch[Key], NDArray[np.float32]]:
        return batch, encoder.encode(batch.crops)

    for batch, descriptors in map_ahead(encoded, _batches(pictures, encoder, batch_size)):
        waiting.extend((key, patches, []) for key, patches in batch.begun)
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
    """(N, S, S, 3) uint8 crops, or N of their own shapes; (key, crops) of each picture that begins here."""

    crops: Any
    begun: list[tuple[Key, int]]


def _batches(
    pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]], encoder: Encoder, batch_size: int
) -> Iterator[_Batch[Key]]:
    """Cut the pictures into crops; every batch is full except the last one."""
    readers: int = getattr(encoder, "readers", 0)
    stage: Callable[[Any], Any] = getattr(encoder, "stage", lambda crops: crops)

    def cut(item: tuple[Key, Image, NDArray[np.float64]]) -> tuple[Key, int, Iterable[NDArray[np.uint8]]]:
        key, picture, boxes = item
        cuts = (encoder.prepare(picture, box) for box in boxes)
        return key, len(boxes), list(cuts) if readers else cuts

    shape = (batch_size, encoder.info.input_size, encoder.info.input_size, 3)
    ragged = getattr(encoder, "keeps_aspect", False)

    def room() -> Any:
        return [None] * batch_size if ragged else np.empty(shape, np.uint8)

    crops, filled = room(), 0
    begun: list[tuple[Key, int]] = []
    for key, patches, cuts in in_order(cut, pictures, readers):
        begun.append((key, patches))
        for crop in cuts:
            crops[filled] = crop
            filled += 1
            if filled == batch_size:
                yield _Batch(stage(crops), begun)
                crops, filled, begun = room(), 0, []
    if filled:
        yield _Batch(stage(crops[:filled]), begun)


# Reading ahead -------------------------------------------------------------------------------------------------


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], readers: int) -> Iterator[Result]:
    """`map(work, items)` by so many threads, an item ahead each; by the caller's alone where they are 0."""
    return map_ahead(work, items, readers, readers) if readers else map(work, items)


def map_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 1, threads: int = 1
) -> Iterator[Result]:
    """`map(work, items)`, except that up to `ahead` further items are read while the work on one goes on.

    Args:
        work: Called in one other thread, in order, never twice at once; or in that many other `threads`.
        items: Read lazily in the caller's thread: nothing before the first result is asked for, and never more than
            `ahead` items beyond the one whose result is next. So many items are in memory at once, plus one.
        ahead: At least 1.
        threads: How many work at once.

    Yields:
        The results, in order.

    Raises:
        ValueError: If `ahead` is less than 1.
        Exception: What `work` or `items` raised, after the results of all items before. What is no error but a wish to
            stop (KeyboardInterrupt) comes through at once, without them.

    Whatever ends it (an error, the last result, or the generator being closed), the threads have ended too, and `items`
    is closed if it is a generator.

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
                except Exception as error:  # what was read before it still counts
                    failed = error
                    break
                running.append(worker.submit(work, item))
                del item  # the worker alone keeps it, until it is done
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
