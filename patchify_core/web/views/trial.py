"""One configuration looked into: its scores, how it compares, its objects, and its worst failures as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo.results import WRONG
from patchify_core.demo.trials import Failure, Part, Trial
from patchify_core.evaluation.compare import DEFAULTS, Difference
from patchify_core.web.views.html import WORDS, FileUrl, overlap, rendered

SCORES = (("map", "mAP"), ("locscore", "LocScore"), ("mean_iou", "mean IoU"), ("recall@1", "top-1 correct"))


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture with a box: its size in pixels, its file, the box (4,) xyxy or None, and what it contains."""

    width: int
    height: int
    path: Path
    box: NDArray[np.float64] | None
    holds: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ShownFailure:
    """A failure with its pictures.

    Attributes:
        failure: the numbers.
        query: the query picture with its box.
        first: the gallery picture that came first; None if that is not known.
        verdict: one of `answers`: RIGHT, OFF or WRONG.
        iou: of its box with the annotated one, where it is right and annotated.
    """

    failure: Failure
    query: Shown
    first: Shown | None
    verdict: str
    iou: float | None

    @property
    def said(self) -> str:
        """What is said of the picture that came first."""
        sign, words = WORDS[self.verdict]
        if self.verdict != WRONG:
            return f"{sign} {words}" + ("" if self.iou is None else f", IoU {overlap(self.iou)}")
        holds = () if self.first is None else self.first.holds
        named = ", ".join(holds[:3]) + (" …" if len(holds) > 3 else "")
        return f"{sign} contains {named or 'none of the objects'}"


def trial(
    chosen: Trial,
    others: Sequence[Trial],
    other: Trial | None,
    differences: Sequence[Difference],
    parts: Sequence[Part],
    worst: Sequence[ShownFailure] | str,
    url: FileUrl,
) -> Markup:
    """The panel below the table.

    Args:
        chosen: what is looked into.
        others: what it may be compared with.
        other: what it is compared with, or None.
        differences: of `chosen` to `other` (B and A).
        parts: its objects.
        worst: its failures, or a sentence why they are not shown.
        url: address of a bundled picture.
    """
    scores = [
        (title, chosen.mean.of(name), chosen.mean.spread(name) / 2 if chosen.seeds > 1 else None)
        for name, title in SCORES
        if all(name in row for row in chosen.mean.rows) and chosen.mean.of(name) is not None
    ]
    return rendered(
        "trial.html",
        chosen=chosen,
        scores=scores,
        others=others,
        other=other,
        differences=list(map(difference_in_words, differences)),
        parts=parts,
        worst=worst,
        url=url,
    )


def difference_in_words(found: Difference) -> Markup:
    """Whether the configuration looked into (B) is better than the other one (A), in a sentence."""
    interval = (
        f"{DEFAULTS.confidence:g} % interval {_signed(found.low)} to {_signed(found.high)}, {found.queries} queries"
    )
    numbers = Markup("<b>{} {}</b> ({:.3f} → {:.3f}; {})").format(
        _signed(found.difference), found.metric, found.a, found.b, interval
    )
    if found.low > 0:
        return Markup("This one is <b>better</b>: {}.").format(numbers)
    if found.high < 0:
        return Markup("This one is <b>worse</b>: {}.").format(numbers)
    if found.low == found.high == 0:
        return Markup("Both have the same {} for every query.").format(found.metric)
    return Markup("These queries show no difference: {}.").format(numbers)


def _signed(value: float) -> str:
    return f"{value:+.3f}" if round(value, 3) else "0.000"
