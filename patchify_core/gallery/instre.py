"""INSTRE in its published layout: INSTRE-S1, INSTRE-S2, INSTRE-M, and gnd_instre.mat. See BENCHMARKS.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, GalleryImage, Query
from patchify_core.gallery.published import (
    Boxes,
    Progress,
    around,
    boxed_annotations,
    check_files,
    read_sizes,
    turned_note,
    unlocated,
    whole_queries,
)
from patchify_core.imaging.boxes import paired_iou

GROUND_TRUTH = "gnd_instre.mat"
PARTS = {"s1": "instre-s1", "s2": "instre-s2", "m": "instre-m"}
SUBSETS = ("all", *PARTS)

_SAME_BOX = 0.9
"""IoU from which the ground truth's query box is one of those in the picture's own file, but for rounding."""


def read_instre(
    folder: Path | str,
    subset: str = "all",
    progress: Progress | None = None,
) -> Gallery:
    """Read INSTRE with the retrieval protocol of Iscen et al. (CVPR 2017).

    Args:
        folder: Where `gnd_instre.mat` lies beside INSTRE-S1, INSTRE-S2 and INSTRE-M.
        subset: `all` for every query, or `s1`, `s2`, `m` for the queries of that part; the database, which also has
            positives from other parts, is always the whole one.
        progress: Told how many of the pictures' headers have been read.

    Returns:
        The gallery: `imlist` as images 1..N in its order, `qimlist` as queries cropped by `bbx`, one instance a class
        folder. Gallery boxes come from the .txt beside each picture: in INSTRE-M the first line is the object
        of class `a` and the second that of `b`, and for a query of the pair itself the box is around both (ours).
        Notes count the boxes that cannot be used.

    Raises:
        GalleryError: One sentence: a file is missing or is another one than expected.
    """
    if subset not in SUBSETS:
        raise GalleryError(f"INSTRE has the subsets {', '.join(SUBSETS)}, not {subset!r}: choose one of them.")
    root = Path(folder)
    truth = _read_truth(root / GROUND_TRUTH)
    chosen = [at for at, name in enumerate(truth.queries) if subset == "all" or _part(name) == PARTS[subset]]
    if not chosen:
        raise GalleryError(f"{GROUND_TRUTH} in {str(root)!r} lists no query of the subset {subset}: choose another.")
    asked = [truth.queries[at] for at in chosen]
    shown = sorted({number for at in chosen for number in truth.positives[at].tolist()})
    boxed = [_box_file(name) for name in (*asked, *(truth.images[number - 1] for number in shown))]
    needed = [*truth.images, *asked, *boxed]
    files = dict(zip(needed, check_files(root, needed, GROUND_TRUTH), strict=True))
    names, query_names = [files[name] for name in truth.images], [files[name] for name in asked]
    total = len(names) + len(query_names)
    turned: list[str] = []
    sizes = read_sizes(root, names, progress, 0, total, turned)
    query_sizes = read_sizes(root, query_names, progress, len(sizes), total, turned)
    images = tuple(
        GalleryImage(number, name, root / name, *size)
        for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1)
    )
    instances, instance_of = _instances(truth, chosen)
    reader = Boxes(root)
    annotations = _annotations(reader, truth, images, files, instances)
    boxes = _query_boxes(reader, [(truth.queries[at], truth.boxes[at]) for at in chosen], files, query_sizes)
    queries = tuple(
        Query(len(images) + 1 + at, name, root / name, *size, box=box, instance=instance_of[at])
        for at, name, size, box in zip(chosen, query_names, query_sizes, boxes, strict=True)
    )
    notes = (*reader.notes(), *whole_queries(queries), *unlocated(annotations, images))
    notes += turned_note(turned, "VISSL's reader does not")
    names_of = {number: name for number, (name, _) in instances.items()}
    return Gallery(root, images, queries, names_of, annotations, notes=notes, benchmark=Benchmark("instre"))


# gnd_instre.mat --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Truth:
    """The lists of gnd_instre.mat: names, and per query its positives (K,) counted from 1 and its box (4,)."""

    images: list[str]
    queries: list[str]
    positives: list[NDArray[np.int64]]
    boxes: list[NDArray[np.float64]]


def _read_truth(path: Path) -> _Truth:
    data = _load(path)
    other = GalleryError(
        f"{str(path)!r} is not the ground truth of INSTRE (imlist, qimlist, gnd with ok and bbx): download it again."
    )
    try:
        images, queries = (_names(data[key]) for key in ("imlist", "qimlist"))
        gnd = np.asarray(data["gnd"]).reshape(-1)
        positives: list[NDArray[np.float64]] = [np.asarray(entry["ok"], np.float64).reshape(-1) for entry in gnd]
        boxes: list[NDArray[np.float64]] = [np.asarray(entry["bbx"], np.float64).reshape(-1) for entry in gnd]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise other from None
    whole = all(((some == np.floor(some)) & (some >= 1) & (some <= len(images))).all() for some in positives)
    shaped = all(len(box) == 4 and np.isfinite(box).all() for box in boxes)
    if not images or len(queries) != len(boxes) or not whole or not shaped or len(set(images)) != len(images):
        raise other
    if not queries:
        raise GalleryError(f"{str(path)!r} lists no query: download it again.")
    return _Truth(images, queries, [some.astype(np.int64) for some in positives], boxes)


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            try:
                from scipy.io import loadmat
            except ImportError:
                raise GalleryError(
                    "Reading INSTRE needs scipy: install it with pip install -r requirements.txt."
                ) from None
            # Cut short or garbled, such a file makes scipy raise nearly anything.
            try:
                return loadmat(file)
            except Exception as error:
                raise GalleryError(
                    f"{str(path)!r} is cut short or no MATLAB file (version 5 to 7): download it again."
                ) from error
    except (FileNotFoundError, NotADirectoryError):
        raise GalleryError(
            f"There is no file {str(path)!r}: put {GROUND_TRUTH} beside the folders INSTRE-S1, INSTRE-S2, INSTRE-M."
        ) from None
    except OSError as error:
        raise GalleryError(f"{str(path)!r} cannot be read: check its permissions.") from error


def _names(cell: Any) -> list[str]:
    entries = [np.asarray(entry).reshape(-1)[0] for entry in np.asarray(cell, object).reshape(-1)]
    names = [str(entry) for entry in entries if isinstance(entry, str)]
    if len(names) < len(entries) or not all(PurePosixPath(name).suffix for name in names):
        raise ValueError("not names of pictures")
    return names


# Classes ---------------------------------------------------------------------------------------------------


def _part(name: str) -> str:
    return PurePosixPath(name).parts[0].lower()


def _class(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


_Instances = dict[int, tuple[str, NDArray[np.int64]]]


def _instances(truth: _Truth, chosen: list[int]) -> tuple[_Instances, dict[int, int]]:
    """One instance a class folder; were its queries to have different positives, one for each list of them."""
    ids: dict[tuple[str, bytes], int] = {}
    instances: _Instances = {}
    instance_of: dict[int, int] = {}
    folders: dict[str, int] = {}
    for at in chosen:
        name, positives = _class(truth.queries[at]), np.unique(truth.positives[at])
        key = (name, positives.tobytes())
        if key not in ids:
            ids[key] = len(ids) + 1
            folders[name] = folders.get(name, 0) + 1
            instances[ids[key]] = (name if folders[name] == 1 else f"{name} ({folders[name]})", positives)
        instance_of[at] = ids[key]
    return instances, instance_of


# Boxes -----------------------------------------------------------------------------------------------------


def _box_file(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()


def _annotations(
    reader: Boxes,
    truth: _Truth,
    images: tuple[GalleryImage, ...],
    files: dict[str, str],
    instances: _Instances,
) -> Annotations:
    known: dict[int, NDArray[np.float64]] = {}
    rows: list[tuple[int, int, NDArray[np.float64]]] = []
    for instance, (name, positives) in instances.items():
        for number in positives.tolist():
            image, given = images[number - 1], truth.images[number - 1]
            file = files[_box_file(given)]
            if number not in known:
                known[number] = reader.read(file, (image.width, image.height))
            rows.append((number, instance, _shown(reader, file, name, given, known[number])))
    return boxed_annotations(rows)


def _shown(reader: Boxes, file: str, asked: str, image: str, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which of a picture's boxes (M, 4) show the object of a class folder."""
    if _part(image) != PARTS["m"] or not len(boxes):
        return boxes
    if len(boxes) == 2:
        if _part(asked) == PARTS["m"]:
            return around(boxes)[None]
        object_of_pair = re.match(r"\d+([ab])(?![a-z0-9])", PurePosixPath(asked).name)
        if _part(asked) == PARTS["s1"] and object_of_pair is not None:
            return boxes["ab".index(object_of_pair[1])][None]
    return reader.without(repr(file), f"does not say which of its {len(boxes)} boxes is the object of {asked!r}")


def _query_boxes(
    reader: Boxes,
    queries: list[tuple[str, NDArray[np.float64]]],
    files: dict[str, str],
    sizes: list[tuple[int, int]],
) -> list[NDArray[np.float64] | None]:
    """The queries' boxes (4,) as xyxy inside their pictures; None for one that cannot be used.

    `bbx` is x1 y1 x2 y2 by one public reader of this file and x y width height by another. The pictures' own box
    files, whose form nobody doubts, say which it is; x1 y1 x2 y2 if they say neither.
    """
    corners = np.array([box for _, box in queries])
    as_sizes = corners.copy()
    as_sizes[:, 2:] += as_sizes[:, :2]
    own = [reader.read(files[_box_file(name)], size) for (name, _), size in zip(queries, sizes, strict=True)]
    own = [np.concatenate([lines, around(lines)[None]]) if len(lines) else lines for lines in own]
    agree = [
        sum(
            paired_iou([box] * len(lines), lines).max(initial=0) >= _SAME_BOX
            for box, lines in zip(form, own, strict=True)
        )
        for form in (corners, as_sizes)
    ]
    found: list[NDArray[np.float64] | None] = []
    for (name, _), box, size in zip(queries, as_sizes if agree[1] > agree[0] else corners, sizes, strict=True):
        inside = reader.inside(f"bbx of {name!r}", box.tolist(), size)
        found.append(around(inside) if len(inside) else None)
    return found
