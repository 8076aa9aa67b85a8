"""Pictures of more than 8 bits a channel become 8 bits, on a scale that their content tells.

Cameras, microscopes and thermal sensors write 10 to 14 bits into 16, counts with an offset, or floats of any range, and
seldom say which. `find_scale` decides from what is there; the same values come out alike whatever file they are in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

Scale = tuple[float, float]
"""The values that become 0 and 255."""

_BAND_VALUES, _SAMPLED = 1 << 18, 1 << 19
_DEPTHS = (1.0, *(2.0**bits - 1 for bits in (*range(8, 17), 24, 32)))
_HALF_FAR, _FAR, _VERY_FAR = 1, 3, 12
_FEW_LEVELS = 8


@dataclass(frozen=True)
class Samples:
    """The values of a picture, as they are stored.

    Attributes:
        size: (width, height) in pixels.
        band: Gives the values of some rows, (top, bottom) to a (bottom - top, width, channels) array.
        mode: What the channels are: L, LA, La, RGB, RGBA, RGBa or CMYK, as Pillow calls them.
        declared: Scales that the file declares, the likeliest first.
        absent: Values that stand for "no data", or for a transparent pixel.
        blank: What absent values become: 0 (black) to 255.
        inverted: Whether white is zero.
        fixed: The scale, where the content is not to tell it.
    """

    size: tuple[int, int]
    band: Callable[[int, int], NDArray[Any]]
    mode: str = "L"
    declared: tuple[Scale, ...] = ()
    absent: tuple[float, ...] = ()
    blank: int = 0
    inverted: bool = False
    fixed: Scale | None = None

    def bands(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (top, values) of pieces of rows, so that no second copy of all values is made."""
        rows = max(1, _BAND_VALUES // (self.size[0] * len(self.mode)))
        for top in range(0, self.size[1], rows):
            yield top, self.band(top, min(top + rows, self.size[1]))


# The scale ------------------------------------------------------------------------------------------------


def find_scale(
    bands: Iterator[NDArray[Any]],
    count: int,
    floating: bool = False,
    declared: tuple[Scale, ...] = (),
    absent: tuple[float, ...] = (),
) -> Scale:
    """Choose which values become black and white.

    The range of a picture is that of its finite values that are data:

    - not values that are `absent`, nor a lowest or highest value that is repeated and far from all others (by three
      times the range of these; a negative one among positive values by once that range; black beside values that reach
      the white of a usual scale, or white beside black, by twelve times, and only a hundredth or more of all): what
      programs write where a sensor saw nothing;
    - the darkest and brightest hundredth, where no 2 x 2 neighbours are among it, only as far as it is not further out
      than half the range of the others (hot and dead pixels are).

    Then the first of these is taken:

    1. a scale that the file declares, if the content covers at least half of it;
    2. 0 to 1 (floats) or 0 to the smallest 2^n - 1 that contains the content (n is 8 to 16, 24 or 32), if the content
       covers at least two thirds of it: 10 bits stored in 16 keep their brightness;
    3. the range itself: counts with an offset, negative values and odd units are stretched, so that any other affine
       scale of the same content gives the same picture.

    A picture of one value lies on a declared scale, else on the smallest of 0 to 1 (floats), 255 and 65535.

    Args:
        bands: The picture's values, piece by piece, of shape (..., channels); not-a-number and infinities do not count.
        count: How many there are.
        floating: Whether the values are floats.
        declared: Scales that the file declares, the likeliest first.
        absent: Values that do not count.

    Returns:
        (low, high), low < high.
    """
    least, most, step = np.inf, -np.inf, count // _SAMPLED | 1
    samples: list[list[NDArray[np.float64]]] = [[np.empty(0)], [np.empty(0)], [np.empty(0)]]
    for band in map(np.atleast_3d, bands):
        present = _present(band, floating, absent)
        if present.size:
            least, most = min(least, float(present.min())), max(most, float(present.max()))
        for kept, values in zip(samples, (band, _blocks(band, np.maximum), _blocks(band, np.minimum)), strict=True):
            kept.append(_present(values.reshape(-1)[::step], floating, absent).astype(np.float64))
    if not least < most:
        usual = (*declared, *((0.0, full) for full in (1.0, 255.0, 65535.0)[0 if floating else 1 :]))
        return next((scale for scale in usual if scale[0] <= most <= scale[1]), (0.0, max(most, 1.0)))
    every, dark, bright = (np.concatenate(kept) for kept in samples)
    low, high = _range(every, dark, bright, least, most)
    for start, end in declared:
        if start <= low and high <= end and high - low >= (end - start) / 2:
            return start, end
    full = next((full for full in _DEPTHS[0 if floating else 1 :] if high <= full), np.inf)
    return (0.0, full) if low >= 0 and high - low >= full * 2 / 3 else (low, high)


def _present(values: NDArray[Any], floating: bool, absent: tuple[float, ...]) -> NDArray[Any]:
    if floating:
        values = values[np.isfinite(values)]
    for value in absent:
        values = values[values != value]
    return values


def _blocks(values: NDArray[Any], pick: np.ufunc) -> NDArray[Any]:
    """The highest (np.maximum) or lowest of each 2 x 2 neighbours."""
    for axis in (0, 1):
        if values.shape[axis] > 1:
            values = pick(values[1:], values[:-1]) if axis == 0 else pick(values[:, 1:], values[:, :-1])
    return values


def _range(
    ordered: NDArray[np.float64], dark: NDArray[np.float64], bright: NDArray[np.float64], least: float, most: float
) -> Scale:
    """The range of what counts, from a sample of all values, and of the highest and the lowest of neighbours."""
    ordered = np.sort(ordered)
    first, last = _data(ordered)
    least = float(ordered[first]) if first else least
    most = float(ordered[last - 1]) if last < len(ordered) else most
    low, high = _edges(ordered[first:last], 100)
    low = min(low, dark[dark >= least].min(initial=low))
    high = max(high, bright[bright <= most].max(initial=high))
    if low == high:
        return least, most
    reach = (high - low) / 2
    thousandth = _edges(ordered[first:last], 1000)
    return (
        min((edge for edge in (thousandth[0], least) if low - edge <= reach), default=low),
        max((edge for edge in (thousandth[1], most) if edge - high <= reach), default=high),
    )


def _data(ordered: NDArray[np.float64]) -> tuple[int, int]:
    """Where the data begin and end among values in order: behind a lowest and before a highest that mean "none"."""
    count = len(ordered)
    first = int(np.searchsorted(ordered, ordered[0], "right"))
    last = int(np.searchsorted(ordered, ordered[-1], "left"))
    for start, end in ((first, last), (first, count), (0, last)):
        rest = ordered[start:end]
        if len(set(rest[:: len(rest) // 1000 + 1].tolist())) < _FEW_LEVELS:
            continue
        if (not start or _means_none(ordered[0], start, rest)) and (
            end == count or _means_none(ordered[-1], count - end, rest)
        ):
            return start, end
    return 0, count


def _means_none(value: float, times: int, rest: NDArray[np.float64]) -> bool:
    """Whether a value that occurs so many times, beside others in order, stands for "no data"."""
    low, high = _edges(rest, 100)
    far = max(rest[0] - value, value - rest[-1]) / (high - low) if high > low else 0.0
    if value < 0 <= rest[0]:
        return times > 1 and far > _HALF_FAR
    top = max(value, rest[-1])
    full = next((full for full in _DEPTHS if top <= full), np.inf)
    if min(value, rest[0]) >= 0 and top >= 0.9 * full and min(value, rest[0]) <= 0.05 * full:  # lines, or lamps
        return times > (times + len(rest)) / 100 and far > _VERY_FAR
    return times > 1 and far > _FAR


def _edges(ordered: NDArray[Any], part: int) -> Scale:
    """Where the lowest and highest 1/part of values in order end."""
    cut = (len(ordered) - 1) // part
    return float(ordered[cut]), float(ordered[-1 - cut])


# To 8 bits ------------------------------------------------------------------------------------------------


def to_bytes(values: NDArray[Any], scale: Scale) -> NDArray[np.uint8]:
    """Put values on a scale of 0 to 255, rounded; what lies outside is clipped, not-a-number is black."""
    if values.dtype == np.uint16 and values.size > 65_536:
        return _table(scale)[values]
    low, high = scale
    values = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255)).astype(np.uint8)


def _mended(found: NDArray[np.uint8], values: NDArray[Any], scale: Scale) -> NDArray[np.uint8]:
    """Give single pixels that are out of the range (hot and dead ones) the value of a neighbour, as cameras do."""
    reach = (scale[1] - scale[0]) / 2
    out = (values < scale[0] - reach) | (values > scale[1] + reach)
    if found.shape[1] < 2 or not out.any():
        return found
    alone = out.copy()
    alone[:, 1:] &= ~out[:, :-1]
    alone[:, :-1] &= ~out[:, 1:]
    return np.where(alone, np.concatenate([found[:, 1:2], found[:, :-1]], 1), found)


@lru_cache(2)
def _table(scale: Scale) -> NDArray[np.uint8]:
    return to_bytes(np.arange(65_536.0), scale)


def scaled(samples: Samples) -> Image.Image:
    """Bring a picture to 8 bits, all colours on one scale; single pixels far out of it are taken for defects.

    Returns:
        A picture of the samples' mode.
    """
    colours = {"L": 1, "R": 3, "C": 4}[samples.mode[0]]
    scale, opaque = samples.fixed, 0.0
    floating = samples.band(0, 1).dtype.kind == "f"
    if scale is None:
        scale = find_scale(
            (values[..., :colours] for _, values in samples.bands()),
            samples.size[0] * samples.size[1] * colours,
            floating,
            samples.declared,
            samples.absent,
        )
    if len(samples.mode) > colours:
        most = max(float(np.nanmax(values[..., colours], initial=0)) for _, values in samples.bands())
        opaque = next((full for full in _DEPTHS[0 if floating else 1 :] if most <= full), most)
    out = Image.new(samples.mode, samples.size)
    for top, values in samples.bands():
        # Pillow keeps the high bytes of a colour PNG that fills its 16 bits: the same picture as TIFF looks the same.
        high_bytes = scale == (0.0, 65535.0) and values.shape[2] > 1 and values.dtype == np.uint16
        found = (values >> 8).astype(np.uint8) if high_bytes else to_bytes(values, scale)
        found[..., :colours] = _mended(found[..., :colours], values[..., :colours], scale)
        if opaque:
            found[..., colours] = to_bytes(values[..., colours], (0.0, opaque))
        if samples.inverted:
            found[..., :colours] = 255 - found[..., :colours]
        for value in samples.absent:
            found[..., :colours][values[..., :colours] == value] = samples.blank
        out.paste(Image.fromarray(found[..., 0] if found.shape[2] == 1 else found, samples.mode), (0, top))
    return out


# What Pillow opens ----------------------------------------------------------------------------------------


def is_deep_gray(image: Image.Image) -> bool:
    """Whether Pillow gives a picture's values as they are stored."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def gray_to_bytes(image: Image.Image, transparent: object) -> Image.Image:
    """Bring a loaded picture of deep gray to mode L; pixels of the transparent value become white."""
    sixteen = image.mode.startswith("I;16")
    samples = Samples(
        image.size,
        lambda top, bottom: np.asarray(image.crop((0, top, image.width, bottom)))[..., None],
        declared=((0.0, 65535.0),) if sixteen else (),
        absent=(transparent,) if isinstance(transparent, int) else (),
        blank=255,
    )
    return scaled(samples)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a picture that is not loaded yet is a PNG of 16-bit colour, of which Pillow keeps the high byte only."""
    return (
        isinstance(image, PngImagePlugin.PngImageFile)
        and image.mode in ("LA", "RGB", "RGBA")
        and any(";16" in str(tile.args) for tile in image.tile)
    )


def colour_to_bytes(image: Image.Image, stream: IO[bytes]) -> Image.Image | None:
    """Bring a PNG of deep colour of which only a part of the range is used to 8 bits.

    Args:
        image: The loaded picture, of mode LA, RGB or RGBA: the high bytes.
        stream: The file, read anew by a decoder that keeps the low bytes too.

    Returns:
        A picture of mode RGB or RGBA; None where the content fills its 16 bits, so that the high bytes are what is
        wanted.
    """
    colours = range(1 if image.mode == "LA" else 3)
    counts = np.array(image.histogram()).reshape(-1, 256)[colours].sum(0)
    used, upto = np.flatnonzero(counts), counts.cumsum()
    cut = (upto[-1] - 1) // 100
    low, high = np.searchsorted(upto, (cut, upto[-1] - 1 - cut), "right")
    if high - low > 128 and np.diff(used).max() < 64:  # no value can be isolated
        return None
    import cv2

    stream.seek(0)
    found = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint16 or found.ndim != 3 or found.shape[1::-1] != image.size:
        return None
    order = [2, 1, 0, 3][: found.shape[2]]
    mode = "RGBA" if len(order) == 4 else "RGB"
    return scaled(Samples(image.size, lambda top, bottom: found[top:bottom, :, order], mode, ((0.0, 65535.0),)))


# Colour: every mode becomes RGB of 8 bits ----------------------------------------------------------------------


def transparent_colour(image: Image.Image) -> object:
    """Return the colour that a picture without alpha calls transparent, on the scale of its decoded pixels.

    Pillow scales a PNG's 2-, 4- and 16-bit samples to 8 bits but leaves the transparent colour as stored. How
    many bits there were is known only until the pixels are loaded.
    """
    colour = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    if isinstance(image, PngImagePlugin.PngImageFile) and tile:
        rawmode = tile[0][3]
        if isinstance(colour, int) and rawmode in ("L;2", "L;4"):
            return colour * (85 if rawmode == "L;2" else 17)
        if isinstance(colour, tuple) and rawmode == "RGB;16B":
            return tuple(value >> 8 for value in colour)
    return colour


def to_rgb(image: Image.Image, transparency: object) -> Image.Image:
    """Return the loaded picture in mode RGB over white: itself where it is that already, else a new one."""
    if is_deep_gray(image):
        return gray_to_bytes(image, transparency).convert("RGB")
    if image.mode in ("RGB", "L", "1", "P") and transparency is not None:
        image = image.copy()  # convert() writes the transparency into the palette of the picture it is given
        image.info["transparency"] = transparency
        image = image.convert("RGBA")
    elif image.mode in ("LA", "PA", "RGBa") or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "La":
        image = image.convert("LA").convert("RGBA")
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
