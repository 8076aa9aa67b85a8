"""The re-ranker interface, a chain of re-rankers, and what re-rankers share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from patchify_core.errors import PatchifyError
from patchify_core.retrieval.rerank.expansion import QueryExpansion
from patchify_core.retrieval.searcher import QueryView

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher


class Reranker(Protocol):
    """Re-orders a shortlist.

    Attributes:
        name: Its name for `load_reranker`, e.g. `patch-qe+sift`.
        shortlist: Number of matches it needs; a search fetches at least these.
        needs_picture: Whether the query must be a picture.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shortlist(self) -> int: ...  # noqa: D102

    @property
    def needs_picture(self) -> bool: ...  # noqa: D102

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """Re-order matches.

        Args:
            engine: Index, encoder and, through the index's root, the original pictures.
            query: See `QueryView`.
            matches: Best first, as `Searcher.search_descriptor` gives them; not changed.
            level: Level of the search; None for all levels of the index.

        Returns:
            As many matches, best first.

        Raises:
            PatchifyError: If the query is text and `needs_picture`.
            IndexFolderError: If a picture of the shortlist has vanished or changed since it was indexed.
        """
        ...


def shortlisted(
    reranker: Reranker, engine: Searcher, query: QueryView, matches: list[Match]
) -> tuple[list[Match], list[int], Path]:
    """Return the matches whose pictures a re-ranker compares, their rows in the index, and the pictures' folder.

    Raises:
        PatchifyError: If the query is text.
        IndexFolderError: If one of the pictures has vanished or changed since it was indexed.
    """
    if query.picture is None:
        raise PatchifyError(
            f"Re-ranking with {reranker.name} compares pictures: search with a picture, or re-rank words with patch-qe."
        )
    chosen = [match for match in matches if match.image_id not in query.exclude][: reranker.shortlist]
    rows = [engine.index.row_of[match.image_id] for match in chosen]
    root = engine.index.root or Path()
    engine.index.check_pictures(root, content=True, rows=rows)
    return chosen, rows, root


def in_front(scored: list[Match], matches: list[Match]) -> list[Match]:
    """Return the scored matches, best first, followed by the other `matches` in their order."""
    scored_ids = {match.image_id for match in scored}
    first = sorted(scored, key=lambda match: (-match.score, match.image_id))
    return first + [match for match in matches if match.image_id not in scored_ids]


Value = TypeVar("Value")


class Cache(Generic[Value]):
    """A thread-safe cache of the least recently used values; each value is made once.

    Args:
        size: Maximum number of values.
    """

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of cached values."""
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; make it if it is not cached."""
        with self._lock:
            value = self._values.pop(key) if key in self._values else make()
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
            return value


# One re-ranker after another -------------------------------------------------------------------------------------


class Chain:
    """Applies several re-rankers in order.

    A re-ranker after a query expansion gets the expanded query's descriptor, because the scores of its input are
    similarities with that one.

    Args:
        parts: At least one re-ranker, in order of application.
    """

    def __init__(self, parts: Sequence[Reranker]) -> None:
        self.parts = tuple(parts)

    @property
    def name(self) -> str:
        """The parts' names, joined by `+`."""
        return "+".join(part.name for part in self.parts)

    @property
    def shortlist(self) -> int:
        """Maximum over the parts."""
        return max(part.shortlist for part in self.parts)

    @property
    def needs_picture(self) -> bool:
        """Whether any part needs a picture."""
        return any(part.needs_picture for part in self.parts)

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """See `Reranker.rerank`."""
        for part in self.parts:
            next_query = query
            if isinstance(part, QueryExpansion):
                next_query = replace(query, descriptor=part.expand(engine, query, matches))
            matches = part.rerank(engine, query, matches, level)
            query = next_query
        return matches
