"""The similarity map of a picture, as a picture of its own that lies over it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.localize import SimilarityMap
from patchify_core.web.views.html import signed

SHOWN_SIDE = 240
"""Longer side of the drawn map in pixels; the browser enlarges it the rest of the way."""

OPACITY = 65
"""Of the layer, in percent, until the visitor moves the slider."""

STOPS = 6
"""Colours that the legend's gradient is made of."""


@dataclass(frozen=True)
class Heat:
    """A similarity map as it is drawn.

    Attributes:
        address: the map in colours as a data address; it lies over its picture, and the page's script sets its opacity.
        in_words: what it shows, for those who cannot see it.
        low: its lowest similarity.
        high: and its highest.
        colours: what lies between them, for CSS.
    """

    address: str
    in_words: str
    low: float
    high: float
    colours: str


def heat(places: SimilarityMap, where: str) -> Heat:
    """Draws a map; `where` says what it is a map of."""
    values = places.values
    low, high = float(values.min()), float(values.max())
    row, column = np.unravel_index(int(values.argmax()), values.shape)
    spot = _in_words((column + 0.5) / values.shape[1], (row + 0.5) / values.shape[0])
    said = (
        f"Similarity map of {where}: the query matches best {spot}, with {signed(high, 2)}; "
        f"where it matches least the similarity is {signed(low, 2)}."
    )
    colours = ",".join(f"#{bytes(colour).hex()}" for colour in _viridis(np.linspace(0, 1, STOPS)[None])[0])
    return Heat(_drawn(values), said, low, high, colours)


def _drawn(values: NDArray[np.float32]) -> str:
    """The values in colours, smoothly enlarged, as a PNG in a data address; its darkest is the lowest value here."""
    import cv2

    height, width = values.shape
    scale = SHOWN_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    large = cv2.resize(values, size, interpolation=cv2.INTER_CUBIC)  # cells lie where they lie in the picture
    low, high = float(values.min()), float(values.max())
    coloured = _viridis(np.clip((large - low) / max(high - low, 1e-6), 0, 1))
    _, png = cv2.imencode(".png", coloured[:, :, ::-1])
    return "data:image/png;base64," + base64.b64encode(png.tobytes()).decode()


def _viridis(shares: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W) in 0..1 -> (H, W, 3) uint8 RGB: equal steps look equally large, to the colour-blind too."""
    import cv2

    levels = np.rint(shares * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)[:, :, ::-1])


def _in_words(across: float, down: float) -> str:
    """Where a point lies, e.g. `at the upper left`, for fractions of the picture's sides."""
    sides = ("left", "", "right")[min(int(3 * across), 2)]
    heights = ("upper", "", "lower")[min(int(3 * down), 2)]
    if not sides and not heights:
        return "in the middle"
    if not sides:
        return "at the top" if heights == "upper" else "at the bottom"
    return f"at the {heights} {sides}" if heights else f"on the {sides}"
