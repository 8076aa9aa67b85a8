"""Is one evaluation better than another? A paired bootstrap over their queries.

Both runs have the same queries, so that each query gives one difference. The queries are resampled with replacement
many times; the middle 95 % of the mean differences is the percentile interval (Efron and Tibshirani, "An Introduction
to the Bootstrap", 1993). It shows how much the result depends on the choice of queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchify_core.errors import PatchifyError
from patchify_core.evaluation.results import EvaluationFile, QueryScores, read_results

METRICS = {"ap": "mAP", "locscore": "LocScore"}
"""Score of a query -> name of its mean."""


@dataclass(frozen=True)
class BootstrapSettings:
    """Settings of the bootstrap.

    Attributes:
        resamples: Number of resamples.
        seed: Seed of the generator, so that the same two files always give the same interval.
        confidence: Share of the resampled means within the interval, in percent.
    """

    resamples: int = 10_000
    seed: int = 0
    confidence: float = 95.0


DEFAULTS = BootstrapSettings()
_BATCH = 1 << 22


@dataclass(frozen=True)
class Difference:
    """How much better run B is than run A by one metric.

    Attributes:
        metric: `mAP` or `LocScore`.
        a: A's mean over the compared queries, in 0..1.
        b: B's.
        difference: b - a, -1..1.
        low: Lower end of the interval.
        high: Upper end.
        queries: Number of queries that have this score in both runs.
    """

    metric: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    queries: int

    def sentence(self, confidence: float = DEFAULTS.confidence) -> str:
        """Describe the difference, e.g. `B is better by 0.054 mAP, 95 % interval 0.021..0.088 (36 queries).`."""
        size = f"{abs(self.difference):.3f} {self.metric}"
        where = f"{confidence:g} % interval {self.low:.3f}..{self.high:.3f} ({self.queries} queries)"
        if self.low > 0 or self.high < 0:
            # From the better run's side, like the difference itself.
            low, high = sorted((abs(self.low), abs(self.high)))
            where = f"{confidence:g} % interval {low:.3f}..{high:.3f} ({self.queries} queries)"
            return f"{'B' if self.difference > 0 else 'A'} is better by {size}, {where}."
        if self.low == self.high == 0:
            return f"A and B have the same {self.metric} for every query ({self.queries} queries)."
        if self.difference == 0:
            return f"A and B have the same {self.metric}, {where}."
        leader = "B" if self.difference > 0 else "A"
        return f"{leader} is ahead by {size}, but these queries cannot tell the two apart: B - A has a {where}."


def read_run(path: Path) -> EvaluationFile:
    """Read a file that `evaluate --json` wrote.

    Raises:
        PatchifyError: If it is missing, unreadable, not JSON, or another file.
    """
    try:
        return read_results(path, EvaluationFile, repr(str(path)), "make it anew with evaluate --json.")
    except FileNotFoundError:
        raise PatchifyError(f"There is no file {str(path)!r}: check its name and folder.") from None


def compare(
    a: EvaluationFile,
    b: EvaluationFile,
    level_a: int | None = None,
    level_b: int | None = None,
    settings: BootstrapSettings = DEFAULTS,
) -> list[Difference]:
    """Compare two runs over the same queries of the same pictures.

    Args:
        a: A run, from `read_run`.
        b: Another run, or the same one.
        level_a: The level of A; its finest one if None.
        level_b: The level of B; its finest one if None.
        settings: Settings of the bootstrap.

    Returns:
        The difference in mAP and, if queries have boxes in both runs, in LocScore.

    Raises:
        PatchifyError: If the runs are over different queries or pictures, or a level is missing.
    """
    _check_same_queries(a, b)
    scores_a, scores_b = _scores(a, "A", level_a), _scores(b, "B", level_b)
    queries = sorted(scores_a)  # the resamples must not depend on the order of the search
    column_a, column_b = (
        {key: [getattr(scores[query], key) for query in queries] for key in METRICS} for scores in (scores_a, scores_b)
    )
    compared = paired(column_a, column_b, settings)
    if not compared:
        raise PatchifyError("Neither run has a scored query: there is nothing to compare.")
    return compared


Scores = Mapping[str, Sequence[float | None]]
"""For each of `METRICS`, a score per query, or None."""


def paired(a: Scores, b: Scores, settings: BootstrapSettings = DEFAULTS) -> list[Difference]:
    """Compute the difference of each metric for which some query has scores on both sides.

    Args:
        a: Scores of one run.
        b: Scores of another, for the same queries in the same order.
        settings: Settings of the bootstrap.
    """
    compared = []
    for key, metric in METRICS.items():
        pairs = [(x, y) for x, y in zip(a[key], b[key], strict=True) if x is not None and y is not None]
        if pairs:
            compared.append(_difference(metric, np.array(pairs, np.float64), settings))
    return compared


def as_json(differences: list[Difference], settings: BootstrapSettings = DEFAULTS) -> dict[str, Any]:
    """Return the comparison as JSON values: settings, and metric -> difference."""
    return {**asdict(settings), "differences": {d.metric: asdict(d) for d in differences}}


def interval(differences: NDArray[np.float64], settings: BootstrapSettings = DEFAULTS) -> tuple[float, float]:
    """Compute the percentile interval of a mean.

    Args:
        differences: (Q,) one difference per query; at least one.
        settings: Settings of the bootstrap.

    Returns:
        (low, high) of the means of `settings.resamples` resamples of Q queries with replacement.
    """
    queries = len(differences)
    random = np.random.default_rng(settings.seed)
    means = np.empty(settings.resamples)
    at_once = max(1, _BATCH // queries)
    for start in range(0, settings.resamples, at_once):
        end = min(start + at_once, settings.resamples)
        means[start:end] = differences[random.integers(0, queries, (end - start, queries))].mean(axis=1)
    tail = (100 - settings.confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def _difference(metric: str, pairs: NDArray[np.float64], settings: BootstrapSettings) -> Difference:
    differences = pairs[:, 1] - pairs[:, 0]
    low, high = interval(differences, settings)
    a, b = pairs.mean(axis=0).tolist()
    return Difference(metric, a, b, float(differences.mean()), low, high, len(pairs))


def _check_same_queries(a: EvaluationFile, b: EvaluationFile) -> None:
    queries_a, queries_b = ({(q.id, q.file_name, q.instance) for q in run.per_query} for run in (a, b))
    if queries_a != queries_b:
        odd = sorted(queries_a ^ queries_b)[0]
        raise PatchifyError(
            f"The two runs have different queries ({len(queries_a)} and {len(queries_b)}; first difference: "
            f"{odd[1]}): compare runs over the same dataset."
        )
    if a.run.dataset != b.run.dataset:
        raise PatchifyError(
            "The two runs have the same queries over different pictures or annotations: "
            "compare runs over the same dataset."
        )


def _scores(run: EvaluationFile, name: str, level: int | None) -> dict[int, QueryScores]:
    known = {entry.level for entry in run.levels}
    chosen = max(known) if level is None else level
    if chosen not in known:
        listed = ", ".join(map(str, sorted(known)))
        raise PatchifyError(f"Run {name} has no level {chosen}: it has {listed}.")
    return {query.id: query.levels[str(chosen)] for query in run.per_query}
