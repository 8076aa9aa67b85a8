"""Finished work on disk while a long command runs: `<file>.partial`, a file of JSON lines that can be cut anywhere.

A torn last line is that piece of work's loss and no other's. An evaluation begins its journal with a header that says
what is evaluated and how, and adds a line for each finished query; a study adds a line for each finished configuration.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from patchify_core.evaluation.found import FoundPositives
from patchify_core.evaluation.results import EVALUATION, FORMAT
from patchify_core.evaluation.run import Outcome, QueryRecord
from patchify_core.files import JsonLines, sha256_of_json


def journal_beside(file: Path) -> Path | None:
    """The journal's path for a file of numbers; None where nothing can lie beside it: a pipe or a terminal."""
    real = Path(os.path.realpath(file))
    return None if real.exists() and not real.is_file() else real.with_name(real.name + ".partial")


class RunJournal:
    """The finished queries of one evaluation, on disk. A context manager.

    Attributes:
        path: the journal's file.
        finished: the queries that earlier runs finished, by id.
        changed: names of the settings in which the journal that lay there differed, so that it was begun anew;
            empty if it was taken over or there was none.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], levels: Sequence[int]) -> None:
        """Open the journal, taking over what an interrupted run with the same settings left in it.

        Args:
            path: the journal's file, made if missing.
            settings: all that the numbers depend on, as JSON values.
            levels: the levels that each record must have.

        Raises:
            PatchifyError: something else is in the way.
            OSError: the file cannot be read or written.
        """
        self.path, self._levels = path, [str(level) for level in levels]
        # Tells lines of other settings apart, should two different runs write to one file after all.
        self._key = sha256_of_json(dict(settings))[:16]
        self.finished: dict[int, QueryRecord] = {}
        self.changed: tuple[str, ...] = ()
        header = {"journal of": EVALUATION, "format": FORMAT, "settings": dict(settings)}
        self._lines = JsonLines(path, f'{{"journal of": "{EVALUATION}"')
        known, lines = (self._lines.values or [None])[0], self._lines.values[1:]
        if known == header:
            for line in lines:
                self._take(line)
            return
        if isinstance(known, dict):
            old = known.get("settings")
            old = old if isinstance(old, dict) else {}
            self.changed = tuple(key for key in settings if old.get(key) != settings[key]) or ("format",)
        self._lines.begin(header)

    def __enter__(self) -> RunJournal:
        """The journal itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Delete a journal without any query in it."""
        if not self.finished:
            self.remove()

    def add(self, record: QueryRecord) -> None:
        """Write a finished query's line.

        Raises:
            OSError: the disk is full, for one.
        """
        levels = {str(level): _outcome_as_json(outcome) for level, outcome in record.levels.items()}
        self._lines.add({"run": self._key, "query": record.query_id, "levels": levels})
        self.finished[record.query_id] = record

    def remove(self) -> None:
        """Delete the journal."""
        self._lines.remove()

    def _take(self, line: Any) -> None:
        """Take one line over if it is whole and of this run; another's query is simply searched again."""
        with suppress(KeyError, TypeError, ValueError):
            if line["run"] == self._key:
                levels = {int(level): _outcome_from_json(line["levels"][level]) for level in self._levels}
                self.finished[line["query"]] = QueryRecord(line["query"], levels)


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    found = outcome.found
    return {
        "search_ms": outcome.search_ms,
        "rerank_ms": outcome.rerank_ms,
        "best": None if outcome.best is None else [outcome.best[0], outcome.best[1].tolist()],
        "positives": None if found is None else found.positives,
        "located": found is not None and found.located,
        "images": [] if found is None else found.image_ids.tolist(),
        "ranks": [] if found is None else found.ranks.tolist(),
        "before": [] if found is None else found.before.tolist(),
        "tied": [] if found is None else found.tied.tolist(),
        "ious": [] if found is None else [None if math.isnan(iou) else iou for iou in found.ious.tolist()],
    }


def _outcome_from_json(values: dict[str, Any]) -> Outcome:
    found = None
    if values["positives"] is not None:
        ranks, before, tied = (np.array(values[key], np.intp) for key in ("ranks", "before", "tied"))
        found = FoundPositives(
            image_ids=np.array(values["images"], np.int64),
            ranks=ranks,
            before=before,
            tied=tied,
            ious=np.array([math.nan if iou is None else iou for iou in values["ious"]], np.float64),
            positives=int(values["positives"]),
            located=bool(values["located"]),
        )
    best = None if values["best"] is None else (int(values["best"][0]), np.array(values["best"][1], np.float64))
    return Outcome(found, values["search_ms"], values["rerank_ms"], best)
