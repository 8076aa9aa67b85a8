"""The re-rankers' names, apart from their work, so that `--help` can list them without importing it."""

from __future__ import annotations

EXPANSIONS = ("qe", "patch-qe")
"""Search again with the query and its best matches together: whole pictures, or the patches that won."""

VERIFICATIONS = ("sift", "xfeat", "aliked")
"""Compare the pictures themselves, local feature by local feature; the last two need requirements-rerank.txt."""

MAPS = ("map",)
"""Search the pictures' feature maps for the best box; on an index with pooled features."""

WEIGHTS = {"ames": "PATCHIFY_AMES", "elvis": "PATCHIFY_ELVIS"}
"""Learned re-rankers, and the environment variable that may name the file of the weights of each."""

DETECTOR = "PATCHIFY_RERANK_DETECTOR"
"""The one that may name the file of the detector that they need."""

LEARNED = tuple(WEIGHTS)
"""Compare the pictures by a network, whose weights are a file that is given."""

RERANKERS = (*EXPANSIONS, *MAPS, *VERIFICATIONS, *LEARNED)

INSTALL = "pip install --no-deps -r requirements-rerank.txt"
"""Installs what the learned local features need. Without --no-deps pip would add a second OpenCV over the first."""
