"""Draw boxes on pictures, and a list of results as one contact sheet.

Three steps: `frame` a picture to a tile, `box_on` it, `sheet` the tiles. Colours are RGB; pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchify_core.errors import PatchifyError
from patchify_core.imaging.boxes import as_boxes
from patchify_core.imaging.filenames import picture_path
from patchify_core.imaging.pictures import read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

Picture = NDArray[np.uint8]


class Boxed(Protocol):
    """A picture to draw with a box: its POSIX name relative to the root, the box (4,) xyxy in its pixels, a score."""

    @property
    def file_name(self) -> str: ...  # noqa: D102

    @property
    def box(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def score(self) -> float: ...  # noqa: D102


TILE, COLUMNS, CAPTION, MARGIN = (320, 240), 5, 30, 8
"""Width and height of a tile in pixels; tiles per row; height of a caption and width of the margins in pixels."""

BACKGROUND, TEXT, BOX = (247, 246, 243), (28, 36, 48), (255, 178, 36)
"""Colours."""

THICKNESS = 3
"""Width of a box's line in pixels."""


def frame(picture: Image, size: tuple[int, int]) -> tuple[Picture, float, tuple[int, int]]:
    """Fit a picture into a tile, keeping its aspect ratio.

    Args:
        picture: Upright RGB picture.
        size: Width and height of the tile in pixels.

    Returns:
        The tile (H, W, 3) uint8, the scale from picture to tile pixels, and the (x, y) of its top-left corner there.
    """
    width, height = size
    scale = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    tile = np.full((height, width, 3), BACKGROUND, np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    tile[top : top + inner[1], left : left + inner[0]] = np.asarray(picture.resize(inner))
    return tile, scale, (left, top)


def box_on(tile: Picture, box: ArrayLike, colour: tuple[int, int, int] = BOX) -> Picture:
    """Draw a box (xyxy, pixels of the tile) with a dark outline, visible on any picture, on a copy of the tile."""
    import cv2

    x1, y1, x2, y2 = (int(v) for v in np.round(as_boxes(box)[0]))
    drawn = tile.copy()
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), TEXT, THICKNESS + 2)
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour, THICKNESS)
    return drawn


def sheet(matches: Sequence[Boxed], root: Path) -> Picture:
    """Draw all matches as tiles on one picture, best first, each with its best box, rank and score.

    Args:
        matches: At least one.
        root: Folder that the matches' file names are relative to.

    Returns:
        (H, W, 3) uint8.

    Raises:
        PictureError: A gallery picture can no longer be read.
    """
    import cv2

    width, height = TILE
    columns = min(COLUMNS, len(matches))
    rows = -(-len(matches) // columns)
    size = rows * (height + CAPTION + MARGIN) + MARGIN, columns * (width + MARGIN) + MARGIN
    page = np.full((*size, 3), BACKGROUND, np.uint8)
    for number, match in enumerate(matches):
        tile, scale, corner = frame(read_picture(picture_path(root, match.file_name)), TILE)
        tile = box_on(tile, match.box * scale + np.array([*corner, *corner]))
        row, column = divmod(number, columns)
        top, left = MARGIN + row * (height + CAPTION + MARGIN), MARGIN + column * (width + MARGIN)
        page[top : top + height, left : left + width] = tile
        text = f"{number + 1}   {match.score:.3f}"
        cv2.putText(page, text, (left, top + height + 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, TEXT, 1, cv2.LINE_AA)
    return page


def save(picture: Picture, path: Path) -> None:
    """Write a picture in the format of the file name's suffix.

    Raises:
        PatchifyError: The suffix is unknown or the file cannot be written.
    """
    from PIL import Image

    try:
        Image.fromarray(picture).save(path)
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PatchifyError(
            f"{path} cannot be written ({why}): name a .jpg or .png file in an existing folder."
        ) from error
