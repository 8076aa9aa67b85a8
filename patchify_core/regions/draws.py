"""Boxes drawn at random once and used in every picture: the baseline that a cleverer choice has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, RelativeRegions

SMALLEST_AREA = 1 / 25
"""Least area of a drawn box as a share of the picture's: a little below the 4x4 grid's cells (1/16)."""

MOST_STRETCH = 2.0
"""A drawn box is at most this many times wider or higher than the picture's own shape."""

MAX_SEED = 2**32 - 1
_STEPS = 2**16  # edges lie on multiples of 1/65536: the last bit of a platform's power function is rounded away


@dataclass(frozen=True)
class Random(RelativeRegions):
    """`count` boxes drawn from one distribution, the same fractions of every picture.

    A box's share of the picture's area is log-uniform in 1/25..1: as many boxes between 5 and 10 % as between
    10 and 20 %. Its shape against the picture's, (width/W) / (height/H), is log-uniform in 1/2..2, narrowed to
    what fits for that area; its place is uniform among those inside the picture. Draws come from the raw
    output of PCG64, which numpy promises never to change, box after box, so that `random:10` is the beginning
    of `random:30` with the same seed, on every machine.

    Attributes:
        count: number of boxes, 1..`MAX_PATCHES`.
        seed: which draw, 0..2^32-1.

    Raises:
        PatchifyError: if a number is not an integer in its range.

    Example:
        >>> Random(2).boxes(100, 100).round().tolist()
        [[3.0, 1.0, 33.0, 43.0], [39.0, 58.0, 75.0, 78.0]]
    """

    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what cannot be drawn."""
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
        """The selector as the command line writes it, e.g. `random:30,0`."""
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
    stretch = np.minimum(MOST_STRETCH, 1 / area)  # so that neither side becomes longer than the picture's
    ratio = stretch ** (2 * shape - 1)
    width, height = np.minimum(np.sqrt(area * ratio), 1), np.minimum(np.sqrt(area / ratio), 1)
    x, y = left * (1 - width), top * (1 - height)
    boxes = np.rint(np.stack([x, y, x + width, y + height], axis=1) * _STEPS) / _STEPS
    boxes.flags.writeable = False
    return boxes
