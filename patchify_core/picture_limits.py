"""What a picture may cost, checked before it is decoded: a few bytes can demand much work."""

from __future__ import annotations

from dataclasses import dataclass

from patchify_core.errors import PictureError


@dataclass(frozen=True)
class PictureSettings:
    """What a picture may cost.

    Attributes:
        max_pixels: Largest width x height that is decoded, in pixels (Pillow's RGB takes 4 bytes a pixel).
    """

    max_pixels: int = 100_000_000


DEFAULTS = PictureSettings()


def check_size(name: str, size: tuple[int, int], settings: PictureSettings) -> None:
    """Raise PictureError for a (width, height) in pixels that is empty or larger than the settings allow."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(f"{name} has no pixels ({width} × {height}): choose another picture.")
    if width * height > settings.max_pixels:
        raise PictureError(
            f"{name} is too large at {width} × {height} pixels ({width * height / 1e6:,.0f} megapixels; "
            f"at most {settings.max_pixels / 1e6:,.0f} are read): scale it down."
        )
