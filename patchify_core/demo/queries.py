"""A visitor's query: a picture with or without a box, or words. It lives in that visitor's state and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.indexes import DEFAULT
from patchify_core.demo.storage import StoredPicture
from patchify_core.errors import PatchifyError
from patchify_core.imaging.filenames import is_unicode
from patchify_core.retrieval.ranking import Ranking
from patchify_core.retrieval.searcher import QueryView

OWN = "own"
"""Prefix, before a colon, of the name of an index of a visitor's own pictures."""

MAX_WORDS = 300
"""Longest query in words, in characters. Text encoders read about 77 tokens and ignore the rest."""


@dataclass(frozen=True, eq=False)
class UserQuery:
    """A query as one index describes it.

    Attributes:
        name: Of the picture, as the page shows it; the words themselves for a query in words.
        width: Upright width of the picture in pixels; 0 for words.
        height: Upright height in pixels; 0 for words.
        box: (4,) float64 xyxy of the object in pixels; None for the whole picture, and for words.
        instance: Id of the object in the gallery's annotations; None if unknown, and then nothing can be scored.
        descriptor: (dim,) float32 of the box or the words, in the descriptor space of the index.
        parts: Cells of the box for dense matching (`QueryView.parts`); None for words.
        path: Of a bundled picture, or None.
        data: A visitor's own picture, or None; in memory only, and dropped when room runs out.
        words: Of a query in words, or None.
        example: Id of the bundled query that this is, or None.
        itself: Id of the gallery picture that this is, or None; it is left out of the score.
        index_name: Which index is searched (see `indexes`).
        rankings: Whole rankings already computed, by level and re-ranker: every part of the page needs the one that is
            shown, and re-ranking is slow.
        located: Boxes already searched for on feature maps (`box_methods`): the picture's row in the index -> how many
            objects were looked for, and their (M, 4) boxes.
    """

    name: str
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int | None
    descriptor: NDArray[np.float32]
    path: Path | None = None
    data: StoredPicture | None = None
    words: str | None = None
    example: int | None = None
    itself: int | None = None
    index_name: str = DEFAULT
    parts: NDArray[np.float32] | None = None
    rankings: dict[tuple[int, str | None], Ranking] = field(default_factory=dict, init=False, repr=False)
    located: dict[int, tuple[int, NDArray[np.float64]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def view(self) -> QueryView:
        """Return the description for refiners, without the picture."""
        return QueryView(self.descriptor, box=self.box, parts=self.parts)

    @property
    def is_private(self) -> bool:
        """Whether it uses a visitor's own pictures, which no link leads to."""
        return self.data is not None or self.index_name.partition(":")[0] == OWN

    @property
    def key(self) -> str:
        """Identify the picture, whatever the box, among those that the same visitor may show; empty for words."""
        if self.path is not None:
            return self.path.name
        return "" if self.data is None else f"{self.data.crc:08x}"

    @property
    def preview(self) -> bytes:
        """Return the small upright JPEG of a visitor's picture; empty if there is none."""
        return b"" if self.data is None else self.data.display or b""

    @property
    def source(self) -> Path | bytes:
        """Return the file with the pixels, or its content.

        Raises:
            PatchifyError: If the query is words, or a visitor's picture has been dropped.
        """
        if self.path is not None:
            return self.path
        if self.data is None:
            raise PatchifyError("Your query is words, so there is no picture to use: upload one or choose an example.")
        return self.data.read()


def description(view: QueryView) -> dict[str, Any]:
    """Return the fields of a `UserQuery` that describe it; the view's decoded picture is not kept."""
    return {"descriptor": view.descriptor, "parts": view.parts}


def checked_words(words: object) -> str:
    """Return what a visitor typed as one line.

    Raises:
        PatchifyError: One sentence, if there are no words, too many of them, or invalid characters.
    """
    if not isinstance(words, str) or not words.strip():
        raise PatchifyError("There are no words to search for: describe the object, for example: a red kettle.")
    if len(words) > MAX_WORDS:
        raise PatchifyError(
            f"That is {len(words):,} characters, and only {MAX_WORDS} are read: describe the object in a few words."
        )
    if not is_unicode(words) or "\0" in words:
        raise PatchifyError("The words contain invalid characters: type them again.")
    return " ".join(words.split())
