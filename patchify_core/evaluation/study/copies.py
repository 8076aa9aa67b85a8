"""`study several`: are all copies of an object in a picture found, and how often is a second box drawn on one copy?

For each query and picture that shows its object, further objects are located whatever their similarity to the first
(`Location.alike`). Any threshold on that similarity can then be judged: in how many pictures with several copies does
each copy get a box of its own, and in how many pictures with one copy is a second box drawn?

Datasets show an object once in most pictures, so scenes are made from them: an object is cut out of another picture
(`localize.outline`), so that its pose and light differ, and pasted in at another size. Each scene has a counterpart
that shows the object once: the pasted object is a look-alike there, so that seams alone cannot tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import GalleryError
from patchify_core.evaluation.presence import CURVE
from patchify_core.evaluation.study.experiments import table
from patchify_core.gallery import Gallery, Query
from patchify_core.imaging.boxes import area, iou
from patchify_core.imaging.pictures import read_picture
from patchify_core.retrieval.localize import BoxSearch, Localizer, LocalizeSettings, Location
from patchify_core.retrieval.localize.outline import outline
from patchify_core.retrieval.localize.search import overlap
from patchify_core.retrieval.searcher import Searcher

if TYPE_CHECKING:
    from PIL.Image import Image

IOUS = (0.3, 0.5)
"""IoU of a box with a copy from which the copy counts as found."""

OBJECTS = 3
"""Objects that are located in a picture, as many as the page shows."""

NEVER = -np.inf

EACH = 3
"""Pictures per object that are pasted into; the last gets two copies, the others one."""

LOOK_ALIKES = 3
"""Most similar other objects, from which look-alikes are drawn."""

SHARES = (0.01, 0.45)
"""Share of the picture that the object in it covers."""

CUT_SHARES = (0.015, 0.5)
"""Share of its picture that an object covers which is cut out; smaller ones would be blurred."""

FITS = 0.6
"""Least IoU of a cut-out with its annotated box."""

SIZES = (0.4, 2.5)
"""Area of a copy relative to the object already in the picture."""

ENLARGED, LEAST_SIDE, LEAST_SHARE = 1.5, 12, 0.005
"""Limits of a copy: largest magnification, smallest side in pixels, smallest share of the picture."""

PLACES = 60
"""Places that are tried for a copy, which may not cover another."""

VIEWS = 4
"""Most pictures that an object is cut out of."""

MASK_SIDE = 320
"""Longest side in pixels of the picture whose outline is computed."""


@dataclass(frozen=True, eq=False)
class LocatedCopies:
    """How well a query's object is located in one picture, at any limit on `Location.alike`.

    Attributes:
        copies: Number of annotated copies of the object, at least 1.
        pasted: Whether the picture is a pasted scene.
        second: The highest limit at which a second box is drawn; -inf if never.
        all_found: (IOUS,) the highest limit at which all copies are found; -inf if never.
    """

    copies: int
    pasted: bool
    second: float
    all_found: NDArray[np.float64]


def highest_limit(boxes: ArrayLike, alike: ArrayLike, copies: ArrayLike, least_iou: float) -> float:
    """Return the highest limit at which each copy has a box of its own.

    A limit draws the boxes before the first one whose similarity is below it.

    Args:
        boxes: (M, 4) xyxy in the order of detection, M at least 1.
        alike: (M,) similarity of each box to the first, which is drawn at any limit.
        copies: (N, 4) xyxy, annotated.
        least_iou: IoU of a box with a copy from which it finds the copy.

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
    """Return the highest limit at which `drawn` boxes are drawn; arguments and values as for `highest_limit`."""
    further = np.asarray(alike, np.float64)[1:drawn]
    return NEVER if drawn > np.size(alike) else float(further.min(initial=np.inf))


def score_copies(located: Sequence[Location], copies: NDArray[np.float64], pasted: bool) -> LocatedCopies:
    """Compare the located objects of one picture with its annotated copies; boxes in the same unit."""
    boxes, alike = np.stack([one.box for one in located]), [one.alike for one in located]
    limits = np.array([highest_limit(boxes, alike, copies, least) for least in IOUS])
    return LocatedCopies(len(copies), pasted, limit_of(alike, 2), limits)


def locate_copies(
    gallery: Gallery, engine: Searcher, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> list[LocatedCopies]:
    """Locate the object of every query in the pictures that show it, and in pasted scenes.

    Args:
        gallery: A dataset with queries and boxes.
        engine: An index of its pictures with pooled features, and its encoder.
        seed: Seed of the pasted scenes.
        progress: Called with (queries done, queries in all).

    Raises:
        GalleryError: If no query's object has a box.
        PatchifyError: If the index was made of crops.
    """
    localizer = Localizer(engine, LocalizeSettings(another=NEVER))
    # Without their decoded pictures, which all queries of a large dataset together have no room for.
    described = {query.id: replace(engine.describe(query), picture=None) for query in gallery.queries}

    def locate(
        search: BoxSearch, query: Query, copies: NDArray[np.float64], size: tuple[int, int], pasted: bool
    ) -> LocatedCopies:
        objects = OBJECTS if len(copies) > 1 else 2  # of a single copy only a second box matters
        return score_copies(
            localizer.objects_of(search, described[query.id], objects), copies / np.tile(size, 2), pasted
        )

    results = []
    for done, query in enumerate(gallery.queries, 1):
        for image_id, copies in gallery.positives(query.instance, query.exclude).items():
            if copies is not None:
                image, search = gallery.image(image_id), localizer.search_of(engine.index.row_of[image_id])
                results.append(locate(search, query, copies, (image.width, image.height), pasted=False))
        if progress:
            progress(done, len(gallery.queries))
    if not results:
        raise GalleryError(f"No object that a query of {gallery.root} asks for has a box: nothing can be measured.")
    objects = {query.instance: described[query.id].descriptor for query in gallery.queries}
    alike = {
        one: sorted(set(objects) - {one}, key=lambda other: -float(objects[other] @ own))
        for one, own in objects.items()
    }
    for scene in scenes(gallery, alike, seed):
        search = localizer.prepare(localizer.extractor.picture_map(scene.picture))
        results.append(locate(search, scene.query, scene.boxes, scene.picture.size, pasted=True))
    return results


@dataclass(frozen=True)
class Shares:
    """How often one limit is right and wrong.

    Attributes:
        limit: The limit on `Location.alike`.
        all_found: For each of IOUS, the share of pictures with several copies in which all are found.
        second: The share of pictures with one copy in which a second box is drawn.
    """

    limit: float
    all_found: tuple[float, ...]
    second: float


def shares(results: Sequence[LocatedCopies], limit: float) -> Shares:
    """Return the shares at one limit; NaN for a share of no pictures."""
    several = np.array([one.all_found for one in results if one.copies > 1]).reshape(-1, len(IOUS))
    once = np.array([one.second for one in results if one.copies == 1])
    count, alone = len(several) or np.nan, len(once) or np.nan
    least = max(limit, float(np.nextafter(NEVER, 0)))  # a value of -inf is not reached without a limit either
    return Shares(limit, tuple(((several >= least).sum(axis=0) / count).tolist()), float((once >= least).sum() / alone))


def limit_for(results: Sequence[LocatedCopies], second: float) -> float:
    """Return the lowest limit that draws a second box in at most this share of the pictures with one copy."""
    once = np.sort([one.second for one in results if one.copies == 1])
    above = int(second * len(once) + 1e-9)
    return NEVER if above >= len(once) else float(np.nextafter(once[len(once) - 1 - above], np.inf))


def curve(results: Sequence[LocatedCopies]) -> list[Shares]:
    """Return the shares at the limits that draw second boxes in the shares `CURVE` of pictures with one copy."""
    return [shares(results, limit_for(results, second)) for second in CURVE]


def as_table(name: str, results: Sequence[LocatedCopies]) -> str:
    """Format one dataset's shares as a Markdown table: at the default limit, then along the curve."""
    counts = [sum((one.copies > 1) == several for one in results) for several in (True, False)]
    head = [
        f"{name}: limit",
        f"second box in {counts[1]} pictures of one",
        *(f"all found in {counts[0]} pictures of several, IoU {least}" for least in IOUS),
    ]
    rows = [shares(results, LocalizeSettings().another), *curve(results)]
    return table(head, [[f"{one.limit:.3f}", *(f"{v:.1%}" for v in (one.second, *one.all_found))] for one in rows])


def as_json(results: Sequence[LocatedCopies]) -> dict[str, Any]:
    """Return the shares as JSON values, with the number of pictures of each kind."""
    kinds = [("own", "pasted")[one.pasted] + (" once", " several")[one.copies > 1] for one in results]
    lines = [_as_json(shares(results, LocalizeSettings().another)), *map(_as_json, curve(results))]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return {"pictures": counts, "shipped": lines[0], "curve": lines[1:]}


def _as_json(one: Shares) -> dict[str, Any]:
    values = {
        "limit": one.limit,
        "second": one.second,
        **{f"all_found@{k}": v for k, v in zip(IOUS, one.all_found, strict=True)},
    }
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


# Pasted scenes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture made for a query.

    Attributes:
        query: The query whose object it shows.
        picture: RGB.
        boxes: (M, 4) float64 xyxy in pixels, all copies of the query's object.
    """

    query: Query
    picture: Image
    boxes: NDArray[np.float64]


def cut_out(picture: Image, box: NDArray[np.float64]) -> Image | None:
    """Cut the object in a box out, as RGBA; None where its outline does not fit the box."""
    from PIL import Image

    small = picture.copy()
    small.thumbnail((MASK_SIDE, MASK_SIDE))
    sides = np.tile(picture.size, 2)
    mask = outline(np.asarray(small), (box / sides).tolist())
    if mask is None:
        return None
    alpha = Image.fromarray(mask).convert("L").resize(picture.size, Image.Resampling.BILINEAR)
    ends = alpha.getbbox()
    if ends is None or iou(box, ends)[0, 0] < FITS:
        return None
    piece = picture.crop(ends)
    piece.putalpha(alpha.crop(ends))
    return piece


def paste(
    picture: Image, piece: Image, boxes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Image, NDArray[np.float64]] | None:
    """Paste an object into a picture, resized, perhaps mirrored, and made lighter or darker.

    Args:
        picture: RGB.
        piece: RGBA, from `cut_out`.
        boxes: (M, 4) float64 xyxy in pixels that it may not cover; its area is drawn relative to the first.
        rng: Random numbers for all of it.

    Returns:
        The new picture and (4,) the new object's box; None if there is no place for it.
    """
    from PIL import Image, ImageEnhance, ImageOps

    around = float(area(boxes[:1])[0])
    for _ in range(PLACES):
        wanted = around * np.exp(rng.uniform(*np.log(SIZES)))
        scale = min(float(np.sqrt(wanted / (piece.width * piece.height))), ENLARGED)
        width, height = round(piece.width * scale), round(piece.height * scale)
        small = min(width, height) < LEAST_SIDE or width * height < LEAST_SHARE * picture.width * picture.height
        if small or width >= picture.width or height >= picture.height:
            continue
        x, y = (int(rng.integers(0, left)) for left in (picture.width - width, picture.height - height))
        box = np.array([x, y, x + width, y + height], np.float64)
        if (overlap(boxes, box) > 0).any():
            continue
        copy = piece.resize((width, height), Image.Resampling.LANCZOS)
        copy = ImageOps.mirror(copy) if rng.random() < 0.5 else copy
        scene = picture.copy()
        scene.paste(ImageEnhance.Brightness(copy.convert("RGB")).enhance(rng.uniform(0.8, 1.2)), (x, y), copy)
        return scene, box
    return None


def scenes(gallery: Gallery, look_alikes: Mapping[int, Sequence[int]], seed: int = 0) -> Iterator[Scene]:
    """Yield pairs of pictures: one that shows a query's object two or three times, and one that shows it once.

    Args:
        gallery: A dataset with queries and boxes.
        look_alikes: Object -> the other objects, most similar first.
        seed: Seed of everything random.
    """
    queries: dict[int, list[Query]] = {}
    for query in gallery.queries:
        queries.setdefault(query.instance, []).append(query)
    pieces = {instance: _pieces(gallery, instance) for instance in queries}
    for instance, of_object in queries.items():
        rng = np.random.default_rng((seed, instance))
        alike = look_alikes[instance][:LOOK_ALIKES]
        count = 0
        for image_id in rng.permutation(_once(gallery, instance, SHARES)).tolist():
            query = of_object[count % len(of_object)]
            mine = [piece for image, piece in pieces[instance] if image not in {image_id, *query.exclude}]
            others = [piece for one in alike if image_id not in gallery.positives(one) for _, piece in pieces[one]]
            if count == EACH or not mine or not others or image_id in query.exclude:
                continue
            picture = read_picture(gallery.image(image_id).path)
            boxes = gallery.boxes_of(image_id, instance)
            once = paste(picture, others[int(rng.integers(len(others)))], boxes, rng)
            several: Image | None = None
            for _ in range(2 if count == EACH - 1 else 1):
                more = paste(several or picture, mine[int(rng.integers(len(mine)))], boxes, rng)
                if more is not None:
                    several, boxes = more[0], np.vstack([boxes, more[1]])
            if once is not None and several is not None:
                yield Scene(query, several, boxes)
                yield Scene(query, once[0], boxes[:1])
                count += 1


def _once(gallery: Gallery, instance: int, shares: tuple[float, float]) -> list[int]:
    """List the pictures that show an object once, covering a share of the picture within `shares`."""
    ids = []
    for image_id, boxes in gallery.positives(instance).items():
        image = gallery.image(image_id)
        if boxes is not None and len(boxes) == 1:
            share = float(area(boxes)[0]) / (image.width * image.height)
            ids += [image_id] if shares[0] <= share <= shares[1] else []
    return ids


def _pieces(gallery: Gallery, instance: int) -> list[tuple[int, Image]]:
    """Cut an object out of several pictures; each piece with the id of its picture."""
    pieces: list[tuple[int, Image]] = []
    for image_id in _once(gallery, instance, CUT_SHARES):
        if len(pieces) < VIEWS:
            piece = cut_out(read_picture(gallery.image(image_id).path), gallery.boxes_of(image_id, instance)[0])
            pieces += [] if piece is None else [(image_id, piece)]
    return pieces
