"""Extractors turn a picture and its boxes into descriptors, by one forward pass per patch or one per picture.

crop           as in the paper: each box is cropped and encoded separately (`crop`)
pooled:640     one pass over the picture with a longer side of 640 pixels; boxes are pooled from its map (`pooled`)

Descriptors of the two are never mixed: an index records its features, and queries are described in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from patchify_core.encoders.base import Encoder
from patchify_core.encoders.maps import MapEncoder, as_map_encoder
from patchify_core.errors import PatchifyError
from patchify_core.features.crop import Described, Key, describe, describe_many, in_order, map_ahead
from patchify_core.features.maps import PictureMap, pack, thumbnail
from patchify_core.features.pooled import (
    PooledSettings,
    QueryFeatures,
    describe_boxes,
    fractions,
    picture_pixels,
    query_features,
)
from patchify_core.imaging.pictures import read_picture, read_reduced

if TYPE_CHECKING:
    from PIL.Image import Image

CROP, POOLED = "crop", "pooled"


class Extractor(Protocol):
    """Makes descriptors with one encoder."""

    @property
    def spec(self) -> str:
        """Its name in an index and on the command line, e.g. `pooled:640`."""
        ...

    @property
    def encoder(self) -> Encoder:
        """The frozen encoder."""
        ...

    def read(self, data: bytes, name: str | None = None) -> tuple[Image, tuple[int, int]]:
        """Decode a picture at the size that this extractor needs.

        Args:
            data: The file's bytes.
            name: The file's name, for error messages.

        Returns:
            The upright RGB picture, possibly reduced, and its full (width, height) in pixels.

        Raises:
            PictureError: See `pictures.read_picture`.
        """
        ...

    def describe_many(self, pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]]) -> Generator[Described[Key]]:
        """Describe a stream of pictures, in order: (key, picture as `read` gave it, (P, 4) boxes in its pixels)."""
        ...

    def query_features(self, picture: Image, box: Sequence[float]) -> QueryFeatures:
        """Describe a query's box."""
        ...


def checked_features(spec: str) -> str:
    """Return the canonical form of a features spec: `crop`, or `pooled:N` (`pooled` alone is `pooled:640`).

    Raises:
        PatchifyError: If it is neither, or N is out of range.
    """
    match = re.fullmatch(r"pooled(?::(\d{1,5}))?", spec, re.ASCII)
    if spec != CROP and match is None:
        raise PatchifyError(
            f"Unknown features '{spec}': choose crop (one forward pass per patch), or pooled (one per picture; "
            "pooled:896 for a larger map)."
        )
    return CROP if match is None else f"{POOLED}:{_settings(spec).long_side}"


def _settings(spec: str) -> PooledSettings:
    side = spec.partition(":")[2]
    return PooledSettings(int(side)) if side else PooledSettings()


def load_extractor(spec: str, encoder: Encoder, keep_maps: bool = False) -> Extractor:
    """Load the extractor of a features spec.

    Args:
        spec: See `checked_features`.
        encoder: The frozen encoder.
        keep_maps: Pack each picture's feature map too (`Described.packed`).

    Raises:
        PatchifyError: If the spec is unknown, or `keep_maps` is set for crops, which have no maps.
        EncoderError: If the encoder cannot run over whole pictures.
    """
    spec = checked_features(spec)
    if spec == CROP:
        if keep_maps:
            raise PatchifyError("Crops leave no feature map to keep: add --features pooled, or leave --keep-maps out.")
        return Crops(encoder)
    return Pooled(as_map_encoder(encoder), _settings(spec), keep_maps)


class Crops:
    """One forward pass per patch; see `Extractor`."""

    spec = CROP

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def read(self, data: bytes, name: str | None = None) -> tuple[Image, tuple[int, int]]:
        """Decode at full resolution: small patches need it."""
        picture = read_picture(data, name=name)
        return picture, picture.size

    def describe_many(self, pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]]) -> Generator[Described[Key]]:
        """See `features.describe_many`."""
        return describe_many(pictures, self.encoder)

    def query_features(self, picture: Image, box: Sequence[float]) -> QueryFeatures:
        """Describe the query's box as one crop, without parts."""
        return QueryFeatures(describe(picture, box, self.encoder))


class Pooled:
    """One forward pass per picture; see `Extractor`."""

    def __init__(self, encoder: MapEncoder, settings: PooledSettings | None = None, keep_maps: bool = False) -> None:
        self.encoder, self.settings, self.keep_maps = encoder, settings or PooledSettings(), keep_maps

    @property
    def spec(self) -> str:
        """E.g. `pooled:640`."""
        return f"{POOLED}:{self.settings.long_side}"

    def read(self, data: bytes, name: str | None = None) -> tuple[Image, tuple[int, int]]:
        """Decode at least at the map's resolution; a large JPEG is decoded at a fraction of its size."""
        reduced = read_reduced(data, self.settings.long_side, name=name)
        return reduced.picture, reduced.size

    def describe_many(self, pictures: Iterable[tuple[Key, Image, NDArray[np.float64]]]) -> Generator[Described[Key]]:
        """Yield one `Described` per picture, in order; the next picture is read while the network computes."""
        readers: int = getattr(self.encoder, "readers", 0)
        yield from map_ahead(self._described, in_order(lambda picture: self._prepared(*picture), pictures, readers))

    def query_features(self, picture: Image, box: Sequence[float]) -> QueryFeatures:
        """See `pooled.query_features`."""
        return query_features(picture, box, self.encoder, self.settings)

    def picture_map(self, picture: Image) -> PictureMap:
        """Compute the feature map and the thumbnail of a picture."""
        return PictureMap(self.encoder.feature_map(self._pixels(picture)), thumbnail(picture))

    def _pixels(self, picture: Image) -> NDArray[np.uint8]:
        return picture_pixels(picture, self.encoder.stride, self.settings.long_side)

    def _prepared(self, key: Key, picture: Image, boxes: NDArray[np.float64]) -> _Prepared[Key]:
        small = thumbnail(picture) if self.keep_maps else None
        return key, self._pixels(picture), fractions(boxes, *picture.size), small

    def _described(self, prepared: _Prepared[Key]) -> Described[Key]:
        key, pixels, boxes, small = prepared
        cells = self.encoder.feature_map(pixels)
        packed = None if small is None else pack(PictureMap(cells, small))
        return Described(key, describe_boxes(cells, boxes, self.encoder), packed)


_Prepared = tuple[Key, NDArray[np.uint8], NDArray[np.float64], NDArray[np.uint8] | None]
