"""A projection to fewer dimensions, learned from descriptors without labels and applied before coding.

It is PCA with HALF whitening: each axis is divided by the square root of its standard deviation. In plain PCA the few
directions that all pictures share dominate; full whitening amplifies noise as much as signal; half whitening was the
best on every data set measured (`study compression`). Whitening of retrieval descriptors goes back to Jegou and Chum,
"Negative evidences and co-occurences in image retrieval", ECCV 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.index.integrity import npy_array, npy_bytes

HALF_WHITENING = 0.25
"""Each axis is divided by its variance to this power: 0 is plain PCA, 0.5 full whitening."""


@dataclass(frozen=True, eq=False)
class Projection:
    """x -> normalised (x - mean) @ axes.

    Attributes:
        mean: (D,) float32, mean of the training vectors.
        axes: (D, d) float32, whitened principal axes, d <= D.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """Dimension d of the projected vectors."""
        return int(self.axes.shape[1])

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project (N, D) float32 to (N, d) float32, rows of length 1 (0 for the mean itself)."""
        projected = (vectors - self.mean) @ self.axes
        return projected / np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), np.float32(1e-12))

    @classmethod
    def learn(cls, vectors: NDArray[np.float32], dim: int, power: float = HALF_WHITENING) -> Projection:
        """Learn a projection from descriptors.

        Args:
            vectors: (N, D) float32; more than `dim` of them, or the last axes would be noise.
            dim: d, 1..D.
            power: Divide each axis by its variance to this power.

        Raises:
            PatchifyError: `dim` is not in 1..D, or there are too few vectors.
        """
        count, full = vectors.shape
        if not 1 <= dim <= full:
            raise PatchifyError(f"Descriptors of {full} dimensions can be projected to 1 to {full}, not to {dim}.")
        cls.check_enough(count, dim)
        mean = vectors.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((full, full))
        for start in range(0, count, 4096):  # in blocks: a float64 copy of the whole sample would be large
            centred = vectors[start : start + 4096] - mean
            covariance += centred.T @ centred / count
        variances, axes = np.linalg.eigh(covariance)
        variances, axes = variances[::-1][:dim], axes[:, ::-1][:, :dim]
        # Axes without variance would be amplified to noise; treat them like the smallest one that is not.
        floor = variances[0] * 1e-6 if variances[0] > 1e-12 else 1.0  # 1.0: all vectors are the same
        scaled = axes / np.maximum(variances, floor) ** power
        return cls(mean.astype(np.float32), np.ascontiguousarray(scaled, np.float32))

    @staticmethod
    def check_enough(count: int, dim: int) -> None:
        """Raise PatchifyError unless `count` vectors are enough to learn `dim` axes from."""
        if count <= dim:
            raise PatchifyError(
                f"A projection to {dim} dimensions needs more than {dim} training patches and there are {count}: "
                "index more pictures, or use the preset exact."
            )

    def to_bytes(self) -> bytes:
        """Serialize as a .npy file: (1 + d, D) float32, the mean, then the axes."""
        return npy_bytes(np.vstack([self.mean, self.axes.T]))

    @classmethod
    def from_bytes(cls, data: bytes) -> Projection:
        """Parse what `to_bytes` wrote.

        Raises:
            ValueError: It is something else.
        """
        rows = npy_array(data)
        if rows.ndim != 2 or rows.dtype != np.float32 or not 2 <= len(rows) <= rows.shape[1] + 1:
            raise ValueError("not a projection")
        if not np.isfinite(rows).all():
            raise ValueError("not a projection")
        return cls(rows[0].copy(), np.ascontiguousarray(rows[1:].T))
