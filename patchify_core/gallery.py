"""Images, instances and boxes: what is searched, what is asked, and what would be right.

A gallery is read once from a folder of pictures (`read_folder`), from a COCO-style `annotations.json`
(`read_coco`), or from whichever of the two is there (`read_gallery`). Boxes become xyxy pixels of the upright
picture here, and all that is wrong with a dataset is said here: whoever holds a `Gallery` may trust it.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.pictures import KINDS, PICTURE_SUFFIXES, picture_size

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
    """

    id: int
    file_name: str
    path: Path
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int
    exclude: frozenset[int] = frozenset()


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
class Gallery:
    """The pictures of one dataset or folder, with what is known of them.

    Attributes:
        root: The folder that file names are relative to.
        images: The pictures that are searched, in the dataset's order.
        queries: The questions that come with the dataset; empty for a plain folder.
        instances: Instance id -> name.
        annotations: Which gallery image shows which instance, and where.
        skipped: (file name, sentence why) of each file that was left out, so that nothing vanishes silently.
    """

    root: Path
    images: tuple[GalleryImage, ...]
    queries: tuple[Query, ...] = ()
    instances: dict[int, str] = field(default_factory=dict)
    annotations: Annotations = field(default_factory=Annotations)
    skipped: tuple[tuple[str, str], ...] = ()

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

    def find_instance(self, name_or_id: str | int) -> int:
        """Find an instance by its name (letter case only matters to tell names apart) or its id.

        Args:
            name_or_id: A name, or an id as a number or in digits; an instance named "7" goes before id 7.

        Returns:
            The instance's id.

        Raises:
            GalleryError: There is no such instance, or several have this name.
        """
        if isinstance(name_or_id, str):
            for fold in (str, str.casefold):
                found = [i for i, name in self.instances.items() if fold(name) == fold(name_or_id.strip())]
                if len(found) == 1:
                    return found[0]
                if found:
                    ids = ", ".join(map(str, found))
                    raise GalleryError(f"{len(found)} instances are called {name_or_id!r}: use an id ({ids}).")
        try:
            if (instance := int(name_or_id)) in self.instances:
                return instance
        except ValueError:
            pass
        near = difflib.get_close_matches(str(name_or_id), self.instances.values(), n=3)
        advice = f"did you mean {' or '.join(map(repr, near))}?" if near else "use a name or id from its list."
        raise GalleryError(f"The gallery has no instance {name_or_id!r}: {advice}")

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


def read_gallery(path: Path | str) -> Gallery:
    """Read a dataset where there is an `annotations.json` (or `path` is a .json file), else a plain folder.

    Raises:
        GalleryError: As `read_coco` or `read_folder` does.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and not os.path.isdir(path):
        return read_coco(path)
    return read_coco(path) if os.path.lexists(path / ANNOTATIONS_FILE) else read_folder(path)


# A plain folder -------------------------------------------------------------------------------------------


def read_folder(folder: Path | str) -> Gallery:
    """List all pictures below a folder, reading only their headers.

    Hidden files and folders are left out and linked folders are not entered. A file that looks like a picture
    by its name but is none, or is a link leading out of the folder, ends up in `Gallery.skipped`.

    Args:
        folder: The folder; subfolders count.

    Returns:
        A gallery without queries or instances; ids 1..n in the order of the POSIX file names.

    Raises:
        GalleryError: The folder is missing, is a file, cannot be listed, or holds no readable picture.
    """
    root = Path(folder)
    _check_folder(root)
    images: list[GalleryImage] = []
    skipped: list[tuple[str, str]] = []
    real_root = os.path.realpath(root)
    for name in sorted(_picture_files(root, skipped)):
        path = root / name
        try:
            if not _is_text(name):
                raise PictureError(f"{name!r} has a name that is not valid Unicode: rename it.")
            if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(real_root):
                raise PictureError(f"{name!r} is a link that leads out of the folder: copy the picture into it.")
            width, height = picture_size(path)
        except PictureError as error:
            skipped.append((name, str(error)))
        else:
            images.append(GalleryImage(len(images) + 1, name, path, width, height))
    skipped = [(name.encode(errors="replace").decode(), why) for name, why in sorted(skipped)]
    if not images:
        why = f" ({len(skipped)} could not be read, first: {skipped[0][1].rstrip('.')})" if skipped else ""
        raise GalleryError(f"There is no picture to search in {str(root)!r}{why}: put {KINDS} files into it.")
    return Gallery(root, tuple(images), skipped=tuple(skipped))


def _check_folder(root: Path) -> None:
    try:
        with os.scandir(root):
            return
    except FileNotFoundError as error:
        raise GalleryError(f"There is no folder {str(root)!r}: check its name.") from error
    except NotADirectoryError as error:
        raise GalleryError(f"{str(root)!r} is a file, not a folder: name the folder with the pictures.") from error
    except (OSError, ValueError) as error:
        raise GalleryError(f"The folder {str(root)!r} cannot be read: check its permissions.") from error


def _picture_files(root: Path, skipped: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the POSIX names of files with a picture's ending; note folders that cannot be listed."""

    def note(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        skipped.append((name, f"The folder {name!r} may not be read: change its permissions."))

    for folder, folders, files in os.walk(root, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        for name in folders:
            # os.walk() does not enter links, which may lead out or round; a person should hear of it
            if os.path.islink(os.path.join(folder, name)):
                link = (below / name).as_posix()
                skipped.append((link, f"{link!r} is a linked folder: copy its pictures into the gallery."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES:
                yield (below / name).as_posix()


def _is_text(name: str) -> bool:
    """Say whether a text can be written out; names of any bytes reach Python as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# annotations.json -----------------------------------------------------------------------------------------


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
    if not isinstance(value, str) or not value or not _is_text(value):
        raise _Problem(f"has {key} {reprlib.repr(value)}, which is not text")
    return value
