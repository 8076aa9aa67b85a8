"""Re-ranking by the best box of each picture's feature map: pooled features only (`localize`).

    fused = (1 - w) * cell + w * (cos(query, best box) + weight of the contrast * contrast * sigma)

A grid's cell sees the object with its surroundings or a part of it; the best box of the map sees it alone. The contrast
adds that a box in which something ends is the likelier object (`localize.search`).
"""

from __future__ import annotations

from collections import OrderedDict
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
    """What a person may tune; the defaults were measured (NUMBERS.md).

    Attributes:
        shortlist: Best matches that are looked at; the others stay where they are, behind them.
        weight: w, the share of the map's evidence, 0..1.
    """

    shortlist: int = 20
    weight: float = 0.5


class MapRerank:
    """Orders the shortlist by the cell's score and the best box's together; the boxes become the found ones."""

    name = "map"
    needs_picture = False

    def __init__(self, settings: MapRerankSettings | None = None) -> None:
        self.settings = settings or MapRerankSettings()

    @property
    def shortlist(self) -> int:
        """Matches that are looked at."""
        return self.settings.shortlist

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`.

        Raises:
            PatchifyError: If the index was made of crops.
        """
        refiner = refiner_of(engine, self.name)  # what it keeps ready serves both
        assert isinstance(refiner, MapRefiner)
        localizer = refiner.localizer
        compared = [match for match in matches if match.image_id not in query.exclude][: self.settings.shortlist]
        rows = [engine.index.row_of[match.image_id] for match in compared]
        locations = map_at_once(lambda row: localizer.locate(query.descriptor, row, 1)[0], rows)
        w = self.settings.weight
        fused = [
            (1 - w) * match.score + w * location.evidence for match, location in zip(compared, locations, strict=True)
        ]
        order = np.argsort([-score for score in fused], kind="stable")
        moved = OrderedDict(
            (compared[at].image_id, replace(compared[at], score=float(fused[at]), box=locations[at].box))
            for at in order
        )
        return [*moved.values(), *(match for match in matches if match.image_id not in moved)]
