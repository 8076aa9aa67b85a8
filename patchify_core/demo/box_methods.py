"""Which box a visitor is shown: that of the winning patch, or a refined one. What a search on maps found is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.features.extract import CROP
from patchify_core.retrieval.localize.refine import WORKERS, map_at_once

if TYPE_CHECKING:
    from patchify_core.index.store import PatchStore
    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.localize import Localizer, SimilarityMap
    from patchify_core.retrieval.ranking import Match

WINNING, SOFT, MAP = "patch", "soft", "map"
"""The ways to a box; the last two are names of refiners (`localize.REFINERS`)."""

NAMES = {
    WINNING: "Winning patch",
    SOFT: "Soft box: mean of all patches",
    MAP: "Refined box (ours)",
}
"""What the page calls them."""

BOXES = {SOFT: "soft box", MAP: "refined box"}
"""What one of their boxes is called."""

OBJECTS = 3
"""Objects that are looked for in each picture that is shown, at most; for a score the best one is enough."""

TWICE_FROM = 0.7
"""Further objects are looked for in pictures that score at least this share of the best one: in others there is hardly
one, and a search for it takes as long as one for the first."""


def has_maps(index: PatchStore) -> bool:
    """Whether boxes can be searched for on the feature maps of an index's pictures."""
    return index.features != CROP


def best_method(index: PatchStore) -> str:
    """The best way to a box that an index allows."""
    return MAP if has_maps(index) else SOFT


def is_possible(box_method: str, index: PatchStore) -> bool:
    """Whether an index allows a way."""
    return box_method in NAMES and (box_method != MAP or has_maps(index))


def checked_method(box_method: str, index: PatchStore) -> str:
    """The kind of box as it was chosen.

    Raises:
        PatchifyError: if there is none of that name, or it needs feature maps and the index was made of crops.
    """
    if box_method not in NAMES:
        raise PatchifyError("The page does not have that kind of box: choose one of those shown.")
    if not is_possible(box_method, index):
        raise PatchifyError(
            "This method keeps no feature maps to refine boxes on: choose “Fast: one pass per picture” under Method."
        )
    return box_method


def fitting_method(box_method: str, before: PatchStore, after: PatchStore) -> str:
    """The way after another index was chosen: the best one stays the best one, others stay what they are."""
    return best_method(after) if box_method == best_method(before) else box_method


@dataclass(frozen=True)
class CachingRefiner:
    """A refiner on maps (`localize.Refiner`) that keeps what it found with the query.

    Attributes:
        query: whose descriptor is looked for.
        engine: an index with pooled features and its encoder.
        objects: looked for in each picture, at most.
        workers: pictures that are searched at once.
    """

    query: UserQuery
    engine: Patchify
    objects: int = 1
    workers: int = WORKERS
    name: str = MAP

    def boxes(
        self, query: NDArray[np.float32], rows: Sequence[int], level: int | None = None
    ) -> list[NDArray[np.float64]]:
        """See `localize.Refiner.boxes`; `query` is its descriptor."""
        kept = self.query.located
        missing = [row for row in rows if row not in kept or kept[row][0] < self.objects]
        localizer = localizer_of(self.engine)

        def locate(row: int) -> NDArray[np.float64]:
            return np.stack([found.box for found in localizer.locate(query, row, self.objects)])

        found = map_at_once(locate, missing, self.workers)
        for row, boxes in zip(missing, found, strict=True):
            if row not in kept or kept[row][0] < self.objects:  # meanwhile somebody may have looked for more
                kept[row] = self.objects, boxes
        return [kept[row][1][: self.objects] for row in rows]


def with_boxes(
    query: UserQuery,
    engine: Patchify,
    matches: Sequence[Match],
    box_method: str,
    level: int,
    objects: int = 1,
    workers: int = WORKERS,
) -> list[Match]:
    """The same matches in the same order, with the boxes of one way; boxes found point by point stay.

    Args:
        query: what was asked.
        engine: that found the matches.
        matches: what was found, best first.
        box_method: see `checked_method`.
        level: the level that they were found at.
        objects: looked for in each picture, at most; see `TWICE_FROM`.
        workers: pictures that are searched at once.

    Raises:
        PatchifyError: see `checked_method`.
        IndexFolderError: if a map is damaged or was taken away.
    """
    checked_method(box_method, engine.index)
    if box_method == WINNING or not matches:
        return list(matches)
    if box_method == SOFT:
        return engine.refine(query.descriptor, list(matches), SOFT, level)
    good = 0
    if objects > 1:
        good = next((at for at, m in enumerate(matches) if m.score < TWICE_FROM * matches[0].score), len(matches))
    refined = []
    for part, wanted in ((matches[:good], objects), (matches[good:], 1)):
        refiner = CachingRefiner(query, engine, wanted, workers)
        refined += engine.refine(query.descriptor, list(part), refiner, level)
    return refined


def similarity(query: UserQuery, engine: Patchify, image_id: int) -> SimilarityMap | None:
    """How well each place of a picture matches the query; None where the index has no maps.

    Raises:
        IndexFolderError: if the map is damaged or was taken away.
    """
    if not has_maps(engine.index):
        return None
    return localizer_of(engine).similarity(query.descriptor, engine.index.row_of[image_id])


def localizer_of(engine: Patchify) -> Localizer:
    """The engine's own, which keeps the maps of the last pictures ready."""
    from patchify_core.retrieval.localize import MapRefiner

    refiner = engine.refiner(MAP)
    assert isinstance(refiner, MapRefiner)
    return refiner.localizer
