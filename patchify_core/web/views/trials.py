"""The Evaluation tab's table of everything that was tried; its script sorts, filters and draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from patchify_core.demo import studies as files
from patchify_core.demo.studies import Studies, make_command
from patchify_core.demo.trials import Trial
from patchify_core.web.views.html import FileUrl, macro, rendered, three

TITLES = {
    "encoders": "Encoders",
    "regions": "Regions",
    "compression": "Compression",
    "rerank": "Re-ranking",
    "features": "Features",
    "boxes": "Boxes",
}

COLUMNS = (
    ("map", "mAP", "ranked first?", True),
    ("locscore", "LocScore", "and located correctly?", True),
    ("regions", "Patches", "which parts of a picture are compared", False),
    ("features", "Encoded", "each patch separately, or the whole picture in one pass, at so many pixels", False),
    ("refine", "Boxes", "empty: those of the winning patches", False),
    ("rerank", "Re-ranking", "what puts the first results in a better order", False),
    ("kept", "Codec", "how descriptors are compressed", False),
    ("codebook", "Codebook", "what the compression was trained on", False),
    ("encoder", "Encoder", "the network that describes them", False),
    ("patches", "Patches per picture", "parts of each picture", True),
    ("bytes", "Bytes per picture", "size of the codes of one picture", True),
    ("ms", "ms per query", "time of search and re-ranking where this was measured", True),
)
"""(name, title, what it means, whether it is a number) of the table's columns, those that matter most first."""

ABOUT = (
    (
        "Query",
        "a picture with a box around one object; the task is to find the gallery pictures that contain that object.",
    ),
    (
        "AP",
        "for one query: 1 if all pictures that contain the object come first, less for every wrong one before them.",
    ),
    ("mAP", "the mean AP of all queries: how good the order is."),
    ("LocScore", "as mAP, but each correct picture is weighted by how well its box fits the object (IoU, 0 to 1)."),
    (
        "Boxes",
        "a picture’s box is that of its winning patch or a refined one; the order stays the same.",
    ),
    ("Global baseline", "whole pictures compared with whole pictures, without patches: what the method must beat."),
    ("±", "half the distance between the best and the worst of several random seeds."),
    ("95 % interval", "where the difference of two configurations would be with other queries like these."),
)


def evaluation(trials: Sequence[Trial], studies: Studies, dataset: str, chosen: Trial | None, url: FileUrl) -> Markup:
    """The whole table with its controls, charts and sources.

    Args:
        trials: of all datasets.
        studies: the files that they come from.
        dataset: which dataset is shown first.
        chosen: the trial that is looked into, or None.
        url: address of a shipped file.
    """
    return rendered(
        "trials.html",
        trials=[(trial, _cells(trial)) for trial in trials],
        columns=COLUMNS,
        about=ABOUT,
        dataset=dataset,
        datasets=studies.datasets,
        found=studies.found,
        titles=TITLES,
        chosen=chosen,
        **_sources(studies, url, None),
    )


Cell = tuple[str, Any, str, float | None]
"""Column, value as it is sorted and saved, text, and half the range of the seeds where there are several."""


def _cells(trial: Trial) -> list[Cell]:
    """A trial's row, in the order of `COLUMNS`."""
    mean, words = trial.mean, trial.plain
    times = [value for value in (mean.of("ms_per_query"), mean.of("ms_per_rerank")) if value is not None]
    features = ", ".join(filter(None, (words["features"], words["query"])))
    texts = {
        "regions": (trial["regions"], words["regions"]),
        "features": (trial.features, features),
        "refine": (trial["refine"] or "", words["refine"]),
        "rerank": (trial["rerank"] or "", words["rerank"]),
        "kept": (trial.codec, words["factory"]),
        "codebook": (trial.codebook or "", words["codebook"]),
        "encoder": (trial["encoder"], words["encoder"]),
    }
    numbers = {
        "patches": trial["patches"],
        "bytes": round(trial["bytes_per_image"]),
        "ms": round(sum(times), 1) if times else None,
    }
    cells: list[Cell] = []
    for name, _, _, _ in COLUMNS:
        if name in texts:
            value, text = texts[name]
            cells.append((name, value, text or "–", None))
        elif name in numbers:
            number = numbers[name]
            cells.append((name, "" if number is None else number, "–" if number is None else f"{number:,}", None))
        else:
            score = mean.of(name)
            spread = mean.spread(name) / 2 if trial.seeds > 1 and score is not None else None
            cells.append((name, "" if score is None else f"{score:.6f}", three(score), spread))
    return cells


def sources(studies: Studies, url: FileUrl, names: Sequence[str] | None = None) -> str:
    """Where the numbers come from: each file with its command, or why it is not there."""
    return str(macro("parts.html", "sources", **_sources(studies, url, names)))


def _sources(studies: Studies, url: FileUrl, names: Sequence[str] | None) -> Mapping[str, Any]:
    """The files, what is missing, and what could not be had and why: once for each reason."""
    wanted = names or TITLES
    reasons: dict[str, set[str]] = {}
    for name, study in studies.found.items():
        for row in study.refused if names is None or name in names else ():
            fields = (
                row.get(key) for key in ("encoder", "regions", "factory", "codebook", "features", "refine", "rerank")
            )
            what = " · ".join(str(field) for field in fields if field)
            reasons.setdefault(row["why"], set()).add(f"{what} on {row.get('dataset', '?')}")
    return {
        "files": [
            (TITLES[name], name, one.command or make_command(name), one.machine, url(files.FOLDER / f"{name}.json"))
            for name in wanted
            if (one := studies.found.get(name))
        ],
        "missing": [(TITLES[name], studies.problems[name]) for name in wanted if name in studies.problems],
        "refused": [(why, sorted(what)) for why, what in reasons.items()],
    }


def code(sentence: str) -> str:
    """A sentence with what stands between backticks set as code."""
    return str(macro("parts.html", "code", sentence))
