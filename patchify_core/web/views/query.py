"""The query: its picture or words, the examples, and which encoders there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from patchify_core.demo.locating import has_maps
from patchify_core.demo.questions import Question
from patchify_core.demo.shelf import Offer, shown_spec
from patchify_core.demo.stages import patches_in_words
from patchify_core.web.views.html import FileUrl, render


def query(question: Question, url: FileUrl, turn: int = 0) -> str:
    """The query picture with its box, which the script of the page lets the visitor draw, move and resize; or words.

    `turn` makes it another text than the last one, so that the script learns of an upload that was refused.
    """
    box = np.array([0, 0, question.width, question.height], float) if question.box is None else question.box
    corners = ",".join(f"{value:.1f}" for value in box)
    return render("query", question=question, url=url, turn=turn, box=box, corners=corners)


def examples(items: Sequence[tuple[int, str, Path]], chosen: int | None, url: FileUrl) -> str:
    """Thumbnails of the bundled queries; items are (query id, name, file)."""
    return render("examples", items=items, chosen=chosen, url=url)


def loading(offer: Offer, ready: bool) -> str:
    """What is said while another encoder is loaded."""
    return render("loading", spec=shown_spec(offer.index.encoder), ready=ready)


def about(offers: Iterable[Offer]) -> str:
    """Help for the choices of method and box."""
    return render(
        "about",
        terms=TERMS,
        indexes=[offer.index for offer in offers],
        shown_spec=shown_spec,
        patches_in_words=patches_in_words,
        has_maps=has_maps,
    )


TERMS = (
    ("Paper", "Every patch is cut out and encoded separately: 30 passes of the network per picture."),
    ("Fast", "The network sees the whole picture once; patches are read from its feature map. Much faster."),
    ("Winning patch", "The box of the most similar patch: it shows roughly, not exactly, where."),
    ("Soft box", "The mean of all patches’ boxes; better matches count more."),
    ("Refined box", "Boxes of every size and position are compared; the best box is then aligned with visible edges."),
)
"""Terms of the choices, and one sentence each."""
