"""Descriptors of queries, and the search with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.encoders import Encoder, TextEncoder
from patchify_core.errors import EncoderError, PatchifyError
from patchify_core.features.extract import load_extractor
from patchify_core.features.pooled import mean_direction
from patchify_core.imaging.boxes import checked_box
from patchify_core.imaging.pictures import DEFAULTS, read_picture, upright
from patchify_core.index.store import PatchStore
from patchify_core.retrieval.ranking import Explanation, Match, Ranking, as_matches

if TYPE_CHECKING:
    from PIL.Image import Image

    from patchify_core.gallery import Query


@dataclass(frozen=True)
class SearchSettings:
    """What a person may tune about a search.

    Attributes:
        top: Pictures to return.
    """

    top: int = 10


@dataclass(frozen=True, eq=False)
class QueryView:
    """A described query (`Searcher.view`): for the search, and for whatever looks at its results.

    Attributes:
        descriptor: (D,) float32 of length 1, in the space of the index.
        picture: The query's whole upright RGB picture; None for words.
        box: (4,) float64 xyxy of the object in pixels of `picture`, inside it; None means all of the picture.
        exclude: Gallery image ids that take no part: the query is neither expanded with them nor compared with
            them. An evaluation drops these pictures (the query's own photo, say) from the ranking afterwards.
        parts: (n, D) float32: cells of the query's box in the space of the index, of length at most 1, the less the
            nearer to the sides of the box. A search on feature maps matches each place of a picture with them
            (`localize.search`). None for words, and with features of crops.
    """

    descriptor: NDArray[np.float32]
    picture: Image | None = None
    box: NDArray[np.float64] | None = None
    exclude: frozenset[int] = field(default_factory=frozenset)
    parts: NDArray[np.float32] | None = None


class Searcher:
    """An index and the encoder that made it: describes queries and finds their nearest patches.

    Args:
        index: The descriptors.
        encoder: The encoder that made them.

    Attributes:
        extractor: How pictures were described, and queries are.
        loaded: What others made ready for this index and will need again, by name.

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
        """One global descriptor of the query: of the box, or of the whole picture.

        Args:
            picture: A file, its bytes, or a PIL picture (EXIF orientation is applied).
            box: xyxy in pixels of the upright picture; None for all of it. What sticks out is cut off.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in (see `PatchIndex.project`).

        Raises:
            PictureError: If it is not a picture that can be read.
            BoxError: If the box is malformed, empty or outside.
        """
        return self.view(picture, box).descriptor

    def describe_text(self, words: str) -> NDArray[np.float32]:
        """One descriptor of words, in the space of the pictures.

        Args:
            words: What to look for, e.g. `a red kettle`.

        Returns:
            (dim,) float32 of length 1, in the space that the index is searched in.

        Raises:
            EncoderError: If there are no words, or this index's encoder knows pictures only.
        """
        if not isinstance(self.encoder, TextEncoder):
            raise EncoderError(
                f"{self.encoder.info.spec} understands pictures only: for words, make the index with an open_clip "
                "encoder such as open_clip:ViT-B-32/laion2b_s34b_b79k, or search with a picture."
            )
        return self.index.project(self.encoder.encode_text(words)[None])[0]

    def describe(self, query: Query) -> QueryView:
        """Describe a dataset's query: its words, or else its object in its picture."""
        view = self.view(text=query.text) if query.text is not None else self.view(query.path, query.box)
        return replace(view, exclude=query.exclude)

    def view(
        self,
        picture: str | Path | bytes | Image | None = None,
        box: ArrayLike | None = None,
        text: str | None = None,
    ) -> QueryView:
        """What is searched for, described once: for a search, and for whatever looks at its results.

        Args:
            picture: See `describe_query`; either this or `text`.
            box: See `describe_query`.
            text: See `describe_text`.

        Raises:
            PatchifyError: One sentence, for both or neither, a box with words, or a picture, box or text that is bad.
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
        if features.parts is not None and features.centrality is not None:
            parts = self.index.project(features.parts) * features.centrality[:, None]
        return QueryView(mean_direction(self.index.project(features.views)), image, region, parts=parts)

    def search_descriptor(
        self, query: NDArray[np.float32], top: int | None = SearchSettings.top, level: int | None = None
    ) -> list[Match]:
        """As `search`, for a query (D,) that is described already."""
        return as_matches(self.index, self.index.search(query, top, level))

    def ranking(self, query: NDArray[np.float32], level: int | None = None, top: int | None = None) -> Ranking:
        """As `search_descriptor`, all pictures by default; see `Ranking`."""
        return Ranking(self.index, self.index.search(query, top, level))

    def explain(self, query: NDArray[np.float32], image_id: int, level: int | None = None) -> Explanation:
        """The similarity of the query (D,) with every patch of one gallery picture, up to `level`.

        Raises:
            KeyError: If the index has no such image.
            PatchifyError: If the index has no such level.
        """
        row = self.index.row_of[image_id]
        used = self.index.regions.stages[self.index.checked_level(level) - 1].patches
        scores = self.index.cell_scores(query, row)[:used]
        return Explanation(image_id, self.index.boxes_of(row)[:used], scores, int(scores.argmax()))


def _upright(picture: str | Path | bytes | Image) -> Image:
    """The picture as `read_picture` returns it. One that is so already is not copied: 100 megapixels are 400 MB."""
    from PIL import Image as Pillow

    if isinstance(picture, (str, Path, bytes)):
        return read_picture(picture)
    plain = type(picture) is Pillow.Image and picture.mode == "RGB" and not picture.info and not picture.getexif()
    return picture if plain and 0 < picture.width * picture.height <= DEFAULTS.max_pixels else upright(picture)
