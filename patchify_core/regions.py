"""Region selection: which boxes of a picture become patches.

A region selector turns a picture's size into boxes. The paper's is a pyramid of non-overlapping grids (METHOD:
1x1, 2x2, 3x3, 4x4); `pyramid:N` names the one that ends with an NxN grid, so `pyramid:1` is the global baseline
and `pyramid:4` is the paper's L3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError

MAX_LEVELS = 6
"""Finest grid that may be asked for: 6x6, 91 patches a picture."""


@dataclass(frozen=True)
class Pyramid:
    """Grids 1x1 .. levels x levels over the whole picture, coarse to fine, each in row-major order.

    Attributes:
        levels: number of grids, 1..6. The paper's L0..L3 are 1..4.

    Raises:
        PatchifyError: if `levels` is not an integer in 1..6.

    Example:
        >>> Pyramid(2).boxes(640, 480)[1]
        array([  0.,   0., 320., 240.])
    """

    levels: int = 4

    def __post_init__(self) -> None:
        """Refuses what no grid can be made of."""
        if not isinstance(self.levels, int) or not 1 <= self.levels <= MAX_LEVELS:
            raise PatchifyError(f"A pyramid has 1 to {MAX_LEVELS} levels, not {self.levels!r}.")

    @property
    def spec(self) -> str:
        """The selector as the command line writes it, e.g. `pyramid:4`."""
        return f"pyramid:{self.levels}"

    @property
    def patches_per_image(self) -> int:
        """1 + 4 + 9 + ... + levels squared; 30 for the paper's L3."""
        return patches_up_to(self.levels)

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

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """One row of `boxes`, (4,) float64 xyxy in pixels, without making the others: a ranking needs one a picture.

        Args:
            width: picture width in pixels, at least 1.
            height: picture height in pixels, at least 1.
            cell: the patch's number within its picture, from 0.

        Example:
            >>> Pyramid(2).box(640, 480, 2)
            array([320.,   0., 640., 240.])
        """
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


def parse_regions(spec: str) -> Pyramid:
    """Reads a region spec such as `pyramid:4`.

    Raises:
        PatchifyError: if the spec names no known selector or the level count is not 1..6.
    """
    name, _, levels = spec.strip().partition(":")
    if name != "pyramid" or not (levels.isascii() and levels.isdigit() and len(levels) < 10):
        raise PatchifyError(
            f"Unknown regions '{spec}': write pyramid:N with N from 1 (whole picture only) to {MAX_LEVELS}."
        )
    return Pyramid(int(levels))
