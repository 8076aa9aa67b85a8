"""Descriptors of a collection too large for memory, a batch at a time: what every large store is built from.

Whatever builds a store from a `PictureStream` may ask for any run of pictures at any time and gets the same answer each
time; that is what lets a build that was killed go on where it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import PatchifyError
from patchify_core.features.maps import PackedMaps
from patchify_core.index.codec.projection import Projection
from patchify_core.index.picture_table import PictureTable
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Regions


class PictureStream(ABC):
    """Pictures with the descriptors of their patches, in an order that never changes.

    Attributes:
        encoder: what made the descriptors.
        regions: what patches they describe, P a picture.
        features: how they were made (`extract.checked_features`).
        projection: what was applied to them already, or None where they are as the encoder gave them.
        maps: the pictures' packed feature maps, by row; None where none are kept.
    """

    encoder: EncoderInfo
    regions: Regions
    features: str = "crop"
    projection: Projection | None = None
    maps: PackedMaps | None = None

    @property
    def recipe(self) -> Recipe:
        """How the descriptors were made; nothing is coded yet."""
        return Recipe(self.encoder, self.regions, self.features, maps=self.maps is not None)

    @property
    def dim(self) -> int:
        """D, of the descriptors as the stream gives them: the projection's, or the encoder's without one."""
        return self.encoder.dim if self.projection is None else self.projection.dim

    @abstractmethod
    def __len__(self) -> int:
        """How many pictures there are."""

    @abstractmethod
    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """The pictures start..stop-1, the same each time.

        Args:
            start: first picture, from 0.
            stop: one past the last, at most `len`.

        Returns:
            The pictures, and (stop - start, P, D) float32 descriptors with rows of length 1; D is the projection's
            dimension, or the encoder's without one.
        """

    def pictures(self, start: int, stop: int) -> PictureTable:
        """The pictures start..stop-1 without their descriptors."""
        return self.batch(start, stop)[0]

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """(stop - start, P, 4) float32 xyxy in pixels, where the regions depend on the pixels.

        Raises:
            PatchifyError: if this stream has none.
        """
        raise PatchifyError(
            f"The boxes of {self.regions.spec} depend on the pixels, and this collection has none: embed its pictures "
            "again, or choose regions such as pyramid:4."
        )

    def check_boxes(self) -> None:
        """Raises PatchifyError, before any work, if the regions need boxes and there are none."""
        if self.regions.needs_picture and len(self):
            self.boxes(0, 1)
