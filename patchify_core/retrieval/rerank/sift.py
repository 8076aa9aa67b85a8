"""SIFT (Lowe, IJCV 2004) with square-rooted descriptors (RootSIFT; Arandjelovic and Zisserman, CVPR 2012)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.rerank.local_features import Crop, LocalFeatures, LocalFeatureSettings, mutual_matches


class Sift:
    """OpenCV's SIFT: nothing to install, nothing learned.

    Args:
        settings: see `LocalFeatureSettings`.
    """

    name = "sift"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        """Makes the detector."""
        import cv2

        self._settings = settings
        self._detector = cv2.SIFT.create(nfeatures=settings.keypoints)

    def extract(self, crop: Crop) -> LocalFeatures:
        """See `LocalMethod.extract`."""
        import cv2

        found, raw = self._detector.detectAndCompute(cv2.cvtColor(crop.pixels, cv2.COLOR_RGB2GRAY), None)
        if raw is None or not len(found):
            return LocalFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), crop)
        points = np.array([keypoint.pt for keypoint in found], np.float64) + 0.5
        raw = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-12))
        return LocalFeatures(points, raw.astype(np.float32), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        return mutual_matches(query.descriptors, gallery.descriptors, ratio=self._settings.ratio)
