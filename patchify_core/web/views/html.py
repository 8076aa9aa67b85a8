"""What all views share."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from numpy.typing import NDArray

from patchify_core.demo import answers
from patchify_core.demo.answers import Result
from patchify_core.demo.judging import RIGHT_IOU
from patchify_core.demo.questions import Question

FileUrl = Callable[[Path], str]

WORDS = {
    answers.RIGHT: ("✓", "match, good box"),
    answers.OFF: ("≈", "match, poor box"),
    answers.WRONG: ("✕", "wrong object"),
    answers.MATCH: ("✓", "match, no box annotated"),
    answers.IGNORED: ("–", "not counted"),
    answers.ITSELF: ("=", "the query itself"),
    answers.UNKNOWN: ("?", "not scored"),
    answers.UNMARKED: ("?", "no box drawn"),
}
"""Sign and words of each verdict; colour never says it alone."""


def place(box: NDArray, width: int, height: int) -> str:
    """CSS that lays an element over `box` (xyxy pixels) of a picture of width x height pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return (
        f"left:{100 * x1 / width:.3f}%;top:{100 * y1 / height:.3f}%;"
        f"width:{100 * (x2 - x1) / width:.3f}%;height:{100 * (y2 - y1) / height:.3f}%"
    )


def boxes(result: Result, width: int, height: int) -> str:
    """The box that is judged, those of further objects, and the winning patch's where it is another one."""
    match = result.match
    cell = f'<span class="pf-patch" style="{place(result.cell, width, height)}"></span>' if result.moved else ""
    others = "".join(
        f'<span class="pf-box pf-other" style="{place(box, width, height)}"></span>' for box in match.others
    )
    return f'{cell}{others}<span class="pf-box" style="{place(match.box, width, height)}"></span>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What the boxes are called; entries are (CSS class of the sign, name)."""
    items = "".join(f'<span><i class="k {sign}"></i> {escape(name)}</span>' for sign, name in entries)
    return f'<p class="pf-legend">{items}</p>'


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


def query_address(question: Question, url: FileUrl) -> str:
    """Where the browser gets the query picture from; a visitor's is inside the page, never a file for others."""
    if question.path is not None:
        return url(question.path)
    return "data:image/jpeg;base64," + base64.b64encode(question.preview).decode()
