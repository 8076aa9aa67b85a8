"""Dense matching: which cells of a picture's feature map match parts of a query.

The similarity of a cell is the mean of its `NEAREST` highest cosine similarities with the parts (`QueryView.parts`).
Cells above a threshold support a box that contains them, cells below it count against the box:

    agreement(b) = sum over the cells in b of (similarity - threshold) / the highest such sum over all boxes

The descriptor of a whole box hardly changes when the box contains some of the surroundings, or misses some of the
object; this sum does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.features.pooled import integral_image, resampled

NEAREST = 3
"""Number of similarities averaged per cell: single ones are more often high by chance."""


BACKGROUND = 0.1
"""Quantile of the cells' similarities that stands for background."""


class Agreement:
    """Agreement of the boxes of one picture with one query.

    Args:
        cells: (h, w, dim) float32 descriptors of the cells of the picture's map.
        parts: (n, dim) float32, see `QueryView.parts`.
        threshold: As a fraction of the way from the mean similarity of the cells (0) to the highest (1).
        lattice: (N, 4) integer xyxy in steps: the boxes whose highest sum becomes `weight`.
        steps: Steps of the lattice along each side of the picture.
        weight: Factor of all values.
    """

    def __init__(
        self,
        cells: NDArray[np.float32],
        parts: NDArray[np.float32],
        threshold: float,
        lattice: NDArray[np.intp],
        steps: int,
        weight: float = 1.0,
    ) -> None:
        similarities = parts @ cells.reshape(-1, cells.shape[2]).T
        nearest = min(NEAREST, len(parts))
        values = np.partition(similarities, -nearest, axis=0)[-nearest:].mean(axis=0).reshape(cells.shape[:2])
        mean, low, high = float(values.mean()), float(np.quantile(values, BACKGROUND)), float(values.max())
        # An object that fills the picture raises the mean: the middle keeps the level below its cells.
        level = min(mean + threshold * (high - mean), (low + high) / 2)
        self._table = integral_image((values - level)[..., None], 1)
        corners = np.linspace(0, 1, steps + 1)
        self._steps = resampled(self._table, corners, corners)[..., 0]
        highest = float(_sums(self._steps, lattice).max())
        self._scale = weight / highest if highest > 1e-3 else 0.0  # in a uniform picture, sums differ by rounding only

    def of_steps(self, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Weighted agreement of boxes of the lattice: (N, 4) -> (N,), at most the weight."""
        return _sums(self._steps, boxes) * self._scale

    def of(self, box: NDArray[np.float64]) -> float:
        """Weighted agreement of any box (4,), xyxy as fractions of the picture's sides."""
        corners = resampled(self._table, box[::2], box[1::2])[..., 0]
        return float(corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0]) * self._scale


def _sums(table: NDArray[np.floating], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    sums: NDArray[np.float64] = table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]
    return sums
