"""Alpha query expansion: search again with the weighted mean of the query and its best matches.

    q' = normalise( q + sum_{i <= n} max(s_i, 0)^alpha * d_i ),   s_i = q . d_i

Source: Radenovic, Tolias and Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2018. There d_i
describes the whole picture; `patch-qe` uses the winning patch instead, which excludes the surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher


@dataclass(frozen=True)
class ExpansionSettings:
    """Settings of query expansion; the defaults were measured (NUMBERS.md).

    Attributes:
        count: n, best matches to add; 0 leaves the query as it is.
        alpha: Exponent of the weights; 0 weights all matches equally.
    """

    count: int = 3
    alpha: float = 3.0


def expanded(
    query: NDArray[np.float32], descriptors: NDArray[np.float32], settings: ExpansionSettings
) -> NDArray[np.float32]:
    """Expand a query.

    Args:
        query: (D,) of length 1.
        descriptors: (K, D) of the best matches, best first, rows of length 1; only the first `count` are used.
        settings: See `ExpansionSettings`.

    Returns:
        (D,) float32 of length 1; `query` itself, to the last bit, if there is nothing to add.
    """
    used = np.asarray(descriptors[: settings.count], np.float64)
    weights = np.maximum(used @ np.asarray(query, np.float64), 0.0) ** settings.alpha if len(used) else np.zeros(0)
    if not weights.any():
        return query
    total = query + weights @ used
    return (total / np.linalg.norm(total)).astype(np.float32)


class QueryExpansion:
    """Searches the whole index again with the expanded query.

    Args:
        patches: Expand with the winning patches (`patch-qe`) instead of whole pictures (`qe`).
        settings: See `ExpansionSettings`.
    """

    needs_picture = False

    def __init__(self, *, patches: bool, settings: ExpansionSettings | None = None) -> None:
        self._patches, self.settings = patches, settings or ExpansionSettings()

    @property
    def name(self) -> str:
        """`patch-qe` or `qe`."""
        return "patch-qe" if self._patches else "qe"

    @property
    def shortlist(self) -> int:
        """Number of matches to expand with."""
        return max(1, self.settings.count)

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`; matches may be replaced by other pictures of the index.

        Scores are similarities with the expanded query.
        """
        if not matches:
            return []
        return engine.search_descriptor(self.expand(engine, query, matches), len(matches), level)

    def expand(self, engine: Searcher, query: QueryView, matches: list[Match]) -> NDArray[np.float32]:
        """Return the expanded query (D,), which explains the matches."""
        chosen = [match for match in matches if match.image_id not in query.exclude][: self.settings.count]
        index = engine.index
        descriptors = [index.descriptors_of(index.row_of[match.image_id])[self._cell(match)] for match in chosen]
        return expanded(
            query.descriptor, np.array(descriptors, np.float32).reshape(-1, len(query.descriptor)), self.settings
        )

    def _cell(self, match: Match) -> int:
        return match.patch if self._patches else 0
