"""Refiners improve the boxes of matches and keep their order: `load_refiner("soft")`, `load_refiner("map")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError, nearest
from patchify_core.retrieval.localize.locate import Localizer, LocalizeSettings
from patchify_core.retrieval.localize.search import expected_box

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import QueryView, Searcher

REFINERS = ("soft", "map")
"""Names for `load_refiner`."""


class Refiner(Protocol):
    """Finds better boxes for matches."""

    @property
    def name(self) -> str:
        """Its name for `load_refiner`."""
        ...

    def boxes(self, query: QueryView, rows: Sequence[int], level: int | None = None) -> list[NDArray[np.float64]]:
        """Locate the query's objects in each picture.

        Args:
            query: From `Searcher.view`.
            rows: Positions in `PatchIndex.images`.
            level: Level of the search; None for all levels of the index.

        Returns:
            One (M, 4) float64 array of xyxy pixel boxes per picture, M at least 1, the best box first.

        Raises:
            IndexFolderError: If a required file has vanished since the index was opened.
        """
        ...


class SoftRefiner:
    """Score-weighted mean of the cells (`expected_box`); works on any index."""

    name = "soft"

    def __init__(self, engine: Searcher) -> None:
        self.index = engine.index

    def boxes(self, query: QueryView, rows: Sequence[int], level: int | None = None) -> list[NDArray[np.float64]]:
        """See `Refiner.boxes`."""
        used = self.index.regions.stages[self.index.checked_level(level) - 1].patches
        return [
            expected_box(self.index.boxes_of(row)[:used], self.index.cell_scores(query.descriptor, row)[:used])[None]
            for row in rows
        ]


class MapRefiner:
    """Box search on the pictures' feature maps (`Localizer`); ignores the level.

    Raises:
        PatchifyError: If the index was made of crops.
    """

    name = "map"

    def __init__(self, engine: Searcher, settings: LocalizeSettings | None = None) -> None:
        self.localizer = Localizer(engine, settings)

    def boxes(self, query: QueryView, rows: Sequence[int], level: int | None = None) -> list[NDArray[np.float64]]:
        """See `Refiner.boxes`."""
        return map_at_once(lambda row: self._boxes(query, row), rows)

    def _boxes(self, query: QueryView, row: int) -> NDArray[np.float64]:
        return np.stack([location.box for location in self.localizer.locate(query, row)])


def load_refiner(name: str, engine: Searcher, settings: LocalizeSettings | None = None) -> Refiner:
    """Load a refiner for one engine.

    Args:
        name: One of `REFINERS`.
        engine: Index and encoder.
        settings: Settings of `map`.

    Raises:
        PatchifyError: If the refiner is unknown, or does not support the index.
    """
    if name == "soft":
        return SoftRefiner(engine)
    if name == "map":
        return MapRefiner(engine, settings)
    raise PatchifyError(
        f"Unknown way to refine boxes '{name}'{nearest(name.lower(), REFINERS)}: choose {' or '.join(REFINERS)}."
    )


def refiner_of(engine: Searcher, name: str) -> Refiner:
    """Return a refiner with default settings, cached with the engine; args and errors: see `load_refiner`."""
    if (key := f"refine {name}") not in engine.loaded:
        engine.loaded[key] = load_refiner(name, engine)
    refiner: Refiner = engine.loaded[key]
    return refiner


def refine_matches(
    engine: Searcher, query: QueryView, matches: Sequence[Match], refiner: Refiner, level: int | None = None
) -> list[Match]:
    """Return the matches in the same order with refined boxes.

    Boxes from geometric verification are kept: point correspondences are more accurate.

    Args:
        engine: The engine that made the matches.
        query: The query of the search.
        matches: The matches.
        refiner: See `load_refiner`.
        level: Level of the search.

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


# Pictures in parallel, one thread each ---------------------------------------------------------------------------


Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = 2
"""Number of pictures searched in parallel; numpy and OpenCV release the GIL."""


class _OneThreadEach:
    """Limits numerical libraries to one thread while any thread is inside the context."""

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0
        self._limit: Any = None

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:  # the first thread to enter sets the limit, the last to leave lifts it
            if not self._inside:
                self._limit = threadpool_limits(1)  # of all libraries loaded by now
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._limit is not None:
                self._limit.restore_original_limits()


_one_thread_each = _OneThreadEach()


def map_at_once(work: Callable[[Item], Result], items: Sequence[Item], workers: int = WORKERS) -> list[Result]:
    """`list(map(work, items))` in parallel.

    Args:
        work: Must be thread-safe.
        items: Arguments of `work`.
        workers: Number of threads; below 2, or with a single item, the calling thread does all, with all cores.

    Raises:
        Exception: The first error of `work`, in the order of the items.
    """
    if len(items) < 2 or workers < 2:
        return [work(item) for item in items]
    with _one_thread_each, ThreadPoolExecutor(workers, thread_name_prefix="patchify-refine") as threads:
        return list(threads.map(work, items))
