"""Shared by the readers of published benchmarks: required files, picture sizes, boxes, and notes for the user."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.model import Annotations, GalleryImage, Progress, Query
from patchify_core.imaging.filenames import FileFinder, FileNameError, is_unicode, may_escape
from patchify_core.imaging.pictures import read_header

Size = tuple[int, int]
"""Width and height of an upright picture, in pixels."""


def require_files(root: Path, names: Sequence[str], source: str) -> list[str]:
    """Find all files of a benchmark, or refuse it: no score is computed over an incomplete set of pictures.

    Args:
        root: The folder that names are relative to.
        names: POSIX names of the required files.
        source: The list that names them, for the error message.

    Returns:
        The names of the files on disk, in the same order; they may be spelled differently (see `FileFinder`).

    Raises:
        GalleryError: Files are missing, or a name leads out of the folder.
    """
    finder = FileFinder(root)
    files: list[str] = []
    missing: list[tuple[str, str]] = []
    for name in names:
        if not is_unicode(name) or "\0" in name or may_escape(name):
            raise GalleryError(f"{source} names {name!r}, which leads out of {str(root)!r}: get the list again.")
        try:
            files.append(finder.find(name, suggest=not missing))
        except FileNameError as error:
            missing.append((name, str(error)))
    if missing:
        name, why = missing[0]
        detail = f", which {why}" if why != "is missing" else ""
        raise GalleryError(
            f"{len(missing)} of the {len(names)} files that {source} needs are missing in {str(root)!r}, "
            f"first: {name!r}{detail}: download or unpack that part again."
        )
    return files


def read_images(
    root: Path, names: Sequence[str], progress: Progress | None = None, members: Mapping[str, Path] | None = None
) -> tuple[list[GalleryImage], list[str]]:
    """Read every picture's size from its header, without decoding pixels.

    Args:
        root: The folder that names are relative to.
        names: POSIX names.
        progress: Called after each picture.
        members: Name -> path of the pictures inside archives.

    Returns:
        The pictures with ids 1, 2, ..., and the names of those stored rotated (EXIF orientation).

    Raises:
        GalleryError: Pictures cannot be read; the message counts them and names the first.
    """
    images, rotated, broken = [], [], []
    for number, name in enumerate(names, 1):
        path = (members or {}).get(name, root / name)
        try:
            header = read_header(path)
            images.append(GalleryImage(number, name, path, *header.size))
            if header.stored != header.size:
                rotated.append(name)
        except PictureError as error:
            broken.append((name, str(error).rstrip(".")))
        if progress:
            progress(number, len(names))
    if broken:
        raise GalleryError(
            f"{len(broken)} of {len(names)} pictures in {str(root)!r} cannot be read, "
            f"first: {broken[0][0]!r} ({broken[0][1]}): download them again."
        )
    return images, rotated


class BoxReader:
    """Reads a benchmark's boxes, and counts the unusable ones instead of stopping at them.

    Among tens of thousands of files a few contain a box without area or outside its picture. Such a box is left out,
    and one that sticks out is clipped to its picture.

    Args:
        root: The benchmark's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unusable: list[str] = []
        self._clipped: list[str] = []

    def read(self, name: str, size: Size) -> NDArray[np.float64]:
        """Read a file of lines `x y width height` in pixels; blank lines are skipped.

        Args:
            name: POSIX name of the file.
            size: The picture's upright size.

        Returns:
            (M, 4) float64 xyxy inside the picture, M >= 0.
        """
        try:
            data = (self._root / name).read_bytes()
            lines = data.decode(json.detect_encoding(data)).splitlines()
        except OSError:
            return self.reject(repr(name), "cannot be read")
        except ValueError:
            return self.reject(repr(name), "is not text")
        boxes = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{name!r}, line {number}"
                try:
                    x, y, width, height = (float(part) for part in line.split())
                except ValueError:
                    self.reject(where, "is not four numbers 'x y width height'")
                    continue
                boxes.append(self.clip(where, (x, y, x + width, y + height), size))
        return np.concatenate([np.zeros((0, 4)), *boxes])

    def clip(self, where: str, box: Sequence[float], size: Size) -> NDArray[np.float64]:
        """Clip a box to its picture.

        Args:
            where: Where the box is written, for the note.
            box: x1, y1, x2, y2 in pixels.
            size: The picture's upright size.

        Returns:
            (1, 4) float64 xyxy inside the picture, or (0, 4) where the box is unusable.
        """
        written = np.array([box], np.float64)
        if not np.isfinite(written).all():
            return self.reject(where, "is not four finite numbers")
        if (written[:, 2:] <= written[:, :2]).any():
            return self.reject(where, "has no area")
        inside = np.clip(written, 0, np.array([*size, *size], np.float64))
        if (inside[:, 2:] <= inside[:, :2]).any():
            return self.reject(where, f"is outside its picture of {size[0]} × {size[1]} pixels")
        if (inside != written).any():
            self._clipped.append(where)
        return inside

    def reject(self, where: str, why: str) -> NDArray[np.float64]:
        """Record a box that cannot be used, and return no boxes, (0, 4)."""
        self._unusable.append(f"{where} {why}")
        return np.zeros((0, 4))

    def notes(self) -> list[str]:
        """Return a note with the count and the first of the unusable boxes, and one of the clipped boxes."""
        cases = {
            "Boxes that cannot be used were left out": self._unusable,
            "Boxes were cut off at the edge of their picture": self._clipped,
        }
        return [f"{what}: {len(where):,}, first: {where[0]}." for what, where in cases.items() if where]


def annotate(boxes_by_image: Iterable[tuple[int, int, NDArray[np.float64]]]) -> Annotations:
    """Build annotations from (image id, instance id, boxes (M, 4)); M = 0 is a positive without a box."""
    return Annotations.from_rows(
        (image, instance, box, False, np.nan)
        for image, instance, boxes in boxes_by_image
        for box in (boxes if len(boxes) else [None])
    )


def query_notes(queries: Iterable[Query]) -> list[str]:
    """Return a note on queries whose box cannot be used."""
    return _note("Queries without a box are used whole", [query.file_name for query in queries if query.box is None])


def unlocated_notes(annotations: Annotations, images: Sequence[GalleryImage]) -> list[str]:
    """Return a note on positives without a box; image ids count from 1."""
    ids = annotations.image_ids[np.isnan(annotations.boxes).any(axis=1)].tolist()
    names = [images[number - 1].file_name for number in ids]
    return _note("Positives without a box, whose queries get no LocScore", names)


def rotation_notes(names: Sequence[str], others: str) -> list[str]:
    """Return a note on pictures stored rotated, which says how other readers of the benchmark treat them."""
    return _note(f"Pictures stored on their side are turned upright ({others})", names)


def enclosing_box(boxes: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the smallest box (4,) around boxes (M, 4) xyxy, read-only; None where M = 0."""
    if not len(boxes):
        return None
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    box.flags.writeable = False
    return box


def _note(what: str, names: Sequence[str]) -> list[str]:
    return [f"{what}: {len(names):,}, first: {names[0]!r}."] if names else []
