"""Refiners: the same ranking with better boxes. `load_refiner("soft")`, `load_refiner("map")`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.retrieval.localize.locate import Localizer, LocalizeSettings
from patchify_core.retrieval.localize.search import expected_box

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
            rows: Positions in `PatchIndex.images`.
            level: The level that the pictures were found at; None for all of the index's.

        Returns:
            One (M, 4) float64 array of xyxy pixel boxes per picture, M at least 1, the best box first.

        Raises:
            IndexFolderError: If something that is needed has vanished since the index was opened.
        """
        ...


class SoftRefiner:
    """The box that all cells together point at (`soft`); on any index."""

    name = "soft"

    def __init__(self, engine: Searcher) -> None:
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
        """Take the engine that searched.

        Raises:
            PatchifyError: If its index was made of crops.
        """
        self.localizer = Localizer(engine, settings)

    def boxes(
        self, query: NDArray[np.float32], rows: Sequence[int], level: int | None = None
    ) -> list[NDArray[np.float64]]:
        """See `Refiner.boxes`."""
        return map_at_once(lambda row: self._boxes(query, row), rows)

    def _boxes(self, query: NDArray[np.float32], row: int) -> NDArray[np.float64]:
        return np.stack([location.box for location in self.localizer.locate(query, row)])


def load_refiner(name: str, engine: Searcher, settings: LocalizeSettings | None = None) -> Refiner:
    """A refiner for one engine.

    Args:
        name: One of `REFINERS`.
        engine: Index and encoder.
        settings: Of the search on maps.

    Raises:
        PatchifyError: One sentence, if there is no such refiner, or the index cannot be refined with it.
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
        engine: That found the matches.
        query: (dim,) float32 of length 1 that they were found with.
        matches: What was found.
        refiner: See `load_refiner`.
        level: The level that they were found at.

    Raises:
        IndexFolderError: See `Refiner.boxes`.
    """
    unverified = [match for match in matches if match.verification is None or match.verification.box is None]
    refined = refiner.boxes(query, [engine.index.row_of[match.image_id] for match in unverified], level)
    boxes = {match.image_id: boxes for match, boxes in zip(unverified, refined, strict=True)}
    return [
        replace(match, box=boxes[match.image_id][0], others=boxes[match.image_id][1:])
        if match.image_id in boxes
        else match
        for match in matches
    ]


# Several pictures at once, each on one thread --------------------------------------------------------------------


Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 2
"""Pictures that are searched at once; numpy and OpenCV leave Python's lock alone while they work."""


class _OneThreadEach:
    """While any thread is inside, numerical libraries use one thread each; afterwards as many as before."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:  # counted: the first to come sets the limit, and only the last to leave lifts it
            if not self._inside:
                self._limit = threadpool_limits(1)  # of all that are loaded by now
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()


_one_thread_each = _OneThreadEach()


def map_at_once(work: Callable[[Item], Result], items: Sequence[Item], workers: int = WORKERS) -> list[Result]:
    """`list(map(work, items))`, several at once.

    Args:
        work: Safe to call from several threads.
        items: What to work on.
        workers: How many at once; below 2, or with a single item, the caller's thread does all, with all cores.

    Raises:
        Exception: The first that `work` raised, in the order of the items.
    """
    if len(items) < 2 or workers < 2:
        return [work(item) for item in items]
    with _one_thread_each, ThreadPoolExecutor(workers, thread_name_prefix="patchify-refine") as threads:
        return list(threads.map(work, items))
