"""Parts of pictures, cut out by the browser."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.questions import Question
from patchify_core.web.views.html import FileUrl, query_address


def crop(address: str, width: int, height: int, box: NDArray[np.floating] | Sequence[float], name: str) -> str:
    """A part of a picture, cut out by the browser; `box` is xyxy in pixels of the picture of width x height."""
    x1, y1, x2, y2 = (float(v) for v in box)
    wide, tall = x2 - x1, y2 - y1
    return (
        f'<span class="wk-crop" style="--ratio:{wide / tall:.5f}"><img src="{escape(address)}" alt="{escape(name)}" '
        f'style="width:{100 * width / wide:.3f}%;height:{100 * height / tall:.3f}%;left:{-100 * x1 / wide:.3f}%;top:{-100 * y1 / tall:.3f}%">'
        "</span>"
    )


def query_crop(question: Question, url: FileUrl) -> str:
    """What was asked: the box's content, the whole picture, or the words."""
    if question.words is not None:
        return f'<span class="wk-said"><q>{escape(question.words)}</q></span>'
    box = (0, 0, question.width, question.height) if question.box is None else question.box
    return crop(query_address(question, url), question.width, question.height, box, f"Query: {question.name}")
