"""Read COCO-style datasets, the project's own and the exports of annotation tools, and check them in full."""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.coco_boxes import FormatCheck, NoAreaError, box_of_mask, clip_box, parse_bbox
from patchify_core.gallery.coco_json import (
    EntryError,
    flag,
    fraction,
    label,
    load_json_object,
    text,
    to_int,
    whole_number,
)
from patchify_core.gallery.coco_layout import (
    ANNOTATIONS_FILE,
    find_annotation_file,
    find_picture_folder,
    picture_folders,
)
from patchify_core.gallery.model import AnnotationRow, Annotations, Gallery, GalleryImage, Query
from patchify_core.imaging.filenames import FileFinder, FileNameError
from patchify_core.imaging.pictures import picture_size

MAX_PROBLEMS_NAMED = 3
"""Problems of a dataset that its error message names before it counts the rest."""

_ROUNDING = 1.0 + 1e-6
"""How far a box may stick out of its picture without a note, in pixels; sums of decimal fractions are inexact."""

_TRAINING_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "all"})

_NOTES = {
    "split": ("split", "splits", "other than 'gallery' and 'query' treated as 'gallery'"),
    "no area": (
        "annotation",
        "annotations",
        "without a box of any area inside the picture left out, so that they make no positives",
    ),
    "rotated": ("box", "boxes", "of rotated shapes used without their rotation"),
    "clipped": ("box", "boxes", "cut off at the edge of the picture"),
    "crowd": ("annotation", "annotations", "of a crowd (iscrowd) counted as ignored"),
    "ignored query": ("query", "queries", "used although marked as ignored (ignore, iscrowd)"),
    "mask": ("box", "boxes", "computed from the segmentation, because there is no bbox"),
}
"""Kind of case -> its noun, its plural, and what was done."""


def read_coco(folder_or_json: Path | str) -> Gallery:
    """Read a COCO-style dataset and check all of it.

    `images` have id, file_name, width, height and split ("gallery" where absent, or "query", optionally with
    `exclude`); `annotations` have image_id, category_id and optionally bbox [x, y, w, h] or segmentation, iscrowd,
    ignore and visible; `categories` have id and name. Other fields are not used.

    Args:
        folder_or_json: The JSON file, or a folder in one of the layouts of `gallery.coco_layout`.

    Returns:
        The gallery, with boxes as xyxy clipped to their pictures; `notes` say what was left out or interpreted.

    Raises:
        GalleryError: The message names the first problems and counts the rest. A missing picture is a problem,
            so that no score is ever computed on fewer pictures than the dataset has.
    """
    path = Path(folder_or_json)
    if os.path.isdir(path):
        path = find_annotation_file(path) or path / ANNOTATIONS_FILE
    data, encoding = load_json_object(path)
    return _CocoReader(path, data, encoding).read()


class _CocoReader:
    """Converts the parsed JSON to a gallery, and collects problems and notes on the way.

    The ids of invalid entries are remembered too, so that one invalid image is one problem, and not one more for each
    of its annotations.
    """

    def __init__(self, path: Path, data: dict[str, Any], encoding: str) -> None:
        self.path, self.data, self.encoding = path, data, encoding
        self.problems: list[str] = []
        self.finder: FileFinder
        self.id_of_file: dict[str, int] = {}
        self.instances: dict[int, str] = {}
        self.splits: dict[int, str] = {}
        self.images: dict[int, GalleryImage] = {}
        self.excludes: dict[int, frozenset[int]] = {}
        self.query_rows: dict[int, AnnotationRow] = {}
        self.rows: list[AnnotationRow] = []
        self.annotations_of: Counter[int] = Counter()
        self.cases: Counter[str] = Counter()
        self.first_case: dict[str, str] = {}
        self.format_check = FormatCheck()

    def read(self) -> Gallery:
        """Read everything, then return it or raise its problems."""
        entries = self.data.get("images")
        images_listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        names = [name for entry in images_listed if isinstance(name := entry.get("file_name"), str)]
        self.finder = find_picture_folder(self.path, names)
        self._read_each("categories", "category", self._read_category, required=bool(self.data.get("annotations")))
        self._read_each("images", "image", self._read_image)
        if isinstance(entries, list) and "gallery" not in self.splits.values():
            self.problems.append("it lists no gallery image")
        self._read_each("annotations", "annotation", self._read_annotation, required="query" in self.splits.values())
        if isinstance(self.data.get("annotations", []), list):
            self._check_queries()
            if problem := self.format_check.problem():
                self.problems.insert(0, problem)  # it may be the cause of invalid boxes
        if self.problems:
            raise self._error()
        images = tuple(image for image in self.images.values() if self.splits[image.id] == "gallery")
        queries = tuple(self._query(i) for i, split in self.splits.items() if split == "query")
        annotations = Annotations.from_rows(self.rows)
        return Gallery(self.finder.root, images, queries, self.instances, annotations, notes=self._notes())

    def _error(self) -> GalleryError:
        named = self.problems[:MAX_PROBLEMS_NAMED]
        more = len(self.problems) - len(named)
        rest = f"; and {more} more problem{'s' if more > 1 else ''}" if more else ""
        searched = ""
        if any("which is missing" in problem for problem in self.problems):
            folders = [repr(str(folder)) for tier in picture_folders(self.path) for folder in tier]
            searched = f"; pictures were looked for in {', '.join(folders[:8])}{', ...' if folders[8:] else ''}"
        return GalleryError(
            f"{str(self.path)!r} cannot be used: {'; '.join(named)}{rest}{searched}; correct that first."
        )

    def _read_each(
        self, key: str, kind: str, read: Callable[[dict[str, Any], str], None], required: bool = True
    ) -> None:
        """Read each entry of a list with its name, such as "image 3", and collect the problems."""
        if key not in self.data and not required:
            return
        entries = self.data.get(key)
        if not isinstance(entries, list):
            missing = "missing: is this a dataset exported as COCO?"
            self.problems.append(f"{key!r} is {'not a list' if key in self.data else missing}")
            return
        for number, entry in enumerate(entries, 1):
            name = f"{kind} no. {number}"
            try:
                if not isinstance(entry, dict):
                    raise EntryError("is not an object")
                if entry.get("id") not in (None, ""):
                    name = f"{kind} {reprlib.repr(entry['id'])}"
                read(entry, name)
            except EntryError as problem:
                self.problems.append(f"{name} {problem}")

    def _read_category(self, entry: dict[str, Any], _: str) -> None:
        instance = whole_number(entry, "id")
        if instance in self.instances:
            raise EntryError("is listed twice")
        self.instances[instance] = f"category {instance}"
        self.instances[instance] = label(entry, "name", f"category {instance}")

    def _read_image(self, entry: dict[str, Any], _: str) -> None:
        image_id = whole_number(entry, "id")
        if image_id in self.splits:
            raise EntryError("is listed twice")
        self.splits[image_id] = "gallery"
        split = self.splits[image_id] = self._split(entry, image_id)
        written = text(entry, "file_name")
        try:
            name = self.finder.find(written, suggest=len(self.problems) < MAX_PROBLEMS_NAMED)
        except FileNameError as error:
            missing = str(error).startswith("is missing")
            folders = (path for tier in picture_folders(self.path) for path in tier if os.path.isfile(path / written))
            elsewhere = next(folders, None) if missing else None
            hint = "" if elsewhere is None else f"; it is in {str(elsewhere)!r}, and all must be in one folder"
            raise EntryError(f"names {'the file ' if missing else ''}{written!r}, which {error}{hint}") from None
        width, height = self._size(entry, self.finder.root / name)
        exclude = entry.get("exclude") or []
        excluded = [to_int(value) for value in exclude] if isinstance(exclude, list) else [None]
        if None in excluded:
            raise EntryError(f"has an 'exclude' that is not a list of image ids: {reprlib.repr(exclude)}")
        # A query may also be a gallery picture, and two objects of one picture may be two queries.
        if split == "gallery" and (same := self.id_of_file.setdefault(os.path.normcase(name), image_id)) != image_id:
            raise EntryError(f"names the file {written!r}, which image {same} is already: keep one of the two")
        self.excludes[image_id] = frozenset(value for value in excluded if value is not None)
        self.images[image_id] = GalleryImage(image_id, name, self.finder.root / name, width, height)

    def _split(self, entry: dict[str, Any], image_id: int) -> str:
        value = "gallery" if entry.get("split") in (None, "") else entry["split"]
        split = value.strip().lower() if isinstance(value, str) else ""
        if split in _TRAINING_SPLITS:
            self._count("split", f"{value!r} of image {image_id}")
            return "gallery"
        if split not in ("gallery", "query"):
            raise EntryError(f"has split {reprlib.repr(value)}, which is neither 'gallery' nor 'query'")
        return split

    def _size(self, entry: dict[str, Any], path: Path) -> tuple[int, int]:
        """Return the (width, height) of the entry, or of the picture if the entry has neither."""
        if entry.get("width") is None and entry.get("height") is None:
            try:
                return picture_size(path)
            except PictureError as error:
                raise EntryError(f"has no size, and {str(error).rstrip('.')}") from None
        return whole_number(entry, "width", 1), whole_number(entry, "height", 1)

    def _read_annotation(self, entry: dict[str, Any], name: str) -> None:
        image_id = whole_number(entry, "image_id")
        if image_id not in self.splits:
            raise EntryError(f"names image {image_id}, which is not listed")
        self.annotations_of[image_id] += 1
        instance = whole_number(entry, "category_id")
        if instance not in self.instances:
            raise EntryError(f"names category {instance}, which is not listed")
        crowd, ignore, visible = flag(entry, "iscrowd"), flag(entry, "ignore"), fraction(entry, "visible")
        image = self.images.get(image_id)
        if image is None:
            return
        is_query = self.splits[image_id] == "query"
        try:
            box = self._box(entry, image, name)
        except NoAreaError as problem:
            if is_query:
                raise
            self._count("no area", f"{name} {problem}")
            return
        if is_query and box is not None and (box[2:] - box[:2]).min() < 1:
            raise EntryError(f"has a box of less than a pixel, which is too small for a query: {entry.get('bbox')}")
        if is_query and (crowd or ignore):
            self._count("ignored query", name)
        elif crowd:
            self._count("crowd", name)
        attributes = entry.get("attributes")
        if isinstance(attributes, dict) and attributes.get("rotation"):
            self._count("rotated", name)
        row = (image_id, instance, box, ignore or crowd, visible)
        if is_query:
            self.query_rows[image_id] = row
        else:
            self.rows.append(row)

    def _box(self, entry: dict[str, Any], image: GalleryImage, name: str) -> NDArray[np.float64] | None:
        """Return the box (4,) xyxy inside the picture, of `bbox` or else of the segmentation."""
        size = image.width, image.height
        written, mask = parse_bbox(entry.get("bbox")), entry.get("segmentation")
        if written is not None and ((written[2:] > written[:2]).all() or not mask):
            self.format_check.add(written, size, entry)
            clipped = clip_box(written, size)
            if written.min() < -_ROUNDING or (written[2:] - size > _ROUNDING).any():
                self._count("clipped", name)
            return clipped
        self.format_check.add_mask(mask)
        box = box_of_mask(mask, size)
        if box is not None:
            self._count("mask", name)
        elif entry.get("bbox") == []:
            raise NoAreaError("has an empty bbox")
        return box

    def _count(self, kind: str, name: str) -> None:
        self.cases[kind] += 1
        self.first_case.setdefault(kind, name)

    def _check_queries(self) -> None:
        for image_id, split in self.splits.items():
            if split != "query":
                continue
            if (count := self.annotations_of[image_id]) != 1:
                self.problems.append(f"query image {image_id} has {count} annotations instead of one")
            unknown = [i for i in self.excludes.get(image_id, ()) if self.splits.get(i) != "gallery"]
            if unknown:
                self.problems.append(
                    f"query image {image_id} excludes image {min(unknown)}, which is not in the gallery"
                )

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.encoding != "utf-8":
            notes.append(f"{self.path.name} was read as {self.encoding.upper()}.")
        if os.path.realpath(self.finder.root) != os.path.realpath(self.path.parent):
            notes.append(f"The pictures of {self.path} are those in {self.finder.root}.")
        if respelled := self.finder.respelled:
            written, name = next(iter(respelled.items()))
            notes.append(
                f"{_quantity(len(respelled), 'file name', 'file names')} of {self.path.name} matched files whose names "
                f"are spelled differently, first: {written!r} is {name!r}."
            )
        notes += [
            f"{_quantity(self.cases[kind], noun, plural)} {what}, first: {self.first_case[kind]}."
            for kind, (noun, plural, what) in _NOTES.items()
            if self.cases[kind]
        ]
        gallery_ids = {self.images[i].file_name: i for i, split in self.splits.items() if split == "gallery"}
        not_excluded = [
            i
            for i, split in self.splits.items()
            if split == "query" and gallery_ids.get(self.images[i].file_name, i) not in self.excludes[i] | {i}
        ]
        if not_excluded:
            notes.append(
                "Query pictures that are also in the gallery and do not exclude themselves: "
                f"{len(not_excluded):,}, first: image {not_excluded[0]}."
            )
        return tuple(notes)

    def _query(self, image_id: int) -> Query:
        _, instance, box, _, _ = self.query_rows[image_id]
        if box is not None:
            box.flags.writeable = False
        return Query.from_image(self.images[image_id], box, instance, self.excludes[image_id])


def _quantity(number: int, noun: str, plural: str) -> str:
    return f"{number:,} {noun if number == 1 else plural}"
