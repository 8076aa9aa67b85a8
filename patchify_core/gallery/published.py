"""What the readers of published benchmarks share: files that must be there, sizes from headers, files of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import GalleryError, PictureError
from patchify_core.gallery.model import is_text
from patchify_core.imaging.filenames import FileNameError, FileNames, leads_out
from patchify_core.imaging.pictures import picture_size

Progress = Callable[[int, int], None]
"""Told (done, in all)."""


@dataclass(frozen=True)
class PublishedSettings:
    """How strictly a published benchmark is read.

    Attributes:
        inside: least share of a box that must lie inside its picture. Such boxes are cut off at the edge, since
            annotators do draw over it; one that is mostly outside was written for another picture or in another form.
    """

    inside: float = 0.5


DEFAULTS = PublishedSettings()


class BoxProblem(Exception):
    """Why a box or a file of boxes cannot be used, as the rest of a sentence; never seen outside the readers."""


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
    root: Path, names: Sequence[str], progress: Progress | None = None, done: int = 0, total: int | None = None
) -> list[tuple[int, int]]:
    """Read every picture's upright (width, height) in pixels from its header; no pixel is decoded.

    Args:
        root: The folder that names are relative to.
        names: POSIX names.
        progress: Told of each picture.
        done: What `progress` counts from.
        total: What `progress` counts to; done + the names by default.

    Raises:
        GalleryError: A picture cannot be read; the first one is named, and how many there are.
    """
    sizes, broken = [], []
    for number, name in enumerate(names, done + 1):
        try:
            sizes.append(picture_size(root / name))
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


def read_boxes(path: Path) -> NDArray[np.float64]:
    """Read a file of lines `x y width height`, in pixels; empty lines do not count.

    Returns:
        (M, 4) float64 xyxy, M >= 1, not compared with a picture yet.

    Raises:
        BoxProblem: The file cannot be read, holds no box, or a line is not four finite numbers with an area.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        values = np.array([[float(part) for part in line] for line in lines], np.float64)
    except OSError as error:
        raise BoxProblem("cannot be read") from error
    except ValueError as error:
        raise BoxProblem("is not lines of four numbers 'x y width height'") from error
    if not len(values):
        raise BoxProblem("holds no box")
    if values.shape[1:] != (4,) or not np.isfinite(values).all():
        raise BoxProblem("is not lines of four numbers 'x y width height'")
    if (values[:, 2:] <= 0).any():
        raise BoxProblem("holds a box without area")
    values[:, 2:] += values[:, :2]
    return values


def cut_to(boxes: ArrayLike, size: tuple[int, int], settings: PublishedSettings = DEFAULTS) -> NDArray[np.float64]:
    """Cut boxes (M, 4) xyxy off at their picture's edge.

    Args:
        boxes: Boxes with an area.
        size: The picture's (width, height) in pixels.
        settings: How much of a box must be inside.

    Returns:
        (M, 4) float64 xyxy inside the picture.

    Raises:
        BoxProblem: A box lies mostly or wholly outside.
    """
    whole = np.asarray(boxes, np.float64).reshape(-1, 4)
    inside = np.clip(whole, 0, np.array([*size, *size], np.float64))
    share = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.prod(whole[:, 2:] - whole[:, :2], axis=1)
    if (share < max(settings.inside, 1e-9)).any():
        odd = whole[int(share.argmin())].tolist()
        named = ", ".join(f"{value:g}" for value in odd)
        raise BoxProblem(f"holds a box outside its picture of {size[0]} × {size[1]} pixels ({named} as x1, y1, x2, y2)")
    return inside


def around(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest box (4,) around boxes (M, 4) xyxy."""
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


def refuse(root: Path, problems: Iterable[tuple[str, str]]) -> None:
    """Raise what was wrong with a benchmark's files, naming the first and counting the rest.

    Args:
        root: The benchmark's folder.
        problems: (file name, what is wrong with it, as the rest of a sentence) of each.

    Raises:
        GalleryError: There is a problem.
    """
    listed = list(problems)
    if listed:
        (name, why), more = listed[0], len(listed) - 1
        rest = f" (and {more} more file{'s' if more > 1 else ''} like it)" if more else ""
        raise GalleryError(f"{name!r} in {str(root)!r} {why}{rest}: download it again or correct it.")
