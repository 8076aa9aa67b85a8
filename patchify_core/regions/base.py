"""The region selector interface: a rule that turns a picture into a fixed number of boxes in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PATCHES = 1000
"""Maximum patches per picture. Each costs a forward pass and a descriptor; a larger number is probably a typo."""


@dataclass(frozen=True)
class Stage:
    """A prefix of the patches that is a selection of its own, so that one index serves several selections.

    Attributes:
        spec: The selector of these patches, e.g. `pyramid:2`.
        patches: Length of the prefix, at least 1.
    """

    spec: str
    patches: int


class Regions(Protocol):
    """A region selector: a frozen, hashable value; selectors with equal specs are equal.

    Boxes are float64 xyxy in pixels of the upright picture, not rounded, inside it and of positive area, even for a
    picture of one pixel.
    """

    @property
    def spec(self) -> str:
        """The canonical spec; `parse_regions(spec) == self`."""
        ...

    @property
    def patches_per_image(self) -> int:
        """P, the number of boxes per picture, 1..`MAX_PATCHES`."""
        ...

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Prefixes that are selections of their own, in growing order; the last is the whole selection."""
        ...

    @property
    def needs_picture(self) -> bool:
        """Whether boxes depend on the pixels, so that an index must store them."""
        ...

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """Return the boxes of any picture of this size, (P, 4).

        Args:
            width: Picture width in pixels, at least 1.
            height: Picture height in pixels, at least 1.

        Raises:
            PatchifyError: If the boxes depend on the pixels (`needs_picture`).
        """
        ...

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """Return the boxes of this picture, (P, 4); works for every selector.

        Args:
            picture: Upright RGB picture.
        """
        ...

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """Return one row of `boxes`, (4,), without the others: a ranking needs one per picture.

        Args:
            width: Picture width in pixels, at least 1.
            height: Picture height in pixels, at least 1.
            cell: The patch's number within its picture, 0..P-1.

        Raises:
            PatchifyError: If this box depends on the pixels.
            IndexError: If there is no such patch.
        """
        ...


def boxes_for(
    regions: Regions, picture: Image, size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """Return the boxes to crop from a picture, which may be decoded at reduced size, and the boxes to store.

    Args:
        regions: The region selector.
        picture: Upright RGB picture, possibly reduced.
        size: (width, height) of the whole picture in pixels.

    Returns:
        (P, 4) xyxy in pixels of `picture`; and (P, 4) in full-size pixels, or None if the boxes depend on the size
        only.
    """
    boxes = regions.boxes_in(picture)
    if not regions.needs_picture:
        return boxes, None
    return boxes, (boxes * np.array([size[0] / picture.width, size[1] / picture.height] * 2)).astype(np.float32)


def shown(spec: str) -> str:
    """Shorten a very long spec for error messages."""
    return spec if len(spec) <= 60 else f"{spec[:57]}…"


def check_cell(cell: int, patches: int) -> None:
    """Raise for an invalid patch number; a negative one would count from the end.

    Raises:
        IndexError: If `cell` is not in 0..patches-1.
    """
    if not 0 <= cell < patches:
        raise IndexError(f"patch {cell} of a picture that has {patches}")


class RelativeRegions:
    """A selector whose boxes are the same fractions of every picture. Subclasses define `spec` and `relative`."""

    @property
    def spec(self) -> str:
        """See `Regions.spec`."""
        raise NotImplementedError

    @property
    def relative(self) -> NDArray[np.float64]:
        """(P, 4) float64 xyxy as fractions of the picture's sides, in 0..1; cached, read-only."""
        raise NotImplementedError

    @property
    def patches_per_image(self) -> int:
        """See `Regions.patches_per_image`."""
        return len(self.relative)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """One stage: the whole selection."""
        return (Stage(self.spec, self.patches_per_image),)

    @property
    def needs_picture(self) -> bool:
        """False: only the picture's size counts."""
        return False

    def boxes(self, width: int, height: int) -> NDArray[np.float64]:
        """(P, 4) float64 xyxy in pixels; see `Regions.boxes`."""
        return self.relative * (width, height, width, height)

    def boxes_in(self, picture: Image) -> NDArray[np.float64]:
        """`boxes` of the picture's size."""
        return self.boxes(*picture.size)

    def box(self, width: int, height: int, cell: int) -> NDArray[np.float64]:
        """One row of `boxes`, (4,); see `Regions.box`."""
        check_cell(cell, self.patches_per_image)
        return self.relative[cell] * (width, height, width, height)
