"""What every store of descriptors is (`PatchStore`), and what it is built from (`PictureStream`).

A store knows how its descriptors were made (`Recipe`) and of which pictures (`Pictures`); `PatchIndex` keeps them in an
index folder, `MilvusStore` on a server. What the stores share is here; how each keeps and searches descriptors is in
its own module.

A stream gives the descriptors of a collection too large for memory, a batch at a time. Whatever builds a store from it
may ask for any run of pictures at any time and gets the same answer each time; that is what lets a build that was
killed go on where it was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.extract import CROP
from patchify_core.features.maps import PackedMaps
from patchify_core.files import sha256_of_file
from patchify_core.imaging.filenames import picture_path
from patchify_core.index.codec.projection import Projection
from patchify_core.index.picture_table import IndexedImage, PictureTable, RowOf
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Regions

if TYPE_CHECKING:
    from patchify_core.features.maps import KeptMaps

_CHECKED_ROWS = 1 << 16
"""Pictures whose boxes are looked at together: those of a big index are mapped, and larger than memory."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """The pictures of a store, in the order of their patches.

    Attributes:
        images: N pictures; a `PictureTable` where there are very many.
        root: Folder that their file names are relative to, if it is known.
        boxes: (N, P, 4) float32 xyxy in pixels, where the regions depend on the pixels; else None.
        maps: Their feature maps; None where none are kept.

    Raises:
        ValueError: If they do not fit together.
    """

    images: Sequence[IndexedImage]
    root: Path | None = None
    boxes: NDArray[np.float32] | None = None
    maps: KeptMaps | None = None

    def __post_init__(self) -> None:
        """Checks the parts against each other; a list becomes a tuple."""
        if not isinstance(self.images, PictureTable):
            object.__setattr__(self, "images", tuple(self.images))
        if self.boxes is not None:
            whole = self.boxes.ndim == 3 and self.boxes.dtype == np.float32
            if not whole or (len(self.boxes), self.boxes.shape[2]) != (len(self.images), 4):
                raise ValueError("boxes that do not fit the pictures")
            for start in range(0, len(self.boxes), _CHECKED_ROWS):
                if not np.isfinite(self.boxes[start : start + _CHECKED_ROWS]).all():
                    raise ValueError("boxes that are no numbers")
        if self.maps is not None and len(self.maps) != len(self.images):
            raise ValueError("feature maps that do not fit the pictures")

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError unless pictures of this recipe have such boxes and maps."""
        regions = recipe.regions
        if (self.boxes is not None) != regions.needs_picture:
            raise ValueError("boxes where there should be none, or none where they are needed")
        if self.boxes is not None and self.boxes.shape[1] != regions.patches_per_image:
            raise ValueError("boxes that do not fit the regions")
        if self.maps is not None and recipe.features == CROP:
            raise ValueError("feature maps of crops, which have none")


@dataclass(frozen=True)
class Hits:
    """The best pictures for one query, best first, as parallel arrays.

    Attributes:
        rows: (K,) int64, position of the picture in `PatchStore.images`.
        scores: (K,) float32, cosine similarity of the winning patch, -1..1.
        cells: (K,) int64, the winning patch within its picture.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cells: NDArray[np.int64]

    def __getitem__(self, chosen: slice | NDArray[np.intp]) -> Hits:
        """Some of them, as one would take them from an array."""
        return Hits(self.rows[chosen], self.scores[chosen], self.cells[chosen])

    def followed_by(self, others: Hits) -> Hits:
        """These, and then others."""
        return Hits(
            np.concatenate([self.rows, others.rows]),
            np.concatenate([self.scores, others.scores]),
            np.concatenate([self.cells, others.cells]),
        )


class PatchStore(ABC):
    """Patch descriptors of a gallery and search over them.

    Args:
        recipe: How the descriptors were made and coded.
        pictures: The pictures that they describe.
        projection: Applied to every descriptor before it was coded; None for none.

    Attributes:
        recipe: As given.
        images: The pictures; a row is a position in here.
        root: Folder that the pictures' file names are relative to, if known.
        boxes: (N, P, 4) float32 xyxy in pixels where the regions depend on the pixels, else None.
        maps: The pictures' feature maps; None where none are kept.
        projection: As given.
        patches_per_image: P.

    Raises:
        ValueError: If the parts do not fit together.
    """

    def __init__(self, recipe: Recipe, pictures: Pictures, projection: Projection | None) -> None:
        pictures.check(recipe)
        recipe.check_projection(projection)
        self.recipe, self.projection = recipe, projection
        self.images: Sequence[IndexedImage] = pictures.images
        self.root, self.boxes, self.maps = pictures.root, pictures.boxes, pictures.maps
        self.patches_per_image = recipe.regions.patches_per_image

    @property
    def encoder(self) -> EncoderInfo:
        """What made the descriptors."""
        return self.recipe.encoder

    @property
    def regions(self) -> Regions:
        """Which boxes they describe."""
        return self.recipe.regions

    @property
    def features(self) -> str:
        """How a box was described, `crop` or `pooled:N`."""
        return self.recipe.features

    @property
    def factory(self) -> str:
        """How descriptors are coded, as a factory string."""
        return self.recipe.factory

    @cached_property
    def image_ids(self) -> NDArray[np.int64]:
        """(N,) gallery image ids in row order."""
        if isinstance(self.images, PictureTable):
            return self.images.ids
        return np.array([image.id for image in self.images], np.int64)

    @cached_property
    def row_of(self) -> Mapping[int, int]:
        """Row of each gallery image id."""
        if isinstance(self.images, PictureTable):
            return RowOf(self.images)
        return {image.id: row for row, image in enumerate(self.images)}

    @property
    def dim(self) -> int:
        """Dimension of the descriptors as they are compared: the projection's, or the encoder's without one."""
        return self.encoder.dim if self.projection is None else self.projection.dim

    @property
    @abstractmethod
    def bytes_per_patch(self) -> int:
        """Bytes that the descriptor of one patch takes, finer codes included."""

    @property
    def bytes_per_image(self) -> float:
        """Bytes that the descriptors of one picture take."""
        return self.patches_per_image * self.bytes_per_patch

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Brings the encoder's descriptors (N, D) into the space that is searched, (N, dim), rows of length 1."""
        return descriptors if self.projection is None else self.projection(descriptors)

    def boxes_of(self, row: int) -> NDArray[np.float64]:
        """(P, 4) xyxy pixel boxes of the patches of the picture in `row`."""
        if self.boxes is not None:
            return self.boxes[row].astype(np.float64)
        image = self.images[row]
        return self.regions.boxes(image.width, image.height)

    def box_of(self, row: int, cell: int) -> NDArray[np.float64]:
        """(4,) xyxy pixel box of one patch of the picture in `row`."""
        if self.boxes is not None:
            return self.boxes[row, cell].astype(np.float64)
        image = self.images[row]
        return self.regions.box(image.width, image.height, cell)

    @abstractmethod
    def descriptors_of(self, row: int) -> NDArray[np.float32]:
        """(P, dim) float32 descriptors of the picture in `row` as stored."""

    @abstractmethod
    def cell_scores(self, query: NDArray[np.float32], row: int) -> NDArray[np.float32]:
        """The similarities of a query with every patch of one picture.

        Args:
            query: (dim,) float32 of length 1.
            row: Position of the picture in `images`.

        Returns:
            (P,) float32 cosine similarities, about -1..1.
        """

    @abstractmethod
    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Ranks pictures by their best patch, one hit per picture.

        Args:
            query: (dim,) float32 of length 1, from `project`.
            top: Pictures wanted; all of them if None.
            level: Use only the patches of the first `level` stages of the regions (for a pyramid the grids 1x1 ..
                level x level); all of them if None.

        Returns:
            Hits in descending score, ties by ascending image id; ties within a picture go to the coarser cell.

        Raises:
            PatchifyError: If `top` is not positive, or the index has no such level, or the query does not fit.
        """

    def checked_query(self, query: NDArray[np.float32], top: int | None) -> NDArray[np.float32]:
        """The query as (dim,) float32; raises PatchifyError unless it and `top` can be searched with."""
        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        if query.size != self.dim or not np.isfinite(query).all():
            raise PatchifyError(f"The query must be {self.dim} finite numbers, as {self.encoder.spec} gives them.")
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        return query

    def checked_level(self, level: int | None) -> int:
        """The level asked for, the last one if None; raises PatchifyError if the index has no such level."""
        levels = len(self.regions.stages)
        if level is None:
            return levels
        if not 1 <= level <= levels:
            raise PatchifyError(f"This index has levels 1 to {levels} ({self.regions.spec}), not {level}.")
        return level

    def check_encoder(self, info: EncoderInfo) -> None:
        """Raises IndexFolderError unless `info` is the encoder that made this index."""
        if info != self.encoder:
            same_name = info.spec == self.encoder.spec
            other = "other weights or settings of the same encoder" if same_name else f"'{info.spec}'"
            raise IndexFolderError(
                f"This index was made with encoder '{self.encoder.spec}' and does not fit {other}: "
                f"use --encoder {self.encoder.spec} or build a new index."
            )

    def check_pictures(self, root: Path, *, content: bool = False, rows: Iterable[int] | None = None) -> None:
        """Checks that the pictures under `root` are the indexed ones.

        Args:
            root: The gallery's root.
            content: Compare digests (reads every file) instead of sizes in bytes.
            rows: Check only the pictures in these rows; all of them by default.

        Raises:
            IndexFolderError: If a picture is missing or another one than was indexed.
        """
        for row in range(len(self.images)) if rows is None else rows:
            image = self.images[row]
            path = picture_path(root, image.file_name)
            try:
                same = path.stat().st_size == image.bytes and (not content or sha256_of_file(path) == image.sha256)
            except OSError:
                raise IndexFolderError(
                    f"The index names {image.file_name}, which is not in {root}: run the index command again."
                ) from None
            if not same:
                raise IndexFolderError(
                    f"{image.file_name} in {root} is not the picture that was indexed: run the index command again."
                )

    def meta(self) -> dict[str, Any]:
        """How the descriptors were made, as plain JSON values; a store adds where they are and of what pictures."""
        return self.recipe.as_dict()


class PictureStream(ABC):
    """Pictures with the descriptors of their patches, in an order that never changes.

    Attributes:
        encoder: what made the descriptors.
        regions: what patches they describe, P per picture.
        features: how they were made (`extract.checked_features`).
        projection: what was applied to them already, or None where they are as the encoder gave them.
    """

    encoder: EncoderInfo
    regions: Regions
    features: str = "crop"
    projection: Projection | None = None

    @property
    def maps(self) -> PackedMaps | None:
        """The pictures' packed feature maps, by row; None where none are kept."""
        return None

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
