"""ROxford5k and RParis6k (Radenović et al., CVPR 2018) in their published layout. See BENCHMARKS.md."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.benchmark_files import (
    BoxReader,
    enclosing_box,
    query_notes,
    read_images,
    require_files,
    rotation_notes,
)
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, Progress, Query
from patchify_core.gallery.restricted_pickle import RestrictedPickleError, load_plain

NAMES = ("roxford5k", "rparis6k")
MAX_TRUTH_BYTES = 64 << 20
"""Largest ground truth file that is read; the published ones have about one megabyte."""


def ground_truth(folder: Path) -> Path | None:
    """Return the ground truth in a folder, the published pickle or the same lists as JSON; None if there is neither."""
    files = (folder / f"gnd_{name}{suffix}" for name in NAMES for suffix in (".json", ".pkl"))
    return next((file for file in files if file.is_file()), None)


def read_revisited(folder: Path | str, progress: Progress | None = None) -> Gallery:
    """Read ROxford5k or RParis6k: queries cropped by their box, no boxes in the gallery.

    Args:
        folder: The folder with `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl` (or the same as `.json`) and `jpg`.
        progress: Called after each picture header that is read.

    Returns:
        The gallery: `imlist` as images 1..N in its order, one instance per query. Easy and hard pictures are positives
        (the medium protocol), junk is ignored; `benchmark` says which are hard. Without boxes there is no LocScore.

    Raises:
        GalleryError: A file is missing, or is not the expected one.
    """
    root = Path(folder)
    path = ground_truth(root)
    if path is None:
        raise GalleryError(f"There is no gnd_roxford5k.pkl or gnd_rparis6k.pkl in {str(root)!r}: put it beside jpg.")
    truth = _read_truth(path)
    names = require_files(root, [f"jpg/{name}.jpg" for name in (*truth.images, *truth.queries)], path.name)
    pictures, rotated = read_images(root, names, progress)
    count, reader = len(truth.images), BoxReader(root)
    images = tuple(pictures[:count])
    queries = []
    for instance, (picture, corners) in enumerate(zip(pictures[count:], truth.boxes, strict=True), 1):
        where, size = f"bbx of {picture.file_name!r}", (picture.width, picture.height)
        box = enclosing_box(reader.clip(where, corners.tolist(), size))
        queries.append(Query.from_image(picture, box, instance))
    rows = [
        (index + 1, instance, kind)
        for kind, lists in truth.judged.items()
        for instance, indexes in enumerate(lists, 1)
        for index in indexes.tolist()
    ]
    hard = {(instance, image): float(kind == "hard") for image, instance, kind in rows if kind != "junk"}
    notes = [*reader.notes(), *query_notes(queries), *rotation_notes(rotated, "revisitop's own reader does not")]
    return Gallery(
        root,
        images,
        tuple(queries),
        dict(enumerate(truth.queries, 1)),
        Annotations.from_rows((image, instance, None, kind == "junk", np.nan) for image, instance, kind in rows),
        notes=tuple(notes),
        benchmark=Benchmark(path.stem.removeprefix("gnd_"), {"hard": hard}),
    )


@dataclass(frozen=True, eq=False)
class _Truth:
    """Names without suffix; per query its box (4,) and its easy, hard and junk pictures as indexes into `images`."""

    images: list[str]
    queries: list[str]
    boxes: list[NDArray[np.float64]]
    judged: dict[str, list[NDArray[np.int64]]]


def _read_truth(path: Path) -> _Truth:
    malformed = GalleryError(
        f"{str(path)!r} is not the ground truth of revisited Oxford or Paris (imlist, qimlist, gnd with bbx, easy, "
        "hard, junk): download it again."
    )
    data = _load(path)
    try:
        images, queries, gnd = (list(data[key]) for key in ("imlist", "qimlist", "gnd"))
        boxes: list[NDArray[np.float64]] = [np.array(entry["bbx"], np.float64).reshape(-1) for entry in gnd]
        judged = {kind: [_indexes(entry[kind], len(images)) for entry in gnd] for kind in ("easy", "hard", "junk")}
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        raise malformed from None
    named = all(isinstance(name, str) and name for name in (*images, *queries))
    if not named or len(set(images)) < len(images) or not images or not queries or len(queries) != len(gnd):
        raise malformed
    if any(len(box) != 4 for box in boxes):
        raise malformed
    return _Truth(images, queries, boxes, judged)


def _indexes(values: Any, count: int) -> NDArray[np.int64]:
    numbers = np.array(values, np.float64).reshape(-1)
    if ((numbers != np.floor(numbers)) | (numbers < 0) | (numbers >= count)).any():
        raise ValueError("not indexes into the list of pictures")
    return numbers.astype(np.int64)


def _load(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TRUTH_BYTES + 1)
    except OSError as error:
        raise GalleryError(f"{str(path)!r} cannot be read: check its permissions.") from error
    if len(data) > MAX_TRUTH_BYTES:
        raise GalleryError(f"{str(path)!r} is too large for the ground truth of Oxford or Paris: download it again.")
    try:
        return load_plain(BytesIO(data)) if path.suffix == ".pkl" else json.loads(data)
    except (RestrictedPickleError, ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, RestrictedPickleError) else "is not JSON"
        raise GalleryError(f"{str(path)!r} {why}: download it again.") from None
