"""Calibrated probabilities that a result contains the query's object.

A search always returns its best pictures, right or not. A logistic model estimates the probability from two features:
the score, and its margin above the background, which is the mean score of this query with pictures further down
(`BACKGROUND`). Both increase with the score, so the order of the results never changes.

Scores of different recipes are not comparable, so a calibration names its recipe (`RecipeName`) and does not apply to
an index with another one. It is a JSON file beside the index folder, where a build does not delete it;
`evaluation.presence` learns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from patchify_core.errors import PatchifyError
from patchify_core.files import SAMPLE_DB, read_json, sha256_of_json, write_json
from patchify_core.index.store import PatchStore

LIKELY, UNSURE, ABSENT = "likely", "unsure", "probably not here"
"""Verdicts on a result; the verdict on a query is that on its first result."""

BACKGROUND = slice(10, 30)
"""Ranks, from 0, of the scores whose mean is the background; a smaller gallery has no background."""

EVEN = 0.5
"""Probability below which a result is more likely wrong than right."""

if TYPE_CHECKING:
    from patchify_core.retrieval.ranking import Match
    from patchify_core.retrieval.searcher import Searcher

Share = Annotated[float, Field(ge=0, le=1)]
Weights = tuple[float, float, float]

PROGRAM, FORMAT = "patchify calibrate", 1


PROBES = 8

SAME_COSINES = 0.001
"""Tolerance for projections that were learned from the same pictures on different CPUs and differ by rounding."""


class RecipeName(BaseModel):
    """Identity of everything that the scores of an index depend on, apart from its pictures.

    Attributes:
        digest: Digest of the recipe. Plain 8-bit codes count as float32: their scores differ by less than 0.006, which
            changes no probability by 0.03.
        cosines: Pairwise cosines of `PROBES` fixed vectors after the learned projection; empty without projection. A
            digest of the projection would depend on rounding, and on the signs of its axes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    cosines: tuple[float, ...] = ()

    @classmethod
    def of(cls, index: PatchStore) -> RecipeName:
        """Return the name of an index's recipe."""
        recipe, cosines = index.recipe.as_dict(), []
        factory = recipe["factory"]
        plain = factory.removesuffix("SQ8") + "Flat" if factory.endswith("SQ8") else factory
        if plain.split(",")[-1] == "Flat" and "IVF" not in plain:
            recipe |= {"factory": plain, "codebook": None}
        if index.projection is not None:
            vectors = np.random.default_rng(0).random((PROBES, len(index.projection.mean)), np.float32) ** 3
            projected = index.projection(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
            cosines = (projected @ projected.T)[np.triu_indices(PROBES, 1)].astype(float).round(6).tolist()
        return cls(digest=sha256_of_json(recipe), cosines=tuple(cosines))

    def is_of(self, other: RecipeName) -> bool:
        """Whether both name the same recipe."""
        same = self.digest == other.digest and len(self.cosines) == len(other.cosines)
        return same and bool(np.allclose(self.cosines, other.cosines, rtol=0, atol=SAME_COSINES))


class Rate(BaseModel):
    """A share of some queries, with the ends of its 95 % interval."""

    share: Share
    low: Share
    high: Share
    queries: Annotated[int, Field(ge=1)]


class Learned(BaseModel):
    """Training data and accuracy of a calibration (`evaluation.presence.learn`).

    Attributes:
        datasets: Per dataset: `name`, digest, and numbers of pictures, queries and objects.
        held_out: Rates on held-out objects.
        curve: False alarms and hits of "probably not here".
        reliability: For first and for later results: mean probability, share of correct ones, number of results.
        transfer: Rates on each dataset after learning from the others.
    """

    datasets: list[dict[str, str | int]]
    held_out: dict[str, Rate]
    curve: list[tuple[Share, Share]]
    reliability: dict[str, list[tuple[Share, Share, int]]]
    transfer: dict[str, dict[str, Rate]] = {}

    @model_validator(mode="after")
    def _check_entries(self) -> Learned:
        """Require the entries that the page and the command line show."""
        rates = {"absent_hits", "absent_false_alarms", "likely_hits", "likely_false_alarms"}
        if any({*one} != rates for one in (self.held_out, *self.transfer.values())):
            raise ValueError("other rates")
        if {*self.reliability} != {"first", "later"} or any("name" not in one for one in self.datasets):
            raise ValueError("other results")
        return self


class Calibration(BaseModel):
    """A calibration for one recipe.

    Attributes:
        program: Always `PROGRAM`.
        format: Always `FORMAT`.
        recipe: Recipe of the indexes that it applies to.
        first: Intercept, weight of the score, weight of its margin (the last two 0 or more), for first results.
        later: The same for later results: if one picture contains the object, more do.
        absent_below: If the first result's probability is lower, the object is probably not in the gallery.
        likely_from: Results of at least this probability are likely to contain the object.
        learned: Training data and accuracy.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    program: str = Field(default=PROGRAM, pattern=f"^{PROGRAM}$")
    format: int = Field(default=FORMAT, ge=FORMAT, le=FORMAT)
    recipe: RecipeName
    first: Weights
    later: Weights
    absent_below: float = Field(ge=0, le=EVEN)
    likely_from: float = Field(ge=EVEN, le=1)
    learned: Learned

    def presence(self, scores: ArrayLike, ranked: ArrayLike) -> Presence | None:
        """Estimate how likely each result contains the object.

        Args:
            scores: (K,) cosine similarities of the results in question, best first.
            ranked: (N,) those of the query's ranking at the index' last level, best first and not re-ranked; at least
                the first `BACKGROUND.stop`.

        Returns:
            None if there are no results, or too few pictures for a background.
        """
        rows = features(scores, ranked)
        if rows is None or not len(rows):
            return None
        chances = probabilities(rows, self.first, self.later).tolist()
        return Presence(tuple(chances), tuple(map(self.verdict, chances)))

    def presence_of(self, engine: Searcher, query: NDArray[np.float32], matches: Sequence[Match]) -> Presence | None:
        """Like `presence`, for matches of a search at the last level, not re-ranked.

        Args:
            engine: The engine that made them.
            query: (D,) described by it.
            matches: Best first.
        """
        ranked = engine.ranking(query, top=BACKGROUND.stop).scores
        return self.presence([match.score for match in matches], ranked)

    def verdict(self, probability: float) -> str:
        """`LIKELY`, `UNSURE` or `ABSENT`."""
        if probability >= self.likely_from:
            return LIKELY
        return ABSENT if probability < self.absent_below else UNSURE


@dataclass(frozen=True)
class Presence:
    """Probabilities and verdicts of a query's results.

    Attributes:
        probabilities: Probability that each result contains the object, 0..1, not increasing.
        verdicts: Verdict on each result.
    """

    probabilities: tuple[float, ...]
    verdicts: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Verdict on the whole query: that on its first result."""
        return self.verdicts[0]

    @property
    def above(self) -> int:
        """Number of results that are at least as likely right as wrong."""
        return sum(chance >= EVEN for chance in self.probabilities)


def features(scores: ArrayLike, ranked: ArrayLike) -> NDArray[np.float64] | None:
    """(K, 2) score and margin of results, see `Calibration.presence`; None where the ranking has no background."""
    shown, others = np.asarray(scores, np.float64), np.asarray(ranked, np.float64)
    if len(others) < BACKGROUND.stop:
        return None
    return np.column_stack([shown, shown - others[BACKGROUND].mean()])


def logistic(rows: NDArray[np.float64], weights: ArrayLike) -> NDArray[np.float64]:
    """1 / (1 + exp(-(intercept + rows @ weights))) of (..., F) rows and (1 + F,) weights, without overflow."""
    intercept, *slopes = np.asarray(weights, np.float64)
    return 0.5 * (1 + np.tanh(0.5 * (intercept + rows @ np.array(slopes))))


def probabilities(rows: NDArray[np.float64], first: Weights, later: Weights) -> NDArray[np.float64]:
    """(..., K) probabilities of rankings' results (..., K, 2), K at least 1; none is larger than the first one's."""
    top = logistic(rows[..., :1, :], first)
    return np.concatenate([top, np.minimum(logistic(rows[..., 1:, :], later), top)], axis=-1)


def calibration_path(folder: Path) -> Path:
    """Return the path of an index folder's calibration, beside the folder."""
    real = folder.resolve()
    return real.with_name(f"{real.name}.calibration.json")


def find_calibration(index: PatchStore, folder: Path | None) -> Calibration | None:
    """Find the calibration of an index: beside its folder, or a bundled one of the same recipe.

    Args:
        index: The index.
        folder: Its folder; None to consider bundled calibrations only.

    Returns:
        None if there is no calibration for this recipe.

    Raises:
        PatchifyError: If the file beside the index is damaged.
    """
    recipe = RecipeName.of(index)
    paths = [] if folder is None else [calibration_path(folder)]
    paths += [SAMPLE_DB / "index.calibration.json", *sorted(SAMPLE_DB.glob("indexes/*.calibration.json"))]
    calibrations = (read_calibration(path) for path in paths if path.exists())
    return next((calibration for calibration in calibrations if calibration.recipe.is_of(recipe)), None)


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        PatchifyError: If the file is missing, damaged or not a calibration.
    """
    try:
        read = Calibration.model_validate(read_json(path))
        if min(*read.first[1:], *read.later[1:]) < 0:
            raise ValueError("results out of order")
    except (ValidationError, ValueError):
        raise PatchifyError(
            f"{path} is no calibration that this version reads: delete it, or make it anew with the calibrate command."
        ) from None
    return read


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration atomically.

    Raises:
        OSError: If it cannot be written.
    """
    write_json(path, calibration.model_dump(mode="json"), indent=1, sync=True)
