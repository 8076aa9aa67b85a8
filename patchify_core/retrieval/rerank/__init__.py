"""Re-ranking: `load_reranker("patch-qe+sift")` re-orders the best matches of a search.

qe, patch-qe            alpha query expansion with whole pictures, or with the winning patches
map                     best box on each picture's feature map; needs an index with pooled features
sift, xfeat, aliked     geometric verification by local features; the last two need requirements-rerank.txt
ames, elvis             learned similarity of local descriptors; need weights published by their authors
A+B                     A first, then B
"""

from __future__ import annotations

from dataclasses import dataclass, field

from patchify_core.errors import PatchifyError, nearest
from patchify_core.retrieval.rerank.base import Chain, Reranker
from patchify_core.retrieval.rerank.expansion import ExpansionSettings, QueryExpansion
from patchify_core.retrieval.rerank.learned import LearnedRerank, LearnedSettings
from patchify_core.retrieval.rerank.maps import MapRerank, MapRerankSettings
from patchify_core.retrieval.rerank.names import EXPANSIONS, INSTALL, LEARNED, MAPS, RERANKERS, VERIFICATIONS
from patchify_core.retrieval.rerank.verification import GeometricVerification, VerificationSettings

__all__ = [
    "EXPANSIONS",
    "INSTALL",
    "LEARNED",
    "MAPS",
    "RERANKERS",
    "VERIFICATIONS",
    "Chain",
    "ExpansionSettings",
    "GeometricVerification",
    "LearnedRerank",
    "LearnedSettings",
    "MapRerank",
    "MapRerankSettings",
    "QueryExpansion",
    "RerankSettings",
    "Reranker",
    "VerificationSettings",
    "load_reranker",
]


@dataclass(frozen=True)
class RerankSettings:
    """Settings of each kind of re-ranker."""

    expansion: ExpansionSettings = field(default_factory=ExpansionSettings)
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    maps: MapRerankSettings = field(default_factory=MapRerankSettings)
    learned: LearnedSettings = field(default_factory=LearnedSettings)


def load_reranker(name: str, settings: RerankSettings | None = None) -> Reranker:
    """Load a re-ranker.

    Args:
        name: One of `RERANKERS`, or several joined by `+`, e.g. `patch-qe+sift`.
        settings: See `RerankSettings`.

    Raises:
        PatchifyError: If the name is unknown, a package is not installed, or a weights file is missing or of another
            model.
    """
    settings = settings or RerankSettings()
    parts = [part.strip() for part in name.split("+")]
    for part in parts:  # all names are checked before any network is loaded
        if part not in RERANKERS:
            raise PatchifyError(
                f"Unknown re-ranker '{part}'{nearest(part.lower(), RERANKERS)}: choose one of {', '.join(RERANKERS)}, "
                "or several with a plus between them."
            )
    loaded = [_load_one(part, settings) for part in parts]
    return loaded[0] if len(loaded) == 1 else Chain(loaded)


def _load_one(name: str, settings: RerankSettings) -> Reranker:
    if name in EXPANSIONS:
        return QueryExpansion(patches=name == "patch-qe", settings=settings.expansion)
    if name in MAPS:
        return MapRerank(settings.maps)
    if name in LEARNED:
        return LearnedRerank(name, settings.learned)
    features = settings.verification.features
    if name == "sift":
        from patchify_core.retrieval.rerank.local_features import Sift

        return GeometricVerification(Sift(features), settings.verification)
    if name == "xfeat":
        from patchify_core.retrieval.rerank.local_features import XFeat

        return GeometricVerification(XFeat(features), settings.verification)
    from patchify_core.retrieval.rerank.local_features import Aliked

    return GeometricVerification(Aliked(features), settings.verification)
