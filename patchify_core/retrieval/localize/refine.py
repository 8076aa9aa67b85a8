"""Refiners: the same ranking with better boxes. `load_refiner("soft")`, `load_refiner("map")`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.retrieval.localize.locate import Localizer, LocalizeSettings
from patchify_core.retrieval.localize.soft import expected_box
from patchify_core.retrieval.localize.workers import map_at_once

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher

REFINERS = ("soft", "map")
"""What `load_refiner` takes."""


class Refiner(Protocol):
    """Finds boxes for pictures that a search found."""

    @property
    def name(self) -> str:
        """As `load_refiner` takes it."""
        ...

    def boxes(
        self, query: NDArray[np.float32], rows: Sequence[int], level: int | None = None
    ) -> list[NDArray[np.float64]]:
        """The objects in each picture.

        Args:
            query: (dim,) float32 of length 1, from `Searcher.describe_query`.
            rows: positions in `PatchIndex.images`.
            level: the level that the pictures were found at; None for all of the index's.

        Returns:
            One (M, 4) float64 array of xyxy pixel boxes a picture, M at least 1, the best box first.

        Raises:
            IndexFolderError: if something that is needed has vanished since the index was opened.
        """
        ...


class SoftRefiner:
    """The box that all cells together point at (`soft`); on any index."""

    name = "soft"

    def __init__(self, engine: Searcher) -> None:
        """Takes the engine that searched."""
        self.index = engine.index

    def boxes(
        self, query: NDArray[np.float32], rows: Sequence[int], level: int | None = None
    ) -> list[NDArray[np.float64]]:
        """See `Refiner.boxes`."""
        used = self.index.regions.stages[self.index.checked_level(level) - 1].patches
        return [
            expected_box(self.index.boxes_of(row)[:used], self.index.cell_scores(query, row)[:used])[None]
            for row in rows
        ]


class MapRefiner:
    """A search on the pictures' feature maps (`locate`); the level does not matter to it."""

    name = "map"

    def __init__(self, engine: Searcher, settings: LocalizeSettings | None = None) -> None:
        """Takes the engine that searched.

        Raises:
            PatchifyError: if its index was made of crops.
        """
        self.localizer = Localizer(engine, settings)

    def boxes(
        self, query: NDArray[np.float32], rows: Sequence[int], level: int | None = None
    ) -> list[NDArray[np.float64]]:
        """See `Refiner.boxes`."""
        return map_at_once(lambda row: self._boxes(query, row), rows)

    def _boxes(self, query: NDArray[np.float32], row: int) -> NDArray[np.float64]:
        return np.stack([found.box for found in self.localizer.locate(query, row)])


def load_refiner(name: str, engine: Searcher, settings: LocalizeSettings | None = None) -> Refiner:
    """A refiner for one engine.

    Args:
        name: one of `REFINERS`.
        engine: index and encoder.
        settings: of the search on maps.

    Raises:
        PatchifyError: one sentence, if there is no such refiner, or the index cannot be refined with it.
    """
    if name == "soft":
        return SoftRefiner(engine)
    if name == "map":
        return MapRefiner(engine, settings)
    near = difflib.get_close_matches(name.lower(), REFINERS, 1, 0.4)
    hint = f" (the nearest is {near[0]})" if near else ""
    raise PatchifyError(f"Unknown way to refine boxes '{name}'{hint}: choose {' or '.join(REFINERS)}.")


def refiner_of(engine: Searcher, name: str) -> Refiner:
    """The refiner of that name with the usual settings, kept with the engine; args and errors: see `load_refiner`."""
    if (key := f"refine {name}") not in engine.loaded:
        engine.loaded[key] = load_refiner(name, engine)
    refiner: Refiner = engine.loaded[key]
    return refiner


def refine_matches(
    engine: Searcher, query: NDArray[np.float32], matches: Sequence[Match], refiner: Refiner, level: int | None = None
) -> list[Match]:
    """The same matches in the same order, with refined boxes.

    A box that a geometric verification found stays: it was found point by point.

    Args:
        engine: that found the matches.
        query: (dim,) float32 of length 1 that they were found with.
        matches: what was found.
        refiner: see `load_refiner`.
        level: the level that they were found at.

    Raises:
        IndexFolderError: see `Refiner.boxes`.
    """
    open_ones = [match for match in matches if match.verification is None or match.verification.box is None]
    found = refiner.boxes(query, [engine.index.row_of[match.image_id] for match in open_ones], level)
    boxes = {match.image_id: boxes for match, boxes in zip(open_ones, found, strict=True)}
    return [
        replace(match, box=boxes[match.image_id][0], others=boxes[match.image_id][1:])
        if match.image_id in boxes
        else match
        for match in matches
    ]
