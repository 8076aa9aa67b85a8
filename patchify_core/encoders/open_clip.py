"""Any model of open_clip (CLIP, SigLIP, MobileCLIP, EVA, PE ...): `open_clip:<arch>/<tag or path to a checkpoint>`.

Pictures and text are described in one space, so an index made with such an encoder also accepts text queries. Boxes are
resized to the model's square, not centre-cropped; see `square.py`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo, EncoderSettings, Preprocessing
from patchify_core.encoders.checkpoints import (
    UNSTATED_LICENCE,
    WAY_OUT,
    cached_file,
    checked_digest,
    hub_file,
    local_checkpoint,
    require_hub,
)
from patchify_core.encoders.devices import choose_device, use_threads
from patchify_core.encoders.maps import MapRecipe, check_recipe, no_maps, resizable
from patchify_core.encoders.square import Sized, SquareEncoder, squares_only, unit_rows
from patchify_core.encoders.timm_models import timm_recipe, timm_sized
from patchify_core.errors import EncoderError, nearest

if TYPE_CHECKING:
    import torch

PREFIX = "open_clip:"

_COLOURS = ("mean", "std", "interpolation")


class OpenClipEncoder(SquareEncoder):
    """A frozen image-text model of open_clip; satisfies `Encoder` and `TextEncoder`.

    Args:
        spec: e.g. `open_clip:ViT-B-16-SigLIP/webli` or `open_clip:ViT-B-32/weights/mine.safetensors`.
        settings: See `EncoderSettings`.

    Raises:
        EncoderError: If the architecture or tag is unknown, the weights are unavailable, or the file is not a
            checkpoint of that architecture.
    """

    def __init__(self, spec: str, settings: EncoderSettings | None = None) -> None:
        import open_clip
        import torch

        settings = settings or EncoderSettings()
        device = choose_device(settings)
        use_threads(settings)
        arch, _, weights = spec.removeprefix(PREFIX).partition("/")
        config = _config(arch, spec)
        tag = dict(open_clip.get_pretrained_cfg(arch, weights))
        path: Path | None = None
        if tag:
            path = None if settings.untrained else hub_file(*_hub_names(tag), spec)
        else:
            path = _local(arch, weights)
            spec = f"{PREFIX}{arch}/{path}"
        digest = "" if path is None else checked_digest(path)
        if path is None:
            logging.disable(logging.WARNING)  # open_clip warns about random weights
        try:
            network: Any = open_clip.create_model(
                arch,
                pretrained=None if path is None else str(path),
                # Weights trained with QuickGELU are wrong with exact GELU, and only the tag tells.
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_preprocess_cfg={key: (tag or _agreed(arch)).get(key) for key in _COLOURS},
                require_pretrained=path is not None,
                weights_only=True,
            )
        except Exception as error:  # tensors of another architecture fail in many ways: key, shape ...
            raise EncoderError(
                f"{path} is not a checkpoint of open_clip's {arch}: give the architecture it was made for, {WAY_OUT}."
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        self.network = network.eval().requires_grad_(False).to(device)
        model_config = network.visual.preprocess_cfg
        preprocessing = Preprocessing.of(model_config, model_config["size"], spec)
        with torch.inference_mode():
            blank = torch.zeros(1, 3, preprocessing.side, preprocessing.side, device=device)
            dim = int(network.encode_image(blank).shape[-1])
        info = EncoderInfo(spec, dim, preprocessing.side, digest, "image tower", UNSTATED_LICENCE)
        super().__init__(network.encode_image, preprocessing, info, device, settings)
        self._arch, self._text_config = arch, config["text_cfg"]
        self._tokenizer: Any = None

    @cached_property
    def sized(self) -> Sized:
        """The network with interpolated position embeddings; towers such as ResNet take square input only."""
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer

        visual = self.network.visual
        if isinstance(visual, VisionTransformer):
            return Sized(visual.patch_size[0], resizable(visual, _set_clip_size))
        if isinstance(visual, TimmModel):
            trunk = timm_sized(visual.trunk)
            return Sized(trunk.stride, lambda *size: lambda inputs: visual.head(trunk.at(*size)(inputs)))
        raise squares_only(self.info.spec)

    def _map_recipe(self) -> MapRecipe:
        return clip_recipe(self.network.visual, self._info)

    def encode_text(self, words: str) -> NDArray[np.float32]:
        """Describe text in the space of the pictures.

        Args:
            words: E.g. `a red kettle`; truncated to the model's context (often 77 tokens).

        Returns:
            (D,) float32 of length 1.

        Raises:
            EncoderError: If the text is empty, or the model's vocabulary is unavailable.
        """
        import torch

        if not words.strip():
            raise EncoderError("There are no words to search for: describe the object, or give a picture.")
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        tokens = self._tokenizer([words]).to(self.device)
        with torch.inference_mode():  # in full precision: one short pass
            row: NDArray[np.float32] = unit_rows(self.network.encode_text(tokens), self._info.spec)[0]
            return row

    def _load_tokenizer(self) -> Any:
        """Load the tokenizer: CLIP's vocabulary is part of open_clip, others are on the hub and need transformers."""
        import open_clip

        if not self._text_config.get("hf_tokenizer_name"):
            return open_clip.get_tokenizer(self._arch)
        spec = self._info.spec
        _require_transformers(spec, "words with")
        try:  # cache first: otherwise each file costs a request, or long retries when offline
            return open_clip.get_tokenizer(self._arch, local_files_only=True)
        except Exception:  # see below
            require_hub(f"The vocabulary of {spec}")
        try:
            return open_clip.get_tokenizer(self._arch)
        except Exception as error:  # transformers fails in many ways if a file is missing or unsuitable
            raise EncoderError(
                f"The vocabulary of {spec} cannot be had: search with a picture, or use a CLIP model such as "
                "open_clip:ViT-B-32/laion2b_s34b_b79k."
            ) from error


def _config(arch: str, spec: str) -> dict[str, Any]:
    """Return the architecture's configuration; raise if it is unknown or needs transformers."""
    import open_clip

    known = open_clip.list_models()
    if arch not in known:
        raise EncoderError(
            f"open_clip has no model '{arch}'{nearest(arch, known)}: choose one that it lists, {WAY_OUT}."
        )
    config: dict[str, Any] = open_clip.get_model_config(arch)
    if "hf_model_name" in config["text_cfg"]:
        _require_transformers(spec, "the text side of")
    return config


def needs_no_download(spec: str) -> bool:
    """Whether the weights of a spec need no download.

    Raises:
        EncoderError: If open_clip has no such model.
    """
    import open_clip

    arch, _, weights = spec.removeprefix(PREFIX).partition("/")
    _config(arch, spec)
    tag = dict(open_clip.get_pretrained_cfg(arch, weights))
    return not tag or cached_file(*_hub_names(tag)) is not None


def _hub_names(tag: dict[str, Any]) -> tuple[str, tuple[str, str]]:
    """Return repository and file names of a tag: safetensors if the hub has them, as in open_clip itself."""
    repository, name = os.path.split(tag["hf_hub"])
    name = name or "open_clip_pytorch_model.bin"
    safe = "open_clip_model.safetensors" if name == "open_clip_pytorch_model.bin" else Path(name).stem + ".safetensors"
    return repository, (safe, name)


def _local(arch: str, weights: str) -> Path:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(arch)
    looks_like_a_tag = os.sep not in weights and "/" not in weights and not Path(weights).suffix
    if looks_like_a_tag and not Path(weights).is_file():
        raise EncoderError(
            f"'{weights}' is neither a checkpoint nor a tag of open_clip's {arch}{nearest(weights, tags)}: "
            f"choose another one, {WAY_OUT}."
        )
    return local_checkpoint(weights)


def _agreed(arch: str) -> dict[str, Any]:
    """Return the normalisation shared by all published weights of an architecture; empty if they differ.

    For a local file, open_clip would always use CLIP's, which is wrong for SigLIP.
    """
    import open_clip

    configs = [open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)]
    colours = [{key: config[key] for key in _COLOURS} for config in configs]
    return colours[0] if colours and all(other == colours[0] for other in colours) else {}


def _require_transformers(spec: str, what: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise EncoderError(f"For {what} {spec} one more package is needed: run `pip install transformers`, {WAY_OUT}.")


# Maps of open_clip models --------------------------------------------------------------------------------------


def clip_recipe(visual: Any, info: EncoderInfo) -> MapRecipe:
    """Return the recipe of an image tower: open_clip's own vision transformer, or a timm model.

    Args:
        visual: The frozen tower.
        info: The encoder's info.

    Raises:
        EncoderError: If the tower is of another kind (ResNet), or has maps of one size only.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, TimmModel):
        return timm_recipe(visual.trunk, info, visual.head)
    if not isinstance(visual, VisionTransformer):
        raise no_maps(info.spec, "has an image tower that is no vision transformer")
    patch = visual.patch_size[0]
    at_size = resizable(visual, _set_clip_size)
    # The final norm is applied per token or to the pooled vector, as in the model.
    norm_first = visual.attn_pool is None and not visual.final_ln_after_pool

    def cells(inputs: torch.Tensor) -> torch.Tensor:
        found = _clip_tokens(visual, at_size(*inputs.shape[2:])._embeds(inputs))
        found = visual.ln_post(found) if norm_first else found
        return found.unflatten(1, (inputs.shape[2] // patch, inputs.shape[3] // patch))

    def project(pooled: torch.Tensor) -> torch.Tensor:
        found = pooled if norm_first else visual._pool(pooled[:, None].expand(-1, 2, -1))[0]
        return found if visual.proj is None else found @ visual.proj

    like_crops = visual.attn_pool is None and visual.pool_type == "avg"
    return check_recipe(MapRecipe(patch, 1.0, like_crops, cells, project), visual, info)


def _clip_tokens(visual: Any, embedded: torch.Tensor) -> torch.Tensor:
    """(1, 1 + cells, C) embedded patches -> (1, cells, C) patch tokens; the last layer as described in `maps.py`.

    Towers that do not pool by the class token, or do not use torch's own attention, are left unchanged.
    """
    import torch
    import torch.nn.functional as F

    *blocks, last = visual.transformer.resblocks
    by_class_token = visual.attn_pool is None and visual.pool_type == "tok"
    if not by_class_token or type(getattr(last, "attn", None)) is not torch.nn.MultiheadAttention:
        tokens: torch.Tensor = visual.transformer(embedded)
        return tokens[:, 1:]
    tokens = embedded
    for block in blocks:
        tokens = block(tokens)
    tokens = tokens[:, 1:]
    width = tokens.shape[-1]
    values = F.linear(last.ln_1(tokens), last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:])
    tokens = tokens + last.ls_1(last.attn.out_proj(values))
    return tokens + last.ls_2(last.mlp(last.ln_2(tokens)))


def _set_clip_size(visual: Any, height: int, width: int) -> None:
    """Interpolate the position embeddings as open_clip does (bicubic, antialiased), except the class token's."""
    import torch
    from timm.layers import resample_abs_pos_embed

    grid = (height // visual.patch_size[0], width // visual.patch_size[1])
    resampled = resample_abs_pos_embed(visual.positional_embedding[None], list(grid), list(visual.grid_size))[0]
    visual.positional_embedding = torch.nn.Parameter(resampled, requires_grad=False)
    visual.grid_size = grid
