"""The handout as HTML: black on white, sizes in millimetres, one A4 page when printed."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from patchify_core.demo import stages
from patchify_core.demo.results import RIGHT_IOU
from patchify_core.demo.walk import Walk, made_up_score
from patchify_core.web.views.crops import query_crop
from patchify_core.web.views.html import FileUrl, rendered

ROWS = 8
"""Lines of arithmetic and of the ranking that fit; what comes after them is summed up."""


def handout_page(shown: Walk, url: FileUrl, small: FileUrl, exercise: tuple[int, Mapping[int, float]]) -> Markup:
    """The page.

    Args:
        shown: the walk of the query that it shows.
        url: gives a picture's address.
        small: the same for a thumbnail.
        exercise: pictures that contain the object, and rank -> IoU of those that were found.
    """
    found = shown.stages
    return rendered(
        "handout.html",
        shown=shown,
        crop=Markup(query_crop(shown.query, url)),
        url=url,
        small=small,
        grids=all(map(stages.grid_of, found)),
        cut=[stage.patches - stages.patches_before(found, n) for n, stage in enumerate(found, 1)],
        rows=ROWS,
        right_iou=RIGHT_IOU,
        exercise=made_up_score(*exercise),
        hits=list(exercise[1]),
    )
