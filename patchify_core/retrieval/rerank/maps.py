"""Re-rank by the best box on each picture's feature map (`localize`); needs pooled features.

    fused = (1 - w) * cell + w * (cos(query, best box) + weight of the contrast * contrast * sigma)

A grid cell contains the object with its surroundings, or a part of it; the best box contains it alone. The contrast
favours boxes that end at visible edges, which are more likely to be an object (`localize.search`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from patchify_core.retrieval.localize import MapRefiner, refiner_of
from patchify_core.retrieval.localize.refine import map_at_once
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher


@dataclass(frozen=True)
class MapRerankSettings:
    """Settings of re-ranking on maps; the defaults were measured (NUMBERS.md).

    Attributes:
        shortlist: Number of best matches to re-rank; the others follow in their order.
        weight: w, the share of the map's evidence, 0..1.
    """

    shortlist: int = 20
    weight: float = 0.5


class MapRerank:
    """Orders the shortlist by a weighted mean of cell score and best-box score; matches get the best boxes."""

    name = "map"
    needs_picture = False

    def __init__(self, settings: MapRerankSettings | None = None) -> None:
        self.settings = settings or MapRerankSettings()

    @property
    def shortlist(self) -> int:
        """See `MapRerankSettings`."""
        return self.settings.shortlist

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`.

        Raises:
            PatchifyError: If the index was made of crops.
        """
        refiner = refiner_of(engine, self.name)  # shared, because it caches maps
        assert isinstance(refiner, MapRefiner)
        localizer = refiner.localizer
        compared = [match for match in matches if match.image_id not in query.exclude][: self.settings.shortlist]
        rows = [engine.index.row_of[match.image_id] for match in compared]
        locations = map_at_once(lambda row: localizer.locate(query, row, 1)[0], rows)
        w = self.settings.weight
        pairs = zip(compared, locations, strict=True)
        fused = [(1 - w) * match.score + w * location.evidence for match, location in pairs]
        order = np.argsort([-score for score in fused], kind="stable")
        front = [replace(compared[at], score=float(fused[at]), box=locations[at].box) for at in order]
        front_ids = {match.image_id for match in front}
        return front + [match for match in matches if match.image_id not in front_ids]
