"""Local features of a piece of a picture: where they are, what they look like, and which of two pieces agree.

Coordinates: a point is x, y in pixels of the resized crop with the origin at its corner, as for boxes (so the middle
of its first pixel is 0.5, 0.5; OpenCV and the networks call that 0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LocalFeatureSettings:
    """What a person may tune about local features.

    Attributes:
        long_side: a crop whose longer side has more pixels is scaled down to this.
        upscale: a crop with fewer pixels is scaled up to `long_side`, but by no more than this.
        keypoints: most local features of one crop.
        ratio: SIFT: the best partner must be closer than this times the second best (Lowe, IJCV 2004).
        similarity: XFeat: least cosine similarity of partners; 0.82 is the authors' own.
    """

    long_side: int = 512
    upscale: float = 2.0
    keypoints: int = 1024
    ratio: float = 0.85
    similarity: float = 0.82


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a picture, resized.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        region: (4,) float64 xyxy, the piece in pixels of the original picture.
    """

    pixels: NDArray[np.uint8]
    region: NDArray[np.float64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(3, 3) homography from pixels of the crop to pixels of the original picture."""
        height, width = self.pixels.shape[:2]
        across, down = (self.region[2:] - self.region[:2]) / (width, height)
        return np.array([[across, 0, self.region[0]], [0, down, self.region[1]], [0, 0, 1]])

    def to_original(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, 2) pixels of the crop -> (K, 2) pixels of the original picture."""
        return points * self.matrix[[0, 1], [0, 1]] + self.region[:2]

    def without_pixels(self) -> Crop:
        """The same piece, its pixels gone black and taking no memory."""
        return Crop(np.broadcast_to(np.uint8(0), self.pixels.shape), self.region)


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """The local features of one crop, as parallel arrays of K rows.

    Attributes:
        points: (K, 2) float64 x, y in pixels of the crop.
        descriptors: (K, D) float32 of length 1.
        crop: the piece of the picture that they come from; the cache keeps it without its pixels.
    """

    points: NDArray[np.float64]
    descriptors: NDArray[np.float32]
    crop: Crop


class LocalMethod(Protocol):
    """Finds local features and pairs them. `name` is what `load_reranker` calls it."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def extract(self, crop: Crop) -> LocalFeatures:
        """The local features of a crop; K is 0 where there is nothing to hold on to."""
        ...

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """(M, 2) indices of partners: a row of `query`, a row of `gallery`; each row at most once."""
        ...


def cut(picture: Image, region: NDArray[np.float64], settings: LocalFeatureSettings) -> Crop:
    """Cuts a piece out of an upright RGB picture, at the picture's own resolution as far as the settings allow.

    Args:
        picture: upright RGB picture.
        region: (4,) xyxy in pixels, inside the picture, with an area.
        settings: see `LocalFeatureSettings`.
    """
    from PIL import Image

    sides = region[2:] - region[:2]
    scale = min(settings.long_side / sides.max(), settings.upscale)
    width, height = (max(1, round(float(side) * scale)) for side in sides)
    box = (float(region[0]), float(region[1]), float(region[2]), float(region[3]))
    return Crop(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)), region)


def grown(box: NDArray[np.float64], factor: float, width: int, height: int) -> NDArray[np.float64]:
    """The box with `factor` of its width and height added (half on each side), cut off at the picture's edge."""
    margin = factor / 2 * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    return np.clip(box + margin, 0.0, np.array([width, height, width, height], np.float64))


def mutual_matches(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, ratio: float = 1.0, similarity: float = -1.0
) -> NDArray[np.intp]:
    """Pairs the rows that are each other's nearest, by cosine similarity.

    Args:
        query: (M, D) rows of length 1.
        gallery: (N, D) rows of length 1.
        ratio: distance to the nearest / distance to the second nearest must be less than this, seen from the query.
            With a single gallery row there is no second, and nothing is said about how sure the nearest is: no match.
        similarity: least cosine similarity.

    Returns:
        (K, 2) indices into `query` and `gallery`, by ascending query index.
    """
    if len(query) == 0 or len(gallery) < (2 if ratio < 1 else 1):
        return np.empty((0, 2), np.intp)
    cosine = query @ gallery.T
    best, back = cosine.argmax(axis=1), cosine.argmax(axis=0)
    rows = np.arange(len(query))
    nearest = cosine[rows, best]
    keep = (back[best] == rows) & (nearest >= similarity)
    if ratio < 1:
        second = np.partition(cosine, -2, axis=1)[:, -2]
        # Rows of length 1: squared distance = 2 - 2 cosine.
        keep &= np.maximum(1 - nearest, 0) < ratio**2 * np.maximum(1 - second, 0)
    return np.stack([rows[keep], best[keep]], axis=1)
