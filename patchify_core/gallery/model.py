"""The data model of a dataset: pictures, queries, instances and annotated boxes, and which pictures are positives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError

V = TypeVar("V")

Progress = Callable[[int, int], None]
"""Callback with (number done, total)."""


@dataclass(frozen=True)
class GalleryImage:
    """One searchable picture: id, POSIX name relative to the root, file, and upright size in pixels."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class Query:
    """One query of a dataset.

    Attributes:
        id: Id of the query picture in the dataset.
        file_name: Its POSIX name relative to the gallery's root.
        path: Its file.
        width: Its upright width in pixels.
        height: Its upright height in pixels.
        box: The object, (4,) float64 xyxy in pixels inside the picture; None means the whole picture.
        instance: Id of the instance that the object belongs to.
        exclude: Ids of gallery images that are removed from this query's ranking.
        text: Text to search for instead of a picture. `path` is then the text file, and width and height are 0.
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

    @classmethod
    def from_image(
        cls, image: GalleryImage, box: NDArray[np.float64] | None, instance: int, exclude: frozenset[int] = frozenset()
    ) -> Query:
        """Make a query of a picture and an object in it."""
        return cls(image.id, image.file_name, image.path, image.width, image.height, box, instance, exclude)


AnnotationRow = tuple[int, int, NDArray[np.float64] | None, bool, float]
"""Image id, instance id, box (4,) xyxy or None, ignore, visible share (NaN where unknown)."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """Which gallery image shows which instance and where, as parallel arrays of A rows.

    Attributes:
        image_ids: (A,) int64 ids of gallery images.
        instances: (A,) int64 instance ids.
        boxes: (A, 4) float64 xyxy in pixels of the upright picture; a row of NaN where no box is annotated.
        ignore: (A,) bool; an ignored row makes its image neither a positive nor a negative.
        visible: (A,) float64 visible share of the object, 0..1; NaN where unknown.
    """

    image_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    instances: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    ignore: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    visible: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def from_rows(cls, rows: Iterable[AnnotationRow]) -> Annotations:
        """Convert rows to parallel arrays."""
        listed = list(rows)
        boxes = np.full((len(listed), 4), np.nan)
        for index, row in enumerate(listed):
            if row[2] is not None:
                boxes[index] = row[2]
        return cls(
            np.array([row[0] for row in listed], np.int64),
            np.array([row[1] for row in listed], np.int64),
            boxes,
            np.array([row[3] for row in listed], bool),
            np.array([row[4] for row in listed], np.float64),
        )

    def __len__(self) -> int:
        """Return A, the number of annotations."""
        return len(self.image_ids)


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Which published benchmark a gallery is, and the groups that the benchmark's own evaluation reports.

    Attributes:
        name: `instre`, `ilias`, `roxford5k` or `rparis6k`.
        values: Kind -> (instance, image id) -> number by which positives are grouped: `scale` and `clutter` in ILIAS,
            `hard` (0 or 1) in Oxford and Paris.
        categories: Instance -> (category, subcategory), in ILIAS.
    """

    name: str
    values: Mapping[str, Mapping[tuple[int, int], float]] = field(default_factory=dict)
    categories: Mapping[int, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Gallery:
    """The pictures of one dataset or folder, with their annotations and queries.

    Attributes:
        root: The folder that file names are relative to.
        images: The searchable pictures, in the dataset's order.
        queries: The dataset's own queries; empty for a plain folder.
        instances: Instance id -> name.
        annotations: Which gallery image shows which instance, and where.
        skipped: (file name, reason as a sentence) of each file that was skipped.
        notes: Sentences about what was interpreted or left out, for the user to read; none of them is an error.
        benchmark: Which published benchmark it is; None for any other dataset.
        title: Name to display; empty for the name of the folder.
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
    def display_name(self) -> str:
        """The title, or the name of the folder."""
        return self.title or self.root.resolve().name

    def with_whole_queries(self) -> Gallery:
        """Return a copy whose queries are whole pictures instead of boxes."""
        return replace(self, queries=tuple(replace(query, box=None) for query in self.queries))

    def with_box_queries(self) -> Gallery:
        """Return a copy with one query per annotated box, excluding the box's own picture, instead of its queries.

        Query ids continue those of the images, in the order of the annotations. A note counts the annotations that are
        not used: ignored ones, and those without a box or with a box of less than a pixel.
        """
        rows, first = self.annotations, max((image.id for image in self.images), default=0) + 1
        boxed = ~np.isnan(rows.boxes).any(axis=1)
        large = ~(rows.boxes[:, 2:] - rows.boxes[:, :2] < 1).any(axis=1)  # True for NaN
        reasons = {"ignored": rows.ignore, "without a box": ~boxed, "of less than a pixel": ~large}
        counts = [f"{int(unused.sum()):,} {reason}" for reason, unused in reasons.items() if unused.any()]
        notes = [f"Annotations not used as queries: {', '.join(counts)}."] if counts else []
        queries = []
        for number, row in enumerate(np.flatnonzero(~rows.ignore & boxed & large).tolist(), first):
            image, box = self.image(int(rows.image_ids[row])), rows.boxes[row].copy()
            box.flags.writeable = False
            instance, exclude = int(rows.instances[row]), frozenset((image.id,))
            queries.append(Query.from_image(replace(image, id=number), box, instance, exclude))
        return replace(self, queries=tuple(queries), notes=(*self.notes, *notes))

    def positives(self, instance: int, exclude: Iterable[int] = frozenset()) -> dict[int, NDArray[np.float64] | None]:
        """Return the gallery images that show an instance.

        Args:
            instance: An instance id; one without annotations has no positives.
            exclude: Ids of images to leave out (a query's own `exclude`).

        Returns:
            For every image with an annotation of the instance that is not ignored: image id -> (M, 4) float64 xyxy
            boxes of the instance there, or None if no box is annotated.
        """
        images = dict(self._by_instance.get(instance, _NOTHING)[0])
        for image_id in exclude:
            images.pop(image_id, None)
        return images

    def ignored(self, instance: int) -> frozenset[int]:
        """Return the ids of the images whose annotations of the instance are all ignored."""
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
        return _lookup(self._by_id, image_id, "image")

    def name(self, instance: int) -> str:
        """Return an instance's name.

        Raises:
            GalleryError: The gallery has no such instance.
        """
        return _lookup(self.instances, instance, "instance")

    @cached_property
    def _by_id(self) -> dict[int, GalleryImage]:
        return {image.id: image for image in self.images}

    @cached_property
    def _by_instance(self) -> dict[int, _Images]:
        """The annotation rows grouped by instance once, so that a thousand queries do not each scan all of them."""
        rows = self.annotations
        order = np.lexsort((rows.image_ids, rows.instances))
        instances, images, boxes = rows.instances[order], rows.image_ids[order], rows.boxes[order]
        counted = ~rows.ignore[order]
        boxed = counted & ~np.isnan(boxes).any(axis=1)
        positives: dict[int, dict[int, NDArray[np.float64] | None]] = {}
        for instance, image in _pairs(instances[counted], images[counted]):
            positives.setdefault(instance, {})[image] = None
        ignored: dict[int, set[int]] = {}
        for instance, image in _pairs(instances[~counted], images[~counted]):
            if image not in positives.get(instance, ()):
                ignored.setdefault(instance, set()).add(image)
        instances, images, boxes = instances[boxed], images[boxed], boxes[boxed]
        boxes.flags.writeable = False  # callers share its slices
        first = np.ones(len(boxes), bool)
        first[1:] = (instances[1:] != instances[:-1]) | (images[1:] != images[:-1])
        starts = np.flatnonzero(first).tolist()
        for start, end in zip(starts, [*starts, len(boxes)][1:], strict=True):
            positives[int(instances[start])][int(images[start])] = boxes[start:end]
        return {
            instance: (positives.get(instance, {}), frozenset(ignored.get(instance, ())))
            for instance in positives.keys() | ignored.keys()
        }


_Images = tuple[dict[int, NDArray[np.float64] | None], frozenset[int]]
"""An instance's positives with their boxes, and its ignored images."""

_NOTHING: _Images = ({}, frozenset())


def _pairs(instances: NDArray[np.int64], images: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    return zip(instances.tolist(), images.tolist(), strict=True)


def _lookup(table: Mapping[int, V], key: int, kind: str) -> V:
    try:
        return table[key]
    except KeyError:
        raise GalleryError(f"The gallery has no {kind} {key}: use an id from its list.") from None
