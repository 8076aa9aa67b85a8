"""How one picture got its score, as an animated WebP for slides: the grids in turn, then the winning patch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from patchify_core.imaging.pictures import read_picture
from patchify_core.regions import Pyramid

SIDE, PANEL, GAP = 480, 190, 14
"""Longest side of the picture, width of what stands beside it, and space between, in pixels."""

GRID_MS, WINNER_MS = 700, 2400
"""How long a grid and the winning patch are shown, in milliseconds."""

PAPER, INK, SOFT, WIN = (247, 246, 243), (28, 36, 48), (86, 97, 115), (255, 178, 36)


def film(document: Mapping[str, Any], folder: Path, query: int, picture: int) -> bytes:
    """The animation of one result of an example.

    Args:
        document: the answers (`paper.Paper.document`).
        folder: the gallery.
        query: id of the example.
        picture: id of a gallery picture that is among its results.

    Returns:
        An animated WebP.

    Raises:
        KeyError: if there is no such example or result.
        PictureError: if one of the two pictures cannot be read.
    """
    entry = {one["id"]: one for one in document["examples"]}[query]
    scores: list[float] = entry["patches"][str(picture)]
    shown = _scaled(read_picture(folder / document["pictures"][str(picture)][0]), SIDE, SIDE)
    asked = read_picture(folder / entry["picture"])
    if entry["box"] is not None:
        asked = asked.crop(tuple(round(value) for value in entry["box"]))
    asked = _scaled(asked, PANEL, 120)
    frames, first, low, high = [], 0, min(scores), max(scores)
    for level in document["levels"]:
        grid = level["grid"]
        glow = [0.75 * ((score - low) / ((high - low) or 1.0)) ** 2 for score in scores[first : first + grid * grid]]
        first += grid * grid
        frames.append(_frame(_gridded(shown, grid, glow), asked, level["name"], max(scores[:first])))
    cell = Pyramid(len(document["levels"])).box(*shown.size, scores.index(high))
    box = (cell - [0, 0, 1, 1]).tolist()  # Pillow draws the last pixel too
    marked = shown.copy()
    drawing = ImageDraw.Draw(marked)
    drawing.rectangle(box, outline=INK, width=6)
    drawing.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline=WIN, width=4)
    patch = _scaled(shown.crop(tuple(round(value) for value in box)), PANEL, 120)
    frames.append(_frame(marked, asked, "best patch", high, patch))
    stream = io.BytesIO()
    durations = [GRID_MS] * (len(frames) - 1) + [WINNER_MS]
    frames[0].save(
        stream, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=80, method=4
    )
    return stream.getvalue()


def _scaled(picture: Image.Image, width: int, height: int) -> Image.Image:
    scale = min(width / picture.width, height / picture.height)
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _gridded(picture: Image.Image, grid: int, glow: Sequence[float]) -> Image.Image:
    """The picture with the cells of one grid, the similar ones in the winner's colour."""
    shade = Image.new("L", (grid, grid))
    shade.putdata([round(255 * value) for value in glow])
    made = picture.copy()
    made.paste(Image.new("RGB", made.size, WIN), mask=shade.resize(made.size, Image.Resampling.NEAREST))
    drawing = ImageDraw.Draw(made)
    for line in range(1, grid):
        x, y = line * made.width // grid, line * made.height // grid
        drawing.line([(x, 0), (x, made.height)], fill="white", width=2)
        drawing.line([(0, y), (made.width, y)], fill="white", width=2)
    return made


def _frame(
    picture: Image.Image, query: Image.Image, name: str, score: float, patch: Image.Image | None = None
) -> Image.Image:
    """The picture on the left; the query, the winning patch and the best similarity so far on the right."""
    height = max(picture.height, 330)
    made = Image.new("RGB", (picture.width + PANEL + 3 * GAP, height + 2 * GAP), PAPER)
    made.paste(picture, (GAP, GAP))
    drawing, left, top = ImageDraw.Draw(made), picture.width + 2 * GAP, GAP
    for title, one in (("query", query), (name, patch)):
        drawing.text((left, top), title, SOFT, ImageFont.load_default(15))
        if one is not None:
            made.paste(one, (left, top + 20))
        top += 150
    drawing.text((left, made.height - 46), f"{score:.3f}", INK, ImageFont.load_default(32))
    return made
