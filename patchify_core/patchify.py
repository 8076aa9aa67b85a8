"""Patchify, the facade: build or open an index, search it, re-rank and refine matches, evaluate a dataset.

    engine = Patchify.build("my_pictures", "my_index")
    for match in engine.search("query.jpg", box=(40, 30, 200, 180)):
        print(match.score, match.file_name, match.box)

Search itself is in `retrieval.searcher`, re-ranking in `retrieval.rerank`, refining of boxes in `retrieval.localize`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from patchify_core.encoders import Encoder, load_encoder
from patchify_core.errors import PatchifyError
from patchify_core.gallery import read_dataset, read_gallery
from patchify_core.index import open_store
from patchify_core.retrieval.localize import Refiner, refine_matches, refiner_of
from patchify_core.retrieval.ranking import Match
from patchify_core.retrieval.rerank import Reranker, load_reranker
from patchify_core.retrieval.searcher import QueryView, Searcher, SearchSettings

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.evaluation.run import LevelReport
    from patchify_core.index.build import BuildSettings
    from patchify_core.regions import Regions


class Patchify(Searcher):
    """Patch-wise retrieval over one index; usually made by `open` or `build`. Args are those of `Searcher`."""

    @classmethod
    def build(
        cls,
        gallery: str | Path,
        out: str | Path,
        encoder: str | Encoder = "effnet-lite0",
        regions: Regions | None = None,
        settings: BuildSettings | None = None,
    ) -> Patchify:
        """Index a folder of pictures or a dataset, or update its index, and open it.

        Args:
            gallery: See `read_gallery`.
            out: Index folder; see `build_index`.
            encoder: A name for `load_encoder`, or a loaded encoder.
            regions: See `build_index`.
            settings: See `build_index`.

        Raises:
            PatchifyError: The gallery, the encoder or the index folder is invalid; see `build_index`.
        """
        from patchify_core.index.build import build_index

        loaded = load_encoder(encoder) if isinstance(encoder, str) else encoder
        build_index(read_gallery(gallery), out, loaded, regions, settings)
        return cls.open(out, loaded)

    @classmethod
    def open(cls, folder: str | Path, encoder: Encoder | None = None) -> Patchify:
        """Open an index folder, with its own encoder unless one is given.

        Raises:
            IndexFolderError: The folder is not an intact index, or does not fit the encoder.
            StoreError: The descriptors are in Milvus, which does not answer or does not have them.
            EncoderError: The encoder cannot be loaded.
        """
        index = open_store(folder)
        return cls(index, encoder or load_encoder(index.encoder.spec))

    def search(
        self,
        picture: str | Path | bytes | Image | None = None,
        box: ArrayLike | None = None,
        top: int | None = SearchSettings.top,
        level: int | None = None,
        *,
        text: str | None = None,
        rerank: str | Reranker | None = None,
        refine: str | Refiner | None = None,
    ) -> list[Match]:
        """Find the gallery pictures that contain the query's object, best first.

        Args:
            picture: See `view`, as for `box` and `text`.
            box: See `view`.
            top: Number of matches; None for the full ranking.
            level: Finest grid to use (1 = whole pictures, the global baseline); None for all of the index.
            text: See `view`.
            rerank: Re-ranks the top matches: a name for `rerank.load_reranker`, or a loaded re-ranker.
            refine: Finds better boxes than the best patches: a name for `localize.load_refiner`, or a loaded refiner.

        Raises:
            PatchifyError: Picture, box, text, `top`, `level`, `rerank` or `refine` is invalid.
        """
        return self.search_view(self.view(picture, box, text), top, level, rerank=rerank, refine=refine)

    def search_view(
        self,
        query: QueryView,
        top: int | None = SearchSettings.top,
        level: int | None = None,
        *,
        rerank: str | Reranker | None = None,
        refine: str | Refiner | None = None,
    ) -> list[Match]:
        """Search as `search` does, for a query from `view`."""
        reranker = load_reranker(rerank) if isinstance(rerank, str) else rerank
        refiner = self.refiner(refine) if isinstance(refine, str) else refine
        if reranker is None:
            matches = self.search_descriptor(query.descriptor, top, level)
        else:
            if top is not None and top < 1:
                raise PatchifyError(f"Ask for at least 1 result, not {top}.")
            first = None if top is None else max(top, reranker.shortlist + len(query.exclude))
            matches = self.search_descriptor(query.descriptor, first, level)
            matches = self.rerank(query, matches, reranker, level)[:top]
        return matches if refiner is None else self.refine(query, matches, refiner, level)

    def rerank(
        self, query: QueryView, matches: list[Match], reranker: str | Reranker, level: int | None = None
    ) -> list[Match]:
        """Re-rank matches; returns as many, best first.

        Args:
            query: The query (`view`).
            matches: Its matches from `search_descriptor`, best first.
            reranker: A name for `rerank.load_reranker`, or a loaded re-ranker.
            level: The level of that search.

        Raises:
            PatchifyError: The re-ranker is unknown or not installed, or compares pictures and the query is text.
            IndexFolderError: A picture is missing or has changed since it was indexed.
        """
        loaded = load_reranker(reranker) if isinstance(reranker, str) else reranker
        return loaded.rerank(self, query, matches, level)

    def refiner(self, name: str) -> Refiner:
        """Load a refiner of boxes, `soft` or `map`, once per engine; see `localize.load_refiner`."""
        return refiner_of(self, name)

    def refine(
        self, query: QueryView, matches: list[Match], refiner: str | Refiner, level: int | None = None
    ) -> list[Match]:
        """Return the same matches with better boxes; see `localize.refine_matches`."""
        loaded = self.refiner(refiner) if isinstance(refiner, str) else refiner
        return refine_matches(self, query, matches, loaded, level)

    def evaluate(self, dataset: str | Path, **options: Any) -> list[LevelReport]:
        """Evaluate this engine on a dataset.

        Args:
            dataset: An annotated dataset (`read_dataset`) of the indexed pictures.
            **options: Those of `evaluation.evaluate`.

        Raises:
            GalleryError: It is not a dataset, has no query with a positive, or has pictures that the index lacks.
        """
        from patchify_core.evaluation.run import evaluate

        return evaluate(read_dataset(dataset), self, **options)
