"""Backs the page for phones: a box around a tapped object, and rankings by whole images and by patches side by side.

One of the visitor's pictures is the query. Neither it nor those that were the query before are among the results.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from patchify_core.demo.decoding import DECODER_POOL, predicted_memory
from patchify_core.demo.indexes import method_label
from patchify_core.demo.own.boxes import numbers
from patchify_core.demo.own.collection import OwnPicture
from patchify_core.demo.own.visitor import Visitor
from patchify_core.demo.stages import grid_of
from patchify_core.encoders.maps import as_map_encoder
from patchify_core.errors import PatchifyError
from patchify_core.features.extract import Pooled
from patchify_core.imaging.boxes import checked_box
from patchify_core.imaging.pictures import read_picture
from patchify_core.patchify import Patchify
from patchify_core.retrieval.localize.search import BoxSearch
from patchify_core.retrieval.localize.tap import box_around, box_in_pixels, tapped_box

TOP = 10
"""Pictures of each ranking."""

T = TypeVar("T", np.float32, np.float64)


def propose_box(visitor: Visitor, name: str, point: object, address: str = "") -> list[float]:
    """Propose a box around what was tapped on a picture.

    Args:
        visitor: Whose picture it is; it need not be indexed yet.
        name: Of the picture.
        point: x and y in pixels of the upright picture; clipped to it.
        address: Where the visitor comes from.

    Returns:
        x1, y1, x2, y2 in pixels, at least one pixel wide and high; a square at the tap if nothing stands out or the
        encoder has no feature maps.

    Raises:
        PatchifyError: One sentence, if there is no such picture, or the point is invalid.
    """
    picture = visitor.collection.named(name)
    size = np.array([picture.width, picture.height], np.float64)
    at = np.clip(numbers(point, 2) / size, 0, 1)

    def propose(pixels: Image) -> NDArray[np.float64]:
        try:
            extractor = Pooled(as_map_encoder(visitor.encoder))
        except PatchifyError:  # an encoder of crops alone
            return box_around(at, picture.width / picture.height)
        return tapped_box(BoxSearch(extractor.picture_map(pixels), extractor.encoder, lambda rows: rows), at)

    return box_in_pixels(_read(picture, propose, address), at, (picture.width, picture.height)).tolist()


def rankings(visitor: Visitor, name: str, box: object, address: str = "") -> dict[str, Any]:
    """Rank the visitor's pictures against a box, by whole images and by patches.

    Args:
        visitor: Whose pictures are searched; some must be indexed.
        name: Of the query picture.
        box: x1, y1, x2, y2 in its pixels; None for all of it.
        address: Where the visitor comes from.

    Returns:
        `whole` and `patches`: names, best first. `method`: how patches are encoded. `grids`: N of each level's N x N
        grid, None where it is no grid.
        `pictures`: by name, `levels`: the best similarity of each level's own patches, and `box`: of the best patch of
        all, xyxy as fractions of the picture's sides. `indexed` of `total` pictures were searched.

    Raises:
        PatchifyError: One sentence, if there is no such picture or none is indexed, or the box is invalid.
    """
    picture, engine = visitor.collection.named(name), visitor.gallery.engine
    region = None if box is None else checked_box(numbers(box, 4), picture.width, picture.height)
    query = visitor.queries.get(picture.id)
    if query is None or not _same(query[0], region):
        query = region, _read(picture, lambda pixels: engine.describe_query(pixels, region), address)
        visitor.queries[picture.id] = query
    shown = {p.id: p.name for p in visitor.collection.pictures if p.id not in visitor.queries}
    lists = {kind: _best(engine, query[1], level, shown) for kind, level in (("whole", 1), ("patches", None))}
    scores = {image_id: _scores(engine, query[1], image_id) for ids in lists.values() for image_id in ids}
    return {
        **{kind: [shown[image_id] for image_id in ids] for kind, ids in lists.items()},
        "method": method_label(engine.index),
        "grids": [grid_of(stage) for stage in engine.index.regions.stages],
        "pictures": {shown[image_id]: values for image_id, values in scores.items()},
        "indexed": len(shown.keys() & set(engine.index.row_of)),
        "total": len(shown),
    }


def _same(a: NDArray[np.float64] | None, b: NDArray[np.float64] | None) -> bool:
    return a is b if a is None or b is None else np.array_equal(a, b)


def _best(engine: Patchify, query: NDArray[np.float32], level: int | None, shown: Container[int]) -> list[int]:
    ids = engine.ranking(query, level).image_ids.tolist()
    return [image_id for image_id in ids if image_id in shown][:TOP]


def _scores(engine: Patchify, query: NDArray[np.float32], image_id: int) -> dict[str, Any]:
    index = engine.index
    row = index.row_of[image_id]
    image, scores = index.images[row], index.cell_scores(query, row)
    ends = [stage.patches for stage in index.regions.stages]
    box = index.box_of(row, int(scores.argmax())) / ([image.width, image.height] * 2)
    return {
        "levels": [round(float(scores[start:end].max()), 4) for start, end in zip([0, *ends[:-1]], ends, strict=True)],
        "box": [round(value, 5) for value in box.tolist()],
    }


def _read(picture: OwnPicture, use: Callable[[Image], NDArray[T]], address: str) -> NDArray[T]:
    """Compute something of a visitor's picture, decoded within the limits on strangers' pictures."""
    with DECODER_POOL.result(
        lambda: read_picture(picture.path), address, needs=predicted_memory(picture.path)
    ) as pixels:
        return use(pixels)
