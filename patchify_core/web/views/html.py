"""What all views share: how a template is filled, and how values are printed."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo import results, stages
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import RIGHT_IOU, Result
from patchify_core.web.templating import PAGES, PARTS

FileUrl = Callable[[Path], str]

Sizes = Callable[[int], tuple[int, int, Path]]
"""Image id -> width, height and file of a gallery picture."""

WORDS = {
    results.RIGHT: ("✓", "match, good box"),
    results.OFF: ("≈", "match, poor box"),
    results.WRONG: ("✕", "wrong object"),
    results.MATCH: ("✓", "match, no box annotated"),
    results.IGNORED: ("–", "not counted"),
    results.ITSELF: ("=", "the query itself"),
    results.UNKNOWN: ("?", "not scored"),
    results.UNMARKED: ("?", "no box drawn"),
}
"""Sign and words of each verdict; colour never says it alone."""


def render(template: str, **values: Any) -> str:
    """A template of `web/templates`, filled; what is not marked as HTML is escaped.

    Args:
        template: its name without `.html`.
        values: what it uses, besides the functions of this module.
    """
    return PARTS.get_template(f"{template}.html").render(values)


def rendered(template: str, **values: Any) -> Markup:
    """A template whose line breaks are kept as they are: text with marked words, and pages that are printed.

    Args:
        template: its name.
        values: what it uses, besides the functions and filters below.
    """
    return Markup(_TEXTS.get_template(template).render(values))


def macro(template: str, name: str, *values: Any, **named: Any) -> Markup:
    """One macro of such a template, filled."""
    return Markup(getattr(_TEXTS.get_template(template).module, name)(*values, **named))


def place(box: NDArray, width: int, height: int) -> str:
    """CSS that lays an element over `box` (xyxy pixels) of a picture of width x height pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return (
        f"left:{100 * x1 / width:.3f}%;top:{100 * y1 / height:.3f}%;"
        f"width:{100 * (x2 - x1) / width:.3f}%;height:{100 * (y2 - y1) / height:.3f}%"
    )


def verdict_text(result: Result) -> str:
    """The verdict in words, with the IoU where there is one."""
    word = WORDS[result.verdict][1]
    return word if result.iou is None else f"{word} · IoU {overlap(result.iou)}"


def overlap(iou: float, digits: int = 2) -> str:
    """An IoU as it is printed: rounded, but never across `RIGHT_IOU`, which its verdict compares it with.

    Example:
        >>> [overlap(value) for value in (0.4999, 0.5, 0.684)]
        ['0.49', '0.50', '0.68']
    """
    text = f"{iou:.{digits}f}"
    return f"{RIGHT_IOU - 10**-digits:.{digits}f}" if iou < RIGHT_IOU <= float(text) else text


def signed(value: float, digits: int = 3) -> str:
    """A number as it is printed, e.g. `−0.058`; none is `−0.000`."""
    return f"{value + 0.0:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def count(number: int, thing: str) -> str:
    """A number of things, e.g. `1 inlier`, `37 inliers`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def query_address(query: UserQuery, url: FileUrl) -> str:
    """Where the browser gets the query picture from; a visitor's is inside the page, never a file for others."""
    if query.path is not None:
        return url(query.path)
    return "data:image/jpeg;base64," + base64.b64encode(query.preview).decode()


def three(value: float | None) -> str:
    """A score to three digits; a dash where there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def two(value: float) -> str:
    """A score to two digits."""
    return f"{value:.2f}"


def percent(share: float) -> str:
    """A probability in per cent, which is never said to be none or certain.

    Example:
        >>> [percent(value) for value in (0.0, 0.504, 0.9999)]
        ['1 %', '50 %', '99 %']
    """
    return f"{min(max(round(100 * share), 1), 99)} %"


def plural(number: int, one: str, many: str | None = None) -> str:
    """A number of things, e.g. `1 query`, `36 queries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


_TEXTS = PAGES.overlay(undefined=StrictUndefined, lstrip_blocks=True)
# All environments share what their templates may use.
PAGES.globals |= {one.__name__: one for one in (place, verdict_text, overlap, signed, count, percent, query_address)}
PAGES.globals |= {"WORDS": WORDS, "stages": stages}
PAGES.filters |= {one.__name__: one for one in (three, two, plural, signed)}
