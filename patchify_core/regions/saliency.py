"""How much each place of a picture stands out: two classic maps that need neither training nor an encoder.

The spectral residual of the lightness (Hou & Zhang, "Saliency detection: a spectral residual approach", CVPR
2007) finds what is irregular; the distance of a colour from those along the picture's border (the background
cue of Zhang et al., "Minimum barrier salient object detection at 80 FPS", ICCV 2015) finds what is not
background. Each is divided by its mean and they are added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

CELLS = 64
"""The maps are CELLS x CELLS whatever the picture's shape, and every box lies on their grid."""

BORDER = 6
"""Depth of the strips along the picture's four sides that stand for the background, in cells."""

_COLOUR_NOISE = 10.0  # variance in Lab units, about 3 squared: colours closer than that count as the same
_BLUR = 2.5  # standard deviation of the final smoothing, in cells


def saliency(picture: Image) -> NDArray[np.float64]:
    """How much each cell stands out.

    Args:
        picture: upright RGB picture.

    Returns:
        (CELLS, CELLS) float64, at least 0, rows from the top; its mean is 2, or less where a map is empty.
    """
    import cv2
    from PIL import Image

    small = picture.resize((CELLS, CELLS), Image.Resampling.BOX, reducing_gap=3.0)
    lab = cv2.cvtColor(np.asarray(small, np.float32) / 255, cv2.COLOR_RGB2LAB).astype(np.float64)
    maps = (spectral_residual(lab[..., 0]), border_distance(lab))
    return sum((m / m.mean() for m in maps if m.mean() > 0), np.zeros((CELLS, CELLS)))


def spectral_residual(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """The part of the picture that its neighbours in frequency do not foretell, squared and smoothed.

    Hou & Zhang raise e to (log amplitude - its 3x3 mean) and keep the phase, which is the spectrum divided by
    e to that mean. Written like this a frequency that is not there stays away, where they give it an amplitude
    of 1 and a phase of rounding errors.

    Args:
        grey: (n, n) lightness, 0..100.

    Returns:
        (n, n) float64, at least 0; constant for a picture of one grey.
    """
    import cv2

    spectrum = np.fft.fft2(grey)
    log_amplitude = np.log(np.abs(spectrum) + 1)
    around = [np.roll(log_amplitude, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    residual = np.fft.ifft2(spectrum * np.exp(-np.mean(around, axis=0)))
    return cv2.GaussianBlur(np.abs(residual) ** 2, (0, 0), _BLUR).astype(np.float64)


def border_distance(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mahalanobis distance of each colour from those of the picture's four sides, without the farthest side.

    The farthest is left out because an object may touch it.

    Args:
        lab: (n, n, 3) CIE Lab, n at least `BORDER`.

    Returns:
        (n, n) float64, at least 0: the mean over the other three sides.
    """
    distances = []
    for strip in (lab[:BORDER], lab[-BORDER:], lab[:, :BORDER], lab[:, -BORDER:]):
        colours = strip.reshape(-1, 3)
        spread = np.linalg.inv(np.cov(colours.T) + _COLOUR_NOISE * np.eye(3))
        away = lab - colours.mean(axis=0)
        distances.append(np.sqrt((away @ spread * away).sum(axis=2)))
    near_three = np.sort(distances, axis=0)[:3]
    return near_three.mean(axis=0)
