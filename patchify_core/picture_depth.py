"""Pictures of more than 8 bits a channel become 8 bits, on a scale that their content tells.

Cameras, microscopes and thermal sensors write 10 to 14 bits into 16, counts with an offset, or floats of any range, and
seldom say which. `find_scale` decides from what is there; the same values come out alike whatever file they are in.
"""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Number
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, TiffImagePlugin

Scale = tuple[float, float]
"""The values that become 0 and 255."""

_BAND_VALUES = 1 << 20
_TAILS = (0.1, 99.9)
_DEPTHS = (1.0, *(2.0**bits - 1 for bits in range(8, 33)))
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MIN, _MAX, _SAMPLE_FORMAT, _SMIN, _SMAX = 258, 262, 280, 281, 339, 340, 341


def find_scale(
    bands: Iterator[NDArray[np.float64]], count: int, floating: bool = False, declared: tuple[Scale, ...] = ()
) -> Scale:
    """Choose which values become black and white.

    The range of a picture is that of its finite values; the darkest and brightest thousandth count only where they are
    not further out than half the range of the others (hot pixels are). Then the first of these is taken:

    1. a scale that the file declares, if the content covers at least half of it;
    2. 0 to 1 (floats) or 0 to the smallest 2^n - 1 that contains the content, n >= 8, if the content covers at least
       two thirds of it: 10 bits stored in 16 keep their brightness;
    3. the range itself: counts with an offset, negative values and odd units are stretched, so that any other affine
       scale of the same content gives the same picture.

    A picture of one value lies on a declared scale, else on the smallest of 0 to 1 (floats), 255 and 65535.

    Args:
        bands: The picture's values, piece by piece; not-a-number and infinities do not count.
        count: How many there are.
        floating: Whether they are floats.
        declared: Scales that the file declares, the likeliest first.

    Returns:
        (low, high), low < high.
    """
    least, most, samples, step = np.inf, -np.inf, [np.empty(0)], count // _BAND_VALUES | 1
    for band in bands:
        finite = band[np.isfinite(band)]
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
            samples.append(finite[::step])
    if not least < most:
        usual = (*declared, *((0.0, full) for full in (1.0, 255.0, 65535.0)[0 if floating else 1 :]))
        return next((scale for scale in usual if scale[0] <= most <= scale[1]), (0.0, max(most, 1.0)))
    low, high = (float(edge) for edge in np.percentile(np.concatenate(samples), _TAILS))
    if low == high:
        low, high = least, most
    reach = (high - low) / 2
    low, high = least if low - least <= reach else low, most if most - high <= reach else high
    for start, end in declared:
        if start <= low and high <= end and high - low >= (end - start) / 2:
            return start, end
    full = next((full for full in _DEPTHS[0 if floating else 1 :] if high <= full), np.inf)
    return (0.0, full) if low >= 0 and high - low >= full * 2 / 3 else (low, high)


def to_bytes(values: NDArray[np.float64], scale: Scale) -> NDArray[np.uint8]:
    """Put values on a scale of 0 to 255, rounded; what lies outside is clipped, not-a-number is black."""
    low, high = scale
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255)).astype(np.uint8)


def is_deep_gray(image: Image.Image) -> bool:
    """Whether Pillow gives a picture's values as they are stored."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def gray_to_bytes(image: Image.Image, transparent: object) -> Image.Image:
    """Bring a loaded picture of deep gray to mode L; pixels of the transparent value become white."""
    unsigned = (
        image.mode == "I" and _tag(image, _SAMPLE_FORMAT, (1,)) == (1,) and _tag(image, _BITS_PER_SAMPLE) == (32,)
    )

    def band(top: int, bottom: int) -> NDArray[np.float64]:
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        return (values.view(np.uint32) if unsigned else values).astype(np.float64)

    declared = _declared(image)
    scale = find_scale(
        (_opaque(band(*rows), transparent) for rows in _bands(image)),
        image.width * image.height,
        image.mode == "F",
        declared,
    )
    white_is_zero = _tag(image, _PHOTOMETRIC) == (0,)
    gray = Image.new("L", image.size)
    for rows in _bands(image):
        values = band(*rows)
        found = to_bytes(values, scale)
        if white_is_zero:
            found = 255 - found
        if isinstance(transparent, int):
            found[values == transparent] = 255
        gray.paste(Image.fromarray(found), (0, rows[0]))
    return gray


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a picture that is not loaded yet has 16-bit colour, of which Pillow keeps the high byte only."""
    if image.mode not in ("LA", "RGB", "RGBA"):
        return False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return 16 in _tag(image, _BITS_PER_SAMPLE) and image.tell() == 0
    return isinstance(image, PngImagePlugin.PngImageFile) and any(";16" in str(tile.args) for tile in image.tile)


def colour_to_bytes(image: Image.Image, stream: IO[bytes]) -> Image.Image | None:
    """Bring deep colour of which only a part of the range is used to 8 bits; all channels are on one scale.

    Args:
        image: The loaded picture, of mode LA, RGB or RGBA: the high bytes.
        stream: The file, read anew by a decoder that keeps the low bytes too.

    Returns:
        A picture of mode RGBA; None where the content fills its 16 bits, so that the high bytes are what is wanted.
    """
    colours = range(1 if image.mode == "LA" else 3)
    high_bytes = np.array(image.histogram()).reshape(-1, 256)[colours].sum(0).cumsum()
    low, high = np.searchsorted(high_bytes, high_bytes[-1] * np.array(_TAILS) / 100)
    if high - low >= 128:
        return None
    import cv2

    stream.seek(0)
    found = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[1::-1] != image.size:
        return None
    scale = find_scale(
        (found[top:bottom, :, :3].astype(np.float64) for top, bottom in _bands(image)),
        found.shape[0] * found.shape[1] * 3,
        declared=((0.0, 65535.0),),
    )
    alpha = found[..., 3] if found.shape[2] == 4 else np.full(1, 65535, np.uint16)
    opaque = next(full for full in _DEPTHS[1:] if alpha.max() <= full)
    out = Image.new("RGBA", image.size)
    for top, bottom in _bands(image):
        band = found[top:bottom]
        rgba = np.full((*band.shape[:2], 4), 255, np.uint8)
        rgba[..., :3] = to_bytes(band[..., 2::-1].astype(np.float64), scale)
        if band.shape[2] == 4:
            rgba[..., 3] = to_bytes(band[..., 3].astype(np.float64), (0.0, opaque))
        out.paste(Image.fromarray(rgba), (0, top))
    return out


def _bands(image: Image.Image) -> Iterator[tuple[int, int]]:
    """Yield (top, bottom) of pieces of rows, so that no second copy of all values is made."""
    rows = max(1, _BAND_VALUES // image.width)
    for top in range(0, image.height, rows):
        yield top, min(top + rows, image.height)


def _opaque(values: NDArray[np.float64], transparent: object) -> NDArray[np.float64]:
    return values[values != transparent] if isinstance(transparent, int) else values.ravel()


def _declared(image: Image.Image) -> tuple[Scale, ...]:
    """The scales that a file of deep gray declares: by its tags, and by how many bits it stores."""
    said = []
    for low_tag, high_tag in ((_SMIN, _SMAX), (_MIN, _MAX)):
        edges = (*_tag(image, low_tag), *_tag(image, high_tag))
        if len(edges) == 2 and all(isinstance(edge, Number) for edge in edges) and edges[0] < edges[1]:
            said.append((float(edges[0]), float(edges[1])))
    if image.mode.startswith("I;16"):
        said.append((0.0, 65535.0))
    return tuple(said)


def _tag(image: Image.Image, number: int, missing: tuple[int, ...] = ()) -> tuple[float, ...]:
    """The values of a TIFF's tag; `missing` for other pictures and where it is not there."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ()
    value = image.tag_v2.get(number, missing)
    return value if isinstance(value, tuple) else (value,)
