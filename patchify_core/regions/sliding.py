"""Windows of one size that slide over the picture with a fixed overlap."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, RelativeRegions


@dataclass(frozen=True)
class Sliding(RelativeRegions):
    """n x n windows that cover the whole picture, in row-major order, evenly spaced, the last ones flush.

    A window is `scale` of each side of the picture, so that it has the picture's shape and every picture has
    the same number of them: n is the smallest number with which neighbours overlap by at least `overlap` of a
    window. The whole picture is not among them unless `scale` is 1; `pyramid:1+sliding:0.4,0.5` adds it.

    Attributes:
        scale: a window's side as a fraction of the picture's, 0 < scale <= 1.
        overlap: least overlap of neighbours as a fraction of a window's side, 0 <= overlap < 1.

    Raises:
        PatchifyError: if a number is out of its range, or there would be more than `MAX_PATCHES` windows.

    Example:
        >>> Sliding(0.5, 0.5).boxes(640, 480)[1]
        array([160.,   0., 480., 240.])
    """

    scale: float
    overlap: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what no window can be made of."""
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
        """The selector as the command line writes it, e.g. `sliding:0.4,0.5`."""
        return f"sliding:{plain(self.scale)},{plain(self.overlap)}"

    @property
    def per_side(self) -> int:
        """n, the windows along each side."""
        # Exact fractions of the decimals as written: 0.9 / 0.1 in floats could be a window too many or too few.
        scale, overlap = (Fraction(plain(number)) for number in (self.scale, self.overlap))
        return ceil((1 - scale) / (scale * (1 - overlap))) + 1

    @property
    def relative(self) -> NDArray[np.float64]:
        """(n * n, 4) float64 xyxy as fractions of the picture's sides."""
        return _windows(float(self.scale), self.per_side)


def plain(number: float) -> str:
    """The shortest decimal that reads back as this number, never in scientific notation: 1, 0.5, 0.00001."""
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
