"""How descriptors were made and how they are coded: what must agree before two of them may be in one index.

Every store, shard folder and half-finished build writes its recipe down as JSON; `Recipe` is the one place where two of
them are compared, and where the sentence that names the difference is written.
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
"""File of an index folder that keeps feature maps; `meta.json` lists it where they are kept."""

DESCRIPTORS = ("encoder", "regions", "features")
CODES = ("factory", "codebook", "rescore")
EVERYTHING = (*DESCRIPTORS, *CODES, "maps")

OTHER_INDEX = "choose another folder for the index, or delete it first"
"""What to do where the index that stands was made in another way."""


@dataclass(frozen=True)
class RecipeDifference:
    """One thing that two recipes do not have in common, in the words of a sentence.

    Attributes:
        what: The thing, e.g. `regions`.
        had: What was found, e.g. `pyramid:4`.
        wanted: What should be there instead.
    """

    what: str
    had: str
    wanted: str

    def __str__(self) -> str:
        """What follows "was made", e.g. `with regions pyramid:4, not pyramid:2`."""
        if self.what == "maps":
            return f"{self.had} feature maps, not {self.wanted} (--keep-maps)"
        return f"with {self.what} {self.had}, not {self.wanted}"


@dataclass(frozen=True)
class Recipe:
    """How descriptors were made and coded. Two recipes are equal where their descriptors and codes can be mixed.

    Attributes:
        encoder: What made the descriptors, with the digest of its weights.
        regions: The boxes that they describe, P per picture.
        features: How a box was described: `crop` or `pooled:N` (`features.extract`).
        factory: The codec as a factory string in canonical form (`codec.factory.parse_factory`).
        codebook: What the codec was trained on, one of `codec.factory.CODEBOOKS`.
        rescore: The factory string of finer codes; None without them.
        maps: Whether the pictures' feature maps are kept.
    """

    encoder: EncoderInfo
    regions: Regions
    features: str = CROP
    factory: str = "Flat"
    codebook: str = "uniform"
    rescore: str | None = None
    maps: bool = False

    @classmethod
    def of(
        cls,
        encoder: EncoderInfo,
        regions: Regions,
        features: str,
        settings: CodeSettings,
        maps: bool = False,
        beside: str | None = None,
    ) -> Recipe:
        """The recipe that a build with these settings follows.

        Args:
            encoder: What will make the descriptors.
            regions: The boxes.
            features: How they will be described.
            settings: How descriptors will be coded.
            maps: Whether feature maps will be kept.
            beside: Factory of an index that the build would go on with; see `CodeSettings.factory_beside`.
        """
        factory = settings.factory_beside(beside)
        return cls(encoder, regions, features, factory, settings.codebook_kept, settings.rescore_factory, maps)

    @classmethod
    def from_descriptors(cls, values: dict[str, Any]) -> Recipe:
        """The recipe of descriptors that are not coded, from what `descriptors` gave.

        Raises:
            KeyError, TypeError: If a value is missing or of another type.
            PatchifyError: If the regions or features are of a kind that this version does not know.
        """
        encoder = plain_record(EncoderInfo, values["encoder"])
        return cls(encoder, parse_regions(values["regions"]), checked_features(values["features"]))

    @classmethod
    def from_meta(cls, meta: dict[str, Any]) -> Recipe:
        """The recipe of an index, from its `meta.json`.

        Raises:
            KeyError, TypeError, AttributeError: If a value is missing or of another type.
            PatchifyError: If the regions or features are of a kind that this version does not know.
        """
        factory, codebook, rescore = (meta[part] for part in CODES)
        if not (isinstance(factory, str) and isinstance(codebook, str) and isinstance(rescore, str | None)):
            raise TypeError("a codec of another type")
        try:
            parse_factory(factory)
        except PatchifyError as error:
            raise TypeError("a codec that is none") from error
        made = cls.from_descriptors(meta)
        return replace(made, factory=factory, codebook=codebook, rescore=rescore, maps=MAPS_NAME in meta["files"])

    @property
    def dim(self) -> int:
        """Dimension of the descriptors as they are coded and compared: the projection's, or the encoder's."""
        return parse_factory(self.factory).projection or self.encoder.dim

    def check_projection(self, projection: Projection | None) -> None:
        """Raise ValueError unless descriptors of this recipe are projected so."""
        if projection is not None and projection.mean.shape != (self.encoder.dim,):
            raise ValueError("a projection that does not fit the encoder")
        if self.dim != (self.encoder.dim if projection is None else projection.dim):
            raise ValueError("a projection that does not fit the factory")

    def descriptors(self) -> dict[str, Any]:
        """What made the descriptors, as plain JSON values: encoder, regions and features."""
        return {"encoder": self.encoder.as_dict(), "regions": self.regions.spec, "features": self.features}

    def as_dict(self) -> dict[str, Any]:
        """What `meta.json` says of it; that maps are kept it says by listing their file."""
        codes = {"factory": self.factory, "codebook": self.codebook, "rescore": self.rescore}
        return self.descriptors() | codes

    def differences(self, wanted: Recipe, parts: Sequence[str] = EVERYTHING) -> list[RecipeDifference]:
        """What is not as it should be.

        Args:
            wanted: The recipe that this one should be.
            parts: The fields to compare, in this order.

        Returns:
            The differences; empty where there are none.
        """
        return [_difference(self, wanted, part) for part in parts if getattr(self, part) != getattr(wanted, part)]


def refuse(differences: Iterable[RecipeDifference], place: object, advice: str) -> None:
    """Refuse work on something that was made in another way.

    Args:
        differences: The first one is named.
        place: What was made that way, as the sentence begins.
        advice: What to do about it, without a full stop.

    Raises:
        IndexFolderError: If there is a difference.
    """
    for difference in differences:
        raise IndexFolderError(f"{place} was made {difference}: {advice}.")


def _difference(recipe: Recipe, wanted: Recipe, part: str) -> RecipeDifference:
    if part == "encoder" and recipe.encoder.spec == wanted.encoder.spec:
        return RecipeDifference(
            part, f"{recipe.encoder.spec} of other weights", "these"
        )  # a checkpoint's file was replaced
    return RecipeDifference(part, _named(recipe, part), _named(wanted, part))


def _named(recipe: Recipe, part: str) -> str:
    if part in ("encoder", "regions"):
        return str(getattr(recipe, part).spec)
    if part == "maps":
        return "with" if recipe.maps else "without"
    return getattr(recipe, part) or "none"


def plain_record(kind: type[Record], values: Any) -> Record:
    """A dataclass of numbers and texts, from JSON.

    Raises:
        TypeError: If a field is missing, or more than there are, or of another type.
    """
    if not isinstance(values, dict):
        raise TypeError("no record")
    made = kind(**values)
    if any(type(getattr(made, field.name)).__name__ != field.type for field in fields(cast("Any", kind))):
        raise TypeError("a field of another type")
    return made
