"""Similarities in ILIAS' own format, so that its `evaluate.py` can score the same rankings.

A JSON object: id of each query -> {id of each ranked picture: similarity}, best first, as deep as its scores need: 1000
ranks after the positives of other groups have left them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from patchify_core.evaluation.published import ILIAS_RANKS
from patchify_core.gallery import Gallery, Query
from patchify_core.gallery.ilias import ilias_id
from patchify_core.retrieval.ranking import Match, ids_and_scores


class IliasExport:
    """Collects the rankings of an evaluation of ILIAS at one level.

    Attributes:
        level: The level whose rankings are collected.
        similarities: What is written, see above.
    """

    def __init__(self, gallery: Gallery, level: int) -> None:
        self.level, self.similarities = level, dict[str, dict[str, float]]()
        self._gallery = gallery
        self._ids = {image.id: ilias_id(image.file_name) for image in gallery.images}

    def add(self, query: Query, level: int, ranking: Sequence[Match]) -> None:
        """Take one query's ranking; other levels are passed over."""
        if level != self.level:
            return
        ids, scores = ids_and_scores(ranking)
        depth = ILIAS_RANKS + len(self._gallery.positives(query.instance))
        if (np.diff(scores) > 0).any():
            # Re-ranked pictures come first by scores of their own: ILIAS' code sorts by score, so it gets the ranks.
            scores = 1 / np.arange(1, len(scores) + 1)
        end = int(np.searchsorted(-scores, -scores[min(depth, len(scores)) - 1], side="right")) if len(scores) else 0
        pairs = zip(ids[:end].tolist(), scores[:end].tolist(), strict=True)
        self.similarities[ilias_id(query.file_name)] = {self._ids[image]: score for image, score in pairs}
