"""The printable handout: one A4 page with the method, one real query with its numbers, and an exercise."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path

from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.walk import Walk, WalkChoice, walk
from patchify_core.imaging.pictures import read_picture
from patchify_core.web.views.handout import handout_page

EXERCISE = (4, {1: 0.8, 3: 0.5, 6: 0.9})
"""What is computed by hand: how many pictures contain the object, and rank -> IoU of those found."""

LARGE, SMALL = 640, 240
"""Longest sides of pictures and of thumbnails in pixels: at least 75 a centimetre where they are printed."""


def handout(showcase: ExampleGallery, shown: Walk | None = None) -> str:
    """The page, whole: HTML with its style and its pictures inside.

    Args:
        showcase: the gallery that it is about.
        shown: the walk of the query at hand; that of the first example if None.

    Raises:
        PatchifyError: if a picture cannot be read any more.
    """
    shown = shown or walk(showcase, showcase.first(), WalkChoice())
    return handout_page(shown, partial(inlined, side=LARGE), partial(inlined, side=SMALL), EXERCISE)


def inlined(path: Path, side: int) -> str:
    """A picture as an address that carries it, its longer side at most that many pixels."""
    picture = read_picture(path)
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
