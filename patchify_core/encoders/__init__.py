"""Frozen image encoders, loaded by spec: `load_encoder("effnet-lite0")`.

effnet-lite0, effnet-lite1, effnet-lite2    bundled: their weights are part of pip packages
effnet-lite0-block                          effnet-lite0, with features of its last block added
open_clip:ARCH/TAG                          any open_clip model; downloaded on first use; accepts text queries
open_clip:ARCH/FILE                         the same with a local checkpoint (PyTorch or safetensors)
timm:NAME                                   any timm model, e.g. timm:vit_small_patch14_dinov2.lvd142m
timm:NAME@FILE                              the same with a local checkpoint
aspect:SPEC                                 any of these that can keep the aspect ratio of its input
aspect:384:SPEC                             the same with a longer side of 384 pixels
SPEC+projection@FILE                        any of these, followed by a published linear layer
"""

from __future__ import annotations

import re

from patchify_core.encoders.base import Encoder, EncoderInfo, EncoderSettings, TextEncoder
from patchify_core.encoders.effnet import LITE_MODELS
from patchify_core.encoders.maps import MapEncoder, as_map_encoder
from patchify_core.errors import EncoderError, nearest

DEFAULT_ENCODER = "effnet-lite0"

FORMS = ("open_clip:ARCH/TAG", "open_clip:ARCH/FILE", "timm:NAME", "timm:NAME@FILE")
"""Specs of encoders that are not bundled."""

__all__ = [
    "DEFAULT_ENCODER",
    "FORMS",
    "Encoder",
    "EncoderInfo",
    "EncoderSettings",
    "MapEncoder",
    "TextEncoder",
    "as_map_encoder",
    "load_encoder",
    "needs_no_download",
]


def needs_no_download(spec: str) -> bool:
    """Whether an encoder can be loaded without a download; also True for specs that `load_encoder` rejects.

    Raises:
        EncoderError: If the library has no such model.
    """
    spec = re.sub(r"^aspect:([0-9]+:)?", "", spec.partition("+projection@")[0])
    if spec.startswith("open_clip:"):
        from patchify_core.encoders import open_clip

        return open_clip.needs_no_download(spec)
    if spec.startswith("timm:"):
        from patchify_core.encoders import timm_models

        return timm_models.needs_no_download(spec)
    return True


def load_encoder(spec: str = DEFAULT_ENCODER, settings: EncoderSettings | None = None) -> Encoder:
    """Load a frozen encoder.

    Args:
        spec: A bundled encoder, or one of `FORMS`, e.g. `open_clip:ViT-B-16-SigLIP/webli`.
        settings: See `EncoderSettings`.

    Raises:
        EncoderError: If the spec is unknown or its weights are unavailable.
    """
    inner, projection, layer = spec.partition("+projection@")
    if projection and inner and layer:
        from patchify_core.encoders.projected import projected

        return projected(load_encoder(inner, settings), layer)
    family, _, rest = spec.partition(":")
    if family == "aspect" and rest:
        from patchify_core.encoders.aspect import with_aspect

        side, colon, inner = rest.partition(":")
        if colon and inner and re.fullmatch("[1-9][0-9]{0,5}", side):
            return with_aspect(load_encoder(inner, settings), int(side))
        return with_aspect(load_encoder(rest, settings))
    if spec in LITE_MODELS:
        from patchify_core.encoders.effnet import EffNetLite

        return EffNetLite(LITE_MODELS[spec], settings)
    arch, _, weights = rest.partition("/")
    if family == "open_clip" and arch and weights:
        from patchify_core.encoders.open_clip import OpenClipEncoder

        return OpenClipEncoder(spec, settings)
    name, at, file = rest.partition("@")
    if family == "timm" and name and bool(at) == bool(file):
        from patchify_core.encoders.timm_models import TimmEncoder

        return TimmEncoder(spec, settings)
    known = (*LITE_MODELS, *FORMS)
    forms = [form for form in FORMS if form.partition(":")[0] == family]
    if forms:
        raise EncoderError(f"The encoder '{spec}' lacks a part: write {' or '.join(forms)}, or use {DEFAULT_ENCODER}.")
    if ":" in spec:  # only the family tells which form was meant
        hint = nearest(f"{family}:", sorted({form.partition(":")[0] + ":" for form in FORMS}))
    else:
        hint = nearest(spec, known)
    raise EncoderError(f"Unknown encoder '{spec}'{hint}: choose one of {', '.join(known)}.")
