"""The interface of every store of descriptors, and of the streams that stores are built from.

`PatchStore` knows how its descriptors were made (`Recipe`) and which pictures they describe (`Pictures`). `PatchIndex`
keeps descriptors in an index folder, `MilvusStore` on a server.

`PictureStream` reads descriptors in batches, for collections that do not fit in memory. Any range can be read at any
time and is the same each time, so that an interrupted build can resume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.maps import PackedMaps
from patchify_core.files import sha256_of_file
from patchify_core.imaging.filenames import picture_path
from patchify_core.index.codec.projection import Projection
from patchify_core.index.pictures import IndexedImage, Pictures, PictureTable, RowOf
from patchify_core.index.recipe import Recipe
from patchify_core.regions import Regions


@dataclass(frozen=True)
class Hits:
    """The ranking of one query, best picture first, as parallel arrays.

    Attributes:
        rows: (K,) int64, position of the picture in `PatchStore.images`.
        scores: (K,) float32, cosine similarity of the picture's best patch, -1..1.
        cells: (K,) int64, number of that patch within its picture.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    cells: NDArray[np.int64]

    def __getitem__(self, selected: slice | NDArray[np.intp]) -> Hits:
        """Select hits, as from an array."""
        return Hits(self.rows[selected], self.scores[selected], self.cells[selected])

    def followed_by(self, others: Hits) -> Hits:
        """Concatenate two rankings."""
        return Hits(
            np.concatenate([self.rows, others.rows]),
            np.concatenate([self.scores, others.scores]),
            np.concatenate([self.cells, others.cells]),
        )


class PatchStore(ABC):
    """Patch descriptors of a gallery, and search over them.

    Args:
        recipe: How the descriptors were made and coded.
        pictures: The pictures that they describe.
        projection: Applied to every descriptor before it was coded; None for none.

    Attributes:
        images: The pictures; a row is a position in here.
        root: Folder that the pictures' file names are relative to, if known.
        boxes: (N, P, 4) float32 xyxy in pixels where the regions depend on the pixels, else None.
        maps: The pictures' feature maps, or None.
        patches_per_image: P.

    Raises:
        ValueError: The parts do not fit together.
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
        """The encoder that made the descriptors."""
        return self.recipe.encoder

    @property
    def regions(self) -> Regions:
        """The boxes that the descriptors describe."""
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
        """Bytes per patch descriptor, finer codes included."""

    @property
    def bytes_per_image(self) -> float:
        """Bytes of one picture's descriptors."""
        return self.patches_per_image * self.bytes_per_patch

    def project(self, descriptors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Project encoder descriptors (N, D) into the space that is searched, (N, dim), rows of length 1."""
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
        """Compare a query with every patch of one picture.

        Args:
            query: (dim,) float32 of length 1.
            row: Position of the picture in `images`.

        Returns:
            (P,) float32 cosine similarities, about -1..1.
        """

    @abstractmethod
    def search(self, query: NDArray[np.float32], top: int | None = None, level: int | None = None) -> Hits:
        """Rank pictures by their best patch, one hit per picture.

        Args:
            query: (dim,) float32 of length 1, from `project`.
            top: Number of pictures to return; all of them if None.
            level: Use only the patches of the first `level` stages of the regions (for a pyramid the grids 1x1 ..
                level x level); all of them if None.

        Returns:
            Hits in descending score, ties by ascending image id; ties within a picture go to the coarser cell.

        Raises:
            PatchifyError: `top` is not positive, or the index has no such level, or the query does not fit.
        """

    def checked_query(self, query: NDArray[np.float32], top: int | None) -> NDArray[np.float32]:
        """Return the query as (dim,) float32; raise PatchifyError if it or `top` is invalid."""
        query = np.ascontiguousarray(query, np.float32).reshape(-1)
        if query.size != self.dim or not np.isfinite(query).all():
            raise PatchifyError(f"The query must be {self.dim} finite numbers, as {self.encoder.spec} gives them.")
        if top is not None and top < 1:
            raise PatchifyError(f"Ask for at least 1 result, not {top}.")
        return query

    def checked_level(self, level: int | None) -> int:
        """Return the level, the last one if None; raise PatchifyError if the index does not have it."""
        levels = len(self.regions.stages)
        if level is None:
            return levels
        if not 1 <= level <= levels:
            raise PatchifyError(f"This index has levels 1 to {levels} ({self.regions.spec}), not {level}.")
        return level

    def check_encoder(self, info: EncoderInfo) -> None:
        """Raise IndexFolderError unless `info` is the encoder that made this index."""
        if info != self.encoder:
            same_name = info.spec == self.encoder.spec
            other = "other weights or settings of the same encoder" if same_name else f"'{info.spec}'"
            raise IndexFolderError(
                f"This index was made with encoder '{self.encoder.spec}' and does not fit {other}: "
                f"use --encoder {self.encoder.spec} or build a new index."
            )

    def check_pictures(self, root: Path, *, content: bool = False, rows: Iterable[int] | None = None) -> None:
        """Check that the pictures under `root` are the indexed ones.

        Args:
            root: The gallery's root.
            content: Compare digests (reads every file) instead of sizes in bytes.
            rows: Check only the pictures in these rows; all of them by default.

        Raises:
            IndexFolderError: A picture is missing or has changed since it was indexed.
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
        """How the descriptors were made, as plain JSON values; subclasses add where they are stored."""
        return self.recipe.as_dict()


class PictureStream(ABC):
    """Pictures with their patch descriptors, in a fixed order.

    Attributes:
        recipe: How the descriptors were made, before any coding.
        projection: Already applied to the descriptors; None if they are the encoder's own.
    """

    recipe: Recipe
    projection: Projection | None = None

    @property
    def encoder(self) -> EncoderInfo:
        """The encoder that made the descriptors."""
        return self.recipe.encoder

    @property
    def regions(self) -> Regions:
        """The patches that the descriptors describe, P per picture."""
        return self.recipe.regions

    @property
    def maps(self) -> PackedMaps | None:
        """The stream itself if it has feature maps, else None."""
        return self if self.recipe.maps else None

    def packed(self, row: int) -> bytes:
        """Read the packed feature map of one picture, if `recipe.maps`."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """D of the streamed descriptors: the projection's, or the encoder's without one."""
        return self.encoder.dim if self.projection is None else self.projection.dim

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of pictures."""

    @abstractmethod
    def batch(self, start: int, stop: int) -> tuple[PictureTable, NDArray[np.float32]]:
        """Read the pictures start..stop-1; every call with the same range returns the same values.

        Args:
            start: First picture, from 0.
            stop: One past the last, at most `len`.

        Returns:
            The pictures, and their (stop - start, P, `dim`) float32 descriptors, rows of length 1.
        """

    def pictures(self, start: int, stop: int) -> PictureTable:
        """Read the pictures start..stop-1 without their descriptors."""
        return self.batch(start, stop)[0]

    def boxes(self, start: int, stop: int) -> NDArray[np.float32]:
        """Read the (stop - start, P, 4) float32 xyxy pixel boxes, where the regions depend on the pixels.

        Raises:
            PatchifyError: The stream has no boxes.
        """
        raise PatchifyError(
            f"The boxes of {self.regions.spec} depend on the pixels, and this collection has none: embed its pictures "
            "again, or choose regions such as pyramid:4."
        )

    def check_boxes(self) -> None:
        """Raise PatchifyError, before any work, if the regions need boxes and the stream has none."""
        if self.regions.needs_picture and len(self):
            self.boxes(0, 1)
