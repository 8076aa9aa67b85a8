"""Whether all copies of an object in a picture are found, against further boxes where there is only one.

For every query and picture that shows its object, further objects are looked for without regard to how alike they are
(`Location.alike`); then any limit on that can be judged: of pictures with several copies, in how many is each copy
found (a box of its own with enough IoU); of pictures with one, in how many is a second box drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import GalleryError
from patchify_core.evaluation.pasted import scenes
from patchify_core.evaluation.presence import CURVE
from patchify_core.evaluation.study.report import table
from patchify_core.gallery import Gallery, Query
from patchify_core.imaging.boxes import iou
from patchify_core.retrieval.localize import BoxSearch, Localizer, LocalizeSettings, Location
from patchify_core.retrieval.searcher import Searcher

IOUS = (0.3, 0.5)
"""IoU from which a copy is found."""

OBJECTS = 3
"""Objects that are looked for in a picture, as many as the page does."""

NEVER = -np.inf


@dataclass(frozen=True, eq=False)
class Look:
    """What is found of a query's object in one picture.

    Attributes:
        copies: places of the object that are annotated, at least 1.
        pasted: whether the picture was made (`pasted`).
        second: the highest limit at which a second box is drawn; -inf if never.
        all_found: (IOUS,) the highest limit at which all copies are found; -inf if never.
    """

    copies: int
    pasted: bool
    second: float
    all_found: NDArray[np.float64]


def highest_limit(boxes: ArrayLike, alike: ArrayLike, copies: ArrayLike, least_iou: float) -> float:
    """The highest limit at which each copy has a box of its own.

    A limit draws the boxes before the first that is less alike than it.

    Args:
        boxes: (M, 4) xyxy as they are found, M at least 1.
        alike: (M,) how alike each is to the first, which is drawn at any limit.
        copies: (N, 4) xyxy, annotated.
        least_iou: of a box with the copy that it finds.

    Returns:
        -inf where no limit does, inf where the first box alone does.

    Example:
        >>> highest_limit([[0, 0, 4, 4], [6, 0, 9, 4]], [1, 0.7], [[6, 0, 10, 4], [0, 0, 4, 4]], 0.5)
        0.7
    """
    from scipy.optimize import linear_sum_assignment

    fits = iou(boxes, copies) >= least_iou
    for drawn in range(fits.shape[1], len(fits) + 1):
        rows, columns = linear_sum_assignment(fits[:drawn], maximize=True)
        if fits[rows, columns].all():
            return limit_of(alike, drawn)
    return NEVER


def limit_of(alike: ArrayLike, drawn: int) -> float:
    """The highest limit at which so many boxes are drawn; arguments and values as for `highest_limit`."""
    further = np.asarray(alike, np.float64)[1:drawn]
    return NEVER if drawn > np.size(alike) else float(further.min(initial=np.inf))


def look(found: Sequence[Location], copies: NDArray[np.float64], pasted: bool) -> Look:
    """Judge what was found in one picture; boxes in one unit."""
    boxes, alike = np.stack([one.box for one in found]), [one.alike for one in found]
    limits = np.array([highest_limit(boxes, alike, copies, least) for least in IOUS])
    return Look(len(copies), pasted, limit_of(alike, 2), limits)


def looks(
    gallery: Gallery, engine: Searcher, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[Look]:
    """Look for the object of every query in the pictures that show it, and in pasted ones.

    Args:
        gallery: a dataset with queries and boxes.
        engine: an index of its pictures with pooled features, and its encoder.
        seed: of the pasted pictures.
        progress: called with (queries done, queries in all).

    Raises:
        GalleryError: if no query's object has a box.
        PatchifyError: if the index was made of crops.
    """
    localizer = Localizer(engine, LocalizeSettings(another=NEVER))
    described = {query.id: engine.describe(query) for query in gallery.queries}

    def judged(
        search: BoxSearch, query: Query, copies: NDArray[np.float64], size: tuple[int, int], pasted: bool
    ) -> Look:
        objects = OBJECTS if len(copies) > 1 else 2  # of one copy only a second box is of interest
        return look(localizer.objects_of(search, described[query.id], objects), copies / np.tile(size, 2), pasted)

    found = []
    for done, query in enumerate(gallery.queries, 1):
        for image_id, copies in gallery.positives(query.instance, query.exclude).items():
            if copies is not None:
                image, search = gallery.image(image_id), localizer.search_of(engine.index.row_of[image_id])
                found.append(judged(search, query, copies, (image.width, image.height), pasted=False))
        if progress:
            progress(done, len(gallery.queries))
    if not found:
        raise GalleryError(f"No object that a query of {gallery.root} asks for has a box: nothing can be measured.")
    objects = {query.instance: described[query.id] for query in gallery.queries}
    alike = {
        one: sorted(set(objects) - {one}, key=lambda other: -float(objects[other] @ own))
        for one, own in objects.items()
    }
    for scene in scenes(gallery, alike, seed):
        search = localizer.made_ready(localizer.extractor.picture_map(scene.picture))
        found.append(judged(search, scene.query, scene.boxes, scene.picture.size, pasted=True))
    return found


@dataclass(frozen=True)
class Shares:
    """How often one limit is right and wrong.

    Attributes:
        limit: on `Location.alike`.
        all_found: for each of IOUS, the share of pictures with several copies in which each is found.
        second: the share of pictures with one copy in which a second box is drawn.
    """

    limit: float
    all_found: tuple[float, ...]
    second: float


def shares(found: Sequence[Look], limit: float) -> Shares:
    """What one limit does; NaN for a share of no pictures."""
    several = np.array([one.all_found for one in found if one.copies > 1]).reshape(-1, len(IOUS))
    once = np.array([one.second for one in found if one.copies == 1])
    count, alone = len(several) or np.nan, len(once) or np.nan
    least = max(limit, float(np.nextafter(NEVER, 0)))  # what is never reached is not reached without a limit either
    return Shares(limit, tuple(((several >= least).sum(axis=0) / count).tolist()), float((once >= least).sum() / alone))


def limit_for(found: Sequence[Look], second: float) -> float:
    """The lowest limit at which a second box is drawn in at most this share of pictures with one copy."""
    once = np.sort([one.second for one in found if one.copies == 1])
    above = int(second * len(once) + 1e-9)
    return NEVER if above >= len(once) else float(np.nextafter(once[len(once) - 1 - above], np.inf))


def curve(found: Sequence[Look]) -> list[Shares]:
    """The shares at the limits that draw second boxes in these shares (`presence.CURVE`) of pictures with one copy."""
    return [shares(found, limit_for(found, second)) for second in CURVE]


def as_table(name: str, found: Sequence[Look]) -> str:
    """A Markdown table of the shares of one dataset's looks: at the limit that is shipped, then the curve."""
    counts = [sum((one.copies > 1) == several for one in found) for several in (True, False)]
    head = [
        f"{name}: limit",
        f"second box in {counts[1]} pictures of one",
        *(f"all found in {counts[0]} pictures of several, IoU {least}" for least in IOUS),
    ]
    rows = [shares(found, LocalizeSettings().another), *curve(found)]
    return table(head, [[f"{one.limit:.3f}", *(f"{v:.1%}" for v in (one.second, *one.all_found))] for one in rows])


def as_json(found: Sequence[Look]) -> dict[str, Any]:
    """The same as JSON values, with how many pictures there are of each kind."""
    kinds = [("own", "pasted")[one.pasted] + (" once", " several")[one.copies > 1] for one in found]
    lines = [_as_json(shares(found, LocalizeSettings().another)), *map(_as_json, curve(found))]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return {"pictures": counts, "shipped": lines[0], "curve": lines[1:]}


def _as_json(one: Shares) -> dict[str, Any]:
    values = {
        "limit": one.limit,
        "second": one.second,
        **{f"all_found@{k}": v for k, v in zip(IOUS, one.all_found, strict=True)},
    }
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
