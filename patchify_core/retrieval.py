"""Patchify, the facade: open an index, ask with a picture, get matches, look into one.

engine = Patchify.open("sample_db/index")
for match in engine.search("query.jpg", box=(40, 30, 200, 180)):
    print(match.score, match.file_name, match.box)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.boxes import checked_box
from patchify_core.encoders import Encoder, TextEncoder, load_encoder
from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.extract import load_extractor
from patchify_core.index import Hits
from patchify_core.pictures import DEFAULTS, read_picture, upright
from patchify_core.pooled import mean_direction

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.localize import Refiner
    from patchify_core.ranking import Ranking
    from patchify_core.rerank import QueryView, Reranker, Verification
    from patchify_core.stores import PatchStore


@dataclass(frozen=True)
class SearchSettings:
    """What a person may tune about a search.

    Attributes:
        top: pictures to return.
    """

    top: int = 10


@dataclass(frozen=True, eq=False)
class Match:
    """One gallery picture that a search found.

    Attributes:
        image_id: gallery image id.
        score: cosine similarity of the query with the winning patch, -1..1; after re-ranking, what it ordered by.
        box: (4,) float64 xyxy of the winning patch, in pixels of the upright gallery picture; where boxes were refined
            (`localize`), the object's; after a geometric verification that can be trusted, the query's outline there.
        patch: the winning patch's number within its picture (see `regions.Pyramid`).
        file_name: POSIX path of the picture below the gallery's root.
        verification: how the picture compares with the query point by point; None unless that was asked for.
        others: (M, 4) float64 boxes of further objects like the query's; empty unless boxes were refined on maps.
    """

    image_id: int
    score: float
    box: NDArray[np.float64]
    patch: int
    file_name: str
    verification: Verification | None = None
    others: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4)))


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a gallery picture got its score: the similarity of every patch.

    Attributes:
        image_id: gallery image id.
        boxes: (P, 4) float64 xyxy pixel boxes of the patches.
        scores: (P,) float32 cosine similarities.
        patch: the winning patch, the argmax of `scores`.
    """

    image_id: int
    boxes: NDArray[np.float64]
    scores: NDArray[np.float32]
    patch: int


class Patchify:
    """Patch-wise retrieval over one index.

    Args:
        index: the descriptors.
        encoder: the encoder that made them.

    Raises:
        IndexFolderError: if the index was made by another encoder.
        EncoderError: if the index was made in one pass a picture and the encoder cannot do that.
    """

    def __init__(self, index: PatchStore, encoder: Encoder) -> None:
        """Checks that the two fit together."""
        index.check_encoder(encoder.info)
        self.index, self.encoder = index, encoder
        self.extractor = load_extractor(index.features, encoder)
        self._refiners: dict[str, Refiner] = {}

    @classmethod
    def open(cls, folder: str | Path, encoder: Encoder | None = None) -> Patchify:
        """Opens an index folder, with the encoder that it names unless one is given.

        Raises:
            IndexFolderError: if the folder is not a whole index or does not fit the encoder.
            StoreError: if its descriptors are in Milvus, which does not answer or does not hold them.
            EncoderError: if the encoder cannot be had.
        """
        from patchify_core.stores import open_store

        index = open_store(folder)
        return cls(index, encoder or load_encoder(index.encoder.spec))

    def describe_query(self, picture: str | Path | bytes | Image, box: ArrayLike | None = None) -> NDArray[np.float32]:
        """One global descriptor of the query: of the box, or of the whole picture.

        Args:
            picture: a file, its bytes, or a PIL picture (EXIF orientation is applied).
            box: xyxy in pixels of the upright picture; None for all of it. What sticks out is cut off.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in (see `PatchIndex.project`).

        Raises:
            PictureError: if it is not a picture that can be read.
            BoxError: if the box is malformed, empty or outside.
        """
        image = _upright(picture)
        whole = (0.0, 0.0, float(image.width), float(image.height))
        region = np.array(whole) if box is None else checked_box(box, image.width, image.height)
        return mean_direction(self.index.project(self.extractor.query_views(image, region.tolist())))

    def describe_text(self, words: str) -> NDArray[np.float32]:
        """One descriptor of words, in the space of the pictures.

        Args:
            words: what to look for, e.g. `a red kettle`.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in.

        Raises:
            EncoderError: if there are no words, or this index's encoder knows pictures only.
        """
        if not isinstance(self.encoder, TextEncoder):
            raise EncoderError(
                f"{self.encoder.info.spec} understands pictures only: for words, make the index with an open_clip "
                "encoder such as open_clip:ViT-B-32/laion2b_s34b_b79k, or search with a picture."
            )
        return self.index.project(self.encoder.encode_text(words)[None])[0]

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
        """Finds the gallery pictures that hold the query's object, best first.

        Args:
            picture: see `describe_query`; either this or `text`.
            box: see `describe_query`.
            top: pictures wanted; None for the whole ranking.
            level: finest grid to use (1 = whole pictures, the global baseline); None for all of the index's.
            text: see `describe_text`.
            rerank: orders the best matches anew (`rerank.load_reranker`): a name or a loaded re-ranker.
            refine: finds better boxes than the winning patches (`localize.load_refiner`): a name or a loaded refiner.

        Raises:
            PatchifyError: one sentence, for a bad picture, box, text, `top`, `level`, `rerank` or `refine`.
        """
        if (picture is None) == (text is None):
            raise PatchifyError("Search with either a picture or words: exactly one of the two.")
        if picture is None and box is not None:
            raise PatchifyError("A box belongs to a query picture: leave it out when you search with words.")
        refiner = self.refiner(refine) if isinstance(refine, str) else refine
        if rerank is not None:
            from patchify_core.rerank import load_reranker

            reranker = load_reranker(rerank) if isinstance(rerank, str) else rerank
            view = self.view_query(picture, box) if picture is not None else self.view_text(text or "")
            query, matches = view.descriptor, self.search_view(view, reranker, top, level)
        else:
            query = self.describe_text(text or "") if picture is None else self.describe_query(picture, box)
            matches = self.search_descriptor(query, top, level)
        return matches if refiner is None else self.refine(query, matches, refiner, level)

    def refiner(self, name: str) -> Refiner:
        """A refiner of boxes for this engine, kept for the next time: `soft` or `map`; see `localize.load_refiner`."""
        from patchify_core.localize import load_refiner

        if name not in self._refiners:
            self._refiners[name] = load_refiner(name, self)
        return self._refiners[name]

    def refine(
        self, query: NDArray[np.float32], matches: list[Match], refiner: str | Refiner, level: int | None = None
    ) -> list[Match]:
        """The same matches with better boxes; see `localize.refine_matches`."""
        from patchify_core.localize import refine_matches

        loaded = self.refiner(refiner) if isinstance(refiner, str) else refiner
        return refine_matches(self, query, matches, loaded, level)

    def view_query(self, picture: str | Path | bytes | Image, box: ArrayLike | None = None) -> QueryView:
        """A query picture as re-rankers need it; the arguments and errors are those of `describe_query`."""
        from patchify_core.rerank import QueryView

        image = _upright(picture)
        region = None if box is None else checked_box(box, image.width, image.height)
        return QueryView(self.describe_query(image, region), image, region)

    def view_text(self, words: str) -> QueryView:
        """Words as re-rankers need them; the errors are those of `describe_text`."""
        from patchify_core.rerank import QueryView

        return QueryView(self.describe_text(words))

    def search_view(
        self,
        query: QueryView,
        reranker: Reranker,
        top: int | None = SearchSettings.top,
        level: int | None = None,
    ) -> list[Match]:
        """As `search` with a re-ranker, for a query that is described already."""
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        found = None if top is None else max(top, reranker.shortlist + len(query.exclude))
        matches = self.search_descriptor(query.descriptor, found, level)
        return self.rerank(query, matches, reranker, level)[:top]

    def rerank(
        self, query: QueryView, matches: list[Match], reranker: str | Reranker, level: int | None = None
    ) -> list[Match]:
        """Orders matches anew: as many, best first.

        Args:
            query: what was searched for (`view_query`, `view_text`).
            matches: what `search_descriptor` found for it, best first.
            reranker: a name for `rerank.load_reranker`, or a loaded re-ranker.
            level: the level that they were found at.

        Raises:
            PatchifyError: one sentence, if the re-ranker is unknown or not installed, or compares pictures and the
                query is words.
            IndexFolderError: if a picture that it compares has vanished or changed since it was indexed.
        """
        from patchify_core.rerank import load_reranker

        loaded = load_reranker(reranker) if isinstance(reranker, str) else reranker
        return loaded.rerank(self, query, matches, level)

    def search_descriptor(
        self, query: NDArray[np.float32], top: int | None = SearchSettings.top, level: int | None = None
    ) -> list[Match]:
        """As `search`, for a query (D,) that is described already."""
        return as_matches(self.index, self.index.search(query, top, level))

    def ranking(self, query: NDArray[np.float32], level: int | None = None, top: int | None = None) -> Ranking:
        """As `search_descriptor`, all pictures by default; see `Ranking`."""
        from patchify_core.ranking import Ranking

        return Ranking(self.index, self.index.search(query, top, level))

    def explain(self, query: NDArray[np.float32], image_id: int, level: int | None = None) -> Explanation:
        """The similarity of the query (D,) with every patch of one gallery picture, up to `level`.

        Raises:
            KeyError: if the index has no such image.
            PatchifyError: if the index has no such level.
        """
        row = self.index.row_of[image_id]
        used = self.index.regions.stages[self.index.checked_level(level) - 1].patches
        scores = self.index.cell_scores(query, row)[:used]
        return Explanation(image_id, self.index.boxes_of(row)[:used], scores, int(scores.argmax()))


def as_matches(index: PatchStore, hits: Hits) -> list[Match]:
    """What a search of `index` found, with names and boxes, in the same order."""
    matches = []
    for row, score, cell in zip(hits.rows.tolist(), hits.scores.tolist(), hits.cells.tolist(), strict=True):
        image = index.images[row]
        matches.append(Match(image.id, score, index.box_of(row, cell), cell, image.file_name))
    return matches


def _upright(picture: str | Path | bytes | Image) -> Image:
    """The picture as `read_picture` returns it. One that is so already is not copied: 100 megapixels are 400 MB."""
    from PIL import Image as Pillow

    if isinstance(picture, (str, Path, bytes)):
        return read_picture(picture)
    plain = type(picture) is Pillow.Image and picture.mode == "RGB" and not picture.info and not picture.getexif()
    return picture if plain and 0 < picture.width * picture.height <= DEFAULTS.max_pixels else upright(picture)
