"""`Searcher`: describe queries and search an index."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.encoders import Encoder, TextEncoder
from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.features.extract import load_extractor
from patchify_core.features.pooled import centrality, mean_direction
from patchify_core.imaging.boxes import checked_box
from patchify_core.imaging.pictures import DEFAULTS, read_picture, upright
from patchify_core.index.store import PatchStore
from patchify_core.retrieval.ranking import Explanation, Match, Ranking, as_matches

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.gallery import Query


@dataclass(frozen=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        top: Number of pictures to return.
    """

    top: int = 10


@dataclass(frozen=True, eq=False)
class QueryView:
    """A described query, for the search and for re-rankers and refiners.

    Attributes:
        descriptor: (D,) float32 of length 1, in the space of the index.
        picture: The query's whole upright RGB picture; None for text.
        box: (4,) float64 xyxy of the object in pixels of `picture`, inside it; None for the whole picture.
        exclude: Gallery image ids that re-rankers ignore: neither used for expansion nor compared. An evaluation
            removes these pictures (e.g. the query's own) from the ranking afterwards.
        parts: (n, D) float32 descriptors of single cells of the query's box, in the space of the index, times their
            centrality (`features.pooled`), for dense matching; None for text and for features of crops.
    """

    descriptor: NDArray[np.float32]
    picture: Image | None = None
    box: NDArray[np.float64] | None = None
    exclude: frozenset[int] = field(default_factory=frozenset)
    parts: NDArray[np.float32] | None = None


class Searcher:
    """An index with its encoder: describes queries and finds their nearest patches.

    Args:
        index: The index.
        encoder: The encoder that made its descriptors.

    Attributes:
        extractor: Describes pictures and queries.
        loaded: Cache of objects that others load for this index, by name.

    Raises:
        IndexFolderError: If the index was made by another encoder.
        EncoderError: If the index was made in one pass per picture and the encoder cannot do that.
    """

    def __init__(self, index: PatchStore, encoder: Encoder) -> None:
        index.check_encoder(encoder.info)
        self.index, self.encoder = index, encoder
        self.extractor = load_extractor(index.features, encoder)
        self.loaded: dict[str, Any] = {}

    def describe_query(self, picture: str | Path | bytes | Image, box: ArrayLike | None = None) -> NDArray[np.float32]:
        """Describe a query: its box, or the whole picture.

        Args:
            picture: A file, its bytes, or a PIL picture (EXIF orientation is applied).
            box: xyxy in pixels of the upright picture; None for all of it. Clipped to the picture.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in (see `PatchIndex.project`).

        Raises:
            PictureError: If the picture cannot be read.
            BoxError: If the box is malformed, empty or outside the picture.
        """
        return self.view(picture, box).descriptor

    def describe_text(self, words: str) -> NDArray[np.float32]:
        """Describe text in the space of the pictures.

        Args:
            words: The object, e.g. `a red kettle`.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in.

        Raises:
            EncoderError: If the text is empty, or the encoder describes pictures only.
        """
        if not isinstance(self.encoder, TextEncoder):
            raise EncoderError(
                f"{self.encoder.info.spec} understands pictures only: for words, make the index with an open_clip "
                "encoder such as open_clip:ViT-B-32/laion2b_s34b_b79k, or search with a picture."
            )
        return self.index.project(self.encoder.encode_text(words)[None])[0]

    def describe(self, query: Query) -> QueryView:
        """Describe a dataset's query: its text, or else its box in its picture."""
        view = self.view(query.path, query.box) if query.text is None else self.view(text=query.text)
        return replace(view, exclude=query.exclude)

    def view(
        self,
        picture: str | Path | bytes | Image | None = None,
        box: ArrayLike | None = None,
        text: str | None = None,
    ) -> QueryView:
        """Describe a query once, for a search and for re-rankers.

        Args:
            picture: See `describe_query`; either this or `text`.
            box: See `describe_query`.
            text: See `describe_text`.

        Raises:
            PatchifyError: If there are both or neither, a box with text, or an invalid picture, box or text.
        """
        if (picture is None) == (text is None):
            raise PatchifyError("Search with either a picture or words: exactly one of the two.")
        if picture is None:
            if box is not None:
                raise PatchifyError("A box belongs to a query picture: leave it out when you search with words.")
            return QueryView(self.describe_text(text or ""))
        image = _upright(picture)
        region = None if box is None else checked_box(box, image.width, image.height)
        whole = [0.0, 0.0, float(image.width), float(image.height)]
        features = self.extractor.query_features(image, whole if region is None else region.tolist())
        parts = None
        if features.parts is not None:
            height, width, dim = features.parts.shape
            parts = self.index.project(features.parts.reshape(-1, dim)) * centrality(height, width)[:, None]
        return QueryView(mean_direction(self.index.project(features.views)), image, region, parts=parts)

    def search_descriptor(
        self, query: NDArray[np.float32], top: int | None = SearchSettings.top, level: int | None = None
    ) -> list[Match]:
        """Search with a descriptor (D,); see `Patchify.search`."""
        return as_matches(self.index, self.index.search(query, top, level))

    def ranking(self, query: NDArray[np.float32], level: int | None = None, top: int | None = None) -> Ranking:
        """Like `search_descriptor`, lazily and for all pictures by default."""
        return Ranking(self.index, self.index.search(query, top, level))

    def explain(self, query: NDArray[np.float32], image_id: int, level: int | None = None) -> Explanation:
        """Return the similarity of the query (D,) with every patch of one gallery picture, up to `level`.

        Raises:
            KeyError: If the index has no such image.
            PatchifyError: If the index has no such level.
        """
        row = self.index.row_of[image_id]
        used = self.index.regions.stages[self.index.checked_level(level) - 1].patches
        scores = self.index.cell_scores(query, row)[:used]
        return Explanation(image_id, self.index.boxes_of(row)[:used], scores, int(scores.argmax()))


def _upright(picture: str | Path | bytes | Image) -> Image:
    """Return an upright RGB picture; one that is so already is not copied: 100 megapixels are 400 MB."""
    from PIL import Image as Pillow

    if isinstance(picture, (str, Path, bytes)):
        return read_picture(picture)
    plain = type(picture) is Pillow.Image and picture.mode == "RGB" and not picture.info and not picture.getexif()
    return picture if plain and 0 < picture.width * picture.height <= DEFAULTS.max_pixels else upright(picture)
