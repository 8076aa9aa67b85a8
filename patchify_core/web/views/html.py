"""Shared by all views: rendering of templates, and the functions and filters that templates use to format values."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo import results, stages
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.results import RIGHT_IOU, Result
from patchify_core.regions import Stage
from patchify_core.web.templating import PAGES, PARTS

FileUrl = Callable[[Path], str]
"""Path of a picture -> its address on the page."""

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
"""Sign and words of each verdict, so that colour is never the only cue."""

GRADIENT_STOPS = 7
"""Colours in the gradient of a legend."""


def render(template: str, **values: Any) -> str:
    """Render a part of the page from `web/templates`.

    Args:
        template: Its name without `.html`.
        values: Its variables, besides the globals and filters of this module.
    """
    return PARTS.get_template(f"{template}.html").render(values)


def render_text(template: str, **values: Any) -> Markup:
    """Render a template whose line breaks matter: running text with inline tags, and pages that are printed.

    Args:
        template: Its name without `.html`.
        values: Its variables, besides the globals and filters of this module.
    """
    return Markup(TEXTS.get_template(f"{template}.html").render(values))


def place(box: NDArray, width: int, height: int) -> str:
    """Return the CSS that puts an element over `box` (xyxy pixels) of a picture of width x height pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return (
        f"left:{100 * x1 / width:.3f}%;top:{100 * y1 / height:.3f}%;"
        f"width:{100 * (x2 - x1) / width:.3f}%;height:{100 * (y2 - y1) / height:.3f}%"
    )


def patch_position(index_stages: Sequence[Stage], patch: int) -> str:
    """Describe where a patch is, e.g. `row 2, column 3 of the 4×4 grid`, `whole picture` or `patch 3 of random:5,0`."""
    number = stages.stage_of(index_stages, patch)
    grid = stages.grid_of(index_stages[number - 1])
    within = patch - stages.patches_before(index_stages, number)
    title = stages.title(index_stages, number)
    if grid == 1:
        return title
    if grid is None:
        return f"patch {within + 1} of {title}"
    row, column = divmod(within, grid)
    return f"row {row + 1}, column {column + 1} of the {title}"


def viridis(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Map (H, W) values in 0..1 to (H, W, 3) uint8 RGB.

    Viridis: equal steps look equally large, also to colour-blind people.
    """
    import cv2

    levels = np.rint(shares * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1])


def css_colours(values: NDArray[np.floating]) -> list[str]:
    """Return the viridis colour of each value, from the smallest to the largest, as `#rrggbb`."""
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low) if high > low else np.ones_like(values)
    return [f"#{bytes(colour).hex()}" for colour in viridis(shares[None])[0]]


def css_gradient() -> str:
    """Return the colours of a legend, separated by commas."""
    return ",".join(css_colours(np.linspace(0, 1, GRADIENT_STOPS, dtype=np.float32)))


def verdict_text(result: Result) -> str:
    """Return the verdict in words, with the IoU if there is one."""
    word = WORDS[result.verdict][1]
    return word if result.iou is None else f"{word} · IoU {overlap(result.iou)}"


def overlap(iou: float, digits: int = 2) -> str:
    """Format an IoU: rounded, but never across `RIGHT_IOU`, which decides its verdict.

    Example:
        >>> [overlap(value) for value in (0.4999, 0.5, 0.684)]
        ['0.49', '0.50', '0.68']
    """
    text = f"{iou:.{digits}f}"
    return f"{RIGHT_IOU - 10**-digits:.{digits}f}" if iou < RIGHT_IOU <= float(text) else text


def signed(value: float, digits: int = 3) -> str:
    """Format a number with a real minus sign, e.g. `−0.058`, and never as `−0.000`."""
    return f"{value + 0.0:.{digits}f}".replace("-", "−") if round(value, digits) else f"{0:.{digits}f}"


def count(number: int, thing: str) -> str:
    """Format a number of things, e.g. `1 inlier`, `37 inliers`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def query_address(query: UserQuery, url: FileUrl) -> str:
    """Return the address of the query picture; a visitor's own is embedded in the page, so that nobody else gets it."""
    if query.path is not None:
        return url(query.path)
    return "data:image/jpeg;base64," + base64.b64encode(query.preview).decode()


def three(value: float | None) -> str:
    """Format a score with three digits; a dash if there is none."""
    return "–" if value is None or value != value else f"{value:.3f}"


def two(value: float) -> str:
    """Format a score with two digits."""
    return f"{value:.2f}"


def percent(share: float) -> str:
    """Format a probability, which is never printed as 0 or 100 %.

    Example:
        >>> [percent(value) for value in (0.0, 0.504, 0.9999)]
        ['1 %', '50 %', '99 %']
    """
    return f"{min(max(round(100 * share), 1), 99)} %"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Format a number of things, e.g. `1 query`, `36 queries`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


TEXTS = PAGES.overlay(undefined=StrictUndefined, lstrip_blocks=True)
"""Environment of `render_text`."""

_FUNCTIONS = (place, patch_position, verdict_text, overlap, signed, count, percent, query_address)
# All environments share these.
PAGES.globals |= {one.__name__: one for one in _FUNCTIONS} | {"WORDS": WORDS, "stages": stages}
PAGES.filters |= {one.__name__: one for one in (three, two, plural, signed)}
