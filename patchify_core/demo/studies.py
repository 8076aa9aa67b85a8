"""Reads the files of `study --json` that the Evaluation and Compression tabs show. A file may contain anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.results import StudyFile, read_results
from patchify_core.evaluation.study.experiments import STUDIES
from patchify_core.files import ASSETS

FOLDER = ASSETS / "study"
"""Folder of the shipped files, `NAME.json` for each of `STUDIES`."""


@dataclass(frozen=True)
class Studies:
    """The study files of a folder.

    Attributes:
        found: Name -> content, in the order of `STUDIES`.
        problems: Name -> one sentence, for files that are missing or unusable.
    """

    found: Mapping[str, StudyFile]
    problems: Mapping[str, str]

    @property
    def datasets(self) -> dict[str, Mapping[str, Any]]:
        """Every dataset of the files by its name, as the first file describes it."""
        named: dict[str, Mapping[str, Any]] = {}
        for study in self.found.values():
            for name, dataset in study.datasets.items():
                named.setdefault(name, dataset)
        return named


_cache: dict[Path, tuple[tuple[tuple[int, int] | None, ...], Studies]] = {}


def read_studies(folder: Path | None = None) -> Studies:
    """Read the files of a folder, `FOLDER` if None. Cached until one of them changes; raises nothing."""
    folder = FOLDER if folder is None else folder
    stamp = tuple(_stamp(folder / f"{name}.json") for name in STUDIES)
    if folder in _cache and _cache[folder][0] == stamp:
        return _cache[folder][1]
    found: dict[str, StudyFile] = {}
    problems: dict[str, str] = {}
    for name in STUDIES:
        try:
            study = read_study(folder / f"{name}.json", name)
            _check_same_datasets(study, found)
            found[name] = study
        except PatchifyError as error:
            problems[name] = str(error)
    _cache[folder] = stamp, Studies(found, problems)
    return _cache[folder][1]


def make_command(name: str) -> str:
    """Return the command that creates a file for the bundled gallery."""
    return f"python -m patchify_core study {name} sample_db --json assets/study/{name}.json"


def read_study(path: Path, name: str) -> StudyFile:
    """Read the file of the study `name`.

    Raises:
        PatchifyError: One sentence with the command that creates the file, if it is missing, invalid, incomplete, or of
            another format or study.
    """
    again = f"make it with `{make_command(name)}`."
    try:
        study = read_results(path, StudyFile, path.name, again)
    except FileNotFoundError:
        raise PatchifyError(f"The results of the study '{name}' are not here: {again}") from None
    if study.name != name:
        raise PatchifyError(f"{path.name} holds another study than '{name}': {again}")
    return study


def _check_same_datasets(study: StudyFile, found: Mapping[str, StudyFile]) -> None:
    """Check that rows of one table are about the same pictures and queries."""
    for other in found.values():
        for name in study.datasets.keys() & other.datasets.keys():
            mine, theirs = study.datasets[name], other.datasets[name]
            if (mine["digest"], mine["queries"]) != (theirs["digest"], theirs["queries"]):
                raise PatchifyError(
                    f"{study.name}.json is about another version of {name} than {other.name}.json: make it with "
                    f"`{make_command(study.name)}`."
                )


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
