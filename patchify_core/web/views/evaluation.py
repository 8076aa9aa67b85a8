"""The Evaluation tab: the table of all configurations, and the panel that shows one of them in detail.

The script assets/evaluation.js sorts, filters and plots the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from patchify_core.demo import studies as files
from patchify_core.demo.results import WRONG
from patchify_core.demo.studies import Studies, make_command
from patchify_core.demo.trials import Failure, Part, Trial
from patchify_core.evaluation.compare import DEFAULTS, Difference
from patchify_core.web.views.html import WORDS, FileUrl, overlap, render_text, three

TITLES = {
    "encoders": "Encoders",
    "regions": "Regions",
    "compression": "Compression",
    "rerank": "Re-ranking",
    "features": "Features",
    "boxes": "Boxes",
}

SCORES = (("map", "mAP"), ("locscore", "LocScore"), ("mean_iou", "mean IoU"), ("recall@1", "top-1 correct"))
"""(key, title) of the scores in the panel."""

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
"""(name, title, tooltip, whether it is a number) of the columns of the table, the most important first."""

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
    """Render the table with its controls, charts and sources.

    Args:
        trials: Of all datasets.
        studies: The files that they come from.
        dataset: The one shown first.
        chosen: The trial shown in the panel, or None.
        url: Address of a shipped file.
    """
    return render_text(
        "trials",
        trials=[(trial, _cells(trial)) for trial in trials],
        columns=COLUMNS,
        about=ABOUT,
        dataset=dataset,
        datasets=studies.datasets,
        found=studies.found,
        titles=TITLES,
        chosen=chosen,
        **sources(studies, url),
    )


Cell = tuple[str, Any, str, float | None]
"""Column, value to sort by and to save, text, and half the range over the seeds if there are several."""


def _cells(trial: Trial) -> list[Cell]:
    """Return the row of a trial, in the order of `COLUMNS`."""
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


def sources(studies: Studies, url: FileUrl, names: Sequence[str] | None = None) -> Mapping[str, Any]:
    """Return where the numbers come from, as the macro `sources` of parts.html takes it.

    Args:
        studies: The files.
        url: Address of a shipped file.
        names: Of the files to list; all of them if None.

    Returns:
        `files` with their commands, `missing` with the reason, and `refused`: what could not be measured, by reason.
    """
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


@dataclass(frozen=True, eq=False)
class BoxedPicture:
    """A picture: its size in pixels, its file, a box (4,) xyxy or None, and the names of the objects in it."""

    width: int
    height: int
    path: Path
    box: NDArray[np.float64] | None
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ShownFailure:
    """A failed query with its pictures.

    Attributes:
        failure: The numbers.
        query: The query picture with its box.
        first: The gallery picture at rank 1; None if it is not known.
        verdict: Of that picture: RIGHT, OFF or WRONG of `demo.results`.
        iou: Of its box with the annotated one; None if it is wrong or not annotated.
    """

    failure: Failure
    query: BoxedPicture
    first: BoxedPicture | None
    verdict: str
    iou: float | None

    @property
    def caption(self) -> str:
        """The caption of the picture at rank 1."""
        sign, words = WORDS[self.verdict]
        if self.verdict != WRONG:
            return f"{sign} {words}" + ("" if self.iou is None else f", IoU {overlap(self.iou)}")
        objects = () if self.first is None else self.first.objects
        named = ", ".join(objects[:3]) + (" …" if len(objects) > 3 else "")
        return f"{sign} contains {named or 'none of the objects'}"


def trial(
    chosen: Trial,
    others: Sequence[Trial],
    other: Trial | None,
    differences: Sequence[Difference],
    parts: Sequence[Part],
    worst: Sequence[ShownFailure] | str,
    url: FileUrl,
) -> Markup:
    """Render the panel below the table.

    Args:
        chosen: The trial to show.
        others: Trials that it can be compared with.
        other: The trial that it is compared with, or None.
        differences: Of `chosen` (B) to `other` (A).
        parts: Its scores by object.
        worst: Its failures, or a sentence that says why they are not shown.
        url: Address of a bundled picture.
    """
    scores = [
        (title, chosen.mean.of(name), chosen.mean.spread(name) / 2 if chosen.seeds > 1 else None)
        for name, title in SCORES
        if all(name in row for row in chosen.mean.rows) and chosen.mean.of(name) is not None
    ]
    return render_text(
        "trial",
        chosen=chosen,
        scores=scores,
        others=others,
        other=other,
        differences=list(map(difference_text, differences)),
        parts=parts,
        worst=worst,
        url=url,
    )


def difference_text(difference: Difference) -> Markup:
    """Say in a sentence whether the configuration in the panel (B) is better than the other one (A)."""
    interval = f"{DEFAULTS.confidence:g} % interval {_signed(difference.low)} to {_signed(difference.high)}, {difference.queries} queries"
    numbers = Markup("<b>{} {}</b> ({:.3f} → {:.3f}; {})").format(
        _signed(difference.difference), difference.metric, difference.a, difference.b, interval
    )
    if difference.low > 0:
        return Markup("This one is <b>better</b>: {}.").format(numbers)
    if difference.high < 0:
        return Markup("This one is <b>worse</b>: {}.").format(numbers)
    if difference.low == difference.high == 0:
        return Markup("Both have the same {} for every query.").format(difference.metric)
    return Markup("These queries show no difference: {}.").format(numbers)


def _signed(value: float) -> str:
    return f"{value:+.3f}" if round(value, 3) else "0.000"
