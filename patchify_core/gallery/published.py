"""What the readers of published benchmarks share: files that must be there, sizes from headers, files of boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.model import Annotations, GalleryImage, Query, is_text
from patchify_core.imaging.filenames import FileNameError, FileNames, leads_out
from patchify_core.imaging.pictures import read_header

Progress = Callable[[int, int], None]
"""Told (done, in all)."""


def check_files(root: Path, names: Sequence[str], listed_in: str) -> list[str]:
    """Find a benchmark's files, and refuse it if it is not all there: no number is computed over fewer pictures.

    Args:
        root: The folder that names are relative to.
        names: POSIX names of the files that must be there.
        listed_in: Where they are listed, for the sentence.

    Returns:
        The names of the files on the disk, in the same order; other spellings are understood (`filenames`).

    Raises:
        GalleryError: Files are missing, or a name leads out of the folder.
    """
    files = FileNames(root)
    found: list[str] = []
    missing: list[tuple[str, str]] = []
    for name in names:
        if not is_text(name) or "\0" in name or leads_out(name):
            raise GalleryError(f"{listed_in} names {name!r}, which leads out of {str(root)!r}: get the list again.")
        try:
            found.append(files.find(name, suggest=not missing))
        except FileNameError as error:
            missing.append((name, str(error)))
    if missing:
        name, why = missing[0]
        similar = f", which {why}" if why != "is missing" else ""
        raise GalleryError(
            f"{len(missing)} of the {len(names)} files that {listed_in} needs are missing in {str(root)!r}, "
            f"first: {name!r}{similar}: download or unpack that part again."
        )
    return found


def read_sizes(
    root: Path,
    names: Sequence[str],
    progress: Progress | None = None,
    done: int = 0,
    total: int | None = None,
    turned: list[str] | None = None,
    members: Mapping[str, Path] | None = None,
) -> list[tuple[int, int]]:
    """Read every picture's upright (width, height) in pixels from its header; no pixel is decoded.

    Args:
        root: The folder that names are relative to.
        names: POSIX names.
        progress: Told of each picture.
        done: What `progress` counts from.
        total: What `progress` counts to; done + the names by default.
        turned: Gets the names of the pictures that are stored on their side, by EXIF orientation.
        members: Name -> path of those that are in archives.

    Raises:
        GalleryError: A picture cannot be read; the first one is named, and how many there are.
    """
    sizes, broken = [], []
    for number, name in enumerate(names, done + 1):
        try:
            header = read_header((members or {}).get(name, root / name))
            sizes.append(header.size)
            if turned is not None and header.stored != header.size:
                turned.append(name)
        except PictureError as error:
            broken.append((name, str(error).rstrip(".")))
        if progress:
            progress(number, total or done + len(names))
    if broken:
        raise GalleryError(
            f"{len(broken)} of {len(names)} pictures in {str(root)!r} cannot be read, "
            f"first: {broken[0][0]!r} ({broken[0][1]}): download them again."
        )
    return sizes


class Boxes:
    """Reads boxes of a benchmark as they come; what is wrong with some of them is counted and never stops it.

    Among tens of thousands of files a few hold a box without an area, or one outside its picture. Such a line is left
    out, and a box that sticks out is cut off at the edge of its picture.

    Args:
        root: The benchmark's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unusable: list[str] = []
        self._cut: list[str] = []

    def read(self, name: str, size: tuple[int, int]) -> NDArray[np.float64]:
        """Read a file of lines `x y width height`, in pixels; empty lines do not count.

        Args:
            name: POSIX name of the file.
            size: The picture's upright (width, height) in pixels.

        Returns:
            (M, 4) float64 xyxy inside the picture, M >= 0.
        """
        try:
            data = (self._root / name).read_bytes()
            lines = data.decode(json.detect_encoding(data)).splitlines()
        except OSError:
            return self.without(repr(name), "cannot be read")
        except ValueError:
            return self.without(repr(name), "is no text")
        found = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{name!r}, line {number}"
                try:
                    x, y, width, height = (float(part) for part in line.split())
                except ValueError:
                    self.without(where, "is not four numbers 'x y width height'")
                    continue
                found.append(self.inside(where, (x, y, x + width, y + height), size))
        return np.concatenate([np.zeros((0, 4)), *found])

    def inside(self, where: str, box: Sequence[float], size: tuple[int, int]) -> NDArray[np.float64]:
        """Cut a box off at the edge of its picture.

        Args:
            where: Where the box is written, for the note.
            box: Its corners x1, y1, x2, y2 in pixels.
            size: The picture's upright (width, height) in pixels.

        Returns:
            (1, 4) float64 xyxy inside the picture, or (0, 4) where nothing of it is.
        """
        whole = np.array([box], np.float64)
        if not np.isfinite(whole).all():
            return self.without(where, "is not four finite numbers")
        if (whole[:, 2:] <= whole[:, :2]).any():
            return self.without(where, "has no area")
        inside = np.clip(whole, 0, np.array([*size, *size], np.float64))
        if (inside[:, 2:] <= inside[:, :2]).any():
            return self.without(where, f"is outside its picture of {size[0]} × {size[1]} pixels")
        if (inside != whole).any():
            self._cut.append(where)
        return inside

    def without(self, where: str, why: str) -> NDArray[np.float64]:
        """Note that something gives no box; returns none, (0, 4)."""
        self._unusable.append(f"{where} {why}")
        return np.zeros((0, 4))

    def notes(self) -> tuple[str, ...]:
        """Sentences on what was left out or cut off, with the first of each and how many."""
        what = {"Boxes that cannot be used were left out": self._unusable}
        what["Boxes were cut off at the edge of their picture"] = self._cut
        return tuple(f"{name}: {len(where):,}, first: {where[0]}." for name, where in what.items() if where)


def boxed_annotations(shown: Sequence[tuple[int, int, NDArray[np.float64]]]) -> Annotations:
    """Annotations from (image id, instance, its boxes there (M, 4)) of each; M = 0 is a positive without a box."""
    counts = [max(len(boxes), 1) for _, _, boxes in shown]
    rows = [boxes if len(boxes) else np.full((1, 4), np.nan) for _, _, boxes in shown]
    return Annotations(
        np.repeat(np.array([image for image, _, _ in shown], np.int64), counts),
        np.repeat(np.array([instance for _, instance, _ in shown], np.int64), counts),
        np.concatenate([np.zeros((0, 4)), *rows]),
        np.zeros(sum(counts), bool),
        np.full(sum(counts), np.nan),
    )


def whole_queries(queries: Sequence[Query]) -> tuple[str, ...]:
    """A note on queries whose box cannot be used."""
    names = [query.file_name for query in queries if query.box is None]
    return (f"Queries without a box are used whole: {len(names):,}, first: {names[0]!r}.",) if names else ()


def unlocated(annotations: Annotations, images: Sequence[GalleryImage]) -> tuple[str, ...]:
    """A note on positives without a box; image ids count from 1."""
    ids = annotations.image_ids[np.isnan(annotations.boxes).any(axis=1)]
    if not len(ids):
        return ()
    first = images[int(ids[0]) - 1].file_name
    return (f"Positives without a box, whose queries get no LocScore: {len(ids):,}, first: {first!r}.",)


def turned_note(names: Sequence[str], others: str) -> tuple[str, ...]:
    """A note on pictures that are turned upright here, and what other readers of the benchmark do."""
    if not names:
        return ()
    return (f"Pictures stored on their side are turned upright ({others}): {len(names):,}, first: {names[0]!r}.",)


def around(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest box (4,) around boxes (M, 4) xyxy, M >= 1."""
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    box.flags.writeable = False
    return box
