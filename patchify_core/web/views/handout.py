"""The printable handout: one A4 page with the method, one real query with its numbers, and an exercise."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path

from markupsafe import Markup

from patchify_core.demo import stages
from patchify_core.demo.example_gallery import ExampleGallery
from patchify_core.demo.results import RIGHT_IOU
from patchify_core.demo.walk import Walk, WalkChoice, made_up_score, walk
from patchify_core.imaging.pictures import read_picture
from patchify_core.web.views.html import render_text

EXERCISE = (4, {1: 0.8, 3: 0.5, 6: 0.9})
"""The exercise, solved by hand: number of pictures that contain the object, and rank -> IoU of those found."""

LARGE, SMALL = 640, 240
"""Longest sides of pictures and thumbnails in pixels: at least 75 per centimetre in print."""

ROWS = 8
"""Rows of the ranking and of the arithmetic that fit on the page."""


def handout(showcase: ExampleGallery, shown: Walk | None = None) -> Markup:
    """Render the page: a single HTML file with its style and pictures embedded.

    Args:
        showcase: The gallery.
        shown: The walk of the query to show; by default that of the first example.

    Raises:
        PatchifyError: If a picture cannot be read any more.
    """
    shown = shown or walk(showcase, showcase.first(), WalkChoice())
    index_stages = shown.stages
    return render_text(
        "handout",
        shown=shown,
        url=partial(data_url, side=LARGE),
        small=partial(data_url, side=SMALL),
        grids=all(map(stages.grid_of, index_stages)),
        cut=[stage.patches - stages.patches_before(index_stages, n) for n, stage in enumerate(index_stages, 1)],
        rows=ROWS,
        right_iou=RIGHT_IOU,
        exercise=made_up_score(*EXERCISE),
        hits=list(EXERCISE[1]),
    )


def data_url(path: Path, side: int) -> str:
    """Return a picture as a data: URL, its longer side at most `side` pixels."""
    picture = read_picture(path)
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
