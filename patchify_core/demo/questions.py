"""What one visitor asks. It lives in that visitor's state and nowhere else."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.keeping import Held
from patchify_core.demo.shelf import DEFAULT
from patchify_core.errors import PatchifyError
from patchify_core.gallery.model import is_text
from patchify_core.retrieval.ranking import Ranking

OWN = "own"
"""What the name of an index of a visitor's own pictures begins with, before a colon."""

MAX_WORDS = 300
"""Longest question in words, in characters. Text encoders read some 77 tokens and cut off the rest."""


@dataclass(frozen=True, eq=False)
class Question:
    """What one visitor is asking: with a picture (and maybe a box in it), or with words.

    Attributes:
        name: what the picture is called on the page; the words if it is none.
        width: upright width of the picture in pixels; 0 for words.
        height: upright height in pixels; 0 for words.
        box: (4,) float64 xyxy of the object in pixels; None for the whole picture, and for words.
        instance: which bundled object it is, if the visitor says; None means that nothing can be scored.
        descriptor: (dim,) float32 of the box or the words, as the index `engine` stores descriptors.
        path: a bundled picture, or None.
        data: a visitor's own picture, or None: in memory only, and there as long as there is room (`keeping.Held`).
        display: a small upright JPEG of `data`, made once, to be shown to that visitor; None where `data` has it.
        words: what was asked in words, or None.
        example: id of the bundled query that this is, or None.
        itself: id of the gallery picture that this is, or None; it is left out of the score.
        engine: name of the index (see `shelf`) that is asked.
        rankings: whole rankings that were made already, by level and re-ranker: a look into a result needs the one
            that is shown, which re-ranking makes slowly.
        located: boxes that a search on maps found already (`locating`): the picture's row in the index -> how many
            objects were looked for, and their (M, 4) boxes.
    """

    name: str
    width: int
    height: int
    box: NDArray[np.float64] | None
    instance: int | None
    descriptor: NDArray[np.float32]
    path: Path | None = None
    data: bytes | Held | None = None
    display: bytes | None = None
    words: str | None = None
    example: int | None = None
    itself: int | None = None
    engine: str = DEFAULT
    rankings: dict[tuple[int, str | None], Ranking] = field(default_factory=dict, init=False, repr=False)
    located: dict[int, tuple[int, NDArray[np.float64]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def is_private(self) -> bool:
        """Whether it is about what the visitor brought, which no link leads to."""
        return self.data is not None or self.engine.partition(":")[0] == OWN

    @property
    def key(self) -> str:
        """Tells this picture, whatever the box, from others that the same visitor may show."""
        if self.words is not None:
            return ""
        if self.path is not None:
            return self.path.name
        return f"{self.data.crc if isinstance(self.data, Held) else zlib.crc32(self.data or b''):08x}"

    @property
    def preview(self) -> bytes:
        """The small upright JPEG that is shown to the visitor; empty where there is none."""
        return (self.data.display if isinstance(self.data, Held) else self.display) or b""

    @property
    def source(self) -> Path | bytes:
        """Where the pixels are.

        Raises:
            PatchifyError: if it was asked in words, or a visitor's picture is not there any more.
        """
        if self.path is not None:
            return self.path
        source = self.data.read() if isinstance(self.data, Held) else self.data
        if source is None:
            raise PatchifyError("Your query is words, so there is no picture to use: upload one or choose an example.")
        return source


def checked_words(words: object) -> str:
    """What a visitor typed, on one line.

    Raises:
        PatchifyError: one sentence, if there are no words, too many of them, or characters that are none.
    """
    if not isinstance(words, str) or not words.strip():
        raise PatchifyError("There are no words to search for: describe the object, for example: a red kettle.")
    if len(words) > MAX_WORDS:
        raise PatchifyError(
            f"That is {len(words):,} characters, and only {MAX_WORDS} are read: describe the object in a few words."
        )
    if not is_text(words) or "\0" in words:
        raise PatchifyError("The words contain invalid characters: type them again.")
    return " ".join(words.split())
