"""A registry of encoder specs: `load_encoder("effnet-lite0")` is a frozen encoder, or one sentence saying why not."""

from __future__ import annotations

from patchify_core.encoders.base import Encoder, EncoderInfo, EncoderSettings
from patchify_core.encoders.effnet import LITE_MODELS
from patchify_core.errors import EncoderError

DEFAULT_ENCODER = "effnet-lite0"

__all__ = ["DEFAULT_ENCODER", "Encoder", "EncoderInfo", "EncoderSettings", "encoder_specs", "load_encoder"]


def encoder_specs() -> tuple[str, ...]:
    """The encoders that work without a download, the default one first."""
    return tuple(LITE_MODELS)


def load_encoder(spec: str = DEFAULT_ENCODER, settings: EncoderSettings | None = None) -> Encoder:
    """Loads a frozen encoder.

    Args:
        spec: e.g. `effnet-lite0`.
        settings: see `EncoderSettings`.

    Raises:
        EncoderError: if the spec is unknown or its weights cannot be had.
    """
    model = LITE_MODELS.get(spec)
    if model is None:
        raise EncoderError(f"Unknown encoder '{spec}': choose one of {', '.join(encoder_specs())}.")
    from patchify_core.encoders.effnet import EffNetLite

    return EffNetLite(model, settings)
