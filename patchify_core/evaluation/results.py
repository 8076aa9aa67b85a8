"""Read and validate the result files of `evaluate --json` and `study --json`.

A file may come from an earlier version or an editor, or be anything at all. Fields that are not used are not checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.experiments import Configuration, Row

EVALUATION, STUDY = "patchify evaluate", "patchify study"
FORMAT = 1
"""Values of `program` and `format`, which identify a result file."""

Text = Annotated[str, Field(strict=True)]
Id = Annotated[int, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Number = Count | Annotated[Finite, Field(ge=0)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Box = Annotated[list[Finite], Field(min_length=5, max_length=5)]
"""The first picture and its box: image id, x1, y1, x2, y2."""


class ResultsFile(BaseModel):
    """A result file."""

    program: ClassVar[str]
    made_by: ClassVar[str]
    """What error sentences call the program that writes such a file."""


AnyResults = TypeVar("AnyResults", bound=ResultsFile)


class QueryScores(BaseModel):
    """The scores of one query at one level, or None."""

    ap: Share | None
    locscore: Share | None


class QueryResult(BaseModel):
    """One query with its scores by level."""

    id: Id
    file_name: Text
    instance: Id
    levels: dict[str, QueryScores]


class LevelResult(BaseModel):
    """One level that was evaluated."""

    level: Id


class RunSettings(BaseModel):
    """The settings of an evaluation; `dataset` is `record.gallery_digest`."""

    dataset: Text


class EvaluationFile(ResultsFile):
    """The fields of `evaluate --json` that comparing runs needs."""

    program = EVALUATION
    made_by = "evaluate --json, or by a version without scores of each query"

    levels: Annotated[list[LevelResult], Field(min_length=1)]
    run: RunSettings
    per_query: list[QueryResult]

    @model_validator(mode="after")
    def _is_complete(self) -> EvaluationFile:
        """Check that every query has every level."""
        if any(str(level.level) not in query.levels for level in self.levels for query in self.per_query):
            raise ValueError("a query lacks a level")
        return self


class StudyDataset(BaseModel):
    """A dataset of a study: its digest, number of pictures, and ids and object names of its queries."""

    digest: Text
    pictures: Count
    queries: list[Id]
    instances: list[Text]


class StudyRow(BaseModel):
    """One configuration at one level: averages, and parallel lists with an entry per query (`study.run`).

    Fields with a default are missing in files of earlier versions.
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
    """A configuration that could not be measured, and why."""

    model_config = ConfigDict(extra="allow")

    why: Text


def _as(model: type[BaseModel]) -> BeforeValidator:
    """Validate a value as a model, and keep it as a dict."""
    return BeforeValidator(lambda value: model.model_validate(value).model_dump())


class StudyFile(ResultsFile):
    """The result of `study --json`.

    Attributes:
        name: Name of the experiment, one of `experiments.STUDIES`.
        command: The command that wrote it.
        machine: The machine on which it ran.
        datasets: Name -> dataset.
        rows: All configurations, datasets and levels.
        refused: Configurations that could not be measured.
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
    def _is_complete(self) -> StudyFile:
        """Check that every list has an entry per query of its dataset."""
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
    """Read a result file.

    Args:
        path: The file.
        kind: The model to validate, `EvaluationFile` or `StudyFile`.
        name: What error sentences call the file.
        remedy: End of the error sentences: what to do.

    Raises:
        FileNotFoundError: If there is no such file.
        PatchifyError: If it cannot be read, is not JSON, is another kind of file or format, or is incomplete.
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
        raise PatchifyError(f"{name} is incomplete, or was edited or damaged: {remedy}") from None
