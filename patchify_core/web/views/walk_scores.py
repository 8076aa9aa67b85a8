"""The last steps of the walk: all pictures ranked, LocScore as arithmetic, and look-alikes side by side."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from patchify_core.demo.lookalikes import Pair
from patchify_core.demo.walk import WORKED, Walk, worked_example
from patchify_core.regions import Stage
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import FileUrl, macro

TEMPLATE = "walk_scores.html"


def ranking_step(shown: Walk, url: FileUrl) -> Markup:
    """The first pictures with their scores as bars, where the right ones stand, and the same for whole pictures."""
    return macro(TEMPLATE, "ranking", shown, url)


def locscore_step(shown: Walk, url: FileUrl) -> Markup:
    """LocScore line by line: of the visitor's own query, and of the worked example."""
    return macro(TEMPLATE, "locscore", shown, url, WORKED, worked_example())


def worked() -> Markup:
    """The worked example, by the same calls as every other score."""
    return macro(TEMPLATE, "worked", WORKED, worked_example())


def pair_step(pair: Pair, level: int, found: Sequence[Stage], url: FileUrl) -> Markup:
    """The query object and its look-alike, each in its best picture."""
    return macro(TEMPLATE, "pair", pair, level, found, url, Markup(query_crop(pair.query, url)))
