"""COCO-style datasets: the project's own layout, and the files of annotation tools, read and checked in full."""

from __future__ import annotations

import math
import os
import reprlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.box_forms import BoxForms
from patchify_core.gallery.coco_values import (
    EntryError,
    NoAreaError,
    as_whole,
    box_as_written,
    box_of_mask,
    clipped,
    flag,
    label,
    share,
    text,
    whole,
)
from patchify_core.gallery.json_file import load_json_object
from patchify_core.gallery.layouts import ANNOTATIONS_FILE, picture_folders, picture_names, the_annotation_file
from patchify_core.gallery.model import Annotations, Gallery, GalleryImage, Query
from patchify_core.imaging.filenames import FileNameError, FileNames
from patchify_core.imaging.pictures import picture_size


@dataclass(frozen=True)
class GallerySettings:
    """How strictly a dataset is read.

    Attributes:
        rounding: How far a box may stick out of its picture, in pixels, and still be clipped without a word.
        problems_named: How many of a dataset's problems its error names before it counts the rest.
        outside: Share of the boxes that may lie mostly outside their pictures, if they are more than `few_boxes`; with
            more, or more than half of few, boxes are taken to be written in another form than COCO's.
        few_boxes: See `outside`.
        many_boxes: From how many boxes on it is no chance that all of them would be corners inside their pictures.
    """

    rounding: float = 1.0
    problems_named: int = 3
    outside: float = 0.25
    few_boxes: int = 4
    many_boxes: int = 20


DEFAULTS = GallerySettings()


def read_coco(folder_or_json: Path | str, settings: GallerySettings = DEFAULTS) -> Gallery:
    """Read a COCO-style dataset and check all of it.

    `images` have id, file_name, width, height and split ("gallery" where absent, or "query", then perhaps with
    `exclude`); `annotations` have image_id, category_id and perhaps bbox [x, y, w, h] or segmentation, iscrowd, ignore
    and visible; `categories` have id and name. Other fields are not used.

    Args:
        folder_or_json: The JSON file, or a folder in one of the layouts of `gallery.layouts`.
        settings: How strictly to read.

    Returns:
        The gallery, boxes as xyxy clipped to their pictures; `notes` say what was left out or understood otherwise
        than it is written.

    Raises:
        GalleryError: One message naming the first problems and counting the rest. A missing picture is one,
            so that no number is ever computed on fewer pictures than the dataset has.
    """
    path = Path(folder_or_json)
    if os.path.isdir(path):
        path = the_annotation_file(path) or path / ANNOTATIONS_FILE
    data, encoding = load_json_object(path)
    return _CocoReader(path, data, encoding, settings).gallery()


class _CocoReader:
    """Turn the parsed JSON into a gallery, collecting problems and notes on the way.

    Ids are remembered even of entries that turn out bad, so that one bad image is one problem and not one
    more for each of its annotations.
    """

    def __init__(self, path: Path, data: dict[str, Any], encoding: str, settings: GallerySettings) -> None:
        self.path, self.data, self.encoding, self.settings = path, data, encoding, settings
        self.problems: list[str] = []
        self.files: FileNames
        self.id_of_file: dict[str, int] = {}
        self.instances: dict[int, str] = {}
        self.splits: dict[int, str] = {}
        self.images: dict[int, GalleryImage] = {}
        self.excludes: dict[int, frozenset[int]] = {}
        self.query_rows: dict[int, _Row] = {}
        self.rows: list[_Row] = []
        self.annotated: Counter[int] = Counter()
        self.counted: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.forms = BoxForms(settings)

    def gallery(self) -> Gallery:
        """Read everything, then either return it or raise what was wrong with it."""
        entries = self.data.get("images")
        listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        names = [name for entry in listed if isinstance(name := entry.get("file_name"), str)]
        self.files = picture_names(self.path, names)
        self._read_each("categories", "category", self._read_category, needed=bool(self.data.get("annotations")))
        self._read_each("images", "image", self._read_image)
        if isinstance(entries, list) and "gallery" not in self.splits.values():
            self.problems.append("it lists no gallery image")
        self._read_each("annotations", "annotation", self._read_annotation, needed="query" in self.splits.values())
        if isinstance(self.data.get("annotations", []), list):
            self._check_queries()
            if problem := self.forms.problem():
                self.problems.insert(0, problem)  # single boxes may be wrong because of it
        if self.problems:
            raise self._refusal()
        images = tuple(image for image in self.images.values() if self.splits[image.id] == "gallery")
        queries = tuple(self._query(i) for i, split in self.splits.items() if split == "query")
        return Gallery(self.files.root, images, queries, self.instances, _as_arrays(self.rows), notes=self._notes())

    def _refusal(self) -> GalleryError:
        named = self.problems[: self.settings.problems_named]
        more = len(self.problems) - len(named)
        rest = f"; and {more} more problem{'s' if more > 1 else ''}" if more else ""
        looked = ""
        if any("which is missing" in problem for problem in self.problems):
            folders = [repr(str(folder)) for tier in picture_folders(self.path) for folder in tier]
            looked = f"; pictures were looked for in {', '.join(folders[:8])}{', ...' if folders[8:] else ''}"
        return GalleryError(f"{str(self.path)!r} cannot be used: {'; '.join(named)}{rest}{looked}; correct that first.")

    def _read_each(self, key: str, what: str, read: Callable[[dict[str, Any], str], None], needed: bool = True) -> None:
        if key not in self.data and not needed:
            return
        entries = self.data.get(key)
        if not isinstance(entries, list):
            missing = "missing: is this a dataset exported as COCO?"
            self.problems.append(f"{key!r} is {'not a list' if key in self.data else missing}")
            return
        for number, entry in enumerate(entries, 1):
            name = f"{what} no. {number}"
            try:
                if not isinstance(entry, dict):
                    raise EntryError("is not an object")
                if entry.get("id") not in (None, ""):
                    name = f"{what} {reprlib.repr(entry['id'])}"
                read(entry, name)
            except EntryError as problem:
                self.problems.append(f"{name} {problem}")

    def _read_category(self, entry: dict[str, Any], _: str) -> None:
        instance = whole(entry, "id")
        if instance in self.instances:
            raise EntryError("is listed twice")
        self.instances[instance] = f"category {instance}"
        self.instances[instance] = label(entry, "name", f"category {instance}")

    def _read_image(self, entry: dict[str, Any], _: str) -> None:
        image_id = whole(entry, "id")
        if image_id in self.splits:
            raise EntryError("is listed twice")
        self.splits[image_id] = "gallery"
        split = self.splits[image_id] = self._split(entry, image_id)
        given = text(entry, "file_name")
        try:
            name = self.files.find(given, suggest=len(self.problems) < self.settings.problems_named)
        except FileNameError as error:
            of_file = "the file " if str(error).startswith("is missing") else ""
            folders = (path for paths in picture_folders(self.path) for path in paths if os.path.isfile(path / given))
            elsewhere = next(folders, None) if of_file else None
            there = "" if elsewhere is None else f"; it is in {str(elsewhere)!r}, and all must be in one folder"
            raise EntryError(f"names {of_file}{given!r}, which {error}{there}") from None
        width, height = self._size(entry, self.files.root / name)
        exclude = entry.get("exclude") or []
        excluded = [as_whole(value) for value in exclude] if isinstance(exclude, list) else [None]
        if None in excluded:
            raise EntryError(f"has an 'exclude' that is no list of image ids: {reprlib.repr(exclude)}")
        # A query may be a gallery picture too, and two objects of one picture two queries.
        if split == "gallery" and (same := self.id_of_file.setdefault(os.path.normcase(name), image_id)) != image_id:
            raise EntryError(f"names the file {given!r}, which image {same} is already: keep one of the two")
        self.excludes[image_id] = frozenset(value for value in excluded if value is not None)
        self.images[image_id] = GalleryImage(image_id, name, self.files.root / name, width, height)

    def _split(self, entry: dict[str, Any], image_id: int) -> str:
        value = "gallery" if entry.get("split") in (None, "") else entry["split"]
        split = value.strip().lower() if isinstance(value, str) else ""
        if split in _PARTS_OF_TRAINING:
            self._count("split", f"{value!r} of image {image_id}")
            return "gallery"
        if split not in ("gallery", "query"):
            raise EntryError(f"has split {reprlib.repr(value)}, which is neither 'gallery' nor 'query'")
        return split

    def _size(self, entry: dict[str, Any], path: Path) -> tuple[int, int]:
        """The (width, height) that is written, or that of the picture where none is."""
        if entry.get("width") is None and entry.get("height") is None:
            try:
                return picture_size(path)
            except PictureError as error:
                raise EntryError(f"has no size, and {str(error).rstrip('.')}") from None
        return whole(entry, "width", 1), whole(entry, "height", 1)

    def _read_annotation(self, entry: dict[str, Any], called: str) -> None:
        image_id = whole(entry, "image_id")
        if image_id not in self.splits:
            raise EntryError(f"names image {image_id}, which is not listed")
        self.annotated[image_id] += 1
        instance = whole(entry, "category_id")
        if instance not in self.instances:
            raise EntryError(f"names category {instance}, which is not listed")
        crowd, ignore, visible = flag(entry, "iscrowd"), flag(entry, "ignore"), share(entry, "visible")
        image = self.images.get(image_id)
        if image is None:
            return
        is_query = self.splits[image_id] == "query"
        try:
            box = self._box(entry, image, called)
        except NoAreaError as problem:
            if is_query:
                raise
            self._count("no area", f"{called} {problem}")
            return
        if is_query and box is not None and (box[2:] - box[:2]).min() < 1:
            raise EntryError(f"has a box of less than a pixel, which is too small for a query: {entry.get('bbox')}")
        if is_query and (crowd or ignore):
            self._count("ignored query", called)
        elif crowd:
            self._count("crowd", called)
        attributes = entry.get("attributes")
        if isinstance(attributes, dict) and attributes.get("rotation"):
            self._count("rotated", called)
        row = (image_id, instance, box, ignore or crowd, visible)
        if is_query:
            self.query_rows[image_id] = row
        else:
            self.rows.append(row)

    def _box(self, entry: dict[str, Any], image: GalleryImage, called: str) -> NDArray[np.float64] | None:
        """The box (4,) xyxy inside the picture: of `bbox`, or of the segmentation where that has none."""
        size = image.width, image.height
        written, mask = box_as_written(entry.get("bbox")), entry.get("segmentation")
        if written is not None and ((written[2:] > written[:2]).all() or not mask):
            self.forms.add(written, size, entry)
            cut = clipped(written, size)
            slack = self.settings.rounding + 1e-6  # sums of decimal fractions miss by less
            if written.min() < -slack or (written[2:] - size > slack).any():
                self._count("clipped", called)
            return cut
        self.forms.add_mask(mask)
        box = box_of_mask(mask, size)
        if box is not None:
            self._count("mask", called)
        elif entry.get("bbox") == []:
            raise NoAreaError("has an empty bbox")
        return box

    def _count(self, kind: str, called: str) -> None:
        self.counted[kind] += 1
        self.first.setdefault(kind, called)

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

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.encoding != "utf-8":
            notes.append(f"{self.path.name} was read as {self.encoding.upper()}, in which it is written.")
        if os.path.realpath(self.files.root) != os.path.realpath(self.path.parent):
            notes.append(f"The pictures of {self.path} are those in {self.files.root}.")
        if respelled := self.files.respelled:
            given, name = next(iter(respelled.items()))
            notes.append(
                f"{_number(len(respelled), 'file name')} of {self.path.name} matched files whose names are spelled "
                f"differently, first: {given!r} is {name!r}."
            )
        notes += [
            f"{_number(self.counted[kind], one, many)} {what}, first: {self.first[kind]}."
            for kind, (one, many, what) in _NOTES.items()
            if self.counted[kind]
        ]
        searched = {self.images[i].file_name: i for i, split in self.splits.items() if split == "gallery"}
        own = [
            i
            for i, split in self.splits.items()
            if split == "query" and searched.get(self.images[i].file_name, i) not in self.excludes[i] | {i}
        ]
        if own:
            notes.append(
                "Query pictures that find themselves, being gallery pictures too that they do not exclude: "
                f"{len(own):,}, first: image {own[0]}."
            )
        return tuple(notes)

    def _query(self, image_id: int) -> Query:
        image, (_, instance, box, _, _) = self.images[image_id], self.query_rows[image_id]
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


_PARTS_OF_TRAINING = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "all"})

_NOTES = {
    "split": ("split", "splits", "other than 'gallery' and 'query' taken as 'gallery'"),
    "no area": (
        "annotation",
        "annotations",
        "without a box of any area inside the picture left out, so that they make no positives",
    ),
    "rotated": ("box", "boxes", "of rotated shapes used without their rotation"),
    "clipped": ("box", "boxes", "cut off at the edge of the picture"),
    "crowd": ("annotation", "annotations", "of a crowd (iscrowd) counted as ignored"),
    "ignored query": ("query", "queries", "used although marked as ignored (ignore, iscrowd)"),
    "mask": ("box", "boxes", "taken from the segmentation, there being no bbox"),
}


def _number(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


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
