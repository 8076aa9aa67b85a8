"""Dense matching: how well the single places of a picture match the parts of a query.

The similarity of a cell of the picture's map is the mean of its `NEAREST` highest cosine similarities with the parts of
the query (`QueryView.parts`). Cells above a threshold speak for a box that contains them, cells below it against it:

    agreement(b) = sum over the cells in b of (similarity - threshold) / the highest such sum of any box

One descriptor of a whole box cannot tell where an object ends: a box with some of the surroundings, or without some of
the object, has nearly the same. The sum of the cells can.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.features.pooled import integral_image, resampled

NEAREST = 3
"""Parts of the query whose similarities with a cell are averaged: a single one matches by chance more often."""


class Agreement:
    """The agreement of one picture's boxes with one query.

    Args:
        cells: (h, w, dim) float32: descriptors of the cells of the picture's map.
        parts: (n, dim) float32: those of the query; see `QueryView.parts`.
        threshold: Between the mean of the cells' similarities (0) and the highest of them (1).
        lattice: (N, 4) xyxy, the boxes among which the highest sum is found, in steps.
        steps: Steps of the lattice along each side of the picture.
    """

    def __init__(
        self,
        cells: NDArray[np.float32],
        parts: NDArray[np.float32],
        threshold: float,
        lattice: NDArray[np.intp],
        steps: int,
    ) -> None:
        similarities = parts @ cells.reshape(-1, cells.shape[2]).T
        nearest = min(NEAREST, len(parts))
        values = np.partition(similarities, -nearest, axis=0)[-nearest:].mean(axis=0).reshape(cells.shape[:2])
        mean = float(values.mean())
        level = mean + threshold * (float(values.max()) - mean)
        self._table = integral_image((values - level)[..., None], 1)
        corners = np.linspace(0, 1, steps + 1)
        self._steps = resampled(self._table, corners, corners)[..., 0]
        highest = float(_sums(self._steps, lattice).max())
        self._scale = 1 / highest if highest > 1e-6 else 0.0

    def of_steps(self, boxes: NDArray[np.intp]) -> NDArray[np.float64]:
        """Agreement of boxes of the lattice: (N, 4) -> (N,), at most 1."""
        return _sums(self._steps, boxes) * self._scale

    def of(self, box: NDArray[np.float64]) -> float:
        """Agreement of any box (4,), xyxy as fractions of the picture's sides."""
        corners = resampled(self._table, box[::2], box[1::2])[..., 0]
        return float(corners[1, 1] - corners[0, 1] - corners[1, 0] + corners[0, 0]) * self._scale


def _sums(table: NDArray[np.floating], boxes: NDArray[np.intp]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    sums: NDArray[np.float64] = table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1]
    return sums
