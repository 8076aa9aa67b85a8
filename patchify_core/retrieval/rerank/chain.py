"""One re-ranker after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from patchify_core.retrieval.rerank.base import Reranker
from patchify_core.retrieval.rerank.expansion import QueryExpansion
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher


class Chain:
    """Hands each re-ranker's answer to the next one.

    A re-ranker that follows an expansion sees the expanded query's descriptor, because the scores it gets are
    similarities with that one.

    Args:
        parts: at least one re-ranker, the first to work first.
    """

    def __init__(self, parts: Sequence[Reranker]) -> None:
        """Keeps them."""
        self.parts = tuple(parts)

    @property
    def name(self) -> str:
        """The parts' names with a plus between them."""
        return "+".join(part.name for part in self.parts)

    @property
    def shortlist(self) -> int:
        """The most that any part needs."""
        return max(part.shortlist for part in self.parts)

    @property
    def needs_picture(self) -> bool:
        """Whether any part does."""
        return any(part.needs_picture for part in self.parts)

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`."""
        for part in self.parts:
            following = query
            if isinstance(part, QueryExpansion):
                following = replace(query, descriptor=part.expand(engine, query, matches))
            matches = part.rerank(engine, query, matches, level)
            query = following
        return matches
