"""Files of results, as `evaluate --json` and `study --json` write them: what must be in them, and reading them.

A file may come from an earlier version, from an editor, or be anything at all. What is not used is not checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.experiments import Configuration

EVALUATION, STUDY = "patchify evaluate", "patchify study"
FORMAT = 1
"""How a file of results says what it is: `program` and `format`."""

Text = Annotated[str, Field(strict=True)]
Id = Annotated[int, Field(strict=True)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Number = Whole | Annotated[Finite, Field(ge=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Box = Annotated[list[Finite], Field(min_length=5, max_length=5)]
"""The picture that came first and its box: image id, x1, y1, x2, y2."""


class ResultsFile(BaseModel):
    """A file of results."""

    program: ClassVar[str]
    made_by: ClassVar[str]
    """How a refusal calls what writes such a file."""


AnyResults = TypeVar("AnyResults", bound=ResultsFile)


class QueryScores(BaseModel):
    """One query at one level; None for a score that it does not have."""

    ap: Share | None
    locscore: Share | None


class QueryResult(BaseModel):
    """One query, its scores by level."""

    id: Id
    file_name: Text
    instance: Id
    levels: dict[str, QueryScores]


class LevelResult(BaseModel):
    """One level that was evaluated."""

    level: Id


class RunSettings(BaseModel):
    """What was evaluated: `dataset` is `record.gallery_digest`."""

    dataset: Text


class EvaluationFile(ResultsFile):
    """What `evaluate --json` wrote, as far as runs are compared."""

    program = EVALUATION
    made_by = "evaluate --json, or by a version without scores of each query"

    levels: Annotated[list[LevelResult], Field(min_length=1)]
    run: RunSettings
    per_query: list[QueryResult]

    @model_validator(mode="after")
    def _whole(self) -> EvaluationFile:
        """Every query must have every level."""
        if any(str(level.level) not in query.levels for level in self.levels for query in self.per_query):
            raise ValueError("a query lacks a level")
        return self


class StudyDataset(BaseModel):
    """A dataset of a study: its digest, how many pictures it has, ids and object names of its queries."""

    digest: Text
    pictures: Whole
    queries: list[Id]
    instances: list[Text]


class StudyRow(BaseModel):
    """One configuration at one level: averages, and parallel lists with an entry per query (`study.run`).

    Earlier versions had one choice only of what has a default here.
    """

    model_config = ConfigDict(extra="allow")

    dataset: Text
    encoder: Text
    indexed: Text
    regions: Text
    factory: Text
    codebook: Text
    features: Text = Configuration.features
    query: Text = Configuration.query
    rescore: Text | None
    rerank: Text | None
    refine: Text | None = Configuration.refine
    seed: Number
    level: Number
    patches: Number
    bytes_per_patch: Number
    bytes_per_image: Number
    map: Share | None
    locscore: Share | None
    mean_iou: Share | None
    ap: list[Share | None]
    ls: list[Share | None]
    first_hit: list[Annotated[int, Field(strict=True, ge=1)] | None]
    best: list[Box | None]


class Refusal(BaseModel):
    """A configuration that could not be had, and why."""

    model_config = ConfigDict(extra="allow")

    why: Text


Row = dict[str, Any]
"""Tables group by any key, so rows stay dicts."""


def _as(model: type[BaseModel]) -> BeforeValidator:
    """A dict with all that the model demands."""
    return BeforeValidator(lambda value: model.model_validate(value).model_dump())


class StudyFile(ResultsFile):
    """What `study --json` wrote.

    Attributes:
        name: which experiment it is, one of `plans.STUDIES`.
        command: what made it.
        machine: where it was made.
        datasets: by name.
        rows: of all configurations, datasets and levels.
        refused: configurations that could not be had.
    """

    program = STUDY
    made_by = "`study --json`"

    name: Annotated[str, Field(strict=True, alias="study")]
    command: Text
    machine: Text
    datasets: dict[str, Annotated[Row, _as(StudyDataset)]]
    rows: list[Annotated[Row, _as(StudyRow)]]
    refused: list[Annotated[Row, _as(Refusal)]]

    @model_validator(mode="after")
    def _whole(self) -> StudyFile:
        """Every list must have an entry per query of its dataset."""
        for dataset in self.datasets.values():
            if len(dataset["queries"]) != len(dataset["instances"]):
                raise ValueError("a dataset")
        for row in self.rows:
            if row["dataset"] not in self.datasets:
                raise ValueError("a row of no dataset")
            queries = len(self.datasets[row["dataset"]]["queries"])
            if any(len(column) != queries for column in (row["ap"], row["ls"], row["first_hit"], row["best"])):
                raise ValueError("a row")
        return self


def read_results(path: Path, kind: type[AnyResults], name: str, remedy: str) -> AnyResults:
    """Read a file of results.

    Args:
        path: the file.
        kind: what it must be, `EvaluationFile` or `StudyFile`.
        name: what a refusal calls the file.
        remedy: how a refusal ends: what to do.

    Raises:
        FileNotFoundError: there is none.
        PatchifyError: one sentence, if it cannot be read, is no JSON, not such a file, of another format, or not whole.
    """
    try:
        numbers = json.loads(path.read_bytes())
    except NotADirectoryError as error:
        raise FileNotFoundError from error
    except FileNotFoundError:
        raise
    except OSError as error:
        raise PatchifyError(f"{name} cannot be read ({error.strerror}): {remedy}") from None
    except (ValueError, RecursionError):
        raise PatchifyError(f"{name} is not valid JSON: {remedy}") from None
    if not isinstance(numbers, dict) or numbers.get("program") != kind.program:
        raise PatchifyError(f"{name} was not written by {kind.made_by}: {remedy}")
    if numbers.get("format") != FORMAT:
        shown = f"{numbers.get('format')!r:.20}"
        raise PatchifyError(f"{name} has format {shown}, another format than this version reads ({FORMAT}): {remedy}")
    try:
        return kind.model_validate(numbers)
    except ValidationError:
        raise PatchifyError(f"{name} is not whole, or was edited or damaged: {remedy}") from None
