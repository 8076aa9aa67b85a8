"""Patch-wise instance retrieval: find the gallery pictures that hold an object, and where in them it is.

A picture becomes boxes (`regions`), boxes become descriptors (`features`, `encoders`), descriptors become an index
(`build`, `index`), a query becomes matches (`retrieval`), matches become a score (`metrics`, `evaluation`).

    from patchify_core import Patchify
    engine = Patchify.open("sample_db/index")
    matches = engine.search("sample_db/queries/C051.jpg", box=(180, 60, 470, 420))

Every error that a person can cause is a `PatchifyError` whose message is one sentence.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchify_core.build import BuildSettings, build_index
    from patchify_core.encoders import load_encoder
    from patchify_core.errors import PatchifyError
    from patchify_core.evaluation import evaluate
    from patchify_core.gallery import read_dataset, read_gallery
    from patchify_core.index import PatchIndex
    from patchify_core.pictures import read_picture
    from patchify_core.regions import Pyramid, parse_regions
    from patchify_core.rerank import load_reranker
    from patchify_core.retrieval import Match, Patchify

__version__ = "0.1.0"

_HOME = {
    "BuildSettings": "build",
    "Match": "retrieval",
    "PatchIndex": "index",
    "Patchify": "retrieval",
    "PatchifyError": "errors",
    "Pyramid": "regions",
    "build_index": "build",
    "evaluate": "evaluation",
    "load_encoder": "encoders",
    "load_reranker": "rerank",
    "parse_regions": "regions",
    "read_dataset": "gallery",
    "read_gallery": "gallery",
    "read_picture": "pictures",
}

__all__ = [
    "BuildSettings",
    "Match",
    "PatchIndex",
    "Patchify",
    "PatchifyError",
    "Pyramid",
    "__version__",
    "build_index",
    "evaluate",
    "load_encoder",
    "load_reranker",
    "parse_regions",
    "read_dataset",
    "read_gallery",
    "read_picture",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used, so that `--help` does not wait for numpy and torch."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
