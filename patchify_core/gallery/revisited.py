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
from patchify_core.gallery.model import Annotations, Benchmark, Gallery, GalleryImage, Query
from patchify_core.gallery.pickled import PlainPickleError, load_plain
from patchify_core.gallery.published import Boxes, Progress, around, check_files, read_sizes, turned_note, whole_queries

NAMES = ("roxford5k", "rparis6k")
LARGEST_TRUTH = 64 << 20
"""Bytes of a ground truth that are read; the published ones have about one megabyte."""


def ground_truth(folder: Path) -> Path | None:
    """The ground truth in a folder: the published pickle, or the same lists as JSON; None if there is neither."""
    files = (folder / f"gnd_{name}{ending}" for name in NAMES for ending in (".json", ".pkl"))
    return next((file for file in files if file.is_file()), None)


def read_revisited(folder: Path | str, progress: Progress | None = None) -> Gallery:
    """Read ROxford5k or RParis6k: queries cropped by their box, no boxes in the gallery.

    Args:
        folder: Where `gnd_roxford5k.pkl` or `gnd_rparis6k.pkl` (or the same as `.json`) lies beside `jpg`.
        progress: Told how many of the pictures' headers have been read.

    Returns:
        The gallery: `imlist` as images 1..N in its order, one instance per query. Easy and hard pictures are positives
        (the medium protocol), junk is ignored; which are hard is in `benchmark`. Without boxes there is no LocScore.

    Raises:
        GalleryError: One sentence: a file is missing, or is another one than expected.
    """
    root = Path(folder)
    path = ground_truth(root)
    if path is None:
        raise GalleryError(f"There is no gnd_roxford5k.pkl or gnd_rparis6k.pkl in {str(root)!r}: put it beside jpg.")
    truth = _read_truth(path)
    names = check_files(root, [f"jpg/{name}.jpg" for name in (*truth.images, *truth.queries)], path.name)
    turned: list[str] = []
    sizes = read_sizes(root, names, progress, turned=turned)
    count, reader = len(truth.images), Boxes(root)
    images = tuple(
        GalleryImage(number, name, root / name, *size)
        for number, (name, size) in enumerate(zip(names[:count], sizes, strict=False), 1)
    )
    queries = []
    for at, (name, size) in enumerate(zip(names[count:], sizes[count:], strict=True)):
        inside = reader.inside(f"bbx of {name!r}", truth.boxes[at].tolist(), size)
        box = around(inside) if len(inside) else None
        queries.append(Query(count + 1 + at, name, root / name, *size, box=box, instance=at + 1))
    rows = [
        (image + 1, at + 1, kind)
        for kind, lists in truth.shown.items()
        for at, listed in enumerate(lists)
        for image in listed.tolist()
    ]
    annotations = Annotations(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.full((len(rows), 4), np.nan),
        np.array([row[2] == "junk" for row in rows], bool),
        np.full(len(rows), np.nan),
    )
    hard = {(instance, image): float(kind == "hard") for image, instance, kind in rows if kind != "junk"}
    return Gallery(
        root,
        images,
        tuple(queries),
        dict(enumerate(truth.queries, 1)),
        annotations,
        notes=(*reader.notes(), *whole_queries(queries), *turned_note(turned, "revisitop's own reader does not")),
        benchmark=Benchmark(path.stem.removeprefix("gnd_"), {"hard": hard}),
    )


@dataclass(frozen=True, eq=False)
class _Judgements:
    """Names without ending; per query its box (4,), and easy, hard and junk pictures counted from 0 in `images`."""

    images: list[str]
    queries: list[str]
    boxes: list[NDArray[np.float64]]
    shown: dict[str, list[NDArray[np.int64]]]


def _read_truth(path: Path) -> _Judgements:
    other = GalleryError(
        f"{str(path)!r} is not the ground truth of revisited Oxford or Paris (imlist, qimlist, gnd with bbx, easy, "
        "hard, junk): download it again."
    )
    data = _load(path)
    try:
        images, queries, gnd = (list(data[key]) for key in ("imlist", "qimlist", "gnd"))
        boxes: list[NDArray[np.float64]] = [np.array(entry["bbx"], np.float64).reshape(-1) for entry in gnd]
        shown = {kind: [_places(entry[kind], len(images)) for entry in gnd] for kind in ("easy", "hard", "junk")}
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        raise other from None
    named = all(isinstance(name, str) and name for name in (*images, *queries))
    unique = len(set(images)) == len(images)
    if not named or not unique or not images or not queries or len(queries) != len(gnd):
        raise other
    if any(len(box) != 4 for box in boxes):
        raise other
    return _Judgements(images, queries, boxes, shown)


def _places(listed: Any, count: int) -> NDArray[np.int64]:
    found = np.array(listed, np.float64).reshape(-1)
    if ((found != np.floor(found)) | (found < 0) | (found >= count)).any():
        raise ValueError("not places in the list of pictures")
    return found.astype(np.int64)


def _load(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_TRUTH + 1)
    except OSError as error:
        raise GalleryError(f"{str(path)!r} cannot be read: check its permissions.") from error
    if len(data) > LARGEST_TRUTH:
        raise GalleryError(f"{str(path)!r} is too large for the ground truth of Oxford or Paris: download it again.")
    try:
        return load_plain(BytesIO(data)) if path.suffix == ".pkl" else json.loads(data)
    except (PlainPickleError, ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, PlainPickleError) else "is no JSON"
        raise GalleryError(f"{str(path)!r} {why}: download it again.") from None
