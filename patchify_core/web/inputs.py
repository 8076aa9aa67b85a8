"""Validation of the API's arguments, which may be JSON of any kind.

All functions raise `PatchifyError` with one sentence that names the argument.
"""

from __future__ import annotations

import base64
import binascii
import reprlib
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from patchify_core.demo.reranking import available
from patchify_core.errors import BoxError, PatchifyError, PictureError
from patchify_core.imaging.boxes import as_boxes
from patchify_core.retrieval.localize import REFINERS
from patchify_core.retrieval.rerank import RERANKERS
from patchify_core.web.uploads import take_upload

MOST = 200
"""Results of one search, at most."""

FILE = "/gradio_api/file="
"""Path of an upload's address on this server, as Gradio's upload tool returns it."""


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number, within limits if they are given; 3.0 is one, True is not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PatchifyError(f"{name} must be a whole number, not {short(value)}.")
    if least is not None and most is not None and not least <= value <= most:
        raise PatchifyError(f"{name} must be from {least} to {most}, not {short(value)}.")
    return value


def boolean(name: str, value: Any) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise PatchifyError(f"{name} must be true or false, not {short(value)}.")
    return value


def levels_of(value: Any) -> list[int] | None:
    """Return a list of levels; None means all."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 100:
        raise PatchifyError(f"levels must be a list of whole numbers such as [1, 4], not {short(value)}.")
    return [integer("levels", level) for level in value]


def box_of(value: Any) -> NDArray[np.float64] | None:
    """Return a box (4,) xyxy, not yet compared with its picture; None for the default."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(isinstance(one, (int, float)) for one in value):
        raise BoxError(f"box must be four numbers x1, y1, x2, y2 in pixels, not {short(value)}.")
    boxes: NDArray[np.float64] = as_boxes(value)
    return boxes[0]


def refiner_of(value: Any) -> str | None:
    """Return the name of a box refiner, or None."""
    if value is not None and (not isinstance(value, str) or value not in REFINERS):
        raise PatchifyError(f"refine must be {' or '.join(REFINERS)} or left out, not {short(value)}.")
    return value


def rerankers() -> list[str]:
    """Return the names of the re-rankers that are installed."""
    return list(filter(available, RERANKERS))


def picture_bytes(value: Any, upload_mb: int) -> bytes:
    """Return the bytes of an uploaded picture, whose file is then deleted, or of a data: URL.

    Args:
        value: Gradio's dictionary of an upload, or a string.
        upload_mb: Largest picture in megabytes.
    """
    if isinstance(value, dict):
        return take_upload(value.get("path"))
    if not isinstance(value, str):
        raise PictureError(f"picture must be an uploaded file (gradio_client: handle_file), not {short(value)}.")
    if value.startswith("data:"):
        head, comma, text = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise PictureError("picture must be a data: address in base64: data:image/jpeg;base64,...")
        if len(text) > upload_mb * 1_000_000 * 4 // 3 + 4:
            raise PictureError(f"The picture is larger than {upload_mb} MB: send a smaller one.")
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise PictureError(
                "The data: address of the picture is not base64: encode the file's bytes again."
            ) from None
    if value.startswith(("http://", "https://")) and FILE in value:  # take_upload reads uploads only
        return take_upload(unquote(value.partition(FILE)[2]))
    raise PictureError(
        "picture must be an uploaded file (gradio_client: handle_file) or a data: address: this server fetches nothing "
        "from other addresses."
    )


def short(value: Any) -> str:
    """Return a value, short enough for a sentence."""
    return " ".join(reprlib.repr(value).split())
