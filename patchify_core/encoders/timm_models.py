"""Any image model of timm, DINOv2 and DINOv3 included: `timm:<name>`, or `timm:<name>@<path to a checkpoint>`.

The descriptor is the model's own output without its classifier (class token, average pooling ...). Boxes are resized to
the model's square, not centre-cropped; see `square.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchify_core.encoders.base import EncoderInfo, EncoderSettings, Preprocessing
from patchify_core.encoders.checkpoints import (
    UNSTATED_LICENCE,
    WAY_OUT,
    cached_file,
    checked_digest,
    hub_file,
    local_checkpoint,
)
from patchify_core.encoders.devices import choose_device, use_threads
from patchify_core.encoders.maps import (
    MapRecipe,
    Step,
    check_recipe,
    noise,
    resizable,
    same_up_to_rounding,
    trial_cells,
    try_step,
)
from patchify_core.encoders.square import Sized, SquareEncoder
from patchify_core.errors import EncoderError, nearest

if TYPE_CHECKING:
    import torch

PREFIX = "timm:"

HUB_NAMES = ("model.safetensors", "pytorch_model.bin")

MISSING_SHARE = 0.1
"""If more of the tensors are missing, the file is of another architecture, even where timm is not strict."""


class TimmEncoder(SquareEncoder):
    """A frozen image model of timm without its classifier.

    Args:
        spec: e.g. `timm:vit_small_patch14_dinov2.lvd142m` or `timm:resnet50@weights/mine.pth`.
        settings: See `EncoderSettings`.

    Raises:
        EncoderError: If the name is unknown, the weights are unavailable, or the file is not a checkpoint of the model.
    """

    def __init__(self, spec: str, settings: EncoderSettings | None = None) -> None:
        import torch
        from timm.data import resolve_data_config

        settings = settings or EncoderSettings()
        device = choose_device(settings)
        use_threads(settings)
        name, _, file = spec.removeprefix(PREFIX).partition("@")
        published = _published(name)
        data_config = resolve_data_config(pretrained_cfg=published.to_dict())
        preprocessing = Preprocessing.of(data_config, data_config["input_size"][1:], spec)
        licence = published.license or UNSTATED_LICENCE
        path: Path | None = None
        if file:
            path = local_checkpoint(file)
            spec = f"{PREFIX}{name}@{path}"
            if "." not in name:  # without a tag the file may contain any weights, not only timm's default
                licence = UNSTATED_LICENCE
        elif not settings.untrained:
            path = _published_file(published, spec)
        if licence == "unknown":
            licence = UNSTATED_LICENCE
        digest = "" if path is None else checked_digest(path)
        network = _untrained(name) if path is None else _load(name, path, published)
        self.network = network.eval().requires_grad_(False).to(device)
        with torch.inference_mode():
            output = network(torch.zeros(1, 3, preprocessing.side, preprocessing.side, device=device))
        if not isinstance(output, torch.Tensor) or output.ndim != 2:
            raise EncoderError(f"{spec} does not give one descriptor a picture: choose another model, {WAY_OUT}.")
        pool = getattr(network, "global_pool", "")  # vision transformers have it here, others in their head
        pooling = pool if isinstance(pool, str) and pool else "the model's own"
        info = EncoderInfo(spec, output.shape[1], preprocessing.side, digest, pooling, licence)
        super().__init__(network, preprocessing, info, device, settings)

    @cached_property
    def sized(self) -> Sized:
        """The network with interpolated position embeddings, if it has any."""
        return timm_sized(self.network)

    def _map_recipe(self) -> MapRecipe:
        return timm_recipe(self.network, self._info)


def _published(name: str) -> Any:
    """Return timm's `PretrainedCfg` of a model name.

    Raises:
        EncoderError: If timm has no such model, or the model no such tag.
    """
    import timm
    from timm.models import PretrainedCfg, get_pretrained_cfg

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = nearest(architecture, timm.list_models())
        raise EncoderError(f"timm has no model '{architecture}'{hint}: choose one that it lists, {WAY_OUT}.")
    try:
        return get_pretrained_cfg(name) or PretrainedCfg()
    except RuntimeError as error:
        tags = [other.partition(".")[2] for other in timm.list_models(f"{architecture}.*", pretrained=True)]
        raise EncoderError(
            f"timm has no weights '{tag}' for {architecture}{nearest(tag, tags)}: choose another one, {WAY_OUT}."
        ) from error


def _published_file(published: Any, spec: str) -> Path:
    """Return the file of the published weights, downloaded if necessary.

    Raises:
        EncoderError: If there are none, or they are unavailable.
    """
    if published.hf_hub_id:
        return hub_file(published.hf_hub_id, HUB_NAMES, spec)
    if not published.url:
        raise EncoderError(f"timm has no weights for {spec}: give a checkpoint as {spec}@FILE, {WAY_OUT}.")
    from timm.models._hub import download_cached_file

    try:  # a few old models are not on the hub; urllib does not retry
        return Path(download_cached_file(published.url, check_hash=True, progress=True))
    except Exception as error:  # network, TLS, disk, digest
        raise EncoderError(
            f"The weights of {spec} cannot be downloaded now, and there is no copy on this machine: "
            f"connect it to the network, name a local checkpoint as {spec}@FILE, {WAY_OUT}."
        ) from error


def needs_no_download(spec: str) -> bool:
    """Whether the weights of a spec need no download.

    Raises:
        EncoderError: If timm has no such model.
    """
    name, _, file = spec.removeprefix(PREFIX).partition("@")
    published = _published(name)
    return bool(file) or bool(published.hf_hub_id and cached_file(published.hf_hub_id, HUB_NAMES))


def _untrained(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=0)


def _load(name: str, path: Path, published: Any) -> Any:
    """Load the network with a file's weights, without the classifier.

    timm checks all tensors only if model and weights have the same number of classes; otherwise it silently accepts a
    file of another architecture. Therefore the model is built with the file's own number of classes.

    Raises:
        EncoderError: If the file is not a checkpoint of this model.
    """
    import timm

    last: Exception | None = None
    for classes in _class_counts(path, published):
        try:
            with _missing_tensors() as missing:
                network: Any = timm.create_model(
                    name,
                    pretrained=True,
                    num_classes=classes,
                    pretrained_cfg_overlay={"file": str(path), "num_classes": classes},
                )
        except Exception as error:  # other tensors than the model's fail in any way: key, shape, attribute ...
            last = error
            continue
        if len(missing) > MISSING_SHARE * len(network.state_dict()):
            continue
        if classes:
            network.reset_classifier(0)
        return network
    raise EncoderError(
        f"{path} is not a checkpoint of timm's {name}: give the model it was made for, {WAY_OUT}."
    ) from last


def _class_counts(path: Path, published: Any) -> Iterator[int]:
    """Yield possible class counts of a file: the published one, a fine-tuned head's, 0 for a bare backbone."""
    yield published.num_classes
    yield from {0, *_classes_in(path, published)} - {published.num_classes}


def _classes_in(path: Path, published: Any) -> tuple[int, ...]:
    """Return the class count of the file's own head, if it has one under timm's name."""
    import torch
    from timm.models import load_state_dict

    heads = published.classifier
    head = heads if isinstance(heads, str) else heads[0] if heads else ""
    try:
        weight = load_state_dict(str(path)).get(f"{head}.weight")
    except Exception:  # a layout that only the model's own filter understands
        return ()
    return (len(weight),) if isinstance(weight, torch.Tensor) and weight.ndim else ()


@contextmanager
def _missing_tensors() -> Iterator[list[str]]:
    """Collect the names of missing tensors, which timm reports in its log only."""
    missing: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text.startswith("Missing keys ("):
                missing.extend(text.partition("(")[2].partition(")")[0].split(", "))

    logger, listener = logging.getLogger("timm.models._builder"), Listener()
    level, passes_on = logger.level, logger.propagate
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # the caller turns it into an error message
    try:
        yield missing
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
        logger.propagate = passes_on


# Maps of timm models -------------------------------------------------------------------------------------------


SPREAD = 100.0
"""Standard deviation of the features that detect mean pooling: large, so that attention is far from uniform."""


def timm_sized(network: Any) -> Sized:
    """Return a timm model at any input size; whether it supports one shows when it is tried."""
    stride = int(network.feature_info[-1]["reduction"]) if getattr(network, "feature_info", None) else 1
    return Sized(stride, resizable(network, _set_input_size) if _is_sized(network) else lambda *size: network)


def timm_recipe(network: Any, info: EncoderInfo, after: Step | None = None) -> MapRecipe:
    """Return the recipe of a timm model without its classifier.

    Args:
        network: Frozen; its `forward_features` gives a map or tokens, its `forward_head` pools them.
        info: The encoder's info.
        after: Applied after the model, e.g. the projection of a CLIP tower.

    Raises:
        EncoderError: If it has no map, or maps of one size only.
    """
    at_size = timm_sized(network).at
    stride = try_step(lambda: int(network.feature_info[-1]["reduction"]), info.spec)

    def features_of(inputs: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = at_size(*inputs.shape[2:]).forward_features(inputs)
        return features

    def cells(inputs: torch.Tensor) -> torch.Tensor:
        return _as_cells(features_of(inputs), network, (inputs.shape[2] // stride, inputs.shape[3] // stride))

    def head(features: torch.Tensor) -> torch.Tensor:
        output = network.forward_head(features)
        return after(output) if after else output

    def project(pooled: torch.Tensor) -> torch.Tensor:
        return head(_as_features(pooled, network, tokens))

    def pools_by_mean() -> bool:
        features = noise(network, *trial_features.shape[1:]) * SPREAD
        return same_up_to_rounding(project(_as_cells(features, network, (count, count)).mean((1, 2))), head(features))

    count = trial_cells(info, stride)
    trial_features = try_step(lambda: features_of(noise(network, 3, count * stride, count * stride)), info.spec)
    tokens = trial_features.ndim == 3
    return check_recipe(MapRecipe(stride, 1.0, try_step(pools_by_mean, info.spec), cells, project), network, info)


def _as_cells(features: torch.Tensor, network: Any, grid: tuple[int, int]) -> torch.Tensor:
    """Convert maps (NCHW, or NHWC as Swin has it) or tokens (N, prefix + cells, C) -> (N, h, w, C)."""
    if features.ndim == 3:
        return features[:, getattr(network, "num_prefix_tokens", 0) :].unflatten(1, grid)
    return features if _channels_last(network) else features.permute(0, 2, 3, 1)


def _as_features(pooled: torch.Tensor, network: Any, tokens: bool) -> torch.Tensor:
    """(N, C) pooled cells -> input of the head: a map of one cell, or one token preceded by equal prefix tokens."""
    if tokens:
        return pooled[:, None].expand(-1, getattr(network, "num_prefix_tokens", 0) + 1, -1)
    return pooled[:, None, None] if _channels_last(network) else pooled[:, :, None, None]


def _channels_last(network: Any) -> bool:
    return getattr(network, "output_fmt", "NCHW") == "NHWC"


def _is_sized(network: Any) -> bool:
    """Whether a timm model needs `set_input_size`; CNNs and transformers with dynamic sizes do not."""
    return hasattr(network, "set_input_size") and not getattr(network, "dynamic_img_size", False)


def _set_input_size(network: Any, height: int, width: int) -> None:
    """Interpolate the position embeddings as timm does (bicubic, antialiased)."""
    network.set_input_size((height, width))
