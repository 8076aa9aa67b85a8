"""What a re-ranker is given, what it must do, and what a verification leaves behind for the page to draw."""

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
    """Orders a shortlist anew.

    Attributes:
        name: As `load_reranker` takes it, e.g. `patch-qe+sift`.
        shortlist: How many matches it needs to do its work; a search fetches at least these.
        needs_picture: Whether the query must be a picture.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shortlist(self) -> int: ...  # noqa: D102

    @property
    def needs_picture(self) -> bool: ...  # noqa: D102

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """Order matches anew.

        Args:
            engine: Index, encoder and, through its root, the original pictures.
            query: See `QueryView`.
            matches: Best first, as `Searcher.search_descriptor` gives them; not changed.
            level: The level that they were found at; None for all of the index's.

        Returns:
            As many matches, best first.

        Raises:
            PatchifyError: One sentence, if the query is words and pictures are compared.
            IndexFolderError: If a picture of the shortlist has vanished or changed since it was indexed.
        """
        ...


def shortlisted(
    reranker: Reranker, engine: Searcher, query: QueryView, matches: list[Match]
) -> tuple[list[Match], list[int], Path]:
    """The matches that a re-ranker compares pictures of, their rows in the index, and the pictures' folder.

    Raises:
        PatchifyError: One sentence, if the query is words.
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
    """The scored matches, best first, and behind them the others of `matches` in their order."""
    done = {match.image_id for match in scored}
    first = sorted(scored, key=lambda match: (-match.score, match.image_id))
    return first + [match for match in matches if match.image_id not in done]


Kind = TypeVar("Kind")


class Kept(Generic[Kind]):
    """What was made last, for several visitors of the page at once.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, Lock()
        self._kept: OrderedDict[Hashable, Kind] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Kind]) -> Kind:
        """What belongs to the key, made if it is not there."""
        with self._lock:
            value = self._kept.pop(key) if key in self._kept else make()
            self._kept[key] = value
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
            return value


# One re-ranker after another -------------------------------------------------------------------------------------


class Chain:
    """Hands each re-ranker's answer to the next one.

    A re-ranker that follows an expansion sees the expanded query's descriptor, because the scores it gets are
    similarities with that one.

    Args:
        parts: At least one re-ranker, the first to work first.
    """

    def __init__(self, parts: Sequence[Reranker]) -> None:
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
