"""Pictures that show an object several times, made from a dataset that shows it once: other views of it, pasted in.

A copy is cut out of another picture of the object (`localize.outline`), so that its pose and light differ, and pasted
at another size. For every such scene there is one that shows the object once: the same picture with the pasted object
replaced by a look-alike, so that seams and paste alone cannot tell the two apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.gallery import Gallery, Query
from patchify_core.imaging.boxes import area, iou
from patchify_core.imaging.pictures import read_picture
from patchify_core.retrieval.localize.outline import outline
from patchify_core.retrieval.localize.search import overlap

if TYPE_CHECKING:
    from PIL.Image import Image

EACH = 3
"""Pictures of each object that are pasted into; the last gets two copies, the others one."""

LOOK_ALIKES = 3
"""Objects, those most like the query's, that look-alikes are drawn from."""

SHARES = (0.01, 0.45)
"""Share of the picture that the object in it takes."""

CUT_SHARES = (0.015, 0.5)
"""Share of its picture that an object takes which is cut out: smaller ones would be blurred."""

FITS = 0.6
"""IoU of a cut-out with its annotated box from which it is the object."""

SIZES = (0.4, 2.5)
"""Area of a copy in units of the object's own in the picture."""

ENLARGED, LEAST_SIDE, LEAST_SHARE = 1.5, 12, 0.005
"""What a copy may be: so many times the size that it was cut out at, no less pixels, no less of the picture."""

PLACES = 60
"""Places that are tried for a copy, which may cover no other."""

VIEWS = 4
"""Pictures that an object is cut out of, at most."""

MASK_SIDE = 320
"""Longest side in pixels of the picture that the outline is looked for in."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture made for a query.

    Attributes:
        query: whose object it shows.
        picture: RGB.
        boxes: (M, 4) float64 xyxy in pixels, all places of the query's object.
    """

    query: Query
    picture: Image
    boxes: NDArray[np.float64]


def cut_out(picture: Image, box: NDArray[np.float64]) -> Image | None:
    """The object of a box, RGBA and no larger than it is; None where its outline does not fit the box."""
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


def pasted(
    picture: Image, piece: Image, boxes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[Image, NDArray[np.float64]] | None:
    """A picture with one more object in it.

    Args:
        picture: RGB.
        piece: RGBA, from `cut_out`; it is mirrored or not, made lighter or darker, and resized.
        boxes: (M, 4) float64 xyxy in pixels, where it may not be; its area is drawn around that of the first.
        rng: draws all of that.

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
        made = picture.copy()
        made.paste(ImageEnhance.Brightness(copy.convert("RGB")).enhance(rng.uniform(0.8, 1.2)), (x, y), copy)
        return made, box
    return None


def scenes(gallery: Gallery, look_alikes: Mapping[int, Sequence[int]], seed: int = 0) -> Iterator[Scene]:
    """Yield pairs of pictures: one that shows a query's object two or three times, and one that shows it once.

    Args:
        gallery: a dataset with queries and boxes.
        look_alikes: object -> the others, those most like it first.
        seed: other scenes of the same kind.
    """
    queries: dict[int, list[Query]] = {}
    for query in gallery.queries:
        queries.setdefault(query.instance, []).append(query)
    pieces = {instance: _pieces(gallery, instance) for instance in queries}
    for instance, asking in queries.items():
        rng = np.random.default_rng((seed, instance))
        alike = look_alikes[instance][:LOOK_ALIKES]
        made = 0
        for image_id in rng.permutation(_once(gallery, instance, SHARES)).tolist():
            query = asking[made % len(asking)]
            mine = [piece for image, piece in pieces[instance] if image not in {image_id, *query.exclude}]
            others = [piece for one in alike if image_id not in gallery.positives(one) for _, piece in pieces[one]]
            if made == EACH or not mine or not others or image_id in query.exclude:
                continue
            picture = read_picture(gallery.image(image_id).path)
            boxes = gallery.boxes_of(image_id, instance)
            once = pasted(picture, others[int(rng.integers(len(others)))], boxes, rng)
            several: Image | None = None
            for _ in range(2 if made == EACH - 1 else 1):
                more = pasted(several or picture, mine[int(rng.integers(len(mine)))], boxes, rng)
                if more is not None:
                    several, boxes = more[0], np.vstack([boxes, more[1]])
            if once is not None and several is not None:
                yield Scene(query, several, boxes)
                yield Scene(query, once[0], boxes[:1])
                made += 1


def _once(gallery: Gallery, instance: int, shares: tuple[float, float]) -> list[int]:
    """The pictures that show an object once and take a share of these for it."""
    found = []
    for image_id, boxes in gallery.positives(instance).items():
        image = gallery.image(image_id)
        if boxes is not None and len(boxes) == 1:
            share = float(area(boxes)[0]) / (image.width * image.height)
            found += [image_id] if shares[0] <= share <= shares[1] else []
    return found


def _pieces(gallery: Gallery, instance: int) -> list[tuple[int, Image]]:
    """Views of an object, each with the picture that it was cut out of."""
    found: list[tuple[int, Image]] = []
    for image_id in _once(gallery, instance, CUT_SHARES):
        if len(found) < VIEWS:
            piece = cut_out(read_picture(gallery.image(image_id).path), gallery.boxes_of(image_id, instance)[0])
            found += [] if piece is None else [(image_id, piece)]
    return found
