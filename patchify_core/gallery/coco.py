"""The project's own dataset layout: a COCO-style `annotations.json` beside its pictures, read and checked in full."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.model import Annotations, Gallery, GalleryImage, Query, is_text

ANNOTATIONS_FILE = "annotations.json"


@dataclass(frozen=True)
class GallerySettings:
    """How strictly a dataset is read.

    Attributes:
        rounding: How far a box may stick out of its picture, in pixels, and still be clipped, not refused.
        problems_named: How many of a dataset's problems its error names before it counts the rest.
    """

    rounding: float = 1.0
    problems_named: int = 3


DEFAULTS = GallerySettings()


def read_coco(folder_or_json: Path | str, settings: GallerySettings = DEFAULTS) -> Gallery:
    """Read a dataset in the project's own layout, COCO-style, and check all of it.

    `images` have id, file_name (relative to the JSON's folder), width, height and split ("gallery" where
    absent, or "query", then perhaps with `exclude`); `annotations` have image_id, category_id and perhaps
    bbox [x, y, w, h], visible and ignore; `categories` have id and name.

    Args:
        folder_or_json: The JSON file, or the folder that holds it as `annotations.json`.
        settings: How strictly to read.

    Returns:
        The gallery, boxes as xyxy clipped to their pictures.

    Raises:
        GalleryError: One message naming the first problems and counting the rest. A missing picture is one,
            so that no number is ever computed on fewer pictures than the dataset has.
    """
    path = Path(folder_or_json)
    if os.path.isdir(path):
        path = path / ANNOTATIONS_FILE
    return _CocoReader(path, _load_json(path), settings).gallery()


def _load_json(path: Path) -> dict[str, Any]:
    name = str(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise GalleryError(f"There is no file {name!r}: check its name and folder.") from error
    except OSError as error:
        raise GalleryError(f"{name!r} cannot be read: check its permissions.") from error
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise GalleryError(f"{name!r} is not valid JSON{where}: write it anew.") from error
    if not isinstance(data, dict):
        raise GalleryError(f"{name!r} holds no dataset: its top level must be an object with 'images'.")
    return data


class _Problem(Exception):
    """One thing wrong with one entry; collected, never seen outside."""


class _CocoReader:
    """Turns the parsed JSON into a gallery, collecting problems on the way.

    Ids are remembered even of entries that turn out bad, so that one bad image is one problem and not one
    more for each of its annotations.
    """

    def __init__(self, path: Path, data: dict[str, Any], settings: GallerySettings) -> None:
        self.path, self.root, self.data, self.settings = path, path.parent, data, settings
        self.problems: list[str] = []
        self.instances: dict[int, str] = {}
        self.splits: dict[int, str] = {}
        self.images: dict[int, GalleryImage] = {}
        self.excludes: dict[int, frozenset[int]] = {}
        self.asked: dict[int, _Row] = {}
        self.rows: list[_Row] = []
        self.annotation_ids: set[int] = set()
        self.annotated: Counter[int] = Counter()

    def gallery(self) -> Gallery:
        """Read everything, then either return it or raise what was wrong with it."""
        self._read_each("categories", "category", self._read_category)
        self._read_each("images", "image", self._read_image)
        if isinstance(self.data.get("images"), list) and "gallery" not in self.splits.values():
            self.problems.append("it lists no gallery image")
        self._read_each("annotations", "annotation", self._read_annotation)
        if isinstance(self.data.get("annotations"), list):
            self._check_queries()
        if self.problems:
            named = self.problems[: self.settings.problems_named]
            more = len(self.problems) - len(named)
            rest = f"; and {more} more problem{'s' if more > 1 else ''}" if more else ""
            raise GalleryError(f"{str(self.path)!r} cannot be used: {'; '.join(named)}{rest}; correct that first.")
        images = tuple(image for image in self.images.values() if self.splits[image.id] == "gallery")
        queries = tuple(self._query(i) for i, split in self.splits.items() if split == "query")
        return Gallery(self.root, images, queries, self.instances, _as_arrays(self.rows))

    def _read_each(self, key: str, what: str, read: Callable[[dict[str, Any]], None]) -> None:
        entries = self.data.get(key)
        if not isinstance(entries, list):
            self.problems.append(f"{key!r} is {'not a list' if key in self.data else 'missing'}")
            return
        for number, entry in enumerate(entries, 1):
            name = f"{what} no. {number}"
            try:
                if not isinstance(entry, dict):
                    raise _Problem("is not an object")
                if "id" in entry:
                    name = f"{what} {reprlib.repr(entry['id'])}"
                read(entry)
            except _Problem as problem:
                self.problems.append(f"{name} {problem}")

    def _read_category(self, entry: dict[str, Any]) -> None:
        instance = _whole(entry, "id")
        if instance in self.instances:
            raise _Problem("is listed twice")
        self.instances[instance] = ""
        self.instances[instance] = _text(entry, "name")

    def _read_image(self, entry: dict[str, Any]) -> None:
        image_id = _whole(entry, "id")
        if image_id in self.splits:
            raise _Problem("is listed twice")
        split = self.splits[image_id] = entry.get("split", "gallery")
        if split not in ("gallery", "query"):
            raise _Problem(f"has split {reprlib.repr(split)}, which is neither 'gallery' nor 'query'")
        width, height = _whole(entry, "width", 1), _whole(entry, "height", 1)
        name = _text(entry, "file_name")
        # Names are read as Windows reads them too, since a dataset travels: C:\x and ..\x lead out as well.
        as_windows = PureWindowsPath(name)
        if as_windows.drive or as_windows.root or ".." in as_windows.parts:
            raise _Problem(f"names {name!r}, which leads out of the dataset's folder")
        path = self.root / name
        if not os.path.isfile(path):
            raise _Problem(f"names the file {name!r}, which is missing")
        exclude = entry.get("exclude", [])
        if not isinstance(exclude, list) or not all(map(_is_whole, exclude)):
            raise _Problem(f"has an 'exclude' that is no list of image ids: {reprlib.repr(exclude)}")
        self.excludes[image_id] = frozenset(exclude)
        self.images[image_id] = GalleryImage(image_id, name, path, width, height)

    def _read_annotation(self, entry: dict[str, Any]) -> None:
        if "id" in entry:
            if (annotation_id := _whole(entry, "id")) in self.annotation_ids:
                raise _Problem("is listed twice")
            self.annotation_ids.add(annotation_id)
        image_id = _whole(entry, "image_id")
        if image_id not in self.splits:
            raise _Problem(f"names image {image_id}, which is not listed")
        self.annotated[image_id] += 1
        instance = _whole(entry, "category_id")
        if instance not in self.instances:
            raise _Problem(f"names category {instance}, which is not listed")
        if (ignore := entry.get("ignore", 0)) not in (0, 1):
            raise _Problem(f"has ignore {reprlib.repr(ignore)}, which is neither 0 nor 1")
        visible = entry.get("visible")
        if visible is not None and not (_is_number(visible) and 0 <= visible <= 1):
            raise _Problem(f"has visible {reprlib.repr(visible)}, which is not between 0 and 1")
        image = self.images.get(image_id)
        if image is None:
            return
        bbox = entry.get("bbox")
        box = None if bbox is None else _xyxy(bbox, image, self.settings.rounding)
        row = (image_id, instance, box, bool(ignore), math.nan if visible is None else float(visible))
        if self.splits[image_id] == "query":
            self.asked[image_id] = row
        else:
            self.rows.append(row)

    def _check_queries(self) -> None:
        for image_id, split in self.splits.items():
            if split != "query":
                continue
            if (count := self.annotated[image_id]) != 1:
                self.problems.append(f"query image {image_id} has {count} annotations instead of one")
            strangers = [i for i in self.excludes.get(image_id, ()) if self.splits.get(i) != "gallery"]
            if strangers:
                self.problems.append(
                    f"query image {image_id} excludes image {min(strangers)}, which is not in the gallery"
                )

    def _query(self, image_id: int) -> Query:
        image, (_, instance, box, _, _) = self.images[image_id], self.asked[image_id]
        if box is not None:
            box.flags.writeable = False
        return Query(
            image.id,
            image.file_name,
            image.path,
            image.width,
            image.height,
            box=box,
            instance=instance,
            exclude=self.excludes[image_id],
        )


_Row = tuple[int, int, "NDArray[np.float64] | None", bool, float]


def _as_arrays(rows: list[_Row]) -> Annotations:
    boxes = np.full((len(rows), 4), math.nan)
    for at, row in enumerate(rows):
        if row[2] is not None:
            boxes[at] = row[2]
    return Annotations(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        boxes,
        np.array([row[3] for row in rows], bool),
        np.array([row[4] for row in rows], np.float64),
    )


def _xyxy(bbox: object, image: GalleryImage, rounding: float) -> NDArray[np.float64]:
    """Turn [x, y, w, h] into (4,) float64 xyxy clipped to the picture; refuse what is no box of it."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise _Problem(f"has a bbox that is not four numbers [x, y, w, h]: {reprlib.repr(bbox)}")
    x, y, width, height = map(float, bbox)
    slack = rounding + 1e-6  # sums of decimal fractions miss by less
    if min(x, y) < -slack or x + width > image.width + slack or y + height > image.height + slack:
        raise _Problem(f"has a box outside its picture of {image.width} × {image.height} pixels: {bbox}")
    box = np.array([max(x, 0), max(y, 0), min(x + width, image.width), min(y + height, image.height)], float)
    if width <= 0 or height <= 0 or box[0] >= box[2] or box[1] >= box[3]:
        raise _Problem(f"has a box without area: {bbox}")
    return box


def _is_whole(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63  # not bool, and it fits the arrays


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # type: ignore[arg-type]  # also refuses nan and inf


def _whole(entry: dict[str, Any], key: str, least: int | None = None) -> int:
    if key not in entry:
        raise _Problem(f"has no {key!r}")
    value = entry[key]
    if not _is_whole(value) or (least is not None and value < least):
        kind = "a whole number" if least is None else f"a whole number from {least} up"
        raise _Problem(f"has {key} {reprlib.repr(value)}, which is not {kind}")
    return int(value)


def _text(entry: dict[str, Any], key: str) -> str:
    if key not in entry:
        raise _Problem(f"has no {key!r}")
    value = entry[key]
    if not isinstance(value, str) or not value or not is_text(value):
        raise _Problem(f"has {key} {reprlib.repr(value)}, which is not text")
    return value
