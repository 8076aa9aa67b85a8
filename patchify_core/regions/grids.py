"""Selectors that depend on the picture's size only: the paper's pyramid of grids, sliding windows, random boxes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, RelativeRegions, Stage, check_cell

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_LEVELS = 6
"""Finest grid: 6x6, 91 patches per picture in all."""


@dataclass(frozen=True)
class Pyramid:
    """Grids 1x1 .. levels x levels over the whole picture, coarse to fine, each in row-major order.

    Attributes:
        levels: Number of grids, 1..6. The paper's L0..L3 are 1..4; 1 is the global baseline.

    Raises:
        PatchifyError: If `levels` is not an integer in 1..6.

    Example:
        >>> Pyramid(2).boxes(640, 480)[1]
        array([  0.,   0., 320., 240.])
    """

    levels: int = 4

    def __post_init__(self) -> None:
        """Validate the number of levels."""
        if type(self.levels) is not int or not 1 <= self.levels <= MAX_LEVELS:
            raise PatchifyError(
                f"A pyramid has 1 to {MAX_LEVELS} levels, not {self.levels!r}: write pyramid:N with N from 1 "
                f"(whole picture only) to {MAX_LEVELS}."
            )

    @property
    def spec(self) -> str:
        """E.g. `pyramid:4`."""
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
        """Return the cells of every grid.

        Args:
            width: Picture width in pixels, at least 1.
            height: Picture height in pixels, at least 1.

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
        """Return one row of `boxes`, (4,) float64 xyxy in pixels; see `Regions.box`.

        Example:
            >>> Pyramid(2).box(640, 480, 2)
            array([320.,   0., 640., 240.])
        """
        check_cell(cell, self.patches_per_image)
        n = level_of(cell)
        row, col = divmod(cell - patches_up_to(n - 1), n)
        return np.array([col * width / n, row * height / n, (col + 1) * width / n, (row + 1) * height / n])


def patches_up_to(level: int) -> int:
    """Return the number of patches of the grids 1x1 .. level x level: 1, 5, 14, 30, 55, 91."""
    return level * (level + 1) * (2 * level + 1) // 6


def level_of(cell: int) -> int:
    """Return the size n of the n x n grid that patch `cell` of a pyramid belongs to.

    Example:
        >>> [level_of(c) for c in (0, 1, 4, 5, 29)]
        [1, 2, 2, 3, 4]
    """
    return next(n for n in range(1, MAX_LEVELS + 1) if cell < patches_up_to(n))


# Sliding windows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sliding(RelativeRegions):
    """n x n windows that cover the whole picture, in row-major order, evenly spaced, the last ones flush.

    A window is `scale` of each side of the picture, so that it has the picture's shape and every picture has
    the same number of them: n is the smallest number with which neighbours overlap by at least `overlap` of a
    window. The whole picture is not among them unless `scale` is 1; `pyramid:1+sliding:0.4,0.5` adds it.

    Attributes:
        scale: A window's side as a fraction of the picture's, 0 < scale <= 1.
        overlap: Minimum overlap of neighbours as a fraction of a window's side, 0 <= overlap < 1.

    Raises:
        PatchifyError: If a number is out of its range, or there would be more than `MAX_PATCHES` windows.

    Example:
        >>> Sliding(0.5, 0.5).boxes(640, 480)[1]
        array([160.,   0., 480., 240.])
    """

    scale: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        """Validate scale and overlap."""
        if not _is_number(self.scale) or not 0 < self.scale <= 1:
            raise PatchifyError(
                f"A sliding window's scale is {self.scale!r}: give it a fraction of the picture's side, "
                "above 0 and at most 1, as in sliding:0.4,0.5."
            )
        if not _is_number(self.overlap) or not 0 <= self.overlap < 1:
            raise PatchifyError(
                f"The overlap of sliding windows is {self.overlap!r}: give it a fraction of a window's side, "
                "at least 0 and below 1, as in sliding:0.4,0.5."
            )
        if self.per_side**2 > MAX_PATCHES:
            count = "very many" if self.per_side > 10_000 else f"{self.per_side**2}"
            raise PatchifyError(
                f"The sliding windows asked for would be {count} a picture and {MAX_PATCHES} is the most: "
                "choose a larger scale or a smaller overlap."
            )

    @property
    def spec(self) -> str:
        """E.g. `sliding:0.4,0.5`."""
        return f"sliding:{plain(self.scale)},{plain(self.overlap)}"

    @property
    def per_side(self) -> int:
        """n, the number of windows along each side."""
        # Exact fractions of the decimals as written: floats could yield one window too many or too few.
        scale, overlap = (Fraction(plain(number)) for number in (self.scale, self.overlap))
        return ceil((1 - scale) / (scale * (1 - overlap))) + 1

    @property
    def relative(self) -> NDArray[np.float64]:
        """(n * n, 4) float64 xyxy as fractions of the picture's sides."""
        return _windows(float(self.scale), self.per_side)


def plain(number: float) -> str:
    """Format a number as its shortest decimal, never in scientific notation: 1, 0.5, 0.00001."""
    return np.format_float_positional(abs(number), trim="-")  # abs: -0.0 is 0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@lru_cache(maxsize=64)
def _windows(scale: float, n: int) -> NDArray[np.float64]:
    start = np.linspace(0, 1 - scale, n)
    end = 1 - start[::-1]  # mirrored, so that the last one ends at 1 to the last bit
    row, col = np.divmod(np.arange(n * n), n)
    windows = np.stack([start[col], start[row], end[col], end[row]], axis=1)
    windows.flags.writeable = False
    return windows


# Random boxes, the baseline ------------------------------------------------------------------------------------


SMALLEST_AREA = 1 / 25
"""Minimum area of a random box as a share of the picture's: a little below the cells of the 4x4 grid (1/16)."""

MOST_STRETCH = 2.0
"""Maximum ratio between the aspect ratios of a random box and the picture."""

MAX_SEED = 2**32 - 1
_STEPS = 2**16  # edges are multiples of 1/65536, to be independent of the platform's power function


@dataclass(frozen=True)
class Random(RelativeRegions):
    """`count` boxes drawn from one distribution, the same fractions of every picture.

    A box's share of the picture's area is log-uniform in 1/25..1: as many boxes between 5 and 10 % as between
    10 and 20 %. Its shape against the picture's, (width/W) / (height/H), is log-uniform in 1/2..2, narrowed to
    what fits for that area; its place is uniform among those inside the picture. Draws come from the raw
    output of PCG64, which numpy promises never to change, box after box, so that `random:10` is the beginning
    of `random:30` with the same seed, on every machine.

    Attributes:
        count: Number of boxes, 1..`MAX_PATCHES`.
        seed: Seed of the generator, 0..2^32-1.

    Raises:
        PatchifyError: If a number is not an integer in its range.

    Example:
        >>> Random(2).boxes(100, 100).round().tolist()
        [[3.0, 1.0, 33.0, 43.0], [39.0, 58.0, 75.0, 78.0]]
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Validate count and seed."""
        if type(self.count) is not int or not 1 <= self.count <= MAX_PATCHES:
            raise PatchifyError(
                f"The number of random boxes is {self.count!r}: give it a whole number from 1 to {MAX_PATCHES}, "
                "as in random:30."
            )
        if type(self.seed) is not int or not 0 <= self.seed <= MAX_SEED:
            raise PatchifyError(
                f"The seed of random boxes is {self.seed!r}: give it a whole number from 0 to {MAX_SEED}, "
                "as in random:30,7."
            )

    @property
    def spec(self) -> str:
        """E.g. `random:30,0`."""
        return f"random:{self.count},{self.seed}"

    @property
    def relative(self) -> NDArray[np.float64]:
        """(count, 4) float64 xyxy as fractions of the picture's sides."""
        return _drawn(self.count, self.seed)


@lru_cache(maxsize=64)
def _drawn(count: int, seed: int) -> NDArray[np.float64]:
    raw = np.random.PCG64(seed).random_raw(4 * count).reshape(count, 4)
    share, shape, left, top = ((raw >> np.uint64(11)) * 2.0**-53).T  # uniform in [0, 1), box after box
    area = SMALLEST_AREA**share
    stretch = np.minimum(MOST_STRETCH, 1 / area)  # so that neither side exceeds the picture's
    ratio = stretch ** (2 * shape - 1)
    width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    x, y = left * (1 - width), top * (1 - height)
    boxes = np.rint(np.stack([x, y, x + width, y + height], axis=1) * _STEPS) / _STEPS
    boxes.flags.writeable = False
    return boxes
