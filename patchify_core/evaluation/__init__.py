"""Evaluation: AP and LocScore of rankings, scores of whole datasets, their records and comparison, and studies.

positives  the ranks of a query's positives
metrics    scores computed from them; breakdown and published score parts of them
run        every query of a dataset against an index
record     what is written to disk, and results, which reads it
compare    whether one evaluation is better than another
presence   calibration of probabilities; study: experiments over datasets
"""

from __future__ import annotations

from patchify_core.evaluation.run import evaluate, score_matches

__all__ = ["evaluate", "score_matches"]
