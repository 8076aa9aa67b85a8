"""Draw boxes on pictures, and a whole result list as one picture.

Three steps: `frame` a picture to a tile, `box_on` it, `sheet` the tiles. Colours are RGB; pictures are (H, W, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """A picture to draw with a box: its POSIX path below the root, the box (4,) xyxy in its pixels, a score."""

    @property
    def file_name(self) -> str: ...  # noqa: D102

    @property
    def box(self) -> NDArray[np.float64]: ...  # noqa: D102

    @property
    def score(self) -> float: ...  # noqa: D102


@dataclass(frozen=True)
class DrawSettings:
    """What a person may tune about drawings.

    Attributes:
        tile: Width and height of one tile in pixels.
        columns: Tiles beside each other.
        colour: RGB of the winning box.
        thickness: Of its line, in pixels.
    """

    tile: tuple[int, int] = (320, 240)
    columns: int = 5
    colour: tuple[int, int, int] = (255, 178, 36)
    thickness: int = 3


PAPER, INK, MARGIN = (247, 246, 243), (28, 36, 48), 8


def frame(picture: Image, size: tuple[int, int]) -> tuple[Picture, float, tuple[int, int]]:
    """Fit a picture into a tile, keeping its shape.

    Args:
        picture: Upright RGB picture.
        size: Width and height of the tile in pixels.

    Returns:
        The tile (H, W, 3) uint8, the scale from picture to tile pixels, and where its left upper corner lies there.
    """
    width, height = size
    scale = min(width / picture.width, height / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    tile = np.full((height, width, 3), PAPER, np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    tile[top : top + inner[1], left : left + inner[0]] = np.asarray(picture.resize(inner))
    return tile, scale, (left, top)


def box_on(tile: Picture, box: ArrayLike, colour: tuple[int, int, int], thickness: int = 3) -> Picture:
    """Draw a box (xyxy, pixels of the tile) with a dark rim, so that it shows on any picture, on a copy."""
    import cv2

    x1, y1, x2, y2 = (int(v) for v in np.round(as_boxes(box)[0]))
    drawn = tile.copy()
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), INK, thickness + 2)
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour, thickness)
    return drawn


def sheet(matches: Sequence[Boxed], root: Path, settings: DrawSettings | None = None) -> Picture:
    """Put all matches on one picture as tiles, best first, each with its winning box, rank and score.

    Args:
        matches: At least one.
        root: Folder that the matches' file names are relative to.
        settings: See `DrawSettings`.

    Returns:
        (H, W, 3) uint8.

    Raises:
        PictureError: A gallery picture cannot be read any more.
    """
    import cv2

    settings = settings or DrawSettings()
    width, height = settings.tile
    columns = min(settings.columns, len(matches))
    rows = -(-len(matches) // columns)
    caption = 30
    page = np.full(
        (rows * (height + caption + MARGIN) + MARGIN, columns * (width + MARGIN) + MARGIN, 3), PAPER, np.uint8
    )
    for number, match in enumerate(matches):
        tile, scale, corner = frame(read_picture(picture_path(root, match.file_name)), settings.tile)
        box = match.box * scale + np.array([*corner, *corner])
        tile = box_on(tile, box, settings.colour, settings.thickness)
        row, column = divmod(number, columns)
        top, left = MARGIN + row * (height + caption + MARGIN), MARGIN + column * (width + MARGIN)
        page[top : top + height, left : left + width] = tile
        text = f"{number + 1}   {match.score:.3f}"
        cv2.putText(page, text, (left, top + height + 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    return page


def save(picture: Picture, path: Path) -> None:
    """Write a picture as the file name's ending says.

    Raises:
        PatchifyError: The ending is unknown or the file cannot be written.
    """
    from PIL import Image

    try:
        Image.fromarray(picture).save(path)
    except (OSError, ValueError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PatchifyError(
            f"{path} cannot be written ({why}): name a .jpg or .png file in an existing folder."
        ) from error
