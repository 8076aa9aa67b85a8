"""Several selectors one after the other, as `pyramid:4+salient:10` asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.regions.base import MAX_PATCHES, Regions, Stage, check_cell, shown

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Combined:
    """The patches of every part, in order.

    Its stages are the first part's, then one for each part added to those before it: `pyramid:2+random:10`
    has `pyramid:1` (1 patch), `pyramid:2` (5) and `pyramid:2+random:10,0` (15).

    Attributes:
        parts: two or more selectors that are not combinations themselves.

    Raises:
        PatchifyError: if there are fewer than two parts, one of them twice, a combination among them, or more
            than `MAX_PATCHES` patches in all.
    """

    parts: tuple[Regions, ...]

    def __post_init__(self) -> None:
        """Refuses combinations that mean nothing or too much."""
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
        """The parts' specs with + between."""
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
