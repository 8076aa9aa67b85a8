"""Re-ranking a shortlist: `load_reranker("patch-qe+sift")` orders the best matches of a search anew.

qe, patch-qe            alpha query expansion with the whole pictures, or with the patches that won
map                     the best box of each picture's feature map; on an index with pooled features
sift, xfeat, aliked     geometric verification by local features; the last two need requirements-rerank.txt
ames, elvis             networks that compare local descriptors, from their authors' files of weights
A+B                     A first, then B
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field

from patchify_core.errors import PatchifyError
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
    """What a person may tune about re-ranking: see the settings of each kind."""

    expansion: ExpansionSettings = field(default_factory=ExpansionSettings)
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    maps: MapRerankSettings = field(default_factory=MapRerankSettings)
    learned: LearnedSettings = field(default_factory=LearnedSettings)


def load_reranker(name: str, settings: RerankSettings | None = None) -> Reranker:
    """Load a re-ranker.

    Args:
        name: One of `RERANKERS`, or several with a plus between them, e.g. `patch-qe+sift`.
        settings: See `RerankSettings`.

    Raises:
        PatchifyError: One sentence, if the name is unknown or needs packages that are not installed, or a file that is
            not there or of another model.
    """
    settings = settings or RerankSettings()
    parts = [part.strip() for part in name.split("+")]
    for part in parts:  # all names are checked before any network is loaded
        if part not in RERANKERS:
            near = difflib.get_close_matches(part.lower(), RERANKERS, 1, 0.4)
            hint = f" (the nearest is {near[0]})" if near else ""
            raise PatchifyError(
                f"Unknown re-ranker '{part}'{hint}: choose one of {', '.join(RERANKERS)}, or several with a plus "
                "between them."
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
