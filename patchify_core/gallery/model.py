"""Images, instances and boxes of one dataset or folder, and who is right for which query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError


@dataclass(frozen=True)
class GalleryImage:
    """One picture that can be found: id, name relative to the root (POSIX), file, upright size in pixels."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Query:
    """One question to a gallery.

    Attributes:
        id: The query picture's id in the dataset.
        file_name: Its name relative to the gallery's root, POSIX.
        path: Its file.
        width: Its upright width in pixels.
        height: Its upright height in pixels.
        box: The object, (4,) float64 xyxy in pixels inside the picture; None means the whole picture.
        instance: The instance that the object is.
        exclude: Ids of gallery images that are dropped from this query's ranking.
        text: Words to search with instead of a picture; then the file is where they are written, and has no size.
    """

    id: int
    file_name: str
    path: Path
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int
    exclude: frozenset[int] = frozenset()
    text: str | None = None


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is known of the gallery images, as parallel arrays of A rows; what is asked is in `Query`.

    Attributes:
        image_ids: (A,) int64 ids of gallery images.
        instances: (A,) int64 instance ids.
        boxes: (A, 4) float64 xyxy in pixels of the upright picture; a row of NaN where no box is annotated.
        ignore: (A,) bool; True makes the image neither a positive nor a negative by this row.
        visible: (A,) float64 visible share of the object, 0..1; NaN where unknown.
    """

    image_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    instances: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    ignore: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    visible: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        """Return A, the number of annotations."""
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Which published benchmark a gallery is, and what its own evaluation goes by beside positives and boxes.

    Attributes:
        name: `instre`, `ilias`, `roxford5k` or `rparis6k`.
        values: Kind -> (instance, image id) -> a number by which positives are grouped: `scale` and `clutter` in ILIAS,
            `hard` (0 or 1) in Oxford and Paris.
        categories: Instance -> its category and subcategory, in ILIAS.
    """

    name: str
    values: Mapping[str, Mapping[tuple[int, int], float]] = field(default_factory=dict)
    categories: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The pictures of one dataset or folder, with what is known of them.

    Attributes:
        root: The folder that file names are relative to.
        images: The pictures that are searched, in the dataset's order.
        queries: The questions that come with the dataset; empty for a plain folder.
        instances: Instance id -> name.
        annotations: Which gallery image shows which instance, and where.
        skipped: (file name, sentence why) of each file that was left out, so that nothing vanishes silently.
        notes: Sentences on what was understood otherwise than it is written, or passed over, and is no fault.
        benchmark: Which published benchmark it is; None for any other dataset.
        title: What tables call it; the name of its folder where it is empty.
    """

    root: Path
    images: tuple[GalleryImage, ...]
    queries: tuple[Query, ...] = ()
    instances: dict[int, str] = field(default_factory=dict)
    annotations: Annotations = field(default_factory=Annotations)
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    benchmark: Benchmark | None = None
    title: str = ""

    @property
    def called(self) -> str:
        """Its title, or the name of its folder."""
        return self.title or self.root.resolve().name

    def with_whole_queries(self) -> Gallery:
        """The same gallery, whose queries are whole pictures instead of the box of their object."""
        return replace(self, queries=tuple(replace(query, box=None) for query in self.queries))

    def with_box_queries(self) -> Gallery:
        """Make every annotated box a query, with its own picture excluded, in place of the dataset's own queries.

        Returns:
            The same gallery; query ids follow those of the images, in the order of the annotations. A note counts the
            annotations that make no query: ignored ones, and those without a box or with one of less than a pixel.
        """
        rows, first = self.annotations, max((image.id for image in self.images), default=0) + 1
        boxed = ~np.isnan(rows.boxes).any(axis=1)
        large = ~(rows.boxes[:, 2:] - rows.boxes[:, :2] < 1).any(axis=1)  # NaN is neither
        reasons = {"ignored": rows.ignore, "without a box": ~boxed, "of less than a pixel": ~large}
        counts = [f"{int(which.sum()):,} {what}" for what, which in reasons.items() if which.any()]
        notes = [f"Annotations that make no query: {', '.join(counts)}."] if counts else []
        queries = []
        for number, row in enumerate(np.flatnonzero(~rows.ignore & boxed & large).tolist(), first):
            image, box = self.image(int(rows.image_ids[row])), rows.boxes[row].copy()
            box.flags.writeable = False
            queries.append(
                Query(
                    number,
                    image.file_name,
                    image.path,
                    image.width,
                    image.height,
                    box=box,
                    instance=int(rows.instances[row]),
                    exclude=frozenset((image.id,)),
                )
            )
        return replace(self, queries=tuple(queries), notes=(*self.notes, *notes))

    def positives(self, instance: int, exclude: Iterable[int] = frozenset()) -> dict[int, NDArray[np.float64] | None]:
        """List the gallery images that show an instance.

        Args:
            instance: An instance id; one without annotations has no positives.
            exclude: Ids of images to leave out (a query's own `exclude`).

        Returns:
            image id -> (M, 4) float64 xyxy boxes of the instance there, or None if no box is annotated there,
            for every image with an annotation of the instance that is not ignored.
        """
        found = dict(self._by_instance.get(instance, _NOTHING)[0])
        for image_id in exclude:
            found.pop(image_id, None)
        return found

    def ignored(self, instance: int) -> frozenset[int]:
        """Return the ids of the images all of whose annotations of the instance are ignored."""
        return self._by_instance.get(instance, _NOTHING)[1]

    def boxes_of(self, image_id: int, instance: int) -> NDArray[np.float64]:
        """Return the (M, 4) float64 xyxy boxes of an instance in an image, without ignored ones; M >= 0."""
        boxes = self._by_instance.get(instance, _NOTHING)[0].get(image_id)
        return np.zeros((0, 4)) if boxes is None else boxes

    def image(self, image_id: int) -> GalleryImage:
        """Return a gallery image by its id.

        Raises:
            GalleryError: No gallery image has this id.
        """
        try:
            return self._by_id[image_id]
        except KeyError:
            raise GalleryError(f"The gallery has no image {image_id}: use an id from its list.") from None

    def name(self, instance: int) -> str:
        """Return an instance's name.

        Raises:
            GalleryError: The gallery has no such instance.
        """
        try:
            return self.instances[instance]
        except KeyError:
            raise GalleryError(f"The gallery has no instance {instance}: use an id from its list.") from None

    @cached_property
    def _by_id(self) -> dict[int, GalleryImage]:
        return {image.id: image for image in self.images}

    @cached_property
    def _by_instance(self) -> dict[int, _Shown]:
        """Group the annotation rows once, so that a thousand queries do not each scan them all."""
        rows = self.annotations
        order = np.lexsort((rows.image_ids, rows.instances))
        instances, images, boxes = rows.instances[order], rows.image_ids[order], rows.boxes[order]
        counted = ~rows.ignore[order]
        boxed = counted & ~np.isnan(boxes).any(axis=1)
        shown: dict[int, dict[int, NDArray[np.float64] | None]] = {}
        for instance, image in _pairs(instances[counted], images[counted]):
            shown.setdefault(instance, {})[image] = None
        ignored: dict[int, set[int]] = {}
        for instance, image in _pairs(instances[~counted], images[~counted]):
            if image not in shown.get(instance, ()):
                ignored.setdefault(instance, set()).add(image)
        instances, images, boxes = instances[boxed], images[boxed], boxes[boxed]
        boxes.flags.writeable = False  # its slices are handed out to every caller
        first = np.ones(len(boxes), bool)
        first[1:] = (instances[1:] != instances[:-1]) | (images[1:] != images[:-1])
        starts = np.flatnonzero(first).tolist()
        for start, end in zip(starts, [*starts, len(boxes)][1:], strict=True):
            shown[int(instances[start])][int(images[start])] = boxes[start:end]
        return {
            instance: (shown.get(instance, {}), frozenset(ignored.get(instance, ())))
            for instance in shown.keys() | ignored.keys()
        }


def _pairs(instances: NDArray[np.int64], images: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip(instances.tolist(), images.tolist(), strict=True)


_Shown = tuple[dict[int, NDArray[np.float64] | None], frozenset[int]]
_NOTHING: _Shown = ({}, frozenset())


def is_text(name: str) -> bool:
    """Say whether a text can be written out; names of any bytes reach Python as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
