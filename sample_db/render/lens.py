# SPDX-License-Identifier: MIT
"""What a camera adds to a picture after the render."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageEnhance

DARKEST, BRIGHTEST = 10, 245  # where the darkest and brightest half per cent may be stretched to
FULLER_COLOURS = 1.15  # AgX, the view transform, leaves colours a little pale


def lens_and_sensor(picture: Image.Image, rng: random.Random) -> Image.Image:
    """Add contrast up to the picture's range, vignetting and noise.

    Args:
        picture: the developed render, RGB.
        rng: generator of the picture.

    Returns:
        Picture of the same size.
    """
    values = np.asarray(ImageEnhance.Color(picture).enhance(FULLER_COLOURS)).astype(np.float32)
    mean = values.mean()
    low, high = np.percentile(values, (0.5, 99.5))
    stretch = np.clip(min((BRIGHTEST - mean) / (high - mean), (mean - DARKEST) / (mean - low)), 1, 1.4)
    values = mean + (values - mean) * stretch
    height, width = values.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    values *= (1 - rng.uniform(0.02, 0.09) * (x**2 + y**2))[..., None]
    noise = np.random.default_rng(rng.randrange(1 << 30))
    values += noise.normal(0, rng.uniform(0.5, 2.5), values.shape)
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))
