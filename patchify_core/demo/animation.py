"""An animated WebP for slides of how one picture gets its score: the grids in turn, then the winning patch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from patchify_core.imaging.pictures import read_picture
from patchify_core.regions import Pyramid

SIDE, PANEL, GAP = 480, 190, 14
"""Longest side of the picture, width of the panel beside it, and the space between, in pixels."""

GRID_MS, WINNER_MS = 700, 2400
"""Time that each grid and the winning patch are shown, in milliseconds."""

PAPER, INK, SOFT, WIN = (247, 246, 243), (28, 36, 48), (86, 97, 115), (255, 178, 36)


def animate(document: Mapping[str, Any], folder: Path, query: int, picture: int) -> bytes:
    """Animate one result of an example.

    Args:
        document: Stored answers (`paper.Paper.document`).
        folder: Of the gallery.
        query: Id of the example.
        picture: Id of a gallery picture that is among its results.

    Returns:
        An animated WebP.

    Raises:
        KeyError: If there is no such example or result.
        PictureError: If one of the two pictures cannot be read.
    """
    entry = {one["id"]: one for one in document["examples"]}[query]
    scores: list[float] = entry["patches"][str(picture)]
    shown = _scaled(read_picture(folder / document["pictures"][str(picture)][0]), SIDE, SIDE)
    query_crop = read_picture(folder / entry["picture"])
    if entry["box"] is not None:
        query_crop = query_crop.crop(tuple(round(value) for value in entry["box"]))
    query_crop = _scaled(query_crop, PANEL, 120)
    frames, first, low, high = [], 0, min(scores), max(scores)
    for level in document["levels"]:
        grid = level["grid"]
        glow = [0.75 * ((score - low) / ((high - low) or 1.0)) ** 2 for score in scores[first : first + grid * grid]]
        first += grid * grid
        frames.append(_frame(_gridded(shown, grid, glow), query_crop, level["name"], max(scores[:first])))
    cell = Pyramid(len(document["levels"])).box(*shown.size, scores.index(high))
    box = (cell - [0, 0, 1, 1]).tolist()  # Pillow draws the last pixel too
    marked = shown.copy()
    drawing = ImageDraw.Draw(marked)
    drawing.rectangle(box, outline=INK, width=6)
    drawing.rectangle([box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1], outline=WIN, width=4)
    patch = _scaled(shown.crop(tuple(round(value) for value in box)), PANEL, 120)
    frames.append(_frame(marked, query_crop, "best patch", high, patch))
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
    """Draw the cells of one grid, the similar ones in the winner's colour."""
    shade = Image.new("L", (grid, grid))
    shade.putdata([round(255 * value) for value in glow])
    canvas = picture.copy()
    canvas.paste(Image.new("RGB", canvas.size, WIN), mask=shade.resize(canvas.size, Image.Resampling.NEAREST))
    drawing = ImageDraw.Draw(canvas)
    for line in range(1, grid):
        x, y = line * canvas.width // grid, line * canvas.height // grid
        drawing.line([(x, 0), (x, canvas.height)], fill="white", width=2)
        drawing.line([(0, y), (canvas.width, y)], fill="white", width=2)
    return canvas


def _frame(
    picture: Image.Image, query: Image.Image, name: str, score: float, patch: Image.Image | None = None
) -> Image.Image:
    """Draw the picture on the left; query, winning patch and best similarity so far on the right."""
    height = max(picture.height, 330)
    canvas = Image.new("RGB", (picture.width + PANEL + 3 * GAP, height + 2 * GAP), PAPER)
    canvas.paste(picture, (GAP, GAP))
    drawing, left, top = ImageDraw.Draw(canvas), picture.width + 2 * GAP, GAP
    for title, one in (("query", query), (name, patch)):
        drawing.text((left, top), title, SOFT, ImageFont.load_default(15))
        if one is not None:
            canvas.paste(one, (left, top + 20))
        top += 150
    drawing.text((left, canvas.height - 46), f"{score:.3f}", INK, ImageFont.load_default(32))
    return canvas
