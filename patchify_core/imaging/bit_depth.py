"""Reduce pictures of more than 8 bits per channel to 8 bits, on a scale chosen from their content.

Cameras, microscopes and thermal sensors write 10 to 14 bits into 16, counts with an offset, or floats of any range, and
seldom say which. `find_scale` decides from the values, so that the same content looks the same in any file format.
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

_BAND_VALUES, _SAMPLE = 1 << 18, 1 << 19
_WHITES = (1.0, *(2.0**bits - 1 for bits in (*range(8, 17), 24, 32)))
"""Usual values of white: 1 for floats, and the largest of n bits."""

_FAR_NEGATIVE, _FAR, _VERY_FAR = 1, 3, 12
"""Distances of "no data" values from the data, in ranges of the data; see `find_scale`."""

_FEW_LEVELS = 8


@dataclass(frozen=True)
class Samples:
    """The stored values of a picture.

    Attributes:
        size: (width, height) in pixels.
        rows: Function from (top, bottom) to the values of these rows, a (bottom - top, width, channels) array.
        mode: Pillow's name of the channels: L, LA, La, RGB, RGBA, RGBa or CMYK.
        declared: Scales that the file declares, the likeliest first.
        no_data: Values that stand for "no data" or for a transparent pixel.
        no_data_level: The level of such values in the result, 0 (black) to 255.
        inverted: Whether 0 is white.
        fixed: A scale to use instead of one chosen from the content.
    """

    size: tuple[int, int]
    rows: Callable[[int, int], NDArray[Any]]
    mode: str = "L"
    declared: tuple[Scale, ...] = ()
    no_data: tuple[float, ...] = ()
    no_data_level: int = 0
    inverted: bool = False
    fixed: Scale | None = None

    def bands(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (top, values) of bands of rows, which avoids a second copy of all values."""
        rows = max(1, _BAND_VALUES // (self.size[0] * len(self.mode)))
        for top in range(0, self.size[1], rows):
            yield top, self.rows(top, min(top + rows, self.size[1]))


# Choosing the scale ---------------------------------------------------------------------------------------


def find_scale(
    bands: Iterator[NDArray[Any]],
    count: int,
    floating: bool = False,
    declared: tuple[Scale, ...] = (),
    no_data: tuple[float, ...] = (),
) -> Scale:
    """Choose which values become black and white.

    First the range of a picture's data is determined, which are its finite values except:

    - `no_data` values, and a lowest or highest value that is repeated and far from all others: by three times the range
      of these; a negative one among positive values by once that range; black beside values that reach a usual white,
      or white beside black, by twelve times, and only if it is a hundredth or more of all values. Programs write such
      values where a sensor saw nothing.
    - the darkest and brightest hundredth, if no 2 x 2 neighbours are part of it and it is further out than half the
      range of the others, as hot and dead pixels are.

    Then the first applicable scale is returned:

    1. a scale that the file declares, if the range covers at least half of it;
    2. 0 to 1 (floats) or 0 to the smallest 2^n - 1 that contains the range (n is 8 to 16, 24 or 32), if the range
       covers at least two thirds of it: 10 bits stored in 16 keep their brightness;
    3. the range itself: counts with an offset, negative values and odd units are stretched, so that any other affine
       scale of the same content gives the same picture.

    A picture of a single value uses a declared scale, or else the smallest of 0 to 1 (floats), 255 and 65535.

    Args:
        bands: The picture's values in pieces of shape (..., channels); NaN and infinities are ignored.
        count: The number of values.
        floating: Whether the values are floats.
        declared: Scales that the file declares, the likeliest first.
        no_data: Values to ignore.

    Returns:
        (low, high), low < high.
    """
    least, most, step = np.inf, -np.inf, count // _SAMPLE | 1
    samples: list[list[NDArray[np.float64]]] = [[np.empty(0)], [np.empty(0)], [np.empty(0)]]
    for band in map(np.atleast_3d, bands):
        data = _data_values(band, floating, no_data)
        if data.size:
            least, most = min(least, float(data.min())), max(most, float(data.max()))
        filtered = (band, _filter_2x2(band, np.maximum), _filter_2x2(band, np.minimum))
        for sample, values in zip(samples, filtered, strict=True):
            sample.append(_data_values(values.reshape(-1)[::step], floating, no_data).astype(np.float64))
    if not least < most:
        usual = (*declared, *((0.0, white) for white in (1.0, 255.0, 65535.0)[0 if floating else 1 :]))
        return next((scale for scale in usual if scale[0] <= most <= scale[1]), (0.0, max(most, 1.0)))
    every, dark, bright = (np.concatenate(sample) for sample in samples)
    low, high = _data_range(every, dark, bright, least, most)
    for start, end in declared:
        if start <= low and high <= end and high - low >= (end - start) / 2:
            return start, end
    white = next((white for white in _WHITES[0 if floating else 1 :] if high <= white), np.inf)
    return (0.0, white) if low >= 0 and high - low >= white * 2 / 3 else (low, high)


def _data_values(values: NDArray[Any], floating: bool, no_data: tuple[float, ...]) -> NDArray[Any]:
    if floating:
        values = values[np.isfinite(values)]
    for value in no_data:
        values = values[values != value]
    return values


def _filter_2x2(values: NDArray[Any], pick: np.ufunc) -> NDArray[Any]:
    """Return the highest (np.maximum) or lowest (np.minimum) of each 2 x 2 neighbours."""
    for axis in (0, 1):
        if values.shape[axis] > 1:
            values = pick(values[1:], values[:-1]) if axis == 0 else pick(values[:, 1:], values[:, :-1])
    return values


def _data_range(
    values: NDArray[np.float64], dark: NDArray[np.float64], bright: NDArray[np.float64], least: float, most: float
) -> Scale:
    """Return the range of the data.

    Args:
        values: A sample of all values.
        dark: A sample of the highest values of neighbours.
        bright: A sample of the lowest values of neighbours.
        least: The lowest of all values.
        most: The highest of all values.
    """
    ordered = np.sort(values)
    first, last = _data_slice(ordered)
    least = float(ordered[first]) if first else least
    most = float(ordered[last - 1]) if last < len(ordered) else most
    low, high = _quantiles(ordered[first:last], 100)
    low = min(low, dark[dark >= least].min(initial=low))
    high = max(high, bright[bright <= most].max(initial=high))
    if low == high:
        return least, most
    reach = (high - low) / 2
    thousandth = _quantiles(ordered[first:last], 1000)
    return (
        min((edge for edge in (thousandth[0], least) if low - edge <= reach), default=low),
        max((edge for edge in (thousandth[1], most) if edge - high <= reach), default=high),
    )


def _data_slice(ordered: NDArray[np.float64]) -> tuple[int, int]:
    """Return where the data begin and end in sorted values, without a lowest and a highest "no data" value."""
    count = len(ordered)
    first = int(np.searchsorted(ordered, ordered[0], "right"))
    last = int(np.searchsorted(ordered, ordered[-1], "left"))
    for start, end in ((first, last), (first, count), (0, last)):
        rest = ordered[start:end]
        if len(set(rest[:: len(rest) // 1000 + 1].tolist())) < _FEW_LEVELS:
            continue
        if (not start or _is_no_data(ordered[0], start, rest)) and (
            end == count or _is_no_data(ordered[-1], count - end, rest)
        ):
            return start, end
    return 0, count


def _is_no_data(value: float, occurrences: int, rest: NDArray[np.float64]) -> bool:
    """Return whether a lowest or highest value stands for "no data", given the other values in order."""
    low, high = _quantiles(rest, 100)
    distance = max(rest[0] - value, value - rest[-1]) / (high - low) if high > low else 0.0
    if value < 0 <= rest[0]:
        return occurrences > 1 and distance > _FAR_NEGATIVE
    bottom, top = min(value, rest[0]), max(value, rest[-1])
    white = next((white for white in _WHITES if top <= white), np.inf)
    if bottom >= 0 and top >= 0.9 * white and bottom <= 0.05 * white:  # black lines, or lamps
        return occurrences > (occurrences + len(rest)) / 100 and distance > _VERY_FAR
    return occurrences > 1 and distance > _FAR


def _quantiles(ordered: NDArray[Any], part: int) -> Scale:
    """Return the values at which the lowest and the highest 1/part of sorted values end."""
    cut = (len(ordered) - 1) // part
    return float(ordered[cut]), float(ordered[-1 - cut])


# Conversion to 8 bits -------------------------------------------------------------------------------------


def to_bytes(values: NDArray[Any], scale: Scale) -> NDArray[np.uint8]:
    """Map values to 0..255, rounded and clipped; NaN becomes 0."""
    if values.dtype == np.uint16 and values.size > 65_536:
        return _lookup_table(scale)[values]
    low, high = scale
    values = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num(np.clip(np.rint((values - low) * (255.0 / (high - low))), 0, 255)).astype(np.uint8)


def _replace_defects(levels: NDArray[np.uint8], values: NDArray[Any], scale: Scale) -> NDArray[np.uint8]:
    """Replace single pixels far out of range (hot and dead ones) by a neighbour, as cameras do."""
    reach = (scale[1] - scale[0]) / 2
    out = (values < scale[0] - reach) | (values > scale[1] + reach)
    if levels.shape[1] < 2 or not out.any():
        return levels
    single = out.copy()
    single[:, 1:] &= ~out[:, :-1]
    single[:, :-1] &= ~out[:, 1:]
    return np.where(single, np.concatenate([levels[:, 1:2], levels[:, :-1]], 1), levels)


@lru_cache(2)
def _lookup_table(scale: Scale) -> NDArray[np.uint8]:
    return to_bytes(np.arange(65_536.0), scale)


def to_8_bit(samples: Samples) -> Image.Image:
    """Convert a picture to 8 bits with one scale for all colours; single pixels far out of it count as defects.

    Returns:
        A picture of the samples' mode.
    """
    colours = {"L": 1, "R": 3, "C": 4}[samples.mode[0]]
    scale, opaque = samples.fixed, 0.0
    floating = samples.rows(0, 1).dtype.kind == "f"
    if scale is None:
        scale = find_scale(
            (values[..., :colours] for _, values in samples.bands()),
            samples.size[0] * samples.size[1] * colours,
            floating,
            samples.declared,
            samples.no_data,
        )
    if len(samples.mode) > colours:
        most = max(float(np.nanmax(values[..., colours], initial=0)) for _, values in samples.bands())
        opaque = next((white for white in _WHITES[0 if floating else 1 :] if most <= white), most)
    out = Image.new(samples.mode, samples.size)
    for top, values in samples.bands():
        # Pillow keeps the high bytes of a colour PNG that fills its 16 bits; the same picture as TIFF looks the same.
        high_bytes = scale == (0.0, 65535.0) and values.shape[2] > 1 and values.dtype == np.uint16
        levels = (values >> 8).astype(np.uint8) if high_bytes else to_bytes(values, scale)
        levels[..., :colours] = _replace_defects(levels[..., :colours], values[..., :colours], scale)
        if opaque:
            levels[..., colours] = to_bytes(values[..., colours], (0.0, opaque))
        if samples.inverted:
            levels[..., :colours] = 255 - levels[..., :colours]
        for value in samples.no_data:
            levels[..., :colours][values[..., :colours] == value] = samples.no_data_level
        out.paste(Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels, samples.mode), (0, top))
    return out


# Pictures that Pillow opens -------------------------------------------------------------------------------


def is_deep_gray(image: Image.Image) -> bool:
    """Return whether Pillow gives a gray picture's values as they are stored, in more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def deep_gray_to_8_bit(image: Image.Image, transparent: object) -> Image.Image:
    """Convert a loaded picture of deep gray to mode L; pixels of the transparent value become white."""
    sixteen = image.mode.startswith("I;16")
    samples = Samples(
        image.size,
        lambda top, bottom: np.asarray(image.crop((0, top, image.width, bottom)))[..., None],
        declared=((0.0, 65535.0),) if sixteen else (),
        no_data=(transparent,) if isinstance(transparent, int) else (),
        no_data_level=255,
    )
    return to_8_bit(samples)


def is_deep_png(image: Image.Image) -> bool:
    """Return whether a picture, not loaded yet, is a PNG of 16-bit colour, of which Pillow keeps only the high byte."""
    return (
        isinstance(image, PngImagePlugin.PngImageFile)
        and image.mode in ("LA", "RGB", "RGBA")
        and any(";16" in str(tile.args) for tile in image.tile)
    )


def deep_png_to_8_bit(image: Image.Image, stream: IO[bytes]) -> Image.Image | None:
    """Convert a PNG of 16-bit colour that uses only a part of its range to 8 bits.

    Args:
        image: The loaded picture, of mode LA, RGB or RGBA: the high bytes.
        stream: The file, which is decoded again with OpenCV to obtain the low bytes too.

    Returns:
        A picture of mode RGB or RGBA; None if the content fills its 16 bits, so that the high bytes suffice.
    """
    colours = range(1 if image.mode == "LA" else 3)
    counts = np.array(image.histogram()).reshape(-1, 256)[colours].sum(0)
    used, cumulative = np.flatnonzero(counts), counts.cumsum()
    cut = (cumulative[-1] - 1) // 100
    low, high = np.searchsorted(cumulative, (cut, cumulative[-1] - 1 - cut), "right")
    if high - low > 128 and np.diff(used).max() < 64:  # no value can be isolated
        return None
    import cv2

    stream.seek(0)
    pixels = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[1::-1] != image.size:
        return None
    order = [2, 1, 0, 3][: pixels.shape[2]]
    mode = "RGBA" if len(order) == 4 else "RGB"
    return to_8_bit(Samples(image.size, lambda top, bottom: pixels[top:bottom, :, order], mode, ((0.0, 65535.0),)))
