"""The values of one COCO entry, checked: numbers as tools write them, boxes and masks."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import GalleryError
from patchify_core.gallery.model import is_text


class EntryError(Exception):
    """What is wrong with one entry, as the rest of a sentence about it; collected by the reader, never seen outside."""


class NoAreaError(EntryError):
    """A box that has no area inside its picture."""


def whole(entry: dict[str, Any], key: str, least: int | None = None) -> int:
    """Return a whole number; `1.0` and `"1"`, which pandas and other tools write, are 1.

    Raises:
        EntryError: There is none, it is no whole number, or less than `least`.
    """
    if key not in entry:
        raise EntryError(f"has no {key!r}")
    value = as_whole(entry[key])
    if value is None or (least is not None and value < least):
        kind = "a whole number" if least is None else f"a whole number from {least} up"
        raise EntryError(f"has {key} {reprlib.repr(entry[key])}, which is not {kind}")
    return value


def as_whole(value: object) -> int | None:
    """Return a value as a whole number that fits 64 bits; None if it is none."""
    number = _number(value)
    if number is None or (isinstance(number, float) and not number.is_integer()):
        return None
    return int(number) if abs(number) < 2**63 else None


def label(entry: dict[str, Any], key: str, instead: str) -> str:
    """Return a text, or a number as one; `instead` where it is absent, null or empty.

    Raises:
        EntryError: It is neither.
    """
    value = entry.get(key)
    if value is None or value == "":
        return instead
    return str(value) if type(value) in (int, float) else text(entry, key)


def text(entry: dict[str, Any], key: str) -> str:
    """Return a text that is not empty.

    Raises:
        EntryError: There is none.
    """
    if key not in entry:
        raise EntryError(f"has no {key!r}")
    value = entry[key]
    if not isinstance(value, str) or not value or not is_text(value):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is not text")
    return value


def flag(entry: dict[str, Any], key: str) -> bool:
    """Return a flag, False where it is absent or null.

    Raises:
        EntryError: It is neither 0 nor 1.
    """
    value = entry.get(key)
    number = 0 if value is None else int(value) if isinstance(value, bool) else as_whole(value)
    if number not in (0, 1):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is neither 0 nor 1")
    return number == 1


def share(entry: dict[str, Any], key: str) -> float:
    """Return a number 0..1, NaN where it is absent or null.

    Raises:
        EntryError: It is no such number.
    """
    value = entry.get(key)
    number = _number(value)
    if value is not None and (number is None or not 0 <= number <= 1):
        raise EntryError(f"has {key} {reprlib.repr(value)}, which is not between 0 and 1")
    return float("nan") if number is None else float(number)


def box_as_written(bbox: object) -> NDArray[np.float64] | None:
    """Turn `bbox` [x, y, w, h] into (4,) float64 xyxy, not compared with its picture; None for none (null or []).

    Raises:
        EntryError: It is not four numbers.
    """
    if bbox is None or bbox == []:
        return None
    numbers = [_number(value) for value in bbox] if isinstance(bbox, list) and len(bbox) == 4 else [None]
    if any(number is None or abs(number) >= 1e15 for number in numbers):
        raise EntryError(f"has a bbox that is not four numbers [x, y, w, h]: {reprlib.repr(bbox)}")
    x, y, width, height = map(float, numbers)  # type: ignore[arg-type]
    return np.array([x, y, x + width, y + height])


def clipped(box: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Cut a box (4,) xyxy off at the edges of its picture, (width, height) in pixels.

    Raises:
        NoAreaError: Nothing is left of it, or it had no area.
    """
    cut = np.clip(box, 0, [*size, *size])
    if (cut[2:] <= cut[:2]).any():
        x, y, right, bottom = box.tolist()
        raise NoAreaError(
            f"has a box without area in its picture of {size[0]} × {size[1]} pixels: "
            f"{[round(value, 6) for value in (x, y, right - x, bottom - y)]}"
        )
    return cut


def box_of_mask(segmentation: object, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return the box around a COCO segmentation.

    Args:
        segmentation: Polygons ([[x, y, x, y, ...], ...], or one of them), or a run-length code ({"size": [height,
            width], "counts": numbers or COCO's compressed text}).
        size: (width, height) of the picture in pixels.

    Returns:
        (4,) float64 xyxy in whole pixels; None where there is no segmentation (absent, empty).

    Raises:
        EntryError: It is no segmentation, or one of a picture of another size.
        NoAreaError: No pixel is in it.
    """
    if not segmentation or segmentation == [[]]:
        return None
    try:
        from pycocotools import mask
    except ImportError:
        raise GalleryError(
            "Reading segmentations needs pycocotools: install it with pip install -r requirements.txt."
        ) from None
    width, height = size
    if isinstance(segmentation, dict):
        shapes: Any = {"size": [height, width], "counts": _counts(segmentation, size)}
        if isinstance(shapes["counts"], list):
            shapes = mask.frPyObjects(shapes, height, width)
    else:
        shapes = mask.merge(mask.frPyObjects(_polygons(segmentation), height, width))
    try:
        mask.decode(shapes)  # refuses codes of more or fewer pixels, which toBbox does not
    except ValueError as error:
        raise EntryError("has a segmentation whose run-length code is damaged") from error
    if not mask.area(shapes):
        raise NoAreaError("has a segmentation without a pixel in its picture")
    x, y, across, down = mask.toBbox(shapes).tolist()
    if x + across > width or y + down > height:
        raise EntryError("has a segmentation whose run-length code is damaged")
    return np.array([x, y, x + across, y + down])


def _polygons(segmentation: object) -> list[list[float]]:
    """The polygons of a segmentation; those of fewer than three points do not count beside others."""
    shapes: list[Any] = (
        segmentation if isinstance(segmentation, list) and isinstance(segmentation[0], list) else [segmentation]
    )
    if all(isinstance(shape, list) and len(shape) == 2 for shape in shapes):
        shapes = [[value for point in shapes for value in point]]  # one polygon as a list of points
    proper = [shape for shape in shapes if not isinstance(shape, list) or len(shape) >= 6]
    return [_polygon(shape) for shape in proper or shapes]


def _polygon(points: object) -> list[float]:
    # Four numbers would be read as a box by pycocotools.
    numbers = [_number(value) for value in points] if isinstance(points, list) else [None]
    if len(numbers) < 6 or len(numbers) % 2 or any(number is None or abs(number) > 1e6 for number in numbers):
        raise EntryError(f"has a segmentation that is no polygon [x, y, x, y, x, y, ...]: {reprlib.repr(points)}")
    return [float(number) for number in numbers if number is not None]


def _counts(code: dict[str, Any], size: tuple[int, int]) -> list[int] | bytes:
    """The counts of a run-length code, checked, because pycocotools' C code believes them."""
    shape, counts = code.get("size"), code.get("counts")
    said = [as_whole(value) for value in shape] if isinstance(shape, list) else []
    if said != [size[1], size[0]]:
        raise EntryError(
            f"has a segmentation of size {reprlib.repr(shape)} (height, width), but its picture is "
            f"[{size[1]}, {size[0]}]"
        )
    if isinstance(counts, list):
        runs = [as_whole(value) for value in counts]
        if all(run is not None and run >= 0 for run in runs) and sum(filter(None, runs)) == size[0] * size[1]:
            return [run for run in runs if run is not None]
    elif isinstance(counts, str) and counts and all("0" <= char <= "o" for char in counts):
        # 6 bits a character, the sixth of which says that the number goes on: not at the end
        if not (ord(counts[-1]) - 48) & 0x20:
            return counts.encode()
    raise EntryError("has a segmentation whose run-length code is damaged")


def _number(value: object) -> int | float | None:
    """A finite number, also where it is written as text; None for anything else, booleans among it."""
    if isinstance(value, str) and value.strip().isascii() and len(value) < 64 and "_" not in value:
        try:
            value = int(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if type(value) is int:
        return value
    return value if type(value) is float and abs(value) < float("inf") else None
