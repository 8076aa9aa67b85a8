"""The query and its results as one drawing for slides: SVG with real boxes and texts, pictures inside, no script.

It opens anywhere, without the page and without a network. The page makes a PNG of it in the visitor's browser, which
has letters for every script; a server has not.
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


@dataclass(frozen=True)
class SlideSettings:
    """What a person may tune about the drawing; all lengths in its own units, pixels of the PNG.

    Attributes:
        width: of the drawing.
        height: of the drawing.
        margin: around it.
        query: width of the column with the query.
        gap: between the results.
        caption: height of the words below a result.
        sharpness: pixels of a picture inside per unit, for those who enlarge it.
        quality: of the JPEGs inside.
    """

    width: int = 1920
    height: int = 1080
    margin: int = 48
    query: int = 440
    gap: int = 18
    caption: int = 66
    sharpness: float = 1.5
    quality: int = 86


INK, SOFT, PAPER, CARD, LINE, ASK, PATCH = "#1c2430", "#566173", "#f7f6f3", "#ffffff", "#dedbd3", "#2a5bd7", "#ff9cf3"
COLOURS = {
    results.RIGHT: ("#1fbf6b", "#157a45"),
    results.MATCH: ("#1fbf6b", "#157a45"),
    results.OFF: ("#ffab1f", "#9a5b00"),
    results.WRONG: ("#ff5252", "#c02a2a"),
}
"""Colours of the box and of the words of each verdict, as on the page in light; others are grey."""

GREY = "#b9c2d0", "#566173"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LETTER = 0.56
"""Mean width of a letter, in heights; enough to keep words inside their column."""


@dataclass(frozen=True)
class Place:
    """Where a picture lies on the drawing: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


def slide(
    query: UserQuery,
    answer: Answer,
    object_name: str | None,
    picture: Callable[[int], tuple[int, int, Path]],
    settings: SlideSettings | None = None,
) -> str:
    """The drawing as SVG.

    Args:
        query: what was asked.
        answer: its answer.
        object_name: of the object that it is about, if that is known.
        picture: width, height and file of a gallery picture.
        settings: see `SlideSettings`.

    Raises:
        PictureError: if a picture cannot be read any more.
    """
    set_ = settings or SlideSettings()
    asked = f"“{query.words}”" if query.words is not None else (object_name or query.name)
    top = set_.margin + 62
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {set_.width} {set_.height}" width="{set_.width}" '
        f'height="{set_.height}" font-family="{escape(FONT)}" fill="{INK}">',
        f"<title>{_clean(f'Patchify: {asked}')}</title><desc>{_clean(_summary(answer, object_name))}</desc>",
        f'<rect width="{set_.width}" height="{set_.height}" fill="{PAPER}"/>',
        _text(set_.margin, set_.margin + 26, "Query", 26, weight=700),
        _text(set_.margin + set_.query + 2 * set_.gap, set_.margin + 26, "Best matches", 26, weight=700),
        _query(query, asked, top, set_),
    ]
    frame = Place(
        set_.margin + set_.query + 2 * set_.gap,
        top,
        set_.width - 2 * set_.margin - set_.query - 2 * set_.gap,
        set_.height - top - set_.margin - 34,
    )
    for result, spot in zip(answer.results, _grid(len(answer.results), frame, set_), strict=True):
        parts.append(_result(result, spot, picture(result.match.image_id), set_))
    parts += [_scores(answer, object_name, set_), _key(answer, frame, set_), "</svg>\n"]
    return "".join(parts)


def _grid(number: int, frame: Place, set_: SlideSettings) -> list[Place]:
    """Places for the results, 4:3 each with room for its words, in the columns that make them largest.

    What is left of the width goes between the columns.
    """

    def width(columns: int) -> float:
        rows = math.ceil(number / columns)
        across = (frame.width - (columns - 1) * set_.gap) / columns
        down = (frame.height - (rows - 1) * set_.gap) / rows - set_.caption
        return min(across, down * 4 / 3)

    columns = max(range(1, number + 1), key=width, default=1)
    wide = width(columns) if number else 0.0
    across = (frame.width - wide) / (columns - 1) if columns > 1 else 0.0
    down = wide * 3 / 4 + set_.caption + set_.gap
    return [
        Place(frame.x + n % columns * across, frame.y + n // columns * down, wide, wide * 3 / 4) for n in range(number)
    ]


def _query(query: UserQuery, asked: str, top: float, set_: SlideSettings) -> str:
    x, width = set_.margin, set_.query
    if query.words is not None:
        lines = _wrapped(asked, width - 40, 34)[:6]
        height = 60.0 + 44 * len(lines)
        card = f'<rect x="{x}" y="{top}" width="{width}" height="{height}" rx="12" fill="{CARD}" stroke="{LINE}"/>'
        return card + "".join(
            _text(x + width / 2, top + 56 + 44 * n, line, 34, weight=650, anchor="middle")
            for n, line in enumerate(lines)
        )
    height = min(width * query.height / query.width, set_.height * 0.46)
    wide = height * query.width / query.height
    spot = Place(x + (width - wide) / 2, top, wide, height)
    box = "" if query.box is None else _box(query.box, spot, query.width, query.height, ASK, 5)
    named = _text(x, top + height + 38, _fitted(asked, width, 24), 24, weight=650)
    return _picture(query.source, spot, set_) + box + named


def _result(result: Result, spot: Place, source: tuple[int, int, Path], set_: SlideSettings) -> str:
    width, height, path = source
    colour, said = COLOURS.get(result.verdict, GREY)
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
        f'height="{spot.height + set_.caption - 4:.1f}" rx="8" fill="{CARD}" stroke="{LINE}"/>'
        f'<rect x="{spot.x:.1f}" y="{base + set_.caption - 8:.1f}" width="{spot.width:.1f}" height="4" '
        f'fill="{colour}"/>'
        f"{_picture(path, inner, set_)}{boxes}"
        f'<rect x="{spot.x + 8:.1f}" y="{spot.y + 8:.1f}" width="{size * 1.9:.1f}" height="{size * 1.4:.1f}" rx="6" '
        f'fill="{INK}" fill-opacity=".82"/>'
        + _text(
            spot.x + 8 + size * 0.95, spot.y + 8 + size * 1.05, str(result.rank), size, "#ffffff", 700, anchor="middle"
        )
        + _text(spot.x + 10, base + size * 1.2, signed(match.score), size, weight=700)
        + _text(spot.x + spot.width - 10, base + size * 1.2, fits, size * 0.85, SOFT, anchor="end")
        + _text(spot.x + 10, base + size * 2.4, f"{sign} {words}", size * 0.85, said, 650)
        + "</g>"
    )


def _picture(source: Path | bytes, spot: Place, set_: SlideSettings) -> str:
    """A picture, no larger inside than it is of use."""

    def small(shown: Image) -> bytes:
        shown.thumbnail((round(spot.width * set_.sharpness) or 1, round(spot.height * set_.sharpness) or 1))
        stream = io.BytesIO()
        shown.save(stream, "JPEG", quality=set_.quality, optimize=True)
        return stream.getvalue()

    data = base64.b64encode(decode(source, small)).decode()
    return (
        f'<image x="{spot.x:.1f}" y="{spot.y:.1f}" width="{spot.width:.1f}" height="{spot.height:.1f}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>'
    )


def _box(
    box: NDArray[np.float64], spot: Place, width: int, height: int, colour: str, thick: float, dotted: bool = False
) -> str:
    """A box (xyxy in pixels of a picture of width x height) on its picture, inside its own edge, with a dark rim."""
    x1, y1, x2, y2 = (float(value) for value in box)
    x, y = spot.x + x1 / width * spot.width, spot.y + y1 / height * spot.height
    wide, high = (x2 - x1) / width * spot.width, (y2 - y1) / height * spot.height
    half = thick / 2
    wide, high = max(wide - thick, 0.1), max(high - thick, 0.1)
    place = f'x="{x + half:.2f}" y="{y + half:.2f}" width="{wide:.2f}" height="{high:.2f}"'
    dots = f' stroke-dasharray="{thick:.2f} {thick * 1.2:.2f}"' if dotted else ""
    rim = f'<rect {place} rx="2" fill="none" stroke="{INK}" stroke-opacity=".55" stroke-width="{thick + 2:.2f}"/>'
    return f'{rim}<rect {place} rx="2" fill="none" stroke="{colour}" stroke-width="{thick:.2f}"{dots}/>'


def _scores(answer: Answer, object_name: str | None, set_: SlideSettings) -> str:
    """AP and LocScore below the query, where it is known what the object is."""
    x, right = set_.margin, set_.margin + set_.query
    y = set_.height - set_.margin - 34.0
    lines = []
    if answer.score is not None:
        rows = [("As shown", answer.score), ("Winning patches", answer.winning), ("Not re-ranked", answer.plain)]
        rows.append(("Whole pictures", answer.baseline))
        there = [(name, score) for name, score in rows if score is not None]
        head = y - 34 * len(there) - 8
        lines += [_text(right - 132, head, "AP", 20, SOFT, 650, "end")]
        lines += [_text(right, head, "LocScore", 20, SOFT, 650, "end")]
        for n, (name, score) in enumerate(there):
            weight, down = 700 if n == 0 else 400, head + 34 * (n + 1)
            lines.append(_text(x, down, name, 22, weight=weight))
            lines.append(_text(right - 132, down, f"{score.ap:.3f}", 22, weight=weight, anchor="end"))
            if score.locscore is not None:
                lines.append(_text(right, down, f"{score.locscore:.3f}", 22, weight=weight, anchor="end"))
        y = head - 44
    for line in reversed(_wrapped(_summary(answer, object_name), set_.query, 20)):
        lines.append(_text(x, y, line, 20, SOFT))
        y -= 28
    return "".join(lines)


def _summary(answer: Answer, object_name: str | None) -> str:
    shown = len(answer.results)
    if answer.score is None:
        found = f"Top {shown} of {answer.pictures:,} pictures, not scored."
    else:
        found = (
            f"{answer.found} of the top {shown} contain the {object_name or 'object'} ({answer.score.positives} of "
            f"{answer.pictures:,} pictures do)."
        )
    way = f", re-ranked by {RERANKERS.get(answer.reranker, answer.reranker)}" if answer.reranker else ""
    patches = count(answer.stages[answer.level - 1].patches, "patch").replace("patchs", "patches")
    name = stages.option(answer.stages, answer.level)
    return f"{found} Searched with {name} ({patches} per picture){way}."


def _key(answer: Answer, frame: Place, set_: SlideSettings) -> str:
    """What the lines mean, and where it is from."""
    y = set_.height - set_.margin + 2.0
    names = (
        "box by points" if any(r.by_points for r in answer.results) else BOXES.get(answer.box_method, "winning patch")
    )
    said = f"Solid: {names}"
    if any(result.moved for result in answer.results):
        said += " · dotted: winning patch"
    said += " · number: similarity"
    source = "Patch-wise retrieval (WACV 2026), Patchify"
    return _text(frame.x, y, said, 19, SOFT) + _text(set_.width - set_.margin, y, source, 19, SOFT, anchor="end")


def _text(
    x: float, y: float, words: str, size: float, colour: str = INK, weight: int = 400, anchor: str = "start"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" font-weight="{weight}" fill="{colour}" '
        f'text-anchor="{anchor}">{_clean(words)}</text>'
    )


def _clean(words: str) -> str:
    """Escaped, and without what XML cannot hold."""
    return escape("".join(letter for letter in words if letter.isprintable()))


def _fitted(words: str, width: float, size: float) -> str:
    most = int(width / (size * LETTER))
    return words if len(words) <= most else words[: max(most - 1, 1)].rstrip() + "…"


def _wrapped(words: str, width: float, size: float) -> list[str]:
    """Lines no longer than a column; a word that is longer than that is cut."""
    lines: list[str] = []
    for word in words.split():
        grown = f"{lines[-1]} {word}" if lines else word
        if lines and len(grown) * size * LETTER <= width:
            lines[-1] = grown
        else:
            lines.append(_fitted(word, width, size))
    return lines
