"""INSTRE in its published layout: INSTRE-S1, INSTRE-S2, INSTRE-M, and gnd_instre.mat. See BENCHMARKS.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.benchmark_files import (
    BoxReader,
    annotate,
    enclosing_box,
    query_notes,
    read_images,
    require_files,
    rotation_notes,
    unlocated_notes,
)
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, GalleryImage, Progress, Query
from patchify_core.imaging.boxes import paired_iou

GROUND_TRUTH = "gnd_instre.mat"
PARTS = {"s1": "instre-s1", "s2": "instre-s2", "m": "instre-m"}
SUBSETS = ("all", *PARTS)

_SAME_BOX_IOU = 0.9
"""IoU from which a query box of the ground truth equals one in the picture's own file, but for rounding."""


def read_instre(folder: Path | str, subset: str = "all", progress: Progress | None = None) -> Gallery:
    """Read INSTRE with the retrieval protocol of Iscen et al. (CVPR 2017).

    Args:
        folder: The folder with `gnd_instre.mat`, INSTRE-S1, INSTRE-S2 and INSTRE-M.
        subset: `all` for every query, or `s1`, `s2`, `m` for the queries of that part. The database is always the
            whole one, since it has positives from other parts.
        progress: Called after each picture header that is read.

    Returns:
        The gallery: `imlist` as images 1..N in its order, `qimlist` as queries cropped by `bbx`, one instance per class
        folder. Gallery boxes come from the .txt beside each picture: in INSTRE-M the first line is the object
        of class `a` and the second that of `b`, and for a query of the pair itself the box is around both (ours).
        Notes count the boxes that cannot be used.

    Raises:
        GalleryError: A file is missing, or is not the expected one.
    """
    if subset not in SUBSETS:
        raise GalleryError(f"INSTRE has the subsets {', '.join(SUBSETS)}, not {subset!r}: choose one of them.")
    root = Path(folder)
    truth = _read_truth(root / GROUND_TRUTH)
    chosen = [at for at, name in enumerate(truth.queries) if subset == "all" or _part(name) == PARTS[subset]]
    if not chosen:
        raise GalleryError(f"{GROUND_TRUTH} in {str(root)!r} lists no query of the subset {subset}: choose another.")
    chosen_names = [truth.queries[at] for at in chosen]
    positives = sorted({number for at in chosen for number in truth.positives[at].tolist()})
    box_files = [_box_file(name) for name in (*chosen_names, *(truth.images[number - 1] for number in positives))]
    needed = [*truth.images, *chosen_names, *box_files]
    files = dict(zip(needed, require_files(root, needed, GROUND_TRUTH), strict=True))
    pictures, rotated = read_images(root, [files[name] for name in (*truth.images, *chosen_names)], progress)
    images, query_pictures = tuple(pictures[: len(truth.images)]), pictures[len(truth.images) :]
    instances, instance_of = _instances(truth, chosen)
    reader = BoxReader(root)
    annotations = _annotations(reader, truth, images, files, instances)
    boxes = _query_boxes(reader, [(truth.queries[at], truth.boxes[at]) for at in chosen], files, query_pictures)
    queries = tuple(
        Query.from_image(replace(picture, id=len(images) + 1 + at), box, instance_of[at])
        for at, picture, box in zip(chosen, query_pictures, boxes, strict=True)
    )
    notes = [*reader.notes(), *query_notes(queries), *unlocated_notes(annotations, images)]
    notes += rotation_notes(rotated, "VISSL's reader does not")
    return Gallery(
        root,
        images,
        queries,
        {number: name for number, (name, _) in instances.items()},
        annotations,
        notes=tuple(notes),
        benchmark=Benchmark("instre"),
    )


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
    malformed = GalleryError(
        f"{str(path)!r} is not the ground truth of INSTRE (imlist, qimlist, gnd with ok and bbx): download it again."
    )
    try:
        images, queries = (_names(data[key]) for key in ("imlist", "qimlist"))
        gnd = np.asarray(data["gnd"]).reshape(-1)
        positives: list[NDArray[np.float64]] = [np.asarray(entry["ok"], np.float64).reshape(-1) for entry in gnd]
        boxes: list[NDArray[np.float64]] = [np.asarray(entry["bbx"], np.float64).reshape(-1) for entry in gnd]
    except (KeyError, IndexError, ValueError, TypeError, AttributeError):
        raise malformed from None
    valid = all(((ids == np.floor(ids)) & (ids >= 1) & (ids <= len(images))).all() for ids in positives)
    valid = valid and all(len(box) == 4 and np.isfinite(box).all() for box in boxes)
    if not images or len(queries) != len(boxes) or not valid or len(set(images)) != len(images):
        raise malformed
    if not queries:
        raise GalleryError(f"{str(path)!r} lists no query: download it again.")
    return _Truth(images, queries, [ids.astype(np.int64) for ids in positives], boxes)


def _load(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            try:
                from scipy.io import loadmat
            except ImportError:
                raise GalleryError(
                    "Reading INSTRE needs scipy: install it with pip install -r requirements.txt."
                ) from None
            # A truncated or corrupted file makes scipy raise nearly anything.
            try:
                return loadmat(file)
            except Exception as error:
                raise GalleryError(
                    f"{str(path)!r} is cut short or not a MATLAB file (version 5 to 7): download it again."
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


_Instances = dict[int, tuple[str, NDArray[np.int64]]]
"""Instance id -> (class folder, its positives counted from 1)."""


def _instances(truth: _Truth, chosen: list[int]) -> tuple[_Instances, dict[int, int]]:
    """Group queries into instances: one per class folder, or one per distinct list of positives within it."""
    ids: dict[tuple[str, bytes], int] = {}
    instances: _Instances = {}
    instance_of: dict[int, int] = {}
    lists_per_class: dict[str, int] = {}
    for at in chosen:
        name, positives = PurePosixPath(truth.queries[at]).parent.as_posix(), np.unique(truth.positives[at])
        key = (name, positives.tobytes())
        if key not in ids:
            ids[key] = len(ids) + 1
            number = lists_per_class[name] = lists_per_class.get(name, 0) + 1
            instances[ids[key]] = (name if number == 1 else f"{name} ({number})", positives)
        instance_of[at] = ids[key]
    return instances, instance_of


# Boxes -----------------------------------------------------------------------------------------------------


def _box_file(name: str) -> str:
    return PurePosixPath(name).with_suffix(".txt").as_posix()


def _annotations(
    reader: BoxReader,
    truth: _Truth,
    images: tuple[GalleryImage, ...],
    files: dict[str, str],
    instances: _Instances,
) -> Annotations:
    boxes: dict[int, NDArray[np.float64]] = {}
    rows: list[tuple[int, int, NDArray[np.float64]]] = []
    for instance, (class_folder, positives) in instances.items():
        for number in positives.tolist():
            image, name = images[number - 1], truth.images[number - 1]
            file = files[_box_file(name)]
            if number not in boxes:
                boxes[number] = reader.read(file, (image.width, image.height))
            rows.append((number, instance, _boxes_of_class(reader, file, class_folder, name, boxes[number])))
    return annotate(rows)


def _boxes_of_class(
    reader: BoxReader, file: str, class_folder: str, image: str, boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Select which of a picture's boxes (M, 4) show the object of a class folder."""
    if _part(image) != PARTS["m"] or not len(boxes):
        return boxes
    if len(boxes) == 2:
        if _part(class_folder) == PARTS["m"]:
            return np.concatenate([boxes.min(axis=0)[:2], boxes.max(axis=0)[2:]])[None]
        object_of_pair = re.match(r"\d+([ab])(?![a-z0-9])", PurePosixPath(class_folder).name)
        if _part(class_folder) == PARTS["s1"] and object_of_pair is not None:
            return boxes["ab".index(object_of_pair[1])][None]
    return reader.reject(repr(file), f"does not say which of its {len(boxes)} boxes is the object of {class_folder!r}")


def _query_boxes(
    reader: BoxReader,
    queries: list[tuple[str, NDArray[np.float64]]],
    files: dict[str, str],
    pictures: list[GalleryImage],
) -> list[NDArray[np.float64] | None]:
    """Return the queries' boxes (4,) as xyxy inside their pictures; None for one that cannot be used.

    One public reader of gnd_instre.mat takes `bbx` as x1 y1 x2 y2, another as x y width height. The form that agrees
    with more of the pictures' own box files is used, x1 y1 x2 y2 where both agree equally.
    """
    sizes = [(picture.width, picture.height) for picture in pictures]
    corners = np.array([box for _, box in queries])
    xywh = corners.copy()
    xywh[:, 2:] += xywh[:, :2]
    own = [reader.read(files[_box_file(name)], size) for (name, _), size in zip(queries, sizes, strict=True)]
    own = [boxes if (around := enclosing_box(boxes)) is None else np.vstack([boxes, around]) for boxes in own]
    agreeing = [
        sum(
            paired_iou([box] * len(boxes), boxes).max(initial=0) >= _SAME_BOX_IOU
            for box, boxes in zip(form, own, strict=True)
        )
        for form in (corners, xywh)
    ]
    form = xywh if agreeing[1] > agreeing[0] else corners
    return [
        enclosing_box(reader.clip(f"bbx of {name!r}", box.tolist(), size))
        for (name, _), box, size in zip(queries, form, sizes, strict=True)
    ]
