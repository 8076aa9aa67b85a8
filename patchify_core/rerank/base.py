"""What a re-ranker is given, what it must do, and what a verification leaves behind for the page to draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.retrieval import Match, Patchify


@dataclass(frozen=True, eq=False)
class QueryView:
    """The query as a re-ranker sees it.

    Attributes:
        descriptor: (D,) float32 of length 1, in the space of the index (`Patchify.describe_query`).
        picture: the query's whole upright RGB picture; None for words.
        box: (4,) float64 xyxy of the object in pixels of `picture`, inside it; None means all of the picture.
        exclude: gallery image ids that take no part: the query is neither expanded with them nor compared with
            them. An evaluation drops these pictures (the query's own photo, say) from the ranking afterwards.
    """

    descriptor: NDArray[np.float32]
    picture: Image | None = None
    box: NDArray[np.float64] | None = None
    exclude: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, eq=False)
class Verification:
    """How a gallery picture compares with the query point by point. Points are pixels of the upright originals.

    Attributes:
        method: name of the re-ranker: sift, xfeat, aliked.
        matches: K, local features that found a partner.
        inliers: how many of them one homography explains.
        query_points: (K, 2) float64 x, y in the query picture, inliers first.
        gallery_points: (K, 2) float64 x, y in the gallery picture, in the same order.
        local_score: the geometric evidence, 0..1 (`rerank.verification`).
        global_score: the score that the match had before, its cosine similarity.
        box: (4,) float64 xyxy, where the homography puts the query's outline in the gallery picture; None if it
            is not to be trusted.
    """

    method: str
    matches: int
    inliers: int
    query_points: NDArray[np.float64]
    gallery_points: NDArray[np.float64]
    local_score: float
    global_score: float
    box: NDArray[np.float64] | None = None


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

    def rerank(self, engine: Patchify, query: QueryView, matches: list[Match], level: int | None) -> list[Match]:
        """Orders matches anew.

        Args:
            engine: index, encoder and, through its root, the original pictures.
            query: see `QueryView`.
            matches: best first, as `Patchify.search_descriptor` gives them; not changed.
            level: the level that they were found at; None for all of the index's.

        Returns:
            As many matches, best first.

        Raises:
            PatchifyError: one sentence, if the query is words and pictures are compared.
            IndexFolderError: if a picture of the shortlist has vanished or changed since it was indexed.
        """
        ...
