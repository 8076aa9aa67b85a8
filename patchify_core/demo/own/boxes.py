"""Boxes that a visitor drew on their pictures: as a dataset, as an annotations file, and the score that they give."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.demo.box_methods import MAP, SOFT, has_maps
from patchify_core.demo.own.collection import OwnPicture
from patchify_core.encoders import Encoder
from patchify_core.errors import PatchifyError
from patchify_core.evaluation.run import evaluate
from patchify_core.gallery import Annotations, Gallery, GalleryImage
from patchify_core.imaging.boxes import checked_box, to_xywh
from patchify_core.index.store import PatchStore
from patchify_core.patchify import Patchify
from patchify_core.retrieval.searcher import QueryView

MOST, LONGEST_NAME = 200, 60
"""Boxes of one visitor, and characters of an object's name."""


@dataclass(frozen=True, eq=False)
class DrawnBox:
    """A box around an object.

    Attributes:
        picture: Id of the picture.
        object: Name that the visitor gave; the same name on another picture means the same object.
        box: (4,) float64 xyxy in pixels of the upright picture.
    """

    picture: int
    object: str
    box: NDArray[np.float64]


class DrawnBoxes:
    """A visitor's boxes, at most one per object and picture. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._boxes: dict[tuple[int, str], DrawnBox] = {}
        self._objects: dict[str, int] = {}

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self._boxes)

    @property
    def all(self) -> tuple[DrawnBox, ...]:
        """All boxes."""
        with self._lock:
            return tuple(self._boxes.values())

    def put(self, picture: OwnPicture, name: object, box: object) -> None:
        """Set the box of an object on a picture.

        Raises:
            PatchifyError: One sentence, if the name or the box is invalid, or there are too many boxes.
        """
        if not isinstance(name, str) or not name.strip() or not " ".join(name.split()).isprintable():
            raise PatchifyError("Name the object: the same name on several pictures gives a score.")
        name = " ".join(name.split())
        if len(name) > LONGEST_NAME:
            raise PatchifyError(f"An object's name has at most {LONGEST_NAME} characters: choose a shorter one.")
        checked = checked_box(numbers(box), picture.width, picture.height)
        with self._lock:
            if (picture.id, name) not in self._boxes and len(self._boxes) >= MOST:
                raise PatchifyError(f"There is room for {MOST} boxes: remove one before you draw another.")
            self._objects.setdefault(name, len(self._objects) + 1)
            self._boxes[picture.id, name] = DrawnBox(picture.id, name, checked)

    def remove(self, picture: int, name: object) -> None:
        """Remove a box, if there is one."""
        with self._lock:
            self._boxes.pop((picture, str(name)), None)

    def gallery(self, root: Path, pictures: Iterable[OwnPicture], queries: bool = False) -> Gallery:
        """Return the pictures and their boxes as a dataset.

        Args:
            root: The folder that their names are relative to.
            pictures: Those that are searched.
            queries: Whether every box is also a query, with its own picture excluded.
        """
        images = {p.id: GalleryImage(p.id, p.name, p.path, p.width, p.height) for p in pictures}
        boxes = [box for box in self.all if box.picture in images]
        with self._lock:
            objects = dict(self._objects)
        used = {box.object for box in boxes}
        rows = Annotations(
            np.array([box.picture for box in boxes], np.int64),
            np.array([objects[box.object] for box in boxes], np.int64),
            np.array([box.box for box in boxes], np.float64).reshape(-1, 4),
            np.zeros(len(boxes), bool),
            np.full(len(boxes), np.nan),
        )
        names = {objects[name]: name for name in objects if name in used}
        gallery = Gallery(root, tuple(images.values()), instances=names, annotations=rows)
        return gallery.with_box_queries() if queries else gallery


def as_coco(gallery: Gallery) -> dict[str, Any]:
    """Return a visitor's dataset as the `annotations.json` that `evaluate` reads beside the same pictures.

    Args:
        gallery: With every box as a query (`DrawnBoxes.gallery`). In this layout a query is an image of its own, so a
            picture that is both is listed twice.
    """
    images: list[dict[str, Any]] = [
        {"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height, "split": "gallery"}
        for i in gallery.images
    ]
    rows = gallery.annotations
    boxes = [(int(i), int(c), box) for i, c, box in zip(rows.image_ids, rows.instances, rows.boxes, strict=True)]
    for query in gallery.queries:
        assert query.box is not None
        images.append(
            {
                "id": query.id,
                "file_name": query.file_name,
                "width": query.width,
                "height": query.height,
                "split": "query",
                "exclude": sorted(query.exclude),
            }
        )
        boxes.append((query.id, query.instance, query.box))
    return {
        "images": images,
        "annotations": [
            {"id": number, "image_id": image, "category_id": instance, "bbox": to_xywh(box)[0].tolist()}
            for number, (image, instance, box) in enumerate(boxes, 1)
        ],
        "categories": [{"id": instance, "name": name} for instance, name in gallery.instances.items()],
    }


class RememberingPatchify(Patchify):
    """An engine that describes each query file and box only once, however often it is searched with."""

    def __init__(self, index: PatchStore, encoder: Encoder) -> None:
        super().__init__(index, encoder)
        self._known: dict[tuple[Path, bytes], QueryView] = {}

    def view(self, picture: Any = None, box: ArrayLike | None = None, text: str | None = None) -> QueryView:
        """See `Patchify.view`, without the decoded picture; pictures other than files are described each time."""
        if not isinstance(picture, Path):
            return super().view(picture, box, text)
        key = picture, np.asarray(box, np.float64).tobytes()
        if key not in self._known:
            self._known[key] = replace(super().view(picture, box, text), picture=None)
        return self._known[key]


def score(
    gallery: Gallery, index: PatchStore, encoder: Encoder, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Score every box as a query: by whole pictures, by patches, and by patches with refined boxes.

    Args:
        gallery: With queries (`DrawnBoxes.gallery`).
        index: Of these pictures.
        encoder: That made it.
        progress: Called with (queries done, queries in all); may raise to stop.

    Returns:
        A row for each of these methods: `way` (its name), `map`, `locscore`, `recall@1`, `queries`.

    Raises:
        PatchifyError: If no object is boxed on two pictures, so that there is nothing to find.
    """
    counts = Counter(gallery.annotations.instances.tolist())
    if not any(count > 1 for count in counts.values()):
        raise PatchifyError(
            "There is nothing to score yet: draw a box around the same object on at least two of your indexed "
            "pictures, with the same name."
        )
    engine = RememberingPatchify(index, encoder)
    last = len(index.regions.stages)
    refined = MAP if has_maps(index) else SOFT
    plans = [("patches", [1, last], None), (refined, [last], engine.refiner(refined))]
    total = 2 * len(gallery.queries)
    rows = []
    for number, (method, levels, refiner) in enumerate(plans):

        def report_progress(done: int, queries: int, before: int = number * len(gallery.queries)) -> None:
            progress(before + done, total)

        for report in evaluate(gallery, engine, sorted(set(levels)), progress=report_progress, refiner=refiner):
            whole = report.level == 1 and index.regions.stages[0].patches == 1 and last > 1
            rows.append(
                {
                    "way": "global" if whole else method,
                    "map": report.report.map,
                    "locscore": report.report.locscore,
                    "recall@1": report.report.recall[1],
                    "queries": report.report.queries,
                }
            )
    return rows


def numbers(sent: object, count: int = 4) -> list[float]:
    """Check what a page sent as a box (4 numbers) or as a point (2).

    Raises:
        PatchifyError: One sentence, if it is anything else.
    """
    what, again = ("point", "tap the object again") if count == 2 else ("box", "draw it again")
    if not isinstance(sent, list) or len(sent) != count or not all(isinstance(v, (int, float)) for v in sent):
        raise PatchifyError(f"The page sent no {what}: {again}.")
    try:
        values = [float(value) for value in sent]
    except OverflowError:  # a whole number with more digits than a float has room for
        raise PatchifyError(f"The {what} is outside of the picture: {again}.") from None
    if any(math.isnan(value) for value in values):
        raise PatchifyError(f"The page sent no {what}: {again}.")
    return values
