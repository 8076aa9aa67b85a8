"""Scores: AP and LocScore of a query, the mean over a dataset, records of runs and what two runs differ in."""

from __future__ import annotations

from patchify_core.evaluation.run import evaluate, score_matches

__all__ = ["evaluate", "score_matches"]
