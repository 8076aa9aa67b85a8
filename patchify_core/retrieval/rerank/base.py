"""What a re-ranker is given, what it must do, and what a verification leaves behind for the page to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import QueryView, Searcher


class Reranker(Protocol):
    """Orders a shortlist anew.

    Attributes:
        name: as `load_reranker` takes it, e.g. `patch-qe+sift`.
        shortlist: how many matches it needs to do its work; a search fetches at least these.
        needs_picture: whether the query must be a picture.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def shortlist(self) -> int: ...  # noqa: D102

    @property
    def needs_picture(self) -> bool: ...  # noqa: D102

    def rerank(self, engine: Searcher, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """Orders matches anew.

        Args:
            engine: index, encoder and, through its root, the original pictures.
            query: see `QueryView`.
            matches: best first, as `Searcher.search_descriptor` gives them; not changed.
            level: the level that they were found at; None for all of the index's.

        Returns:
            As many matches, best first.

        Raises:
            PatchifyError: one sentence, if the query is words and pictures are compared.
            IndexFolderError: if a picture of the shortlist has vanished or changed since it was indexed.
        """
        ...
