"""The paper's selector: a pyramid of non-overlapping grids (METHOD: 1x1, 2x2, 3x3, 4x4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import Stage, check_cell

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_LEVELS = 6
"""Finest grid that may be asked for: 6x6, 91 patches a picture."""


@dataclass(frozen=True)
class Pyramid:
    """Grids 1x1 .. levels x levels over the whole picture, coarse to fine, each in row-major order.

    Attributes:
        levels: number of grids, 1..6. The paper's L0..L3 are 1..4; 1 is the global baseline.

    Raises:
        PatchifyError: if `levels` is not an integer in 1..6.

    Example:
        >>> Pyramid(2).boxes(640, 480)[1]
        array([  0.,   0., 320., 240.])
    """

    levels: int = 4

    def __post_init__(self) -> None:
        """Refuses what no grid can be made of."""
        if type(self.levels) is not int or not 1 <= self.levels <= MAX_LEVELS:
            raise PatchifyError(
                f"A pyramid has 1 to {MAX_LEVELS} levels, not {self.levels!r}: write pyramid:N with N from 1 "
                f"(whole picture only) to {MAX_LEVELS}."
            )

    @property
    def spec(self) -> str:
        """The selector as the command line writes it, e.g. `pyramid:4`."""
        return f"pyramid:{self.levels}"

    @property
    def patches_per_image(self) -> int:
        """1 + 4 + 9 + ... + levels squared; 30 for the paper's L3."""
        return patches_up_to(self.levels)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage for each level: a pyramid begins with every coarser one."""
        return tuple(Stage(f"pyramid:{n}", patches_up_to(n)) for n in range(1, self.levels + 1))

    @property
    def needs_picture(self) -> bool:
        """False: only the picture's size counts."""
        return False

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """The cells of every grid.

        Args:
            width: picture width in pixels, at least 1.
            height: picture height in pixels, at least 1.

        Returns:
            (P, 4) float64 xyxy in pixels. Cells are exact fractions of the picture and not rounded, so a grid
            tiles the picture exactly and a cell of a 1-pixel-high picture keeps an area.
        """
        cells = []
        for n in range(1, self.levels + 1):
            x, y = np.arange(n + 1) * width / n, np.arange(n + 1) * height / n
            row, col = np.divmod(np.arange(n * n), n)
            cells.append(np.stack([x[col], y[row], x[col + 1], y[row + 1]], axis=1))
        return np.concatenate(cells)

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """`boxes` of the picture's size."""
        return self.boxes(*picture.size)

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """One row of `boxes`, (4,) float64 xyxy in pixels, without making the others: a ranking needs one a picture.

        Args:
            width: picture width in pixels, at least 1.
            height: picture height in pixels, at least 1.
            cell: the patch's number within its picture, from 0.

        Raises:
            IndexError: if there is no such patch.

        Example:
            >>> Pyramid(2).box(640, 480, 2)
            array([320.,   0., 640., 240.])
        """
        check_cell(cell, self.patches_per_image)
        n = level_of(cell)
        row, col = divmod(cell - patches_up_to(n - 1), n)
        return np.array([col * width / n, row * height / n, (col + 1) * width / n, (row + 1) * height / n])


def patches_up_to(level: int) -> int:
    """Patches of the grids 1x1 .. level x level: 1, 5, 14, 30, 55, 91."""
    return level * (level + 1) * (2 * level + 1) // 6


def level_of(cell: int) -> int:
    """The grid size n (n x n) that patch `cell` of a pyramid belongs to.

    Example:
        >>> [level_of(c) for c in (0, 1, 4, 5, 29)]
        [1, 2, 2, 3, 4]
    """
    return next(n for n in range(1, MAX_LEVELS + 1) if cell < patches_up_to(n))
