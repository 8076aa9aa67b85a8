"""Recipe: how descriptors were made and coded, which must be equal for all descriptors of an index.

Every store, shard folder and unfinished build stores its recipe as JSON. Recipes are compared here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar, cast

from patchify_core.encoders.base import EncoderInfo
from patchify_core.errors import IndexFolderError, PatchifyError
from patchify_core.features.extract import CROP, checked_features
from patchify_core.index.codec.codes import CodeSettings
from patchify_core.index.codec.factory import parse_factory
from patchify_core.index.codec.projection import Projection
from patchify_core.regions import Regions, parse_regions

Record = TypeVar("Record")

MAPS_NAME = "maps.bin"
"""File of an index folder with feature maps; `meta.json` lists it if they are stored."""

DESCRIPTORS = ("encoder", "regions", "features")
CODES = ("factory", "codebook", "rescore")
EVERYTHING = (*DESCRIPTORS, *CODES, "maps")

OTHER_INDEX = "choose another folder for the index, or delete it first"
"""Advice if an existing index has another recipe."""


@dataclass(frozen=True)
class RecipeDifference:
    """A difference of two recipes, in words.

    Attributes:
        what: The part, e.g. `regions`.
        had: Its existing value, e.g. `pyramid:4`.
        wanted: The expected value.
    """

    what: str
    had: str
    wanted: str

    def __str__(self) -> str:
        """Continue the sentence "... was made", e.g. `with regions pyramid:4, not pyramid:2`."""
        if self.what == "maps":
            return f"{self.had} feature maps, not {self.wanted} (--keep-maps)"
        return f"with {self.what} {self.had}, not {self.wanted}"


@dataclass(frozen=True)
class Recipe:
    """How descriptors were made and coded. Descriptors of equal recipes can be mixed.

    Attributes:
        encoder: The encoder, with the digest of its weights.
        regions: The patches, P per picture.
        features: How a patch was described: `crop` or `pooled:N` (`features.extract`).
        factory: The codec as a factory string in canonical form (`codec.factory.parse_factory`).
        codebook: The training set of the codec, one of `codec.factory.CODEBOOKS`.
        rescore: Factory string of finer codes, or None.
        maps: Whether the pictures' feature maps are stored.
    """

    encoder: EncoderInfo
    regions: Regions
    features: str = CROP
    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    maps: bool = False

    @classmethod
    def from_descriptors(cls, values: dict[str, Any]) -> Recipe:
        """Parse the recipe of uncoded descriptors, as written by `descriptors`.

        Raises:
            KeyError, TypeError: A value is missing or of another type.
            PatchifyError: This version does not know the regions or features.
        """
        encoder = plain_record(EncoderInfo, values["encoder"])
        return cls(encoder, parse_regions(values["regions"]), checked_features(values["features"]))

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Recipe:
        """Parse the recipe of an index from its `meta.json`.

        Raises:
            KeyError, TypeError, AttributeError: A value is missing or of another type.
            PatchifyError: This version does not know the regions or features.
        """
        factory, codebook, rescore = (meta[part] for part in CODES)
        if not (isinstance(factory, str) and isinstance(codebook, str) and isinstance(rescore, str | None)):
            raise TypeError("a codec of another type")
        try:
            parse_factory(factory)
        except PatchifyError as error:
            raise TypeError("an invalid codec") from error
        recipe = cls.from_descriptors(meta)
        return replace(recipe, factory=factory, codebook=codebook, rescore=rescore, maps=MAPS_NAME in meta["files"])

    def coded(self, settings: CodeSettings, existing: str | None = None) -> Recipe:
        """Return the recipe of a build that codes these descriptors.

        Args:
            settings: How descriptors are coded.
            existing: Factory of an index that the build would update; see `CodeSettings.factory_for`.
        """
        factory, codebook = settings.factory_for(existing), settings.effective_codebook
        return replace(self, factory=factory, codebook=codebook, rescore=settings.rescore_factory)

    @property
    def dim(self) -> int:
        """Dimension of the descriptors as coded: the projection's, or the encoder's without one."""
        return parse_factory(self.factory).projection or self.encoder.dim

    def check_projection(self, projection: Projection | None) -> None:
        """Raise ValueError unless the projection fits the recipe."""
        if projection is not None and projection.mean.shape != (self.encoder.dim,):
            raise ValueError("a projection that does not fit the encoder")
        if self.dim != (self.encoder.dim if projection is None else projection.dim):
            raise ValueError("a projection that does not fit the factory")

    def descriptors(self) -> dict[str, Any]:
        """Return encoder, regions and features as JSON values."""
        return {"encoder": self.encoder.as_dict(), "regions": self.regions.spec, "features": self.features}

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe in `meta.json`, which says whether there are maps by listing their file."""
        codes = {"factory": self.factory, "codebook": self.codebook, "rescore": self.rescore}
        return self.descriptors() | codes

    def differences(self, wanted: Recipe, parts: Sequence[str] = EVERYTHING) -> list[RecipeDifference]:
        """Compare with the expected recipe.

        Args:
            wanted: The expected recipe.
            parts: The fields to compare, in this order.

        Returns:
            The differences, possibly none.
        """
        return [_difference(self, wanted, part) for part in parts if getattr(self, part) != getattr(wanted, part)]


def refuse(differences: Iterable[RecipeDifference], place: object, advice: str) -> None:
    """Raise IndexFolderError for the first difference, if any.

    Args:
        differences: Of two recipes.
        place: What has the other recipe, as the subject of the sentence.
        advice: What to do about it, without a full stop.
    """
    for difference in differences:
        raise IndexFolderError(f"{place} was made {difference}: {advice}.")


def _difference(recipe: Recipe, wanted: Recipe, part: str) -> RecipeDifference:
    if part == "encoder" and recipe.encoder.spec == wanted.encoder.spec:
        # The checkpoint file was replaced.
        return RecipeDifference(part, f"{recipe.encoder.spec} of other weights", "these")
    return RecipeDifference(part, _named(recipe, part), _named(wanted, part))


def _named(recipe: Recipe, part: str) -> str:
    if part in ("encoder", "regions"):
        return str(getattr(recipe, part).spec)
    if part == "maps":
        return "with" if recipe.maps else "without"
    return getattr(recipe, part) or "none"


def plain_record(kind: type[Record], values: Any) -> Record:
    """Create a dataclass of numbers and strings from JSON.

    Raises:
        TypeError: A field is missing, unknown or of another type.
    """
    if not isinstance(values, dict):
        raise TypeError("no record")
    record = kind(**values)
    if any(type(getattr(record, field.name)).__name__ != field.type for field in fields(cast("Any", kind))):
        raise TypeError("a field of another type")
    return record
