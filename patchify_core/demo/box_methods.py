"""Methods to find the box of a result: the winning patch, a soft box, or a search on feature maps."""

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
    from patchify_core.retrieval.searcher import QueryView

WINNING, SOFT, MAP = "patch", "soft", "map"
"""The methods; the last two are names of refiners (`localize.REFINERS`)."""

NAMES = {
    WINNING: "Winning patch",
    SOFT: "Soft box: mean of all patches",
    MAP: "Refined box (ours)",
}
"""Their names on the page."""

BOXES = {SOFT: "soft box", MAP: "refined box"}
"""Names of one of their boxes."""

OBJECTS = 3
"""Most objects to search for in each picture that is shown; for a score the best one is enough."""

TWICE_FROM = 0.7
"""Further objects are searched for in pictures that score at least this share of the best one: others hardly contain
one, and each search takes as long as the first."""


def has_maps(index: PatchStore) -> bool:
    """Whether boxes can be searched for on feature maps of the index's pictures."""
    return index.features != CROP


def best_method(index: PatchStore) -> str:
    """Return the best method that an index allows."""
    return MAP if has_maps(index) else SOFT


def is_possible(box_method: str, index: PatchStore) -> bool:
    """Whether an index allows a method."""
    return box_method in NAMES and (box_method != MAP or has_maps(index))


def checked_method(box_method: str, index: PatchStore) -> str:
    """Return the method as chosen.

    Raises:
        PatchifyError: If there is none of that name, or it needs feature maps and the index was built from crops.
    """
    if box_method not in NAMES:
        raise PatchifyError("The page does not have that kind of box: choose one of those shown.")
    if not is_possible(box_method, index):
        raise PatchifyError(
            "This method keeps no feature maps to refine boxes on: choose “Fast: one pass per picture” under Method."
        )
    return box_method


def fitting_method(box_method: str, before: PatchStore, after: PatchStore) -> str:
    """Return the method for another index: the best one becomes that index's best, others stay."""
    return best_method(after) if box_method == best_method(before) else box_method


@dataclass(frozen=True)
class CachingRefiner:
    """A refiner on feature maps (`localize.Refiner`) that caches its boxes in the query.

    Attributes:
        query: What to search for.
        engine: An index with pooled features and its encoder.
        objects: Most objects to search for in each picture.
        workers: Pictures searched at once.
    """

    query: UserQuery
    engine: Patchify
    objects: int = 1
    workers: int = WORKERS
    name: str = MAP

    def boxes(self, query: QueryView, rows: Sequence[int], level: int | None = None) -> list[NDArray[np.float64]]:
        """See `localize.Refiner.boxes`; `query` is its view."""
        cache = self.query.located
        missing = [row for row in rows if row not in cache or cache[row][0] < self.objects]
        localizer = localizer_of(self.engine)

        def locate(row: int) -> NDArray[np.float64]:
            return np.stack([place.box for place in localizer.locate(query, row, self.objects)])

        located = map_at_once(locate, missing, self.workers)
        for row, boxes in zip(missing, located, strict=True):
            if row not in cache or cache[row][0] < self.objects:  # another thread may have searched for more
                cache[row] = self.objects, boxes
        return [cache[row][1][: self.objects] for row in rows]


def with_boxes(
    query: UserQuery,
    engine: Patchify,
    matches: Sequence[Match],
    box_method: str,
    level: int,
    objects: int = 1,
    workers: int = WORKERS,
) -> list[Match]:
    """Return the same matches with the boxes of one method; boxes from matched points stay.

    Args:
        query: The query.
        engine: That found the matches.
        matches: Best first.
        box_method: See `checked_method`.
        level: Of the search.
        objects: Most objects to search for in each picture; see `TWICE_FROM`.
        workers: Pictures searched at once.

    Raises:
        PatchifyError: See `checked_method`.
        IndexFolderError: If a map is damaged or missing.
    """
    checked_method(box_method, engine.index)
    if box_method == WINNING or not matches:
        return list(matches)
    if box_method == SOFT:
        return engine.refine(query.view, list(matches), SOFT, level)
    good = 0
    if objects > 1:
        good = next((at for at, m in enumerate(matches) if m.score < TWICE_FROM * matches[0].score), len(matches))
    refined = []
    for part, wanted in ((matches[:good], objects), (matches[good:], 1)):
        refiner = CachingRefiner(query, engine, wanted, workers)
        refined += engine.refine(query.view, list(part), refiner, level)
    return refined


def similarity(query: UserQuery, engine: Patchify, image_id: int) -> SimilarityMap | None:
    """Return how well each place of a picture matches the query; None where the index has no maps.

    Raises:
        IndexFolderError: If the map is damaged or missing.
    """
    if not has_maps(engine.index):
        return None
    return localizer_of(engine).similarity(query.view, engine.index.row_of[image_id])


def localizer_of(engine: Patchify) -> Localizer:
    """Return the engine's own localizer, which caches the maps of the last pictures."""
    from patchify_core.retrieval.localize import MapRefiner

    refiner = engine.refiner(MAP)
    assert isinstance(refiner, MapRefiner)
    return refiner.localizer
