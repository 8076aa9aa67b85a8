"""The query and its results as an SVG for slides, with vector boxes and text, and the pictures embedded.

It opens anywhere, without the page or a network. The page makes a PNG from it in the visitor's browser, which has fonts
for every script; a server may not.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from patchify_core.demo import results, stages
from patchify_core.demo.box_methods import BOXES
from patchify_core.demo.decoding import decode
from patchify_core.demo.queries import UserQuery
from patchify_core.demo.reranking import NAMES as RERANKERS
from patchify_core.demo.results import Answer, Result
from patchify_core.web.views.html import WORDS, count, overlap, signed

WIDTH, HEIGHT = 1920, 1080
"""Size of the drawing. All lengths are in its own units, the pixels of the PNG."""

MARGIN, GAP = 48, 18
"""Around the content, and between the results."""

QUERY_WIDTH, CAPTION = 440, 66
"""Width of the column with the query, and height of the text below a result."""

SHARPNESS, QUALITY = 1.5, 86
"""Pixels of an embedded picture per unit, for enlargement, and quality of its JPEG."""

INK, SOFT, PAPER, CARD, LINE, ASK, PATCH = "#1c2430", "#566173", "#f7f6f3", "#ffffff", "#dedbd3", "#2a5bd7", "#ff9cf3"
COLOURS = {
    results.RIGHT: ("#1fbf6b", "#157a45"),
    results.MATCH: ("#1fbf6b", "#157a45"),
    results.OFF: ("#ffab1f", "#9a5b00"),
    results.WRONG: ("#ff5252", "#c02a2a"),
}
"""Colours of the box and of the text of each verdict, as on the light page; others are grey."""

GREY = "#b9c2d0", "#566173"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LETTER = 0.56
"""Mean width of a letter by its height, rounded up so that text stays inside its column."""


@dataclass(frozen=True)
class Place:
    """Position of a picture on the drawing: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


def slide(
    query: UserQuery,
    answer: Answer,
    object_name: str | None,
    picture: Callable[[int], tuple[int, int, Path]],
) -> str:
    """Draw the SVG.

    Args:
        query: The query.
        answer: Its results.
        object_name: Of the query's object, if it is known.
        picture: Image id -> width, height and file of a gallery picture.

    Raises:
        PictureError: If a picture cannot be read any more.
    """
    title = f"“{query.words}”" if query.words is not None else (object_name or query.name)
    top = MARGIN + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="{escape(FONT)}" fill="{INK}">',
        f"<title>{_clean(f'Patchify: {title}')}</title><desc>{_clean(_summary(answer, object_name))}</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        _text(MARGIN, MARGIN + 26, "Query", 26, weight=700),
        _text(MARGIN + QUERY_WIDTH + 2 * GAP, MARGIN + 26, "Best matches", 26, weight=700),
        _query(query, title, top),
    ]
    frame = Place(
        MARGIN + QUERY_WIDTH + 2 * GAP,
        top,
        WIDTH - 2 * MARGIN - QUERY_WIDTH - 2 * GAP,
        HEIGHT - top - MARGIN - 34,
    )
    for result, spot in zip(answer.results, _grid(len(answer.results), frame), strict=True):
        parts.append(_result(result, spot, picture(result.match.image_id)))
    parts += [_scores(answer, object_name), _key(answer, frame), "</svg>\n"]
    return "".join(parts)


def _grid(number: int, frame: Place) -> list[Place]:
    """Return places for the results, 4:3 with room for a caption, in the number of columns that makes them largest.

    The rest of the width goes between the columns.
    """

    def width(columns: int) -> float:
        rows = math.ceil(number / columns)
        across = (frame.width - (columns - 1) * GAP) / columns
        down = (frame.height - (rows - 1) * GAP) / rows - CAPTION
        return min(across, down * 4 / 3)

    columns = max(range(1, number + 1), key=width, default=1)
    wide = width(columns) if number else 0.0
    across = (frame.width - wide) / (columns - 1) if columns > 1 else 0.0
    down = wide * 3 / 4 + CAPTION + GAP
    return [
        Place(frame.x + n % columns * across, frame.y + n // columns * down, wide, wide * 3 / 4) for n in range(number)
    ]


def _query(query: UserQuery, title: str, top: float) -> str:
    x, width = MARGIN, QUERY_WIDTH
    if query.words is not None:
        lines = _wrapped(title, width - 40, 34)[:6]
        height = 60.0 + 44 * len(lines)
        card = f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="12" fill="{CARD}" stroke="{LINE}"/>'
        return card + "".join(
            _text(x + width / 2, top + 56 + 44 * n, line, 34, weight=650, anchor="middle")
            for n, line in enumerate(lines)
        )
    height = min(width * query.height / query.width, HEIGHT * 0.46)
    wide = height * query.width / query.height
    spot = Place(x + (width - wide) / 2, top, wide, height)
    box = "" if query.box is None else _box(query.box, spot, query.width, query.height, ASK, 5)
    named = _text(x, top + height + 38, _fitted(title, width, 24), 24, weight=650)
    return _picture(query.source, spot) + box + named


def _result(result: Result, spot: Place, source: tuple[int, int, Path]) -> str:
    width, height, path = source
    colour, text_colour = COLOURS.get(result.verdict, GREY)
    scale = min(spot.width / width, spot.height / height)
    inner = Place(
        spot.x + (spot.width - scale * width) / 2,
        spot.y + (spot.height - scale * height) / 2,
        scale * width,
        scale * height,
    )
    match = result.match
    thick = max(3.0, spot.width / 90)
    boxes = _box(result.cell, inner, width, height, PATCH, thick * 0.7, dotted=True) if result.moved else ""
    boxes += "".join(_box(other, inner, width, height, colour, thick * 0.6) for other in match.others)
    boxes += _box(match.box, inner, width, height, colour, thick)
    size = min(22.0, spot.width / 12)
    sign, words = WORDS[result.verdict]
    fits = "" if result.iou is None else f"IoU {overlap(result.iou)}"
    base = spot.y + spot.height
    return (
        f'<g><rect x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" '
        f'height="{spot.height + CAPTION - 4:.1f}" rx="8" fill="{CARD}" stroke="{LINE}"/>'
        f'<rect x="{spot.x:.1f}" y="{base + CAPTION - 8:.1f}" width="{spot.width:.1f}" height="4" '
        f'fill="{colour}"/>'
        f"{_picture(path, inner)}{boxes}"
        f'<rect x="{spot.x + 8:.1f}" y="{spot.y + 8:.1f}" width="{size * 1.9:.1f}" height="{size * 1.4:.1f}" rx="6" '
        f'fill="{INK}" fill-opacity=".82"/>'
        + _text(
            spot.x + 8 + size * 0.95, spot.y + 8 + size * 1.05, str(result.rank), size, "#ffffff", 700, anchor="middle"
        )
        + _text(spot.x + 10, base + size * 1.2, signed(match.score), size, weight=700)
        + _text(spot.x + spot.width - 10, base + size * 1.2, fits, size * 0.85, SOFT, anchor="end")
        + _text(spot.x + 10, base + size * 2.4, f"{sign} {words}", size * 0.85, text_colour, 650)
        + "</g>"
    )


def _picture(source: Path | bytes, spot: Place) -> str:
    """Embed a picture, no larger than necessary."""

    def small(shown: Image) -> bytes:
        shown.thumbnail((round(spot.width * SHARPNESS) or 1, round(spot.height * SHARPNESS) or 1))
        stream = io.BytesIO()
        shown.save(stream, "JPEG", quality=QUALITY, optimize=True)
        return stream.getvalue()

    data = base64.b64encode(decode(source, small)).decode()
    return (
        f'<image x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
    )


def _box(
    box: NDArray[np.float64], spot: Place, width: int, height: int, colour: str, thick: float, dotted: bool = False
) -> str:
    """Draw a box (xyxy in pixels of a picture of width x height) with a dark rim; its lines stay inside the box."""
    x1, y1, x2, y2 = (float(value) for value in box)
    x, y = spot.x + x1 / width * spot.width, spot.y + y1 / height * spot.height
    wide, high = (x2 - x1) / width * spot.width, (y2 - y1) / height * spot.height
    half = thick / 2
    wide, high = max(wide - thick, 0.1), max(high - thick, 0.1)
    place = f'x="{x + half:.2f}" y="{y + half:.2f}" width="{wide:.2f}" height="{high:.2f}"'
    dots = f' stroke-dasharray="{thick:.2f} {thick * 1.2:.2f}"' if dotted else ""
    rim = f'<rect {place} rx="2" fill="none" stroke="{INK}" stroke-opacity=".55" stroke-width="{thick + 2:.2f}"/>'
    return f'{rim}<rect {place} rx="2" fill="none" stroke="{colour}" stroke-width="{thick:.2f}"{dots}/>'


def _scores(answer: Answer, object_name: str | None) -> str:
    """Draw AP and LocScore below the query, if its object is known."""
    x, right = MARGIN, MARGIN + QUERY_WIDTH
    y = HEIGHT - MARGIN - 34.0
    lines = []
    if answer.score is not None:
        rows = [("As shown", answer.score), ("Winning patches", answer.winning), ("Not re-ranked", answer.plain)]
        rows.append(("Whole pictures", answer.baseline))
        known = [(name, score) for name, score in rows if score is not None]
        head = y - 34 * len(known) - 8
        lines += [_text(right - 132, head, "AP", 20, SOFT, 650, "end")]
        lines += [_text(right, head, "LocScore", 20, SOFT, 650, "end")]
        for n, (name, score) in enumerate(known):
            weight, down = 700 if n == 0 else 400, head + 34 * (n + 1)
            lines.append(_text(x, down, name, 22, weight=weight))
            lines.append(_text(right - 132, down, f"{score.ap:.3f}", 22, weight=weight, anchor="end"))
            if score.locscore is not None:
                lines.append(_text(right, down, f"{score.locscore:.3f}", 22, weight=weight, anchor="end"))
        y = head - 44
    for line in reversed(_wrapped(_summary(answer, object_name), QUERY_WIDTH, 20)):
        lines.append(_text(x, y, line, 20, SOFT))
        y -= 28
    return "".join(lines)


def _summary(answer: Answer, object_name: str | None) -> str:
    shown = len(answer.results)
    if answer.score is None:
        text = f"Top {shown} of {answer.pictures:,} pictures, not scored."
    else:
        text = (
            f"{answer.found} of the top {shown} contain the {object_name or 'object'} ({answer.score.positives} of "
            f"{answer.pictures:,} pictures do)."
        )
    way = f", re-ranked by {RERANKERS.get(answer.reranker, answer.reranker)}" if answer.reranker else ""
    patches = count(answer.stages[answer.level - 1].patches, "patch").replace("patchs", "patches")
    name = stages.option(answer.stages, answer.level)
    return f"{text} Searched with {name} ({patches} per picture){way}."


def _key(answer: Answer, frame: Place) -> str:
    """Draw the legend of the lines, and the source."""
    y = HEIGHT - MARGIN + 2.0
    by_points = any(result.by_points for result in answer.results)
    names = "box by points" if by_points else BOXES.get(answer.box_method, "winning patch")
    text = f"Solid: {names}"
    if any(result.moved for result in answer.results):
        text += " · dotted: winning patch"
    text += " · number: similarity"
    source = "Patch-wise retrieval (WACV 2026), Patchify"
    return _text(frame.x, y, text, 19, SOFT) + _text(WIDTH - MARGIN, y, source, 19, SOFT, anchor="end")


def _text(
    x: float, y: float, words: str, size: float, colour: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{_clean(words)}</text>'
    )


def _clean(words: str) -> str:
    """Escape a text, without characters that XML does not allow."""
    return escape("".join(letter for letter in words if letter.isprintable()))


def _fitted(words: str, width: float, size: float) -> str:
    most = int(width / (size * LETTER))
    return words if len(words) <= most else words[: max(most - 1, 1)].rstrip() + "…"


def _wrapped(words: str, width: float, size: float) -> list[str]:
    """Break a text into lines of a column's width; a longer word is cut."""
    lines: list[str] = []
    for word in words.split():
        grown = f"{lines[-1]} {word}" if lines else word
        if lines and len(grown) * size * LETTER <= width:
            lines[-1] = grown
        else:
            lines.append(_fitted(word, width, size))
    return lines
