"""Strict parser of region specs such as `pyramid:4+random:10,7`, with helpful errors."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, Regions, Stage, check_cell, shown
from patchify_core.regions.grids import MAX_LEVELS, Pyramid, Random, Sliding
from patchify_core.regions.salient import Salient

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class _Form:
    """Syntax of one selector: its form in messages, its numbers, and how many of them are optional."""

    text: str
    make: Callable[..., Regions]
    numbers: tuple[Callable[[str], float], ...]
    optional: int = 0


def _whole(text: str) -> int:
    """Parse ASCII digits only: no sign, no exponent; bounded length, as int() is."""
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError
    return int(text)


def _decimal(text: str) -> float:
    """Parse ASCII digits with an optional decimal point; the maximum length fits the smallest float."""
    if len(text) > 400 or not re.fullmatch(r"[0-9]+(\.[0-9]+)?|\.[0-9]+", text):
        raise ValueError
    return float(text)


_FORMS = {
    "pyramid": _Form(f"pyramid:N (N from 1, the whole picture only, to {MAX_LEVELS})", Pyramid, (_whole,)),
    "sliding": _Form("sliding:SCALE,OVERLAP (as in sliding:0.4,0.5)", Sliding, (_decimal, _decimal)),
    "random": _Form("random:N or random:N,SEED", Random, (_whole, _whole), optional=1),
    "salient": _Form("salient:N", Salient, (_whole,)),
}

FORMS = ", ".join(form.text for form in _FORMS.values())
"""The syntax, for help texts: `pyramid:N (...), sliding:SCALE,OVERLAP (...), ...`."""


def parse_regions(spec: str) -> Regions:
    """Parse a region spec such as `pyramid:4`, `sliding:0.4,0.5`, `random:30,7` or several joined by `+`.

    White space around parts and numbers is ignored, and numbers are normalised: `1.0` is `1`.

    Args:
        spec: The spec.

    Returns:
        The selector, whose own `spec` is the canonical form.

    Raises:
        PatchifyError: If a selector is unknown, or a number malformed or out of range.

    Example:
        >>> parse_regions(" pyramid:2 + random:10").spec
        'pyramid:2+random:10,0'
    """
    parts = [_part(text.strip(), spec) for text in spec.split("+")]
    return parts[0] if len(parts) == 1 else Combined(tuple(parts))


def _part(text: str, spec: str) -> Regions:
    name, colon, rest = (piece.strip() for piece in text.partition(":"))
    form = _FORMS.get(name)
    if form is None:
        whose = f" in '{shown(spec)}'" if text != spec.strip() else ""
        near = difflib.get_close_matches(name.lower(), _FORMS, n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise PatchifyError(f"Unknown regions '{shown(text)}'{whose}{guess}: write {FORMS}, or several with + between.")
    texts = [piece.strip() for piece in rest.split(",")] if colon else []
    try:
        if not len(form.numbers) - form.optional <= len(texts) <= len(form.numbers):
            raise ValueError
        numbers = [read(piece) for read, piece in zip(form.numbers, texts, strict=False)]
    except ValueError:
        raise PatchifyError(f"The regions '{shown(text)}' cannot be read: write {form.text}.") from None
    return form.make(*numbers)


# Several selectors one after the other -------------------------------------------------------------------------


@dataclass(frozen=True)
class Combined:
    """The patches of several selectors, in order.

    Its stages are those of the first part, then one for each further part: `pyramid:2+random:10`
    has `pyramid:1` (1 patch), `pyramid:2` (5) and `pyramid:2+random:10,0` (15).

    Attributes:
        parts: Two or more selectors, none of them a combination.

    Raises:
        PatchifyError: If there are fewer than two parts, duplicates, combinations among them, or more than
            `MAX_PATCHES` patches in all.
    """

    parts: tuple[Regions, ...]

    def __post_init__(self) -> None:
        """Validate the parts."""
        object.__setattr__(self, "parts", tuple(self.parts))  # a list would make it unhashable
        if len(self.parts) < 2 or any(isinstance(part, Combined) for part in self.parts):
            raise PatchifyError(
                f"A combination of regions needs two or more single ones and has {len(self.parts)}: "
                "write them with + between, as in pyramid:4+salient:10."
            )
        specs = [part.spec for part in self.parts]
        twice = next((spec for spec in specs if specs.count(spec) > 1), None)
        if twice is not None:
            raise PatchifyError(f"{shown(self.spec)} names {twice} more than once: name it once.")
        if self.patches_per_image > MAX_PATCHES:
            raise PatchifyError(
                f"{shown(self.spec)} cuts a picture into {self.patches_per_image} patches and {MAX_PATCHES} is the "
                "most: ask for fewer."
            )

    @property
    def spec(self) -> str:
        """The parts' specs, joined by `+`."""
        return "+".join(part.spec for part in self.parts)

    @property
    def patches_per_image(self) -> int:
        """The sum over the parts."""
        return sum(part.patches_per_image for part in self.parts)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The first part's stages, then one for each part added."""
        stages = list(self.parts[0].stages)
        for part in self.parts[1:]:
            before = stages[-1]
            stages.append(Stage(f"{before.spec}+{part.spec}", before.patches + part.patches_per_image))
        return tuple(stages)

    @property
    def needs_picture(self) -> bool:
        """Whether any part's boxes depend on the pixels."""
        return any(part.needs_picture for part in self.parts)

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """(P, 4) float64 xyxy in pixels; see `Regions.boxes`."""
        return np.concatenate([part.boxes(width, height) for part in self.parts])

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """(P, 4) float64 xyxy in pixels; see `Regions.boxes_in`."""
        return np.concatenate([part.boxes_in(picture) for part in self.parts])

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """(4,) float64 xyxy in pixels; see `Regions.box`. Only this box may not depend on the pixels."""
        check_cell(cell, self.patches_per_image)
        for part in self.parts:
            if cell < part.patches_per_image:
                return part.box(width, height, cell)
            cell -= part.patches_per_image
        raise AssertionError("the cell was checked")
