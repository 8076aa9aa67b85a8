"""The box that all cells together point at, instead of the one that wins.

A match's winning cell is a box of the grid, often a part of the object. Its neighbours and the coarser cells around it
match nearly as well, and where they lie says where the object ends. Weighted by

    w_i ~ exp(s_i / T),    T = 0.4 * standard deviation of the picture's own scores

the mean of the cells' boxes is the expected box (a soft argmax, as in Chapelle & Wu, "Gradient descent optimization of
smoothed information retrieval metrics", 2010). A temperature in units of the scores' own spread makes it indifferent to
the encoder and the projection, and to a bias that all scales share. It costs nothing: the scores are known.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TEMPERATURE = 0.4
"""In standard deviations of the scores (measured: `evaluate --refine soft`; 0.3 to 0.5 are equally good)."""


def expected_box(boxes: ArrayLike, scores: ArrayLike, temperature: float = TEMPERATURE) -> NDArray[np.float64]:
    """The mean of the boxes, weighted by how well they match.

    Args:
        boxes: (P, 4) xyxy, in any unit.
        scores: (P,) similarities; only their differences count, in units of their spread.
        temperature: T in standard deviations of `scores`; towards 0 the best box alone counts.

    Returns:
        (4,) float64, inside what encloses the boxes. The best box where all scores are equal, as the first is it.
    """
    boxes, scores = np.asarray(boxes, np.float64), np.asarray(scores, np.float64)
    spread = float(scores.std()) * temperature
    best = int(scores.argmax())
    if not spread > 1e-12:
        return boxes[best].copy()
    weights = np.exp((scores - scores[best]) / spread)
    mean: NDArray[np.float64] = weights @ boxes / weights.sum()
    return mean
