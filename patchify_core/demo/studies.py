"""Reads the files of `study --json`, which the Evaluation and Compression tabs show. A file may be anything at all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.study.plans import PLANS, Configuration
from patchify_core.evaluation.study.run import FORMAT, PROGRAM
from patchify_core.files import ASSETS

FOLDER = ASSETS / "study"
"""Where the shipped files are, `NAME.json` for each of `PLANS`."""

TEXTS = ("dataset", "encoder", "indexed", "regions", "factory", "codebook", "features", "query")
OPTIONAL_TEXTS = ("rescore", "rerank", "refine")

NUMBERS = ("seed", "level", "patches", "bytes_per_patch", "bytes_per_image")
SCORES = ("map", "locscore", "mean_iou")
PER_QUERY = ("ap", "ls", "first_hit", "best")

Row = dict[str, Any]

LATER: Row = {"features": Configuration.features, "query": Configuration.query, "refine": Configuration.refine}
"""What rows of older files lack, because there was one choice only."""


@dataclass(frozen=True)
class Study:
    """One file, checked.

    Attributes:
        name: which experiment it is, one of `PLANS`.
        command: what made it.
        machine: where it was made.
        datasets: name -> digest, number of pictures, ids and object names of its queries.
        rows: as `study.run` writes them.
        refused: configurations that could not be had, each with `why`.
    """

    name: str
    command: str
    machine: str
    datasets: Mapping[str, Mapping[str, Any]]
    rows: tuple[Row, ...]
    refused: tuple[Row, ...]


@dataclass(frozen=True)
class Studies:
    """All files of a folder.

    Attributes:
        found: name -> what is in it, in the order of `PLANS`.
        problems: name -> one sentence, for the files that are missing or cannot be used.
    """

    found: Mapping[str, Study]
    problems: Mapping[str, str]

    @property
    def datasets(self) -> dict[str, Mapping[str, Any]]:
        """Every dataset of the files by its name; the first file's word counts."""
        named: dict[str, Mapping[str, Any]] = {}
        for study in self.found.values():
            for name, dataset in study.datasets.items():
                named.setdefault(name, dataset)
        return named


_known: dict[Path, tuple[tuple[tuple[int, int] | None, ...], Studies]] = {}


def read_studies(folder: Path | None = None) -> Studies:
    """Reads the files of a folder, `FOLDER` if None; again only when one of them has changed. Raises nothing."""
    folder = FOLDER if folder is None else folder
    stamp = tuple(_stamp(folder / f"{name}.json") for name in PLANS)
    if folder in _known and _known[folder][0] == stamp:
        return _known[folder][1]
    found: dict[str, Study] = {}
    problems: dict[str, str] = {}
    for name in PLANS:
        try:
            study = read_study(folder / f"{name}.json", name)
            _check_same_datasets(study, found)
            found[name] = study
        except PatchifyError as error:
            problems[name] = str(error)
    _known[folder] = stamp, Studies(found, problems)
    return _known[folder][1]


def make_command(name: str) -> str:
    """The command that makes a file of the bundled gallery."""
    return f"python -m patchify_core study {name} sample_db --json assets/study/{name}.json"


def read_study(path: Path, name: str) -> Study:
    """Reads one file.

    Args:
        path: the file.
        name: which experiment it must be.

    Raises:
        PatchifyError: one sentence with the command that makes the file, if it is missing, not such a file, of
            another format or experiment, or not whole.
    """
    again = f"make it with `{make_command(name)}`."
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise PatchifyError(f"The results of the study '{name}' are not here: {again}") from None
    except OSError as error:
        raise PatchifyError(f"{path.name} cannot be read ({error.strerror}): {again}") from None
    except (ValueError, RecursionError):
        raise PatchifyError(f"{path.name} is not valid JSON: {again}") from None
    if not isinstance(numbers, dict) or numbers.get("program") != PROGRAM:
        raise PatchifyError(f"{path.name} was not written by `study --json`: {again}")
    if numbers.get("format") != FORMAT:
        raise PatchifyError(f"{path.name} has another format than this version reads ({FORMAT}): {again}")
    if numbers.get("study") != name:
        raise PatchifyError(f"{path.name} holds another study than '{name}': {again}")
    try:
        return _checked(numbers)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise PatchifyError(f"{path.name} is not whole, or was edited: {again}") from None


def _checked(numbers: Row) -> Study:
    """The file's content; any error means that it is not whole."""
    datasets: dict[str, Row] = {}
    for name, dataset in numbers["datasets"].items():
        queries, instances = list(dataset["queries"]), [_text(text) for text in dataset["instances"]]
        if not isinstance(dataset["pictures"], int) or len(queries) != len(instances):
            raise ValueError("a dataset")
        if not all(isinstance(query, int) for query in queries):
            raise ValueError("a query")
        datasets[name] = {
            "digest": _text(dataset["digest"]),
            "pictures": dataset["pictures"],
            "queries": queries,
            "instances": instances,
        }
    rows = tuple(_checked_row(row, len(datasets[row["dataset"]]["queries"])) for row in numbers["rows"])
    refused = tuple({**row, "why": _text(row["why"])} for row in numbers["refused"])
    command, machine = _text(numbers["command"]), _text(numbers["machine"])
    return Study(numbers["study"], command, machine, datasets, rows, refused)


def _checked_row(row: Row, queries: int) -> Row:
    row = LATER | row
    for key in TEXTS:
        _text(row[key])
    for key in OPTIONAL_TEXTS:
        if row[key] is not None:
            _text(row[key])
    for key in NUMBERS:
        if _number(row[key]) < 0:
            raise ValueError(key)
    for key in SCORES:
        if row[key] is not None:
            _share(row[key])
    for key in PER_QUERY:
        if not isinstance(row[key], list) or len(row[key]) != queries:
            raise ValueError(key)
    for ap, ls, first_hit, best in zip(*(row[key] for key in PER_QUERY), strict=True):
        for value in (ap, ls):
            if value is not None:
                _share(value)
        if first_hit is not None and not (isinstance(first_hit, int) and first_hit >= 1):
            raise ValueError("first_hit")
        if best is not None and (len(best) != 5 or not all(math.isfinite(_number(value)) for value in best)):
            raise ValueError("best")
    return row


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError("number")
    return value


def _share(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError("share")
    return value


def _check_same_datasets(study: Study, found: Mapping[str, Study]) -> None:
    """Rows of one table must be about the same pictures and queries."""
    for other in found.values():
        for name in study.datasets.keys() & other.datasets.keys():
            if study.datasets[name]["digest"] != other.datasets[name]["digest"] or _queries(study, name) != _queries(
                other, name
            ):
                raise PatchifyError(
                    f"{study.name}.json is about another version of {name} than {other.name}.json: make it with "
                    f"`{make_command(study.name)}`."
                )


def _queries(study: Study, dataset: str) -> Sequence[int]:
    queries: Sequence[int] = study.datasets[dataset]["queries"]
    return queries


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
