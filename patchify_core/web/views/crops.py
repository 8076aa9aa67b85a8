"""Parts of pictures, cut out by the browser."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.queries import UserQuery
from patchify_core.web.views.html import FileUrl, query_address, render


def crop(address: str, width: int, height: int, box: NDArray[np.floating] | Sequence[float], name: str) -> str:
    """A part of a picture, cut out by the browser; `box` is xyxy in pixels of the picture of width x height."""
    left, top, right, bottom = (float(v) for v in box)
    part = {"left": left, "top": top, "wide": right - left, "tall": bottom - top}
    return render("crop", address=address, name=name, width=width, height=height, **part)


def query_crop(query: UserQuery, url: FileUrl) -> str:
    """The query: the content of its box, the whole picture, or the words."""
    if query.words is not None:
        return render("said", words=query.words)
    box = (0, 0, query.width, query.height) if query.box is None else query.box
    return crop(query_address(query, url), query.width, query.height, box, f"Query: {query.name}")
